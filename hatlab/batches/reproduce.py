"""`hatlab reproduce`: the notebooks that `notebooks/figures.yaml` lists as one batch, and what they say of the paper.

A figure is a run of a batch. When it is done, its outcome is copied to `<results>/<profile>/<figure>/`; at the end the
verdicts of all figures of the profile are put into one table.
"""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hatlab.batches.notebook import Notebook
from hatlab.config import ConfigError, nearest
from hatlab.support.artifacts import COST, MANIFEST, cost, publish
from hatlab.support.files import atomic
from hatlab.support.paths import ONLY_FINISHED, checkout, notebooks, results_root
from hatlab.support.progress import format_seconds
from hatlab.support.provenance import now
from hatlab.support.values import read_yaml

if TYPE_CHECKING:
    import pandas as pd

    from hatlab.batches.ledger import NotebookRun, Status
    from hatlab.batches.plans import Batch
    from hatlab.batches.view import Display

__all__ = ["Job", "NotebookFailed", "plan", "reproduce"]

ENTRY: Final = ("notebook", "parameters", "again", "portable")  # what figures.yaml says of a figure
# One thread, and instructions that all x86 CPUs of the last ten years have: meant to give the same tables, byte for
# byte. Networks of some hundred units lose little by it, and large ones most of their speed.
PORTABLE: Final = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "avx2",
}
WIDEST: Final = 120  # columns of the table of verdicts


class NotebookFailed(RuntimeError):
    """Notebooks that did not run to their end; the message names figure, cell, error and partial copy of each."""


@dataclass(frozen=True)
class Job:
    """One figure to make.

    Attributes:
        profile, figure: the keys in `notebooks/figures.yaml`.
        notebook: what makes it.
        parameters: those that are set; none of those about places.
        again: whether it is made at each call, since it shows what is not among its parameters.
        portable: whether its tables are to be the same on other machines, see `PORTABLE`.
    """

    profile: str
    figure: str
    notebook: Notebook
    parameters: dict[str, Any]
    again: bool = False
    portable: bool = False


def reproduce(
    profile: str,
    only: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    results: Path | str | None = None,
    workers: int | None = None,
    display: Display | None = None,
    source: Path | str | None = None,
) -> list[Path]:
    """Make the figures of `profile` that are not done, print the verdicts of all its figures, and return the folders.

    The batch is called `reproduce-<profile>`. Figures are made side by side; one that fails does not stop the others.

    Args:
        profile: a key of `notebooks/figures.yaml`.
        only: names of figures; empty: all of the profile.
        parameters: replaces those of the profile and of the notebook.
        results: results folder; None: as `hatlab.run`.
        workers: figures at a time; None: one for each core, one if they are made on a GPU.
        display: what shows the progress; None: as for `hatlab.batch`.
        source: a store of finished runs (`hatlab.analysis.store`) that are put below the results, and nothing else is
            trained; "reference": that of the profile's committed results.

    Raises:
        ConfigError: a store that is missing or damaged; an unknown profile, figure or parameter, a value that a run
            would refuse, images that are missing; all that is wrong at once, and nothing has run then.
        NotebookFailed: after all others have been made.
        KeyboardInterrupt: after the kernels have ended; the same call goes on.
    """
    from hatlab.batches import batches, plans, view

    listed = _profile(profile)
    jobs = _jobs(profile, listed, only, parameters or {})
    runs = plans.runs_of([(job.notebook, job.parameters) for job in jobs])
    paired = list(zip(jobs, runs, strict=True))
    figures: dict[str, str] = {}  # two that are made by one run share it
    for job, run in paired:
        figures[run.run_id] = f"{figures[run.run_id]}, {job.figure}" if run.run_id in figures else job.figure
    wanted = tuple({run.run_id: run for run in runs}.values())
    root = (Path(results) if results is not None else results_root()).absolute()
    shown = display or view.Display()
    if source is not None:
        put, there = _unpack(source, profile, root)
        shown.note(f"{put} runs are put into {_shown(root / 'runs')}, {there} were there")
    planned = batches.Batch(plans.checked_name(f"reproduce-{profile}"), wanted, root, figures)
    for job, run in paired:
        if job.again:
            planned.entry(run).forget()
    outcomes = _Outcomes(planned, paired, shown)
    alike = PORTABLE if platform.machine() in ("x86_64", "AMD64") else {}
    batches.carry_out(
        planned,
        [job.notebook for job in jobs],
        batches.Limits(workers, stop_after=0),  # its figures are different notebooks
        display=shown,
        ended=outcomes.take,
        environments={
            run.run_id: {**(alike if job.portable else {}), **({ONLY_FINISHED: "1"} if source is not None else {})}
            for job, run in paired
        },
    )
    failures = outcomes.failures + _tell_verdicts(root / profile, list(listed), outcomes.made)
    if failures:
        raise NotebookFailed("\n".join(failures))
    return [root / profile / job.figure for job in jobs]


def _unpack(source: Path | str, profile: str, root: Path) -> tuple[int, int]:
    from hatlab.analysis import store

    committed = source == "reference"
    path = checkout() / "results" / "reference" / profile / "runs.zip" if committed else Path(source)
    return store.unpack(path, root)


def plan(profile: str, only: Sequence[str], parameters: Mapping[str, Any]) -> list[Job]:
    """Return the jobs of `profile`, all names and values checked, but no image read for it.

    Raises:
        ConfigError: see `reproduce`.
    """
    from hatlab.batches import plans

    jobs = _jobs(profile, _profile(profile), only, parameters)
    plans.runs_of([(job.notebook, job.parameters) for job in jobs], images=False)
    return jobs


def _profile(name: str) -> dict[str, Any]:
    """Return figure -> entry of a profile in figures.yaml."""
    path = notebooks() / "figures.yaml"
    try:
        profiles = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: hatlab's checkout and wheel have it, this copy has not") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if name not in profiles:
        raise ConfigError(f"unknown profile '{name}'{nearest(name, list(profiles))} (known: {', '.join(profiles)})")
    figures: dict[str, Any] = profiles[name]
    for figure, entry in figures.items():
        if "notebook" not in entry:
            raise ConfigError(f"in {path}: {name}, {figure}: no notebook is named")
        if unknown := [key for key in entry if key not in ENTRY]:
            raise ConfigError(
                f"in {path}: {name}, {figure}: unknown entry '{unknown[0]}'{nearest(unknown[0], list(ENTRY))} "
                f"(known: {', '.join(ENTRY)})"
            )
    return figures


def _jobs(profile: str, figures: Mapping[str, Any], only: Sequence[str], parameters: Mapping[str, Any]) -> list[Job]:
    if unknown := [name for name in only if name not in figures]:
        known = f"(known: {', '.join(figures)})"
        told = [
            f"unknown figure of profile {profile} '{name}'{nearest(name, list(figures))} {known}" for name in unknown
        ]
        raise ConfigError("\n".join(told))
    jobs = []
    for figure, entry in figures.items():
        if not only or figure in only:
            notebook = Notebook.read(notebooks() / entry["notebook"])
            given = {**(entry.get("parameters") or {}), **parameters}
            marks = {name: bool(entry.get(name, False)) for name in ("again", "portable")}
            jobs.append(Job(profile, figure, notebook, given, **marks))
    return jobs


class _Outcomes:
    """Puts what the runs left where people look for it, and notes what went wrong.

    Attributes:
        made: figures whose folder holds the outcome of this plan.
        failures: a text for each of the others.
    """

    def __init__(self, planned: Batch, jobs: Sequence[tuple[Job, NotebookRun]], display: Display) -> None:
        from hatlab.support.provenance import checksum

        self.planned, self.jobs, self.display = planned, jobs, display
        self.notebooks = {job.figure: checksum(job.notebook.path) for job, _ in jobs}
        self.begun = now()
        self.made: set[str] = set()
        self.failures: list[str] = []

    def take(self, run: NotebookRun, status: Status) -> None:
        """A run has ended, in whatever state."""
        source = self.planned.entry(run).folder
        for job in [job for job, its_run in self.jobs if its_run.run_id == run.run_id]:
            folder = self.planned.results / job.profile / job.figure
            if status.state == "done":
                self._publish(job, source, folder, status)
            elif status.state != "queued":
                self._fail(job, source, folder, status)

    def _publish(self, job: Job, source: Path, folder: Path, status: Status) -> None:
        notebook = {"name": job.notebook.name, "checksum": self.notebooks[job.figure]}
        try:
            # what is passed on should not name this machine
            publish(source, folder, {"profile": job.profile, "figure": job.figure, "notebook": notebook, "host": None})
        except (OSError, ValueError) as error:
            self.failures.append(f"{job.figure}: its outcome could not be copied to {_shown(folder)}: {error}")
            return
        self.made.add(job.figure)
        when = "before" if status.ended < self.begun else f"in {format_seconds(status.seconds)}"
        self.display.note(f"{job.figure}: done {when}; in {_shown(folder)}")

    def _fail(self, job: Job, source: Path, folder: Path, status: Status) -> None:
        between = " " if status.reason.startswith("in cell") else ": "
        text = f"{job.figure}: {job.notebook.name} failed{between}{status.reason}"
        partial = source / f"{job.notebook.stem}.partial.ipynb"
        if partial.exists():
            with contextlib.suppress(OSError):  # then it is left where it is
                folder.mkdir(parents=True, exist_ok=True)
                with atomic(folder / partial.name) as temporary:
                    shutil.copyfile(partial, temporary)
                partial = folder / partial.name
            text += f"\nthe notebook as far as it came: {_shown(partial)}"
        self.failures.append(text)


def _tell_verdicts(folder: Path, figures: Sequence[str], made: set[str]) -> list[str]:
    """Print what the figures of a profile say of the paper, and write it to `verdicts.csv`; return what is wrong.

    Args:
        folder: of the profile, below the results.
        figures: of the profile, in order; those without verdicts are passed over.
        made: those whose folder holds what this call would make.
    """
    import pandas as pd

    from hatlab.analysis import verdicts
    from hatlab.batches.view import console

    tables, earlier, problems = [], [], []
    for figure in figures:
        table, manifest = _read_verdicts(folder / figure)
        if table is None or "figure" in table:  # a report of a batch holds those of the batch's figures
            continue
        if missing := [name for name in verdicts.Verdict._fields if name not in table]:
            problems.append(f"{figure}: its table of verdicts has no column {', '.join(missing)}")
            continue
        tables.append(table[list(verdicts.Verdict._fields)].assign(figure=figure, **cost(manifest)))
        if figure not in made:
            by = manifest.get("hatlab") or manifest["versions"]["hatlab"]
            earlier.append(f"{figure} (of {manifest['written'][:10]}, hatlab {by})")
    path = folder / "verdicts.csv"
    if not tables:
        path.unlink(missing_ok=True)
        return problems
    every = pd.concat(tables, ignore_index=True)[["figure", *verdicts.Verdict._fields, *COST]]
    with atomic(path) as temporary:
        every.to_csv(temporary, index=False, lineterminator="\n")
    shown = console(prose=True)
    shown.print(verdicts.as_rich(every, min(shown.width, WIDEST)))
    if earlier:
        print(f"not made in this call: {', '.join(earlier)}")
    print(f"{verdicts.summary(every)}; {_shown(path)}", flush=True)
    return problems


def _read_verdicts(folder: Path) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """Return the verdicts of a figure and its manifest; None if it has none, or they are not what it declares."""
    import pandas as pd

    from hatlab.support.provenance import checksum

    path = folder / "verdicts.parquet"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["artifacts"].get(path.name) != checksum(path):
            return None, {}
    except (OSError, ValueError):
        return None, {}
    return pd.read_parquet(path), manifest


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
