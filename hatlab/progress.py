"""What a long run tells while it goes: bars in a terminal, plain lines elsewhere, events in a file.

Training calls the methods of `Progress`. A display that fails (a closed pipe, a full disk) goes quiet; it never
stops the training that it shows.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO, cast

from hatlab.pace import Pace, format_seconds

__all__ = ["ConsoleProgress", "FileProgress", "Progress", "default_progress", "follow"]

PROGRESS_FILE: Final = "HATLAB_PROGRESS_FILE"
# An epoch can last 20 ms; nobody reads faster than this many seconds.
EPOCH_INTERVAL: Final = 0.1


class Progress:
    """What training reports, in this order; this base class ignores it all. Usable in a `with` statement."""

    def sweep_started(self, n_runs: int) -> None:
        """`n_runs` runs follow. Not called for a run on its own."""

    def run_started(self, run_id: str, label: str, n_tasks: int, max_epochs: int, tasks_done: int) -> None:
        """A run begins, or goes on after `tasks_done` of its `n_tasks` tasks; `label` is for people."""

    def epoch_done(self, task: int, epoch: int, valid_accuracy: float, usage: float) -> None:
        """Epoch `epoch` of task `task` (both from 0) is done; accuracy and capacity usage in [0, 1]."""

    def task_done(self, task: int, epochs: int, accuracy: float, usage: float) -> None:
        """Task `task` took `epochs` epochs; test accuracy and capacity usage in [0, 1]."""

    def run_done(self, loaded: bool) -> None:
        """The run is complete; `loaded`: it was finished before and has only been read."""

    def close(self) -> None:
        """Nothing follows, or an error ended the runs. May be called more than once."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


EVENTS: Final = ("sweep_started", "run_started", "epoch_done", "task_done", "run_done")


class _Harmless(io.TextIOBase):
    """A text stream whose failures (a closed pipe or file, a character it cannot encode) make it quiet."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._quiet = False

    def isatty(self) -> bool:
        return not self._stream.closed and self._stream.isatty()

    def write(self, text: str) -> int:
        if not self._quiet:
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                self._quiet = True
        return len(text)


class ConsoleProgress(Progress):
    """Live bars where `stream` is a terminal; elsewhere one plain line per task, per loaded run, and at the end.

    Args:
        stream: where to write; standard error if not given.
        live: bars (True) or plain lines (False); decided by `stream` if not given.
    """

    def __init__(self, stream: TextIO | None = None, live: bool | None = None) -> None:
        self.stream = _Harmless(sys.stderr if stream is None else stream)
        self._pace = Pace()
        if live is None:
            live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._bars = _Bars(self.stream) if live else None

    def _line(self, *parts: str) -> None:
        text = "  ".join(part for part in parts if part)
        if self._bars:
            self._bars.line(text)
        else:
            self.stream.write(f"{text}\n")

    def _run(self) -> str:
        number = f"run {self._pace.run}/{self._pace.n_runs}  " if self._pace.n_runs > 1 else ""
        return number + self._pace.label

    def sweep_started(self, n_runs: int) -> None:
        self._pace.start_sweep(n_runs)

    def run_started(self, run_id: str, label: str, n_tasks: int, max_epochs: int, tasks_done: int) -> None:
        self._pace.start_run(label, n_tasks, max_epochs, tasks_done)
        if 0 < tasks_done < n_tasks:
            self._line(self._run(), f"resumed after task {tasks_done}/{n_tasks}")
        if self._bars:
            self._bars.show(self._pace)

    def epoch_done(self, task: int, epoch: int, valid_accuracy: float, usage: float) -> None:
        self._pace.end_epoch(epoch)
        if self._bars:
            self._bars.epoch(self._pace, epoch, valid_accuracy, usage)

    def task_done(self, task: int, epochs: int, accuracy: float, usage: float) -> None:
        seconds = self._pace.end_task(task)
        if self._bars:
            self._bars.show(self._pace)
            return
        self._line(
            self._run(),
            f"task {task + 1}/{self._pace.n_tasks}",
            f"{epochs} epochs",
            f"test accuracy {accuracy:.1%}",
            f"capacity usage {usage:.1%}",
            format_seconds(seconds),
            self._pace.left(),
        )

    def run_done(self, loaded: bool) -> None:
        pace = self._pace
        pace.loaded += loaded
        seconds = pace.clock() - pace.run_started
        if loaded:
            self._line(self._run(), "finished before, loaded")
        elif self._bars:
            self._line(self._run(), f"done in {format_seconds(seconds)}")
        if pace.run == pace.n_runs:
            if pace.n_runs > 1:
                loaded_runs = f" ({pace.loaded} loaded)" if pace.loaded else ""
                self._line(f"{pace.n_runs} runs done in {format_seconds(pace.clock() - pace.started)}{loaded_runs}")
            self.close()

    def close(self) -> None:
        self._pace = Pace()
        if self._bars:
            self._bars.stop()


class _Bars:
    """Three rich bars: runs, tasks of the run, epochs of the task. Drawn by rich's own thread."""

    def __init__(self, stream: _Harmless) -> None:
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
        self._drawn = 0.0
        atexit.register(self.stop)  # an error that nobody caught must not leave the terminal without a cursor

    def line(self, text: str) -> None:
        self._rich.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, pace: Pace) -> None:
        update, rows = self._rich.update, self._rows
        update(rows["runs"], completed=pace.run - 1, total=pace.n_runs, info=pace.left(), visible=pace.n_runs > 1)
        tasks_info = pace.label if pace.n_runs > 1 else f"{pace.label}  {pace.left()}"
        update(rows["tasks"], completed=pace.tasks_done, total=pace.n_tasks, info=tasks_info)
        update(rows["epochs"], completed=0, total=pace.max_epochs, info="")
        self._rich.start()

    def epoch(self, pace: Pace, epoch: int, valid_accuracy: float, usage: float) -> None:
        now = time.monotonic()
        if now - self._drawn < EPOCH_INTERVAL:
            return
        self._drawn = now
        info = f"valid. accuracy {valid_accuracy:.1%}  capacity usage {usage:.1%}"
        self._rich.update(self._rows["epochs"], completed=epoch + 1, info=info)
        if pace.n_runs > 1:
            self._rich.update(self._rows["runs"], info=pace.left())
        else:
            self._rich.update(self._rows["tasks"], info=f"{pace.label}  {pace.left()}")

    def stop(self) -> None:
        if self._rich.live.is_started:
            self._rich.stop()


class FileProgress(Progress):
    """Append every event to a file, one JSON object a line: {"event": "task_done", "task": 0, ...}.

    Epochs are thinned to one in `EPOCH_INTERVAL` seconds.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._written = 0.0

    def _write(self, event: str, **values: object) -> None:
        with contextlib.suppress(OSError), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **values}, default=float) + "\n")

    def sweep_started(self, n_runs: int) -> None:
        self._write("sweep_started", n_runs=n_runs)

    def run_started(self, run_id: str, label: str, n_tasks: int, max_epochs: int, tasks_done: int) -> None:
        self._written = 0.0  # the first epoch tells whether a task is resumed
        self._write(
            "run_started", run_id=run_id, label=label, n_tasks=n_tasks, max_epochs=max_epochs, tasks_done=tasks_done
        )

    def epoch_done(self, task: int, epoch: int, valid_accuracy: float, usage: float) -> None:
        now = time.monotonic()
        if now - self._written >= EPOCH_INTERVAL:
            self._written = now
            self._write("epoch_done", task=task, epoch=epoch, valid_accuracy=valid_accuracy, usage=usage)

    def task_done(self, task: int, epochs: int, accuracy: float, usage: float) -> None:
        self._write("task_done", task=task, epochs=epochs, accuracy=accuracy, usage=usage)

    def run_done(self, loaded: bool) -> None:
        self._write("run_done", loaded=bool(loaded))


def follow(path: Path | str, progress: Progress, until: Callable[[], bool], interval: float = EPOCH_INTERVAL) -> None:
    """Replay into `progress` the events that a `FileProgress` in another process appends to `path`.

    Returns once `until()` is true and everything written by then is replayed. The file may not exist yet.
    """
    position = 0
    while True:
        last = until()
        position = _replay(Path(path), progress, position)
        if last:
            return
        time.sleep(interval)


def _replay(path: Path, progress: Progress, position: int) -> int:
    """Replay the complete lines from byte `position` on; return where the next one begins."""
    try:
        with open(path, "rb") as file:
            file.seek(position)
            complete, newline, _ = file.read().rpartition(b"\n")
    except OSError:
        return position
    for line in complete.splitlines():
        values = json.loads(line)
        getattr(progress, values.pop("event"))(**values)
    return position + len(complete) + len(newline)


class _Tee(Progress):
    """Every event to each of `displays`."""

    def __init__(self, *displays: Progress) -> None:
        for event in (*EVENTS, "close"):
            setattr(self, event, functools.partial(self._each, [getattr(display, event) for display in displays]))

    @staticmethod
    def _each(receivers: list[Callable[..., None]], *args: Any, **kwargs: Any) -> None:
        for receive in receivers:
            receive(*args, **kwargs)


def default_progress() -> Progress:
    """Return what suits the place: bars or lines on standard error, lines below the cell in a notebook.

    Where $HATLAB_PROGRESS_FILE names a file, the events go there as well: so a notebook's kernel tells the process
    that started it.
    """
    console = ConsoleProgress(sys.stdout if _in_notebook() else sys.stderr)
    path = os.environ.get(PROGRESS_FILE)
    return _Tee(FileProgress(path), console) if path else console


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
