"""Batches: the runs of a plan, handed to workers and followed to their ends.

Where each stands is on the disk (`ledger`), so a batch that was stopped, by whatever, is gone on with by the same call.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from hatlab.batches import causes, cost
from hatlab.batches.cluster import Limits, Scheduler, Threads, cores
from hatlab.batches.ledger import Entry, NotebookRun, State, Status
from hatlab.batches.notebook import Notebook
from hatlab.batches.notices import Notices, message
from hatlab.batches.plans import Batch, Planned, find, names, plan
from hatlab.batches.runner import Assignment
from hatlab.batches.view import Display
from hatlab.support.progress import format_seconds
from hatlab.support.provenance import now

__all__ = ["Batch", "Limits", "Planned", "batch", "carry_out", "default_workers", "find", "names", "plan"]

STOP_SECONDS: Final = 20.0  # for kernels that were asked to end
STALL_SECONDS: Final = 3600.0  # in which a run is expected to end or to come to another cell
LOOK_SECONDS: Final = 30.0  # between two looks at whether they do
FIRST: Final = 5  # runs that end a batch if all of them end by the same cause

Ended = Callable[[NotebookRun, Status], None]


def batch(
    notebook: Path | str,
    grid: Any = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    over: Mapping[str, Sequence[Any]] | None = None,
    name: str | None = None,
    results: Path | str | None = None,
    inputs: Sequence[Path | str] = (),
    workers: int | None = None,
    scheduler: str | None = None,
    resources: Mapping[str, float] | None = None,
    retries: int = 0,
    timeout: float | None = None,
    memory: int | str | None = None,
    stop_after: int | None = None,
    notify: Sequence[str] = (),
    notify_command: str | None = None,
    stall: float = STALL_SECONDS,
    display: Display | None = None,
) -> Batch:
    """Run a notebook with each set of parameters of a grid; what is done is kept, all else is made.

    Each run has a kernel and a folder of its own, `<results>/notebooks/<run id>`. A run that fails does not stop the
    others: look at `Batch.statuses` of what is returned.

    Args:
        notebook: a notebook whose cell tagged `parameters` has lines `name: type = value`.
        grid: path of a YAML file, or what it would hold (see `hatlab.batches.grids`); None: `parameters` and `over`
            alone.
        parameters: name -> value, the same in all runs.
        over: name -> values, all combinations, the last one varying fastest.
        name: of the batch; None: made from the notebook's name and the parameters.
        results: results folder; None: as `hatlab.run`.
        inputs: files and folders on which the runs depend, beside the local modules that the notebook imports: when one
            has changed, all runs are made again.
        workers: runs at a time on this machine; None: one for each core, one if the runs are on a GPU.
        scheduler: address of a Dask scheduler whose workers see this folder and have this hatlab; None: this machine.
        resources: what each run takes of a worker that was started with --resources, such as {"GPU": 1}.
        retries: how many times a run is tried again of which a cell failed or the kernel died.
        timeout: seconds that a run may take.
        memory: bytes that a run may hold, or text such as "4GB"; None: a fair share of the machine's, or worker's.
        stop_after: so many runs that end by the same cause (`causes.alike`) end the batch, what is done kept and the
            rest left for the next call; None: the first five runs that end, if all do by the same; 0: none do.
        notify: Apprise's addresses to which a message goes when the batch ends, stops or stalls.
        notify_command: a program with arguments that gets the message on its standard input.
        stall: seconds in which no run has ended or come to another cell, after which a batch is said to be stalled.
        display: what shows the progress; None: bars on a terminal, a few lines elsewhere.

    Raises:
        ConfigError, DatasetError: before anything is started; all that is wrong at once.
        ClusterError: no scheduler answers, or it is lost; runs that workers have begun end there.
        KeyboardInterrupt: after the kernels have ended; what is not done is queued for the next call.
    """
    # what is wrong with them is said before anything is planned
    limits = Limits(workers, scheduler, resources, retries, timeout, memory, stop_after)
    notices = Notices(notify_command, notify)
    source, here = Notebook.read(notebook), scheduler is None
    planned = plan(source, grid, parameters=parameters, over=over, name=name, results=results, inputs=inputs, here=here)
    carry_out(planned, [source], limits, display=display, notices=notices, stall=stall)
    return planned


def carry_out(
    planned: Batch,
    notebooks: Sequence[Notebook],
    limits: Limits | None = None,
    *,
    display: Display | None = None,
    ended: Ended | None = None,
    environments: Mapping[str, Mapping[str, str]] | None = None,
    notices: Notices | None = None,
    stall: float = STALL_SECONDS,
) -> None:
    """Make the runs of a plan that are not done. What is not described here is as for `batch`.

    Args:
        planned: the plan, which is written to its folder.
        notebooks: the notebooks of its runs, as they were when it was made.
        limits: what the runs may take.
        ended: told of each run that has ended and how: first of those that were done before, then of each when it ends.
        environments: run id -> variables of its kernel, over those that all have.
        notices: who is told when it ends, stops or stalls.

    Raises:
        ClusterError, KeyboardInterrupt: as `batch`.
    """
    limits = limits or Limits()
    sources, looked = planned.save(notebooks), planned.look()
    todo = [item.run for item in looked if not item.done]
    with display or Display() as shown:
        for warning in planned.warnings:
            shown.note(f"warning: {warning}")
        shown.start(planned, looked)
        for item in looked:
            if item.done and ended is not None:
                ended(item.run, item.status)
        if not todo:
            return
        for run in todo:
            _queue(planned.entry(run), run)
        threads = min(limits.workers or default_workers(todo), len(todo))
        with Scheduler(limits.scheduler, limits.resources) if limits.scheduler else Threads(threads) as workers:
            shown.note(str(workers))
            alone = not (limits.scheduler or environments)  # else neither workers nor notebooks are alike
            expected = cost.estimate(planned, todo, threads) if alone else None
            call = _Call(planned, workers, shown, ended, limits.stop_after, notices or Notices(), stall)
            for run in todo:
                told = {} if limits.scheduler else shown.environment(run)
                call.submit(run, sources[run.source], limits, {**told, **(environments or {}).get(run.run_id, {})})
            call.watch()
            if expected is not None and not call.stopped:
                cost.keep(planned, replace(expected, took=time.monotonic() - call.began))


class _Call:
    """The runs of one call of `batch` that are not done yet, handed to workers."""

    def __init__(
        self, planned: Batch, workers: Threads | Scheduler, shown: Display, ended: Ended | None, stop_after: int | None,
        notices: Notices, stall: float,
    ) -> None:  # fmt: skip
        self.planned, self.workers, self.shown, self.ended = planned, workers, shown, ended
        self.stop_after, self.notices, self.stall = stop_after, notices, stall
        self.began = self.moved = self.looked = time.monotonic()
        self.places: dict[str, Any] = {}  # run id -> the cell that it was seen in
        self.causes: Counter[Any] = Counter()  # of the runs that ended in this call; None: of those that are done
        self.stopped = ""  # why the batch was ended before its runs were
        self.name = secrets.token_hex(4)
        self.pending: dict[Any, NotebookRun] = {}  # future -> run
        self.environment = {**workers.environment, "HATLAB_RESULTS": str(planned.results)}
        if "HATLAB_DATA" in os.environ:
            self.environment["HATLAB_DATA"] = str(Path(os.environ["HATLAB_DATA"]).expanduser().absolute())

    def submit(self, run: NotebookRun, notebook: Path, limits: Limits, environment: Mapping[str, str]) -> None:
        job = Assignment(
            run, notebook, self.planned.results, Path.cwd(), self.name, {**self.environment, **environment},
            limits.retries, limits.timeout, limits.bytes or self.workers.memory,
        )  # fmt: skip
        self.pending[self.workers.submit(job)] = run

    def watch(self) -> None:
        """Follow the runs to their ends; at Ctrl-C, and when too many fail alike, have their kernels ended first."""
        how = "ended"
        try:
            self._follow()
            if self.stopped:
                how = f"stopped: {self.stopped}"
                self.shown.note(f"stopping: {self.stopped}; --stop-after 0 goes on whatever happens")
                self.workers.stop(self.name)
                self._follow(STOP_SECONDS)
        except KeyboardInterrupt:
            how = "stopped: by Ctrl-C or a signal"
            self.shown.note("stopping: kernels are interrupted (Ctrl-C again: killed)")
            try:
                self.workers.stop(self.name)
                self._follow(STOP_SECONDS)
            except KeyboardInterrupt:
                self.workers.stop(self.name, now=True)
                self._follow(STOP_SECONDS)
            raise
        except Exception as error:
            how = f"stopped: {type(error).__name__}: {error}"
            raise
        finally:
            self._tell(how)

    def _follow(self, seconds: float = math.inf) -> None:
        """Take what ends out of `pending` until nothing is left, for so many seconds, or until too many fail alike."""
        deadline = time.monotonic() + seconds
        while self.pending and time.monotonic() < deadline:
            for future in [future for future in self.pending if future.done()]:
                run, outcome = self.pending.pop(future), self.workers.outcome(future)
                status = outcome if isinstance(outcome, Status) else _settle(self.planned.entry(run), *outcome)
                self.moved = time.monotonic()
                self.shown.ended(run, status)
                if self.ended is not None:
                    self.ended(run, status)
                self._count(run, status)
            if self.stopped and seconds == math.inf:
                return
            self.shown.tick()
            self._look()
            time.sleep(0.1)

    def _count(self, run: NotebookRun, status: Status) -> None:
        """Note by what a run ended, and whether that is enough to end the batch."""
        if status.state == "queued" or self.stopped:
            return
        cause = causes.alike(run, status) if status.state in causes.BAD else None
        self.causes[cause] += 1
        n, of = self.causes[cause], self.causes.total()
        if cause is None or not self.pending:
            return
        if self.stop_after is None and n == of == FIRST:
            self.stopped = f"the first {FIRST} runs ended by the same cause ({causes.told(status)})"
        elif self.stop_after and n == self.stop_after:
            self.stopped = f"{n} run{'s' if n > 1 else ''} ended by the same cause ({causes.told(status)})"

    def _look(self) -> None:
        """Say once that nothing moves any more, if it does not."""
        moment = time.monotonic()
        if not self.notices or moment - self.looked < min(LOOK_SECONDS, self.stall):
            return
        self.looked = moment
        written = ((run.run_id, self.planned.entry(run).written()) for run in self.pending.values())
        places = {run_id: (status.attempt, status.cell) for run_id, status in written if status is not None}
        if places != self.places:
            self.places, self.moved = places, moment
        elif moment - self.moved > self.stall:
            self._tell(f"stalled: no run has ended or come to another cell for {format_seconds(moment - self.moved)}")
            self.moved = math.inf  # until something moves

    def _tell(self, how: str) -> None:
        if self.notices:
            statuses = self.planned.statuses()
            for problem in self.notices.send(*message(self.planned, statuses, time.monotonic() - self.began, how)):
                self.shown.note(f"warning: {problem}")


def _queue(entry: Entry, run: NotebookRun) -> None:
    """Write that a run waits, unless somebody is at it."""
    with entry.lock(wait=0.1) as held:
        if held and (before := entry.status()).state != "done":
            entry.describe(run)
            entry.write(Status("queued", before.attempt, before.reason if before.state == "queued" else ""))


def _settle(entry: Entry, state: State, reason: str) -> Status:
    """Write how a run ended whose worker could not, and return that."""
    before = entry.status()
    status = Status(state, before.attempt, reason, ended=now(), heartbeat=now())
    with contextlib.suppress(OSError), entry.lock(wait=0) as held:  # the disk may be why; then the next call sees to it
        if held and before.state != "done":
            entry.write(status)
    return status


def default_workers(runs: Sequence[NotebookRun]) -> int:
    """Return one worker for each core, but one in all if runs may be on a GPU, which they would share."""
    if any(run.values.get("device", "auto") != "cpu" for run in runs):
        import torch

        if torch.cuda.is_available():
            return 1
    return cores()
