"""What runs of a batch cost, and what those that are to be made will cost, judged by earlier ones of the like."""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from hatlab.batches.ledger import NotebookRun, Status, entries
from hatlab.batches.plans import Batch
from hatlab.support.files import write_json
from hatlab.support.progress import format_seconds
from hatlab.support.provenance import now
from hatlab.support.tables import scalar

__all__ = ["Estimate", "by_cell", "by_run", "estimate", "keep", "last", "telling", "totals"]

FILE: Final = "estimate.json"  # in a batch's folder: what was expected of the call that ran last, and what it took
MOST: Final = 2000  # earlier runs that are compared


@dataclass(frozen=True)
class Estimate:
    """What `todo` runs are expected to take.

    Attributes:
        notebook: their notebooks' file names.
        todo, workers: runs, and how many at a time.
        seconds: until the last has ended; None where no run of these notebooks has been timed.
        each: mean seconds of a run.
        earlier: how many earlier runs it is judged by.
        took: seconds that it took; None while nobody knows.
    """

    notebook: str
    todo: int
    workers: int
    seconds: float | None = None
    each: float | None = None
    earlier: int = 0
    took: float | None = None
    started: str = ""

    def __str__(self) -> str:
        if not self.todo:
            return "nothing to do"
        if self.seconds is None or self.each is None:
            return f"{self.todo} to do; no run of {self.notebook} has been timed yet"
        runs = f"{self.earlier} earlier run{'s' if self.earlier > 1 else ''}"
        return (
            f"{self.todo} to do, about {format_seconds(self.seconds)} with {self.workers} at a time "
            f"({format_seconds(self.each)} each, by the most alike of {runs} of {self.notebook})"
        )

    def miss(self) -> str:
        """Say how far off it was; "" where that is not known."""
        if self.seconds is None or self.took is None or self.took <= 0:
            return ""
        off = 100 * (self.seconds / self.took - 1)
        how = f"{abs(off):.0f}% too {'long' if off > 0 else 'short'}" if abs(off) >= 1 else "right"
        return (
            f"the last estimate was {how}: {format_seconds(self.seconds)} for {self.todo} runs, "
            f"which took {format_seconds(self.took)}"
        )


def estimate(batch: Batch, todo: Sequence[NotebookRun], workers: int) -> Estimate:
    """Return what the runs of `todo` will take: each as long as the earlier runs of its notebook did, on average, that
    differ from it in the fewest parameters; one after the other on so many workers."""
    names = {run.notebook for run in todo}
    earlier: dict[str, list[tuple[dict[str, str], float]]] = {}
    for entry in entries(batch.results)[-MOST:]:
        run, status = entry.read_run(), entry.written()
        if run and status and run.notebook in names and status.state == "done" and status.seconds > 0:
            earlier.setdefault(run.notebook, []).append((_texts(run), status.seconds))
    told = Estimate(batch.notebook, len(todo), workers, started=now())
    if not todo or not names <= earlier.keys():
        return told
    expected = [_expected(_texts(run), earlier[run.notebook]) for run in todo]
    free = [0.0] * max(1, min(workers, len(todo)))  # when each worker is free again
    for seconds in expected:
        heapq.heapreplace(free, free[0] + seconds)
    count = sum(map(len, earlier.values()))
    return Estimate(
        batch.notebook, len(todo), workers, max(free), sum(expected) / len(expected), count, started=told.started
    )


def _texts(run: NotebookRun) -> dict[str, str]:
    return {name: json.dumps(value, sort_keys=True) for name, value in run.values.items()}


def _expected(values: Mapping[str, str], earlier: Sequence[tuple[dict[str, str], float]]) -> float:
    distances = [
        sum(values.get(name) != other.get(name) for name in values.keys() | other.keys()) for other, _ in earlier
    ]
    nearest = min(distances)
    alike = [seconds for (_, seconds), distance in zip(earlier, distances, strict=True) if distance == nearest]
    return sum(alike) / len(alike)


def keep(batch: Batch, told: Estimate) -> None:
    """Write what was expected of a call, so that the next can say how far off it was."""
    write_json(batch.folder / FILE, asdict(told))


def last(batch: Batch) -> Estimate | None:
    """Return what was expected of the call before, of this batch or else of the one of its notebooks that ran last."""
    found = []
    for path in {batch.folder / FILE, *batch.folder.parent.glob(f"*/{FILE}")}:
        try:
            told = TypeAdapter(Estimate).validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            continue
        if told.notebook == batch.notebook and told.miss():
            found.append((path.parent == batch.folder, told.started, told))
    return max(found, key=lambda item: item[:2])[2] if found else None


def telling(batch: Batch, run: NotebookRun, taken: Sequence[str]) -> dict[str, Any]:
    """Return the first columns of a run's row: `run`, and the parameters that vary; one with the name of a column in
    `taken` is called `parameter_<name>`."""
    told = batch.telling(run).items()
    return {"run": run.run_id} | {(f"parameter_{n}" if n in taken else n): scalar(value) for n, value in told}


def by_run(batch: Batch, statuses: Mapping[str, Status]) -> pd.DataFrame:
    """Return a row per run: `run`, the parameters that vary, `state`, `seconds`, `cpu_seconds`, `memory_gb`,
    `gpu_memory_gb` and `energy_kj` (of the machine meanwhile; NaN, as GPU memory, where the system did not tell)."""
    rows = []
    for run in batch.runs:
        status = statuses[run.run_id]
        costs = {
            "state": status.state,
            "seconds": status.seconds,
            "cpu_seconds": status.cpu,
            "memory_gb": round(status.memory / 1e9, 3),
            "gpu_memory_gb": round(status.gpu_memory / 1e9, 3) if status.gpu_memory else float("nan"),
            "energy_kj": round(status.energy / 1e3, 3) if status.energy else float("nan"),
        }
        rows.append(telling(batch, run, ["run", *costs]) | costs)
    return pd.DataFrame(rows)


def by_cell(batch: Batch, statuses: Mapping[str, Status]) -> pd.DataFrame:
    """Return a row per run and code cell: `run`, the parameters that vary, `cell`, `source` (its first line),
    `seconds`, `cpu_seconds`, `memory_gb`."""
    columns = ["run", "cell", "source", "seconds", "cpu_seconds", "memory_gb"]
    rows = [
        telling(batch, run, columns)
        | {"cell": cell["cell"], "source": cell["source"], "seconds": cell["seconds"]}
        | {"cpu_seconds": cell["cpu"], "memory_gb": round(cell["memory"] / 1e9, 3)}
        for run in batch.runs
        for cell in statuses[run.run_id].cells
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def totals(batch: Batch, statuses: Mapping[str, Status]) -> str:
    """Return what all runs together have cost, as one line; "" where nothing has been measured."""
    found = [statuses[run.run_id] for run in batch.runs]
    if not (seconds := sum(status.seconds for status in found)):
        return ""
    cpu, most = sum(status.cpu for status in found), max(status.memory for status in found)
    on_gpu = max(status.gpu_memory for status in found)
    parts = [
        f"{format_seconds(seconds)} of kernels",
        f"{format_seconds(cpu)} of CPU time",
        f"most memory {most / 1e9:.2f} GB",
    ]
    return ", ".join(parts + ([f"most GPU memory {on_gpu / 1e9:.2f} GB"] if on_gpu else []))
