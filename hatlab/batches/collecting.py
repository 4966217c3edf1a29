"""The tables of a batch, gathered into one tidy table for each name.

A notebook leaves tables as Parquet (`artifacts.save`). Those of one name, of all runs that are done, are put one below
the other, with the run and the parameters that vary in front. What is wrong with one table does not lose the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype

from hatlab.batches import cost
from hatlab.batches.ledger import NotebookRun, Status
from hatlab.batches.plans import Batch
from hatlab.support.files import atomic, write_json
from hatlab.support.provenance import checksum
from hatlab.support.tables import EXACT, REFUSALS, scalar, storable

__all__ = ["Collected", "gather", "left_no_table", "write"]

RUN = "notebook_run"
ENDING = ".parquet"


@dataclass(frozen=True)
class Collected:
    """What a batch holds so far.

    Attributes:
        tables: name -> table. Columns: `notebook_run`, the parameters that vary (or `figure`), and those of the
            notebook's table. A parameter with the name of a column is called `parameter_<name>`; a column of the
            notebook's that is called `notebook_run` itself, as in a report of a batch, is called `table_notebook_run`.
            Lists and mappings are JSON. A column that holds values of several types, in one run or in different ones,
            is text: numbers and truth values as JSON writes them, text as it is (`hatlab.support.tables`).
        runs: ids of the runs that are done, in the order of the batch.
        missing: run id -> status of those that are not done.
        without: ids of those that are done, and left no table.
        problems: what could not be gathered, each naming run or table, and why.
    """

    tables: dict[str, pd.DataFrame]
    runs: list[str]
    missing: dict[str, Status]
    without: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether every run of the batch is in the tables, with all of its own."""
        return not (self.missing or self.without or self.problems)


def gather(batch: Batch) -> Collected:
    """Return the tables of all runs that are done; their checksums are compared first."""
    statuses = batch.statuses()
    done = [run for run in batch.runs if statuses[run.run_id].state == "done"]
    parts: dict[str, list[tuple[NotebookRun, pd.DataFrame]]] = {}
    tables: dict[str, pd.DataFrame] = {}
    problems = []
    for run in done:
        for name in _tables_of(batch, run):
            try:
                table = pd.read_parquet(batch.entry(run).folder / f"{name}{ENDING}")
            except (OSError, *REFUSALS) as error:
                problems.append(f"run {run.run_id}: table {name!r} cannot be read: {error}")
            else:
                parts.setdefault(name, []).append((run, table))
    for name, found in parts.items():
        try:
            tables[name] = storable(_together(batch, found))
        except REFUSALS as error:
            problems.append(f"table {name!r} of {len(found)} runs cannot be put together: {error}")
    missing = {run.run_id: statuses[run.run_id] for run in batch.runs if run not in done}
    without = [run.run_id for run in left_no_table(batch, statuses)]
    return Collected(tables, [run.run_id for run in done], missing, without, problems)


def left_no_table(batch: Batch, statuses: Mapping[str, Status]) -> list[NotebookRun]:
    """Return the runs that are done, by `statuses`, and have left no table where `gather` looks for it."""
    return [run for run in batch.runs if statuses[run.run_id].state == "done" and not _tables_of(batch, run)]


def write(batch: Batch, collected: Collected) -> list[Path]:
    """Write each table as `<batch folder>/<name>.parquet`, and `collected.json`, which says what is in them; return the
    tables' paths. Beside them go `cost_by_run` and `cost_by_cell` (`hatlab.batches.cost`), unless the notebooks leave
    tables of these names."""
    statuses = batch.statuses()
    costs = {"cost_by_run": cost.by_run(batch, statuses), "cost_by_cell": cost.by_cell(batch, statuses)}
    paths = {}
    for name, table in {**{name: storable(table) for name, table in costs.items()}, **collected.tables}.items():
        paths[name] = batch.folder / f"{name}{ENDING}"
        with atomic(paths[name]) as temporary:
            table.to_parquet(temporary, index=False)
    content = {
        "runs": collected.runs,
        "missing": {run_id: status.state for run_id, status in collected.missing.items()},
        "without": collected.without,
        "problems": collected.problems,
        "tables": {path.name: checksum(path) for path in paths.values()},
    }
    write_json(batch.folder / "collected.json", content)
    return [paths[name] for name in collected.tables]


def _tables_of(batch: Batch, run: NotebookRun) -> list[str]:
    """Names of the tables that the run's manifest declares."""
    return sorted(name.removesuffix(ENDING) for name in batch.entry(run).artifacts() if name.endswith(ENDING))


def _together(batch: Batch, parts: Sequence[tuple[NotebookRun, pd.DataFrame]]) -> pd.DataFrame:
    """Return the tables one below the other, with the runs' ids and what tells them apart as the first columns."""
    # of all runs, so that a name means the same in every row
    columns = {str(column) for _, table in parts for column in table}
    parameters = list(batch.telling(parts[0][0]))
    called: dict[str, str] = {}
    for name in parameters:
        called[name] = _free(name, "parameter_", {*columns, *called.values(), RUN}, parameters)
    own = {RUN: _free(RUN, "table_", {*columns, *called.values(), RUN})}
    rows = []
    for run, table in parts:
        added = {called[name]: scalar(value) for name, value in batch.telling(run).items()}
        first = pd.DataFrame({RUN: run.run_id, **added}, index=table.index)
        rows.append(pd.concat([first, _exact(table.rename(columns=own))], axis=1))
    return pd.concat(rows, ignore_index=True)


def _free(name: str, prefix: str, taken: Collection[str], others: Collection[str] = ()) -> str:
    """Return the name if it is not taken; else with the prefix, as often as need be to be none of `others` either."""
    free = name
    while free in taken or (free != name and free in others):
        free = prefix + free
    return free


def _exact(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with truth values, and whole numbers that a float rounds, as objects: beside floats or gaps in
    other runs' tables, pandas would make floats of them."""
    large = [n for n in table if is_integer_dtype(table[n].dtype) and not table[n].between(-EXACT, EXACT).all()]
    return table.astype({name: object for name in table if name in large or is_bool_dtype(table[name].dtype)})
