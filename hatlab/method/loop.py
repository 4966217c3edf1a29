"""The paper's training of one task in plain PyTorch, made of public pieces: a loop of your own can start from it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hatlab.config import RunConfig
from hatlab.method.gate import s_schedule
from hatlab.method.networks import HATNetwork
from hatlab.method.protection import update_cumulative_mask
from hatlab.method.regularizer import HATMaskSparsityReg
from hatlab.method.updates import (
    clamp_embeddings_,
    compensate_,
    protect_gradients_,
    protected_values,
    verify_protected,
)  # fmt: skip

__all__ = ["train_task"]


def train_task(
    network: HATNetwork,
    task: int,
    images: Tensor,
    labels: Tensor,
    cumulative: Tensor,
    config: RunConfig,
    valid: tuple[Tensor, Tensor] | None = None,
    generator: torch.Generator | None = None,
    after_step: Callable[[Tensor, Tensor], None] = lambda cross_entropy, penalty: None,
) -> Tensor:
    """Train `network` on one task (sections 2 and 4), and return the cumulative mask after it, (all units,).

    The weights of the epoch with the lowest validation loss are kept. All tensors are on the network's device.

    Args:
        network: trained in place.
        images, labels: normalised, (n, C, H, W), and (n,) int64 in 0 .. classes of the task - 1.
        cumulative: (all units,) float32, the cumulative mask of the tasks before; zeros before the first.
        config: its fields under "Hard attention" and "Training" are read.
        valid: images and labels held out; None: the training images, as the authors do for MNIST.
        generator: of the order in which an epoch takes the images, on the CPU.
        after_step: called after every step with the cross-entropy and c R that it started from.

    Raises:
        ValueError: images, labels or a mask that do not fit the network.
        FloatingPointError: training diverged.
    """
    x_valid, y_valid = (images, labels) if valid is None else valid
    for x, y in ((images, labels), (x_valid, y_valid)):
        _check(network, task, x, y)
    optimizer = torch.optim.SGD(network.parameters(), lr=config.learning_rate)
    plateau = ReduceLROnPlateau(
        optimizer, factor=1 / config.lr_factor, patience=config.lr_patience - 1, threshold=0, eps=0
    )
    regularizer = HATMaskSparsityReg(config.c, config.mode, config.min_units)
    protected, taken = protected_values(network, cumulative), network.split(cumulative)
    best, lowest = network.state_dict(), math.inf
    for epoch in range(config.max_epochs):
        network.train()
        order = torch.randperm(len(images), generator=generator).to(images.device)
        slopes = s_schedule(config.schedule, config.s_max, len(images), config.batch_size).tolist()
        for rows, s in zip(torch.split(order, config.batch_size), slopes, strict=True):
            mask = network.mask(task, s)  # eq. 1 and 3
            if mask.requires_grad:
                mask.retain_grad()  # for the exact compensation
            cross_entropy = F.cross_entropy(network(images[rows], task, mask), labels[rows])
            penalty, _ = regularizer(network.split(mask), taken)  # c R, eq. 5
            optimizer.zero_grad()
            (cross_entropy + penalty).backward()
            protect_gradients_(network, cumulative)  # eq. 2
            compensate_(network, task, s, config.s_max, config.compensation, config.cosh_clamp, mask)  # eq. 4
            clip_grad_norm_(network.parameters(), config.grad_clip)
            optimizer.step()
            clamp_embeddings_(network, config.embedding_clamp)
            after_step(cross_entropy.detach(), penalty.detach())
        network.eval()
        with torch.no_grad():
            mask = network.mask(task, config.s_max)
            logits = torch.cat([network(x, task, mask) for x in torch.split(x_valid, 1024)])
            loss = F.cross_entropy(logits, y_valid).item()
            if config.schedule == "authors":
                loss += regularizer(network.split(mask), taken)[0].item()
        if not math.isfinite(loss):
            raise FloatingPointError(f"training diverged: the validation loss is {loss} after epoch {epoch + 1}")
        if loss < lowest:
            best, lowest = {name: value.clone() for name, value in network.state_dict().items()}, loss
        plateau.step(loss)
        if optimizer.param_groups[0]["lr"] < config.lr_min:
            break
    network.load_state_dict(best)
    verify_protected(network, cumulative, protected)
    return update_cumulative_mask(cumulative, network.mask(task, config.s_max))


def _check(network: HATNetwork, task: int, images: Tensor, labels: Tensor) -> None:
    """Refuse what would end in an error of torch, or in none."""
    if not 0 <= task < len(network.heads):
        raise ValueError(f"task = {task}: the network has tasks 0 to {len(network.heads) - 1}")
    bias = network.get_parameter(f"heads.{task}.bias")
    if images.shape[1:] != network.input_shape or images.dtype != bias.dtype or not len(images):
        needed = f"(n, {', '.join(map(str, network.input_shape))}) and {bias.dtype}"
        raise ValueError(f"images have shape {tuple(images.shape)} and type {images.dtype}: {needed} are needed")
    if labels.shape != images.shape[:1] or not 0 <= int(labels.min()) <= int(labels.max()) < len(bias):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and lie in {labels.min()} .. {labels.max()}: ({len(images)},) "
            f"and 0 .. {len(bias) - 1} are needed for task {task}"
        )
