"""How far a sweep has come, and how long the rest of it will take."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pace", "format_seconds"]


def format_seconds(seconds: float) -> str:
    """Return a duration as people say it: "4.2 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Pace:
    """Where a sweep stands and how long the rest will take.

    Early stopping makes the length of a task unpredictable, so the tasks finished here are the measure of those to
    come. Until one is finished there is only an upper bound: every epoch the config allows.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.started = clock()
        self.n_runs, self.run, self.loaded = 1, 0, 0
        self.label, self.n_tasks, self.max_epochs, self.tasks_done = "", 0, 0, 0
        self.durations: list[float] = []
        self.first_epoch: tuple[int, float] | None = None  # of the present task, and when it was done
        self.epoch = 0
        self.whole = False  # whether the present task was seen from its first epoch, not resumed
        self.run_started = self.task_started = self.started

    def start_sweep(self, n_runs: int) -> None:
        self.n_runs, self.run, self.loaded, self.started = n_runs, 0, 0, self.clock()

    def start_run(self, label: str, n_tasks: int, max_epochs: int, tasks_done: int) -> None:
        self.run += 1
        self.n_runs = max(self.n_runs, self.run)
        self.label, self.n_tasks, self.max_epochs, self.tasks_done = label, n_tasks, max_epochs, tasks_done
        self.run_started = self.task_started = self.clock()
        self.first_epoch, self.whole = None, False

    def end_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if self.first_epoch is None:
            self.first_epoch = epoch, self.clock()
            self.whole |= epoch == 0

    def end_task(self, task: int) -> float:
        """Return how many seconds the task took."""
        seconds = self.clock() - self.task_started
        if self.whole:
            self.durations.append(seconds)
        self.tasks_done, self.first_epoch, self.whole = task + 1, None, True
        self.task_started = self.clock()
        return seconds

    def left(self) -> str:
        """Return "about 20 s left", "at most 3 min 00 s left", or "" where nothing can be said."""
        tasks = self.n_tasks - self.tasks_done + (self.n_runs - self.run) * self.n_tasks
        if tasks <= 0:
            return ""
        now = self.clock()
        if self.durations:
            mean = sum(self.durations) / len(self.durations)
            seconds = max(mean - (now - self.task_started), 0) + (tasks - 1) * mean
            return f"about {format_seconds(seconds)} left"
        if self.first_epoch and self.epoch > self.first_epoch[0]:
            per_epoch = (now - self.first_epoch[1]) / (self.epoch - self.first_epoch[0])
            return f"at most {format_seconds(per_epoch * (tasks * self.max_epochs - self.epoch - 1))} left"
        return ""
