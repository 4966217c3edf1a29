"""Masks as pictures: which gradients they let through, what the regularizer counts, where two tasks meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hatlab.figures.style import WIDTH, styled

__all__ = ["counted_units", "gradient_factors", "mask_overlap"]

CELL: Final = 0.36  # inches
SHADES: Final = sns.light_palette("#31688e", as_cmap=True)
# from light to dark, so that they are told apart in grey, too
OVERLAP: Final = {"neither": "#f2f2f2", "first": "#a8db34", "second": "#35a08b", "both": "#3b2a6e"}


def _grid(axes: Any, values: np.ndarray, **how: Any) -> None:
    look: dict[str, Any] = {"cmap": SHADES, "vmin": 0, "vmax": 1, "cbar": False, "square": True, "linewidths": 1.5}
    sns.heatmap(values, ax=axes, annot=True, fmt="g", annot_kws={"fontsize": 7.5}, **{**look, **how})
    axes.tick_params(length=0)


def gradient_factors(a: Sequence[float], b: Sequence[float]) -> Figure:
    """Draw what the gradient of every weight between two layers is multiplied by: 1 - min(b_i, a_j) (eq. 2).

    Args:
        a: cumulative mask of the layer in front, (columns,).
        b: the same of the layer behind, (rows,).
    """
    columns, rows = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    factors = 1 - np.minimum.outer(rows, columns)
    with styled():
        size = (1.6 + CELL * len(columns), 1.1 + CELL * len(rows))
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        _grid(axes, factors.round(2))
        axes.set_xticklabels([f"{value:g}" for value in columns])
        axes.set_yticklabels([f"{value:g}" for value in rows], rotation=0)
        axes.set_xlabel("Cumulative mask of the unit j in front")
        axes.set_ylabel("Cumulative mask of the unit i behind")
        axes.set_title("The weight's gradient is multiplied by", loc="left")
    return figure


def counted_units(p: Sequence[float], m: Sequence[float]) -> Figure:
    """Draw two masks over the same units, and the products that the regularizer sums (section 2.6).

    Args:
        p: cumulative mask of the tasks before, (units,).
        m: mask of the current task, (units,).

    Raises:
        ValueError: masks of different lengths.
    """
    if len(p) != len(m):
        raise ValueError(f"p has {len(p)} units and m has {len(m)}: both are masks over the same units")
    before, now = np.asarray(p, dtype=float), np.asarray(m, dtype=float)
    table = {
        "p: used by earlier tasks": before,
        "m: wanted by this task": now,
        "1 − p: free": 1 - before,
        "m (1 − p): newly taken": now * (1 - before),
        "m p: reused": now * before,
    }
    with styled():
        figure, axes = plt.subplots(figsize=(3.6 + CELL * len(before), 0.5 + CELL * len(table)), layout="constrained")
        _grid(axes, np.stack(list(table.values())).round(2))
        axes.set_yticklabels([f"{name}   sum {values.sum():g}" for name, values in table.items()], rotation=0)
        axes.set_xticklabels([f"unit {k}" for k in range(1, len(before) + 1)], rotation=45)
    return figure


def mask_overlap(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], names: tuple[str, str], threshold: float = 0.5
) -> Figure:
    """Draw the units of every layer as squares: in the mask of one task, of the other, of both, or of neither.

    Args:
        first, second: layer name -> (units,), the masks of two tasks.
        names: of the two tasks.
        threshold: above it a unit is in a mask.
    """
    colors = ListedColormap(list(OVERLAP.values()))
    with styled():
        figure, panels = plt.subplots(
            1, len(first), figsize=(WIDTH, 0.9 + WIDTH / len(first) / 2), squeeze=False, layout="constrained"
        )
        counts = np.zeros(4, dtype=int)
        for axes, (layer, mask) in zip(panels.flat, first.items(), strict=True):
            kinds = (mask > threshold) + 2 * (second[layer] > threshold)
            counts += np.bincount(kinds, minlength=4)
            rows = -(-len(kinds) // max(1, round((2 * len(kinds)) ** 0.5)))
            cells = np.full(rows * -(-len(kinds) // rows), np.nan)
            cells[: len(kinds)] = kinds
            axes.pcolormesh(
                np.ma.masked_invalid(cells.reshape(rows, -1)), cmap=colors, vmin=-0.5, vmax=3.5, edgecolors="white"
            )
            axes.set(aspect="equal", xticks=[], yticks=[], title=f"{layer}: {len(kinds)} units")
            axes.invert_yaxis()
            axes.spines[:].set_visible(False)
        labels = ("neither", f"only {names[0]}", f"only {names[1]}", "both")
        figure.legend(
            [Patch(color=color) for color in OVERLAP.values()],
            [f"{label} ({count})" for label, count in zip(labels, counts, strict=True)],
            loc="outside lower center", ncols=4, frameon=False,
        )  # fmt: skip
    return figure
