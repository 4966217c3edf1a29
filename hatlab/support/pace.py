"""How far a sweep has come, and how long the rest of it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["EPOCH_INTERVAL", "Pace", "RunPace", "format_seconds"]

# An epoch can last 20 ms; nobody reads faster than this many seconds.
EPOCH_INTERVAL: Final = 0.1


def format_seconds(seconds: float) -> str:
    """Return a duration as people say it: "4.2 s", "3 min 20 s", "2 h 05 min"; "?" for what is none."""
    if not 0 <= seconds < 1e9:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class RunPace:
    """Where one run stands; times are those of the clock of its `Pace`."""

    number: int  # from 1, in the order in which runs started
    label: str
    n_tasks: int
    max_epochs: int
    tasks_done: int
    started: float
    task_started: float
    heard: float  # its last epoch or task
    ended: float | None = None
    epochs: int = 0  # of the present task
    before: int | None = None  # those of them that an earlier process did; not known until an epoch is heard of
    finished: int = 0  # epochs of finished tasks that this process did
    loaded: bool = False

    @property
    def here(self) -> int:
        """The epochs that this process did."""
        return self.finished + self.epochs - (self.before or 0)


class Pace:
    """Where the runs of a sweep stand and how long the rest will take.

    Early stopping makes the length of a task unpredictable, so the tasks finished so far are the measure of those to
    come. Until one is finished there is only an upper bound: every epoch the config allows.
    """

    def __init__(self, n_runs: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.started = clock()
        self.runs: dict[str, RunPace] = {}
        self._announced = n_runs
        self._lengths = (0, 0)  # finished tasks, and their epochs

    @property
    def n_runs(self) -> int:
        return max(self._announced, len(self.runs))

    @property
    def runs_done(self) -> int:
        return sum(run.ended is not None for run in self.runs.values())

    @property
    def tasks_done(self) -> int:
        return sum(run.tasks_done for run in self.runs.values())

    @property
    def n_tasks(self) -> int:
        """The tasks of all runs; one that has not started is taken to have as many as those that have."""
        known = [run.n_tasks for run in self.runs.values()]
        return sum(known) + round(self._waiting(known))

    def run(self, run_id: str) -> RunPace:
        """The run of that id; one that was never announced has no tasks and is called by its id."""
        return self.runs.get(run_id) or self.start_run(run_id, run_id, 0, 0, 0)

    def start_run(self, run_id: str, label: str, n_tasks: int, max_epochs: int, tasks_done: int) -> RunPace:
        now = self.clock()
        number = self.runs[run_id].number if run_id in self.runs else len(self.runs) + 1
        self.runs[run_id] = RunPace(number, label, n_tasks, max_epochs, tasks_done, now, now, now)
        return self.runs[run_id]

    def end_epoch(self, run_id: str, epoch: int) -> RunPace:
        run = self.run(run_id)
        run.epochs, run.heard = epoch + 1, self.clock()
        run.before = epoch if run.before is None else min(epoch, run.before)
        return run

    def end_task(self, run_id: str, task: int, epochs: int) -> tuple[RunPace, float]:
        """Return the run, and how many seconds the task took."""
        run, now = self.run(run_id), self.clock()
        seconds = now - run.task_started
        run.finished += epochs - (epochs if run.before is None else run.before)
        run.tasks_done, run.epochs, run.before = task + 1, 0, 0
        run.task_started = run.heard = now
        self._lengths = self._lengths[0] + 1, self._lengths[1] + epochs
        return run, seconds

    def end_run(self, run_id: str, loaded: bool) -> tuple[RunPace, float]:
        """Return the run, and how many seconds it took."""
        run = self.run(run_id)
        run.tasks_done, run.loaded, run.ended = run.n_tasks, loaded, self.clock()
        return run, run.ended - run.started

    def left(self) -> str:
        """Return "about 20 s left", "at most 3 min 00 s left", or "" where nothing can be said."""
        now, runs = self.clock(), [run for run in self.runs.values() if not run.loaded]
        done = sum(run.here for run in runs)
        left = self._waiting([self._length(run) * run.n_tasks for run in runs])
        for run in runs:
            left += self._length(run) * (run.n_tasks - run.tasks_done) - min(run.epochs, self._length(run))
        if done == 0 or left <= 0:
            return ""
        # The epochs of a group end in one instant, one after the other, and files leave most of them out. Therefore
        # the seconds that a run takes for an epoch are counted to when it was last heard of, and then shared among as
        # many runs as were at work side by side, on average. One not heard of for long waits for memory or its turn.
        per_epoch = sum(run.heard - run.started for run in runs if run.here) / done
        patience = 3 * per_epoch + EPOCH_INTERVAL * len(runs)
        seen = [run for run in runs if run.here or now - run.started < patience]
        at_work = sum((run.ended or min(now, run.heard + patience)) - run.started for run in seen)
        side_by_side = at_work / (now - min(run.started for run in seen)) if at_work else 1.0
        bound = "about" if self._lengths[0] else "at most"
        return f"{bound} {format_seconds(per_epoch * left / side_by_side)} left"

    def _length(self, run: RunPace) -> float:
        """The epochs expected of one task."""
        n, epochs = self._lengths
        return min(epochs / n, run.max_epochs) if n else run.max_epochs

    def _waiting(self, amounts: Sequence[float]) -> float:
        """What the runs that have not started will add to the `amounts` of those that have, 0 being no measure."""
        known = [amount for amount in amounts if amount]
        return (self.n_runs - len(self.runs)) * sum(known) / len(known) if known else 0.0
