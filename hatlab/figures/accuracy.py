"""Accuracy of every task while later ones are learnt: forgetting, or its absence, seen with one's own eyes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hatlab.figures.style import MARKERS, WIDTH, styled

__all__ = ["accuracy_of_tasks"]


def accuracy_of_tasks(accuracy: pd.DataFrame, by: str = "method", title: str = "") -> Figure:
    """Draw a line for each task: its test accuracy after it was learnt, and after each task that followed.

    Args:
        accuracy: rows of the accuracy table of `hatlab.collect`; the mean is taken over what differs beside `by`.
        by: the column with a panel for each of its values, in the order in which they come.
        title: what was trained on what; the number of runs is added.

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
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, n_tasks))
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
        panels[0, 0].set_ylabel("Test accuracy (%)")
        panels[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        seeds = accuracy.groupby(by)["run"].nunique()
        n = str(seeds.max()) if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
        what = f"mean of {n} seeds" if seeds.max() > 1 else "one seed"
        figure.suptitle(f"{title}\n{what}".strip(), x=0.01, ha="left", fontsize=8.5)
    return figure
