"""Capacity usage while tasks are learnt one after the other: Fig. 5."""

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

from hatlab.figures.style import SEEDS_FOR_INTERVAL, colors_of, short, styled
from hatlab.metrics import Interval, mean_interval

__all__ = ["capacity_usage", "draw", "of_seeds", "spread", "usage_curves"]

LEGENDS: Final = {"c": "Compressibility", "s_max": "Steepest slope"}
# curves of different s_max come so close that shades of grey do not tell them apart
DASHES: Final = ["-", (0, (4, 1.3)), (0, (1, 0.8)), (0, (5, 1.3, 1, 1.3)), (0, (2, 1.3)), (0, (6, 1.3, 1, 1.3, 1, 1.3))]


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
        in %), `low` and `high` (see `spread`), `n` (seeds).

    Raises:
        ValueError: the table is empty or mixes runs that differ in more than `by` and seed.
    """
    _check(capacity, by)
    grid = np.linspace(0, 1, points)
    frames = []
    for (value, layer, task), rows in capacity.groupby([by, "layer", "task"]):
        curves = np.stack([_stretched(run, grid) for _, run in rows.groupby("run")])  # (seeds, points)
        mean, low, high = spread(curves)
        values = {"progress": rows["task"].iloc[0] + grid, "usage": mean, "low": low, "high": high, "n": len(curves)}
        frames.append(pd.DataFrame({by: value, "layer": layer, "task": task, **values}))
    return pd.concat(frames, ignore_index=True)


def spread(values: np.ndarray) -> Interval:
    """Return the mean over seeds, the first axis of (seeds, ...), and the band around it: the 95% t interval from 5
    seeds on, smallest and largest value below.
    """
    if len(values) < SEEDS_FOR_INTERVAL:
        return Interval(values.mean(axis=0), values.min(axis=0), values.max(axis=0))
    return mean_interval(values)


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
        for value, color in colors_of(sorted(curves[by].unique())).items()
    }
    if by == "s_max":
        for look, dashes in zip(looks.values(), itertools.cycle(DASHES), strict=False):
            look["linestyle"] = dashes
    with styled():
        figure = plt.figure(figsize=(7.1, 4.9), layout=ConstrainedLayoutEngine(hspace=0.06, wspace=0.03))
        rows = figure.add_gridspec(2, 1, height_ratios=[1.6, 1])
        total = figure.add_subplot(rows[0])
        draw(total, curves[curves["layer"] == "total"], by, looks, ticks=12)
        total.set_title(_heading(title, capacity, curves, by), loc="left")
        total.set_ylabel("Capacity usage (% of weights)")
        total.set_xlabel("Task (each stretched from before its first step to its last epoch)")
        total.legend(
            loc="upper left",
            bbox_to_anchor=(1, 1),
            frameon=False,
            title=LEGENDS[by],
            handlelength=1.6 if by == "c" else 2.6,
        )
        below = rows[1].subgridspec(1, len(layers))
        for column, layer in enumerate(layers):
            axes = figure.add_subplot(below[column])
            draw(axes, curves[curves["layer"] == layer], by, looks, ticks=12 // len(layers) + 2)
            share = 100 * weights[layer] / weights["total"]
            axes.set_title(f"{layer}: {short(weights[layer])} weights\n({share:.2g}% of all)")
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
        axes.axvline(switch, color="0.75", linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
    for value, look in looks.items():
        curve, color = curves[curves[by] == value], look["color"]
        # a thin line joins the tasks: the jump when a new task's masks come in
        axes.plot(curve["progress"], curve["usage"], color=color, linewidth=0.5)
        for task, piece in curve.groupby("task"):
            axes.plot(piece["progress"], piece["usage"], **{**look, "label": None if task else look["label"]})
            axes.fill_between(piece["progress"], piece["low"], piece["high"], color=color, alpha=0.2, linewidth=0)
    axes.set_xlim(0, n_tasks)
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 25))
    step = -(-n_tasks // ticks)
    axes.set_xticks(np.arange(0, n_tasks, step) + 0.5, [str(k + 1) for k in range(0, n_tasks, step)])
    axes.tick_params(axis="x", length=0)


def of_seeds(fewest: int, most: int, one: str = "one seed each") -> str:
    """Say how many seeds are behind a line and what the band of `spread` is; `one`: what to say where it is one."""
    if most == 1:
        return one
    band = "95% t interval" if fewest >= SEEDS_FOR_INTERVAL else "smallest to largest"
    return f"mean of {most if fewest == most else f'{fewest} to {most}'} seeds, band: {band}"


def _label(by: str, value: float) -> str:
    if by == "s_max":
        return f"$s_\\mathrm{{max}}$ = {value:g}"
    return f"c = {value:g}" if value else "no regularizer"


def _heading(title: str, capacity: pd.DataFrame, curves: pd.DataFrame, by: str) -> str:
    one = f"seed {capacity['seed'].iloc[0]}" if capacity["seed"].nunique() == 1 else "one seed each"
    what = of_seeds(int(curves["n"].min()), int(curves["n"].max()), one)
    other, mode = "c" if by == "s_max" else "s_max", capacity["mode"].iloc[0]
    how = f"{_label(other, capacity[other].iloc[0])}; {'' if mode == 'original' else f'{mode} mode; '}{what}"
    return f"{title}\n{how}" if title else how
