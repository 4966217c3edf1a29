"""What the ablation found: a word for each difference, and a few sentences, all read off the table of differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from hatlab.analysis import verdicts
from hatlab.analysis.comparisons import ALPHA, MIN_PAIRS, pairs_needed, smallest_p
from hatlab.experiments.cross_ablation.tables import ARMS, MAIN, OUTCOMES, main_c

__all__ = ["at_best", "conclusion", "findings", "reading", "table", "verdict_table"]

UNCORRECTED = "nominally significant, not after Holm's correction"


def findings(differences: pd.DataFrame) -> pd.DataFrame:
    """Return the differences in words: a row per contrast and c, a column per outcome, "lower, −1.0 [−1.7, −0.1]".

    Args:
        differences: what `tables.differences` returns.
    """
    words = differences.assign(
        contrast=[
            f"{ARMS[a][0]} - {ARMS[b][0]}" for a, b in zip(differences["arm"], differences["reference"], strict=True)
        ],
        outcome=differences["outcome"].map(OUTCOMES),
        finding=[f"{_word(row)}, {_numbers(row)}" if row.n else _word(row) for row in differences.itertuples()],
    )
    return words.pivot(index=["contrast", "c"], columns="outcome", values="finding")[list(OUTCOMES.values())]


def table(differences: pd.DataFrame) -> pd.DataFrame:
    """Return all sentences, to be quoted: columns `part` ("reading", "conclusion") and `text`."""
    rows = [(part.__name__, text) for part in (reading, conclusion) for text in part(differences)]
    return pd.DataFrame(rows, columns=["part", "text"])


def reading(differences: pd.DataFrame) -> list[str]:
    """Say how the findings are to be read.

    Args:
        differences: what `tables.differences` returns.
    """
    main = _main(differences)
    counted = main[(main["found"] != "few") & main["p_holm"].notna()]
    pairs = int(main["n"].max())
    if counted.empty:
        return [f"There are {pairs} pairs of runs. Below {MIN_PAIRS} there is no test, and nothing is said to differ."]
    smallest = len(counted) * smallest_p(pairs)
    said = [
        "A difference is the mean over pairs of runs with the same seed, in percentage points, with its 95% interval "
        "(Student's) in brackets. Where none is found, it is said beyond what one is excluded by that interval.",
        '"Higher" and "lower" are said where the interval excludes 0 and the p value of the sign-flip test, corrected '
        f"by Holm's method for the {len(counted)} comparisons of the same two arms, is below {ALPHA:g}. Comparisons in "
        "which every difference is 0 are not tests, and not counted.",
    ]
    if smallest >= ALPHA:
        needed = pairs_needed(len(counted), ALPHA)
        said.append(
            f"With {pairs} pairs the smallest corrected p value is {min(1, smallest):.3g}, so no difference can be "
            "found; " + (f"{needed} pairs would be the fewest." if needed else "no number of pairs is enough.")
        )
    return said


def conclusion(differences: pd.DataFrame) -> list[str]:
    """Say what cross does beyond half a c, one sentence for each outcome; then what it does at the same c.

    Args:
        differences: what `tables.differences` returns.
    """
    said = []
    for outcome, same in _main(differences).groupby("outcome", sort=False):
        numbers = [f" ({_numbers(row)})" if row.n else "" for row in same.itertuples()]
        parts = [f"c = {row.c:g}: {_word(row)}{n}" for row, n in zip(same.itertuples(), numbers, strict=True)]
        name = f"{ARMS[MAIN[0]][0]} compared with {ARMS[MAIN[1]][0]}"
        said.append(f"{OUTCOMES[str(outcome)].capitalize()}, {name} (n = {_count(same['n'])}): {'; '.join(parts)}.")
    rows = differences.query("outcome == 'capacity' and arm == 'cross' and reference == 'original' and n > 0")
    if len(rows):
        parts = [f"c = {row.c:g}: {_numbers(row)}" for row in rows.itertuples()]
        said.append(
            f"Capacity usage, cross compared with original, both at c: {'; '.join(parts)}. This has in it what half "
            "a c does to the regularizer's first term."
        )
    return said


def at_best(differences: pd.DataFrame, chosen: Mapping[str, tuple[str, float]]) -> list[str]:
    """Say how the modes compare when each has its own best c, a sentence for each comparison.

    Args:
        differences: what `tables.at_best` returns.
        chosen: what `tables.best` returns.
    """
    said = []
    for (one, other), same in differences.groupby(["arm", "reference"], sort=False):
        names = [_at(mode, *chosen[mode]) for mode in (str(one), str(other))]
        parts = [
            f"{OUTCOMES[str(row.outcome)]} {_word(row)}" + (f" ({_numbers(row)})" if row.n else "")
            for row in same.itertuples()
        ]
        said.append(f"{names[0]} compared with {names[1]} (n = {_count(same['n'])}): {'; '.join(parts)}.")
    return said


def _at(mode: str, arm: str, c: float) -> str:
    return f"{mode} at c = {c * ARMS[arm][2]:g}" if c else ARMS["none"][0]


def verdict_table(
    table: pd.DataFrame, at_best: pd.DataFrame | None = None, best: Mapping[str, tuple[str, float]] | None = None
) -> pd.DataFrame:
    """Return a row of verdicts for each outcome of the main contrast at `main_c`, and for the accuracy of the modes at
    their own best c: the paper has no cross mode.

    Args:
        table: what `tables.pairs` returns.
        at_best, best: what `tables.best_pairs` and `tables.best` return, if the modes' best c were chosen.
    """
    c = main_c(table["c"].unique().tolist())
    chosen = table[(table["arm"] == MAIN[0]) & (table["reference"] == MAIN[1]) & (table["c"] == c)]
    rows = []
    for outcome, same in chosen.groupby("outcome", sort=False):
        if len(values := same["difference"].dropna().tolist()):
            claim = f"cross minus original at c/2, c = {c:g}: {OUTCOMES[str(outcome)]}"
            rows.append(verdicts.new(claim, values, "the paper has no cross mode", unit="points"))
    if at_best is not None and best is not None:
        accuracy = at_best[at_best["outcome"] == "accuracy"]
        for (one, other), same in accuracy.groupby(["arm", "reference"], sort=False):
            claim = f"{' minus '.join(_at(mode, *best[mode]) for mode in (str(one), str(other)))}: average accuracy"
            why = "each at its own best c, chosen on other seeds"
            rows.append(verdicts.new(claim, same["difference"].tolist(), why, unit="points"))
    return verdicts.table(rows)


def _main(differences: pd.DataFrame) -> pd.DataFrame:
    return differences[(differences["arm"] == MAIN[0]) & (differences["reference"] == MAIN[1])]


def _word(row: Any) -> str:
    """The finding of a row of `tables.differences`."""
    if not row.n:
        return "cannot be compared"
    if row.found == "few":
        return "too few pairs"
    if row.low == row.high == 0:
        return "equal in every pair"
    if row.found == "no":
        return f"no difference found, beyond {_number(max(-row.low, row.high), _digits(row))} excluded"
    if row.found == "alone":
        return UNCORRECTED
    return "higher" if row.mean > 0 else "lower"


def _numbers(row: Any) -> str:
    """ "+1.2 [0.8, 1.7]": one decimal, or as many as the interval's width needs and as tell its ends from 0."""
    if math.isnan(row.low):
        return _number(row.mean, 1, "+")
    digits = _digits(row)
    if row.found in ("yes", "alone") and round(min(abs(row.low), abs(row.high)), digits) == 0:
        digits += 1
    return f"{_number(row.mean, digits, '+')} [{_number(row.low, digits)}, {_number(row.high, digits)}]"


def _digits(row: Any) -> int:
    width = row.high - row.low
    return min(max(1 - math.floor(math.log10(width)), 1), 3) if width > 0 else 1


def _number(value: float, digits: int, sign: str = "") -> str:
    text = f"{value:{sign}.{digits}f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", "−")


def _count(n: Iterable[int]) -> str:
    fewest, most = min(n), max(n)
    return f"{most}" if fewest == most else f"{fewest} to {most}"
