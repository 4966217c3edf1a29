"""The engine: epochs of several runs side by side, one step for all of them at a time.

A group holds its runs (`Trainer`). For each epoch it takes the steps of all of them, and validates all of them
(`ReplicaState`). A run that has fewer steps than others drops out of the last ones; one that finishes a task goes on
with its next at once; one that has finished all leaves the group. No step waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from hatlab.support.progress import Progress
from hatlab.training.baselines.joint import JointState
from hatlab.training.replicas import AfterStep, ReplicaState
from hatlab.training.trainer import Trainer, TrainingDiverged

__all__ = ["SHARED", "ReplicaGroup"]

# What runs must have in common to share a step.
SHARED = (
    "dataset", "sequence", "classes_per_task", "class_groups", "n_tasks", "validation", "network", "widths", "dropout",
    "batch_size", "method", "compensation", "gate_precision", "embedding_clamp", "cosh_clamp",
)  # fmt: skip


class ReplicaGroup:
    """Trains runs side by side; one alone is a group of one.

    Args:
        trainers: runs that agree in all of `SHARED`, over the same images.
        capture: on a CUDA device, record a step once and replay it as a whole.
        check: called before every step, to raise where training is to end.
        after_step: called after every step of each run, see `replicas.AfterStep`.

    Attributes:
        trainers: those that are not finished.
        diverged: those whose loss was no finite number, and why; they have left the group.
    """

    def __init__(
        self,
        trainers: Iterable[Trainer],
        capture: bool = True,
        check: Callable[[], None] = lambda: None,
        after_step: AfterStep | None = None,
    ) -> None:
        self.trainers = [trainer for trainer in trainers if not trainer.finished]
        self.captured = capture and any(trainer.device.type == "cuda" for trainer in self.trainers)
        self.check, self.after_step = check, after_step
        self.diverged: list[tuple[Trainer, TrainingDiverged]] = []
        self._state: ReplicaState | JointState | None = None

    def train(self, after_epoch: Callable[[Trainer], None], progress: Progress, epochs: float = math.inf) -> None:
        """Train, validate and record until all runs are finished or have diverged, or so many epochs of each are done.

        Args:
            after_epoch: called after each epoch of each run.
            progress: told of epochs and tasks.
            epochs: counted over tasks.

        Raises:
            FrozenWeightMoved: a protected weight changed, which would be a defect of this program.
        """
        while self.trainers and epochs > 0:
            state, epochs = self._begin_epoch(), epochs - 1
            losses = state.epoch(self.trainers, self.check, self.after_step)
            found = state.validate(self.trainers)
            for trainer, own, validation in zip(list(self.trainers), losses, found, strict=True):
                self._end_epoch(trainer, own, validation, after_epoch, progress)
        if not self.trainers:
            self._state = None

    def train_epoch(self) -> list[np.ndarray]:
        """Train one epoch of each run's current task, without validation; return each run's losses, (steps, 2)."""
        return self._begin_epoch().epoch(self.trainers, self.check, self.after_step)

    def _begin_epoch(self) -> ReplicaState | JointState:
        for trainer in self.trainers:
            trainer.begin_epoch()
        if self._state is None or not self._state.serves(self.trainers):
            self._state = None  # its memory is needed
            joint = self.trainers[0].config.method == "joint"
            self._state = JointState() if joint else ReplicaState(self.trainers, self.captured)
        return self._state

    def _end_epoch(
        self,
        trainer: Trainer,
        losses: np.ndarray,
        validation: tuple[float, float],
        after_epoch: Callable[[Trainer], None],
        progress: Progress,
    ) -> None:
        try:
            trainer.end_epoch(losses, validation, progress)
        except TrainingDiverged as error:
            self.diverged.append((trainer, error.with_traceback(None)))  # it would hold on to the group
        else:
            after_epoch(trainer)
            if not trainer.finished:
                return
        self.trainers.remove(trainer)
        for p in trainer.network.parameters():
            p.data = p.data.clone()  # its weights were a part of the group's, which is not to stay for it
