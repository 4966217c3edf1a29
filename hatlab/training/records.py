"""What a run leaves in its folder: config, checkpoint, tidy tables, manifest.

The folder is `<results>/runs/<run id>`. Every file appears whole or not at all. `manifest.json` says whether
the run is "running" or "finished"; it is written last, with the checksums of the tables, so a run that is
finished can be loaded instead of repeated. Tables hold nothing but results, so equal runs have equal bytes. A
checkpoint ends with a checksum of its own: one that was damaged is never gone on from.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import pandas as pd
import torch
from filelock import FileLock, Timeout

from hatlab.config import RunConfig
from hatlab.support.files import atomic, remove_leftovers, write_json, write_table
from hatlab.support.provenance import checksum

__all__ = ["DamagedCheckpoint", "Record", "RecordError"]

# At the end of a checkpoint, followed by the CRC-32 of all before it in 8 hexadecimal digits. torch.load stops before
# it. CRC-32 finds any flipped bit, and costs a third of the time that SHA-256 does.
MARK: Final = b"\nhatlab crc32 "


class RecordError(RuntimeError):
    """A results folder that cannot be written, or whose content does not belong to the run. Nothing is changed."""


class DamagedCheckpoint(RecordError):
    """A checkpoint that is not as it was written."""


class Record:
    """The folder of one run.

    Args:
        config: the run.
        results: the results folder. Nothing is written before `prepare`, so finished runs can be read from a folder
            that is read-only.
        images: stands behind the run's id in the folder's name, see `for_images`.

    Raises:
        RecordError: the folder cannot be read, or holds another config.
    """

    def __init__(self, config: RunConfig, results: Path, images: str = "") -> None:
        self.config, self.results = config, results
        self.folder = results / "runs" / f"{config.run_id}{images and f'-{images}'}"
        self.checkpoint = self.folder / "checkpoint.pt"
        self.manifest: dict[str, Any] = {}
        self._read()

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.manifest.get("state") == "finished"

    def for_images(self, data: Mapping[str, str]) -> Record:
        """Return the record of the run with these images, source file -> checksum.

        Those that it was first made with have the folder that is named by the run's id alone, others a folder with
        their own checksum behind it. So nothing that was computed gives way to anything.

        Raises:
            RecordError: the folder cannot be read, or its name is not that of its images.
        """
        if self.manifest.setdefault("data", dict(data)) == dict(data):
            return self
        digest = hashlib.sha256(json.dumps(dict(data), sort_keys=True).encode()).hexdigest()
        found = Record(self.config, self.results, digest[:8])
        found.verify_data(data)
        return found

    def verify_data(self, data: Mapping[str, str]) -> None:
        """Hold `data`, source file -> checksum of the images in use, against those the run was started with.

        Raises:
            RecordError: they differ.
        """
        known = self.manifest.setdefault("data", dict(data))
        if known != dict(data):
            raise RecordError(
                f"{self.folder} was made from other images: its manifest has checksums {known}, those found now are "
                f"{dict(data)}. Restore the images, or move the folder away to run again"
            )

    def load_tables(self, names: list[str]) -> dict[str, pd.DataFrame]:
        """Read the tables of a finished run.

        Raises:
            RecordError: a table is missing or differs from its checksum in the manifest.
        """
        tables = {}
        for name in names:
            path = self.folder / f"{name}.parquet"
            wanted = self.manifest.get("files", {}).get(path.name)
            if not path.exists() or checksum(path) != wanted:
                raise RecordError(
                    f"{path} is missing or was altered (the manifest says {wanted}): move the folder away to run again"
                )
            tables[name] = pd.read_parquet(path)
        return tables

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the state that was saved last; None if there is none. Runs no code from the file.

        Raises:
            DamagedCheckpoint: the file is not as it was written. (Of a finished run the manifest has its checksum.)
            RecordError: it cannot be read.
        """
        if not self.checkpoint.exists():
            return None
        try:
            content = self.checkpoint.read_bytes()
            if not self.finished and (problem := _damage(content)):
                raise DamagedCheckpoint(f"{self.checkpoint} {problem}")
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except RecordError:
            raise
        except Exception as error:
            raise RecordError(
                f"{self.checkpoint} cannot be read ({error}): delete it to start the run again"
            ) from error
        return state

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the state of an unfinished run.

        Raises:
            OSError: the disk is full, say; the checkpoint before it is kept.
        """
        with atomic(self.checkpoint) as temporary, temporary.open("wb") as file:
            summed = _Summed(file)
            try:
                torch.save(dict(state), summed)  # type: ignore[arg-type]  # no more than its methods is called
            except RuntimeError as error:  # torch's own, raised over what happened to the file
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.write(MARK + b"%08x" % summed.crc)

    def started(self, session: Mapping[str, Any], **facts: Any) -> None:
        """Note that a process has started, or gone on with, the run; `facts` are about the run as a whole."""
        remove_leftovers(self.folder)
        self.manifest |= {
            "run_id": self.config.run_id,
            "config": self.config.model_dump(mode="json"),
            "state": "running",
            "sessions": [*self.manifest.get("sessions", []), dict(session)],
            **facts,
        }
        write_json(self.folder / "manifest.json", self.manifest)

    def finish(self, tables: Mapping[str, pd.DataFrame], seconds: float) -> None:
        """Write the tables, and then the manifest that declares the run finished."""
        files: dict[str, str] = {}
        for name, table in tables.items():
            files |= {path.name: checksum(path) for path in write_table(self.folder, name, table)}
        files[self.checkpoint.name] = checksum(self.checkpoint)
        self.manifest["sessions"][-1]["seconds"] = round(seconds, 3)
        self.manifest |= {"state": "finished", "files": files}
        write_json(self.folder / "manifest.json", self.manifest)

    def prepare(self) -> None:
        """Create the folder, and see that it can be written.

        Raises:
            RecordError: it cannot.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise RecordError(
                f"the results folder {self.folder} cannot be written: {error.strerror or error}"
            ) from error

    @contextmanager
    def lock(self, check: Callable[[], None], tell: Callable[[str], None]) -> Iterator[None]:
        """Hold the run, so that no other process trains it meanwhile, and read anew what became of it until then.

        The operating system lets go of it when this process ends, however that is.

        Args:
            check: called while another holds it, to raise where waiting is to end.
            tell: called with a line for people, if it has to be waited for.
        """
        locks = self.folder.parent / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{self.folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell(f"run {self.config.run_id} is being trained by another process: waiting for it")
            while not lock.is_locked:
                check()
                with suppress(Timeout):
                    lock.acquire(timeout=0.5)
        try:
            data = self.manifest.get("data")
            self._read()
            if data is not None:
                self.verify_data(data)
            yield
        finally:
            lock.release()

    def _read(self) -> None:
        path = self.folder / "manifest.json"
        if not path.exists():
            return
        try:
            self.manifest = json.loads(path.read_text(encoding="utf-8"))
            config = self.manifest["config"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{path} is not a manifest of hatlab: move the folder away to run again") from error
        asked = self.config.model_dump(mode="json")
        if config != asked:
            differences = "; ".join(
                f"{name} is {config.get(name)!r} there and {asked.get(name)!r} here"
                for name in sorted({*config, *asked})
                if config.get(name) != asked.get(name)
            )
            raise RecordError(
                f"{path} belongs to another config: {differences}. The folder's name is the hash of its config, so the "
                f"manifest was altered: restore it, or move the folder away to run again"
            )


class _Summed:
    """A file to write to, and the CRC-32 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.crc = file, 0

    def write(self, data: bytes) -> int:
        self.crc = zlib.crc32(data, self.crc)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _damage(content: bytes) -> str:
    """Say what is wrong with a checkpoint's bytes, or return ""."""
    end = len(content) - len(MARK) - 8
    if end < 0 or content[end:-8] != MARK:
        return "does not end with a checksum: it was damaged, or is of an earlier version of hatlab"
    if content[-8:] != b"%08x" % zlib.crc32(memoryview(content)[:end]):
        return "was damaged: its checksum is another"
    return ""
