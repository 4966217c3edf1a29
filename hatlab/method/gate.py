"""The gate of hard attention: embedding e, mask a = sigmoid(s e), annealing of s, gradient compensation.

Follows section 2.2 to 2.5 of Serra et al. (2018) in the order of the paper. Everything stays in float32, and
the "authors" compensation keeps the product that autograd forms: where s e > 17 the mask rounds to
exactly 1 and its gradient to 0, and the capacity curves of the authors' code depend on it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["compensated_gradient", "compensation_ratio", "gate", "s_schedule"]


def _cast(value: float | Tensor, e: Tensor) -> float | Tensor:
    """Cast a tensor `value` to `e.dtype`; a number stays as it is."""
    return value.to(e.dtype) if isinstance(value, Tensor) else value


def gate(e: Tensor, s: float | Tensor) -> Tensor:
    """Return the mask sigmoid(s e) of an embedding (eq. 1): `e` of any shape, result of that shape in [0, 1].

    `s`: a number, or a tensor that broadcasts against `e`, in any precision.
    """
    return torch.sigmoid(_cast(s, e) * e)


def s_schedule(schedule: str, s_max: float, n: int, batch_size: int) -> np.ndarray:
    """Return s for every step of an epoch over `n` images (eq. 3), shape (steps,), float64.

    "paper" goes from 1/s_max to s_max over the batches. "authors" goes by the offset of the batch's first
    image divided by n, as their code does, and so ends short of s_max.
    """
    offset = np.arange(0, n, batch_size)
    if schedule == "authors":
        progress = offset / n
    elif schedule == "paper":
        # one batch only: it is the last of its epoch, and trains the mask that evaluation uses
        progress = offset / offset[-1] if len(offset) > 1 else np.ones(1)
    else:
        raise ValueError(f"schedule = {schedule!r}: allowed are 'authors' and 'paper'")
    return (s_max - 1 / s_max) * progress + 1 / s_max


def compensated_gradient(
    gradient: Tensor, mask: Tensor, e: Tensor, s: float | Tensor, s_max: float | Tensor, form: str, cosh_clamp: float
) -> Tensor:
    """Return the gradient for `e` from the gradient for its mask, as if s had been 1 and not annealed (sec. 2.5).

    `gradient`, by the mask, and `mask`, gate(e, s), have the shape of `e`; `s` and `s_max` are as for `gate`. The
    intended gradient is s_max sigmoid'(e) times that of the mask.

    `form` "exact" takes sigmoid'(e) directly. "authors" takes the derivative of sigmoid(s e) and multiplies by
    (s_max / s) (cosh(s e) + 1) / (cosh(e) + 1) (eq. 4): equal on paper, but 0 where the mask has rounded to 1;
    `cosh_clamp` bounds |s e| inside cosh, which would overflow (the authors: 50).
    """
    if form == "exact":
        plain = torch.sigmoid(e)
        return gradient * _cast(s_max, e) * plain * (1 - plain)
    if form == "authors":
        by_autograd = gradient * (1 - mask) * mask * _cast(s, e)
        return by_autograd * compensation_ratio(e, s, s_max, cosh_clamp)
    raise ValueError(f"compensation = {form!r}: allowed are 'authors' and 'exact'")


def compensation_ratio(e: Tensor, s: float | Tensor, s_max: float | Tensor, cosh_clamp: float = 50.0) -> Tensor:
    """Return (s_max / s) (cosh(s e) + 1) / (cosh(e) + 1), what eq. 4 multiplies the gradient of `e` by.

    `e`, `s` and `s_max` are as for `gate`, `cosh_clamp` as for `compensated_gradient`; result of the shape of `e`.
    """
    annealed = _cosh(torch.clamp(_cast(s, e) * e, -cosh_clamp, cosh_clamp)) + 1
    return _cast(s_max / s, e) * annealed / (_cosh(e) + 1)


def _cosh(x: Tensor) -> Tensor:
    """Return cosh x by torch's exp, which rounds alike in torch 2.11 to 2.14: `torch.cosh` there is another function.

    Since torch 2.14 it is the C library's, which rounds otherwise from one system to the next.
    """
    grown = torch.exp(x.abs())
    return (grown + 1 / grown) / 2
