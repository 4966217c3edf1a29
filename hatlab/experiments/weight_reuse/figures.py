"""Weight reuse across tasks: Fig. 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from hatlab.analysis.metrics import Interval, over_seeds
from hatlab.experiments.style import ARMS, WIDTH, dots, error_bars, headline, of_seeds, styled, task_colors, titled

__all__ = ["held", "layers", "units", "weight_reuse"]


def weight_reuse(reuse: pd.DataFrame, title: str = "") -> Figure:
    """Draw the paper's Fig. 6: which share of a task's weights (row) a later task (column) uses too.

    The left panel has the share in %, the right one how many times it is what masks that know nothing of each other
    would share. Every cell has its number; there is none where a task uses no weight.

    Args:
        reuse: what `hatlab.experiments.weight_reuse.tables.over_seeds` returns, of one or more seeds.
        title: what was trained on what; how many seeds there are is added.

    Raises:
        ValueError: the table is empty.
    """
    if reuse.empty:
        raise ValueError("the table of weight reuse is empty: there is no run of two or more tasks")
    n_tasks = int(reuse["later"].max()) + 1
    largest = float(np.nanmax([2.0, *reuse["beyond_chance"]]))
    with styled():
        height = 1.4 + n_tasks * float(np.clip(3 / n_tasks, 0.22, 0.4))
        figure, panels = plt.subplots(1, 2, figsize=(WIDTH, height), sharey=True, layout="constrained")
        _draw(panels[0], reuse, "reused", Normalize(0, 100), "{:.0f}", "Weights reused (%)")
        _draw(panels[1], reuse, "beyond_chance", Normalize(0, largest), "{:.1f}", "Reused / expected by chance (times)")
        panels[0].set_ylabel("Task whose weights they are")
        panels[0].set_title(_heading(title, reuse), loc="left", pad=9)
    return figure


def layers(table: pd.DataFrame, means: pd.DataFrame, title: str = "") -> Figure:
    """Draw, layer by layer, what each arm reuses: a dot for a seed, a mean with its interval; bars of untouched gates.

    Args:
        table, means: what `tables.by_layer` and `tables.layer_means` return.
        title: what was trained on what; how many seeds there are is added.
    """
    arms, names = list(means["arm"].unique()), list(means["layer"].unique())
    with styled():
        figure, axes = plt.subplots(figsize=(WIDTH, 3.1), layout="constrained")
        for k, layer in enumerate(names):
            expected = means.loc[means["layer"] == layer, "untouched"].iloc[0]
            axes.hlines(expected, k - 0.4, k + 0.4, color="black", label="" if k else "untouched gates")
            for j, arm in enumerate(arms):
                x, look = k + 0.25 * (j - 1), ARMS["none" if arm == "c = 0" else arm]
                seeds = table[(table["arm"] == arm) & (table["layer"] == layer)]
                dots(axes, x + 0.03, seeds["seed"], seeds["reused"], look["color"], width=0.07)
                (row,) = means[(means["arm"] == arm) & (means["layer"] == layer)].itertuples()
                reach = np.nan_to_num([[row.reused - row.reused_low], [row.reused_high - row.reused]])
                axes.errorbar(x, row.reused, reach, linestyle="none", capsize=3, label="" if k else arm, **look)
        axes.set_xticks(range(len(names)), names)
        axes.set_ylim(0, 100)
        axes.set_ylabel("Held weights reused (%)")
        axes.legend(ncols=4, loc="upper right")
        axes.set_title(titled(title, of_seeds(means["seeds"], one="")), loc="left")
    return figure


def units(masks: Sequence[Mapping[str, np.ndarray]], title: str = "") -> Figure:
    """Draw which units each task uses, coloured by the task that used a unit first; those of one task side by side.

    Args:
        masks: of each task in training order: layer name -> (units,).
        title: what was trained on what.
    """
    n_tasks, names = len(masks), list(masks[0])
    colors = task_colors(n_tasks)
    with styled():
        height = 1.2 + 0.16 * n_tasks * len(names)
        figure, panels = plt.subplots(len(names), 1, figsize=(WIDTH, height), layout="constrained", squeeze=False)
        for axes, name in zip(panels[:, 0], names, strict=True):
            used = np.array([mask[name] > 0.5 for mask in masks])  # (tasks, units)
            first = np.where(used.any(0), used.argmax(0), n_tasks)
            order = np.lexsort((*~used[::-1], first))
            picture = np.where(
                used[:, order, None], colors[np.minimum(first, n_tasks - 1)][order], (1.0, 1.0, 1.0, 1.0)
            )
            axes.imshow(picture, aspect="auto", interpolation="nearest")
            axes.set_yticks(range(n_tasks), [str(k + 1) for k in range(n_tasks)])
            axes.set_ylabel(f"{name}\nTask")
        panels[-1, 0].set_xlabel("Units, in the order of the task that used them first; white: not used by the task")
        headline(figure, title, "colour: the task that used a unit first")
    return figure


def held(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw the weights that are protected after each task, and how many of them some task uses.

    Args:
        table: what `tables.held` returns.
        title: what was trained on what; the number of seeds is added.
    """
    means = over_seeds(table, ["task"], ["held", "used"])
    with styled():
        figure, axes = plt.subplots(figsize=(WIDTH, 2.8), layout="constrained")
        axes.fill_between(
            means["task"], means["used"], means["held"], color="0.85", label="protected, and used by no task"
        )
        for name, label, look in (
            ("held", "protected", {"color": "#440154", "marker": "o"}),
            ("used", "used by some task", {"color": "#21918c", "marker": "s", "linestyle": "--"}),
        ):
            interval = Interval(means[name], means[f"{name}_low"], means[f"{name}_high"])
            error_bars(axes, means["task"], interval, capsize=2, label=label, **look)
        axes.set_xticks(means["task"])
        axes.set_xlabel("Tasks learnt")
        axes.set_ylabel("Weights (%)")
        axes.set_ylim(0, 102)
        axes.legend(loc="upper left")
        axes.set_title(titled(title, of_seeds(means["seeds"], ", bars: 95% interval")), loc="left")
    return figure


def _draw(axes: Axes, reuse: pd.DataFrame, column: str, norm: Normalize, form: str, label: str) -> None:
    n_tasks = int(reuse["later"].max()) + 1
    values = reuse.pivot(index="task", columns="later", values=column).to_numpy(dtype=float)
    # dark is much, so that paper is nothing
    colors = plt.get_cmap("viridis_r")
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=colors, norm=norm, edgecolors="white", linewidth=1)
    for row, column_ in np.argwhere(np.isfinite(values)):
        value = values[row, column_]
        luminance = np.dot(colors(norm(value))[:3], (0.2126, 0.7152, 0.0722))
        ink = "white" if luminance < 0.5 else "black"
        place = (column_ + 0.5, row + 0.5)
        axes.annotate(form.format(value), place, ha="center", va="center", color=ink, fontsize=min(8.5, 62 / n_tasks))
    *names, last = _names(reuse)
    axes.set_ylim(n_tasks - 1, 0)
    axes.set_yticks(np.arange(n_tasks - 1) + 0.5, names)
    axes.set_xticks(np.arange(n_tasks - 1) + 0.5, [str(k) for k in range(2, n_tasks + 1)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("Later task that uses them too" + (f"\n(the last: {last})" if " " in last else ""))
    bar = axes.figure.colorbar(ScalarMappable(norm, colors), ax=axes, pad=0.03)
    bar.set_label(label)
    bar.ax.tick_params(length=2)
    if column == "beyond_chance":
        bar.ax.axhline(1, color="black", linewidth=0.8)


def _names(reuse: pd.DataFrame) -> list[str]:
    """The tasks' places in training and, where all seeds have the same order, their names."""
    pairs = reuse[["task", "task_name", "later", "later_name"]].itertuples(index=False)
    names = {int(place): name for pair in pairs for place, name in (pair[:2], pair[2:])}
    return [f"{names[place]}  {place + 1}".strip() for place in sorted(names)]


def _heading(title: str, reuse: pd.DataFrame) -> str:
    order = "" if reuse["task_name"].iloc[0] else ", each with tasks in its own order"
    return titled(title, of_seeds(reuse["n"], order, one=""))
