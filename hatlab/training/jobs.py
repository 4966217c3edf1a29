"""The runs of a sweep on their way from a config to a finished folder: prepared, trained in groups, recorded."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from hatlab.config import ConfigError, RunConfig
from hatlab.data.datasets import Dataset, DatasetError
from hatlab.data.loading import Images
from hatlab.data.tasks import TaskSequence, make_sequence
from hatlab.method.networks import HATNetwork
from hatlab.support.progress import Progress
from hatlab.support.provenance import environment, now
from hatlab.training.custom import Callbacks
from hatlab.training.engine import ReplicaGroup
from hatlab.training.grouping import OutOfMemory, is_out_of_memory
from hatlab.training.records import DamagedCheckpoint, Record, RecordError
from hatlab.training.torch_settings import torch_settings
from hatlab.training.trainer import Factory, Trainer, TrainingDiverged, build_network

__all__ = ["Job", "check_network", "prepare", "train"]

# A checkpoint is due when training has gone on for this many times what it takes to write it.
CHECKPOINT_EVERY = 20


def check_network(config: RunConfig, sequence: TaskSequence, factory: Factory | None = None) -> HATNetwork:
    """See that the network takes the images, and return it without values, which costs nothing.

    Raises:
        ConfigError: with the reason why not.
    """
    try:
        with torch.device("meta"):
            return build_network(config, sequence, factory)
    except ValueError as error:
        raise ConfigError(f"network = '{config.network}', dataset = '{config.dataset}': {error}") from None


@dataclass(eq=False)
class Job:
    """One run of a sweep; a finished one needs no tasks and no network."""

    config: RunConfig
    record: Record
    sequence: TaskSequence | None = None
    network: HATNetwork | None = None  # its sizes, without values
    label: str = ""
    factory: Factory | None = None
    callbacks: Callbacks = field(default_factory=lambda: Callbacks(()))

    def trainer(self, images: Images, tell: Callable[[str], None]) -> Trainer:
        """Return the run as its last checkpoint left it, or at its start; `tell` is told why, if that is damaged."""
        assert self.sequence is not None
        trainer = Trainer(self.config, self.sequence, images, self.factory)
        saved = None
        try:
            saved = self.record.load_checkpoint()
        except DamagedCheckpoint as error:
            tell(f"run {self.config.run_id} starts anew: {error}")
        if saved is not None:
            try:
                trainer.load_state_dict(saved)
            except (KeyError, TypeError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                raise RecordError(
                    f"{self.record.checkpoint} is not of this version of hatlab ({error!r}): delete it to begin anew"
                ) from error
        return trainer


def prepare(
    config: RunConfig,
    results: Path,
    sets: Callable[..., tuple[Dataset, ...]],
    callbacks: Callbacks,
    factory: Factory | None = None,
) -> Job:
    """Open the run's record and make its tasks; refuse what cannot run."""
    record = Record(config, results)
    if record.finished:
        try:
            record = record.for_images(_checksums(sets(config.dataset, download=False)))
        except DatasetError:  # it is loaded without its images where they are gone, if it is clear which they were
            if others := sorted(record.folder.parent.glob(f"{record.folder.name}-*")):
                raise RecordError(
                    f"the images of {config.dataset} are gone, and run {config.run_id} was made with several, see "
                    f"{record.folder} and {others[0]}: restore those that are meant"
                ) from None
        if record.finished:
            return Job(config, record)
    sequence = make_sequence(config, sets(config.dataset))
    record = record.for_images(_checksums(sequence.datasets))
    if record.finished:
        return Job(config, record)
    network = check_network(config, sequence, factory)
    record.prepare()
    return Job(config, record, sequence, network, factory=factory, callbacks=callbacks)


def _checksums(datasets: Sequence[Dataset]) -> dict[str, str]:
    return {name: value for data in datasets for name, value in data.checksums.items()}


def train(
    group: list[Job], images: Images, progress: Progress, check: Callable[[], None] = lambda: None
) -> list[TrainingDiverged]:
    """Train jobs side by side, in smaller groups if memory runs out; return the errors of those that diverged.

    `check` is called before every step, to raise where training is to end.

    Raises:
        OutOfMemory: one run alone does not fit into memory.
        RecordError: a checkpoint that cannot be used.
    """
    try:
        return _train_locked(group, images, progress, check)
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
    middle = -(-len(left) // 2)
    progress.note(f"out of memory with {len(group)} runs side by side: going on with {middle} at a time")
    halves = [half for half in (left[:middle], left[middle:]) if half]
    return [error for half in halves for error in train(half, images, progress, check)]


def _train_locked(
    group: list[Job], images: Images, progress: Progress, check: Callable[[], None]
) -> list[TrainingDiverged]:
    first = group[0]
    assert first.network is not None
    with contextlib.ExitStack() as held:
        # in one order, so that two processes never wait for each other
        for job in sorted(group, key=lambda job: job.config.run_id):
            held.enter_context(job.record.lock(check, progress.note))
        for job in [job for job in group if job.record.finished]:  # by another process, meanwhile
            progress.run_started(job.config.run_id, job.label, 0, job.config.max_epochs, 0)
            progress.run_done(job.config.run_id, loaded=True)
        left = [job for job in group if not job.record.finished]
        recorders = {job.trainer(images, progress.note): RunRecorder(job) for job in left}
        held.enter_context(torch_settings(first.network, first.config.batch_size, len(left), images.device))
        for trainer, recorder in recorders.items():
            recorder.open(trainer, len(group))
            progress.run_started(
                recorder.job.config.run_id,
                recorder.job.label,
                len(trainer.data),
                trainer.config.max_epochs,
                trainer.task,
            )

        def after_epoch(trainer: Trainer) -> None:
            recorders[trainer].save(trainer, len(recorders))
            first.callbacks.after_epoch(trainer)
            if trainer.finished:
                close(trainer)

        def close(trainer: Trainer) -> None:
            recorders.pop(trainer).close(trainer)
            progress.run_done(trainer.config.run_id, loaded=False)

        for trainer in [trainer for trainer in recorders if trainer.finished]:
            close(trainer)  # it was stopped between its last checkpoint and its tables
        together = ReplicaGroup(recorders, check=check, after_step=first.callbacks.after_step)
        together.train(after_epoch, progress)
    named = []
    for trainer, error in together.diverged:
        job = recorders[trainer].job
        progress.note(f"run {job.config.run_id} ({job.label}) diverged")
        named.append(TrainingDiverged(f"run {job.config.run_id} ({job.label}): {error}"))
    return named


class RunRecorder:
    """Writes what one run leaves, while it is trained."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.started = time.perf_counter()
        self.saved, self.cost = -math.inf, 0.0

    def open(self, trainer: Trainer, side_by_side: int) -> None:
        """Note that the run starts or goes on."""
        device = trainer.device
        self.job.record.started(
            {
                "started": now(),
                "from_task": trainer.task,
                "from_epoch": trainer.within["epoch"] if trainer.within else 0,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "threads": torch.get_num_threads(),
                "side_by_side": side_by_side,
                **environment(),
            },
            title=trainer.sequence.title,
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
