"""What is on the disk about the runs of notebooks, and whether it can be believed.

A run of a notebook is a folder, `<results>/notebooks/<run id>`, named by the hash of all that its outcome depends on:

    run.json        what it is: notebook, parameters, and the checksums that the hash is made of
    status.json     where it stands, written by whoever runs it, never by the notebook
    manifest.json   what it left: every artifact with its checksum
    ...             the artifacts: the executed copy, figures, tables

A run is done when its status says so, its manifest is the one that the status vouches for, and every artifact is there
and has its checksum. Who runs it holds its lock; a lock is let go of by the operating system when its holder is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from filelock import FileLock, Timeout

from hatlab.files import write_json
from hatlab.provenance import checksum

__all__ = ["FOLDER", "Entry", "NotebookRun", "State", "Status", "entries", "now"]

FOLDER: Final = "notebooks"  # of all runs of notebooks, below the results
HEARTBEAT: Final = 5.0  # seconds between two signs of life
LOST: Final = 60.0  # seconds without one after which a runner on another machine is taken for dead

State = Literal["queued", "running", "done", "failed", "killed", "timed out", "stale"]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Status:
    """Where a run stands, as its runner wrote it. Times are ISO 8601 in UTC, durations seconds.

    Attributes:
        state: "stale" is never written: it is what a done run is called whose outcome is damaged.
        attempt: from 1; how many times it has been started.
        reason: why it is in that state, for people.
        heartbeat: the last sign of life of a running one.
        host, pid: of the runner; kernel: the kernel's process.
        cell, n_cells: code cell under way, and how many there are.
        error: of a run that did not end well: `cell`, `source`, `error`, `message`, `traceback`.
        memory: most bytes that kernel and children were seen to hold.
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
    error: dict[str, Any] = field(default_factory=dict)
    manifest: str = ""

    @property
    def elapsed(self) -> float:
        """Seconds that it took or, while it is running, has taken until now."""
        if self.state != "running":
            return self.seconds
        return max(self.seconds, time.time() - datetime.fromisoformat(self.started).timestamp())


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

    @cached_property
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
        content = _read_json(self.folder / "run.json")
        try:
            known = {item.name for item in fields(NotebookRun)}
            return NotebookRun(**{name: value for name, value in content.items() if name in known})
        except TypeError:
            return None

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
        content = _read_json(self.folder / "status.json")
        known = {item.name for item in fields(Status)}
        try:
            return Status(**{name: value for name, value in content.items() if name in known})
        except TypeError:
            return None

    def status(self) -> Status:
        """Return where the run stands in truth: a done run with a damaged outcome is stale, one whose runner is gone
        was killed, one that was never started is queued."""
        status = self.written()
        if status is None:
            damaged = (self.folder / "status.json").exists()
            return Status("stale", reason="status.json cannot be read") if damaged else Status("queued")
        if status.state == "done" and (problem := self._damage(status)):
            return Status("stale", status.attempt, problem, seconds=status.seconds)
        if status.state == "running" and (problem := _runner_gone(status)):
            return Status(**{**asdict(status), "state": "killed", "reason": problem})
        return status

    def artifacts(self) -> dict[str, str]:
        """Return file name -> checksum, as the manifest has it; empty where it cannot be read."""
        found = _read_json(self.manifest).get("artifacts")
        return found if isinstance(found, dict) else {}

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


def _runner_gone(status: Status) -> str:
    """Say why the runner of a running run is taken for dead, or return ""."""
    if status.host == socket.gethostname() and not _alive(status.pid):
        return "whoever ran it was killed"
    silent = time.time() - datetime.fromisoformat(status.heartbeat).timestamp()
    return f"no sign of life for {silent:.0f} s" if silent > LOST else ""


def _alive(pid: int) -> bool:
    if os.name != "posix":
        import psutil

        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is another user's
    return True


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}  # type: ignore[return-value]
