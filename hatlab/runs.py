"""Running configs: `run` for one, `sweep` for many, `collect` for their tables side by side.

A run that is finished is loaded, one that was stopped goes on after its last finished epoch.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from hatlab.config import ConfigError, RunConfig
from hatlab.datasets import Dataset, DatasetError, load, split_names
from hatlab.paths import results_root
from hatlab.progress import Progress, default_progress
from hatlab.provenance import environment
from hatlab.records import Record, RecordError
from hatlab.tasks import TaskSequence, make_sequence
from hatlab.training import Trainer, build_network

__all__ = ["Run", "Tables", "check_network", "collect", "find_device", "run", "sweep"]

# Weights times images in a step: between 200-200 on digits in batches of 16 (0.8 million), where a second thread gains
# next to nothing, and 400-400 on MNIST in batches of 64 (30 million), where it does.
SMALL_STEP = 4_000_000


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
        TrainingDiverged: a loss that is not finite; the checkpoint of the last good epoch is kept.
    """
    return sweep([config], results=results, device=device, progress=progress)[0]


def sweep(
    configs: Sequence[RunConfig],
    *,
    results: Path | str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Run]:
    """Train several configs, one after the other, as `run` does each; all are checked before the first starts."""
    where, target = Path(results) if results is not None else results_root(), find_device(device)
    repeated = [run_id for run_id, n in Counter(config.run_id for config in configs).items() if n > 1]
    if repeated:
        raise ConfigError(f"{len(configs)} configs were given, and run {repeated[0]} is among them more than once")
    images = functools.cache(lambda names, **how: tuple(load(name, **how) for name in split_names(names)))
    prepared = [_prepare(config, where, images) for config in configs]
    with progress if progress is not None else default_progress() as shown:
        shown.sweep_started(len(configs))
        return [_run(config, *ready, target, shown) for config, ready in zip(configs, prepared, strict=True)]


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


def check_network(config: RunConfig, sequence: TaskSequence) -> None:
    """See that the network takes the images.

    Raises:
        ConfigError: with the reason why not.
    """
    try:
        build_network(config, sequence)
    except ValueError as error:
        raise ConfigError(f"network = '{config.network}', dataset = '{config.dataset}': {error}") from None


def _prepare(
    config: RunConfig, results: Path, images: Callable[..., tuple[Dataset, ...]]
) -> tuple[Record, TaskSequence | None]:
    """Open the run's record and make its tasks; refuse what cannot run. A finished run needs no tasks: None."""
    record = Record(config, results)
    if record.finished:
        # it is loaded without its images where they are gone, but not beside others under the same name
        with contextlib.suppress(DatasetError):
            record.verify_data(_checksums(images(config.dataset, download=False)))
        return record, None
    sequence = make_sequence(config, images(config.dataset))
    record.verify_data(_checksums(sequence.datasets))
    check_network(config, sequence)
    record.prepare()
    return record, sequence


def _checksums(datasets: Sequence[Dataset]) -> dict[str, str]:
    return {name: value for data in datasets for name, value in data.checksums.items()}


def _run(
    config: RunConfig, record: Record, sequence: TaskSequence | None, device: torch.device, progress: Progress
) -> Run:
    label = f"{config.dataset} c={config.c:g} seed={config.seed}"
    if sequence is None:
        progress.run_started(config.run_id, label, 0, config.max_epochs, 0)
    else:
        trainer = Trainer(config, sequence, device)
        if (saved := record.load_checkpoint()) is not None:
            try:
                trainer.load_state_dict(saved)
            except (KeyError, TypeError, RuntimeError) as error:
                raise RecordError(
                    f"{record.checkpoint} is not of this version of hatlab ({error!r}): delete it to begin anew"
                ) from error
        progress.run_started(config.run_id, label, len(sequence.tasks), config.max_epochs, trainer.task)
        with _threads(config, trainer):
            _train(record, trainer, progress)
    progress.run_done(loaded=sequence is None)
    return Run(config, record.folder, record.manifest, Tables(**record.load_tables(list(Tables._fields))))


def _train(record: Record, trainer: Trainer, progress: Progress) -> None:
    """Train what is left of a run and write its tables."""
    started, clock, device = datetime.now(UTC), time.perf_counter(), trainer.device
    record.started(
        {
            "started": started.isoformat(timespec="seconds"),
            "from_task": trainer.task,
            "from_epoch": trainer.within["epoch"] if trainer.within else 0,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            **environment(),
        },
        title=" + ".join(data.title for data in trainer.sequence.datasets),
        order=list(trainer.sequence.order),
    )
    trainer.train(lambda: record.save_checkpoint(trainer.state_dict()), progress)
    tables = {}
    for name, columns in Trainer.TABLES.items():
        tables[name] = pd.DataFrame(trainer.rows[name], columns=list(columns))
        tables[name].insert(0, "run", record.config.run_id)
    record.finish(tables, time.perf_counter() - clock)


@contextlib.contextmanager
def _threads(config: RunConfig, trainer: Trainer) -> Iterator[None]:
    """Use one CPU thread for a step too small to share: there, waking a second one costs what it saves, and where
    the cores are busy many times that. The rule reads the config only, so a run keeps its bits from call to call.
    """
    before = torch.get_num_threads()
    weights = sum(link.weights for link in trainer.network.links)
    if config.network == "mlp" and config.batch_size * weights < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
