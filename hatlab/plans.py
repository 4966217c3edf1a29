"""What a batch is to make: from a notebook and a grid to runs, all of them checked before the first kernel starts."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hatlab import grids
from hatlab.config import ConfigError, RunConfig, nearest
from hatlab.files import write_json
from hatlab.ledger import Entry, NotebookRun, Status, entries, now
from hatlab.notebook import Notebook
from hatlab.paths import results_root
from hatlab.provenance import library_version

__all__ = ["Batch", "Planned", "find", "names", "plan"]

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
    """A notebook and the runs that are wanted of it.

    Attributes:
        name: its folder below `<results>/batches`.
        notebook: the notebook's file name.
        runs: each once, in order.
        results: the results folder.
    """

    name: str
    notebook: str
    runs: tuple[NotebookRun, ...]
    results: Path

    @property
    def folder(self) -> Path:
        return self.results / FOLDER / self.name

    @functools.cached_property
    def varied(self) -> list[str]:
        """Names of the parameters in which the runs differ; those that were set, where they do not."""
        names = list(dict.fromkeys(name for run in self.runs for name in run.values))
        differing = [n for n in names if len({json.dumps(run.values.get(n), sort_keys=True) for run in self.runs}) > 1]
        return differing or sorted({name for run in self.runs for name in run.given})

    def entry(self, run: NotebookRun) -> Entry:
        return Entry(self.results, run.run_id)

    def statuses(self) -> dict[str, Status]:
        """Return run id -> where the run stands now, its outcome checked."""
        return {run.run_id: self.entry(run).status() for run in self.runs}

    @property
    def done(self) -> bool:
        """Whether all runs are done, now."""
        return all(self.entry(run).status().state == "done" for run in self.runs)

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        runs = [{"run_id": run.run_id, **asdict(run)} for run in self.runs]
        write_json(self.folder / "batch.json", {"notebook": self.notebook, "planned": now(), "runs": runs})

    def look(self) -> list[Planned]:
        """Return each run with its status, and the reason why it is to be made if it is not done."""
        earlier: dict[str, list[NotebookRun]] = {}
        for entry in entries(self.results):
            if (run := entry.read_run()) is not None and run.notebook == self.notebook:
                earlier.setdefault(_parameters(run), []).append(run)
        found = []
        for run in self.runs:
            status = self.entry(run).status()
            others = [other for other in earlier.get(_parameters(run), []) if other.run_id != run.run_id]
            found.append(Planned(run, status, _why(run, status, others, self.results)))
        return found


def _parameters(run: NotebookRun) -> str:
    return json.dumps(run.values, sort_keys=True)


def _why(run: NotebookRun, status: Status, others: Sequence[NotebookRun], results: Path) -> str:
    if status.state == "done":
        return ""
    if status.state == "stale":
        return f"stale: {status.reason}"
    if status.state == "running":
        return f"running on {status.host}"
    if status.state != "queued":
        return f"{status.state} before: {status.reason.splitlines()[0] if status.reason else ''}"
    done = [(s.ended, other) for other in others if (s := Entry(results, other.run_id).status()).state == "done"]
    if not done:
        return status.reason or "new"
    before = max(done, key=lambda pair: pair[0])[1]
    changes = ["the notebook was changed"] if before.source != run.source else []
    if before.hatlab != run.hatlab:
        changes.append(f"hatlab was {before.hatlab} and is {run.hatlab}")
    files = sorted(name for name in {*before.data, *run.data} if before.data.get(name) != run.data.get(name))
    if files:
        changes.append(f"other images: {', '.join(files)}")
    return f"stale: {'; '.join(changes)}"


def plan(
    notebook: Path | str | Notebook,
    grid: Any = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    over: Mapping[str, Sequence[Any]] | None = None,
    name: str | None = None,
    results: Path | str | None = None,
    here: bool = True,
) -> Batch:
    """Return a batch with all names, types, bounds and data sets checked; nothing is written or started.

    Args:
        notebook, grid, parameters, over, name, results: as for `batch`.
        here: whether the runs are made on this machine, so that their device has to be there.

    Raises:
        ConfigError: naming everything that is wrong with the runs, each problem once.
        DatasetError: images that are missing or damaged.
    """
    source = notebook if isinstance(notebook, Notebook) else Notebook.read(notebook)
    if isinstance(grid, str | Path):
        points = grids.expand(grids.read(Path(grid)), parameters, over, str(grid))
    else:
        points = grids.expand(grid, parameters, over)
    version, checks = library_version(), _Checks(here)
    runs: dict[str, NotebookRun] = {}
    problems: dict[str, None] = {}  # an ordered set
    for point in points:
        try:
            values = source.check(point)
            data = checks.data(source, values)
        except ConfigError as error:
            problems |= dict.fromkeys(str(error).splitlines())
            continue
        given = {name: values[name] for name in point}
        run = NotebookRun(source.name, source.checksum, given, values, version, data)
        runs.setdefault(run.run_id, run)
    if problems:
        many = f"\n({len(points)} runs were asked for, none was started)" if len(points) > 1 else ""
        raise ConfigError(f"in the parameters of {source.name}: " + "\n".join(problems) + many)
    wanted = tuple(runs.values())
    if name is None:
        digest = hashlib.sha256(json.dumps([source.name, sorted(map(_parameters, wanted))]).encode()).hexdigest()
        name = f"{re.sub(r'[^A-Za-z0-9_]+', '-', source.stem).strip('-')[:60] or 'notebook'}-{digest[:8]}"
    return Batch(_checked_name(name), source.name, wanted, _root(results))


class _Checks:
    """What is checked of the configs that a notebook's parameters describe; the images of each data set once."""

    def __init__(self, here: bool) -> None:
        self.here = here
        self.sets: Callable[[str], Any] = functools.cache(self._load)
        self.networks: set[str] = set()

    @staticmethod
    def _load(names: str) -> Any:
        from hatlab.datasets import load, split_names

        return tuple(load(name) for name in split_names(names))

    def data(self, notebook: Notebook, values: Mapping[str, Any]) -> dict[str, str]:
        """Return file -> checksum of the images that the parameters name.

        Raises:
            ConfigError: a value that a run would refuse.
        """
        config = notebook.configs(values)[0]
        if self.here and isinstance(device := values.get("device"), str):
            from hatlab.runs import find_device

            find_device(device)
        if not notebook.names_data(values):
            return {}
        from hatlab.jobs import check_network
        from hatlab.tasks import make_sequence

        sets = self.sets(config.dataset)
        alike = config.replace(seed=RunConfig().seed, c=RunConfig().c)
        if alike.run_id not in self.networks:
            check_network(config, make_sequence(config, sets))
            self.networks.add(alike.run_id)
        return {file: value for data in sets for file, value in data.checksums.items()}


def names(results: Path | str | None = None) -> list[str]:
    """Return the names of all batches, the one that was planned last at the end."""
    found = (_root(results) / FOLDER).glob("*/batch.json")
    return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime)]


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
        runs = tuple(NotebookRun(**{k: v for k, v in run.items() if k != "run_id"}) for run in content["runs"])
        return Batch(path.parent.name, content["notebook"], runs, root)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read ({error!r}): call hatlab batch again, which writes it anew") from None


def _root(results: Path | str | None) -> Path:
    return (Path(results) if results is not None else results_root()).absolute()


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"name = {name!r}: allowed are up to 80 letters, digits, dots, hyphens and underscores, and no sign first"
        )
    return name
