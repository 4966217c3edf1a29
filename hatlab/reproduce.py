"""`hatlab reproduce`: run the notebooks that `notebooks/figures.yaml` lists, with their parameters checked first.

Papermill runs each notebook in a kernel of this same Python, whatever kernels are registered on the machine. It
runs in a thread, so that the main thread can show the progress that the kernel writes to a file, and stop the
kernel at Ctrl-C. The outcome lands in `<results>/<profile>/<figure>/`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import TypeAdapter, ValidationError

from hatlab.config import ConfigError, RunConfig, nearest
from hatlab.jobs import check_network
from hatlab.pace import format_seconds
from hatlab.paths import home, results_root
from hatlab.progress import PROGRESS_FILE, Progress, default_progress, follow
from hatlab.runs import find_device
from hatlab.tasks import make_sequence

__all__ = ["Job", "NotebookFailed", "plan", "reproduce"]

# What a notebook is told about where its outcome goes; users say it with options of the command.
PLACE: Final = ("results", "profile", "figure")
STOP_SECONDS: Final = 10


class NotebookFailed(RuntimeError):
    """A notebook that did not run to its end; the message names the cell, the error and the partial copy."""


@dataclass(frozen=True)
class Job:
    """One figure to make: which notebook, with which parameters besides those about places, and what they mean."""

    profile: str
    figure: str
    notebook: Path
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
        profiles = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: run this in a checkout of hatlab, where the notebooks are") from None
    figures = profiles[_known("profile", profile, profiles)]
    for name in only:
        _known(f"figure of profile {profile}", name, figures)
    jobs = []
    for figure, entry in figures.items():
        if not only or figure in only:
            notebook = path.parent / entry["notebook"]
            given = {**entry.get("parameters", {}), **parameters}
            jobs.append(Job(profile, figure, notebook, given, *_check(notebook, given)))
    return jobs


def _known(what: str, name: str, valid: Mapping[str, Any]) -> str:
    if name not in valid:
        raise ConfigError(f"unknown {what} '{name}'{nearest(name, list(valid))} (known: {', '.join(valid)})")
    return name


def _check(notebook: Path, given: Mapping[str, Any]) -> tuple[RunConfig, str]:
    """Hold `given` against the notebook's parameters cell, and all values against the bounds of `RunConfig`; return
    the config that they make, and the device."""
    try:
        import papermill
    except ImportError:
        raise ConfigError("notebooks need papermill and ipykernel: pip install 'hatlab[notebooks]'") from None
    declared = papermill.inspect_notebook(notebook)
    source = f"the parameters of {notebook.name}"
    values = {}
    for name in [name for name in declared if name not in PLACE]:
        try:
            values[name] = ast.literal_eval(declared[name]["default"])
        except ValueError:
            raise ConfigError(f"in {source}: the default of {name} is not a plain value") from None
    for name, value in given.items():
        if name in PLACE:
            raise ConfigError(f"{source}: '{name}' is set by the command: see hatlab reproduce --help")
        _known(f"parameter of {notebook.name}", name, values)
        kind = declared[name]["inferred_type_name"]
        try:
            # the annotation is code of the notebook, which is about to run
            values[name] = TypeAdapter(eval(kind)).validate_python(value, strict=True)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise ConfigError(f"in {source}: {name} = {value!r}: {problem['msg']} (wanted: {kind})") from None
    others, device = values.pop("others", {}), values.pop("device", "auto")
    fields = {name: value for name, value in values.items() if name in RunConfig.model_fields}
    # a list that is named for a field with an s, as cs and seeds are, makes a run for each of its values
    axes = {name.removesuffix("s"): value for name, value in values.items() if name not in fields}
    axes = {name: value for name, value in axes.items() if name in RunConfig.model_fields}
    if shadowed := [name for name in others if name in (*fields, *axes)]:
        raise ConfigError(f"in {source}: others = {others}: {shadowed[0]} has a parameter of its own")
    base = RunConfig.parse({**fields, **others}, source)
    try:
        return base.grid(**axes)[0], device
    except ConfigError as error:
        raise ConfigError(f"in {source}: {error}") from None


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
        kernel = _Execution(job.notebook, partial, {**job.parameters, **place}, events)
        kernel.start()
        try:
            follow(events, progress, until=lambda: not kernel.is_alive())
        except KeyboardInterrupt:
            kernel.stop()
            raise
    kernel.raise_failure()
    os.replace(partial, executed)
    facts = {
        "profile": job.profile,
        "notebook": {"name": job.notebook.name, "checksum": checksum(job.notebook)},
        "parameters": job.parameters,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 1),
    }
    manifest = complete(folder, started, executed, facts)
    print(f"{job.figure} ({job.profile}): done in {format_seconds(manifest['seconds'])}; in {_shown(folder)}:")
    for name in ("manifest.json", *manifest["artifacts"]):
        print(f"  {_shown(folder / name)}", flush=True)
    return folder


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class _Execution(threading.Thread):
    """Papermill at work on one notebook. A daemon: if all else fails, the kernel ends when it sees its parent gone."""

    def __init__(self, notebook: Path, output: Path, parameters: dict[str, Any], events: Path) -> None:
        super().__init__(name=f"papermill {notebook.name}", daemon=True)
        self.notebook, self.output, self.parameters, self.events = notebook, output, parameters, events
        self.failure: Exception | None = None
        self.manager: Any = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        from jupyter_core.utils import ensure_event_loop

        self.loop = ensure_event_loop(prefer_selector_loop=True)  # on Windows, ZeroMQ needs such a loop
        try:
            import papermill

            papermill.execute_notebook(
                _literal(_shown(self.notebook)),
                _literal(_shown(self.output)),
                self.parameters,
                progress_bar=False,
                kernel_name="python3",
                kernel_manager_class=self._kernel_manager(),
            )
        except Exception as error:
            self.failure = error
        finally:
            self.loop.close()

    def _kernel_manager(self) -> type:
        from ipykernel.kernelspec import get_kernel_dict
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import AsyncKernelManager

        execution = self
        package = str(Path(__file__).resolve().parent.parent)
        environment = {
            PROGRESS_FILE: str(self.events),
            "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }

        class ThisPython(AsyncKernelManager):
            """Starts the interpreter that runs this code, whatever "python3" means in the user's Jupyter."""

            # without the level, the kernel warns on the terminal that it listens on local ports
            kernel_spec = KernelSpec(**get_kernel_dict(["--log-level=ERROR"]), env=environment)

            def __init__(self, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                execution.manager = self

        return ThisPython

    def stop(self) -> None:
        """Interrupt the kernel as Ctrl-C would; end it if it takes too long, or at a second Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            self._ask("interrupt_kernel")
            self.join(STOP_SECONDS)
        if self.is_alive():
            self._ask("shutdown_kernel", now=True)
            self.join(STOP_SECONDS)

    def _ask(self, what: str, **kwargs: Any) -> None:
        if self.manager is not None and self.loop is not None and self.loop.is_running():
            asyncio.run_coroutine_threadsafe(getattr(self.manager, what)(**kwargs), self.loop)

    def raise_failure(self) -> None:
        """Turn what papermill raised into one message."""
        if self.failure is None:
            return
        from papermill.exceptions import PapermillExecutionError

        kept = f"the notebook as far as it came: {_shown(self.output)}"
        if isinstance(self.failure, PapermillExecutionError):
            lines = self.failure.source.strip().splitlines() or [""]
            raise NotebookFailed(
                f"{self.notebook.name} failed in cell [{self.failure.exec_count}] ({lines[0]} ...): "
                f"{self.failure.ename}: {self.failure.evalue}\n{kept}"
            ) from None
        raise NotebookFailed(
            f"{self.notebook.name} did not run: {type(self.failure).__name__}: {self.failure}\n{kept}"
        ) from self.failure


def _literal(path: Path) -> str:
    """Papermill formats paths with the parameters; braces in them are meant as they stand."""
    return str(path).replace("{", "{{").replace("}", "}}")
