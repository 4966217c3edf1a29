"""What figures have in common: fonts, lines, colours, axes of tasks and shares, and how seeds are drawn and counted."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hatlab.analysis.metrics import Interval, mean_interval

__all__ = [
    "ARMS", "BESIDE", "GUIDE", "MARKERS", "UNREGULARIZED", "WIDTH", "band", "colors_of", "dots", "error_bars",
    "headline", "name_of_c", "of_seeds", "seeds_with_band", "share_axis", "short", "spread", "styled", "task_axis",
    "task_colors", "titled",
]  # fmt: skip

WIDTH: Final = 7.1  # inches: the text width of a journal page
STYLE: Final[Any] = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "figure.titlesize": 8.5,
    "figure.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.4,
    "lines.solid_joinstyle": "round",
}
# With fewer seeds than this a t interval says more about t than about the runs.
SEEDS_FOR_INTERVAL: Final = 5
MARKERS: Final = "osDPXvh^"
UNREGULARIZED: Final = "0.45"  # a grey: c = 0 is the control, not a step of the colour scale
# the regularizer's modes: told apart by marker as well as by shade, dark to light, since grey print has no colours
ARMS: Final[dict[str, dict[str, Any]]] = {
    "none": {"marker": "X", "color": UNREGULARIZED, "markersize": 5.5},
    "original": {"marker": "o", "color": "#440154", "markersize": 4.5},
    "half": {"marker": "s", "color": "#31688e", "markersize": 4.2, "markerfacecolor": "white"},
    "cross": {"marker": "D", "color": "#21918c", "markersize": 4.2},
    "reuse": {"marker": "^", "color": "#8fd744", "markersize": 5},
}
SCALES: Final = {"c": (0.05, 6.0), "s_max": (10.0, 2000.0)}  # from dark to light
GUIDE: Final[dict[str, Any]] = {"color": "0.75", "linewidth": 0.7, "zorder": 0}  # a line that data is read against
BESIDE: Final[dict[str, Any]] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}  # a legend to the right of its axes


@contextmanager
def styled() -> Iterator[None]:
    """The style of all figures, for as long as they are drawn.

    The first figure of a notebook switches on that figures are shown below their cells, at twice the resolution; that
    stays.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and "inline" in mpl.get_backend():
        shell.run_line_magic("config", "InlineBackend.figure_format = 'retina'")
    with plt.rc_context(STYLE):
        yield
        shown = plt.isinteractive()
    mpl.interactive(shown)


def colors_of(values: Sequence[float], name: str = "c") -> dict[float, Any]:
    """Return a colour for each value of c or s_max, which is the same in all figures: dark to light with its logarithm.

    viridis is told apart by colour-blind eyes and in grey print.
    """
    low, high = np.log(SCALES[name])
    place = {value: float(np.clip((np.log(value) - low) / (high - low), 0, 1)) for value in values if value > 0}
    return {value: plt.get_cmap("viridis")(place[value]) if value in place else UNREGULARIZED for value in values}


def task_colors(n_tasks: int) -> Any:
    """Return a colour for each task, (tasks, 4), dark to light in the order in which they are learnt."""
    return plt.get_cmap("viridis")(np.linspace(0, 0.9, n_tasks))


def name_of_c(c: float) -> str:
    """Return "c = 0.75", or what no c at all is called."""
    return f"c = {c:g}" if c else "no regularizer"


def short(count: int) -> str:
    """1234567 as "1.23M"."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def titled(title: str, how: str) -> str:
    """Return a heading of two lines: what was trained on what, and how it is shown."""
    return f"{title}\n{how}".strip()


def headline(figure: Figure, title: str, how: str) -> None:
    """Write `titled` above all panels."""
    figure.suptitle(titled(title, how), x=0.01, ha="left")


def of_seeds(counts: Collection[int], how: str = "", one: str = "one seed") -> str:
    """Return "mean of 3 seeds" and `how` they are shown, for the number of seeds behind each point; `one`: if it is 1.

    Points with different numbers of seeds give "mean of 2 to 3 seeds".
    """
    fewest, most = min(counts), max(counts)
    if most <= 1:
        return one
    return f"mean of {most if fewest == most else f'{fewest} to {most}'} seeds{how}"


def seeds_with_band(counts: Collection[int], one: str = "one seed each") -> str:
    """Return `of_seeds`, with what the band of `spread` is."""
    band = "95% t interval" if min(counts) >= SEEDS_FOR_INTERVAL else "smallest to largest"
    return of_seeds(counts, f", band: {band}", one)


def spread(values: np.ndarray) -> Interval:
    """Return the mean over seeds, the first axis of (seeds, ...), and the band around it: the 95% t interval from 5
    seeds on, smallest and largest value below.
    """
    if len(values) < SEEDS_FOR_INTERVAL:
        return Interval(values.mean(axis=0), values.min(axis=0), values.max(axis=0))
    return mean_interval(values)


def band(axes: Axes, x: Any, interval: Interval, **look: Any) -> None:
    """Draw a mean as a line and its interval as a band of the same colour."""
    axes.plot(x, interval.mean, **look)
    axes.fill_between(x, interval.low, interval.high, color=look["color"], alpha=0.2, linewidth=0)


def error_bars(axes: Axes, x: Any, interval: Interval, **look: Any) -> None:
    """Draw means with their intervals as bars; a mean without an interval has no bar."""
    mean, low, high = interval
    axes.errorbar(x, mean, yerr=np.nan_to_num(np.stack([mean - low, high - mean]).clip(0)), **look)


def dots(axes: Axes, x: Any, seeds: pd.Series, y: pd.Series, color: Any, width: float) -> None:
    """Draw single seeds, from left to right within `width`, so that equal values lie beside each other."""
    place = seeds.rank(method="dense").sub(1).to_numpy() / max(seeds.nunique() - 1, 1)
    axes.plot(
        np.asarray(x) + width * place, y, color=color, linestyle="none", marker=".", markersize=3.5, markeredgewidth=0,
        alpha=0.6, zorder=1,
    )  # fmt: skip


def share_axis(axes: Axes) -> None:
    """Let the vertical axis go from 0 to 100%."""
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 25))


def task_axis(axes: Axes, n_tasks: int, most: int, first: float = 1.0) -> None:
    """Number tasks from 1 on the horizontal axis, with at most `most` ticks; task 1 is at `first`."""
    tasks = np.arange(0, n_tasks, -(-n_tasks // most))
    axes.set_xticks(tasks + first, [str(task + 1) for task in tasks])
