"""The ablation of the cross mode: every arm, and what cross differs by from original at half of c."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from hatlab.analysis.metrics import Interval, over_seeds
from hatlab.experiments.cross_ablation.tables import ARMS, MAIN, OUTCOMES
from hatlab.experiments.style import ARMS as ARM_LOOKS
from hatlab.experiments.style import WIDTH, dots, error_bars, headline, share_axis, styled

__all__ = ["cross_ablation", "cross_differences", "plane", "task_curves"]

LABELS: Final = {
    "capacity": "Capacity usage (% of weights)",
    "reused": "Share reused (%)",
    "accuracy": "Average accuracy (%, axis cut)",
    "forgetting": "Forgetting (points)",
}


def cross_ablation(outcomes: pd.DataFrame, summary: pd.DataFrame, title: str = "") -> Figure:
    """Draw every arm at every c: a panel for each outcome, means over seeds with intervals, single seeds as dots.

    An outcome that is 0 in every run has no panel; the heading says so.

    Args:
        outcomes: what `tables.outcomes` returns.
        summary: what `tables.summary` makes of it.
        title: what was trained on what; the number of seeds is added.

    Raises:
        ValueError: the table is empty.
    """
    if outcomes.empty:
        raise ValueError("the table of outcomes is empty: there are no runs to draw")
    cs = [0.0, *sorted(outcomes.loc[outcomes["c"] > 0, "c"].unique())]
    beside = [arm for arm in ARMS if arm != "none"]
    with styled():
        shown, constant = _varying(outcomes.set_index("run")[list(OUTCOMES)])
        figure, panels = plt.subplots(
            -(-len(shown) // 2), 2, figsize=(WIDTH, 4.9), layout=ConstrainedLayoutEngine(hspace=0.06, wspace=0.05),
            squeeze=False,
        )  # fmt: skip
        for axes in panels.flat[len(shown) :]:
            axes.set_axis_off()
        for axes, outcome in zip(panels.flat, shown, strict=False):
            for arm, (name, *_) in ARMS.items():
                of_arm = summary[(summary["arm"] == arm) & (summary["outcome"] == outcome)]
                shift = 0.0 if arm == "none" else 0.19 * (beside.index(arm) - (len(beside) - 1) / 2)
                runs = outcomes[outcomes["arm"] == arm]
                x = [cs.index(c) + shift + 0.05 for c in runs["c"]]
                dots(axes, x, runs["seed"], runs[outcome], ARM_LOOKS[arm]["color"], width=0.07)
                _points(axes, [cs.index(c) + shift for c in of_arm["c"]], of_arm, label=name, **ARM_LOOKS[arm])
            axes.set_ylabel(LABELS[outcome])
            _categories(axes, cs)
            if outcome in ("capacity", "reused"):
                share_axis(axes)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        if len(shown) < panels.size:  # there is a place for it
            panels.flat[-1].legend(handles, labels, loc="center")
        else:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        headline(figure, title, "; ".join([_seeds(outcomes["seed"].nunique()), *constant]))
    return figure


def _varying(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the outcomes that are not 0 everywhere, and what is said of the others."""
    zero = {str(name): bool((values == 0).all()) for name, values in table.items()}
    said = [f"{OUTCOMES[name]}: 0 in every run" for name in zero if zero[name]]
    return [name for name in zero if not zero[name]], said


def cross_differences(pairs: pd.DataFrame, differences: pd.DataFrame, title: str = "") -> Figure:
    """Draw cross minus original at c/2 in each outcome: mean differences with intervals, single pairs as dots.

    A filled marker is significant after Holm's correction; an open one is not, or its interval includes 0.

    Args:
        pairs: what `tables.pairs` returns.
        differences: what `tables.differences` makes of it.
        title: as in `cross_ablation`.

    Raises:
        ValueError: the table is empty.
    """
    if pairs.empty:
        raise ValueError("the table of pairs is empty: there are no runs to compare")
    pairs, differences = (t[(t["arm"] == MAIN[0]) & (t["reference"] == MAIN[1])] for t in (pairs, differences))
    cs = sorted(pairs["c"].unique())
    look = ARM_LOOKS["cross"]
    shown, constant = _varying(pairs.pivot(index=["seed", "c"], columns="outcome", values="difference")[list(OUTCOMES)])
    constant = [said.replace("every run", "every pair") for said in constant]
    with styled():
        figure, panels = plt.subplots(
            1, len(shown), figsize=(WIDTH, 2.5), layout=ConstrainedLayoutEngine(wspace=0.05), sharex=True
        )
        for axes, outcome in zip(panels, shown, strict=True):
            axes.axhline(0, color="0.4", linewidth=0.7, zorder=0)
            of_pairs, rows = (t[t["outcome"] == outcome] for t in (pairs, differences))
            x = [cs.index(c) + 0.03 for c in of_pairs["c"]]
            dots(axes, x, of_pairs["seed"], of_pairs["difference"], look["color"], width=0.25)
            for filled in (True, False):
                fill, some = look["color"] if filled else "white", rows[(rows["found"] == "yes") == filled]
                _points(axes, [cs.index(c) - 0.12 for c in some["c"]], some, markerfacecolor=fill, **look)
            axes.set_title(OUTCOMES[outcome].capitalize())
            _categories(axes, cs)
        panels[0].set_ylabel("Cross − original at c/2\n(percentage points)")
        how = [_seeds(pairs["seed"].nunique()), "; ".join(["filled: found after Holm's correction", *constant])]
        headline(figure, title, "\n".join(how))
    return figure


def plane(outcomes: pd.DataFrame, title: str = "") -> Figure:
    """Draw every arm at every c in the plane of capacity usage and average accuracy: means over seeds with intervals.

    Points of one arm are joined in the order of c, which stands beside the largest.

    Args:
        outcomes: what `tables.outcomes` returns.
        title: as in `cross_ablation`.
    """
    with styled():
        figure, axes = plt.subplots(figsize=(WIDTH, 3.6), layout="constrained")
        for arm, (name, *_) in ARMS.items():
            means = over_seeds(outcomes[outcomes["arm"] == arm], ["c"], ["capacity", "accuracy"]).sort_values("c")
            look = {key: value for key, value in ARM_LOOKS[arm].items() if key != "marker"}
            reach = [np.nan_to_num(means[f"{axis}_high"] - means[axis]) for axis in ("capacity", "accuracy")]
            axes.errorbar(
                means["capacity"], means["accuracy"], xerr=reach[0], yerr=reach[1], label=name, linewidth=0.8,
                elinewidth=0.8, marker=ARM_LOOKS[arm]["marker"], **look,
            )  # fmt: skip
            if (most := means.iloc[-1])["c"]:
                place = (most["capacity"], most["accuracy"])
                above = "top" if arm == "half" else "bottom"  # where cross has the same usage
                axes.annotate(f" c = {most['c']:g}", place, fontsize=7, color=look["color"], va=above)
        axes.set_xlabel("Capacity usage after the last task (% of weights)")
        axes.set_ylabel(LABELS["accuracy"])
        axes.legend()
        headline(figure, title, _seeds(outcomes["seed"].nunique()).partition(";")[0])
    return figure


def task_curves(table: pd.DataFrame, chosen: Mapping[str, tuple[str, float]], title: str = "") -> Figure:
    """Draw what becomes of the newest task as capacity runs out, each mode at the c that was chosen for it.

    Left, its accuracy after each number of tasks; in the middle, the same against the free weights; right, the share of
    what is held that it reuses. Means over seeds with bands of their 95% intervals.

    Args:
        table: what `tables.by_task` returns.
        chosen: what `tables.best` returns.
        title: as in `cross_ablation`.
    """
    panels = (("task", "newest", "Tasks learnt"), ("free", "newest", "Free weights before (%)"),
              ("task", "reused", "Tasks learnt"))  # fmt: skip
    with styled():
        figure, row = plt.subplots(1, 3, figsize=(WIDTH, 3.0), layout="constrained")
        for mode, (arm, c) in chosen.items():
            same = table[(table["arm"] == arm) & (table["c"] == c)]
            means = over_seeds(same, ["task"], ["newest", "free", "reused"])
            name = f"{mode}, c = {c * ARMS[arm][2]:g}" if c else ARMS["none"][0]
            for axes, (x, y, _) in zip(row, panels, strict=True):
                look = {**ARM_LOOKS[mode], "markersize": 3}
                axes.plot(means[x], means[y], label=name, linewidth=1, **look)
                axes.fill_between(
                    means[x], means[f"{y}_low"], means[f"{y}_high"], color=look["color"], alpha=0.15, lw=0
                )
        for axes, (x, y, label) in zip(row, panels, strict=True):
            axes.set_xlabel(label)
            axes.set_ylabel({"newest": "Accuracy on the newest\ntask (%, axis cut)", "reused": "Share reused (%)"}[y])
            if x == "free":
                axes.invert_xaxis()
        handles, labels = row[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        headline(
            figure, title, f"means over {table['seed'].nunique()} seeds, bands: 95% interval; c chosen on other seeds"
        )
    return figure


def _points(axes: Axes, x: Sequence[float], rows: pd.DataFrame, **style: Any) -> None:
    interval = Interval(rows["mean"], rows["low"], rows["high"])
    error_bars(axes, x, interval, linestyle="none", elinewidth=1.1, capsize=0, **style)


def _categories(axes: Axes, cs: Sequence[float]) -> None:
    axes.set_xticks(range(len(cs)), [f"{c:g}" for c in cs])
    axes.set_xlabel("Compressibility c")
    axes.set_xlim(-0.5, len(cs) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.08)


def _seeds(n: int) -> str:
    bars = ", bars: 95% interval" if n > 1 else ""
    return f"means over {n} seeds{bars}; dots: single seeds" if n > 1 else "one seed"
