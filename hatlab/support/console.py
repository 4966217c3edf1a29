"""The progress of training for people: bars in a terminal, plain lines elsewhere.

What cannot be written (a closed pipe, a full disk) is dropped; it never stops the training that it shows.
"""

from __future__ import annotations

import atexit
import math
import os
import sys
import time
from typing import Final, TextIO, cast

from hatlab.support.progress import EPOCH_INTERVAL, Eta, FileProgress, Progress, RunEta, Shared, format_seconds
from hatlab.support.streams import Tolerant

__all__ = ["PROGRESS_FILE", "ConsoleProgress", "default_progress", "in_notebook"]

PROGRESS_FILE: Final = "HATLAB_PROGRESS_FILE"
MANY_RUNS: Final = 20  # whose tasks nobody reads one by one


class ConsoleProgress(Progress):
    """Live bars where `stream` is a terminal; elsewhere plain lines: one per task, per loaded run, and at the end. Of
    more than `MANY_RUNS` runs only how many tasks are done, about ten times.

    Args:
        stream: where to write; standard error if not given.
        live: bars (True) or plain lines (False); decided by `stream` if not given.
    """

    def __init__(self, stream: TextIO | None = None, live: bool | None = None) -> None:
        self.stream = Tolerant(sys.stderr if stream is None else stream)
        self._eta = Eta()
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

    def _name(self, run: RunEta) -> str:
        return f"run {run.number}/{self._eta.n_runs}  {run.label}" if self._eta.n_runs > 1 else run.label

    def _left(self) -> str:
        """The time left, once where many tasks end in one instant."""
        now = time.monotonic()
        if now - self._told < EPOCH_INTERVAL:
            return ""
        self._told = now
        return self._eta.left()

    def _count(self) -> None:
        """Say how far all runs are, if a tenth more is done."""
        done, n = self._eta.tasks_done, self._eta.n_tasks
        if 10 * done // n > self._tenths and done < n:
            self._tenths = 10 * done // n
            self._line(f"{done} of {n} tasks of {self._eta.n_runs} runs done", self._eta.left())

    def sweep_started(self, n_runs: int) -> None:
        self._eta.sweep_started(n_runs)
        self._tenths = 0

    def run_started(self, run_id: str, label: str, n_tasks: int, max_epochs: int, tasks_done: int) -> None:
        self._eta.run_started(run_id, label, n_tasks, max_epochs, tasks_done)
        run = self._eta.run(run_id)
        if 0 < tasks_done < n_tasks:
            self._line(self._name(run), f"resumed after task {tasks_done}/{n_tasks}")
        if self._bars:
            self._bars.show(self._eta, run)

    def epoch_done(self, run_id: str, task: int, epoch: int, valid_accuracy: float, usage: float) -> None:
        self._eta.epoch_done(run_id, task, epoch, valid_accuracy, usage)
        if self._bars and self._bars.due():
            info = f"valid. accuracy {valid_accuracy:.1%}  capacity usage {usage:.1%}"
            self._bars.show(self._eta, self._eta.run(run_id), info)

    def task_done(self, run_id: str, task: int, epochs: int, accuracy: float, usage: float) -> None:
        self._eta.task_done(run_id, task, epochs, accuracy, usage)
        run = self._eta.run(run_id)
        if self._bars:
            return self._bars.show(self._eta, run)
        if self._eta.n_runs > MANY_RUNS:
            return self._count()
        self._line(
            self._name(run),
            f"task {task + 1}/{run.n_tasks}",
            f"{epochs} epochs",
            f"test accuracy {accuracy:.1%}",
            f"capacity usage {usage:.1%}",
            # beside others, a task's time says little
            format_seconds(run.seconds) if self._eta.n_runs == 1 else "",
            self._left(),
        )

    def run_done(self, run_id: str, loaded: bool) -> None:
        eta = self._eta
        eta.run_done(run_id, loaded)
        run = eta.run(run_id)
        if loaded and eta.n_runs <= MANY_RUNS:
            self._line(self._name(run), "finished before, loaded")
        elif self._bars:
            self._line(self._name(run), f"done in {format_seconds(run.seconds)}")
        if self._bars:
            self._bars.show(eta, run)
        if eta.runs_done == eta.n_runs:
            if eta.n_runs > 1:
                n_loaded = sum(run.loaded for run in eta.runs.values())
                told = f"{eta.n_runs} runs done in {format_seconds(eta.clock() - eta.started)}"
                self._line(told + f" ({n_loaded} loaded)" * (n_loaded > 0))
            self.close()

    def note(self, text: str) -> None:
        self._line(text)

    def close(self) -> None:
        self._eta.sweep_started(1)
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

    def show(self, eta: Eta, run: RunEta, info: str = "") -> None:
        update, rows, many = self._rich.update, self._rows, eta.n_runs > 1
        place = f"task {min(run.tasks_done + 1, run.n_tasks)}/{run.n_tasks}" if many else eta.left()
        update(rows["runs"], completed=eta.runs_done, total=eta.n_runs, info=eta.left() if many else "", visible=many)
        update(rows["tasks"], completed=eta.tasks_done, total=eta.n_tasks, info=f"{run.label}  {place}")
        update(rows["epochs"], completed=run.epochs, total=run.max_epochs, info=info)
        self._rich.start()

    def stop(self) -> None:
        if self._rich.live.is_started:
            self._rich.stop()


def default_progress() -> Progress:
    """Return what suits the place: bars or lines on standard error, lines below the cell in a notebook.

    Where $HATLAB_PROGRESS_FILE names a file, the events go there as well: so a notebook's kernel tells the process
    that started it.
    """
    console = ConsoleProgress(sys.stdout if in_notebook() else sys.stderr)
    path = os.environ.get(PROGRESS_FILE)
    return Shared(FileProgress(path), console) if path else console


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
