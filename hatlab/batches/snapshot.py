"""Where the training inside a notebook stands, in a few words, for whoever watches its kernel."""

from __future__ import annotations

from pathlib import Path

from hatlab.support.pace import Pace
from hatlab.support.progress import Progress, Replay

__all__ = ["Glance"]


class Glance(Progress):
    """Sums up the events that a kernel's `FileProgress` appends to `path`, which may not exist yet."""

    def __init__(self, path: Path | str) -> None:
        self._replay = Replay(path, self)
        self._pace = Pace()

    def text(self) -> str:
        """Return "12 runs: 21 of 60 tasks, about 20 s left", as of now; "" where nothing is being trained."""
        self._replay.go_on()
        pace = self._pace
        if not pace.runs or pace.runs_done == pace.n_runs:
            return ""
        runs = f"{pace.n_runs} run{'s' if pace.n_runs > 1 else ''}"
        left = pace.left()
        return f"{runs}: {pace.tasks_done} of {pace.n_tasks} tasks{f', {left}' if left else ''}"

    def sweep_started(self, n_runs: int) -> None:
        self._pace = Pace(n_runs)

    def run_started(self, run_id: str, label: str, n_tasks: int, max_epochs: int, tasks_done: int) -> None:
        self._pace.start_run(run_id, label, n_tasks, max_epochs, tasks_done)

    def epoch_done(self, run_id: str, task: int, epoch: int, valid_accuracy: float, usage: float) -> None:
        self._pace.end_epoch(run_id, epoch)

    def task_done(self, run_id: str, task: int, epochs: int, accuracy: float, usage: float) -> None:
        self._pace.end_task(run_id, task, epochs)

    def run_done(self, run_id: str, loaded: bool) -> None:
        self._pace.end_run(run_id, loaded)
