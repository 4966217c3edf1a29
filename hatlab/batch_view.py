"""How a batch is shown: its progress while it runs, its table, and the same as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hatlab.glance import Glance
from hatlab.ledger import Entry, NotebookRun, State, Status, entries
from hatlab.pace import format_seconds
from hatlab.plans import Batch, Planned
from hatlab.progress import PROGRESS_FILE, in_notebook

__all__ = ["Display", "as_json", "console", "estimate", "table"]

STATES: Final[dict[State, str]] = {
    "done": "green",
    "running": "cyan",
    "queued": "default",
    "stale": "yellow",
    "failed": "red",
    "killed": "red",
    "timed out": "red",
}
QUIET_SECONDS: Final = 60.0  # between two lines in a log
MOST_PROBLEMS: Final = 10  # told one by one while a batch runs
LIVE_SECONDS: Final = 0.5  # between two looks at the disk


def console(stream: TextIO | None = None, prose: bool = False) -> Console:
    """Return where tables go: a terminal as it is; a pipe, or a notebook, without colours.

    Args:
        stream: standard output if not given.
        prose: whether cells hold sentences, which are broken into lines; else a row is one line, as programs read it.
    """
    options: dict[str, Any] = {"file": stream, "highlight": False, "soft_wrap": not prose, "force_jupyter": False}
    if in_notebook():  # its streams say that they are terminals
        options["force_terminal"] = False
    found = Console(**options)
    return found if found.is_terminal else Console(**options, width=110 if prose else 240)


def summary(states: Mapping[State, int], n: int) -> str:
    """Return "12 of 24 done, 1 failed, 2 running, 9 queued"."""
    parts = [f"{states['done']} of {n} done"]
    parts += [f"{states[name]} {name}" for name in STATES if name != "done" and states[name]]
    return ", ".join(parts)


class Display:
    """Shows one call of `batch`: a live line on a terminal; elsewhere failures at once and counts once a minute.

    Args:
        stream: where to write; if not given, standard error or, in a notebook, below the cell.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = console(stream or (sys.stdout if in_notebook() else sys.stderr))
        self._live: Live | None = None
        self._stack = ExitStack()
        self._events: Path | None = None  # where kernels on this machine tell of their training
        self._glances: dict[str, Glance] = {}
        self._told = self._looked = self.started = time.monotonic()
        self._problems = 0
        self.batch: Batch | None = None
        self.statuses: dict[str, Status] = {}
        self.seconds: list[float] = []  # of the runs that ended in this call

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self.batch is not None:
            took = format_seconds(time.monotonic() - self.started)
            self.note(f"{self.batch.name}: {self._summary()}; {took}")

    def start(self, batch: Batch, looked: Sequence[Planned]) -> None:
        """The runs are known, and which of them are done."""
        self.batch, self.started = batch, time.monotonic()
        self.statuses = {item.run.run_id: item.status if item.done else Status("queued") for item in looked}
        for why, n in Counter(item.why for item in looked if item.why.startswith("stale")).items():
            first = next(item.run for item in looked if item.why == why)
            self.note(f"{_name(batch, first)}{f' and {n - 1} more' if n > 1 else ''}: {why}")
        self.note(f"{batch.name}: {self._summary()}")
        if self.console.is_terminal and any(not item.done for item in looked):
            self._events = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            self._live = self._stack.enter_context(
                Live(console=self.console, refresh_per_second=4, transient=True, get_renderable=self._line)
            )

    def environment(self, run: NotebookRun) -> dict[str, str]:
        """Return the variables by which a kernel on this machine tells of its training, where that is shown."""
        if self._events is None:
            return {}
        path = self._events / f"{run.run_id}.jsonl"
        self._glances[run.run_id] = Glance(path)
        return {PROGRESS_FILE: str(path)}

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)

    def ended(self, run: NotebookRun, status: Status) -> None:
        """A run has ended, in whatever state."""
        assert self.batch is not None
        self.statuses[run.run_id] = status
        if status.state == "done":
            self.seconds.append(status.seconds)
        elif status.state != "queued":
            self._problems += 1
            if self._problems <= MOST_PROBLEMS:
                reason = status.reason.splitlines()[0] if status.reason else ""
                self.note(f"{_name(self.batch, run)}: {status.state}: {reason}")
            elif self._problems == MOST_PROBLEMS + 1:
                self.note(f"... and more; hatlab status {self.batch.name} has them all")

    def tick(self) -> None:
        """Some time has passed."""
        moment = time.monotonic()
        if self._live is not None and moment - self._looked > LIVE_SECONDS:
            self._looked = moment
            self._look()
        elif self._live is None and moment - self._told > QUIET_SECONDS:
            self._told = moment
            self._look()
            self.note(f"{self._summary()}{self._left()}")

    def _look(self) -> None:
        """Read where the runs stand that have not ended."""
        assert self.batch is not None
        for run in self.batch.runs:
            if self.statuses[run.run_id].state in ("queued", "running"):
                status = self.batch.entry(run).written()
                if status is not None and status.state in ("queued", "running"):
                    self.statuses[run.run_id] = status

    def _summary(self) -> str:
        return summary(Counter(status.state for status in self.statuses.values()), len(self.statuses))

    def _left(self) -> str:
        """Return ", about 20 min left" once a run has ended; "" for figures, which are of different length."""
        states = Counter(status.state for status in self.statuses.values())
        running = [status.elapsed for status in self.statuses.values() if status.state == "running"]
        if not self.seconds or (self.batch is not None and self.batch.figures):
            return ""
        mean = sum(self.seconds) / len(self.seconds)
        work = mean * states["queued"] + sum(max(mean - seconds, 0) for seconds in running)
        return f", about {format_seconds(work / max(1, len(running)))} left"

    def _line(self) -> Text:
        states = Counter(status.state for status in self.statuses.values())
        line = Text(f"{summary(states, len(self.statuses))}{self._left()}")
        assert self.batch is not None
        for run in self.batch.runs:
            status = self.statuses[run.run_id]
            if status.state == "running":
                line.append(f"\n  {_name(self.batch, run)}  cell {status.cell}/{status.n_cells}  ", "cyan")
                line.append(format_seconds(status.elapsed))
                if run.run_id in self._glances and (training := self._glances[run.run_id].text()):
                    line.append(f"  {training}", "cyan")
        return line


def _name(batch: Batch, run: NotebookRun) -> str:
    """The figure that the run makes, or its id and the parameters that tell it from the others."""
    if batch.figures:
        return batch.figures[run.run_id]
    return " ".join([run.run_id, *(f"{name}={_shown(value)}" for name, value in batch.telling(run).items())])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 30 else f"{text[:29]}…"


def table(
    batch: Batch, statuses: Mapping[str, Status], why: Mapping[str, str] | None = None, most: int | None = None
) -> Table:
    """Return the batch as a table of rich: a row for each run, with its state and the parameters that vary.

    Args:
        statuses: run id -> status.
        why: run id -> why it is to be made, in place of the status' own reason.
        most: rows to show; None: all.
    """
    shown = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", caption_justify="left")
    for column in ("run", "state", *batch.varied, "time", "memory", "cell"):
        shown.add_column(column, no_wrap=column in ("run", "state", "time"))
    shown.add_column("", overflow="fold")
    for run in batch.runs[:most]:
        status = statuses[run.run_id]
        reason = (why or {}).get(run.run_id, status.reason).strip()
        shown.add_row(
            run.run_id,
            Text(status.state, STATES[status.state]),
            *(Text(_shown(value)) for value in batch.telling(run).values()),
            format_seconds(status.elapsed) if status.elapsed else "",
            f"{status.memory / 1e9:.2f} GB" if status.memory else "",
            f"{status.cell}/{status.n_cells}" if status.state == "running" and status.n_cells else "",
            Text(reason.splitlines()[0] if reason else ""),
        )
    shown.caption = f"{batch.name}: {summary(Counter(s.state for s in statuses.values()), len(statuses))}"
    return shown


def as_json(batch: Batch, statuses: Mapping[str, Status]) -> str:
    """Return the same as JSON: `batch`, `notebook`, `counts`, and `runs` with notebook, parameters (and `figure`, in a
    batch of `hatlab reproduce`), and all of the status."""
    runs = [
        {
            "run_id": run.run_id,
            **({"figure": batch.figures[run.run_id]} if batch.figures else {}),
            "notebook": run.notebook,
            "parameters": run.values,
            **asdict(statuses[run.run_id]),
        }
        for run in batch.runs
    ]
    states = Counter(status.state for status in statuses.values())
    content = {"batch": batch.name, "notebook": batch.notebook, "counts": dict(states), "runs": runs}
    return json.dumps(content, indent=1, sort_keys=True)


def estimate(batch: Batch, todo: int, workers: int) -> str:
    """Say how long `todo` runs will take, judged by the earlier ones of the same notebooks."""
    notebooks = {run.notebook for run in batch.runs}
    found = (Entry(batch.results, entry.run_id) for entry in entries(batch.results))
    statuses = [entry.written() for entry in found if (run := entry.read_run()) and run.notebook in notebooks]
    seconds = [status.seconds for status in statuses if status is not None and status.state == "done"]
    if not todo:
        return "nothing to do"
    if not seconds:
        return f"{todo} to do; no run of {batch.notebook} has been timed yet"
    mean = sum(seconds) / len(seconds)
    rounds = -(-todo // workers)
    return (
        f"{todo} to do, about {format_seconds(mean * rounds)} with {workers} at a time "
        f"({format_seconds(mean)} each, the mean of {len(seconds)} earlier runs of {batch.notebook})"
    )
