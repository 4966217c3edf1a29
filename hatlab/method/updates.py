"""What HAT adds to an update of a network: between `loss.backward()` and the optimiser's step, and after it.

    loss.backward()
    protect_gradients_(network, cumulative)   # eq. 2
    compensate_(network, task, s, s_max)      # eq. 4
    optimizer.step()
    clamp_embeddings_(network)

`protected_values` before a task and `verify_protected` after it tell whether what earlier tasks use has stayed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hatlab.method.gate import compensated_gradient, compensation_ratio, gate
from hatlab.method.networks import HATNetwork
from hatlab.method.protection import frozen_values, verify_frozen

__all__ = ["clamp_embeddings_", "compensate_", "protect_gradients_", "protected_values", "verify_protected"]


@torch.no_grad()
def protect_gradients_(network: HATNetwork, cumulative: Tensor) -> None:
    """Multiply the gradient of each trunk weight from unit j to unit i by 1 - min(a_i, a_j), in place (eq. 2).

    The optimiser must not move what has a gradient of 0: no weight decay, and no momentum from an earlier task.

    `cumulative`: (all units,) cumulative mask of the tasks before, zeros in the first; ValueError for another number of
    units. A parameter without a gradient is left out.
    """
    parameters = dict(network.named_parameters())
    for name, factor in network.gradient_mask(cumulative).items():
        gradient = parameters[name].grad
        if gradient is not None:
            gradient.mul_(factor)


@torch.no_grad()
def compensate_(
    network: HATNetwork,
    task: int,
    s: float,
    s_max: float,
    form: str = "authors",
    cosh_clamp: float = 50.0,
    mask: Tensor | None = None,
) -> None:
    """Replace the gradient of a task's embedding by the compensated one (sec. 2.5), in place, before any clipping.

    `s`, `s_max`, `form`, `cosh_clamp`: as for `gate.compensated_gradient`. `mask`: `network.mask(task, s)`, which the
    loss was computed with; only "exact" needs it, with the gradient that `mask.retain_grad()` keeps.

    Raises:
        ValueError: there is no gradient to start from; an unknown form.
    """
    if not network.gated:
        return
    if network.gates.grad is None:
        raise ValueError("the embeddings have no gradient: compensate_ comes after loss.backward()")
    e, by_autograd = network.gates[task], network.gates.grad[task]
    if form == "authors":
        by_autograd.mul_(compensation_ratio(e, s, s_max, cosh_clamp))
        return
    if mask is None or mask.grad is None:
        raise ValueError(
            f"compensation = {form!r} without the gradient of a mask: allowed are 'authors', and 'exact' with the mask "
            "and mask.retain_grad() before loss.backward()"
        )
    by_autograd.copy_(compensated_gradient(mask.grad.to(e.dtype), gate(e, s), e, s, s_max, form, cosh_clamp))


@torch.no_grad()
def clamp_embeddings_(network: HATNetwork, bound: float = 6.0) -> None:
    """Clamp the embeddings of all tasks to -bound .. bound, in place, as the authors do after every step."""
    if not bound > 0:
        raise ValueError(f"bound = {bound!r} of the embeddings: allowed are numbers above 0")
    network.gates.clamp_(-bound, bound)


def protected_values(network: HATNetwork, cumulative: Tensor) -> dict[str, Tensor]:
    """Return parameter name -> a copy of its values that `cumulative`, (all units,), protects fully, before a task.

    A weight is protected fully where the masks of both its units are exactly 1, a bias where that of its unit is.
    """
    return frozen_values(dict(network.named_parameters()), network.gradient_mask(cumulative))


def verify_protected(network: HATNetwork, cumulative: Tensor, before: Mapping[str, Tensor]) -> int:
    """Compare what `cumulative` protects fully with its values before the task, bit by bit; return how many there are.

    `before` is from `protected_values` with the same `cumulative`.

    Raises:
        FrozenWeightMoved: naming a parameter, how many of its protected values changed, and the likely causes.
    """
    return verify_frozen(dict(network.named_parameters()), network.gradient_mask(cumulative), before)
