"""`hatlab verify`: rerun a committed claim here, and say whether it comes out as committed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hatlab.config import ConfigError, nearest
from hatlab.support.paths import checkout, results_root
from hatlab.support.progress import format_seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_markdown", "claims", "compared", "listed", "matching", "verify"]

SOON: Final = 600.0  # seconds of training that are not asked about
SAME, WITHIN, OUTSIDE = "the same", "within the committed interval", "outside of it"
COLUMNS: Final = ("claim", "committed [95%]", "here [95%]", "verdict: committed, here", "difference")


def claims() -> pd.DataFrame:
    """Return all committed verdicts: the columns of `verdicts.csv`, and `profile`.

    Raises:
        ConfigError: hatlab was imported from a place without committed results.
    """
    import pandas as pd

    from hatlab.analysis import verdicts

    paths = sorted((checkout() / "results" / "reference").glob("*/verdicts.csv"))
    return pd.concat([verdicts.read(path).assign(profile=path.parent.name) for path in paths], ignore_index=True)


def matching(table: pd.DataFrame, text: str) -> pd.DataFrame:
    """Return the rows of PROFILE/FIGURE, or those whose claim has `text` in it, of one figure.

    Raises:
        ConfigError: there is none, or several figures have one; names them.
    """
    places = table["profile"] + "/" + table["figure"]
    rows = table[places == text]
    if rows.empty:
        rows = table[table["claim"].str.contains(text, case=False, regex=False)]
    found = list(dict.fromkeys(places[rows.index]))
    if not found:
        known = list(dict.fromkeys(places))
        raise ConfigError(
            f"no committed claim has '{text}' in it, and no figure is called so{nearest(text, known)} (known: "
            f"{', '.join(known)})"
        )
    if len(found) > 1:
        raise ConfigError(f"'{text}' is in claims of {', '.join(found)}: name one of these")
    return rows


def listed(table: pd.DataFrame) -> str:
    """Return a line for each figure: its place, number of claims, and what its training took."""
    lines = []
    for (profile, figure), rows in table.groupby(["profile", "figure"], sort=False):
        count = f"{len(rows)} claim{'s' * (len(rows) > 1)}"
        lines.append(
            f"{f'{profile}/{figure}':34}  {count:>9}  {format_seconds(rows['seconds'].iloc[0]):>12} of training"
        )
    return "\n".join(lines)


def verify(text: str, results: Path | str | None = None, run: bool = False) -> str:
    """Rerun the figure that a claim is of, and return a Markdown table of the committed values and those found here.

    Args:
        text: see `matching`.
        results: results folder; None: `verify` in the usual one, so that nothing made before is loaded. A rerun that
            was stopped goes on.
        run: also what took longer than ten minutes of training; else the cost is returned.

    Raises:
        ConfigError: as `matching` and `reproduce`.
        NotebookFailed: the rerun failed.
    """
    from hatlab.analysis import verdicts
    from hatlab.batches.reproduce import reproduce

    rows = matching(claims(), text)
    profile, figure, seconds = rows[["profile", "figure", "seconds"]].iloc[0]
    if seconds > SOON and not run:
        return (
            f"{profile}/{figure}: its runs took {format_seconds(seconds)} of training where the committed values were "
            f"made. To rerun it: hatlab verify --run {profile}/{figure} (it can be stopped and goes on)"
        )
    root = Path(results) if results is not None else results_root() / "verify"
    (folder,) = reproduce(profile, only=[figure], results=root)
    return as_markdown(compared(rows, verdicts.read(folder / "verdicts.csv")))


def compared(committed: pd.DataFrame, here: pd.DataFrame) -> pd.DataFrame:
    """Return `committed` with `ours_here`, `low_here`, `high_here`, `verdict_here` and `difference`: "the same" to nine
    digits, else whether the mean found here lies within the committed interval; "not found" where a claim is missing.
    """
    names = ["ours", "low", "high", "verdict"]
    both = committed.merge(here[["claim", *names]], on="claim", how="left", suffixes=("", "_here"))
    return both.assign(difference=[_difference(row) for row in both.to_dict("records")])


def _difference(row: dict[Any, Any]) -> str:
    ours, here = float(row["ours"]), float(row["ours_here"])
    if math.isnan(here):
        return "not found"
    if math.isclose(ours, here, rel_tol=1e-9, abs_tol=1e-12):
        return SAME
    if math.isnan(row["low"]):
        return "another value (one seed has no interval)"
    return WITHIN if row["low"] <= here <= row["high"] else OUTSIDE


def as_markdown(table: pd.DataFrame) -> str:
    """Return what `compared` returns as a Markdown table, to be pasted into a review."""
    from hatlab.analysis.verdicts import shown

    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for row in table.to_dict("records"):
        here = {name: row[f"{name}_here"] for name in ("ours", "low", "high")} | {"unit": row["unit"]}
        found = "" if math.isnan(row["ours_here"]) else shown(here)
        verdict = (
            row["verdict"] if row["verdict"] == row["verdict_here"] else f"{row['verdict']}, {row['verdict_here']}"
        )
        lines.append((row["claim"].replace("|", "\\|"), shown(row), found, verdict, row["difference"]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
