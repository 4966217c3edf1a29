"""What a Dask worker does with one run of a notebook: from its lock to its status.

`perform` is called in a thread of a worker, in this process or anywhere else that sees the same results folder. It
believes nothing that the notebook says of itself: the status is written here, from what became of the kernel, the
manifest and the artifacts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hatlab.artifacts import complete
from hatlab.kernels import STOP_SECONDS, Execution, Failure, end_leftovers, memory
from hatlab.ledger import FOLDER, HEARTBEAT, Entry, NotebookRun, State, Status, now
from hatlab.notebook import Notebook
from hatlab.progress import PROGRESS_FILE
from hatlab.provenance import checksum, library_version

__all__ = ["Assignment", "RunFailed", "perform", "request_stop"]

TICK: Final = 0.2  # seconds between two looks at a kernel
PATIENCE: Final = 10.0  # seconds for which the last word on a run is tried to be written
GIGABYTE: Final = 1_000_000_000

_stops: dict[str, bool] = {}  # batch call -> whether its kernels are to be killed, not interrupted; per process


class RunFailed(RuntimeError):
    """A run that did not end well; its status is written. Dask tries it again if it may."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(state, reason)
        self.state, self.reason = state, reason

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}"


@dataclass(frozen=True)
class Assignment:
    """One run, and how it is to be made. Travels to the worker, so nothing here belongs to one machine but paths.

    Attributes:
        run: what to run.
        text: the notebook's file, as it was when the batch was planned.
        results: the results folder, which client and workers share.
        cwd: the kernel's current folder, where that exists; else the results folder.
        call: the call of `batch` that asks, for `request_stop`.
        environment: variables for the kernel, over those of the worker.
        timeout: seconds after which the kernel is ended; None: never.
        memory: bytes that kernel and children may hold; None: a fair share of the worker's.
    """

    run: NotebookRun
    text: str
    results: Path
    cwd: Path
    call: str
    environment: dict[str, str] = field(default_factory=dict)
    timeout: float | None = None
    memory: int | None = None


def request_stop(call: str, now: bool = False) -> None:
    """End the runs of one call of `batch` in this process: interrupt their kernels, or kill them."""
    _stops[call] = now


def perform(job: Assignment) -> State:
    """Execute the run and return "done", or "queued" if it was asked to stop.

    Raises:
        RunFailed: the notebook failed, was killed or ran out of time; its status is written.
        OSError: the results folder cannot be written.
    """
    entry = Entry(job.results, job.run.run_id)
    while job.call not in _stops:
        with entry.lock(wait=1) as held:
            if not held:  # someone else is at it: another batch, or one that is not quite dead yet
                continue
            if entry.status().state == "done":
                return "done"
            return _Watch(job, entry).watch()
    return "queued"


class _Watch:
    """Watches over one kernel, and writes what becomes of it."""

    def __init__(self, job: Assignment, entry: Entry) -> None:
        self.job, self.entry = job, entry
        self.limit = job.memory or _fair_share()
        self.clock = time.monotonic()
        self.wrote = self.clock
        before = entry.written()
        attempt = before.attempt + 1 if before else 1
        self.status = Status(
            "running", attempt, started=now(), heartbeat=now(), host=socket.gethostname(), pid=os.getpid()
        )

    def watch(self) -> State:
        end_leftovers(str(self.entry.folder))
        self.entry.describe(self.job.run)
        self.entry.write(self.status)
        try:
            if problem := _mismatch(self.job.run):
                return self._end("failed", problem)
            return self._execute()
        except RunFailed:
            raise
        except Exception as error:  # a run that ends has a status, whatever went wrong here
            return self._end("failed", f"{type(error).__name__}: {error}")

    def _execute(self) -> State:
        notebook = Notebook(Path(self.job.run.notebook), self.job.text)
        partial, executed = (self.entry.folder / f"{notebook.stem}{end}" for end in (".partial.ipynb", ".ipynb"))
        for old in (self.entry.manifest, executed):  # of an outcome that was damaged
            old.unlink(missing_ok=True)
        execution = Execution(
            notebook,
            partial,
            {**self.job.run.given, **self._place(notebook)},
            run=str(self.entry.folder),
            environment={PROGRESS_FILE: "", **self.job.environment},
            cwd=self.job.cwd if self.job.cwd.is_dir() else self.job.results,
        )
        execution.start()
        state, reason = self._follow(execution)
        end_leftovers(str(self.entry.folder))
        failure = execution.failure
        if execution.is_alive():
            return self._end(state or "killed", reason or "the kernel did not end")
        if failure is None:  # also if it came to its end while it was being stopped
            os.replace(partial, executed)
            return self._finish(notebook, executed)
        if state is not None:
            return self._end(state, reason, failure if state != "queued" else None)
        return self._end("killed" if failure.died else "failed", str(failure), failure)

    def _place(self, notebook: Notebook) -> dict[str, Any]:
        """The parameters about places, of those that the notebook has."""
        results = self.job.results
        if results.is_relative_to(self.job.cwd):  # a copy that is passed on should not name folders of this machine
            results = results.relative_to(self.job.cwd)
        place = {"results": str(results), "profile": FOLDER, "figure": self.entry.run_id}
        return {name: value for name, value in place.items() if name in notebook.parameters}

    def _follow(self, execution: Execution) -> tuple[State | None, str]:
        """Wait for the kernel, and end it when it is time; return the state if it was ended from here, and why."""
        state: State | None = None
        reason, asked = "", 0.0
        while execution.is_alive():
            execution.join(TICK)
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
        return state, reason

    def _verdict(self, execution: Execution) -> tuple[State | None, str]:
        """Return the state that the run is to be ended with now, and why; None if it may go on."""
        held = memory(execution.pid) if execution.pid else 0
        self.status = replace(self.status, memory=max(held, self.status.memory))
        if self.job.call in _stops:
            return "queued", "stopped; goes on where it was"
        if self.limit and held > self.limit:
            amounts = f"it held {held / GIGABYTE:.2f} GB of memory, and {self.limit / GIGABYTE:.2f} GB are allowed"
            return "killed", f"in cell [{execution.cell}]: {amounts}"
        if self.job.timeout is not None and time.monotonic() - self.clock > self.job.timeout:
            return "timed out", f"in cell [{execution.cell}] after {self.job.timeout:g} s"
        return None, ""

    def _beat(self, execution: Execution) -> None:
        """Write a sign of life, if it is time."""
        moved = execution.cell != self.status.cell or (execution.pid or 0) != self.status.kernel
        if time.monotonic() - self.wrote < (TICK if moved else HEARTBEAT):
            return
        self.wrote = time.monotonic()
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

    def _seconds(self) -> float:
        return round(time.monotonic() - self.clock, 1)

    def _finish(self, notebook: Notebook, executed: Path) -> State:
        """See that everything is there that the manifest declares, and call the run done."""
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
        return self._end("done", "")

    def _end(self, state: State, reason: str, failure: Failure | None = None) -> State:
        error = asdict(failure) if failure else {}
        self.status = replace(
            self.status, state=state, reason=reason, ended=now(), heartbeat=now(), seconds=self._seconds(), error=error
        )
        self._write_patiently()
        if state not in ("done", "queued"):
            raise RunFailed(state, reason)
        return state

    def _write_patiently(self) -> None:
        """Write the status; on a disk that cannot be written, try again for a while."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.entry.write(self.status)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)


def _mismatch(run: NotebookRun) -> str:
    """Say how this worker's hatlab differs from the one that the batch was planned with, or return ""."""
    here = library_version()
    if here == run.hatlab:
        return ""
    return (
        f"hatlab is {here} on {socket.gethostname()} now, and {run.hatlab} where and when the batch was "
        f"planned: start the batch again"
    )


def _fair_share() -> int | None:
    """Return the bytes that one of the runs on this Dask worker may hold."""
    try:
        from distributed import get_worker

        worker = get_worker()
    except (ImportError, ValueError):
        return None
    limit: int | None = worker.memory_manager.memory_limit
    return limit // worker.state.nthreads if limit else None
