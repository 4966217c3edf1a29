"""Running configs: `run` for one, `sweep` for many, `collect` for their tables one below the other.

A run that is finished is loaded, one that was stopped goes on from its checkpoint. Runs that can share a step train
side by side; each leaves what it would leave alone.
"""

from __future__ import annotations

import functools
import gc
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from hatlab.config import ConfigError, RunConfig
from hatlab.data.datasets import Dataset, load_all
from hatlab.data.loading import Images
from hatlab.data.tasks import make_sequence
from hatlab.support.console import default_progress
from hatlab.support.paths import ONLY_FINISHED, results_root
from hatlab.support.progress import Progress, Shared
from hatlab.training.custom import Callback, Callbacks, customised
from hatlab.training.grouping import OutOfMemory, chunks, compatible, in_worker_threads, max_replicas, worker_threads
from hatlab.training.jobs import Job, prepare, train
from hatlab.training.trainer import Factory, Trainer, TrainingDiverged

__all__ = ["Run", "Tables", "collect", "find_device", "run", "sweep", "trainers"]


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
    network: Factory | None = None,
    images: Mapping[str, np.ndarray] | None = None,
    label: str | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train `config`, or load it if it is finished, or go on with it if it was stopped.

    Args:
        config: the run.
        results: results folder; None: `results/` of the checkout.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: what is told about tasks and epochs; None: lines or a bar on the terminal.
        network, images, label, callbacks: as for `sweep`.

    Raises:
        ConfigError: a device that is not there, a task sequence or network that the images do not allow.
        DatasetError: images that are missing or damaged.
        RecordError: a results folder that cannot be used.
        TrainingDiverged: a loss that is not finite; the last checkpoint, from before it, is kept.
        OutOfMemory: the run does not fit into memory.
    """
    return sweep(
        [config], results=results, device=device, progress=progress,
        network=network, images=images, label=label, callbacks=callbacks,
    )[0]  # fmt: skip


def sweep(
    configs: Sequence[RunConfig],
    *,
    results: Path | str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    replicas: int | None = None,
    network: Factory | None = None,
    images: Mapping[str, np.ndarray] | None = None,
    label: str | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[Run]:
    """Train several configs, side by side where they can share a step; all are checked before the first starts.

    Which runs can: those that agree in all of `engine.SHARED`. A run's random numbers are its own, so it comes out as
    it would alone, but for the rounding of its sums.

    Args:
        configs: the runs, each once.
        results, device, progress: as for `run`.
        replicas: at most so many side by side; None: as many as is fastest on a CPU, as fit into a GPU; 1: one after
            the other.
        network: a function from ((C, H, W), classes of each task) to a `HATNetwork`, in place of the config's; its
            widths and dropout are not read. Such runs are named by `label` and a checksum of the function's source,
            its defaults and what it reads outside.
        images: arrays x_train, x_test, uint8 (N, H, W) or (N, H, W, C), and y_train, y_test, integers (N,), in place
            of the config's data set; named by `label` and a checksum of their bytes.
        label: part of these names.
        callbacks: called after steps, epochs and tasks; see `Callback`.

    Returns:
        The runs in the order of `configs`.

    Raises:
        ConfigError, DatasetError, RecordError: as `run` does, before the first run starts; also for a factory, arrays
            or a label that cannot name a run, and for a run that is not finished while HATLAB_ONLY_FINISHED is set.
        TrainingDiverged: after all others are finished, if the loss of some was no finite number.
        OutOfMemory: one run alone does not fit into memory. Groups that do not fit are halved.
    """
    where, target = Path(results) if results is not None else results_root(), find_device(device)
    if replicas is not None and not (isinstance(replicas, int) and not isinstance(replicas, bool) and replicas >= 1):
        raise ConfigError(f"replicas = {replicas!r}: allowed is a whole number of at least 1, or None")
    repeated = [run_id for run_id, n in Counter(config.run_id for config in configs).items() if n > 1]
    if repeated:
        raise ConfigError(f"{len(configs)} configs were given, and run {repeated[0]} is among them more than once")
    configs, known = customised(configs, network, images, label)
    called = Callbacks(callbacks)

    def sets(names: str, *, download: bool = True) -> tuple[Dataset, ...]:
        if names not in known:
            known[names] = load_all(names, download=download)
        return known[names]

    jobs = [prepare(config, where, sets, called, network) for config in configs]
    missing = [job.config.run_id for job in jobs if job.sequence is not None]
    if missing and os.environ.get(ONLY_FINISHED):
        raise ConfigError(
            f"{len(missing)} of {len(jobs)} runs are not finished in {where / 'runs'}, {missing[0]} for one, and "
            f"nothing is to be trained ({ONLY_FINISHED} is set)"
        )
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
        _say_where_nothing_is_regularized(jobs, shown)

        for kind in compatible([job for job in jobs if job.sequence is not None], lambda job: job.config):
            diverged += _train(kind, functools.partial(on_device, kind[0].config.dataset), target, shown, replicas)
    if diverged:
        if len(jobs) == 1:
            raise diverged[0]
        rest = "the others are finished" if len(diverged) < len(jobs) else "none is finished"
        raise TrainingDiverged(
            f"{len(diverged)} of {len(jobs)} runs diverged; {rest}:\n" + "\n".join(map(str, diverged))
        ) from diverged[0]
    return [
        Run(job.config, job.record.folder, job.record.manifest, Tables(**job.record.load_tables(list(Tables._fields))))
        for job in jobs
    ]


def _say_where_nothing_is_regularized(jobs: Sequence[Job], progress: Progress) -> None:
    networks = [(sum(job.network.units.values()), job.config) for job in jobs if job.network is not None]
    for units, few in sorted({(n, config.min_units) for n, config in networks if config.c > 0}):
        if units <= few:
            progress.note(f"networks of {units} units: R is 0 whatever c is, as over at most min_units = {few}")


def _train(
    kind: list[Job], images: Callable[[], Images], device: torch.device, progress: Progress, replicas: int | None
) -> list[TrainingDiverged]:
    """Train jobs that can share a step, all that way or, on a CPU, the large ones in worker threads."""
    network, size, held = kind[0].network, kind[0].config.batch_size, images()
    assert network is not None
    at_once = worker_threads(network, len(kind), device) if replicas is None else 1
    while at_once > 1:
        shared, left = Shared(progress), [job for job in kind if not job.record.finished]
        try:
            found = in_worker_threads([functools.partial(train, [job], held, shared) for job in left], at_once)
            return [error for errors in found for error in errors]
        except OutOfMemory:
            at_once //= 2
        gc.collect()
        progress.note(f"out of memory: going on with {at_once} at a time")
    groups = chunks(
        [job for job in kind if not job.record.finished], lambda: replicas or max_replicas(network, size, device)
    )
    return [error for group in groups for error in train(group, held, progress)]


def trainers(configs: Sequence[RunConfig], device: str = "auto") -> list[Trainer]:
    """Return trainers at the start of each config, over the same images; nothing is recorded."""
    target = find_device(device)
    datasets = {names: load_all(names) for names in {config.dataset for config in configs}}
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


def _telling(configs: Sequence[RunConfig]) -> list[str]:
    """Names of the parameters that tell these runs apart; of one run, those that most sweeps vary."""
    differing = [name for name in RunConfig.model_fields if len({getattr(config, name) for config in configs}) > 1]
    return [name for name in differing if name != "dataset"] if len(configs) > 1 else ["c", "seed"]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
