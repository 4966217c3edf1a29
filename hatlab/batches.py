"""Batches: one notebook with many sets of parameters, planned, checked, and put on a Dask cluster.

`plan` turns a notebook and a grid into runs, all of them checked before the first kernel starts. `batch` makes those
that are not done. Where each stands is on the disk (`ledger`), so a batch that was stopped, by whatever, is gone on
with by the same call.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hatlab import grids
from hatlab.cluster import Cluster
from hatlab.config import ConfigError, RunConfig, nearest
from hatlab.files import write_json
from hatlab.ledger import Entry, NotebookRun, State, Status, entries, now
from hatlab.notebook import Notebook
from hatlab.paths import results_root
from hatlab.provenance import library_version

if TYPE_CHECKING:
    from hatlab.batch_view import Display

__all__ = ["Batch", "Planned", "batch", "default_workers", "find", "names", "plan"]

FOLDER: Final = "batches"  # below the results
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
STOP_SECONDS: Final = 20.0  # for kernels that were asked to end


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

    @property
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
    notebook: Path | str,
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
    source = Notebook.read(notebook)
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


def batch(
    notebook: Path | str,
    grid: Any = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    over: Mapping[str, Sequence[Any]] | None = None,
    name: str | None = None,
    results: Path | str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    resources: Mapping[str, float] | None = None,
    retries: int = 0,
    timeout: float | None = None,
    memory: int | str | None = None,
    dashboard: str = "127.0.0.1:0",
    display: Display | None = None,
) -> Batch:
    """Run a notebook with each set of parameters of a grid; what is done is kept, all else is made.

    Each run has a kernel and a folder of its own, `<results>/notebooks/<run id>`. A run that fails does not stop the
    others: look at `Batch.statuses` of what is returned.

    Args:
        notebook: a notebook whose cell tagged `parameters` has lines `name: type = value`.
        grid: path of a YAML file, or what it would hold (see `hatlab.grids`); None: `parameters` and `over` alone.
        parameters: name -> value, the same in all runs.
        over: name -> values, all combinations, the last one varying fastest.
        name: of the batch; None: made from the notebook's name and the parameters.
        results: results folder; None: as `hatlab.run`.
        workers: runs at a time on this machine; None: one for each core, one if the runs are on a GPU.
        scheduler: address of a Dask scheduler whose workers see this folder and have this hatlab; None: this machine.
        resources: what each run takes of a worker that was started with --resources, such as {"GPU": 1}.
        retries: how many times a run that failed is tried again.
        timeout: seconds that a run may take.
        memory: bytes that a run may hold, or text such as "4GB"; None: a fair share of the machine's, or worker's.
        dashboard: where Dask's dashboard listens; None for a port of its choice on this machine alone.
        display: what shows the progress; None: bars on a terminal, a few lines elsewhere.

    Raises:
        ConfigError, DatasetError: before anything is started; all that is wrong at once.
        ClusterError: no scheduler answers, or it is lost; runs that workers have begun end there.
        KeyboardInterrupt: after the kernels have ended; what is not done is queued for the next call.
    """
    from hatlab.batch_view import Display

    options = {"workers": workers, "retries": retries, "timeout": timeout}
    _check_options(options, scheduler, resources)
    limit = _bytes(memory)
    planned = plan(
        notebook,
        grid,
        parameters=parameters,
        over=over,
        name=name,
        results=results,
        here=scheduler is None,
    )
    text = Notebook.read(notebook).text
    planned.save()
    looked = planned.look()
    todo = [item.run for item in looked if not item.done]
    with display or Display() as shown:
        shown.start(planned, looked)
        if not todo:
            return planned
        at_once = workers or default_workers(todo)
        with Cluster(at_once, scheduler, dashboard) as cluster:
            shown.note(cluster.describe())
            _run(planned, todo, text, cluster, shown, retries, timeout, limit, resources)
    return planned


def _run(
    planned: Batch,
    todo: list[NotebookRun],
    text: str,
    cluster: Cluster,
    shown: Display,
    retries: int,
    timeout: float | None,
    memory: int | None,
    resources: Mapping[str, float] | None,
) -> None:
    from hatlab.runner import Assignment

    call = secrets.token_hex(4)
    for run in todo:
        _queue(planned.entry(run), run)
    environment = cluster.kernel_environment()
    if "HATLAB_DATA" in os.environ:
        environment["HATLAB_DATA"] = str(Path(os.environ["HATLAB_DATA"]).expanduser().absolute())
    environment["HATLAB_RESULTS"] = str(planned.results)
    jobs = [
        Assignment(run, text, planned.results, Path.cwd(), call, environment, timeout, 0 if memory is None else memory)
        for run in todo
    ]
    pending = cluster.submit(jobs, retries, resources)
    try:
        _follow(planned, pending, cluster, shown)
    except KeyboardInterrupt:
        shown.note("stopping: kernels are interrupted (Ctrl-C again: killed)")
        try:
            cluster.stop(call)
            _follow(planned, pending, cluster, shown, STOP_SECONDS)
        except KeyboardInterrupt:
            cluster.stop(call, now=True)
            _follow(planned, pending, cluster, shown, STOP_SECONDS)
        raise


def _follow(
    planned: Batch,
    pending: dict[Any, NotebookRun],
    cluster: Cluster,
    shown: Display,
    seconds: float | None = None,
) -> None:
    """Take what ends out of `pending` until nothing is left, or for so many seconds."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while pending and (deadline is None or time.monotonic() < deadline):
        for future in [future for future in pending if future.done()]:
            run = pending.pop(future)
            entry = planned.entry(run)
            if (problem := cluster.problem(future)) is not None:
                _settle(entry, problem)
            shown.ended(run, entry.status())
        shown.tick()
        time.sleep(0.1)


def _queue(entry: Entry, run: NotebookRun) -> None:
    """Write that a run waits, unless somebody is at it."""
    with entry.lock(wait=0) as held:
        if held and (before := entry.status()).state != "done":
            entry.describe(run)
            entry.write(Status("queued", before.attempt, before.reason if before.state == "queued" else ""))


def _settle(entry: Entry, problem: tuple[State, str]) -> None:
    """Write how a run ended whose worker could not."""
    try:
        with entry.lock(wait=0) as held:
            before = entry.status()
            if held and before.state != "done":
                entry.write(Status(problem[0], before.attempt, problem[1], ended=now(), heartbeat=now()))
    except OSError:
        pass  # the disk is why; the next call finds the run not done


def default_workers(runs: Sequence[NotebookRun]) -> int:
    """Return one worker for each core, but one in all if runs may be on a GPU, which they would share."""
    from dask.system import CPU_COUNT

    if any(run.values.get("device", "auto") != "cpu" for run in runs):
        import torch

        if torch.cuda.is_available():
            return 1
    return int(CPU_COUNT)


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


def _check_options(
    options: Mapping[str, float | None], scheduler: str | None, resources: Mapping[str, float] | None
) -> None:
    for name, least, whole in (("workers", 1, True), ("retries", 0, True), ("timeout", 0, False)):
        value = options[name]
        if value is None:
            continue
        kinds = (int,) if whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or value < least or (not whole and value <= 0):
            allowed = f"a whole number of at least {least}" if whole else "a number of seconds above 0"
            raise ConfigError(f"{name} = {value!r}: allowed is {allowed}, or none")
    if resources and scheduler is None:
        raise ConfigError(
            f"resources = {dict(resources)}: only workers of a scheduler have any; name it with --scheduler"
        )
    if scheduler is not None and options["workers"] is not None:
        raise ConfigError(
            f"workers = {options['workers']}: {scheduler} has workers of its own; allowed is one of the two"
        )


def _bytes(memory: int | str | None) -> int | None:
    if memory is None:
        return None
    from dask.utils import parse_bytes

    try:
        found = int(parse_bytes(memory))
    except (ValueError, TypeError):
        found = 0
    if found <= 0:
        raise ConfigError(f"memory = {memory!r}: allowed is a number of bytes above 0, as in 4GB or 500MB")
    return found
