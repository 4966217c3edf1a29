"""Two batches, or two folders of results, side by side: what differs in outcomes, verdicts, settings, versions, data.

Runs are paired by their parameters, or figures by their names. A parameter that has one value in all of one side and
another in all of the other is what is compared, and does not stand in the way of pairs. An outcome is the mean of a
table's numeric column over the table's last rows: those of the last task (`after_task`, or `task`), epoch and step, of
the whole network where layers are listed. Intervals, p values and Holm's correction are those of
`hatlab.analysis.comparisons`, over all outcomes that differ in some pair.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from hatlab.analysis import comparisons
from hatlab.batches import plans
from hatlab.batches.ledger import Entry
from hatlab.config import ConfigError, RunConfig
from hatlab.support.artifacts import MANIFEST
from hatlab.support.tables import REFUSALS

__all__ = ["COUNTING", "Compared", "Side", "compare", "outcomes", "side"]

LAST: Final = ("after_task", "task", "epoch", "step")
COUNTING: Final = {*LAST, *RunConfig.model_fields}  # columns that say what a row is about
VERDICTS: Final = "verdicts"
NONE: Final = "none"


@dataclass(frozen=True)
class Item:
    """A run, or a figure: what pairs it, its tables by name, and what its manifest says."""

    values: dict[str, str]
    tables: dict[str, Path]
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        name: as it was asked for.
        items: runs that are done, or figures.
        missing: runs that are not done.
        verdicts: the table of a profile's folder; empty where there is none.
    """

    name: str
    items: list[Item]
    missing: int = 0
    verdicts: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True)
class Compared:
    """What two sides have in common, and what not.

    Attributes:
        names: of the sides.
        pairs: how many runs or figures are on both sides.
        alone: how many are on the first alone, and on the second alone.
        outcomes: a row for each outcome that differs in some pair: `table`, `outcome`, `n`, the means `first` and
            `second`, `mean` (of second minus first), `low`, `high`, `p`, `p_holm`, `says`.
        equal: outcomes that are equal in every pair, as table.column.
        facts: `what`, and its values on each side, where they differ: parameters, versions, commits, data, notebooks.
        verdicts: `figure`, `claim`, and the verdict on each side, where they differ.
    """

    names: tuple[str, str]
    pairs: int
    alone: tuple[int, int]
    outcomes: pd.DataFrame
    equal: list[str]
    facts: pd.DataFrame
    verdicts: pd.DataFrame

    @property
    def same(self) -> bool:
        """Whether all is paired, every outcome equal in every pair, and no verdict another."""
        return bool(self.pairs) and self.outcomes.empty and self.verdicts.empty and self.alone == (0, 0)

    @property
    def same_in_common(self) -> bool:
        """The same, of what both sides have."""
        verdicts = self.verdicts[(self.verdicts["first"] != NONE) & (self.verdicts["second"] != NONE)]
        return bool(self.pairs) and self.outcomes.empty and verdicts.empty

    def __str__(self) -> str:
        lines = [f"{self.names[0]} and {self.names[1]}: {self.pairs} pairs"]
        if any(self.alone):
            lines[0] += f"; {self.alone[0]} only in the first, {self.alone[1]} only in the second"
        lines.append(f"outcomes that are equal in every pair: {len(self.equal)}; that differ: {len(self.outcomes)}")
        for row in self.outcomes.itertuples():
            means = f"{row.first:.6g} and {row.second:.6g}"
            lines.append(
                f"  {row.table}.{row.outcome}: {means}; {comparisons.numbers(row)} (n = {row.n}): second {row.says}"
            )
        for row in self.verdicts.itertuples():
            lines.append(f"  verdict changed, {row.figure}: {row.claim}: {row.first} -> {row.second}")
        lines += [f"  {row.what}: {row.first} | {row.second}" for row in self.facts.itertuples()]
        return "\n".join(lines)


def side(name: str, results: Path | str | None = None) -> Side:
    """Return a side of a comparison: a batch's name or folder, a results folder (its last batch), or a folder of
    figures such as results/quick.

    Raises:
        ConfigError: it is none of these.
    """
    path = Path(name)
    if name in plans.names(results):
        return _batch(name, plans.find(results, name))
    if (path / "batch.json").is_file():
        return _batch(name, plans.find(path.parent.parent, path.name))
    if (path / "batches").is_dir():
        return _batch(name, plans.find(path))
    figures = sorted(path.glob(f"*/{MANIFEST}"))
    if not figures:
        known = ", ".join(sorted(plans.names(results))) or "none"
        raise ConfigError(
            f"{name!r} is no batch (known: {known}), no folder of one, and has no figures, as results/quick has"
        )
    items = [_item({"figure": file.parent.name}, file.parent, _json(file)) for file in figures]
    table = path / f"{VERDICTS}.csv"
    return Side(name, items, verdicts=pd.read_csv(table) if table.is_file() else pd.DataFrame())


def _batch(name: str, batch: plans.Batch) -> Side:
    items = []
    for run in batch.runs:
        entry: Entry = batch.entry(run)
        if entry.status().state == "done":
            values = (
                {"figure": batch.figures[run.run_id]} if batch.figures else {"notebook": run.notebook, **run.values}
            )
            items.append(
                _item(values, entry.folder, _json(entry.manifest) | {"library": run.hatlab, "inputs": run.inputs})
            )
    return Side(name, items, len(batch.runs) - len(items))


def _item(values: Mapping[str, Any], folder: Path, manifest: dict[str, Any]) -> Item:
    names = [file.removesuffix(".parquet") for file in manifest.get("artifacts", {}) if file.endswith(".parquet")]
    texts = {name: json.dumps(value, sort_keys=True) for name, value in values.items()}
    return Item(texts, {name: folder / f"{name}.parquet" for name in names if name != VERDICTS}, manifest)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return content if isinstance(content, dict) else {}


def compare(first: Side, second: Side) -> Compared:
    """Compare two sides.

    Raises:
        ConfigError: one has nothing that is done, or has two runs that the parameters do not tell apart.
    """
    for one in (first, second):
        if not one.items:
            raise ConfigError(f"{one.name}: nothing is done, so there is nothing to compare")
    apart = _apart(first, second)
    ours, theirs = (_keyed(one, apart) for one in (first, second))
    both = [key for key in ours if key in theirs]
    rows = []
    for key in both:
        values = [outcomes(item[key].tables, item[key].values) for item in (ours, theirs)]
        rows += [(key, *name, values[0][name], values[1][name]) for name in values[0] if name in values[1]]
    table = pd.DataFrame(rows, columns=["key", "table", "outcome", "first", "second"])
    changed, equal = _differences(table)
    return Compared(
        (first.name, second.name), len(both), (len(ours) - len(both), len(theirs) - len(both)), changed, equal,
        _facts(first, second, apart), _verdicts(first, second),
    )  # fmt: skip


def _apart(first: Side, second: Side) -> dict[str, tuple[str, str]]:
    """Parameters that have one value on all of the first side, and another on all of the second."""
    found = {}
    for name in first.items[0].values:
        seen = [{item.values.get(name, "") for item in one.items} for one in (first, second)]
        if len(seen[0]) == len(seen[1]) == 1 and seen[0] != seen[1] and name != "figure":
            found[name] = (seen[0].pop(), seen[1].pop())
    return found


def _keyed(one: Side, apart: Mapping[str, Any]) -> dict[str, Item]:
    found: dict[str, Item] = {}
    for item in one.items:
        key = json.dumps({name: value for name, value in item.values.items() if name not in apart}, sort_keys=True)
        if key in found:
            raise ConfigError(f"{one.name}: two runs have the same parameters: {key}")
        found[key] = item
    return found


def outcomes(tables: Mapping[str, Path], parameters: Iterable[str] = ()) -> dict[tuple[str, str], float]:
    """Return (table, column) -> the mean over the table's last rows; columns of parameters are no outcomes."""
    no_outcomes = COUNTING | set(parameters)
    found = {}
    for name, path in tables.items():
        try:
            table = pd.read_parquet(path)
        except (OSError, *REFUSALS):
            continue  # said by `hatlab status`, which compares checksums
        for column in table:
            if column not in no_outcomes and (is_numeric_dtype(table[column]) or is_bool_dtype(table[column])):
                found[name, str(column)] = float(_last(table)[column].astype(float).mean())
    return found


def _last(table: pd.DataFrame) -> pd.DataFrame:
    if "layer" in table and (table["layer"] == "total").any():
        table = table[table["layer"] == "total"]
    for name in LAST:
        if name in table and is_numeric_dtype(table[name]) and not (name == "task" and "after_task" in table):
            table = table[table[name] == table[name].max()]
    return table


def _differences(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    both = table["first"].isna() & table["second"].isna()
    table = table.assign(difference=(table["second"] - table["first"]).mask(both, 0.0))
    names = ["table", "outcome"]
    differs = table.groupby(names, sort=False)["difference"].agg(lambda d: bool((d != 0).any()))
    equal = [".".join(name) for name, other in differs.items() if not other]  # type: ignore[arg-type]
    changed = [name for name, other in differs.items() if other]
    chosen = table[[pair in changed for pair in zip(table["table"], table["outcome"], strict=True)]]
    if chosen.empty:
        return pd.DataFrame(
            columns=[*names, "n", "first", "second", "mean", "low", "high", "p", "p_holm", "says"]
        ), equal
    found = comparisons.differences(chosen.assign(all="all"), [*names, "all"], ["all"])
    means = chosen.groupby(names, sort=False)[["first", "second"]].mean().reset_index()
    merged = found.drop(columns="all").merge(means, on=names)
    return merged.assign(says=[comparisons.word(row) for row in merged.itertuples()]), equal


def _facts(first: Side, second: Side, apart: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    sides = [_stated(one.items) for one in (first, second)]
    rows: list[tuple[str, ...]] = [(f"parameter {name}", *values) for name, values in apart.items()]
    for what in dict.fromkeys([*sides[0], *sides[1]]):
        values = [", ".join(sorted(stated.get(what, {"none"}))) for stated in sides]
        if values[0] != values[1]:
            rows.append((what, *values))
    if first.missing or second.missing:
        rows.append(("runs that are not done", str(first.missing), str(second.missing)))
    return pd.DataFrame(rows, columns=["what", "first", "second"])


def _stated(items: Iterable[Item]) -> dict[str, set[str]]:
    """Return what the manifests say of versions, code, notebooks and data."""
    found: dict[str, set[str]] = {}

    def note(what: str, value: Any) -> None:
        found.setdefault(what, set()).add(str(value))

    for item in items:
        manifest = item.manifest
        for name, version in manifest.get("versions", {}).items():
            note(f"version of {name}", version)
        note("code of hatlab", manifest.get("library") or manifest.get("hatlab", ""))
        note("commit", str(manifest.get("git", {}).get("commit"))[:12])
        notebook = manifest.get("notebook", {})
        note(f"notebook {notebook.get('name', '')}", str(notebook.get("checksum", ""))[:19])
        for kind, label in (("data", "data"), ("inputs", "input")):
            for name, value in manifest.get(kind, {}).items():
                note(f"{label} {name}", str(value)[:19])
    return found


def _verdicts(first: Side, second: Side) -> pd.DataFrame:
    columns = ["figure", "claim", "first", "second"]
    if first.verdicts.empty or second.verdicts.empty:
        return pd.DataFrame(columns=columns)
    both = first.verdicts.merge(second.verdicts, on=["figure", "claim"], how="outer", suffixes=("_first", "_second"))
    both = both.rename(columns={"verdict_first": "first", "verdict_second": "second"})[columns].fillna(NONE)
    return both[both["first"] != both["second"]].reset_index(drop=True)
