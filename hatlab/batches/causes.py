"""Why runs of a batch did not come to their end, grouped: same state, same cell, same error.

Numbers and addresses in an error's text do not tell causes apart: "tried to allocate 2 GiB" and "3 GiB" are one.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from hatlab.batches.ledger import NotebookRun, State, Status
from hatlab.batches.plans import Batch
from hatlab.config import ConfigError
from hatlab.support.values import values

__all__ = ["BAD", "Cause", "alike", "causes", "lines", "repeat", "told"]

BAD: Final[tuple[State, ...]] = ("failed", "killed", "timed out")
CHANGING: Final = re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?")
MOST: Final = 160  # characters of an error's text


class Cause(NamedTuple):
    """What one or more runs have in common that did not come to their end.

    Attributes:
        state: "failed", "killed" or "timed out".
        notebook: file name.
        cell: number of the code cell; 0: none was under way.
        error: class of the exception; "" if a runner ended it.
        text: the first one's message.
        runs: in the order of the batch.
    """

    state: State
    notebook: str
    cell: int
    error: str
    text: str
    runs: tuple[NotebookRun, ...]

    def __str__(self) -> str:
        n = len(self.runs)
        where = f"cell {self.cell}, " if self.cell else ""
        what = ": ".join(filter(None, (self.error, self.text)))
        return f"{n} run{'s' if n > 1 else ''} {self.state}: {where}{what}"


def alike(run: NotebookRun, status: Status) -> tuple[Any, ...]:
    """Return what is equal for two runs that ended by the same cause."""
    return (
        run.notebook,
        status.state,
        status.error.get("cell", status.cell),
        status.error.get("error", ""),
        _same(status),
    )


def _same(status: Status) -> str:
    return CHANGING.sub("#", _text(status))


def _text(status: Status) -> str:
    """What went wrong, without where: the error's first line, or the reason that the runner gave."""
    told = str(status.error.get("message") or re.sub(r"^in cell \[\d+\][:]? ?", "", status.reason))
    first = next(iter(told.strip().splitlines()), "")
    return first if len(first) <= MOST else f"{first[: MOST - 1]}…"


def told(status: Status) -> str:
    """Return where and why a run ended, in one line."""
    cell = status.error.get("cell", status.cell)
    return ": ".join(filter(None, (f"cell {cell}" if cell else "", status.error.get("error", ""), _text(status))))


def causes(batch: Batch, statuses: Mapping[str, Status]) -> list[Cause]:
    """Return the causes for which runs of `batch` did not come to their end, the most frequent first."""
    groups: dict[tuple[Any, ...], list[NotebookRun]] = {}
    for run in batch.runs:
        if (status := statuses[run.run_id]).state in BAD:
            groups.setdefault(alike(run, status), []).append(run)
    found = []
    for (notebook, state, cell, error, _), runs in groups.items():
        found.append(Cause(state, notebook, cell, error, _text(statuses[runs[0].run_id]), tuple(runs)))
    return sorted(found, key=lambda cause: -len(cause.runs))


def repeat(batch: Batch, run: NotebookRun) -> str:
    """Return the command that makes one run of a batch once more, and nothing else."""
    if batch.figures:
        profile, figure = batch.name.removeprefix("reproduce-"), batch.figures[run.run_id].partition(",")[0]
        return f"hatlab reproduce --profile {profile} --only {figure}{_results(batch)}"
    copy = batch.folder / "notebooks" / f"{run.source.rpartition(':')[2][:12]}.ipynb"
    given = (f"-p {shlex.quote(f'{name}={_typed(value)}')}" for name, value in run.given.items())
    return " ".join(["hatlab batch", shlex.quote(_near(copy)), *given, f"--name again-{run.run_id}"]) + _results(batch)


def _results(batch: Batch) -> str:
    near = _near(batch.results)
    return "" if near == "results" else f" --results {shlex.quote(near)}"


def _near(path: Path) -> str:
    """A path as it is typed from the current folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _typed(value: Any) -> str:
    """Return a parameter's value so that -p reads the same value."""
    for text in (value if isinstance(value, str) else json.dumps(value), json.dumps(value)):
        try:
            if values(text) == [value]:
                return str(text)
        except ConfigError:
            continue
    return json.dumps([value])


def lines(batch: Batch, found: Iterable[Cause]) -> list[str]:
    """Return what people read of each cause: how many runs, where and what, the first of them and how to repeat it."""
    text = []
    for cause in found:
        first = cause.runs[0]
        which = ", ".join(f"{name}={_typed(value)}" for name, value in batch.telling(first).items())
        text += [f"{cause}; first: {first.run_id}{f' ({which})' if which else ''}", f"    {repeat(batch, first)}"]
    return text
