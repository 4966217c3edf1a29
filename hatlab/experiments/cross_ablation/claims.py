"""What the ablation found: a word for each difference, and a few sentences, all read off the table of differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import pandas as pd

from hatlab.analysis import verdicts
from hatlab.analysis.comparisons import ALPHA, EQUAL, MIN_PAIRS, numbers, pairs_needed, smallest_p, word
from hatlab.experiments.cross_ablation.tables import ARMS, MAIN, OUTCOMES, main_c

__all__ = ["at_best", "conclusion", "findings", "reading", "room", "table", "verdict_table"]

NEAR_THE_TOP: Final = 98.0  # %


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
        finding=[f"{word(row)}, {numbers(row)}" if row.n else word(row) for row in differences.itertuples()],
    )
    return words.pivot(index=["contrast", "c"], columns="outcome", values="finding")[list(OUTCOMES.values())]


def table(differences: pd.DataFrame, means: pd.DataFrame, best: Sequence[str] = ()) -> pd.DataFrame:
    """Return all sentences, to be quoted: columns `part` ("reading", "room", "conclusion", "at_best") and `text`.

    Args:
        differences, means: what `tables.differences` and `tables.summary` return.
        best: what `at_best` returns, if each mode's own best c was chosen.
    """
    said = {"reading": reading(differences), "room": [room(means)], "conclusion": conclusion(differences)}
    rows = [(part, text) for part, texts in {**said, "at_best": best}.items() for text in texts]
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
        parts = [f"c = {row.c:g}: {word(row)}" + (f" ({numbers(row)})" if row.n else "") for row in same.itertuples()]
        if {word(row) for row in same.itertuples()} == {EQUAL}:  # true by construction where nothing is forgotten
            parts = [f"{EQUAL}, at every c"]
        name = f"{ARMS[MAIN[0]][0]} compared with {ARMS[MAIN[1]][0]}"
        said.append(f"{OUTCOMES[str(outcome)].capitalize()}, {name} (n = {_count(same['n'])}): {'; '.join(parts)}.")
    rows = differences.query("outcome == 'capacity' and arm == 'cross' and reference == 'original' and n > 0")
    if len(rows):
        parts = [f"c = {row.c:g}: {numbers(row)}" for row in rows.itertuples()]
        said.append(
            f"Capacity usage, cross compared with original, both at c: {'; '.join(parts)}. This has in it what half "
            "a c does to the regularizer's first term."
        )
    return said


def room(means: pd.DataFrame) -> str:
    """Say how much room accuracy has to move, from what `tables.summary` returns: it has little where all arms are near
    the top.
    """
    reached = means.loc[means["outcome"] == "accuracy", "mean"]
    said = f"Average accuracy lies between {reached.min():.1f} and {reached.max():.1f}% over all arms and c"
    return f"{said}: a cost or a gain has little room to show." if reached.min() > NEAR_THE_TOP else f"{said}."


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
            f"{OUTCOMES[str(row.outcome)]} {word(row)}" + (f" ({numbers(row)})" if row.n else "")
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


def _count(n: Iterable[int]) -> str:
    fewest, most = min(n), max(n)
    return f"{most}" if fewest == most else f"{fewest} to {most}"
