"""What a long run tells while it goes, where its runs stand by that, and how long the rest will take.

Training calls the methods of `Progress`; `hatlab.support.console` shows it, `FileProgress` and `Replay` take it to
another process.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["EPOCH_INTERVAL", "Eta", "FileProgress", "Progress", "Relay", "Replay", "RunEta", "Shared", "format_seconds"]

EPOCH_INTERVAL: Final = 0.1  # seconds; an epoch can last 20 ms, and nobody reads faster


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


@dataclass
class RunEta:
    """Where one run stands; times are those of the clock of its `Eta`."""

    number: int  # from 1, in the order in which runs started
    label: str
    n_tasks: int
    max_epochs: int
    tasks_done: int
    started: float
    task_started: float
    heard: float  # its last epoch or task
    seconds: float = 0.0  # that the last task took or, once the run has ended, the run
    ended: float | None = None
    epochs: int = 0  # of the present task
    before: int | None = None  # those of them that an earlier process did; not known until an epoch is heard of
    finished: int = 0  # epochs of finished tasks that this process did
    loaded: bool = False

    @property
    def here(self) -> int:
        """The epochs that this process did."""
        return self.finished + self.epochs - (self.before or 0)


class Eta(Progress):
    """Where the runs of a sweep stand and how long the rest will take.

    Early stopping makes the length of a task unpredictable, so the tasks finished so far are the measure of those to
    come. Until one is finished there is only an upper bound: every epoch the config allows.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.sweep_started(1)

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

    def run(self, run_id: str) -> RunEta:
        """The run of that id; one that was never announced has no tasks and is called by its id."""
        if run_id not in self.runs:
            self.run_started(run_id, run_id, 0, 0, 0)
        return self.runs[run_id]

    def sweep_started(self, n_runs: int) -> None:
        self.started = self.clock()
        self.runs: dict[str, RunEta] = {}
        self._announced = n_runs
        self._lengths = (0, 0)  # finished tasks, and their epochs

    def run_started(self, run_id: str, label: str, n_tasks: int, max_epochs: int, tasks_done: int) -> None:
        now = self.clock()
        number = self.runs[run_id].number if run_id in self.runs else len(self.runs) + 1
        self.runs[run_id] = RunEta(number, label, n_tasks, max_epochs, tasks_done, now, now, now)

    def epoch_done(self, run_id: str, task: int, epoch: int, valid_accuracy: float, usage: float) -> None:
        run = self.run(run_id)
        run.epochs, run.heard = epoch + 1, self.clock()
        run.before = epoch if run.before is None else min(epoch, run.before)

    def task_done(self, run_id: str, task: int, epochs: int, accuracy: float, usage: float) -> None:
        run, now = self.run(run_id), self.clock()
        run.seconds = now - run.task_started
        run.finished += epochs - (epochs if run.before is None else run.before)
        run.tasks_done, run.epochs, run.before = task + 1, 0, 0
        run.task_started = run.heard = now
        self._lengths = self._lengths[0] + 1, self._lengths[1] + epochs

    def run_done(self, run_id: str, loaded: bool) -> None:
        run = self.run(run_id)
        run.tasks_done, run.loaded, run.ended = run.n_tasks, loaded, self.clock()
        run.seconds = run.ended - run.started

    def summary(self) -> str:
        """Return "12 runs: 21 of 60 tasks, about 20 s left"; "" where nothing is being trained."""
        if not self.runs or self.runs_done == self.n_runs:
            return ""
        left = self.left()
        runs = f"{self.n_runs} run{'s' if self.n_runs > 1 else ''}"
        return f"{runs}: {self.tasks_done} of {self.n_tasks} tasks{f', {left}' if left else ''}"

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

    def _length(self, run: RunEta) -> float:
        """The epochs expected of one task."""
        n, epochs = self._lengths
        return min(epochs / n, run.max_epochs) if n else run.max_epochs

    def _waiting(self, amounts: Sequence[float]) -> float:
        """What the runs that have not started will add to the `amounts` of those that have, 0 being no measure."""
        known = [amount for amount in amounts if amount]
        return (self.n_runs - len(self.runs)) * sum(known) / len(known) if known else 0.0


class Relay(Progress):
    """Passes every event to one method, `receive`."""

    def __init__(self) -> None:
        for event in EVENTS:
            names = list(inspect.signature(getattr(Progress, event)).parameters)[1:]
            setattr(self, event, functools.partial(self._pass_on, event, names))

    def _pass_on(self, event: str, names: Sequence[str], *args: Any, **kwargs: Any) -> None:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        self.receive(event, {name: given[name] for name in names})

    def receive(self, event: str, values: Mapping[str, Any]) -> None:
        """`event` is the name of a method of `Progress`, `values` are its arguments, in order."""
        raise NotImplementedError


class FileProgress(Relay):
    """Append every event to a file, one JSON object a line: {"event": "task_done", "run_id": "3f…", "task": 0, ...}.

    Epochs are thinned: of all runs together, twice in `EPOCH_INTERVAL` seconds at most, in the long run. A file that
    cannot be written, as on a full disk, stops nothing.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        self.path = Path(path)
        self._written: dict[str, float] = {}  # when an epoch of each run under way was last written
        self._latest = -math.inf

    def receive(self, event: str, values: Mapping[str, Any]) -> None:
        if event == "sweep_started":
            self._written.clear()
        elif event == "run_started":
            self._written[values["run_id"]] = -math.inf  # its first epoch tells whether a task is resumed
        elif event == "run_done":
            self._written.pop(values["run_id"], None)
        elif event == "epoch_done" and not self._is_due(values["run_id"]):
            return
        with contextlib.suppress(OSError), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **values}, default=float) + "\n")

    def _is_due(self, run_id: str) -> bool:
        """Whether an epoch of this run is to be written, which is noted."""
        now = time.monotonic()
        # The epochs of a group end in one instant, always in the same order. The first keeps the display moving; each
        # of the others is written when it is its turn.
        turn = now - self._written.get(run_id, -math.inf) >= EPOCH_INTERVAL * len(self._written)
        if due := turn or now - self._latest >= EPOCH_INTERVAL:
            self._written[run_id] = self._latest = now
        return due


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


class Shared(Relay):
    """Passes every event to each of `displays`, one event at a time, from whatever thread it comes."""

    def __init__(self, *displays: Progress) -> None:
        super().__init__()
        self._displays, self._lock = displays, threading.Lock()

    def receive(self, event: str, values: Mapping[str, Any]) -> None:
        with self._lock:
            for display in self._displays:
                getattr(display, event)(*values.values())

    def close(self) -> None:
        for display in self._displays:
            display.close()
