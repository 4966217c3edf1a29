"""Forgetting over tasks (Fig. 3) and over c and s_max (Fig. 4), and the accuracy of each task."""

from __future__ import annotations

from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hatlab.analysis.metrics import Interval, over_seeds
from hatlab.analysis.paper import METHODS, PAPER_SEEDS, TABLE_1
from hatlab.experiments.style import (
    GUIDE,
    MARKERS,
    WIDTH,
    dots,
    error_bars,
    headline,
    of_seeds,
    styled,
    task_colors,
    titled,
)  # fmt: skip

__all__ = ["accuracy_of_tasks", "forgetting", "hyperparameters", "tuning", "without_task"]

# told apart by marker and by shade, so in grey print, too
LOOKS: Final[dict[str, dict[str, Any]]] = {
    "hat": {"color": "#440154", "marker": "o", "linestyle": "-"},
    "ewc": {"color": "#31688e", "marker": "s", "linestyle": "--"},
    "sgd_frozen": {"color": "#35b779", "marker": "^", "linestyle": "-."},
    "sgd": {"color": "0.55", "marker": "D", "linestyle": ":"},
}
JITTER: Final = 0.1  # of the authors' plot: intervals at one task must not hide each other


def forgetting(ratios: pd.DataFrame, title: str = "") -> Figure:
    """Draw Fig. 3, the forgetting ratio after each number of tasks, and beside it what Table 1 has for all methods, on
    its own data and after eight tasks.

    Args:
        ratios: what `tables.forgetting` returns; its seeds are dots.
        title: what was trained on what; the number of seeds is added.

    0 is as good as joint training, -1 as bad as chance.
    """
    n_tasks = int(ratios["tasks_learnt"].max())
    methods = [name for name in LOOKS if name in set(ratios["method"])]
    with styled():
        figure, (ours, paper) = plt.subplots(
            1, 2, figsize=(WIDTH, 3.4), layout="constrained", gridspec_kw={"width_ratios": [1.45, 1]}
        )
        ours.axhline(0, linestyle=(0, (4, 3)), **GUIDE)
        for k, method in enumerate(methods):
            rows = ratios[ratios["method"] == method]
            rows = rows.assign(x=rows["tasks_learnt"] + JITTER * k)
            _with_intervals(ours, rows, label=METHODS[method], **LOOKS[method])
        ours.set_xticks(np.arange(1, n_tasks + 1) + JITTER * (len(methods) - 1) / 2, range(1, n_tasks + 1))
        ours.set_xlabel("Tasks learnt t")
        ours.set_ylabel(r"Forgetting ratio $\rho^{\leq t}$")
        ours.legend(loc="lower left")
        ours.set_title(titled(title, _seeds(ratios)), loc="left")
        _paper(paper)
    return figure


def tuning(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw what each choice of a method's parameters came to; the one that was chosen is filled.

    Args:
        table: what `tables.tuning` returns.
        title: what was trained on what; the number of seeds is added.
    """
    panels = {"hat": ("c", "s_max", "HAT: compressibility c"), "ewc": ("ewc_lambda", "", "EWC: weight of its penalty")}
    shown = [method for method in panels if method in set(table["method"])]
    with styled():
        figure, axes = plt.subplots(
            1, len(shown), figsize=(WIDTH, 2.7), layout="constrained", sharey=True, squeeze=False
        )
        for panel, method in zip(axes[0], shown, strict=True):
            name, by, label = panels[method]
            rows = table[table["method"] == method].sort_values(name)
            lines = (
                [(f"$s_\\mathrm{{max}}$ = {value:g}", same) for value, same in rows.groupby(by)] if by else [("", rows)]
            )
            for k, (of_line, same) in enumerate(lines):
                look = {**LOOKS[method], "marker": MARKERS[k], "linestyle": ("-", "--", ":", "-.")[k % 4]}
                reached = Interval(same["accuracy"], same["accuracy_low"], same["accuracy_high"])
                error_bars(panel, same[name], reached, capsize=2, label=of_line, markerfacecolor="white", **look)
                chosen = same[same["chosen"]]
                panel.plot(chosen[name], chosen["accuracy"], look["marker"], color=look["color"], zorder=3)
            panel.set_xscale("log")
            panel.set_xticks(sorted(set(rows[name])), [f"{value:g}" for value in sorted(set(rows[name]))])
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xlabel(label)
            if by:
                panel.legend()
        axes[0, 0].set_ylabel("Average accuracy (%, axis cut)")
        axes[0, 0].set_ylim(top=101)  # a t interval of few seeds may reach beyond
        headline(figure, title, f"{of_seeds(table['seeds'])}, not among those reported; filled: chosen")
    return figure


def without_task(accuracy: pd.DataFrame, confusion: pd.DataFrame, title: str = "") -> Figure:
    """Draw HAT's accuracy with the task given and guessed, task by task, and which task is chosen for which.

    Args:
        accuracy, confusion: as in `agnostic.Agnostic`.
        title: what was trained on what; the number of seeds is added.
    """
    n_tasks = int(accuracy["task"].max())
    shares = confusion.pivot_table(index="task", columns="chosen", values="share").to_numpy()
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.1), layout="constrained")
        for k, (column, label) in enumerate((("given", "task given"), ("guessed", "task guessed"))):
            means = over_seeds(accuracy, ["task"], [column])
            reached = Interval(means[column], means[f"{column}_low"], means[f"{column}_high"])
            look = {"marker": MARKERS[k], "color": ("#440154", "#21918c")[k], "linestyle": ("-", "--")[k], "capsize": 2}
            error_bars(left, means["task"] + JITTER * (k - 0.5), reached, label=label, **look)
        left.set_ylim(0, 102)
        left.set_xticks(range(1, n_tasks + 1))
        left.set_xlabel("Task")
        left.set_ylabel("Accuracy after the last task (%)")
        left.legend(loc="lower left")
        mesh = right.pcolormesh(shares, cmap="viridis_r", vmin=0, vmax=100, edgecolors="white", linewidth=1)
        for (row, column), share in np.ndenumerate(shares):
            ink = "white" if share > 50 else "black"
            right.annotate(f"{share:.0f}", (column + 0.5, row + 0.5), ha="center", va="center", color=ink, fontsize=7)
        right.set_ylim(n_tasks, 0)
        right.set_xticks(np.arange(n_tasks) + 0.5, range(1, n_tasks + 1))
        right.set_yticks(np.arange(n_tasks) + 0.5, range(1, n_tasks + 1))
        right.set_xlabel("Task whose output has the least entropy")
        right.set_ylabel("Task of the image")
        figure.colorbar(mesh, ax=right, label="Test images (%)")
        headline(figure, title, of_seeds([accuracy["seed"].nunique()], ", bars: 95% interval"))
    return figure


def _paper(axes: Axes) -> None:
    """The paper's ten methods after eight tasks."""
    places = np.arange(len(TABLE_1))
    bars: dict[str, Any] = {"height": 0.6, "color": "0.85", "ecolor": "0.4", "error_kw": {"linewidth": 0.8}}
    axes.barh(places, TABLE_1["rho_8"], xerr=TABLE_1["std_8"], **bars)
    axes.set_yticks(places, TABLE_1["method"])
    axes.set_xlim(-1.02, 0.1)
    axes.set_xlabel("Forgetting ratio")
    axes.set_title(f"The paper's Table 1, $\\rho^{{\\leq 8}}$\nof its mixture (std of {PAPER_SEEDS} runs)", loc="left")


def hyperparameters(ratios: pd.DataFrame, c: float, s_max: float, title: str = "") -> Figure:
    """Draw Fig. 4: the forgetting ratio after the last task against s_max and against c.

    Args:
        ratios: rows of `tables.forgetting` after the last task; those with the given `c` make the left panel, those
            with the given `s_max` the right one.
        c, s_max: what the panels hold fixed.
        title: what was trained on what; the number of seeds is added.
    """
    with styled():
        figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 2.9), layout="constrained", sharey=True)
        for axes, name, label, fixed in (
            (panels[0], "s_max", "Steepest slope of the gate, $s_\\mathrm{max}$", f"c = {c:g}"),
            (panels[1], "c", "Compressibility c", f"$s_\\mathrm{{max}}$ = {s_max:g}"),
        ):
            rows = ratios[ratios["c"] == c] if name == "s_max" else ratios[ratios["s_max"] == s_max]
            values = sorted(rows[name].unique())
            axes.axhline(0, linestyle=(0, (4, 3)), **GUIDE)
            axes.set_xscale("log")
            _with_intervals(axes, rows.assign(x=rows[name]).sort_values(name), **LOOKS["hat"])
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(label)
            axes.set_title(fixed, loc="left")
        panels[0].set_ylabel("Forgetting ratio after the last task")
        headline(figure, "", ": ".join(filter(None, (title, _seeds(ratios)))))
    return figure


def _seeds(ratios: pd.DataFrame) -> str:
    return of_seeds([ratios["seed"].nunique()], ", 95% t interval; dots: single seeds")


def _with_intervals(axes: Axes, rows: pd.DataFrame, **look: Any) -> None:
    """Means over the rows of each `x`, joined by a line; to the right of them single seeds as dots."""
    means = over_seeds(rows, ["x"], ["ratio"])
    ratio = Interval(means["ratio"], means["ratio_low"], means["ratio_high"])
    error_bars(axes, means["x"], ratio, markersize=4, linewidth=1.2, elinewidth=0.8, capsize=2, **look)
    beside = rows["x"] * 1.06 if axes.get_xscale() == "log" else rows["x"] + JITTER / 2
    dots(axes, beside, rows["seed"], rows["ratio"], look["color"], width=0)


def accuracy_of_tasks(
    accuracy: pd.DataFrame, by: str = "method", title: str = "", chance: float | None = None
) -> Figure:
    """Draw a line for each task: its test accuracy after it was learnt, and after each task that followed.

    Args:
        accuracy: rows of the accuracy table of `hatlab.collect`; the mean is taken over what differs beside `by`.
        by: the column with a panel for each of its values, in the order in which they come.
        title: what was trained on what; the number of runs is added.
        chance: accuracy of guessing, in %: a dashed line, from below which the axes go up.

    Raises:
        ValueError: the table is empty.
    """
    if accuracy.empty:
        raise ValueError("the table of accuracies is empty: no run has finished a task")
    values = list(dict.fromkeys(accuracy[by]))
    with styled():
        figure, panels = plt.subplots(
            1, len(values), figsize=(WIDTH, 2.7), sharey=True, squeeze=False, layout="constrained"
        )
        n_tasks = int(accuracy["task"].max()) + 1
        colors = task_colors(n_tasks)
        for axes, value in zip(panels.flat, values, strict=True):
            rows = accuracy[accuracy[by] == value]
            means = 100 * rows.groupby(["task", "after_task"])["accuracy"].mean()
            for task in range(n_tasks):
                line = means[task]
                axes.plot(
                    line.index + 1, line, color=colors[task], marker=MARKERS[task % len(MARKERS)], markersize=4,
                    label=f"task {task + 1}",
                )  # fmt: skip
            axes.set_title(str(value))
            axes.set_xticks(range(1, n_tasks + 1))
            axes.set_xlabel("Tasks learnt")
            if chance is not None:
                axes.axhline(chance, color="0.5", linewidth=0.8, linestyle=(0, (4, 3)), label="chance")
                axes.set_ylim(min(chance, 100 * accuracy["accuracy"].min()) - 5, 102)
        panels[0, 0].set_ylabel("Test accuracy (%)")
        panels[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        headline(figure, title, of_seeds(accuracy.groupby(by)["run"].nunique()))
    return figure
