"""Accuracy against what is left of the network: Fig. 7."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hatlab.experiments.style import MARKERS, WIDTH, colors_of, styled, titled

__all__ = ["compression_curve"]

SEEDS_APART = 4  # with more, a colour for each tells nobody anything
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # %
POINTS_BELOW = 4.0  # percentage points below SGD where the right panel ends


def compression_curve(points: pd.DataFrame, results: pd.DataFrame, tolerance: float, title: str = "") -> Figure:
    """Draw the paper's Fig. 7: validation accuracy against the share of the weights in use, a dot for every epoch.

    The left panel has all epochs, the right one those that come near SGD. Epochs of a run are joined by a thin line;
    a ring is around the one whose model is kept. The triangle at 100% is SGD without masks: mean over seeds, with a
    bar from the smallest to the largest. The band is the accuracy that counts as SGD's.

    Args:
        points: what `hatlab.experiments.compression.tables.by_epoch` returns. An epoch that uses no weight at all has
            no place on the logarithmic axis.
        results: what `hatlab.experiments.compression.tables.by_run` returns of the same runs.
        tolerance: that it was given, in percentage points.
        title: what was trained on what; the number of seeds is added.

    Raises:
        ValueError: a table is empty.
    """
    if points.empty or results.empty:
        raise ValueError("there are no points to draw: no run has finished an epoch")
    with styled():
        figure, panels = plt.subplots(
            1, 2, figsize=(WIDTH, 3.1), layout="constrained", gridspec_kw={"width_ratios": [1, 1.6]}
        )
        for axes in panels:
            _draw(axes, points, results, tolerance)
        sgd = results["sgd_accuracy"]
        top = max(points["accuracy"].max(), sgd.max())
        panels[0].set_ylabel("Validation accuracy (%)")
        panels[0].set_ylim(0, 102)
        panels[1].set_ylim(sgd.min() - max(POINTS_BELOW, 2 * tolerance), min(top + 1, 100.4))
        panels[1].set_ylabel("The same near SGD (axis cut)")
        panels[0].set_title(_heading(title, points), loc="left")
        panels[1].legend(loc="best", ncols=2, handlelength=1.2)
    return figure


def _draw(axes: Axes, points: pd.DataFrame, results: pd.DataFrame, tolerance: float) -> None:
    sgd = results.drop_duplicates("seed")["sgd_accuracy"]
    mean = sgd.mean()
    axes.axhspan(mean - tolerance, mean, color="0.9", linewidth=0, zorder=0)
    by = "c" if points["c"].nunique() > 1 or points["seed"].nunique() > SEEDS_APART else "seed"
    shown = points[points["share"] > 0]
    values = sorted(shown[by].unique().tolist())
    of_seeds = zip(values, map(tuple, plt.get_cmap("viridis")(np.linspace(0, 0.8, len(values)))), strict=True)
    colors = colors_of(values) if by == "c" else dict(of_seeds)
    for k, value in enumerate(values):
        same, color, marker = shown[shown[by] == value], colors[value], MARKERS[k % len(MARKERS)]
        label = f"c = {value:g}" if by == "c" else f"seed {value}"
        for run, epochs in same.groupby("run"):
            path = epochs.sort_values("epoch")
            axes.plot(path["share"], path["accuracy"], color=color, linewidth=0.4, alpha=0.5, zorder=1)
            style: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "none", "markeredgewidth": 0}
            axes.plot(path["share"], path["accuracy"], markersize=3, label=label, zorder=2, **style)
            kept = results.loc[results["run"] == run, ["share", "accuracy"]]
            ring: dict[str, Any] = {"marker": "o", "markersize": 8, "markerfacecolor": "none"}
            axes.plot(*kept.to_numpy().T, linestyle="none", markeredgecolor="black", zorder=4, **ring)
            label = ""
    reach = [[mean - sgd.min()], [sgd.max() - mean]]
    axes.errorbar([100], [mean], reach, fmt="k^", ms=7, elinewidth=1, clip_on=False, zorder=3, label="SGD, no masks")
    axes.set_xscale("log")
    smallest = points.loc[points["share"] > 0, "share"].min()
    axes.set_xlim(min(0.8 * smallest, 50), 108)
    low = axes.get_xlim()[0]
    axes.set_xticks([t for t in TICKS if t >= low], [f"{t:g}" for t in TICKS if t >= low])
    axes.minorticks_off()
    axes.set_xlabel("Weights in use (% of the trunk's)")


def _heading(title: str, points: pd.DataFrame) -> str:
    n, cs = points["seed"].nunique(), points["c"].unique()
    what = f"{n} seeds" if n > 1 else f"seed {points['seed'].iloc[0]}"
    if len(cs) == 1:
        what = f"c = {cs[0]:g}; {what}"
    return titled(title, f"{what}; a dot for every epoch, ringed: the model that is kept")
