"""Verdicts: what a notebook found, compared with what the paper says.

Each notebook leaves a table `verdicts`, one row a claim; `hatlab reproduce` prints those of all its figures. There are
four kinds, which are counted apart:

- number: the paper prints a value, and its data, network and protocol were run, up to the deviations that the row
  lists. It agrees if the whole interval of the difference lies within a margin that is fixed beforehand, differs if
  the interval excludes 0 and the difference is beyond the margin, and is undecided otherwise.
- statement: the paper says in words what could have turned out false. It holds, fails or is undecided.
- check: true by construction, or derived here. It passes or fails, and is no agreement with the paper.
- new: the paper says nothing of it, or has it of other data or another network. There is the estimate.

Fewer than `FEWEST` seeds decide nothing of what the paper says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from hatlab.analysis.metrics import Interval, mean_interval

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "AGREES", "DIFFERS", "ESTIMATED", "FAILS", "HOLDS", "PASSES", "UNDECIDED", "Printed", "Verdict", "as_markdown",
    "as_rich", "check", "derived", "most_runs", "new", "number", "read", "shown", "statement", "summary", "table",
]  # fmt: skip

AGREES: Final = "agrees"
DIFFERS: Final = "differs"
HOLDS: Final = "holds"
FAILS: Final = "fails"
PASSES: Final = "passes"
ESTIMATED: Final = "estimated"
UNDECIDED: Final = "undecided"
# kind -> what can be said of it
KINDS: Final = {
    "number": (AGREES, DIFFERS, UNDECIDED),
    "statement": (HOLDS, FAILS, UNDECIDED),
    "check": (PASSES, FAILS),
    "new": (ESTIMATED,),
}
FEWEST: Final = 3
MOST: Final = 1000  # seeds that anybody would train to decide a number
LAST_DIGITS: Final = 2  # of the last digits that the paper prints, make the margin
NARROW: Final = 100  # characters of a table, below which an interval gets a line of its own
COLUMNS: Final = ("figure", "kind", "claim", "paper", "ours [95% interval]", "n", "verdict", "why")


class Printed(NamedTuple):
    """A value that the paper prints.

    Attributes:
        mean: the value.
        digit: one of its last digit, 0.1 for 99.0.
        sd, n: standard deviation over so many runs, where the paper gives one.
    """

    mean: float
    digit: float
    sd: float = math.nan
    n: int = 0

    @property
    def margin(self) -> float:
        """The difference that does not count: two of the last digits, for one can be rounding on either side."""
        return LAST_DIGITS * self.digit


class Verdict(NamedTuple):
    """One claim and what became of it here.

    Attributes:
        claim: in words, with where the paper says it.
        kind: "number", "statement", "check" or "new".
        unit: of the numbers.
        paper: the paper's value, of a number only; NaN elsewhere.
        ours, low, high: mean over runs and its 95% interval (NaN where there is none).
        n: seeds, or pairs of runs of one seed.
        verdict: one of those of its kind, see the module.
        why: what decided it.
        deviations: in what the runs differ from the paper's.
    """

    claim: str
    kind: str
    unit: str
    paper: float
    ours: float
    low: float
    high: float
    n: int
    verdict: str
    why: str
    deviations: str = ""


def number(
    claim: str, values: Sequence[float], printed: Printed, *, unit: str = "%", deviations: Sequence[str] = ()
) -> Verdict:
    """Compare the mean of `values`, one per seed, with a number that the paper prints.

    Where the paper gives a standard deviation, the interval of the difference is Welch's; elsewhere Student's, widened
    by half of the paper's last digit.

    Raises:
        ValueError: there are no values, or one is missing (NaN).
    """
    ours, n = _mean(claim, values), len(values)
    sd = float(np.std(values, ddof=1)) if n > 1 else math.nan
    away, reach = float(ours.mean) - printed.mean, _reach(sd, n, printed)
    within = f"{_with_unit(f'{printed.margin:g}', unit)}, two of the paper's last digits"
    found = f"the difference is {_with_unit(f'{away:+.3g}', unit)}"
    if n < FEWEST:
        verdict, why = UNDECIDED, f"{found}; {FEWEST} seeds are needed at least"
    elif abs(away) + reach <= printed.margin:
        verdict, why = AGREES, f"{found}, its interval within {within}"
    elif abs(away) > reach and abs(away) > printed.margin:
        verdict, why = DIFFERS, f"{found}, its interval excludes 0, and it is beyond {within}"
    else:
        needed = seeds_needed(away, sd, printed)
        more = f"about {needed} seeds would decide" if needed else f"{MOST} seeds would not decide"
        verdict, why = UNDECIDED, f"{found} \N{PLUS-MINUS SIGN} {reach:.2g}; the margin is {within}; {more}"
    return Verdict(claim, "number", unit, printed.mean, *_floats(ours), n, verdict, why, "; ".join(deviations))


def _reach(sd: float, n: int, printed: Printed) -> float:
    """Return half of the 95% interval of the difference between the mean of n runs and a printed value."""
    if n < 2:
        return math.inf
    own, theirs = sd**2 / n, printed.sd**2 / printed.n if printed.n else 0.0
    if own + theirs == 0:
        return 0.0 if printed.n else printed.digit / 2
    # Welch and Satterthwaite
    freedom = (own + theirs) ** 2 / (own**2 / (n - 1) + (theirs**2 / (printed.n - 1) if printed.n else 0.0))
    widened = 0.0 if printed.n else printed.digit / 2
    return float(special.stdtrit(freedom, 0.975)) * math.sqrt(own + theirs) + widened


def seeds_needed(away: float, sd: float, printed: Printed) -> int | None:
    """Return with how many seeds a mean this far `away`, of runs with this `sd`, would be decided; None: above `MOST`.

    The real difference is taken to be the one that was found.
    """
    for n in range(FEWEST, MOST + 1):
        reach = _reach(sd, n, printed)
        if abs(away) + reach <= printed.margin or abs(away) > max(reach, printed.margin):
            return n
    return None


def statement(
    claim: str, values: Sequence[float], least: float, *, unit: str = "%", deviations: Sequence[str] = ()
) -> Verdict:
    """Say whether the mean of `values`, one per seed, is `least` or more, as the paper says in words.

    It holds if its whole interval is, fails if none of it is.

    Raises:
        ValueError: there are no values, or one is missing (NaN).
    """
    ours, n = _mean(claim, values), len(values)
    verdict, why = UNDECIDED, f"the interval has {_with_unit(f'{least:g}', unit)} in it"
    if n < FEWEST:
        why = f"{FEWEST} seeds are needed at least"
    elif ours.low >= least:
        verdict, why = HOLDS, f"the whole interval is {_with_unit(f'{least:g}', unit)} or more"
    elif ours.high < least:
        verdict, why = FAILS, f"the whole interval is less than {_with_unit(f'{least:g}', unit)}"
    return Verdict(claim, "statement", unit, math.nan, *_floats(ours), n, verdict, why, "; ".join(deviations))


def most_runs(claim: str, of_seeds: Sequence[bool], *, deviations: Sequence[str] = ()) -> Verdict:
    """Say whether what the paper says in words is so more often than not; `of_seeds`: one per seed.

    The interval of the share is exact (Clopper and Pearson, 1934). The statement holds if it lies above one half, for
    which six seeds are the fewest, and fails if it lies below.

    Raises:
        ValueError: there are no seeds.
    """
    n, seen = _count(claim, of_seeds), sum(map(bool, of_seeds))
    low = float(special.betaincinv(seen, n - seen + 1, 0.025)) if seen else 0.0
    high = float(special.betaincinv(seen + 1, n - seen, 0.975)) if seen < n else 1.0
    verdict = HOLDS if low > 0.5 else FAILS if high < 0.5 else UNDECIDED
    why = f"with {seen} of {n} seeds" + ("; the interval has one half in it" if verdict == UNDECIDED else "")
    shares = (100 * seen / n, 100 * low, 100 * high)
    return Verdict(claim, "statement", "% of seeds", math.nan, *shares, n, verdict, why, "; ".join(deviations))


def check(claim: str, of_runs: Sequence[bool]) -> Verdict:
    """Say whether what is true by construction is so in every run.

    Raises:
        ValueError: there are no runs.
    """
    n, seen = _count(claim, of_runs), sum(map(bool, of_runs))
    verdict = PASSES if seen == n else FAILS
    return Verdict(
        claim, "check", "% of runs", math.nan, 100 * seen / n, math.nan, math.nan, n, verdict, f"in {seen} of {n} runs"
    )


def derived(claim: str, values: Sequence[float], expected: float, *, unit: str = "%") -> Verdict:
    """Say whether the mean of `values`, one per seed, is as derived: `expected` lies in its 99.9% interval.

    Raises:
        ValueError: there are no values, or one is missing (NaN).
    """
    ours, wide = _mean(claim, values), mean_interval(values, 0.999)
    verdict = FAILS if abs(float(wide.mean) - expected) > float(wide.high - wide.mean) else PASSES
    why = f"{_with_unit(f'{expected:g}', unit)} is derived"
    return Verdict(claim, "check", unit, math.nan, *_floats(ours), len(values), verdict, why)


def new(claim: str, values: Sequence[float], why: str, *, unit: str = "%") -> Verdict:
    """Return the mean of `values`, one per seed, where there is nothing of the paper's to compare it with, and `why`.

    Raises:
        ValueError: there are no values, or one is missing (NaN).
    """
    return Verdict(claim, "new", unit, math.nan, *_floats(_mean(claim, values)), len(values), ESTIMATED, why)


def _mean(claim: str, values: Sequence[float]) -> Interval:
    _count(claim, values)
    if missing := [k for k, value in enumerate(values) if math.isnan(value)]:
        raise ValueError(f"'{claim}': value {missing[0] + 1} of {len(values)} is missing (NaN)")
    return mean_interval(values)


def _floats(interval: Interval) -> tuple[float, float, float]:
    return float(interval.mean), float(interval.low), float(interval.high)


def _count(claim: str, values: Sequence[Any]) -> int:
    if not len(values):
        raise ValueError(f"'{claim}' was to be judged by no runs: at least one is needed")
    return len(values)


def table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return one row per verdict, with the fields of `Verdict` as columns."""
    return pd.DataFrame(verdicts, columns=list(Verdict._fields))


def read(path: Path) -> pd.DataFrame:
    """Return a table of verdicts from a CSV file; pyarrow reads each number as the nearest, in every pandas."""
    table = pd.read_csv(path, engine="pyarrow")
    return table.astype({"unit": object, "deviations": object}).fillna({"unit": "", "deviations": ""})


def summary(table: pd.DataFrame) -> str:
    """Return "number: 1 agrees, 0 differs, 2 undecided; check: 4 passes, 0 fails; new: 9 estimated"."""
    parts = []
    for kind, words in KINDS.items():
        found = table.loc[table["kind"] == kind, "verdict"]
        if len(found):
            parts.append(f"{kind}: " + ", ".join(f"{int((found == word).sum())} {word}" for word in words))
    return "; ".join(parts)


def as_markdown(table: pd.DataFrame) -> str:
    """Return the verdicts of several figures as a Markdown table.

    Args:
        table: the columns of `Verdict`, and `figure`.
    """
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(row) for row in table.to_dict("records"))]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def as_rich(table: pd.DataFrame, width: int) -> Table:
    """Return the same as a table for a terminal, each figure's verdicts below its name; what is against the paper or
    a check is in capitals.

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
    looks = dict.fromkeys((AGREES, HOLDS, PASSES), "green") | {DIFFERS: "bold red", FAILS: "bold red"}
    for name, of_figure in table.groupby("figure", sort=False):
        shown.add_row(Text(str(name), "bold"))
        for row in of_figure.to_dict("records"):
            _, kind, claim, paper, ours, n, verdict, why = _cells(row)
            said = Text(verdict.upper() if verdict in (DIFFERS, FAILS) else verdict, looks.get(verdict, "dim"))
            if width < NARROW:
                ours = ours.replace(" [", "\n[")
            shown.add_row(Padding(Text(f"{claim} ({kind})"), (0, 0, 0, 2)), *map(Text, (paper, ours, n)), said, why)
        shown.add_section()
    return shown


def _cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return a verdict in words, one for each of `COLUMNS`."""
    paper = "" if math.isnan(row["paper"]) else _with_unit(f"{row['paper']:.6g}", row["unit"])
    why = f"{row['why']}; deviations: {row['deviations']}" if row["deviations"] else row["why"]
    return row["figure"], row["kind"], row["claim"], paper, shown(row), str(row["n"]), row["verdict"], why


def shown(row: Mapping[Any, Any]) -> str:
    """Return a row's mean and interval with as many digits as the interval's width needs: "24.1% [22.6, 25.5]"."""
    mean, low, high, unit = row["ours"], row["low"], row["high"], row["unit"]
    if math.isnan(low):
        return _with_unit(f"{mean:.4g}", unit)
    reach = (high - low) / 2
    digits = min(max(1 - math.floor(math.log10(reach)), 0), 6) if 0 < reach < math.inf else 2
    # adding 0 makes a rounded -0 a plain one
    mean, low, high = (f"{round(value, digits) + 0.0:.{digits}f}" for value in (mean, low, high))
    return f"{_with_unit(mean, unit)} [{low}, {high}]"


def _with_unit(number: str, unit: str) -> str:
    return f"{number}%" if unit.startswith("%") else f"{number} {unit}".strip()
