"""What the precision of the gate changes, in sentences and as verdicts."""

from __future__ import annotations

import math
from typing import Final

import pandas as pd

from hatlab.analysis import verdicts
from hatlab.analysis.comparisons import MIN_PAIRS
from hatlab.experiments.precision.tables import CONTRAST, OUTCOMES

__all__ = ["statements", "verdicts_for"]

# arm -> in words
NAMES: Final = {"float32": "float32", "float64": "float64", "exact": "exact compensation"}


def statements(table: pd.DataFrame) -> list[str]:
    """Say each contrast in a sentence.

    Args:
        table: what `differences` returns.
    """
    sentences = []
    for (arm, schedule, reference, other), same in table.groupby(CONTRAST, sort=False):
        usage, accuracy = (same[same["outcome"] == outcome].iloc[0] for outcome in OUTCOMES)
        if arm == reference:
            which = f"With the {schedule} schedule instead of the {other} one ({NAMES[str(arm)]})"
        else:
            which = f"With {NAMES[str(arm)]} instead of {NAMES[str(reference)]} ({schedule} schedule)"
        sentences.append(
            f"{which} usage at the end is {_points(usage)}, average accuracy {_points(accuracy)}; "
            f"n = {usage['n']} seeds."
        )
    return sentences


def _points(row: pd.Series) -> str:
    mean, low, high = (row[name] + 0.0 for name in ("mean", "low", "high"))  # not -0.0
    interval = "" if math.isnan(low) else f", 95% interval {low:+.2f} to {high:+.2f}"
    if row["found"] == "yes":
        return f"{abs(mean):.2f} points {'higher' if mean > 0 else 'lower'} ({interval.removeprefix(', ')})"
    words = {
        "few": f"too few pairs to say more, {MIN_PAIRS} are needed",
        "alone": "nominally significant, not after Holm's correction",
        "no": f"no difference found, beyond {max(-low, high):.2f} points excluded",
    }
    return f"different by {mean:+.2f} points ({words[row['found']]}{interval})"


def verdicts_for(table: pd.DataFrame) -> list[verdicts.Verdict]:
    """Return a verdict for each contrast with float32 and the first schedule: the paper has nothing beside them.

    Args:
        table: what `pairs` returns.
    """
    rows = []
    usage = table[(table["outcome"] == "usage") & (table["reference_arm"] == "float32")]
    for (arm, schedule, reference, other), same in usage.groupby(CONTRAST, sort=False):
        what = f"{arm} - {reference}, {schedule} schedule" if schedule == other else f"{schedule} - {other} schedule"
        values = same["difference"].tolist()
        why = "precision" if schedule == other else "both schedules"
        claim = f"usage at the end: {what}"
        rows.append(verdicts.new(claim, values, f"the paper does not report {why}", unit="points"))
    return rows
