"""One run of a notebook in a batch: from its lock to its status.

`perform` is called in a thread of a worker, in this process or anywhere else that sees the same results folder. It
writes the status from the end of the kernel's process, the manifest and the artifacts, whatever the notebook writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hatlab.batches import post_mortem
from hatlab.batches.dependencies import as_of_now, changes
from hatlab.batches.kernels import STOP_SECONDS, Execution, Failure
from hatlab.batches.ledger import FOLDER, HEARTBEAT, Entry, NotebookRun, State, Status
from hatlab.batches.meters import energy, gpu_memory
from hatlab.batches.notebook import Notebook
from hatlab.batches.processes import end_marked, memory
from hatlab.config import ConfigError
from hatlab.support.artifacts import complete
from hatlab.support.console import PROGRESS_FILE
from hatlab.support.paths import RUN
from hatlab.support.provenance import checksum, now

__all__ = ["Assignment", "perform", "request_stop"]

TICK: Final = 0.2  # seconds between two looks at whether a kernel has ended
LOOK: Final = 1.0  # seconds between two looks at its memory, which cost more
ASK: Final = 10.0  # seconds between two looks at the memory of GPUs
PAUSE: Final = 10.0  # seconds between two looks after which they do not count: a machine that was suspended
SILENCE: Final = 60.0  # seconds without a heartbeat after which a kernel is ended
PATIENCE: Final = 10.0  # seconds for which the last word on a run is tried to be written
GIGABYTE: Final = 1_000_000_000
STOPPED: Final = "stopped; goes on where it was"

_stops: dict[str, bool] = {}  # batch call -> whether its kernels are to be killed, not interrupted; per process


@dataclass(frozen=True)
class Assignment:
    """One run, and how it is to be made. Travels to the worker, so nothing here belongs to one machine but paths.

    Attributes:
        run: what to run.
        notebook: the notebook's file, as it was when the batch was planned.
        results: the results folder, which client and workers share.
        cwd: the kernel's current folder, where that exists; else the results folder.
        call: the call of `batch` that asks, for `request_stop`.
        environment: variables for the kernel, over those of the worker.
        retries: how many times it is tried again if a cell fails or its kernel dies.
        timeout: seconds after which the kernel is ended; None: never.
        memory: bytes that kernel and children may hold; None: a fair share of a Dask worker's.
    """

    run: NotebookRun
    notebook: Path
    results: Path
    cwd: Path
    call: str
    environment: dict[str, str] = field(default_factory=dict)
    retries: int = 0
    timeout: float | None = None
    memory: int | None = None


def request_stop(call: str, now: bool = False) -> None:
    """End the runs of one call of `batch` in this process: interrupt their kernels, or kill them."""
    _stops[call] = now


def perform(job: Assignment) -> Status:
    """Execute the run, again if it fails and may be, and return how it ended; "queued" if it was asked to stop.

    Raises:
        OSError: the results folder cannot be written.
    """
    entry, wanted = Entry(job.results, job.run.run_id), _wanted_by_dask()
    while job.call not in _stops and wanted():
        with entry.lock(wait=1) as held:
            if not held:  # someone else is at it: another batch, or one that is not quite dead yet
                continue
            before = entry.status()
            if before.state == "done":
                return before
            for left in range(job.retries, -1, -1):
                watch = _Watch(job, entry, wanted)
                status = watch.watch()
                if not (watch.may_be_retried and left) or job.call in _stops:
                    break
            return status
    return Status("queued", reason=STOPPED)


class _Watch:
    """Watches over one kernel, and writes what becomes of it."""

    def __init__(self, job: Assignment, entry: Entry, wanted: Any) -> None:
        self.job, self.entry, self.wanted = job, entry, wanted
        self.limit = job.memory or _fair_share()
        self.cwd = job.cwd if job.cwd.is_dir() else job.results
        self.clock = self.wrote = self.looked = self.heard = self.awake = time.monotonic()
        self.may_be_retried = False
        self.joules = energy()
        self.asked = 0.0  # when the GPU was asked
        before = entry.written()
        attempt = before.attempt + 1 if before else 1
        self.status = Status(
            "running", attempt, started=now(), heartbeat=now(), host=socket.gethostname(), pid=os.getpid()
        )

    def watch(self) -> Status:
        end_marked(RUN, str(self.entry.folder))  # if the process that watched over the last one was killed
        self.entry.describe(self.job.run)
        self.entry.write(self.status)
        try:
            if problem := self._changed():
                return self._end("queued", problem)
            return self._execute()
        except Exception as error:  # a run that ends has a status, whatever went wrong here
            return self._end("failed", f"{type(error).__name__}: {error}")

    def _execute(self) -> Status:
        notebook = Notebook(Path(self.job.run.notebook), self.job.notebook.read_text(encoding="utf-8"))
        if notebook.checksum != self.job.run.source:
            raise ConfigError(f"{self.job.notebook} was altered after the batch was planned")
        partial, executed = (self.entry.folder / f"{notebook.stem}{end}" for end in (".partial.ipynb", ".ipynb"))
        # of an outcome that was damaged, or of an earlier attempt
        for old in (self.entry.manifest, executed, self.entry.folder / post_mortem.FILE):
            old.unlink(missing_ok=True)
        place = {"results": str(self.job.results), "profile": FOLDER, "figure": self.entry.run_id}
        shown = {"results": self._results_shown()}
        execution = Execution(
            notebook,
            partial,
            {**self.job.run.given, **{name: value for name, value in place.items() if name in notebook.parameters}},
            run=str(self.entry.folder),
            environment={PROGRESS_FILE: "", **self.job.environment},
            cwd=self.cwd,
            shown={name: value for name, value in shown.items() if name in notebook.parameters},
        )
        execution.start()
        state, reason = self._follow(execution)
        end_marked(RUN, str(self.entry.folder))
        self._count(execution)
        failure = execution.failure
        if state != "queued" and (state is not None or failure is not None):
            self._post_mortem(execution, failure, f"{state}: {reason}" if state is not None else str(failure))
        if state is not None:  # also if it came to its end: a cell may have caught the interrupt, and left its work
            return self._end(state, reason, failure if state != "queued" else None)
        if not self.entry.folder.is_dir():
            return self._end("failed", "the notebook deleted the folder of its run")
        if failure is None:
            os.replace(partial, executed)
            return self._finish(notebook, executed)
        self.may_be_retried = True
        return self._end("killed" if failure.died else "failed", str(failure), failure)

    def _post_mortem(self, execution: Execution, failure: Failure | None, reason: str) -> None:
        """Leave what is known of an end that was none, for people, where the run's files are."""
        run = self.job.run
        values = ", ".join(f"{name} = {json.dumps(value)}" for name, value in run.given.items())
        told = post_mortem.text(
            f"{run.run_id}  {run.notebook}  {values}", reason, failure.traceback if failure else "",
            failure.frames if failure else "", list(execution.output), self.status.cells,
        )  # fmt: skip
        with contextlib.suppress(OSError):  # a disk that is full has no room for it
            (self.entry.folder / post_mortem.FILE).write_text(told, encoding="utf-8")

    def _results_shown(self) -> str:
        """The results folder as the executed copy names it, which is passed on: no folder of this machine."""
        results, cwd = self.job.results, self.job.cwd
        return str(results.relative_to(cwd) if results.is_relative_to(cwd) else results)

    def _follow(self, execution: Execution) -> tuple[State | None, str]:
        """Wait for the kernel, and end it when it is time; return the state if it was ended from here, and why."""
        state: State | None = None
        reason, asked = "", 0.0
        while execution.is_alive():
            execution.join(TICK)
            if not execution.is_alive():
                break
            if state is None:
                state, reason = self._verdict(execution)
                if state == "killed":
                    execution.kill()
                elif state is not None:
                    execution.interrupt()
                asked = time.monotonic()
            elif _stops.get(self.job.call) or time.monotonic() - asked > STOP_SECONDS:
                execution.kill()
                break
            self._beat(execution)
        if execution.is_alive():
            return state or "killed", reason or "the kernel did not end"
        return state, reason

    def _verdict(self, execution: Execution) -> tuple[State | None, str]:
        """Return the state that the run is to be ended with now, and why; None if it may go on."""
        moment, where = time.monotonic(), f"in cell [{execution.cell}]"
        if (asleep := moment - self.awake) > PAUSE:  # this process was stopped, and its kernel with it, as by a suspend
            self.clock, self.heard = self.clock + asleep, self.heard + asleep
        self.awake = moment
        if execution.beating:
            self.heard = moment
        if self.job.call in _stops or not self.wanted():
            return "queued", STOPPED
        if self.job.timeout is not None and moment - self.clock > self.job.timeout:
            return "timed out", f"{where} after {self.job.timeout:g} s"
        if (silent := moment - self.heard) > SILENCE:
            return "killed", f"{where}: its kernel gave no sign of life for {silent:.0f} s"
        if execution.pid and moment - self.looked > LOOK:
            self.looked, held = moment, memory(execution.pid)
            on_gpu = self.status.gpu_memory
            if moment - self.asked > ASK:
                self.asked, on_gpu = moment, max(on_gpu, gpu_memory(execution.pid))
            self.status = replace(self.status, memory=max(held, self.status.memory), gpu_memory=on_gpu)
            if execution.cells:
                execution.cells[-1]["memory"] = max(held, execution.cells[-1]["memory"])
            if self.limit and held > self.limit:
                amounts = f"it held {held / GIGABYTE:.2f} GB of memory, and {self.limit / GIGABYTE:.2f} GB are allowed"
                return "killed", f"{where}: {amounts}"
        return None, ""

    def _beat(self, execution: Execution) -> None:
        """Write a sign of life, if it is time and the kernel gave one."""
        moved = execution.cell != self.status.cell or (execution.pid or 0) != self.status.kernel
        moment = time.monotonic()
        if moment - self.wrote < (TICK if moved else HEARTBEAT) or self.heard < self.wrote:
            return
        self.wrote = moment
        execution.measure()
        self._count(execution)
        self.status = replace(
            self.status,
            heartbeat=now(),
            cell=execution.cell,
            n_cells=execution.n_cells,
            kernel=execution.pid or 0,
            seconds=self._seconds(),
        )
        with contextlib.suppress(OSError):  # a disk that cannot be written for a while
            self.entry.write(self.status)

    def _count(self, execution: Execution) -> None:
        """Note what the run has cost until now."""
        cells = [dict(cell) for cell in execution.cells]
        joules = energy()
        used = joules - self.joules if joules is not None and self.joules is not None else 0.0
        cpu = round(sum(cell["cpu"] for cell in cells), 2)
        self.status = replace(self.status, cells=cells, cpu=cpu, energy=max(0.0, round(used, 1)))

    def _seconds(self) -> float:
        return round(time.monotonic() - self.clock, 1)

    def _changed(self) -> str:
        """Say what this machine and this moment have otherwise than the batch was planned with, or return ""."""
        found = changes(self.job.run, as_of_now(self.job.run, self.cwd))
        where = f"on {self.status.host}, since the batch was planned: start the batch again"
        return f"{'; '.join(found)} {where}" if found else ""

    def _finish(self, notebook: Notebook, executed: Path) -> Status:
        """See that everything is there that the manifest declares, and call the run done."""
        if problem := self._changed():  # while it ran: nobody knows which of the two it has read
            return self._end("queued", problem)
        run = self.job.run
        facts = {
            "run_id": run.run_id,
            "notebook": {"name": notebook.name, "checksum": notebook.checksum},
            "parameters": run.values,
            "hatlab": run.hatlab,
            "host": self.status.host,
            "started": self.status.started,
            "seconds": self._seconds(),
        }
        manifest = complete(self.entry.folder, executed, facts)
        for name, wanted in manifest["artifacts"].items():
            path = self.entry.folder / name
            if Path(name).name != name or not path.is_file() or checksum(path) != wanted:
                return self._end("failed", f"{name}, which the notebook declares, is missing or was altered")
        used = manifest.get("data", {})
        if other := [file for file, planned in run.data.items() if used.get(file, planned) != planned]:
            return self._end("failed", f"{', '.join(other)}: other images were used than the batch was planned with")
        self.status = replace(self.status, manifest=checksum(self.entry.manifest))
        return self._end("done", "" if len(manifest["artifacts"]) > 1 else "left no figure and no table")

    def _end(self, state: State, reason: str, failure: Failure | None = None) -> Status:
        error = {k: v for k, v in failure._asdict().items() if k != "frames"} if failure else {}
        self.status = replace(
            self.status, state=state, reason=reason, ended=now(), heartbeat=now(), seconds=self._seconds(), error=error
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if not self.entry.folder.is_dir():
                    self.entry.describe(self.job.run)
                self.entry.write(self.status)
                return self.status
            except OSError as problem:  # a disk that is full, or cannot be written for a while
                if time.monotonic() > deadline:
                    # which is what the files say to whoever reads them
                    why = f"its status could not be written ({problem.strerror or problem}); it would be: {state}"
                    return replace(self.status, state="killed", reason=why)
                time.sleep(1)


def _dask_worker() -> Any:
    """Return the Dask worker that this thread belongs to; None if to none."""
    try:
        from distributed import get_worker

        return get_worker()
    except (ImportError, ValueError):
        return None


def _wanted_by_dask() -> Any:
    """Return a function that says whether the run is still wanted: a scheduler drops what a client that is gone has
    asked for, and a worker does not end what it has begun."""
    worker = _dask_worker()
    if worker is None:
        return lambda: True
    key = worker.get_current_task()
    return lambda: key in worker.state.tasks and worker.state.tasks[key].state != "cancelled"


def _fair_share() -> int | None:
    """Return the bytes that one of the runs on this Dask worker may hold; None where there is none."""
    worker = _dask_worker()
    limit = worker.memory_manager.memory_limit if worker is not None else None
    return limit // worker.state.nthreads if limit else None
