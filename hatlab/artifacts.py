"""What a notebook leaves in its folder: figures as PNG and PDF, tables as Parquet and CSV, and a manifest.

Called at a notebook's end, so the same files appear when it is opened by hand and when it is run in a batch; whoever
runs it then adds what only it knows with `complete`, and `publish` copies an outcome that is whole to another folder.
Equal figures and tables have equal bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock

from hatlab.files import atomic, write_json, write_table
from hatlab.paths import home, results_root
from hatlab.provenance import checksum, environment

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from hatlab.runs import Run

__all__ = ["MANIFEST", "complete", "publish", "save"]

MANIFEST: Final = "manifest.json"


def save(
    name: str,
    *,
    runs: Sequence[Run],
    figures: Mapping[str, Figure] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    profile: str = "interactive",
    results: Path | str | None = None,
    notebook: str = "",
) -> Path:
    """Write everything into `<results>/<profile>/<name>`, each file whole or not at all, and return that folder.

    Args:
        name: the folder, as in `notebooks/figures.yaml`.
        runs: what the figures and tables were made from; their ids go into the metadata of every figure.
        figures: file name without ending -> figure; written at 300 dpi and as vectors with embedded fonts.
        tables: file name without ending -> table.
        profile: the folder between; "interactive" for a notebook opened by hand.
        results: the results folder; None: as `hatlab.run`.
        notebook: the notebook's file name in `notebooks/`.
    """
    folder = (Path(results) if results else results_root()) / profile / name
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for stem, figure in (figures or {}).items():
        written += _write_figure(folder, stem, figure, [run.run_id for run in runs])
    for stem, table in (tables or {}).items():
        written += write_table(folder, stem, table)
    source = home() / "notebooks" / notebook
    manifest = {
        "figure": name,
        "profile": profile,
        "notebook": {"name": notebook, "checksum": checksum(source) if source.is_file() else None},
        "written": datetime.now(UTC).isoformat(),
        **environment(),
        "data": {file: value for run in runs for file, value in run.manifest["data"].items()},
        "runs": [
            {"run_id": run.run_id, "config": run.manifest["config"], "sessions": run.manifest["sessions"]}
            for run in runs
        ],
        "artifacts": {path.name: checksum(path) for path in written},
    }
    write_json(folder / MANIFEST, manifest)
    return folder


def complete(folder: Path, executed: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Add `facts` and the executed notebook's checksum to the manifest in `folder`, and return it.

    A notebook that saved nothing gets a manifest of its own.

    Raises:
        ValueError: what the notebook saved cannot be read.
    """
    path = folder / MANIFEST
    manifest: dict[str, Any]
    if path.exists():
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{path.name} was damaged after the notebook wrote it") from None
    else:
        manifest = {"figure": folder.name, "written": datetime.now(UTC).isoformat(), **environment(), "artifacts": {}}
    manifest |= facts
    manifest["artifacts"][executed.name] = checksum(executed)
    write_json(path, manifest)
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
    locks = source.parent / ".locks"  # not beside the folder, which people copy
    for path in (folder, locks):
        path.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{folder.parent.name}.{folder.name}.lock"):
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
