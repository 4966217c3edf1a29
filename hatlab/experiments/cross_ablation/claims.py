"""What the ablation found, in sentences that are computed from its table of differences.

Nothing here knows what the runs came to: every word about a direction, every number and every "no difference was
found" follows from a row of `tables.differences`. Numbers are the table's, rounded; a minus stands where it stands
there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import pandas as pd

from hatlab.analysis import verdicts
from hatlab.analysis.comparisons import MIN_PAIRS, bca_interval, pairs_needed, smallest_p
from hatlab.experiments.cross_ablation.tables import ALPHA, ARMS, MAIN, OUTCOMES, main_c

__all__ = ["conclusion", "reading", "statements", "table", "verdict_table"]


class Words(NamedTuple):
    """How a difference in an outcome is said, and which direction is the better one: 1, -1, or 0 for neither."""

    more: str
    less: str
    better: int


WORDS: Final = {
    "capacity": Words("leaves the network fuller", "leaves the network emptier", -1),
    "reused": Words("reuses more of what earlier tasks hold", "reuses less of what earlier tasks hold", 0),
    "accuracy": Words("is more accurate", "is less accurate", 1),
    "forgetting": Words("forgets more", "forgets less", -1),
}
# said of what has an interval that excludes 0, but no p value that stands the correction
ALONE: Final = "taken alone, but not as one of so many comparisons"


class Row(NamedTuple):
    """A row of `tables.differences`."""

    arm: str
    reference: str
    c: float
    outcome: str
    n: int
    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    found: str

    @property
    def name(self) -> str:
        return OUTCOMES[self.outcome]

    @property
    def sign(self) -> int:
        return 1 if self.mean > 0 else -1

    @property
    def verb(self) -> str:
        words = WORDS[self.outcome]
        return words.more if self.sign > 0 else words.less

    @property
    def numbers(self) -> str:
        """ "+1.2 points [0.8, 1.7]": one decimal, or as many as the interval's width needs to be seen."""
        if math.isnan(self.low):
            return f"{_number(self.mean, 1, '+')} points"
        width = self.high - self.low
        digits = min(max(1 - math.floor(math.log10(width)), 1), 3) if width > 0 else 1
        if self.found in ("yes", "alone") and round(min(abs(self.low), abs(self.high)), digits) == 0:
            digits += 1  # an end that is not 0 should not look like it
        mean, low, high = _number(self.mean, digits, "+"), _number(self.low, digits), _number(self.high, digits)
        return f"{mean} points [{low}, {high}]"


def table(differences: pd.DataFrame) -> pd.DataFrame:
    """Return all sentences, to be quoted: columns `part` ("reading", "statements", "conclusion") and `text`."""
    rows = [(part.__name__, text) for part in (reading, statements, conclusion) for text in part(differences)]
    return pd.DataFrame(rows, columns=["part", "text"])


def reading(differences: pd.DataFrame) -> list[str]:
    """Say how the other sentences are to be read: what the brackets are, and when a difference counts as found.

    Args:
        differences: what `tables.differences` returns.
    """
    rows = _rows(differences)
    with_interval = [row for row in rows if row.found != "few"]
    if not with_interval:
        return [
            f"There are {max(row.n for row in rows)} pairs, and below {MIN_PAIRS} no intervals: the numbers are mean "
            f"differences in percentage points, and nothing can be said to differ."
        ]
    main = _of(with_interval, *MAIN)
    said = [
        f"A difference is the mean over pairs of runs with the same seed, in percentage points, with its 95% BCa "
        f"bootstrap interval in brackets. There are {len(with_interval)} intervals, each at 95% by itself: of so many, "
        f"some would miss 0 even if nothing differed.",
        f"So a difference counts as found only if its interval excludes 0 and its p value, of the sign-flip test and "
        f"corrected by Holm's method for the {len(main)} comparisons of the same two arms, is below {ALPHA:g}. "
        f"Other arms are other questions, each corrected by itself.",
    ]
    return [*said, *_resolution(main)]


def statements(differences: pd.DataFrame) -> list[str]:
    """Say what each contrast came to at each c, one statement for each.

    Args:
        differences: what `tables.differences` returns.
    """
    alike: dict[tuple[str, str, float], list[Row]] = {}
    for row in _rows(differences):
        alike.setdefault((row.arm, row.reference, row.c), []).append(row)
    return [
        f"At c = {c:g}, {ARMS[arm][0]} against {_reference(reference, c)} ({_n(rows)}): {_sentences(rows)}"
        for (arm, reference, c), rows in alike.items()
    ]


def _sentences(rows: Sequence[Row]) -> str:
    """Found, then what would be if it stood alone, then not found, then what cannot be said."""
    kinds = _kinds(rows)
    parts = []
    if found := kinds.get("yes"):
        parts.append(f"it {_listed(f'{row.verb} ({row.numbers})' for row in found)}.")
    if alone := kinds.get("alone"):
        parts.append(f"{ALONE}, it {_listed(f'{row.verb} ({row.numbers})' for row in alone)}.")
    if no := kinds.get("no"):
        parts.append(f"no difference was found in {_listed(f'{row.name} ({row.numbers})' for row in no)}.")
    if same := kinds.get("same"):
        parts.append(f"{_listed(row.name for row in same)} {'is' if len(same) == 1 else 'are'} the same in every pair.")
    if few := kinds.get("few"):
        parts.append(f"the mean difference is {_listed(f'{row.numbers} in {row.name}' for row in few)}.")
    if none := kinds.get("none"):
        parts.append(f"{_listed(row.name for row in none)} cannot be compared.")
    return " ".join([parts[0], *(part[0].upper() + part[1:] for part in parts[1:])])


def conclusion(differences: pd.DataFrame) -> list[str]:
    """Say what the cross mode does, and at what cost: each outcome over all c, then the sum of it.

    Args:
        differences: what `tables.differences` returns.
    """
    rows = _rows(differences)
    main = _of(rows, *MAIN)
    said = [_over_c(OUTCOMES[outcome], [row for row in main if row.outcome == outcome]) for outcome in OUTCOMES]
    return [*said, *_same_c(rows), *_in_sum(main)]


def _over_c(name: str, rows: Sequence[Row]) -> str:
    """One outcome of the main contrast at every c."""
    parts: dict[str, list[str]] = {}
    for kind, alike in _kinds(rows).items():
        every = len(alike) == len(rows) > 1
        for row in alike:
            verb = f"cross {row.verb} than {ARMS[MAIN[1]][0]}"
            same = [other for other in alike if other.verb == row.verb]
            part = {
                "yes": f"{verb}{' at every c' if len(same) == len(rows) > 1 else ''}: ",
                "alone": f"{ALONE}, {verb}: ",
                "no": f"no difference was found{' at any c' if every else ''}: ",
                "same": "the same in every pair ",
                "few": "the mean difference is ",
                "none": "cannot be compared ",
            }[kind]
            where = f"at c = {row.c:g}"
            parts.setdefault(part, []).append(where if kind in ("same", "none") else f"{row.numbers} {where}")
    return f"{name.capitalize()} ({_n(rows)}): {'; '.join(f'{part}{_listed(of)}' for part, of in parts.items())}."


def _same_c(rows: Sequence[Row]) -> list[str]:
    """How much of what cross does in original's place is the reuse term, and how much half a c."""
    capacity = [row for row in rows if row.outcome == "capacity" and row.n]
    own = {row.c: row for row in _of(capacity, *MAIN)}
    parts = [
        f"{row.numbers} at c = {row.c:g} (the reuse term's part: {own[row.c].numbers})"
        for row in _of(capacity, MAIN[0], "original")
        if row.c in own
    ]
    if not parts:
        return []
    changes = f"Put in original's place at the same c, cross changes capacity usage by {_listed(parts)}"
    return [f"{changes}; the rest is what half a c does."]


def _in_sum(rows: Sequence[Row]) -> list[str]:
    """The aim, gains and costs of the main contrast."""
    kinds = _kinds(rows)
    if not {"yes", "alone", "no", "same"} & kinds.keys():
        return [f"With fewer than {MIN_PAIRS} pairs there is nothing to conclude."]
    cs, found, alone = {row.c for row in rows}, kinds.get("yes", []), kinds.get("alone", [])
    uncertain = [f"{ALONE}, cross {_where(alone, cs)}: more seeds would tell."] if alone else []
    uncertain = [text[0].upper() + text[1:] for text in uncertain]
    if resolution := _resolution(rows):
        return [*resolution, *uncertain]
    reuse = [row for row in found if row.outcome == "reused"]
    gains = [row for row in found if row.sign * WORDS[row.outcome].better > 0]
    costs = [row for row in found if row.sign * WORDS[row.outcome].better < 0]
    judged = _listed((OUTCOMES[name] for name, words in WORDS.items() if words.better), "or")
    aim = _where(reuse, cs) if reuse else "was not found to change how much of what earlier tasks hold is reused"
    said = [f"In sum, beyond what half a c does, cross {aim}."]
    if not gains and not costs:
        said.append(f"Neither a gain nor a cost was found in {judged}.")
    else:
        said.append(f"The gain: it {_where(gains, cs)}." if gains else f"No gain was found in {judged}.")
        said.append(f"The cost: it {_where(costs, cs)}." if costs else f"No cost was found in {judged}.")
    return [*said, *uncertain]


def _resolution(rows: Sequence[Row]) -> list[str]:
    """Say so if no difference could be found among `rows`, whatever the runs came to; rows without interval aside."""
    rows = [row for row in rows if row.found != "few"]
    pairs = max((row.n for row in rows), default=0)
    smallest = len(rows) * smallest_p(pairs)
    if smallest < ALPHA:
        return []
    needed = pairs_needed(len(rows), ALPHA)
    enough = f"{needed} pairs are the fewest" if needed else "no number of pairs is enough for so many comparisons"
    return [
        f"With {pairs} pairs the smallest p value that the test can give is {smallest_p(pairs):.3g}, and "
        f"{min(1, smallest):.3g} after the correction: no difference can be found in that sense, whatever the runs "
        f"came to; {enough}."
    ]


def _kinds(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """By `found`, in its order; "same": an interval of length 0 around 0; "none": no pairs."""
    kinds: dict[str, list[Row]] = {"yes": [], "alone": [], "no": [], "same": [], "few": [], "none": []}
    for row in rows:
        kind = "same" if row.found == "no" and row.low == row.high else row.found
        kinds[kind if row.n else "none"].append(row)
    return {kind: alike for kind, alike in kinds.items() if alike}


def _of(rows: Iterable[Row], arm: str, reference: str) -> list[Row]:
    return [row for row in rows if (row.arm, row.reference) == (arm, reference)]


def _where(rows: Sequence[Row], all_cs: set[float]) -> str:
    """ "forgets less at every c and leaves the network fuller at c = 0.25"."""
    verbs: dict[str, list[float]] = {}
    for row in rows:
        verbs.setdefault(row.verb, []).append(row.c)
    return _listed(f"{verb} {_cs(cs, all_cs)}" for verb, cs in verbs.items())


def _cs(cs: Sequence[float], all_cs: set[float]) -> str:
    return "at every c" if len(all_cs) > 1 and set(cs) == all_cs else f"at c = {_listed(f'{c:g}' for c in cs)}"


def _rows(differences: pd.DataFrame) -> list[Row]:
    return [Row(*values) for values in differences[list(Row._fields)].itertuples(index=False)]


def _reference(reference: str, c: float) -> str:
    return f"original at c/2 = {c / 2:g}" if reference == "half" else ARMS[reference][0]


def _n(rows: Sequence[Row]) -> str:
    fewest, most = min(row.n for row in rows), max(row.n for row in rows)
    return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"


def _number(value: float, digits: int, sign: str = "") -> str:
    text = f"{value:{sign}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def _listed(items: Iterable[str], word: str = "and") -> str:
    *first, last = items
    return f"{', '.join(first)} {word} {last}" if first else last


def verdict_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row of verdicts for each outcome of the main contrast at `main_c`: the paper has nothing beside it.

    Args:
        table: what `pairs` returns.
    """
    c = main_c(table["c"].unique().tolist())
    chosen = table[(table["arm"] == MAIN[0]) & (table["reference"] == MAIN[1]) & (table["c"] == c)]
    rows = []
    for outcome, same in chosen.groupby("outcome", sort=False):
        values = same["difference"].dropna().tolist()
        if len(values):
            claim = f"cross minus original at c/2, c = {c:g}: {OUTCOMES[str(outcome)]}"
            none = "the paper has no cross mode"
            rows.append(
                verdicts.compare(
                    claim,
                    values,
                    math.nan,
                    rounding=0,
                    unit="points",
                    interval=bca_interval(values),
                    not_comparable=none,
                )
            )
    return verdicts.table(rows)
