"""Elastic weight consolidation (Kirkpatrick et al., 2017): a reference that HAT is compared with.

After a task the loss gets a penalty for leaving the task's weights: half of lambda F (theta - theta*)^2 for each weight
theta of the trunk, with F the diagonal of the Fisher information. As in the code of HAT's authors, F is the
mean over the tasks so far, and theta* the weights after the last one. Heads have one task each, and no penalty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from hatlab.data.loading import Split
from hatlab.method.networks import HATNetwork

__all__ = ["fisher", "penalty"]

FISHER_BATCH: Final = 20  # images whose gradient is squared together, as the authors do


def fisher(network: HATNetwork, task: int, data: Split) -> dict[str, Tensor]:
    """Return the diagonal of the empirical Fisher information of each trunk parameter, in evaluation mode.

    As the authors' code has it: the mean of the squared gradients of small batches. Gradients of single images nearly
    cancel after training, so this is the Fisher information over the size of a batch; their lambda goes with it.
    """
    trunk = {name: p for name, p in network.named_parameters() if name.startswith("trunk.")}
    sums = {name: torch.zeros_like(p) for name, p in trunk.items()}
    network.eval()
    mask = network.mask(task, 1.0)
    for rows in torch.split(torch.arange(len(data), device=mask.device), FISHER_BATCH):
        x, y = data.batch(rows)
        gradients = torch.autograd.grad(F.cross_entropy(network(x, task, mask), y), list(trunk.values()))
        for name, gradient in zip(trunk, gradients, strict=True):
            sums[name].addcmul_(gradient, gradient, value=len(rows) / len(data))
    return sums


def penalty(parameters: Mapping[str, Tensor], anchors: Mapping[str, tuple[Tensor, Tensor]]) -> float:
    """Return half of the sum of stiffness times squared distance.

    Args:
        parameters: name -> value.
        anchors: name -> (anchor, stiffness).
    """
    penalties = [(k * (parameters[name] - anchor) ** 2).sum() for name, (anchor, k) in anchors.items()]
    return float(sum(penalties)) / 2
