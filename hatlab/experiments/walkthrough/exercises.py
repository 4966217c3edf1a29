"""The exercises of the walkthrough, checked: a check tells a student what is wrong, not only that something is.

A check takes the student's answer and prints why it is right, or raises `NotYet`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hatlab.method.gate import gate, s_schedule
from hatlab.method.regularizer import mask_sparsity

__all__ = ["NotYet", "check_gate", "check_gradient_factor", "check_regularizer", "check_slopes", "check_weights_in_use"]


class NotYet(Exception):
    """The answer is not right yet; the message says where to look."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows: the hint alone, for the way through this module teaches nothing."""
        return [f"Not yet. {self}"]


def _called(function: Any, name: str, *arguments: Any) -> Tensor:
    """The answer of the student's function as a tensor, or what to do so that there is one."""
    if not callable(function):
        raise NotYet(f"{name} has to be a function; it is {function!r}.")
    try:
        answer = function(*arguments)
    except Exception as error:
        raise NotYet(f"{name} ends in an error, {type(error).__name__}: {error}") from None
    if answer is None:
        raise NotYet(f"{name} returns nothing: replace the dots, and write `return` before the result.")
    try:
        return torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(f"{name} returns {answer!r}, where numbers are needed.") from None


def _compare(answer: Tensor, right: Tensor, name: str, mistakes: dict[str, Tensor]) -> None:
    """Raise with the first known mistake that gives this answer, or with both values."""
    right = right.to(torch.float64)
    if answer.shape != right.shape:
        raise NotYet(f"{name} has the shape {tuple(answer.shape)}; it should be {tuple(right.shape)}.")
    if torch.allclose(answer, right, rtol=1e-4, atol=1e-6):
        return
    for hint, wrong in mistakes.items():
        if wrong.shape == answer.shape and torch.allclose(answer, wrong.to(torch.float64), rtol=1e-4, atol=1e-6):
            raise NotYet(hint)
    raise NotYet(f"{name} is {_shown(answer)}; it should be {_shown(right)}.")


def _shown(values: Tensor) -> str:
    return f"{values.item():.4g}" if values.dim() == 0 else str([round(x, 4) for x in values.flatten().tolist()[:6]])


def check_gate(my_gate: Callable[[Tensor, float], Tensor]) -> None:
    """Exercise 1: the mask sigmoid(s e) of an embedding (eq. 1)."""
    e = torch.tensor([-2.0, -0.1, 0.0, 0.5])
    answer = _called(my_gate, "my_gate", e, 3.0)
    mistakes = {
        "The slope s has no effect: it multiplies e inside the sigmoid.": torch.sigmoid(e),
        "The slope s stands outside: it multiplies e inside the sigmoid, so that the mask stays between 0 and 1.": (
            3.0 * torch.sigmoid(e)
        ),
        "s and e are added; they have to be multiplied.": torch.sigmoid(3.0 + e),
        "The sign is turned: units with e > 0 have to be open, those with e < 0 closed.": torch.sigmoid(-3.0 * e),
        "e is divided by s: a larger s has to make the gate steeper.": torch.sigmoid(e / 3.0),
        "This is s e itself; the sigmoid around it is missing.": 3.0 * e,
    }
    _compare(answer, gate(e, 3.0), "my_gate(e, s)", mistakes)
    print("Right: with s = 3 the embedding 0.5 gives a mask of 0.818, and e = 0 gives one half at every slope.")


def check_slopes(my_slope: Callable[[int, int, float], float]) -> None:
    """Exercise 2: s in batch b of B (eq. 3), b from 1 to B."""
    n, s_max = 5, 400.0
    answer = torch.stack([_called(my_slope, "my_slope", b, n, s_max) for b in range(1, n + 1)])
    right = torch.from_numpy(s_schedule("paper", s_max, n, 1))
    steps = torch.arange(1, n + 1)
    reach = s_max - 1 / s_max
    mistakes = {
        "The first batch is b = 1 and should have the slope 1/s_max: count the batches before it, b - 1.": (
            1 / s_max + reach * steps / (n - 1)
        ),
        "The last batch should reach s_max: divide by B - 1, the number of steps between the first and the last.": (
            1 / s_max + reach * (steps - 1) / n
        ),
        "The slope starts at 0; it should start at 1/s_max.": s_max * (steps - 1) / (n - 1),
        "The slope falls; it should rise from 1/s_max to s_max.": right.flip(0),
    }
    _compare(answer, right, "my_slope for b = 1 to 5", mistakes)
    print("Right: it rises evenly from 1/s_max in the first batch to s_max in the last.")


def check_gradient_factor(my_factor: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 3: 1 - min(a_i, a_j) for all weights between two layers (eq. 2), as a weight matrix has them: (rows i
    of the layer behind, columns j of the layer in front).
    """
    front, behind = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 0.2])
    answer = _called(my_factor, "my_factor", front, behind)
    smaller = torch.minimum(behind[:, None], front)
    if answer.shape == smaller.T.shape:
        raise NotYet("The matrix is turned: it has a row for each unit behind and a column for each in front.")
    mistakes = {
        "That is the smaller mask itself: the gradient has to vanish where it is 1, so take 1 minus it.": smaller,
        "That takes the larger mask: a weight is kept only if both of its units are used, so take the smaller.": (
            1 - torch.maximum(behind[:, None], front)
        ),
        "That is the product of the masks; the paper takes the smaller of the two.": 1 - behind[:, None] * front,
    }
    _compare(answer, 1 - smaller, "my_factor(front, behind)", mistakes)
    print("Right: a weight between two used units gets no gradient, one with a free unit at either end all of it.")


def check_regularizer(mode: str, answer: float, p: Tensor, m: Tensor, c: float) -> None:
    """Exercise 4: c R for masks over a few units, worked out by hand (section 2.6, and `cross`)."""
    value = _called(lambda: answer, f"the answer for {mode}")
    if value.dim():
        raise NotYet(f"the answer for {mode} is one number; this has the shape {tuple(value.shape)}.")

    def r(how: str) -> Tensor:
        return mask_sparsity([m], [p], how, min_units=0)

    free, used = (1 - p).sum(), p.sum()
    taken, reused = (m * (1 - p)).sum(), (m * p).sum()
    mistakes = {
        "The factor c is missing.": r(mode),
        "The sum is divided by the number of all units; only the free ones are divided by.": c * taken / len(m),
        "All units of m are counted; those that earlier tasks use cost nothing.": c * m.sum() / free,
        "That is the share reused; R2 is 1 minus it, the share that is not.": c * (r("original") + reused / used) / 2,
        "That is original at this c; cross is half of it, and half of the share not reused.": c * r("original"),
        "That is the share not reused alone; cross is the mean of it and of the share taken.": c * r("reuse"),
        "The two ratios are added; cross takes their mean.": c * (r("original") + r("reuse")),
    }
    _compare(value, c * r(mode), f"the answer for {mode}", mistakes)
    print(f"Right: {mode} costs {value.item():.4g} here.")


def check_weights_in_use(answer: int, front: Tensor, behind: Tensor, n_inputs: int) -> None:
    """Exercise 5: weights in use in two layers, the first of which reads `n_inputs` inputs (section 4.4)."""
    value = _called(lambda: answer, "the answer")
    if value.dim():
        raise NotYet(f"the answer is one number; this has the shape {tuple(value.shape)}.")
    a, b = (front > 0.5).sum(), (behind > 0.5).sum()
    mistakes = {
        "That is the second layer alone: the weights from the inputs to used units are in use, too.": a * b,
        "That is the first layer alone.": a * n_inputs,
        "Units are counted; weights are asked for.": a + b,
        "Those with one used unit at either end are counted, too; both ends have to be used.": (
            a * n_inputs + len(front) * len(behind) - (len(front) - a) * (len(behind) - b)
        ),
    }
    _compare(value, a * n_inputs + a * b, "the answer", mistakes)
    print(f"Right: {int(value)} weights.")
