"""A figure with sliders where there is a kernel, and as a picture where there is none.

Both are one output of a cell, in two formats: JupyterLab shows the sliders, a web site or GitHub, which knows no
widgets, the picture beside them.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["explore"]


def explore(draw: Callable[..., Figure], **choices: Sequence[Any]) -> None:
    """Show `draw(...)` with a slider for each of its parameters.

    Args:
        draw: returns a figure; each parameter has a default, which is where its slider starts.
        choices: parameter name -> the values that its slider goes through, in order.

    Raises:
        ValueError: a parameter without choices or default, choices for no parameter, or a default that is not among
            the choices.
    """
    from IPython import display

    starts = _starts(draw, choices)
    still = _png(draw(**starts))
    bundle: dict[str, Any] = {"image/png": still, "text/plain": f"<picture of {draw.__name__}, {starts}>"}
    try:
        import ipywidgets as widgets
    except ImportError:  # a machine with kernels and no widgets
        display.display(bundle, raw=True)
        return
    picture = widgets.Image(value=still, format="png", layout={"max_width": "100%"})
    sliders = {
        name: widgets.SelectionSlider(
            options=[(f"{value:g}" if isinstance(value, float) else str(value), value) for value in values],
            value=starts[name],
            description=name.replace("_", " "),
            style={"description_width": "initial"},
        )
        for name, values in choices.items()
    }

    def redraw(change: Any) -> None:
        picture.value = _png(draw(**{name: slider.value for name, slider in sliders.items()}))

    for slider in sliders.values():
        slider.observe(redraw, names="value")
    # sliders first: a screen reader and the tabulator key come to them in the order of reading
    box = widgets.VBox([widgets.HBox(list(sliders.values()), layout={"flex_flow": "row wrap"}), picture])
    display.display({**box._repr_mimebundle_(), **bundle}, raw=True)


def _starts(draw: Callable[..., Figure], choices: dict[str, Sequence[Any]]) -> dict[str, Any]:
    parameters = inspect.signature(draw).parameters
    if set(parameters) != set(choices):
        raise ValueError(
            f"{draw.__name__} has the parameters {list(parameters)}, choices are given for {list(choices)}"
        )
    starts = {name: parameter.default for name, parameter in parameters.items()}
    for name, start in starts.items():
        if start is inspect.Parameter.empty or start not in list(choices[name]):
            said = "has no default" if start is inspect.Parameter.empty else f"= {start!r}"
            raise ValueError(f"{name} {said}: a default among {list(choices[name])} is needed, where its slider starts")
    return starts


def _png(figure: Figure) -> bytes:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)  # or it would be shown below the cell once more
    return buffer.getvalue()
