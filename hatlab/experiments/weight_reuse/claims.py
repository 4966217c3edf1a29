"""What the paper says of weight reuse (section 4.4, Fig. 6), compared with the tables."""

from __future__ import annotations

import pandas as pd

from hatlab.analysis.metrics import mean_interval
from hatlab.analysis.verdicts import Verdict, new
from hatlab.experiments.weight_reuse.tables import SHARES

__all__ = ["statement", "verdicts_for"]


def statement(reuse: pd.DataFrame) -> str:
    """Say in words how much later tasks reuse, and whether it is more than independent masks would share.

    Args:
        reuse: what `of_runs` returns.
    """
    means = _of_seeds(reuse)
    if means.empty:
        return "No task uses any weight that another could reuse."
    shares = {name: mean_interval(means[name].tolist()) for name in SHARES}
    (share, low, high), (times, fewest, most) = shares["reused"], shares["beyond_chance"]
    if len(means) == 1:
        return (
            f"A later task uses {share:.0f}% of an earlier one's weights too, {times:.2f} times what independent masks "
            "would share (one seed, no interval)."
        )
    if fewest > 1:
        told = "more than chance"
    elif most < 1:
        told = "less than chance"
    else:
        told = "not told apart from chance"
    return (
        f"A later task uses {share:.0f}% (95% interval {low:.0f} to {high:.0f}) of an earlier one's weights too, "
        f"{times:.2f} times ({fewest:.2f} to {most:.2f}) what independent masks would share: {told}. Means over all "
        f"pairs of tasks, n = {len(means)} seeds."
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
