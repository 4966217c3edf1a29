"""What a batch is to make: from notebooks and parameters to runs, all checked before the first kernel starts."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from hatlab.batches import grids
from hatlab.batches.checks import runs_of
from hatlab.batches.dependencies import changes, named
from hatlab.batches.ledger import Entry, NotebookRun, Status, entries
from hatlab.batches.notebook import SAVE, Notebook
from hatlab.config import ConfigError, nearest
from hatlab.support.files import atomic, write_json
from hatlab.support.paths import RUN, results_root
from hatlab.support.provenance import now

__all__ = ["Batch", "Planned", "find", "names", "plan", "runs_of"]

FOLDER: Final = "batches"  # below the results
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Planned:
    """A run of a batch: where it stands, and why it is to be made, if it is."""

    run: NotebookRun
    status: Status
    why: str

    @property
    def done(self) -> bool:
        return self.status.state == "done"


@dataclass(frozen=True)
class Batch:
    """Runs of notebooks that are wanted together.

    Attributes:
        name: its folder below `<results>/batches`.
        runs: each once, in order.
        results: the results folder.
        figures: run id -> the figure of `hatlab reproduce` that it makes; empty where the parameters tell runs apart.
        warnings: what is likely to be a mistake, for whoever plans it.
    """

    name: str
    runs: tuple[NotebookRun, ...]
    results: Path
    figures: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def notebook(self) -> str:
        """The notebooks' file names, with commas between them."""
        return ", ".join(dict.fromkeys(run.notebook for run in self.runs))

    @property
    def folder(self) -> Path:
        return self.results / FOLDER / self.name

    @functools.cached_property
    def varied(self) -> list[str]:
        """Names of what tells the runs apart: "figure", or the parameters in which they differ; those that were set,
        where they differ in none."""
        if self.figures:
            return ["figure"]
        names = list(dict.fromkeys(name for run in self.runs for name in run.values))
        differing = [n for n in names if len({json.dumps(run.values.get(n), sort_keys=True) for run in self.runs}) > 1]
        return differing or sorted({name for run in self.runs for name in run.given})

    def telling(self, run: NotebookRun) -> dict[str, Any]:
        """Return what tells the run from the others: each of `varied`, and its value."""
        if self.figures:
            return {"figure": self.figures[run.run_id]}
        return {name: run.values.get(name) for name in self.varied}

    def entry(self, run: NotebookRun) -> Entry:
        return Entry(self.results, run.run_id)

    def statuses(self) -> dict[str, Status]:
        """Return run id -> where the run stands now, its outcome checked."""
        return {run.run_id: self.entry(run).status() for run in self.runs}

    @property
    def done(self) -> bool:
        """Whether all runs are done, now."""
        return all(status.state == "done" for status in self.statuses().values())

    def save(self, notebooks: Iterable[Notebook] = ()) -> dict[str, Path]:
        """Write the plan, and beside it the notebooks as they are now; return the checksum of each -> its file."""
        sources = self.folder / "notebooks"
        sources.mkdir(parents=True, exist_ok=True)
        files = {}
        for notebook in notebooks:
            files[notebook.checksum] = path = sources / f"{notebook.checksum.rpartition(':')[2][:12]}.ipynb"
            with atomic(path) as temporary:
                temporary.write_text(notebook.text, encoding="utf-8")
        runs = [{"run_id": run.run_id, **asdict(run)} for run in self.runs]
        write_json(self.folder / "batch.json", {"planned": now(), "figures": dict(self.figures), "runs": runs})
        return files

    def look(self) -> list[Planned]:
        """Return each run with its status, and the reason why it is to be made if it is not done."""
        earlier = defaultdict(list)
        for entry in entries(self.results):
            if (run := entry.read_run()) is not None:
                earlier[run.notebook, _parameters(run)].append(run)
        found = [(run, self.entry(run).status()) for run in self.runs]
        return [
            Planned(run, status, _why(run, status, earlier[run.notebook, _parameters(run)], self.results))
            for run, status in found
        ]


def _parameters(run: NotebookRun) -> str:
    return json.dumps(run.values, sort_keys=True)


def _why(run: NotebookRun, status: Status, alike: Sequence[NotebookRun], results: Path) -> str:
    if status.state == "done":
        return ""
    if status.state == "stale":
        return f"stale: {status.reason}"
    if status.state == "running":
        return f"running on {status.host}"
    if status.state != "queued":
        return f"{status.state} before: {status.reason.splitlines()[0] if status.reason else ''}"
    others = [(other, Entry(results, other.run_id).status()) for other in alike if other.run_id != run.run_id]
    done = [(status.ended, other) for other, status in others if status.state == "done"]
    if not done:
        return status.reason or "new"
    before = max(done, key=lambda pair: pair[0])[1]
    return f"stale: {'; '.join(changes(before, run))}"


def plan(
    notebook: Path | str | Notebook,
    grid: Any = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    over: Mapping[str, Sequence[Any]] | None = None,
    name: str | None = None,
    results: Path | str | None = None,
    inputs: Sequence[Path | str] = (),
    here: bool = True,
) -> Batch:
    """Return a batch with all names, types, bounds and data sets checked; nothing is written or started.

    Args:
        notebook, grid, parameters, over, name, results, inputs: as for `batch`.
        here: as for `runs_of`.

    Raises:
        ConfigError: naming everything that is wrong with the runs, each problem once; a name that another batch has.
        DatasetError: images that are missing or damaged.
    """
    root = _root(results)
    source = notebook if isinstance(notebook, Notebook) else Notebook.read(notebook)
    if isinstance(grid, str | Path):
        points = grids.expand(grids.read(Path(grid)), parameters, over, str(grid))
    else:
        points = grids.expand(grid, parameters, over)
    files = named(inputs, Path.cwd(), root)
    runs = {run.run_id: run for run in runs_of([(source, point) for point in points], here, inputs=files)}
    wanted = tuple(runs.values())
    if name is None:
        digest = hashlib.sha256(json.dumps([source.name, sorted(map(_parameters, wanted))]).encode()).hexdigest()
        name = f"{re.sub(r'[^A-Za-z0-9_]+', '-', source.stem).strip('-')[:60] or 'notebook'}-{digest[:8]}"
    planned = Batch(checked_name(name), wanted, root, warnings=_warnings(source, wanted))
    _check_earlier(planned)
    return planned


def _warnings(notebook: Notebook, runs: Sequence[NotebookRun]) -> tuple[str, ...]:
    missing = [name for name in ("figure", "profile") if name not in notebook.parameters]
    if len(runs) == 1 or not missing:
        return ()
    return (
        f"{notebook.name} has no parameter {' and no '.join(missing)}: what its {len(runs)} runs save lands outside "
        f"their folders, where one may replace another's, and nothing is collected. Save with {SAVE}",
    )


def _check_earlier(planned: Batch) -> None:
    """See that a batch of the same name is the same one: with more runs perhaps, or other code, but none less.

    Raises:
        ConfigError: it is another batch, which would be forgotten.
    """
    try:
        earlier = find(planned.results, planned.name)
    except ConfigError:  # there is none, or it cannot be read
        return
    keys = {key for run in planned.runs for key in _keys(run)}
    if lost := [run for run in earlier.runs if not keys.intersection(_keys(run))]:
        raise ConfigError(
            f"name = '{planned.name}' belongs to a batch of {earlier.notebook} with runs that are not among these "
            f"{len(planned.runs)} of {planned.notebook}: {len(lost)} of {len(earlier.runs)}, the first with "
            f"{earlier.telling(lost[0])}; take another --name, or ask for those runs, too (what is done is kept)"
        )


def _keys(run: NotebookRun) -> list[tuple[str, str]]:
    """By what a run is known in batches of one name: what was set, or all values, whatever has changed otherwise."""
    return [(run.notebook, json.dumps(values, sort_keys=True)) for values in (run.given, run.values)]


def names(results: Path | str | None = None) -> list[str]:
    """Return the names of all batches, the one that was planned last at the end.

    In a notebook that is a run of a batch itself, that batch is left out.
    """
    found = sorted((_root(results) / FOLDER).glob("*/batch.json"), key=lambda path: path.stat().st_mtime)
    if run := os.environ.get(RUN):
        own = f'"run_id": "{Path(run).name}"'
        found = [path for path in found if own not in path.read_text(encoding="utf-8", errors="replace")]
    return [path.parent.name for path in found]


def find(results: Path | str | None = None, name: str | None = None) -> Batch:
    """Return a batch as it was planned last; without a name, the one that was planned last of all.

    Raises:
        ConfigError: there is none, or its file cannot be read.
    """
    root, known = _root(results), names(results)
    if not known:
        raise ConfigError(f"no batch in {root / FOLDER}: hatlab batch makes one")
    if name is not None and name not in known:
        raise ConfigError(f"unknown batch '{name}'{nearest(name, known)} (known: {', '.join(sorted(known))})")
    path = root / FOLDER / (known[-1] if name is None else name) / "batch.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        runs = {run.run_id: run for run in TypeAdapter(list[NotebookRun]).validate_python(content["runs"])}
        figures = TypeAdapter(dict[str, str]).validate_python(content.get("figures", {}))
        if not runs or (figures and not runs.keys() <= figures.keys()):
            raise ValueError(f"it names {len(runs)} runs and {len(figures)} figures")
        return Batch(path.parent.name, tuple(runs.values()), root, figures)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(f"{path} cannot be read ({why}): call hatlab batch again, which writes it anew") from None


def _root(results: Path | str | None) -> Path:
    return (Path(results) if results is not None else results_root()).absolute()


def checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"name = {name!r}: allowed are up to 80 letters, digits, dots, hyphens and underscores, and no sign first"
        )
    return name
