"""Capacity usage while tasks are learnt one after the other (Fig. 5), and by task: what each one reuses and
adds, and AdaHAT's remaining capacity.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from hatlab.analysis.metrics import Interval
from hatlab.experiments import style

__all__ = ["capacity_usage", "draw", "remaining_capacity", "task_shares", "usage_curves"]

LEAST_GAP: Final = 4.5  # % of the weights, between labels of curves that end close to each other
LEGENDS: Final = {"c": "Compressibility", "s_max": "Steepest slope"}
# curves of different s_max come so close that shades of grey do not tell them apart
DASHES: Final = ["-", (0, (4, 1.3)), (0, (1, 0.8)), (0, (5, 1.3, 1, 1.3)), (0, (2, 1.3)), (0, (6, 1.3, 1, 1.3, 1, 1.3))]

# from the bottom up; told apart by shade and hatching, so in grey print, too
PARTS: Final[dict[str, dict[str, Any]]] = {
    "reused": {"label": "reused by the task", "color": "#31688e"},
    "not_reused": {
        "label": "held by earlier tasks, not reused", "facecolor": "white", "edgecolor": "0.55", "hatch": "/////"
    },
    "new": {"label": "new", "color": "#a8db34"},
}  # fmt: skip


def usage_curves(capacity: pd.DataFrame, points: int = 101, by: str = "c") -> pd.DataFrame:
    """Average capacity usage over seeds, on an axis that runs of different lengths share.

    Early stopping gives every run its own number of epochs, so each task is stretched to length one: the value
    before its first step stands at 0, its last epoch at 1, and runs are interpolated linearly in between.

    Args:
        capacity: what `hatlab.collect` returns first; one data set, mode, c and s_max, but for `by`; any seeds.
        points: grid points per task, both ends included.
        by: the column each of whose values makes a curve: "c", "s_max", or one that was added to the table.

    Returns:
        One row per value of `by`, layer, task and grid point: `progress` (task + share of its epochs), `usage` (mean,
        in %), `low` and `high` (see `style.spread`), `n` (seeds).

    Raises:
        ValueError: the table is empty or mixes runs that differ in more than `by` and seed.
    """
    _check(capacity, by)
    grid = np.linspace(0, 1, points)
    frames = []
    for (value, layer, task), rows in capacity.groupby([by, "layer", "task"]):
        curves = np.stack([_stretched(run, grid) for _, run in rows.groupby("run")])  # (seeds, points)
        usage = dict(zip(("usage", "low", "high"), style.spread(curves), strict=True))
        places = {by: value, "layer": layer, "task": task, "progress": rows["task"].iloc[0] + grid}
        frames.append(pd.DataFrame({**places, **usage, "n": len(curves)}))
    return pd.concat(frames, ignore_index=True)


def capacity_usage(capacity: pd.DataFrame, title: str = "", by: str = "c") -> Figure:
    """Draw the paper's Fig. 5: the share of the trunk's weights in use while tasks are learnt one after the other.

    The upper panel shows all layers together, the lower ones each layer; one curve per compressibility c or per
    s_max, with a band over seeds; dashed lines at task switches.

    Args:
        capacity: see `usage_curves`, which also says what the band is.
        title: what was trained on what; s_max or c, whichever is the same for all, and the number of seeds are added.
        by: "c" or "s_max".

    Raises:
        ValueError: as `usage_curves`, or another `by`.
    """
    if by not in LEGENDS:
        raise ValueError(f"by = {by!r}: allowed are {', '.join(LEGENDS)}")
    curves = usage_curves(capacity, by=by)
    layers = [name for name in capacity["layer"].unique() if name != "total"]
    weights = capacity.drop_duplicates("layer").set_index("layer")["weights"]
    looks: dict[float, dict[str, Any]] = {
        value: {"color": color, "label": _label(by, value)}
        for value, color in style.colors_of(sorted(curves[by].unique()), by).items()
    }
    if by == "s_max":
        for look, dashes in zip(looks.values(), itertools.cycle(DASHES), strict=False):
            look["linestyle"] = dashes
    with style.styled():
        figure = plt.figure(figsize=(7.1, 4.9), layout=ConstrainedLayoutEngine(hspace=0.06, wspace=0.03))
        rows = figure.add_gridspec(2, 1, height_ratios=[1.6, 1])
        total = figure.add_subplot(rows[0])
        draw(total, curves[curves["layer"] == "total"], by, looks, ticks=12)
        total.set_title(_heading(title, capacity, curves, by), loc="left")
        total.set_ylabel("Capacity usage (% of weights)")
        total.set_xlabel("Task (each stretched from before its first step to its last epoch)")
        _name_ends(total, curves[curves["layer"] == "total"], by, looks)
        total.legend(
            title=LEGENDS[by], handlelength=1.6 if by == "c" else 2.6, loc="upper left", bbox_to_anchor=(1.04, 1)
        )
        below = rows[1].subgridspec(1, len(layers))
        for column, layer in enumerate(layers):
            axes = figure.add_subplot(below[column])
            draw(axes, curves[curves["layer"] == layer], by, looks, ticks=12 // len(layers) + 2)
            share = 100 * weights[layer] / weights["total"]
            axes.set_title(f"{layer}: {style.short(weights[layer])} weights\n({share:.2g}% of all)")
            axes.set_xlabel("Task")
            axes.tick_params(labelleft=column == 0)
            if column == 0:
                axes.set_ylabel("Usage (%)")
    return figure


def _check(capacity: pd.DataFrame, by: str) -> None:
    if capacity.empty:
        raise ValueError("the capacity table is empty: no run has finished an epoch")
    for column in ("dataset", "mode", "c", "s_max"):
        values = capacity[column].unique()
        if column != by and len(values) > 1:
            raise ValueError(f"the capacity table mixes {column} = {', '.join(map(str, values))}: select one of them")
    runs = capacity.groupby("run").agg(by=(by, "first"), seed=("seed", "first"), tasks=("task", "nunique"))
    for (value, seed), same in runs.groupby(["by", "seed"]):
        if len(same) > 1:
            what = f"{by} = {value:g}" if isinstance(value, float) else f"{by} = {value}"
            raise ValueError(f"several runs with {what} and seed {seed}: {', '.join(same.index)}; select one")
    if runs["tasks"].nunique() > 1:
        raise ValueError(f"runs with different numbers of tasks: {runs['tasks'].to_dict()}")


def _stretched(run: pd.DataFrame, grid: np.ndarray) -> np.ndarray:
    """Usage in % of one run, layer and task at `grid` in [0, 1]; epoch -1 stands at 0, the last one at 1."""
    rows = run.sort_values("epoch")
    epoch = rows["epoch"].to_numpy()
    usage = 100 * rows["weights_used"].to_numpy() / rows["weights"].to_numpy()
    return np.asarray(np.interp(grid, (epoch + 1) / max(epoch[-1] + 1, 1), usage))


def draw(axes: Axes, curves: pd.DataFrame, by: str, looks: Mapping[Any, Mapping[str, Any]], ticks: int) -> None:
    """Draw curves of one layer into `axes`, with dashed lines at task switches; labels of the axes are the caller's.

    Args:
        axes: where to.
        curves: rows of `usage_curves` of one layer.
        by: that they were made with.
        looks: value of `by` -> keywords of a line: "color", "label" and others.
        ticks: most of them at the tasks.
    """
    n_tasks = int(curves["task"].max()) + 1
    for switch in range(1, n_tasks):
        axes.axvline(switch, linestyle=(0, (4, 3)), **style.GUIDE)
    for value, look in looks.items():
        curve, color = curves[curves[by] == value], look["color"]
        # a thin line joins the tasks: the jump when a new task's masks come in
        axes.plot(curve["progress"], curve["usage"], color=color, linewidth=0.5)
        for task, piece in curve.groupby("task"):
            axes.plot(piece["progress"], piece["usage"], **{**look, "label": None if task else look["label"]})
            axes.fill_between(piece["progress"], piece["low"], piece["high"], color=color, alpha=0.2, linewidth=0)
    axes.set_xlim(0, n_tasks)
    style.share_axis(axes)
    style.task_axis(axes, n_tasks, ticks, first=0.5)
    axes.tick_params(axis="x", length=0)


def _name_ends(axes: Axes, curves: pd.DataFrame, by: str, looks: Mapping[Any, Mapping[str, Any]]) -> None:
    """Write each curve's value where it ends, in %: neighbouring shades alone do not tell nine curves apart."""
    ends = curves[curves["progress"] == curves["progress"].max()].set_index(by)["usage"].sort_values()
    place = -np.inf
    for value, usage in ends.items():
        place = max(usage, place + LEAST_GAP)
        axes.annotate(
            f"{value:g}", (1, place), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
            va="center", fontsize=7, color=looks[value]["color"],
        )  # fmt: skip


def _label(by: str, value: float) -> str:
    return style.name_of_c(value) if by == "c" else f"$s_\\mathrm{{max}}$ = {value:g}"


def _heading(title: str, capacity: pd.DataFrame, curves: pd.DataFrame, by: str) -> str:
    one = f"seed {capacity['seed'].iloc[0]}" if capacity["seed"].nunique() == 1 else "one seed each"
    other, mode = "c" if by == "s_max" else "s_max", capacity["mode"].iloc[0]
    fixed = f"{_label(other, capacity[other].iloc[0])}; {'' if mode == 'original' else f'{mode} mode; '}"
    return style.titled(title, fixed + style.seeds_with_band(curves["n"], one))


def task_shares(table: pd.DataFrame, panels: str = "c", title: str = "") -> Figure:
    """Draw, for each task, the weights in use at the epoch whose mask is kept: reused, not reused, and new.

    Args:
        table: rows of `hatlab.experiments.capacity_usage.tables.by_task`: of one layer (or "total") and one s_max if
            `panels` is "c", of one c and s_max if it is "layer".
        panels: the column with a panel for each value: "c" or "layer".
        title: what was trained on what; the number of seeds is added.

    Raises:
        ValueError: another `panels`, or a table that is empty or mixes what a panel would have to average.
    """
    if panels not in ("c", "layer"):
        raise ValueError(f"panels = {panels!r}: allowed are c, layer")
    _check_same(table, {"c": "layer", "layer": "c"}[panels], "s_max")
    values = sorted(table["c"].unique()) if panels == "c" else _layers(table)
    rows = 1 if len(values) <= 5 else 2
    with style.styled():
        figure, grid = plt.subplots(
            rows, -(-len(values) // rows), figsize=(style.WIDTH, 1 + 1.9 * rows), sharey=True, squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for axes, value in zip(grid.flat, values, strict=False):
            same = table[table[panels] == value]
            _bars(axes, same)
            axes.set_title(style.name_of_c(float(value)) if panels == "c" else _layer(same))
        for axes in grid.flat[len(values) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("Weights (%)")
        style.headline(figure, title, _of_shares(table, panels))
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _bars(axes: Axes, table: pd.DataFrame) -> None:
    means = table.groupby("task")[list(PARTS)].mean()
    floor = np.zeros(len(means))
    for name, look in PARTS.items():
        axes.bar(means.index, means[name], bottom=floor, width=0.8, linewidth=0.5, **look)
        floor = floor + means[name].to_numpy()
    style.task_axis(axes, len(means), 5)
    axes.tick_params(axis="x", length=0)
    style.share_axis(axes)
    axes.set_xlabel("Task")


def _layers(table: pd.DataFrame) -> list[str]:
    return sorted(table["layer"].unique(), key=lambda layer: layer != "total")  # all first, the others in their order


def _layer(table: pd.DataFrame) -> str:
    layer, weights = table[["layer", "weights"]].iloc[0]
    return f"{'all layers' if layer == 'total' else layer}\n({style.short(weights)} weights)"


def _of_shares(table: pd.DataFrame, panels: str) -> str:
    fixed = _label("s_max", table["s_max"].iloc[0])
    if panels == "layer":
        fixed = f"c = {table['c'].iloc[0]:g}, {fixed}"
    elif (layer := table["layer"].iloc[0]) != "total":
        fixed = f"layer {layer}, {fixed}"
    return f"{fixed}; {style.of_seeds(table.groupby([panels, 'task', 'layer']).size(), one='one seed each')}"


def remaining_capacity(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw what is left of the network before each task, one line per c: AdaHAT's capacity, the mean of
    1 - min(a_i, a_j) over weights and biases of the cumulative mask. The heading says how far it is from the free
    weights, those that this mask does not use, as Fig. 5 counts them: too little for a figure.

    Args:
        table: rows of `hatlab.experiments.capacity_usage.tables.by_task`, of one layer (or "total") and one s_max.
        title: what was trained on what; the number of seeds, and what the band is, are added.

    Raises:
        ValueError: a table that is empty or mixes layers or s_max.
    """
    _check_same(table, "layer", "s_max")
    cs = sorted(table["c"].unique())
    with style.styled():
        figure, axes = plt.subplots(figsize=(style.WIDTH, 2.9), layout="constrained")
        for k, (c, color) in enumerate(style.colors_of(cs).items()):
            rows = table[table["c"] == c]
            look = {"color": color, "marker": style.MARKERS[k % len(style.MARKERS)], "markersize": 4}
            of_tasks = rows.groupby("task")["adahat"]  # in their order
            found = [style.spread(same.to_numpy()) for _, same in of_tasks]
            reached = Interval(*map(np.array, zip(*found, strict=True)))
            style.band(axes, list(of_tasks.groups), reached, label=style.name_of_c(c), **look)
        style.task_axis(axes, int(table["task"].max()), 10)
        style.share_axis(axes)
        axes.set_xlabel("Before task")
        axes.set_ylabel("AdaHAT's capacity (%)")
        axes.legend(handlelength=1.6, **style.BESIDE)
        seeds = style.seeds_with_band(table.groupby(["c", "task"]).size())
        beyond = (table["adahat"] - table["free"]).abs().max()
        how = f"{_label('s_max', table['s_max'].iloc[0])}; {seeds}\nat most {beyond:.2f} points from the free weights"
        style.headline(figure, title, how)
    return figure


def _check_same(table: pd.DataFrame, *same: str) -> None:
    if table.empty:
        raise ValueError("the table of the tasks' capacity is empty: no run has finished a task")
    for column in same:
        if len(values := table[column].unique()) > 1:
            raise ValueError(f"the table mixes {column} = {', '.join(map(str, values))}: select one of them")
