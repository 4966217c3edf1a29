"""Joint training: one epoch over all tasks so far at once, what sequential learning is measured against (eq. 6).

Batches mix the tasks, and each image goes through the head of its own. Plain PyTorch, one run at a time: the step that
runs share knows one task for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hatlab.training.dropout_rng import DropoutRNG
from hatlab.training.trainer import Trainer, evaluate

__all__ = ["JointState"]


class JointState:
    """Takes the place of `ReplicaState` for joint training: runs one after the other, in their networks."""

    def serves(self, trainers: Sequence[Trainer]) -> bool:
        """Whether these can go on with it: always."""
        return True

    def epoch(
        self,
        trainers: Sequence[Trainer],
        check: Callable[[], None],
        after_step: Callable[[Trainer, int, Tensor], None] | None = None,
    ) -> list[np.ndarray]:
        """Train an epoch of each run; arguments and result as for `ReplicaState.epoch`."""
        return [_epoch(trainer, check, after_step) for trainer in trainers]

    def validate(self, trainers: Sequence[Trainer]) -> list[tuple[float, float]]:
        """Return each run's mean cross-entropy and accuracy on the validation images of all tasks so far."""
        return [_validate(trainer) for trainer in trainers]


def _epoch(
    trainer: Trainer, check: Callable[[], None], after_step: Callable[[Trainer, int, Tensor], None] | None
) -> np.ndarray:
    """Train one epoch over the images of all tasks up to the current one; return losses (steps, 2), the second 0."""
    network, device, size = trainer.network, trainer.device, trainer.config.batch_size
    splits = [data.train for data in trainer.data[: trainer.task + 1]]
    plan = _plan([len(split) for split in splits], size, trainer.order, device)
    dropout_rng = DropoutRNG([(size, *shape) for shape in network.dropout_shapes], network.dropout, device)
    position = torch.tensor([dropout_rng.position(trainer.dropout_rng, trainer.steps)], device=device)
    trained = trainer.trained().keys() - {"gates"}
    parameters = [p for name, p in network.named_parameters() if name in trained]
    everything = network.mask(0, 1.0)
    losses = []
    for k, batch in enumerate(plan):
        check()
        counts = [len(rows) for _, rows in batch]
        taken = [splits[task].batch(rows) for task, rows in batch]
        dropout_masks = [
            None if factors is None else factors[0, : sum(counts)] for factors in dropout_rng.draw(position)
        ]
        position += dropout_rng.stride
        h = network.features(torch.cat([x for x, _ in taken]), everything, dropout_masks)
        parts = zip(batch, torch.split(h, counts), taken, strict=True)
        of_tasks = [F.cross_entropy(network.heads[task](part), y, reduction="sum") for (task, _), part, (_, y) in parts]
        loss = torch.stack(of_tasks).sum() / sum(counts)
        _descend(parameters, loss, trainer)
        losses.append(torch.stack((loss.detach(), torch.zeros_like(loss))))
        if after_step is not None:
            after_step(trainer, k, losses[-1])
    trainer.steps += len(plan)
    return torch.stack(losses).double().cpu().numpy()


def _validate(trainer: Trainer) -> tuple[float, float]:
    splits = [data.valid for data in trainer.data[: trainer.task + 1]]
    found = [evaluate(trainer.network, task, split, trainer.config.s_max) for task, split in enumerate(splits)]
    loss, accuracy = np.average(found, axis=0, weights=[len(split) for split in splits]).tolist()
    return loss, accuracy


def _plan(
    sizes: Sequence[int], batch_size: int, order: torch.Generator, device: torch.device
) -> list[list[tuple[int, Tensor]]]:
    """Return for each step of an epoch the tasks that have images in it, and which of their images these are.

    Images of one task stand together, so that each head is used once. All are put on `device` at once: no step copies.
    """
    task_of = np.repeat(np.arange(len(sizes)), sizes)
    row_of = np.concatenate([np.arange(size) for size in sizes])
    drawn = torch.randperm(len(task_of), generator=order).numpy()
    step_of = np.arange(len(drawn)) // batch_size
    groups = step_of * len(sizes) + task_of[drawn]
    by_group = np.argsort(groups, kind="stable")
    found, counts = np.unique(groups, return_counts=True)
    rows = torch.split(torch.from_numpy(row_of[drawn[by_group]]).to(device), counts.tolist())
    plan: list[list[tuple[int, Tensor]]] = [[] for _ in range(step_of[-1] + 1)]
    for group, part in zip(found.tolist(), rows, strict=True):
        plan[group // len(sizes)].append((group % len(sizes), part))
    return plan


def _descend(parameters: list[torch.nn.Parameter], loss: Tensor, trainer: Trainer) -> None:
    """Take a step of SGD with the run's rate and bound on the gradient; heads without images stay as they are."""
    assert trainer.within is not None
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients if g is not None]))
        rate = trainer.within["learning_rate"] * torch.clamp(trainer.config.grad_clip / (norm + 1e-6), max=1)
        for p, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                p.sub_(rate * gradient)
