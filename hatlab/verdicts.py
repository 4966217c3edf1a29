"""Verdicts: what a notebook found, held against what the paper says.

Each notebook leaves a table `verdicts`, one row a claim; `hatlab reproduce` prints those of all its figures. One rule
for all: a number agrees when the paper's value, give or take half of its last digit, lies in our 95% interval; a
property agrees when every run has it. What was trained on something else than the paper's is "not comparable",
whatever the numbers are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import pandas as pd

from hatlab.metrics import Interval, mean_interval

__all__ = ["AGREES", "DIFFERS", "NOT_COMPARABLE", "Verdict", "compare", "holds", "table"]

AGREES: Final = "agrees"
DIFFERS: Final = "differs"
NOT_COMPARABLE: Final = "not comparable"


class Verdict(NamedTuple):
    """One claim of the paper and what became of it here.

    Attributes:
        claim: in words, with where the paper says it.
        unit: of the numbers.
        paper: the paper's value; NaN where it gives none.
        ours, low, high: mean over runs and its 95% interval (NaN where there is none).
        n: runs, or pairs of runs.
        verdict: "agrees", "differs" or "not comparable".
        why: what decided it.
    """

    claim: str
    unit: str
    paper: float
    ours: float
    low: float
    high: float
    n: int
    verdict: str
    why: str


def compare(
    claim: str,
    values: Sequence[float],
    paper: float,
    *,
    rounding: float,
    unit: str = "%",
    interval: Interval | None = None,
    not_comparable: str = "",
) -> Verdict:
    """Hold the mean of `values`, one per run, against a number of the paper.

    Args:
        claim: what is compared.
        values: one per seed.
        paper: the paper's value; NaN where it gives none, which is not comparable.
        rounding: half of the last digit that the paper prints.
        unit: of both.
        interval: of the mean, where it is not Student's t interval over `values`.
        not_comparable: why a number of other origin is not the paper's; "" if it is.

    Raises:
        ValueError: there are no values.
    """
    mean, low, high = mean_interval(values) if interval is None else interval
    verdict, why = _judge(float(mean), float(low), float(high), paper, rounding, unit)
    if not_comparable:
        verdict, why = NOT_COMPARABLE, not_comparable
    return Verdict(claim, unit, paper, float(mean), float(low), float(high), len(values), verdict, why)


def _judge(mean: float, low: float, high: float, paper: float, rounding: float, unit: str) -> tuple[str, str]:
    if math.isnan(paper):
        return NOT_COMPARABLE, "the paper gives no number"
    if math.isnan(low):
        return NOT_COMPARABLE, f"one run has no interval; it is {mean - paper:+.3g} {unit} from the paper's"
    if low - rounding <= paper <= high + rounding:
        return AGREES, "the paper's value is within the interval"
    return DIFFERS, f"ours is {'higher' if mean > paper else 'lower'} by {abs(mean - paper):.2g} {unit}"


def holds(claim: str, of_runs: Sequence[bool], *, not_comparable: str = "") -> Verdict:
    """Say whether a property that the paper describes is seen in every run.

    Args:
        claim: the property.
        of_runs: one per run.
        not_comparable: as in `compare`.

    Raises:
        ValueError: there are no runs.
    """
    if not len(of_runs):
        raise ValueError(f"'{claim}' was to be judged by no runs: at least one is needed")
    n, seen = len(of_runs), sum(map(bool, of_runs))
    verdict = AGREES if seen == n else DIFFERS
    why = f"in {seen} of {n} runs"
    if not_comparable:
        verdict, why = NOT_COMPARABLE, f"{why}; {not_comparable}"
    return Verdict(claim, "% of runs", 100.0, 100 * seen / n, math.nan, math.nan, n, verdict, why)


def table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return one row per verdict, with the fields of `Verdict` as columns."""
    return pd.DataFrame(verdicts, columns=list(Verdict._fields))
