"""What the paper says of weight reuse (section 4.4, Fig. 6), compared with the tables."""

from __future__ import annotations

import pandas as pd

from hatlab.analysis.comparisons import numbers, word
from hatlab.analysis.metrics import mean_interval
from hatlab.analysis.verdicts import Verdict, new
from hatlab.experiments.weight_reuse.tables import SHARES

__all__ = ["held", "layers", "statement", "verdicts_for"]


def statement(reuse: pd.DataFrame) -> str:
    """Say in words how much later tasks reuse, and how that is beside what independent masks would share.

    Args:
        reuse: what `of_runs` returns.
    """
    means = _of_seeds(reuse)
    if means.empty:
        return "No task uses any weight that another could reuse."
    (share, low, high), (times, fewest, most) = (
        mean_interval(means[name].tolist()) for name in ("reused", "beyond_chance")
    )
    few = len(means) == 1
    return (
        f"A later task uses {share:.0f}% ({_between(low, high, 0, few)}) of an earlier one's weights too, {times:.2f} "
        f"times ({_between(fewest, most, 2, few)}) what masks as large that know nothing of each other would share. "
        f"Means over all pairs of tasks, n = {len(means)}."
    )


def _between(low: float, high: float, digits: int, few: bool) -> str:
    return "one seed, no interval" if few else f"95% interval {low:.{digits}f} to {high:.{digits}f}"


def layers(means: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    """Say, a sentence for each layer, what untouched gates would reuse, what each arm does, and what c changes.

    Args:
        means: what `layer_means` returns.
        differences: what `layer_differences` returns.
    """
    said = []
    for layer, same in means.groupby("layer", sort=False):
        shares = [
            f"{row.arm}: {row.reused:.1f}% [{row.reused_low:.1f}, {row.reused_high:.1f}]" for row in same.itertuples()
        ]
        of_layer = differences[differences["layer"] == layer].itertuples()
        found = [f"{row.arm}: {word(row)} ({numbers(row)} points)" for row in of_layer]
        said.append(
            f"{layer}: untouched gates would reuse {same['untouched'].iloc[0]:g}%; {', '.join(shares)}. Compared with "
            f"c = 0, {'; '.join(found)}."
        )
    return said


def held(table: pd.DataFrame) -> str:
    """Say how much is protected after the last task, and how much of it no task uses: of what `tables.held` returns."""
    last = table[table["task"] == table["task"].max()]
    both, idle = (mean_interval(last[name].tolist()) for name in ("held", "idle"))
    few = len(last) == 1
    return (
        f"After {last['task'].iloc[0]} tasks {both.mean:.1f}% ({_between(both.low, both.high, 1, few)}) of the weights "
        f"are protected; {idle.mean:.1f} points ({_between(idle.low, idle.high, 1, few)}) of that are used by no task "
        f"(n = {len(last)})."
    )


def _of_seeds(reuse: pd.DataFrame) -> pd.DataFrame:
    """Means over the pairs of tasks of each run; those without any value are left out."""
    return reuse.groupby("run")[list(SHARES)].mean().dropna()


def verdicts_for(reuse: pd.DataFrame) -> list[Verdict]:
    """Return what became of Fig. 6: means over all pairs of tasks, one value a seed; the paper prints no number.

    Args:
        reuse: what `of_runs` returns.
    """
    means = _of_seeds(reuse)
    if means.empty:
        return []
    reused, chance = (means[name].tolist() for name in ("reused", "beyond_chance"))
    why = "the paper prints no number (sec. 4.4, Fig. 6)"
    return [
        new("weights of a task that a later one reuses", reused, why),
        new("the same over what independent masks share", chance, why, unit="times"),
    ]
