"""A store of finished runs: what many of them left, without weights but with their masks, in one file.

A ZIP file with `ro-crate-metadata.json` (RO-Crate 1.1: what it is, of whom, and the SHA-256 of each other member),
`runs.json` (the runs' manifests), their tables, one below the other, as Parquet, and `masks/<run id>.npz`. Equal runs
give equal bytes with the same pyarrow and NumPy. A run from a store is finished: it is loaded, never trained again,
and what takes its weights says that they are gone.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hatlab.analysis.masks import MASKS, as_npz
from hatlab.config import ConfigError, RunConfig
from hatlab.support.files import as_json, atomic, write_json, write_table
from hatlab.support.provenance import checksum
from hatlab.training.records import Record
from hatlab.training.runs import Run, Tables

__all__ = ["StoreError", "pack", "unpack", "verify"]

CRATE: Final = "ro-crate-metadata.json"
RUNS: Final = "runs.json"


class StoreError(ConfigError):
    """A file that is no store of runs, or is not as it was written."""


def pack(runs: Sequence[Run], path: Path, name: str) -> None:
    """Write `runs` into the store `path`, whole or not at all.

    Args:
        runs: finished; those of HAT with their checkpoints, or with masks that came from a store.
        path: ends with .zip.
        name: what the store holds, in a few words.

    Raises:
        RecordError: a checkpoint is missing or altered.
    """
    runs = sorted(runs, key=lambda run: run.folder.name)
    members: dict[str, bytes] = {RUNS: (as_json({run.folder.name: run.manifest for run in runs}) + "\n").encode()}
    for table in Tables._fields:
        frames = [getattr(run.tables, table).assign(run=run.folder.name) for run in runs]
        buffer = io.BytesIO()
        pd.concat(frames, ignore_index=True).to_parquet(buffer, index=False, compression="zstd", compression_level=19)
        members[f"{table}.parquet"] = buffer.getvalue()
    for run in runs:
        if run.config.method == "hat":
            members[f"masks/{run.folder.name}.npz"] = as_npz(run)
    members = {CRATE: (as_json(_crate(name, members, runs)) + "\n").encode(), **members}
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        for member, content in members.items():
            file.writestr(zipfile.ZipInfo(member), content, zipfile.ZIP_DEFLATED, 9)


def verify(path: Path) -> dict[str, dict[str, Any]]:
    """Return folder's name -> manifest of the runs in a store, after each member was compared with its checksum.

    Raises:
        StoreError: the file is missing, no store, or damaged; names the member.
    """
    manifests: dict[str, dict[str, Any]] = json.loads(_members(path)[RUNS])
    return manifests


def unpack(path: Path, results: Path) -> tuple[int, int]:
    """Put the runs of a store below `results`, and return how many were put there and how many were there already.

    A run that is there, finished or not, is left as it is.

    Raises:
        StoreError: as `verify`.
        RecordError: the results folder cannot be written, or holds another config under a run's name.
    """
    members = _members(path)
    manifests = json.loads(members[RUNS])
    tables = {name: pd.read_parquet(io.BytesIO(members[f"{name}.parquet"])) for name in Tables._fields}
    rows = {name: dict(list(table.groupby("run", sort=False))) for name, table in tables.items()}
    put = 0
    for name, manifest in manifests.items():
        record = Record(RunConfig.parse(manifest["config"], str(path)), results, name.partition("-")[2])
        if record.manifest:
            continue
        record.prepare()
        files: dict[str, str] = {}
        for table, of_runs in rows.items():
            written = write_table(record.folder, table, of_runs[name].assign(run=record.config.run_id))
            files |= {file.name: checksum(file) for file in written}
        if masks := members.get(f"masks/{name}.npz"):
            with atomic(record.folder / MASKS) as temporary:
                temporary.write_bytes(masks)
            files[MASKS] = checksum(record.folder / MASKS)
        write_json(record.folder / "manifest.json", {**manifest, "files": files, "store": path.name})
        put += 1
    return put, len(manifests) - put


def _members(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as file:
            members = {info.filename: file.read(info) for info in file.infolist()}
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist: a store of runs is wanted") from None
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise StoreError(f"{path} is no store of runs, or is damaged: {error}") from None
    try:
        crate = json.loads(members.pop(CRATE))
        wanted = {entity["@id"]: entity["sha256"] for entity in crate["@graph"] if "sha256" in entity}
    except (KeyError, ValueError, TypeError):
        raise StoreError(f"{path} is no store of runs: it has no {CRATE} that names its members") from None
    found = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    if wrong := sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name)):
        raise StoreError(f"{path}: {wrong[0]} is missing, added or altered; {CRATE} says {wanted.get(wrong[0])}")
    return members


def _crate(name: str, members: dict[str, bytes], runs: Sequence[Run]) -> dict[str, Any]:
    """Return the RO-Crate's metadata: https://www.researchobject.org/ro-crate/1.1."""
    written = max(str(run.manifest["sessions"][-1]["started"]) for run in runs)
    files = [
        {
            "@id": member,
            "@type": "File",
            "contentSize": str(len(content)),
            "encodingFormat": {"json": "application/json", "npz": "application/zip"}.get(
                member.rpartition(".")[2], "application/vnd.apache.parquet"
            ),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for member, content in members.items()
    ]
    about = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"hatlab: {name}",
        "description": f"{len(runs)} finished runs of hatlab: configs, tables and masks, without weights",
        "datePublished": written[:10],
        "license": {"@id": "https://spdx.org/licenses/MIT"},
        "author": {"@id": "#authors"},
        "hasPart": [{"@id": member} for member in members],
    }
    return {
        "@context": "https://w3id.org/ro/crate/1.1/context",
        "@graph": [
            {
                "@id": CRATE,
                "@type": "CreativeWork",
                "about": {"@id": "./"},
                "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
            },
            about,
            {"@id": "#authors", "@type": "Organization", "name": "hatlab contributors"},
            {"@id": "https://spdx.org/licenses/MIT", "@type": "CreativeWork", "name": "MIT License"},
            *files,
        ],
    }
