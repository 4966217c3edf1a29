"""hatlab's side of the rows: its engine's epochs, and whole sweeps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence

import torch

import hatlab
from hatlab.support.progress import Progress
from hatlab.training.engine import ReplicaGroup
from hatlab.training.grouping import chunks, max_replicas
from hatlab.training.runs import trainers
from hatlab.training.torch_settings import torch_settings
from hatlab.training.trainer import Trainer

__all__ = ["Epochs", "set_up", "sweep", "train"]


class Epochs:
    """Epochs of one run or of several side by side, always of the same task.

    Args:
        configs: the runs.
        task: which of their tasks. From the second on gradients are masked, so the second is what is timed mostly.
        device: where.
        capture: on a GPU, replay recorded steps; otherwise each operation is launched by itself ("eager").

    Attributes:
        steps: of one epoch of the first run.
    """

    def __init__(
        self, configs: Sequence[hatlab.RunConfig], task: int = 1, device: str = "cpu", capture: bool = True
    ) -> None:
        runs = trainers(configs, device)
        for run in runs:
            run.task = task
            if task > 0:  # as if the tasks before had taken the units that the first mask opens: about half of them
                run.cumulative = run.network.mask(0, run.config.s_max).detach()
        self.first, self.group = runs[0], ReplicaGroup(runs, capture)
        self.steps = -(-len(self.first.split.train) // self.first.config.batch_size)

    def __call__(self) -> None:
        """Train an epoch, without validation."""
        self._train(lambda: self.group.train_epoch())

    def whole(self) -> None:
        """Train an epoch, validate, and record it."""
        self._train(self._whole)

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first run's training images, normalised, and labels."""
        split = self.first.split.train
        return split.batch(torch.arange(len(split)))

    def _whole(self) -> None:
        self.group.train(lambda trainer: None, Progress(), epochs=1)

    def _train(self, work: Callable[[], object]) -> None:
        # the CPU is set up as `hatlab.run` sets it up, and back before the other side's turn
        first = self.first
        with torch_settings(first.network, first.config.batch_size, len(self.group.trainers), first.device):
            work()


def set_up(config: hatlab.RunConfig) -> None:
    """Do all that stands before the first step of a run: images, all its tasks, the network, and the first task."""
    trainers([config], "cpu")[0].begin_epoch()


def sweep(configs: Sequence[hatlab.RunConfig], replicas: int | None = None, device: str = "cpu") -> None:
    """Train `configs` from end to end, records included, into a folder that is deleted again."""
    with tempfile.TemporaryDirectory() as folder:
        hatlab.sweep(configs, results=folder, device=device, progress=Progress(), replicas=replicas)


def train(runs: Sequence[Trainer], one_by_one_and_eager: bool) -> None:
    """Train `runs` on their GPU as a sweep would group them, or one after the other without capture."""

    network, size, device = runs[0].network, runs[0].config.batch_size, runs[0].device
    for group in chunks(runs, lambda: 1 if one_by_one_and_eager else max_replicas(network, size, device)):
        with torch_settings(network, size, len(group), device):
            ReplicaGroup(group, capture=not one_by_one_and_eager).train(lambda run: None, Progress())
