"""Running configs: `run` for one, `sweep` for many, `collect` for their tables one below the other.

A run that is finished is loaded, one that was stopped goes on from its checkpoint. Runs that can share a step train
side by side; each leaves what it would leave alone.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from hatlab.config import ConfigError, RunConfig
from hatlab.datasets import Dataset, DatasetError, load, split_names
from hatlab.engine import Group
from hatlab.grouping import OutOfMemory, fitting, groups, is_out_of_memory, processor
from hatlab.loading import Images
from hatlab.networks import HATNetwork
from hatlab.paths import results_root
from hatlab.progress import Progress, default_progress
from hatlab.provenance import environment
from hatlab.records import Record, RecordError
from hatlab.tasks import TaskSequence, make_sequence
from hatlab.training import Trainer, TrainingDiverged, build_network

__all__ = ["Run", "Tables", "check_network", "collect", "find_device", "run", "sweep", "trainers"]

# A checkpoint is due when training has gone on for this many times what it takes to write it.
CHECKPOINT_EVERY = 20


class Tables(NamedTuple):
    """The tables of one or more runs; every row names its `run`.

    Attributes:
        capacity: per task, epoch (-1: before the task's first step) and layer (and "total"): units and weights used.
        accuracy: per `after_task` and `task`: test accuracy in [0, 1] and cross-entropy.
        epochs: per task and epoch: losses, validation accuracy, learning rate.
        tasks: per task: its name, epochs, best epoch, weights used by the cumulative mask after it, and how many
            fully protected values were found unchanged.
    """

    capacity: pd.DataFrame
    accuracy: pd.DataFrame
    epochs: pd.DataFrame
    tasks: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its config, folder, manifest and tables."""

    config: RunConfig
    folder: Path
    manifest: dict[str, Any]
    tables: Tables

    @property
    def run_id(self) -> str:
        return self.config.run_id

    @property
    def capacity(self) -> pd.DataFrame:
        return self.tables.capacity

    @property
    def accuracy(self) -> pd.DataFrame:
        return self.tables.accuracy

    @property
    def epochs(self) -> pd.DataFrame:
        return self.tables.epochs

    @property
    def tasks(self) -> pd.DataFrame:
        return self.tables.tasks


def find_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the GPU where there is one, else the CPU.

    Raises:
        ConfigError: the name is unknown, or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device = {name!r}: allowed are auto, cpu, cuda and cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device = {name!r}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here; "
            f"use device 'cpu' or 'auto'"
        )
    return device


def run(
    config: RunConfig,
    *,
    results: Path | str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Run:
    """Train `config`, or load it if it is finished, or go on with it if it was stopped.

    Args:
        config: the run.
        results: results folder; None: `results/` of the checkout.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: what is told about tasks and epochs; None: lines or a bar on the terminal.

    Raises:
        ConfigError: a device that is not there, a task sequence or network that the images do not allow.
        DatasetError: images that are missing or damaged.
        RecordError: a results folder that cannot be used.
        TrainingDiverged: a loss that is not finite; the last checkpoint, from before it, is kept.
        OutOfMemory: the run does not fit into memory.
    """
    return sweep([config], results=results, device=device, progress=progress)[0]


def sweep(
    configs: Sequence[RunConfig],
    *,
    results: Path | str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    replicas: int | None = None,
) -> list[Run]:
    """Train several configs, side by side where they can share a step; all are checked before the first starts.

    Which runs can: those that agree in all of `engine.SHARED`. A run's random numbers are its own, so it comes out as
    it would alone, but for the rounding of its sums.

    Args:
        configs: the runs, each once.
        results, device, progress: as for `run`.
        replicas: at most so many side by side; None: as many as is fastest on a CPU, as fit into a GPU; 1: one after
            the other.

    Returns:
        The runs in the order of `configs`.

    Raises:
        ConfigError, DatasetError, RecordError: as `run` does, before the first run starts.
        TrainingDiverged: after all others are finished, if the loss of some was no finite number.
        OutOfMemory: one run alone does not fit into memory. Groups that do not fit are halved.
    """
    where, target = Path(results) if results is not None else results_root(), find_device(device)
    if replicas is not None and not (isinstance(replicas, int) and not isinstance(replicas, bool) and replicas >= 1):
        raise ConfigError(f"replicas = {replicas!r}: allowed is a whole number of at least 1, or None")
    repeated = [run_id for run_id, n in Counter(config.run_id for config in configs).items() if n > 1]
    if repeated:
        raise ConfigError(f"{len(configs)} configs were given, and run {repeated[0]} is among them more than once")
    sets = functools.cache(lambda names, **how: tuple(load(name, **how) for name in split_names(names)))
    jobs = [_prepare(config, where, sets) for config in configs]
    names = _telling(configs)
    on_device = functools.lru_cache(maxsize=1)(lambda names: Images.of(sets(names), target))
    diverged: list[TrainingDiverged] = []
    with progress if progress is not None else default_progress() as shown:
        shown.sweep_started(len(jobs))
        for job in jobs:
            telling = (f"{name}={_short(getattr(job.config, name))}" for name in names)
            job.label = " ".join([job.config.dataset, *telling])
            if job.sequence is None:
                shown.run_started(job.config.run_id, job.label, 0, job.config.max_epochs, 0)
                shown.run_done(job.config.run_id, loaded=True)

        def most(job: _Job) -> int:
            assert job.network is not None
            return replicas or fitting(job.network, job.config.batch_size, target)

        for group in groups([job for job in jobs if job.sequence is not None], lambda job: job.config, most):
            diverged += _train(group, functools.partial(on_device, group[0].config.dataset), shown)
    if diverged:
        if len(jobs) == 1:
            raise diverged[0]
        rest = "the others are finished" if len(diverged) < len(jobs) else "none is finished"
        raise TrainingDiverged(
            f"{len(diverged)} of {len(jobs)} runs diverged; {rest}:\n" + "\n".join(map(str, diverged))
        ) from diverged[0]
    return [job.load() for job in jobs]


def trainers(configs: Sequence[RunConfig], device: str = "auto") -> list[Trainer]:
    """Return trainers at the start of each config, over the same images; nothing is recorded."""
    target = find_device(device)
    datasets = {names: tuple(map(load, split_names(names))) for names in {config.dataset for config in configs}}
    images = {names: Images.of(sets, target) for names, sets in datasets.items()}
    return [Trainer(c, make_sequence(c, datasets[c.dataset]), images[c.dataset]) for c in configs]


def collect(runs: Sequence[Run]) -> Tables:
    """Return the tables of `runs` one below the other; dataset, c, mode, s_max and seed follow the column `run`."""

    def table(name: str) -> pd.DataFrame:
        parts = []
        for run in runs:
            part: pd.DataFrame = getattr(run.tables, name).copy()
            for position, column in enumerate(("dataset", "c", "mode", "s_max", "seed"), start=1):
                part.insert(position, column, getattr(run.config, column))
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    return Tables(*(table(name) for name in Tables._fields))


def check_network(config: RunConfig, sequence: TaskSequence) -> HATNetwork:
    """See that the network takes the images, and return it without values, which costs nothing.

    Raises:
        ConfigError: with the reason why not.
    """
    try:
        with torch.device("meta"):
            return build_network(config, sequence)
    except ValueError as error:
        raise ConfigError(f"network = '{config.network}', dataset = '{config.dataset}': {error}") from None


@dataclass(eq=False)
class _Job:
    """One run of a sweep; a finished one needs no tasks and no network."""

    config: RunConfig
    record: Record
    sequence: TaskSequence | None = None
    network: HATNetwork | None = None  # its sizes, without values
    label: str = ""

    def trainer(self, images: Images) -> Trainer:
        """Return the run as its last checkpoint left it, or at its start."""
        assert self.sequence is not None
        trainer = Trainer(self.config, self.sequence, images)
        if (saved := self.record.load_checkpoint()) is not None:
            try:
                trainer.load_state_dict(saved)
            except (KeyError, TypeError, RuntimeError) as error:
                raise RecordError(
                    f"{self.record.checkpoint} is not of this version of hatlab ({error!r}): delete it to begin anew"
                ) from error
        return trainer

    def load(self) -> Run:
        tables = Tables(**self.record.load_tables(list(Tables._fields)))
        return Run(self.config, self.record.folder, self.record.manifest, tables)


def _prepare(config: RunConfig, results: Path, sets: Callable[..., tuple[Dataset, ...]]) -> _Job:
    """Open the run's record and make its tasks; refuse what cannot run."""
    record = Record(config, results)
    if record.finished:
        # it is loaded without its images where they are gone, but not beside others under the same name
        with contextlib.suppress(DatasetError):
            record.verify_data(_checksums(sets(config.dataset, download=False)))
        return _Job(config, record)
    sequence = make_sequence(config, sets(config.dataset))
    record.verify_data(_checksums(sequence.datasets))
    network = check_network(config, sequence)
    record.prepare()
    return _Job(config, record, sequence, network)


def _checksums(datasets: Sequence[Dataset]) -> dict[str, str]:
    return {name: value for data in datasets for name, value in data.checksums.items()}


def _telling(configs: Sequence[RunConfig]) -> list[str]:
    """Names of the parameters that tell these runs apart; of one run, those that most sweeps vary."""
    differing = [name for name in RunConfig.model_fields if len({getattr(config, name) for config in configs}) > 1]
    return [name for name in differing if name != "dataset"] if len(configs) > 1 else ["c", "seed"]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _train(group: list[_Job], images: Callable[[], Images], progress: Progress) -> list[TrainingDiverged]:
    """Train jobs side by side, in smaller groups if memory runs out; return the errors of those that diverged."""
    try:
        return _train_together(group, images(), progress)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(group) == 1:
            raise OutOfMemory(
                f"run {group[0].config.run_id} ({group[0].label}) does not fit into memory on its own: smaller widths "
                f"or a smaller batch_size need less. {error}"
            ) from None
    # behind the except: the error's traceback held on to the group's memory
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    left = [job for job in group if not job.record.finished]
    half = -(-len(left) // 2)
    progress.note(f"out of memory with {len(group)} runs side by side: going on with {half} at a time")
    return _train(left[:half], images, progress) + (_train(left[half:], images, progress) if left[half:] else [])


def _train_together(group: list[_Job], images: Images, progress: Progress) -> list[TrainingDiverged]:
    books = {job.trainer(images): _Book(job) for job in group}
    first = group[0]
    assert first.network is not None
    with processor(first.network, first.config.batch_size, len(group)):
        for trainer, book in books.items():
            book.open(trainer, len(group))
            progress.run_started(
                book.job.config.run_id, book.job.label, len(trainer.data), trainer.config.max_epochs, trainer.task
            )

        def after_epoch(trainer: Trainer) -> None:
            books[trainer].save(trainer, len(books))
            if trainer.finished:
                books.pop(trainer).close(trainer)
                progress.run_done(trainer.config.run_id, loaded=False)

        for trainer in [trainer for trainer in books if trainer.finished]:
            after_epoch(trainer)  # it was stopped between its last checkpoint and its tables
        together = Group(books)
        together.train(after_epoch, progress)
    named = []
    for trainer, error in together.diverged:
        job = books[trainer].job
        progress.note(f"run {job.config.run_id} ({job.label}) diverged")
        named.append(TrainingDiverged(f"run {job.config.run_id} ({job.label}): {error}"))
    return named


class _Book:
    """Writes what one run leaves, while it is trained."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.started = time.perf_counter()
        self.saved, self.cost = -math.inf, 0.0

    def open(self, trainer: Trainer, side_by_side: int) -> None:
        """Note that the run starts or goes on."""
        device = trainer.device
        self.job.record.started(
            {
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "from_task": trainer.task,
                "from_epoch": trainer.within["epoch"] if trainer.within else 0,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "threads": torch.get_num_threads(),
                "side_by_side": side_by_side,
                **environment(),
            },
            title=" + ".join(data.title for data in trainer.sequence.datasets),
            order=list(trainer.sequence.order),
        )

    def save(self, trainer: Trainer, side_by_side: int) -> None:
        """Write a checkpoint, if it is due: writing those of all runs takes at most a twentieth of the time."""
        begun = time.perf_counter()
        if trainer.finished or begun - self.saved >= CHECKPOINT_EVERY * self.cost * side_by_side:
            self.job.record.save_checkpoint(trainer.state_dict())
            self.saved = time.perf_counter()
            self.cost = self.saved - begun

    def close(self, trainer: Trainer) -> None:
        """Write the tables."""
        tables = {}
        for name, columns in Trainer.TABLES.items():
            tables[name] = pd.DataFrame(trainer.rows[name], columns=list(columns))
            tables[name].insert(0, "run", self.job.config.run_id)
        self.job.record.finish(tables, time.perf_counter() - self.started)
