"""How a batch is shown: its progress while it runs, its table, and the same as JSON."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO, cast

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from hatlab.batches.ledger import Entry, NotebookRun, State, Status
from hatlab.batches.plans import Batch, Planned
from hatlab.support.console import PROGRESS_FILE, in_notebook
from hatlab.support.progress import Eta, Replay, format_seconds
from hatlab.support.streams import Tolerant

__all__ = ["Display", "Watch", "as_json", "console", "one_line", "summary", "table"]

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
MOST_TOLD: Final = 10  # runs that are told of one by one while a batch runs
LIVE_SECONDS: Final = 0.5  # between two looks at the disk
LOOKS: Final = 50  # runs that are not under way of which a look reads the status, twice
LONGEST: Final = 300  # characters of a line
CONTROL: Final = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?)")  # colours, titles, links


def console(stream: TextIO | None = None, prose: bool = False) -> Console:
    """Return where tables go: a terminal as it is; a pipe, or a notebook, without colours. Printing never fails.

    Args:
        stream: standard output if not given.
        prose: whether cells hold sentences, which are broken into lines; else a row is one line, as programs read it.
    """
    file = cast(TextIO, Tolerant(stream or sys.stdout))
    options: dict[str, Any] = {"file": file, "highlight": False, "soft_wrap": not prose, "force_jupyter": False}
    if in_notebook():  # its streams say that they are terminals
        options["force_terminal"] = False
    found = Console(**options)
    return found if found.is_terminal else Console(**options, width=110 if prose else 240)


def one_line(text: str, most: int = LONGEST) -> str:
    """Return the first line of a text as any terminal can show it: without colours, other control characters as
    escapes, cut to `most` characters."""
    lines = CONTROL.sub("", text[: 10 * most].lstrip()).splitlines()
    shown = "".join(
        character if character.isprintable() else " " if character.isspace() else ascii(character)[1:-1]
        for character in (lines[0].rstrip() if lines else "")
    )
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def summary(states: Mapping[State, int], n: int) -> str:
    """Return "12 of 24 done, 1 failed, 2 running, 9 queued"."""
    parts = [f"{states.get('done', 0)} of {n} done"]
    parts += [f"{states[name]} {name}" for name in STATES if name != "done" and states.get(name)]
    return ", ".join(parts)


class Watch:
    """Where the runs of a batch stand. A look at the disk costs as much as there are runs under way, however many wait.

    A look reads the runs that are running; of the others, those that are next, and some more in turn.

    Attributes:
        statuses: run id -> status.
        states: how many runs are in each state.
        running: ids of the runs that are under way.
    """

    def __init__(self, batch: Batch, statuses: Mapping[str, Status]) -> None:
        self.batch, self.statuses = batch, dict(statuses)
        self.runs = {run.run_id: run for run in batch.runs}
        self.states = Counter(status.state for status in self.statuses.values())
        self.running = {run_id: None for run_id in self.runs if self.statuses[run_id].state == "running"}
        self._waiting = {run_id: None for run_id in self.runs if self.statuses[run_id].state == "queued"}
        self._turn, self._ids = 0, list(self.runs)

    def take(self, run_id: str, status: Status) -> None:
        """Note where a run stands now."""
        self.states[self.statuses[run_id].state] -= 1
        self.states[status.state] += 1
        self.statuses[run_id] = status
        for ids, state in ((self.running, "running"), (self._waiting, "queued")):
            ids.pop(run_id, None) if status.state != state else ids.setdefault(run_id)

    def look(self, read: Callable[[Entry], Status | None], known: Sequence[State]) -> None:
        """Note what `read` says of the runs, but those whose state is one of `known`, which does not change."""
        turn = self._ids[self._turn : self._turn + LOOKS]
        self._turn = self._turn + LOOKS if len(turn) == LOOKS else 0
        for run_id in dict.fromkeys([*self.running, *islice(self._waiting, LOOKS), *turn]):
            if self.statuses[run_id].state not in known and (status := read(Entry(self.batch.results, run_id))):
                self.take(run_id, status)

    def __str__(self) -> str:
        return summary(self.states, len(self.runs))


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
        self._training: dict[str, tuple[Replay, Eta]] = {}  # of the runs under way
        self._looked = self.started = time.monotonic()
        self._told = 0
        self._seconds, self._timed = 0.0, 0  # of the runs that were done in this call
        self._watch: Watch | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self._watch is not None:
            took = format_seconds(time.monotonic() - self.started)
            self.note(f"{self._watch.batch.name}: {self._watch}; {took}")

    def start(self, batch: Batch, looked: Sequence[Planned]) -> None:
        """The runs are known, and which of them are done."""
        self.started = time.monotonic()
        self._watch = Watch(batch, {item.run.run_id: item.status if item.done else Status("queued") for item in looked})
        for why, n in Counter(item.why for item in looked if item.why.startswith("stale")).items():
            first = next(item.run for item in looked if item.why == why)
            self.note(f"{_name(batch, first)}{f' and {n - 1} more' if n > 1 else ''}: {one_line(why)}")
        self.note(f"{batch.name}: {self._watch}")
        if self.console.is_terminal and any(not item.done for item in looked):
            self._events = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            self._live = self._stack.enter_context(
                Live(console=self.console, refresh_per_second=4, transient=True, get_renderable=self._lines)
            )

    def environment(self, run: NotebookRun) -> dict[str, str]:
        """Return the variables by which a kernel on this machine tells of its training, where that is shown."""
        if self._events is None:
            return {}
        path = self._events / f"{run.run_id}.jsonl"
        eta = Eta()
        self._training[run.run_id] = Replay(path, eta), eta
        return {PROGRESS_FILE: str(path)}

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)

    def ended(self, run: NotebookRun, status: Status) -> None:
        """A run has ended, in whatever state."""
        assert self._watch is not None
        self._watch.take(run.run_id, status)
        self._training.pop(run.run_id, None)
        if status.state == "done":
            self._seconds, self._timed = self._seconds + status.seconds, self._timed + 1
        if status.state != "queued" and (status.state != "done" or status.reason):
            self._told += 1
            batch = self._watch.batch
            if self._told <= MOST_TOLD:
                self.note(f"{_name(batch, run)}: {status.state}: {one_line(status.reason)}")
            elif self._told == MOST_TOLD + 1:
                self.note(f"... and more; hatlab status {batch.name} has them all")

    def tick(self) -> None:
        """Some time has passed."""
        moment = time.monotonic()
        if self._watch is None or moment - self._looked <= (QUIET_SECONDS if self._live is None else LIVE_SECONDS):
            return
        self._looked = moment
        # that a run has ended is told by whoever ran it; what the disk says may be of an earlier attempt
        self._watch.look(_under_way, ("done", "failed", "killed", "timed out", "stale"))
        if self._live is None:
            self.note(f"{self._watch}{self._left()}")

    def _left(self) -> str:
        """Return ", about 20 min left" once a run has ended; "" for figures, which are of different length."""
        watch = self._watch
        if watch is None or not self._timed or watch.batch.figures:
            return ""
        mean = self._seconds / self._timed
        running = [watch.statuses[run_id].elapsed for run_id in list(watch.running)]
        work = mean * watch.states["queued"] + sum(max(mean - seconds, 0) for seconds in running)
        return f", about {format_seconds(work / max(1, len(running)))} left"

    def _lines(self) -> Text:
        """What is shown live: as many of the running as there is room for. Called by rich's thread."""
        watch = self._watch
        assert watch is not None
        line = Text(f"{watch}{self._left()}", no_wrap=True, overflow="ellipsis")
        running, most = list(watch.running), max(1, self.console.height - 3)
        for run_id in running[:most]:
            status = watch.statuses[run_id]
            line.append(f"\n  {_name(watch.batch, watch.runs[run_id])}  cell {status.cell}/{status.n_cells}  ", "cyan")
            line.append(format_seconds(status.elapsed))
            if run_id in self._training:
                replay, eta = self._training[run_id]
                replay.go_on()
                line.append(f"  {eta.summary()}".rstrip(), "cyan")
        if len(running) > most:
            line.append(f"\n  and {len(running) - most} more")
        return line


def _under_way(entry: Entry) -> Status | None:
    """Where a run stands that has not ended."""
    status = entry.written()
    return status if status is not None and status.state in ("queued", "running") else None


def _name(batch: Batch, run: NotebookRun) -> str:
    """The figure that the run makes, or its id and the parameters that tell it from the others."""
    if batch.figures:
        return one_line(batch.figures[run.run_id])
    told = [f"{one_line(name, 30)}={_shown(value)}" for name, value in batch.telling(run).items()]
    return " ".join([run.run_id, *told])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return one_line(value if isinstance(value, str) else json.dumps(value), 30)


def table(
    batch: Batch, statuses: Mapping[str, Status], why: Mapping[str, str] | None = None, most: int | None = None
) -> Text:
    """Return the batch as a table: a line for each run, with its state and the parameters that vary, and the sums.

    Args:
        statuses: run id -> status.
        why: run id -> why it is to be made, in place of the status' own reason.
        most: rows that there is room for; None: all, however long. Runs under way come first then, and what went wrong.
    """
    ids = {run.run_id: run for run in batch.runs}
    chosen = list(ids)
    if most is not None and len(chosen) > most:
        order = {state: place for place, state in enumerate(sorted(STATES, key=_urgency))}
        chosen = sorted(chosen, key=lambda run_id: order[statuses[run_id].state])[:most]
    rows = [["run", "state", *(one_line(name, 30) for name in batch.varied), "time", "CPU", "memory", "cell", ""]]
    for run_id in chosen:
        status = statuses[run_id]
        rows.append(
            [
                run_id,
                status.state,
                *(_shown(value) for value in batch.telling(ids[run_id]).values()),
                format_seconds(status.elapsed) if status.elapsed else "",
                format_seconds(status.cpu) if status.cpu else "",
                f"{status.memory / 1e9:.2f} GB" if status.memory else "",
                f"{status.cell}/{status.n_cells}" if status.state == "running" and status.n_cells else "",
                one_line((why or {}).get(run_id, status.reason)),
            ]
        )
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    shown = Text(no_wrap=True, overflow="ignore" if most is None else "ellipsis")
    for number, row in enumerate(rows):
        cells = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        shown.append(f"{cells[0]}  ", "bold" if not number else "")
        shown.append(cells[1], "bold" if not number else STATES[statuses[chosen[number - 1]].state])
        shown.append(f"  {'  '.join(cells[2:])}".rstrip() + "\n", "bold" if not number else "")
    if len(chosen) < len(ids):
        shown.append(f"and {len(ids) - len(chosen)} more\n")
    return shown.append(f"{batch.name}: {summary(Counter(s.state for s in statuses.values()), len(ids))}")


def _urgency(state: State) -> int:
    """How early a run is shown where there is not room for all."""
    return {"running": 0, "queued": 2, "done": 3}.get(state, 1)


def as_json(batch: Batch, statuses: Mapping[str, Status]) -> str:
    """Return the same as JSON: `batch`, `notebook`, `counts`, and `runs` with notebook, parameters (and `figure`, in a
    batch of `hatlab reproduce`), and all of the status. Numbers that JSON lacks are text: "NaN", "Infinity",
    "-Infinity"."""
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
    return json.dumps(json.loads(json.dumps(content), parse_constant=str), indent=1, sort_keys=True)
