"""What a long run tells while it goes: bars in a terminal, plain lines elsewhere, events in a file.

Training calls the methods of `Progress`. What a display cannot write (a closed pipe, a full disk) is dropped; it never
stops the training that it shows.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO, cast

from hatlab.support.pace import EPOCH_INTERVAL, Pace, RunPace, format_seconds
from hatlab.support.streams import Tolerant

__all__ = ["ConsoleProgress", "FileProgress", "Progress", "Replay", "Shared", "default_progress", "in_notebook"]

PROGRESS_FILE: Final = "HATLAB_PROGRESS_FILE"
MANY_RUNS: Final = 20  # whose tasks nobody reads one by one


class Progress:
    """What training reports; this base class ignores it all. Usable in a `with` statement.

    Runs train side by side: the epochs and tasks of several alternate, and one may be done long before the others.
    """

    def sweep_started(self, n_runs: int) -> None:
        """`n_runs` runs follow. One on its own need not be announced."""

    def run_started(self, run_id: str, label: str, n_tasks: int, max_epochs: int, tasks_done: int) -> None:
        """A run begins, or goes on after `tasks_done` of its `n_tasks` tasks; `label` is for people."""

    def epoch_done(self, run_id: str, task: int, epoch: int, valid_accuracy: float, usage: float) -> None:
        """Epoch `epoch` of task `task` (both from 0) is done; accuracy and capacity usage in [0, 1]."""

    def task_done(self, run_id: str, task: int, epochs: int, accuracy: float, usage: float) -> None:
        """Task `task` took `epochs` epochs; test accuracy and capacity usage in [0, 1]."""

    def run_done(self, run_id: str, loaded: bool) -> None:
        """The run is complete; `loaded`: it was finished before and has only been read."""

    def note(self, text: str) -> None:
        """A line for people: that a group was halved because memory ran out."""

    def close(self) -> None:
        """Nothing follows, or an error ended the runs. May be called more than once."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


EVENTS: Final = ("sweep_started", "run_started", "epoch_done", "task_done", "run_done", "note")


class ConsoleProgress(Progress):
    """Live bars where `stream` is a terminal; elsewhere plain lines: one per task, per loaded run, and at the end. Of
    more than `MANY_RUNS` runs only how many tasks are done, about ten times.

    Args:
        stream: where to write; standard error if not given.
        live: bars (True) or plain lines (False); decided by `stream` if not given.
    """

    def __init__(self, stream: TextIO | None = None, live: bool | None = None) -> None:
        self.stream = Tolerant(sys.stderr if stream is None else stream)
        self._pace = Pace()
        self._told = -math.inf  # when a line last told the time left
        self._tenths = 0
        if live is None:
            live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._bars = _Bars(self.stream) if live else None

    def _line(self, *parts: str) -> None:
        text = "  ".join(part for part in parts if part)
        if self._bars:
            self._bars.line(text)
        else:
            self.stream.write(f"{text}\n")

    def _name(self, run: RunPace) -> str:
        return f"run {run.number}/{self._pace.n_runs}  {run.label}" if self._pace.n_runs > 1 else run.label

    def _left(self) -> str:
        """The time left, once where many tasks end in one instant."""
        now = time.monotonic()
        if now - self._told < EPOCH_INTERVAL:
            return ""
        self._told = now
        return self._pace.left()

    def _count(self) -> None:
        """Say how far all runs are, if a tenth more is done."""
        done, n = self._pace.tasks_done, self._pace.n_tasks
        if 10 * done // n > self._tenths and done < n:
            self._tenths = 10 * done // n
            self._line(f"{done} of {n} tasks of {self._pace.n_runs} runs done", self._pace.left())

    def sweep_started(self, n_runs: int) -> None:
        self._pace, self._tenths = Pace(n_runs), 0

    def run_started(self, run_id: str, label: str, n_tasks: int, max_epochs: int, tasks_done: int) -> None:
        run = self._pace.start_run(run_id, label, n_tasks, max_epochs, tasks_done)
        if 0 < tasks_done < n_tasks:
            self._line(self._name(run), f"resumed after task {tasks_done}/{n_tasks}")
        if self._bars:
            self._bars.show(self._pace, run)

    def epoch_done(self, run_id: str, task: int, epoch: int, valid_accuracy: float, usage: float) -> None:
        run = self._pace.end_epoch(run_id, epoch)
        if self._bars and self._bars.due():
            info = f"valid. accuracy {valid_accuracy:.1%}  capacity usage {usage:.1%}"
            self._bars.show(self._pace, run, info)

    def task_done(self, run_id: str, task: int, epochs: int, accuracy: float, usage: float) -> None:
        run, seconds = self._pace.end_task(run_id, task, epochs)
        if self._bars:
            return self._bars.show(self._pace, run)
        if self._pace.n_runs > MANY_RUNS:
            return self._count()
        self._line(
            self._name(run),
            f"task {task + 1}/{run.n_tasks}",
            f"{epochs} epochs",
            f"test accuracy {accuracy:.1%}",
            f"capacity usage {usage:.1%}",
            # beside others, a task's time says little
            format_seconds(seconds) if self._pace.n_runs == 1 else "",
            self._left(),
        )

    def run_done(self, run_id: str, loaded: bool) -> None:
        pace = self._pace
        run, seconds = pace.end_run(run_id, loaded)
        if loaded and pace.n_runs <= MANY_RUNS:
            self._line(self._name(run), "finished before, loaded")
        elif self._bars:
            self._line(self._name(run), f"done in {format_seconds(seconds)}")
        if self._bars:
            self._bars.show(pace, run)
        if pace.runs_done == pace.n_runs:
            if pace.n_runs > 1:
                n_loaded = sum(run.loaded for run in pace.runs.values())
                seconds = pace.clock() - pace.started
                self._line(
                    f"{pace.n_runs} runs done in {format_seconds(seconds)}" + f" ({n_loaded} loaded)" * (n_loaded > 0)
                )
            self.close()

    def note(self, text: str) -> None:
        self._line(text)

    def close(self) -> None:
        self._pace = Pace()
        if self._bars:
            self._bars.stop()


class _Bars:
    """Three rich bars: runs, tasks of all runs, epochs of the run heard of last. Drawn by rich's own thread."""

    def __init__(self, stream: Tolerant) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._rich = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}", markup=False),
            console=Console(file=cast(TextIO, stream), force_terminal=True, highlight=False, soft_wrap=False),
            refresh_per_second=4,
            transient=True,
        )
        self._rows = {name: self._rich.add_task(name, total=None, info="") for name in ("runs", "tasks", "epochs")}
        self._drawn = -math.inf
        atexit.register(self.stop)  # an error that nobody caught must not leave the terminal without a cursor

    def line(self, text: str) -> None:
        self._rich.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def due(self) -> bool:
        """Whether an epoch is worth drawing: a moment has passed since the last."""
        now = time.monotonic()
        if now - self._drawn < EPOCH_INTERVAL:
            return False
        self._drawn = now
        return True

    def show(self, pace: Pace, run: RunPace, info: str = "") -> None:
        update, rows, many = self._rich.update, self._rows, pace.n_runs > 1
        place = f"task {min(run.tasks_done + 1, run.n_tasks)}/{run.n_tasks}" if many else pace.left()
        update(
            rows["runs"], completed=pace.runs_done, total=pace.n_runs, info=pace.left() if many else "", visible=many
        )
        update(rows["tasks"], completed=pace.tasks_done, total=pace.n_tasks, info=f"{run.label}  {place}")
        update(rows["epochs"], completed=run.epochs, total=run.max_epochs, info=info)
        self._rich.start()

    def stop(self) -> None:
        if self._rich.live.is_started:
            self._rich.stop()


class FileProgress(Progress):
    """Append every event to a file, one JSON object a line: {"event": "task_done", "run_id": "3f…", "task": 0, ...}.

    Epochs are thinned: of all runs together, twice in `EPOCH_INTERVAL` seconds at most, in the long run.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._written: dict[str, float] = {}  # when an epoch of each run under way was last written
        self._latest = -math.inf

    def _write(self, event: str, **values: object) -> None:
        with contextlib.suppress(OSError), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **values}, default=float) + "\n")

    def sweep_started(self, n_runs: int) -> None:
        self._written.clear()
        self._write("sweep_started", n_runs=n_runs)

    def run_started(self, run_id: str, label: str, n_tasks: int, max_epochs: int, tasks_done: int) -> None:
        self._written[run_id] = -math.inf  # its first epoch tells whether a task is resumed
        self._write(
            "run_started", run_id=run_id, label=label, n_tasks=n_tasks, max_epochs=max_epochs, tasks_done=tasks_done
        )

    def epoch_done(self, run_id: str, task: int, epoch: int, valid_accuracy: float, usage: float) -> None:
        now = time.monotonic()
        # The epochs of a group end in one instant, always in the same order. The first keeps the display moving; each
        # of the others is written when it is its turn.
        turn = now - self._written.get(run_id, -math.inf) >= EPOCH_INTERVAL * len(self._written)
        if turn or now - self._latest >= EPOCH_INTERVAL:
            self._written[run_id] = self._latest = now
            self._write("epoch_done", run_id=run_id, task=task, epoch=epoch, valid_accuracy=valid_accuracy, usage=usage)

    def task_done(self, run_id: str, task: int, epochs: int, accuracy: float, usage: float) -> None:
        self._write("task_done", run_id=run_id, task=task, epochs=epochs, accuracy=accuracy, usage=usage)

    def run_done(self, run_id: str, loaded: bool) -> None:
        self._written.pop(run_id, None)
        self._write("run_done", run_id=run_id, loaded=bool(loaded))

    def note(self, text: str) -> None:
        self._write("note", text=text)


class Replay:
    """Passes on to `progress` the events that a `FileProgress` in another process appends to `path`."""

    def __init__(self, path: Path | str, progress: Progress) -> None:
        self.path, self.progress = Path(path), progress
        self._position = 0

    def go_on(self) -> None:
        """Pass on what has been written since the last call. The file may not exist yet."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._position)
                complete, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return
        self._position += len(complete) + len(newline)
        for line in complete.splitlines():
            try:
                values = json.loads(line)
            except ValueError:  # a disk that was full for a while leaves half a line
                continue
            if (event := values.pop("event")) in EVENTS:
                getattr(self.progress, event)(**values)


class _Tee(Progress):
    """Every event to each of `displays`."""

    def __init__(self, *displays: Progress) -> None:
        for event in (*EVENTS, "close"):
            setattr(self, event, functools.partial(self._each, [getattr(display, event) for display in displays]))

    @staticmethod
    def _each(receivers: list[Callable[..., None]], *args: Any, **kwargs: Any) -> None:
        for receive in receivers:
            receive(*args, **kwargs)


class Shared(Progress):
    """Passes every event to `display`, one at a time, from whatever thread it comes."""

    def __init__(self, display: Progress) -> None:
        lock = threading.Lock()
        for event in EVENTS:
            setattr(self, event, functools.partial(self._one, lock, getattr(display, event)))

    @staticmethod
    def _one(lock: threading.Lock, receive: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        with lock:
            receive(*args, **kwargs)


def default_progress() -> Progress:
    """Return what suits the place: bars or lines on standard error, lines below the cell in a notebook.

    Where $HATLAB_PROGRESS_FILE names a file, the events go there as well: so a notebook's kernel tells the process
    that started it.
    """
    console = ConsoleProgress(sys.stdout if in_notebook() else sys.stderr)
    path = os.environ.get(PROGRESS_FILE)
    return _Tee(FileProgress(path), console) if path else console


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
