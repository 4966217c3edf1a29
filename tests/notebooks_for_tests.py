"""Small notebooks that the tests of batches run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from hatlab.batches.ledger import NotebookRun, Status
from hatlab.batches.plans import Batch
from hatlab.support.files import write_json, write_table
from hatlab.support.provenance import checksum

PLACE = """
results: str = ""  # where the outcome goes: results/profile/figure
profile: str = "interactive"  # see results
figure: str = "toy"  # see results"""

# a table, in a second
TABLE = """\
import pandas as pd
from hatlab.support import artifacts
table = pd.DataFrame({"step": [0, 1, 2], "value": [i, 2 * i, 3 * i]})
artifacts.save(figure, runs=[], tables={"walk": table}, profile=profile, results=results)"""


def write(path: Path, *code: str, parameters: str | None = None, place: bool = False) -> Path:
    """Write a notebook with a cell of parameters, if there are any, and a cell for each of `code`."""
    cells = [nbformat.v4.new_code_cell(source) for source in code]
    if parameters is not None:
        text = parameters + (PLACE if place else "")
        cells.insert(0, nbformat.v4.new_code_cell(text, metadata={"tags": ["parameters"]}))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def walk(folder: Path) -> Path:
    """A notebook with a parameter i that leaves a table."""
    return write(folder / "walk.ipynb", TABLE, parameters="i: int = 0  # the run", place=True)


def done_batch(results: Path, values: list[dict[str, Any]], tables: list[Mapping[str, pd.DataFrame]]) -> Batch:
    """A batch whose runs are done, with these parameters and tables, without a kernel."""
    runs = tuple(NotebookRun("n.ipynb", "sha256:0", given, given, "0", {}) for given in values)
    batch = Batch("night", runs, results)
    batch.save()
    for run, left in zip(runs, tables, strict=True):
        entry = batch.entry(run)
        entry.describe(run)
        paths = [path for name, table in left.items() for path in write_table(entry.folder, name, table)]
        write_json(entry.manifest, {"artifacts": {path.name: checksum(path) for path in paths}})
        entry.write(Status("done", 1, manifest=checksum(entry.manifest)))
    return batch
