"""What all figures have in common: fonts, lines, colours, and how a number is written short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns

__all__ = ["MARKERS", "SEEDS_FOR_INTERVAL", "UNREGULARIZED", "WIDTH", "colors_of", "short", "styled"]

WIDTH: Final = 7.1  # inches: the text width of a journal page
STYLE: Final[Any] = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
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


@contextmanager
def styled() -> Iterator[None]:
    """The style of all figures, for as long as they are drawn.

    The first figure of a notebook switches on that figures are shown below their cells; that stays.
    """
    with plt.rc_context(STYLE):
        yield
        shown = plt.isinteractive()
    mpl.interactive(shown)


def colors_of(cs: Sequence[float]) -> dict[float, Any]:
    """Dark to light with growing c: viridis is told apart by colour-blind eyes and in grey print."""
    steps = [c for c in cs if c > 0]
    colors: dict[float, Any] = dict(zip(steps, sns.color_palette("viridis", len(steps)), strict=True))
    return {c: colors.get(c, UNREGULARIZED) for c in cs}


def short(count: int) -> str:
    """1234567 as "1.23M"."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
