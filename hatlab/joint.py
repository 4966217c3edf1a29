"""Joint training: one epoch over all tasks so far at once, what sequential learning is measured against (eq. 6).

Batches mix the tasks, and each image is judged by the head of its own. Plain PyTorch, one run at a time: the step that
runs share knows one task for each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hatlab.noise import Noise
from hatlab.training import Trainer

__all__ = ["joint_epoch"]


def joint_epoch(trainer: Trainer, check: Callable[[], None]) -> np.ndarray:
    """Train one epoch over the images of all tasks up to the current one; return losses (steps, 2), the second 0.

    `check` is called before every step, to raise where training is to end.
    """
    network, device, size = trainer.network, trainer.device, trainer.config.batch_size
    splits = [data.train for data in trainer.data[: trainer.task + 1]]
    task_of = torch.cat([torch.full((len(split),), task) for task, split in enumerate(splits)])
    row_of = torch.cat([torch.arange(len(split)) for split in splits])
    order = torch.randperm(len(row_of), generator=trainer.order)
    noise = Noise([(size, *shape) for shape in network.dropout_shapes], network.dropout, device)
    trained = trainer.trained().keys() - {"gates"}
    parameters = [p for name, p in network.named_parameters() if name in trained]
    everything = network.mask(0, 1.0)
    losses = []
    for batch in torch.split(order, size):
        check()
        # images of one task stand together, so that each head is used once
        batch = batch[torch.argsort(task_of[batch], stable=True)]
        tasks, counts = np.unique(task_of[batch].numpy(), return_counts=True)
        rows = torch.split(row_of[batch].to(device), counts.tolist())
        taken = [splits[task].batch(part) for task, part in zip(tasks.tolist(), rows, strict=True)]
        position = torch.tensor([noise.position(trainer.noise, trainer.steps)], device=device)
        keep = [None if factors is None else factors[0, : len(batch)] for factors in noise.draw(position)]
        h = network.features(torch.cat([x for x, _ in taken]), everything, keep)
        parts = zip(tasks.tolist(), torch.split(h, counts.tolist()), taken, strict=True)
        of_tasks = [F.cross_entropy(network.heads[task](part), y, reduction="sum") for task, part, (_, y) in parts]
        loss = torch.stack(of_tasks).sum() / len(batch)
        _descend(parameters, loss, trainer)
        trainer.steps += 1
        losses.append(loss.detach())
    cross_entropy = torch.stack(losses).double().cpu().numpy()
    return np.stack((cross_entropy, np.zeros_like(cross_entropy)), 1)


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
