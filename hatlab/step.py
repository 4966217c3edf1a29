"""One step of HAT as a pure function of (parameters, batch, hyper-parameters).

It draws nothing, keeps nothing and never looks at a value, so it can be mapped over runs. The order is that of the
authors' code: forward, loss, backward, gradient masks, compensation, clipping, SGD, clamp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad

from hatlab.attention import compensated_gradient, gate
from hatlab.networks import HATNetwork
from hatlab.regularizer import mask_sparsity

__all__ = ["Batch", "Hyper", "State", "step"]


class State(NamedTuple):
    """What a step changes: trunk and head by their name in the network, and the task's embedding (all units,)."""

    parameters: dict[str, Tensor]
    e: Tensor


class Batch(NamedTuple):
    """What a step is given: images (n, C, H, W), labels (n,), dropout's factors, and the gate's slope."""

    x: Tensor
    y: Tensor
    keep: Sequence[Tensor | None]
    s: float | Tensor


class Hyper(NamedTuple):
    """What stays the same during a task, under its name in `RunConfig`, except for the learning rate's drops."""

    learning_rate: float | Tensor
    c: float | Tensor
    s_max: float | Tensor
    grad_clip: float
    embedding_clamp: float
    cosh_clamp: float
    min_units: float
    mode: str
    compensation: str


def step(
    network: HATNetwork,
    task: int,
    state: State,
    batch: Batch,
    hyper: Hyper,
    previous: Tensor,
    factors: Mapping[str, Tensor],
) -> tuple[State, Tensor]:
    """Take one step of SGD on CE + c R, in the order of the authors' code, and return the new state.

    Args:
        network: gives the layers; its own parameters are not read where `state` has them.
        task: whose head is trained.
        previous: (all units,) cumulative mask of the tasks before.
        factors: parameter name -> what its gradient is multiplied by, from `network.movable`; empty in the first
            task.

    Returns:
        The state after the step, and (2,): cross-entropy and R before it.
    """
    mask = gate(state.e, batch.s)

    def loss(parameters: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        # no weight is shared between layers, and looking for some takes as long as a small layer
        logits = functional_call(network, parameters, (batch.x, task, mask, batch.keep), tie_weights=False)
        cross_entropy = F.cross_entropy(logits, batch.y)
        layers = network.split(mask).values(), network.split(previous).values()
        r = mask_sparsity(*layers, hyper.mode, hyper.min_units)
        return cross_entropy + hyper.c * r, torch.stack((cross_entropy, r))

    (gradients, of_mask), losses = grad(loss, argnums=(0, 1), has_aux=True)(state.parameters, mask)
    gradients = {name: g.mul_(factors[name]) if name in factors else g for name, g in gradients.items()}
    of_e = compensated_gradient(of_mask, mask, state.e, batch.s, hyper.s_max, hyper.compensation, hyper.cosh_clamp)
    norm = torch.stack([torch.linalg.vector_norm(g) for g in (*gradients.values(), of_e)]).norm()
    rate = hyper.learning_rate * torch.clamp(hyper.grad_clip / (norm + 1e-6), max=1)
    # rounded once, as SGD does: near the edge of a mask one ulp decides over a whole quantum of its gradient
    e = torch.addcmul(state.e, of_e, rate, value=-1).clamp(-hyper.embedding_clamp, hyper.embedding_clamp)
    return State(
        {name: torch.addcmul(p, gradients[name], rate, value=-1) for name, p in state.parameters.items()}, e
    ), losses
