"""Verdicts: what a notebook found, compared with what the paper says.

Each notebook leaves a table `verdicts`, one row a claim; `hatlab reproduce` prints those of all its figures. One rule
for all: a number agrees when the paper's value, give or take half of its last digit, lies in our 95% interval; a
property agrees when every run has it. What was trained on something else than the paper's is "not comparable",
whatever the numbers are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pandas as pd

from hatlab.analysis.metrics import Interval, mean_interval

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "AGREES",
    "DIFFERS",
    "NOT_COMPARABLE",
    "Verdict",
    "as_markdown",
    "as_rich",
    "check_property",
    "compare",
    "summary",
    "table",
]  # fmt: skip

AGREES: Final = "agrees"
DIFFERS: Final = "differs"
NOT_COMPARABLE: Final = "not comparable"
NARROW: Final = 100  # characters of a table, below which an interval gets a line of its own
COLUMNS: Final = ("figure", "claim", "paper", "ours [95% interval]", "n", "verdict", "why")


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
    verdict, why = _verdict(float(mean), float(low), float(high), paper, rounding, unit)
    if not_comparable:
        verdict, why = NOT_COMPARABLE, not_comparable
    return Verdict(claim, unit, paper, float(mean), float(low), float(high), len(values), verdict, why)


def _verdict(mean: float, low: float, high: float, paper: float, rounding: float, unit: str) -> tuple[str, str]:
    if math.isnan(paper):
        return NOT_COMPARABLE, "the paper gives no number"
    if math.isnan(low):
        away = _with_unit(f"{mean - paper:+.3g}", unit)
        return NOT_COMPARABLE, f"one run has no interval; it is {away} from the paper's"
    if low - rounding <= paper <= high + rounding:
        return AGREES, "the paper's value is within the interval"
    return DIFFERS, f"ours is {'higher' if mean > paper else 'lower'} by {_with_unit(f'{abs(mean - paper):.2g}', unit)}"


def check_property(claim: str, of_runs: Sequence[bool], *, not_comparable: str = "") -> Verdict:
    """Say whether a property that the paper describes is seen in every run.

    Args:
        claim: the property.
        of_runs: one per run.
        not_comparable: as in `compare`.

    Raises:
        ValueError: there are no runs.
    """
    if not len(of_runs):
        raise ValueError(f"'{claim}' was to be checked on no runs: at least one is needed")
    n, seen = len(of_runs), sum(map(bool, of_runs))
    verdict = AGREES if seen == n else DIFFERS
    why = f"in {seen} of {n} runs"
    if not_comparable:
        verdict, why = NOT_COMPARABLE, f"{why}; {not_comparable}"
    return Verdict(claim, "% of runs", 100.0, 100 * seen / n, math.nan, math.nan, n, verdict, why)


def table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return one row per verdict, with the fields of `Verdict` as columns."""
    return pd.DataFrame(verdicts, columns=list(Verdict._fields))


def summary(table: pd.DataFrame) -> str:
    """Return "9 agree, 1 differs, 12 not comparable"."""
    n = Counter(table["verdict"])
    agree, differ = "agrees" if n[AGREES] == 1 else "agree", "differs" if n[DIFFERS] == 1 else "differ"
    return f"{n[AGREES]} {agree}, {n[DIFFERS]} {differ}, {n[NOT_COMPARABLE]} not comparable"


def as_markdown(table: pd.DataFrame) -> str:
    """Return the verdicts of several figures as a Markdown table.

    Args:
        table: the columns of `Verdict`, and `figure`.
    """
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(row) for row in table.to_dict("records"))]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def as_rich(table: pd.DataFrame, width: int) -> Table:
    """Return the same as a table for a terminal, each figure's verdicts below its name; what differs is in capitals.

    Args:
        table: as for `as_markdown`.
        width: in characters; from 80 on all words are whole.
    """
    from rich.box import HORIZONTALS
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=HORIZONTALS, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", width=width)
    shown.add_column("claim", ratio=3, overflow="fold")
    shown.add_column("paper", max_width=12)
    shown.add_column("ours [95%]", max_width=26 if width >= NARROW else 18)
    shown.add_column("n", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    shown.add_column("why", ratio=2, overflow="fold")
    looks = {AGREES: "green", DIFFERS: "bold red", NOT_COMPARABLE: "dim"}
    for name, of_figure in table.groupby("figure", sort=False):
        shown.add_row(Text(str(name), "bold"))
        for row in of_figure.to_dict("records"):
            _, claim, paper, ours, n, verdict, why = _cells(row)
            said = Text(verdict.upper() if verdict == DIFFERS else verdict, looks.get(verdict, ""))
            if width < NARROW:
                ours = ours.replace(" [", "\n[")
            shown.add_row(Padding(Text(claim), (0, 0, 0, 2)), *map(Text, (paper, ours, n)), said, Text(why))
        shown.add_section()
    return shown


def _cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return a verdict in words, one for each of `COLUMNS`."""
    mean, low, high, unit = row["ours"], row["low"], row["high"], row["unit"]
    paper = "" if math.isnan(row["paper"]) else _with_unit(f"{row['paper']:.6g}", unit)
    if math.isnan(low):
        ours = _with_unit(f"{mean:.4g}", unit)
    else:
        reach = (high - low) / 2
        digits = min(max(1 - math.floor(math.log10(reach)), 0), 6) if 0 < reach < math.inf else 2
        # adding 0 makes a rounded -0 a plain one
        mean, low, high = (f"{round(value, digits) + 0.0:.{digits}f}" for value in (mean, low, high))
        ours = f"{_with_unit(mean, unit)} [{low}, {high}]"
    return row["figure"], row["claim"], paper, ours, str(row["n"]), row["verdict"], row["why"]


def _with_unit(number: str, unit: str) -> str:
    return f"{number}%" if unit.startswith("%") else f"{number} {unit}".strip()
