"""The tables of a batch, gathered into one tidy table for each name.

A notebook leaves tables as Parquet (`artifacts.save`). Those of one name, of all runs that are done, are put one below
the other, with the run and the parameters that vary in front.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hatlab.files import atomic, write_json
from hatlab.ledger import NotebookRun, Status
from hatlab.plans import Batch
from hatlab.provenance import checksum

__all__ = ["Collected", "gather", "write"]

RUN = "notebook_run"


@dataclass(frozen=True)
class Collected:
    """What a batch holds so far.

    Attributes:
        tables: name -> table. Columns: `notebook_run`, the parameters that vary (or `figure`), and those of the
            notebook's table; a parameter with the name of a column of the table is called `parameter_<name>`. Lists and
            mappings are JSON.
        runs: ids of the runs in them, in the order of the batch.
        missing: run id -> status of those that are not done.
    """

    tables: dict[str, pd.DataFrame]
    runs: list[str]
    missing: dict[str, Status]


def gather(batch: Batch) -> Collected:
    """Return the tables of all runs that are done; their checksums are compared first."""
    statuses = batch.statuses()
    done = [run for run in batch.runs if statuses[run.run_id].state == "done"]
    parts: dict[str, list[pd.DataFrame]] = {}
    for run in done:
        entry = batch.entry(run)
        for name in sorted(entry.artifacts()):
            if name.endswith(".parquet"):
                table = pd.read_parquet(entry.folder / name)
                parts.setdefault(name.removesuffix(".parquet"), []).append(_told_apart(table, run, batch.telling(run)))
    tables = {name: pd.concat(found, ignore_index=True) for name, found in parts.items()}
    missing = {run.run_id: statuses[run.run_id] for run in batch.runs if run not in done}
    return Collected(tables, [run.run_id for run in done], missing)


def write(batch: Batch, collected: Collected) -> list[Path]:
    """Write each table as `<batch folder>/<name>.parquet`, and `collected.json`, which says what is in them."""
    paths = []
    for name, table in collected.tables.items():
        path = batch.folder / f"{name}.parquet"
        with atomic(path) as temporary:
            table.to_parquet(temporary, index=False)
        paths.append(path)
    content = {
        "runs": collected.runs,
        "missing": {run_id: status.state for run_id, status in collected.missing.items()},
        "tables": {path.name: checksum(path) for path in paths},
    }
    write_json(batch.folder / "collected.json", content)
    return paths


def _told_apart(table: pd.DataFrame, run: NotebookRun, telling: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table with the run's id and what tells it from others as its first columns."""
    added = {(f"parameter_{name}" if name in table else name): _scalar(value) for name, value in telling.items()}
    first = pd.DataFrame({RUN: run.run_id, **added}, index=table.index)
    return pd.concat([first, table], axis=1)


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
