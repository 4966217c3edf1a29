"""`hatlab reproduce`: run the notebooks that `notebooks/figures.yaml` lists, with their parameters checked first.

The outcome lands in `<results>/<profile>/<figure>/`. While a kernel is at work, the progress that it writes to a file
is shown here.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hatlab.config import ConfigError, RunConfig, nearest
from hatlab.jobs import check_network
from hatlab.kernels import STOP_SECONDS, Execution
from hatlab.notebook import Notebook
from hatlab.pace import format_seconds
from hatlab.paths import home, results_root
from hatlab.progress import PROGRESS_FILE, Progress, default_progress, follow
from hatlab.runs import find_device
from hatlab.tasks import make_sequence
from hatlab.values import read_yaml

__all__ = ["Job", "NotebookFailed", "plan", "reproduce"]


class NotebookFailed(RuntimeError):
    """A notebook that did not run to its end; the message names the cell, the error and the partial copy."""


@dataclass(frozen=True)
class Job:
    """One figure to make: which notebook, with which parameters besides those about places, and what they mean."""

    profile: str
    figure: str
    notebook: Notebook
    parameters: dict[str, Any]
    config: RunConfig  # of its first run
    device: str


def reproduce(
    profile: str,
    only: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    results: Path | str | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Make the figures of `profile`, say where everything landed, and return their folders.

    Args:
        profile: a key of `notebooks/figures.yaml`.
        only: names of figures; empty: all of the profile.
        parameters: replaces those of the profile and of the notebook.
        results: results folder; None: as `hatlab.run`.

    Raises:
        ConfigError: an unknown profile, figure or parameter, or a value that a run would refuse; nothing has run then.
        NotebookFailed: after the other figures have been made.
        KeyboardInterrupt: after the kernel has been stopped. Runs go on where they were when called again.
    """
    jobs = plan(profile, only, parameters or {})
    for job in jobs:  # what is missing is better said now than by a cell of the third notebook
        find_device(job.device)
        check_network(job.config, make_sequence(job.config))
    root = (Path(results) if results is not None else results_root()).absolute()
    folders, failures = [], []
    for job in jobs:
        try:
            folders.append(_make(job, root, progress or default_progress()))
        except NotebookFailed as failure:
            failures.append(str(failure))
    if failures:
        raise NotebookFailed("\n".join(failures))
    return folders


def plan(profile: str, only: Sequence[str], parameters: Mapping[str, Any]) -> list[Job]:
    """Return the jobs of `profile`, all names and values checked.

    Raises:
        ConfigError: see `reproduce`.
    """
    path = home() / "notebooks" / "figures.yaml"
    try:
        profiles = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: run this in a checkout of hatlab, where the notebooks are") from None
    figures = profiles[_known("profile", profile, profiles)]
    for name in only:
        _known(f"figure of profile {profile}", name, figures)
    jobs = []
    for figure, entry in figures.items():
        if not only or figure in only:
            notebook = Notebook.read(path.parent / entry["notebook"])
            given = {**entry.get("parameters", {}), **parameters}
            try:
                values = notebook.check(given)
            except ConfigError as error:
                raise ConfigError(f"in the parameters of {notebook.name}: {error}") from None
            config, device = notebook.configs(values)[0], values.get("device", "auto")
            jobs.append(Job(profile, figure, notebook, given, config, device))
    return jobs


def _known(what: str, name: str, valid: Mapping[str, Any]) -> str:
    if name not in valid:
        raise ConfigError(f"unknown {what} '{name}'{nearest(name, list(valid))} (known: {', '.join(valid)})")
    return name


def _make(job: Job, results: Path, progress: Progress) -> Path:
    """Execute one notebook and complete its manifest."""
    from hatlab.artifacts import complete
    from hatlab.provenance import checksum

    folder = results / job.profile / job.figure
    folder.mkdir(parents=True, exist_ok=True)
    partial, executed = folder / f"{job.notebook.stem}.partial.ipynb", folder / job.notebook.name
    started, clock = datetime.now(UTC), time.monotonic()
    print(f"{job.figure} ({job.profile}): running {job.notebook.name}", flush=True)
    # as seen from here, where the kernel runs too: a copy that is passed on should not name folders of this machine
    place = {"results": str(_shown(results)), "profile": job.profile, "figure": job.figure}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, progress:
        events = Path(scratch) / "progress.jsonl"
        environment = {PROGRESS_FILE: str(events)}
        kernel = Execution(job.notebook, partial, {**job.parameters, **place}, f"{os.getpid()} {folder}", environment)
        kernel.start()
        try:
            follow(events, progress, until=lambda: not kernel.is_alive())
        except KeyboardInterrupt:
            _stop(kernel)
            raise
    if (failure := kernel.failure) is not None:
        kept = f"the notebook as far as it came: {_shown(partial)}"
        raise NotebookFailed(f"{job.notebook.name} failed {failure}\n{kept}")
    os.replace(partial, executed)
    facts = {
        "profile": job.profile,
        "notebook": {"name": job.notebook.name, "checksum": checksum(job.notebook.path)},
        "parameters": job.parameters,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 1),
    }
    manifest = complete(folder, started, executed, facts)
    print(f"{job.figure} ({job.profile}): done in {format_seconds(manifest['seconds'])}; in {_shown(folder)}:")
    for name in ("manifest.json", *manifest["artifacts"]):
        print(f"  {_shown(folder / name)}", flush=True)
    return folder


def _stop(kernel: Execution) -> None:
    """Interrupt the kernel as Ctrl-C would; end it if it takes too long, or at a second Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        kernel.interrupt()
        kernel.join(STOP_SECONDS)
    if kernel.is_alive():
        kernel.kill()


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
