"""Capacity by task: what each one reuses and adds (Fig. 5 taken apart), and AdaHAT's remaining capacity."""

from __future__ import annotations

from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hatlab.figures.capacity import of_seeds, spread
from hatlab.figures.style import MARKERS, WIDTH, colors_of, short, styled

__all__ = ["remaining_capacity", "task_shares"]

# from the bottom up; told apart by shade and hatching, so in grey print, too
PARTS: Final[dict[str, dict[str, Any]]] = {
    "reused": {"label": "reused by the task", "color": "#31688e"},
    "not_reused": {
        "label": "held by earlier tasks, not reused", "facecolor": "white", "edgecolor": "0.55", "hatch": "/////"
    },
    "new": {"label": "new", "color": "#a8db34"},
}  # fmt: skip


def task_shares(table: pd.DataFrame, panels: str = "c", title: str = "") -> Figure:
    """Draw, for each task, the weights in use at the epoch whose mask is kept: reused, not reused, and new.

    Args:
        table: rows of `hatlab.task_capacity.by_task`: of one layer (or "total") and one s_max if `panels` is "c", of
            one c and s_max if it is "layer".
        panels: the column with a panel for each value: "c" or "layer".
        title: what was trained on what; the number of seeds is added.

    Raises:
        ValueError: another `panels`, or a table that is empty or mixes what a panel would have to average.
    """
    if panels not in ("c", "layer"):
        raise ValueError(f"panels = {panels!r}: allowed are c, layer")
    _check(table, {"c": "layer", "layer": "c"}[panels], "s_max")
    values = sorted(table["c"].unique()) if panels == "c" else _layers(table)
    rows = 1 if len(values) <= 5 else 2
    with styled():
        figure, grid = plt.subplots(
            rows, -(-len(values) // rows), figsize=(WIDTH, 1 + 1.9 * rows), sharey=True, squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for axes, value in zip(grid.flat, values, strict=False):
            same = table[table[panels] == value]
            _bars(axes, same)
            name = (f"c = {value:g}" if value else "no regularizer") if panels == "c" else _layer(same)
            axes.set_title(name)
        for axes in grid.flat[len(values) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("Weights (%)")
        figure.suptitle(_heading(title, table, panels), x=0.01, ha="left", fontsize=8.5)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _bars(axes: Axes, table: pd.DataFrame) -> None:
    means = table.groupby("task")[list(PARTS)].mean()
    floor = np.zeros(len(means))
    for name, look in PARTS.items():
        axes.bar(means.index, means[name], bottom=floor, width=0.8, linewidth=0.5, **look)
        floor = floor + means[name].to_numpy()
    n_tasks = len(means)
    ticks = range(1, n_tasks + 1, -(-n_tasks // 5))
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 25))
    axes.set_xlabel("Task")


def _layers(table: pd.DataFrame) -> list[str]:
    return sorted(table["layer"].unique(), key=lambda layer: layer != "total")  # all first, the others in their order


def _layer(table: pd.DataFrame) -> str:
    layer, weights = table[["layer", "weights"]].iloc[0]
    return f"{'all layers' if layer == 'total' else layer}\n({short(weights)} weights)"


def _heading(title: str, table: pd.DataFrame, panels: str) -> str:
    seeds = table.groupby([panels, "task", "layer"]).size()
    fewest, most = int(seeds.min()), int(seeds.max())
    fixed = f"$s_\\mathrm{{max}}$ = {table['s_max'].iloc[0]:g}"
    if panels == "layer":
        fixed = f"c = {table['c'].iloc[0]:g}, {fixed}"
    elif (layer := table["layer"].iloc[0]) != "total":
        fixed = f"layer {layer}, {fixed}"
    what = f"mean of {most if fewest == most else f'{fewest} to {most}'} seeds" if most > 1 else "one seed each"
    return f"{title}\n{fixed}; {what}".strip()


def remaining_capacity(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw what is left of the network before each task: AdaHAT's capacity, and how it differs from the free weights.

    AdaHAT's is the mean of 1 - min(a_i, a_j) over weights and biases of the cumulative mask; free are the weights
    that this mask does not use, as Fig. 5 counts them. One line per c.

    Args:
        table: rows of `hatlab.task_capacity.by_task`, of one layer (or "total") and one s_max.
        title: what was trained on what; the number of seeds, and what the band is, are added.

    Raises:
        ValueError: a table that is empty or mixes layers or s_max.
    """
    _check(table, "layer", "s_max")
    cs = sorted(table["c"].unique())
    seeds = table.groupby(["c", "task"]).size()
    with styled():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(WIDTH, 2.9), layout="constrained", gridspec_kw={"width_ratios": [1.3, 1]}
        )
        for k, (c, color) in enumerate(colors_of(cs).items()):
            rows = table[table["c"] == c]
            look = {"color": color, "marker": MARKERS[k % len(MARKERS)], "markersize": 4}
            label = f"c = {c:g}" if c else "no regularizer"
            _line(left, rows, rows["adahat"], label=label, **look)
            _line(right, rows, rows["adahat"] - rows["free"], **look)
        n_tasks = int(table["task"].max())
        for axes in (left, right):
            ticks = range(1, n_tasks + 1, -(-n_tasks // 10))
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.set_xlabel("Before task")
        left.set_ylim(0, 102)
        left.set_yticks(range(0, 101, 25))
        left.set_ylabel("AdaHAT's capacity (%)")
        right.axhline(0, color="0.75", linewidth=0.7, zorder=0)
        right.set_ylabel("AdaHAT's capacity minus\nfree weights (percentage points)")
        figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False, handlelength=1.6)
        fixed = f"$s_\\mathrm{{max}}$ = {table['s_max'].iloc[0]:g}"
        what = of_seeds(int(seeds.min()), int(seeds.max()))
        figure.suptitle(f"{title}\n{fixed}; {what}".strip(), x=0.01, ha="left", fontsize=8.5)
    return figure


def _line(axes: Axes, rows: pd.DataFrame, values: pd.Series, **look: Any) -> None:
    found = [spread(same.to_numpy()) for _, same in values.groupby(rows["task"])]
    mean, low, high = (np.array(part) for part in zip(*found, strict=True))
    tasks = sorted(rows["task"].unique())
    axes.plot(tasks, mean, **look)
    axes.fill_between(tasks, low, high, color=look["color"], alpha=0.2, linewidth=0)


def _check(table: pd.DataFrame, *same: str) -> None:
    if table.empty:
        raise ValueError("the table of the tasks' capacity is empty: no run has finished a task")
    for column in same:
        if len(values := table[column].unique()) > 1:
            raise ValueError(f"the table mixes {column} = {', '.join(map(str, values))}: select one of them")
