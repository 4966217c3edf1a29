"""Capacity usage while tasks are learnt one after the other: Fig. 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from hatlab.figures.style import SEEDS_FOR_INTERVAL, colors_of, short, styled
from hatlab.metrics import mean_interval

__all__ = ["capacity_usage", "usage_curves"]


def usage_curves(capacity: pd.DataFrame, points: int = 101) -> pd.DataFrame:
    """Average capacity usage over seeds, on an axis that runs of different lengths share.

    Early stopping gives every run its own number of epochs, so each task is stretched to length one: the value
    before its first step stands at 0, its last epoch at 1, and runs are interpolated linearly in between.

    Args:
        capacity: what `hatlab.collect` returns first; one data set, mode and s_max; any values of c; any seeds.
        points: grid points per task, both ends included.

    Returns:
        One row per c, layer, task and grid point: `progress` (task + share of its epochs), `usage` (mean, in %),
        `low` and `high` (95% t interval from 5 seeds on, smallest and largest value below), `n` (seeds).

    Raises:
        ValueError: the table is empty or mixes runs that differ in more than c and seed.
    """
    _check(capacity)
    grid = np.linspace(0, 1, points)
    frames = []
    for (c, layer, task), rows in capacity.groupby(["c", "layer", "task"]):
        curves = np.stack([_stretched(run, grid) for _, run in rows.groupby("run")])  # (seeds, points)
        mean, n = curves.mean(axis=0), len(curves)
        if n < SEEDS_FOR_INTERVAL:
            low, high = curves.min(axis=0), curves.max(axis=0)
        else:
            _, low, high = mean_interval(curves)
        values = {"progress": rows["task"].iloc[0] + grid, "usage": mean, "low": low, "high": high, "n": n}
        frames.append(pd.DataFrame({"c": c, "layer": layer, "task": task, **values}))
    return pd.concat(frames, ignore_index=True)


def capacity_usage(capacity: pd.DataFrame, title: str = "") -> Figure:
    """Draw the paper's Fig. 5: the share of the trunk's weights in use while tasks are learnt one after the other.

    The upper panel shows all layers together, the lower ones each layer; one curve per compressibility c, with a
    band over seeds; dashed lines at task switches.

    Args:
        capacity: see `usage_curves`, which also says what the band is.
        title: what was trained on what; s_max and the number of seeds are added.

    Raises:
        ValueError: as `usage_curves`.
    """
    curves = usage_curves(capacity)
    layers = [name for name in capacity["layer"].unique() if name != "total"]
    weights = capacity.drop_duplicates("layer").set_index("layer")["weights"]
    colors = colors_of(sorted(curves["c"].unique()))
    with styled():
        figure = plt.figure(figsize=(7.1, 4.9), layout=ConstrainedLayoutEngine(hspace=0.06, wspace=0.03))
        rows = figure.add_gridspec(2, 1, height_ratios=[1.6, 1])
        total = figure.add_subplot(rows[0])
        _draw(total, curves[curves["layer"] == "total"], colors, ticks=12)
        total.set_title(_heading(title, capacity, curves), loc="left")
        total.set_ylabel("Capacity usage (% of weights)")
        total.set_xlabel("Task (each stretched from before its first step to its last epoch)")
        total.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title="Compressibility", handlelength=1.6)
        below = rows[1].subgridspec(1, len(layers))
        for column, layer in enumerate(layers):
            axes = figure.add_subplot(below[column])
            _draw(axes, curves[curves["layer"] == layer], colors, ticks=12 // len(layers) + 2)
            share = 100 * weights[layer] / weights["total"]
            axes.set_title(f"{layer}: {short(weights[layer])} weights\n({share:.2g}% of all)")
            axes.set_xlabel("Task")
            axes.tick_params(labelleft=column == 0)
            if column == 0:
                axes.set_ylabel("Usage (%)")
    return figure


def _check(capacity: pd.DataFrame) -> None:
    if capacity.empty:
        raise ValueError("the capacity table is empty: no run has finished an epoch")
    for column in ("dataset", "mode", "s_max"):
        values = capacity[column].unique()
        if len(values) > 1:
            raise ValueError(f"the capacity table mixes {column} = {', '.join(map(str, values))}: select one of them")
    runs = capacity.groupby("run").agg(c=("c", "first"), seed=("seed", "first"), tasks=("task", "nunique"))
    for (c, seed), same in runs.groupby(["c", "seed"]):
        if len(same) > 1:
            raise ValueError(f"several runs with c = {c:g} and seed {seed}: {', '.join(same.index)}; select one")
    if runs["tasks"].nunique() > 1:
        raise ValueError(f"runs with different numbers of tasks: {runs['tasks'].to_dict()}")


def _stretched(run: pd.DataFrame, grid: np.ndarray) -> np.ndarray:
    """Usage in % of one run, layer and task at `grid` in [0, 1]; epoch -1 stands at 0, the last one at 1."""
    rows = run.sort_values("epoch")
    epoch = rows["epoch"].to_numpy()
    usage = 100 * rows["weights_used"].to_numpy() / rows["weights"].to_numpy()
    return np.asarray(np.interp(grid, (epoch + 1) / max(epoch[-1] + 1, 1), usage))


def _draw(axes: Axes, curves: pd.DataFrame, colors: Mapping[float, Any], ticks: int) -> None:
    n_tasks = int(curves["task"].max()) + 1
    for switch in range(1, n_tasks):
        axes.axvline(switch, color="0.75", linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
    for c, color in colors.items():
        curve = curves[curves["c"] == c]
        # a thin line joins the tasks: the jump when a new task's masks come in
        axes.plot(curve["progress"], curve["usage"], color=color, linewidth=0.5)
        for task, piece in curve.groupby("task"):
            name = None if task else f"c = {c:g}" if c else "no regularizer"
            axes.plot(piece["progress"], piece["usage"], color=color, label=name)
            axes.fill_between(piece["progress"], piece["low"], piece["high"], color=color, alpha=0.2, linewidth=0)
    axes.set_xlim(0, n_tasks)
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 25))
    step = -(-n_tasks // ticks)
    axes.set_xticks(np.arange(0, n_tasks, step) + 0.5, [str(k + 1) for k in range(0, n_tasks, step)])
    axes.tick_params(axis="x", length=0)


def _heading(title: str, capacity: pd.DataFrame, curves: pd.DataFrame) -> str:
    fewest, most = int(curves["n"].min()), int(curves["n"].max())
    if most == 1:
        what = f"seed {capacity['seed'].iloc[0]}" if capacity["seed"].nunique() == 1 else "one seed each"
    else:
        band = "95% t interval" if fewest >= SEEDS_FOR_INTERVAL else "smallest to largest"
        count = str(most) if fewest == most else f"{fewest} to {most}"
        what = f"mean of {count} seeds, band: {band}"
    mode, s_max = capacity[["mode", "s_max"]].iloc[0]
    how = f"$s_\\mathrm{{max}}$ = {s_max:g}; {'' if mode == 'original' else f'{mode} mode; '}{what}"
    return f"{title}\n{how}" if title else how
