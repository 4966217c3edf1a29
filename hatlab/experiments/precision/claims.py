"""What the precision of the gate changes, in sentences and as verdicts."""

from __future__ import annotations

from typing import Final

import pandas as pd

from hatlab.analysis import verdicts
from hatlab.analysis.comparisons import numbers, word
from hatlab.analysis.metrics import mean_interval
from hatlab.experiments.precision.tables import CONTRAST, OUTCOMES

__all__ = ["alone", "statements", "verdicts_for"]

# arm -> in words
NAMES: Final = {"float32": "float32", "float64": "float64", "exact": "exact compensation"}


def statements(table: pd.DataFrame) -> list[str]:
    """Say each contrast in a sentence.

    Args:
        table: what `differences` returns.
    """
    sentences = []
    for (arm, schedule, reference, other), same in table.groupby(CONTRAST, sort=False):
        usage, accuracy = same.set_index("outcome").loc[list(OUTCOMES)].itertuples()
        said = [f"{word(row)} ({numbers(row)} points)" for row in (usage, accuracy)]
        if arm == reference:
            which = f"With the {schedule} schedule instead of the {other} one ({NAMES[str(arm)]})"
        else:
            which = f"With {NAMES[str(arm)]} instead of {NAMES[str(reference)]} ({schedule} schedule)"
        sentences.append(f"{which}, usage at the end: {said[0]}; average accuracy: {said[1]}; n = {usage.n} seeds.")
    return sentences


def alone(simulated: pd.DataFrame) -> list[str]:
    """Say how many units the regularizer alone leaves open, a sentence for each arm of `tables.simulate`."""
    last = simulated[simulated["epoch"] == simulated["epoch"].max()]
    said = []
    for arm, same in last.groupby("arm", sort=False):
        mean, low, high = mean_interval(same["active"].tolist())
        interval = "" if len(same) == 1 else f" [{low:.2f}, {high:.2f}]"
        said.append(
            f"{NAMES[str(arm)]}: after {same['epoch'].iloc[0]} epochs of the regularizer alone {mean:.2f}%{interval} "
            f"of the units are active (n = {len(same)})."
        )
    return said


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
