"""The records of notebook runs on the disk, each checked when it is read.

A run of a notebook is a folder, `<results>/notebooks/<run id>`, named by the hash of all that its outcome depends on:

    run.json        what it is: notebook, parameters, and the checksums that the hash is made of
    status.json     where it stands, written by whoever runs it, never by the notebook
    manifest.json   what it left: every artifact with its checksum
    ...             the artifacts: the executed copy, figures, tables

A run is done when its status says so, its manifest has the checksum that the status names, and every artifact has the
checksum that the manifest names. Whoever runs it holds its lock, which the operating system releases when its holder is
killed: a run whose status says "running" and whose lock is free was killed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from hatlab.support.files import write_json
from hatlab.support.provenance import checksum

__all__ = ["FOLDER", "Entry", "NotebookRun", "State", "Status", "entries"]

FOLDER: Final = "notebooks"  # of all runs of notebooks, below the results
HEARTBEAT: Final = 5.0  # seconds between two signs of life
LOST: Final = 60.0  # seconds without one after which a run is said to be silent

Record = TypeVar("Record")
State = Literal["queued", "running", "done", "failed", "killed", "timed out", "stale"]


@dataclass(frozen=True)
class Status:
    """Where a run stands, as its runner wrote it. Times are ISO 8601 in UTC, durations seconds.

    Attributes:
        state: "stale" is never written: it is what a done run is called whose outcome is damaged.
        attempt: from 1; how many times it has been started.
        reason: why it is in that state, for people.
        heartbeat: the last sign of life of a running one's kernel.
        host, pid: of the runner; kernel: the kernel's process.
        cell, n_cells: code cell under way, and how many there are.
        error: of a run that did not end well: `cell`, `source`, `error`, `message`, `traceback`.
        memory: most bytes that kernel and children were seen to hold.
        cpu: seconds of CPU time that they used.
        gpu_memory: most bytes on GPUs that they were seen to hold; 0 where the system does not tell.
        energy: joules that the machine used meanwhile, all its work together; 0 where the system does not tell.
        cells: of each code cell that was begun: `cell`, `source` (its first line), `seconds`, `cpu`, `memory`.
        manifest: checksum of the manifest of a run that is done.
    """

    state: State
    attempt: int = 0
    reason: str = ""
    started: str = ""
    heartbeat: str = ""
    ended: str = ""
    seconds: float = 0.0
    host: str = ""
    pid: int = 0
    kernel: int = 0
    cell: int = 0
    n_cells: int = 0
    memory: int = 0
    cpu: float = 0.0
    gpu_memory: int = 0
    energy: float = 0.0
    cells: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] = field(default_factory=dict)
    manifest: str = ""

    @property
    def elapsed(self) -> float:
        """Seconds that it took or, while it is running, has taken until now."""
        since = _seconds_since(self.started) if self.state == "running" else 0.0
        return max(self.seconds, since) if math.isfinite(since) else self.seconds


@dataclass(frozen=True)
class NotebookRun:
    """One notebook with one set of parameters.

    Attributes:
        notebook: the notebook's file name.
        source: checksum of what it does.
        given: the parameters that were set, as they are handed to the kernel.
        values: all its parameters but those about places.
        hatlab: version of the library, with the checksum of its code.
        data: file -> checksum of the images that the parameters name; empty where they name none.
        inputs: path from the kernel's folder -> checksum, of the local modules that the notebook imports and of the
            files and folders that were named as inputs.
        packages: name -> release of the installed packages that determine numbers.
    """

    notebook: str
    source: str
    given: dict[str, Any]
    values: dict[str, Any]
    hatlab: str
    data: dict[str, str]
    inputs: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def run_id(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of all of the above but `given`."""
        depends = [self.notebook, self.source, self.values, self.hatlab, self.data, self.inputs, self.packages]
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:12]


class Entry:
    """The folder of one run.

    Args:
        results: the results folder.
        run_id: the run.
    """

    def __init__(self, results: Path, run_id: str) -> None:
        self.results, self.run_id = results, run_id
        self.folder = results / FOLDER / run_id
        self.manifest = self.folder / "manifest.json"

    @contextmanager
    def lock(self, wait: float = -1) -> Iterator[bool]:
        """Hold the run's lock, and say whether it was to be had within `wait` seconds (-1: however long it takes)."""
        locks = self.folder.parent / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{self.run_id}.lock")
        try:
            lock.acquire(timeout=wait, poll_interval=0.1)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def describe(self, run: NotebookRun) -> None:
        """Write what the run is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "run.json", {"run_id": self.run_id, **asdict(run)})

    def read_run(self) -> NotebookRun | None:
        """Return what the run is; None where that cannot be read."""
        return _read(self.folder / "run.json", NotebookRun)

    def write(self, status: Status) -> None:
        """Write where the run stands. Only the holder of its lock may."""
        write_json(self.folder / "status.json", asdict(status))

    def forget(self) -> None:
        """Have a run that is done made again, unless somebody is at it."""
        with self.lock(wait=0) as held:
            if held and (before := self.written()) is not None and before.state == "done":
                self.write(Status("queued", before.attempt, "it is made at each call"))

    def written(self) -> Status | None:
        """Return the status as it was written; None if there is none that can be read."""
        return _read(self.folder / "status.json", Status)

    def status(self) -> Status:
        """Return where the run stands by its files and its lock: a done run with a damaged outcome is stale, a running
        one that nobody runs was killed, one that was never started is queued."""
        status = self.written()
        if status is None:
            damaged = (self.folder / "status.json").exists()
            return Status("stale", reason="status.json cannot be read") if damaged else Status("queued")
        if status.state == "done" and (problem := self._damage(status)):
            return Status("stale", status.attempt, problem, seconds=status.seconds)
        if status.state == "running":
            silent = _seconds_since(status.heartbeat)
            if not self._held(status, silent):
                status = self.written() or status  # it may have ended since
                if status.state == "running":
                    return replace(status, state="killed", reason="whoever ran it was killed, or could not write")
                return self.status()
            if silent > LOST:
                return replace(status, reason=f"no sign of life for {silent:.0f} s")
        return status

    def _held(self, status: Status, silent: float) -> bool:
        """Whether somebody runs it: the lock tells, on this machine and others, inside a container and outside."""
        try:
            with self.lock(wait=0) as free:
                # the lock of another machine may not be seen at once
                return not free or (status.host != socket.gethostname() and silent < LOST)
        except OSError:  # somebody else's folder, that can only be read
            return silent < LOST

    def artifacts(self) -> dict[str, str]:
        """Return file name -> checksum, as the manifest has it; empty where it cannot be read."""
        found = _read_json(self.manifest)
        artifacts = found.get("artifacts") if isinstance(found, dict) else None
        return artifacts if isinstance(artifacts, dict) else {}

    def _damage(self, status: Status) -> str:
        """Say what is wrong with the outcome of a run whose status is done, or return ""."""
        if not self.manifest.is_file():
            return "manifest.json is missing"
        try:
            if checksum(self.manifest) != status.manifest:
                return "manifest.json was altered"
            for name, wanted in self.artifacts().items():
                if not (path := self.folder / name).is_file():
                    return f"{name} is missing"
                if checksum(path) != wanted:
                    return f"{name} was altered"
        except OSError as error:
            return f"the outcome cannot be read: {error.strerror or error}"
        return ""


def entries(results: Path) -> list[Entry]:
    """Return all runs of notebooks below `results`."""
    found = sorted((results / FOLDER).glob("*/run.json"))
    return [Entry(results, path.parent.name) for path in found]


def _seconds_since(moment: str) -> float:
    """Return how long ago an ISO 8601 moment was; infinity if it is none."""
    try:
        return time.time() - datetime.fromisoformat(moment).timestamp()
    except (ValueError, TypeError):
        return float("inf")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _read(path: Path, kind: type[Record]) -> Record | None:
    """Return a record as it was written, without what another version has put in; None if it is not such a one."""
    content = _read_json(path)
    try:
        known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
        wanted = {name: value for name, value in content.items() if name in known}
        return TypeAdapter(kind).validate_python(wanted)
    except (AttributeError, ValidationError):
        return None
