"""What a notebook leaves in its folder: figures as PNG and PDF, tables as Parquet and CSV, and a manifest.

Called by a notebook, so the same files appear when it is opened by hand and when it is run in a batch; whoever runs it
then adds what only it knows with `complete`, and `publish` copies an outcome that is whole to another folder. Equal
figures and tables have equal bytes.
"""

from __future__ import annotations

import functools
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from filelock import FileLock

from hatlab.support.files import atomic, write_json, write_table
from hatlab.support.paths import RUN, notebooks, results_root
from hatlab.support.provenance import checksum, environment, now, peak_memory

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


__all__ = ["COST", "MANIFEST", "complete", "cost", "publish", "save"]

MANIFEST: Final = "manifest.json"
COST: Final = ("command", "seconds", "gigabytes")  # what is said of a figure beside its verdicts
PROCESS: Final = secrets.token_hex(8)


class FinishedRun(Protocol):
    """What is read of a run."""

    @property
    def run_id(self) -> str: ...

    @property
    def manifest(self) -> Mapping[str, Any]: ...


def save(
    name: str,
    *,
    runs: Sequence[FinishedRun],
    figures: Mapping[str, Figure] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    profile: str = "interactive",
    results: Path | str | None = None,
    notebook: str = "",
) -> Path:
    """Write everything into `<results>/<profile>/<name>`, each file whole or not at all, and return that folder.

    A second call adds to what the first one saved, and replaces files of the same names. The manifest declares what was
    saved in this run of a batch or, outside of a batch, by this process: a notebook that is opened anew starts anew.

    Args:
        name: the folder, as in `notebooks/figures.yaml`.
        runs: what the figures and tables were made from; their ids go into the metadata of every figure.
        figures: file name without ending -> figure; written at 300 dpi and as vectors with embedded fonts.
        tables: file name without ending -> table; `hatlab.support.tables.storable` says what becomes of index and
            columns.
        profile: the folder between; "interactive" for a notebook opened by hand.
        results: the results folder; None: as `hatlab.run`.
        notebook: the notebook's file name in `notebooks/`.

    Raises:
        ValueError: a name that is none of a file, before anything is written; or naming every table and figure that
            cannot be saved, after all others are.
    """
    figures, tables = figures or {}, tables or {}
    for given in (name, *figures, *tables):
        if not isinstance(given, str) or not given or Path(given).name != given or given.startswith("."):
            raise ValueError(f"{given!r} is no file name: allowed is text without a slash and without a dot in front")
    folder = (Path(results) if results else results_root()) / profile / name
    ids = [run.run_id for run in runs]
    writers: dict[str, Callable[[], list[Path]]] = {}
    for stem, table in tables.items():
        writers[f"table {stem!r}"] = functools.partial(write_table, folder, stem, table)
    for stem, figure in figures.items():
        writers[f"figure {stem!r}"] = functools.partial(_write_figure, folder, stem, figure, ids)
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        earlier = _saved_before(folder)
        written, problems = _write(writers)
        notebook = notebook or earlier.get("notebook", {}).get("name", "")
        source = notebooks() / notebook
        data = {file: value for run in runs for file, value in run.manifest["data"].items()}
        manifest = {
            "figure": name,
            "profile": profile,
            "notebook": {"name": notebook, "checksum": checksum(source) if source.is_file() else None},
            "session": _session(),
            "written": now(),
            "peak_memory": peak_memory(),
            **environment(),
            "data": earlier.get("data", {}) | data,
            "runs": [run for run in earlier.get("runs", []) if run["run_id"] not in ids]
            + [
                {"run_id": run.run_id, "config": run.manifest["config"], "sessions": run.manifest["sessions"]}
                for run in runs
            ],
            "artifacts": earlier.get("artifacts", {}) | {path.name: checksum(path) for path in written},
        }
        write_json(folder / MANIFEST, manifest)
    if problems:
        texts = (f"{what} cannot be saved: {type(error).__name__}: {error}" for what, error in problems.items())
        raise ValueError("; ".join(" ".join(text.split()) for text in texts)) from next(iter(problems.values()))
    return folder


def cost(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return `COST` of a figure of `hatlab reproduce`: its command, the seconds that training its runs took, and the
    most memory that its notebook held, in GB (NaN where it was not recorded).

    Runs side by side share the seconds that they were trained in.
    """
    sessions = [session for run in manifest["runs"] for session in run["sessions"]]
    seconds = sum(session.get("seconds", 0) / session.get("side_by_side", 1) for session in sessions)
    command = f"hatlab reproduce --profile {manifest['profile']} --only {manifest['figure']}"
    memory = manifest.get("peak_memory", math.nan) / 1e9
    return dict(zip(COST, (command, round(seconds, 1), round(memory, 2)), strict=True))


def complete(folder: Path, executed: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Add `facts` and the executed notebook's checksum to the manifest in `folder`, and return it.

    A notebook that saved nothing gets a manifest of its own. The folder had none when the notebook was started, so one
    that is there is of this run, whatever the clock says.

    Raises:
        ValueError: the manifest in `folder` is not as `save` wrote it.
    """
    manifest = _read(folder / MANIFEST) or {
        "figure": folder.name, "written": now(), **environment(), "artifacts": {}
    }  # fmt: skip
    manifest.pop("session", None)
    manifest |= facts
    manifest["artifacts"][executed.name] = checksum(executed)
    write_json(folder / MANIFEST, manifest)
    return manifest


def publish(source: Path, folder: Path, facts: Mapping[str, Any]) -> None:
    """Make `folder` hold what the manifest in `source` declares, and no other file.

    While files are copied the folder has no manifest, so a manifest there speaks of what lies beside it. Does nothing
    where all is as it should be already.

    Args:
        source: a folder with a manifest and its artifacts.
        folder: where to; made if need be. Folders in it are left alone.
        facts: what the manifest is to say beside what it says in `source`; None leaves a fact out.

    Raises:
        ValueError: an artifact in `source` is not the one that its manifest declares.
    """
    manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8")) | facts
    manifest = {name: value for name, value in manifest.items() if value is not None}
    declared: dict[str, str] = manifest["artifacts"]
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if _holds(folder, manifest):
            return
        (folder / MANIFEST).unlink(missing_ok=True)
        for name, wanted in declared.items():
            with atomic(folder / name) as temporary:
                shutil.copyfile(source / name, temporary)
                if checksum(temporary) != wanted:
                    raise ValueError(f"{source / name} is not what {MANIFEST} beside it declares")
        for path in folder.iterdir():
            if path.name not in declared and path.is_file():
                path.unlink()
        write_json(folder / MANIFEST, manifest)


def _lock(folder: Path) -> FileLock:
    """What is held while artifacts and their manifest are written, by any process."""
    locks = folder.parent.parent / ".locks"  # not beside the folder, which people copy
    locks.mkdir(exist_ok=True)
    return FileLock(locks / f"{folder.parent.name}.{folder.name}.lock")


def _session() -> str:
    """What the calls of `save` have in common whose artifacts belong together."""
    run = os.environ.get(RUN)
    return Path(run).name if run else PROCESS


def _saved_before(folder: Path) -> dict[str, Any]:
    """Return the manifest of an earlier call of `save` of this session; empty if there was none."""
    try:
        manifest = _read(folder / MANIFEST)
    except ValueError:
        if RUN in os.environ:
            raise
        return {}
    return manifest if manifest.get("session") == _session() else {}


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(manifest["artifacts"], dict):
            return dict(manifest)
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path.name} is not as artifacts.save wrote it: it was damaged, or written over")


def _write(writers: Mapping[str, Callable[[], list[Path]]]) -> tuple[list[Path], dict[str, Exception]]:
    """Call each, and return what was written and what went wrong."""
    written: list[Path] = []
    problems: dict[str, Exception] = {}
    for what, write in writers.items():
        try:
            written += write()
        except OSError:  # then nothing else could be written either
            raise
        except Exception as error:
            problems[what] = error
    return written, problems


def _holds(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the folder holds this manifest and its artifacts, and no other file."""
    try:
        if json.loads((folder / MANIFEST).read_text(encoding="utf-8")) != manifest:
            return False
    except (OSError, ValueError):
        return False
    files = {path.name: checksum(path) for path in folder.iterdir() if path.is_file() and path.name != MANIFEST}
    return bool(files == manifest["artifacts"])


def _write_figure(folder: Path, stem: str, figure: Figure, run_ids: Sequence[str]) -> list[Path]:
    import matplotlib as mpl

    png, pdf = folder / f"{stem}.png", folder / f"{stem}.pdf"
    runs = f"hatlab runs: {' '.join(run_ids)}"
    with mpl.rc_context({"pdf.fonttype": 42}):  # fonts as text that a journal can search and edit
        with atomic(png) as temporary:
            figure.savefig(temporary, dpi=300, metadata={"Title": stem, "Description": runs})
        with atomic(pdf) as temporary:
            figure.savefig(temporary, metadata={"Title": stem, "Keywords": runs, "CreationDate": None})
    return [png, pdf]
