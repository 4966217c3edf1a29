"""The exercises of the walkthrough, checked: a check tells a student what is wrong, not only that something is.

A check takes the student's answer and prints why it is right, or raises `NotYet`. It never shows the right answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hatlab.config import RunConfig
from hatlab.experiments.walkthrough import cases
from hatlab.method.loop import train_task
from hatlab.method.networks import HATMLP

__all__ = [
    "NotYet", "check_compensation", "check_costs", "check_gate", "check_gradient_factor", "check_regularizer",
    "check_slopes", "check_training", "check_weights_in_use",
]  # fmt: skip


class NotYet(Exception):
    """The answer is not right yet; the message says where to look."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows: the hint alone, for the way through this module teaches nothing."""
        return [f"Not yet. {self}"]


def _called(function: Any, name: str, *arguments: Any) -> Tensor:
    """The answer of the student's function as a tensor, or what to do so that there is one."""
    if function is ...:
        raise NotYet(f"{name}: replace the dots by your answer.")
    if not callable(function):
        raise NotYet(f"{name} has to be a function; it is {function!r}.")
    try:
        answer = function(*arguments)
    except Exception as error:
        raise NotYet(f"{name} ends in an error, {type(error).__name__}: {error}") from None
    if answer is None or answer is ...:
        raise NotYet(f"{name} has no value yet: replace the dots by your answer; in a function, after `return`.")
    try:
        return torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(f"{name} is {answer!r}, where numbers are needed.") from None


def _compare(answer: Tensor, name: str, case: cases.Case) -> None:
    """Raise with the first known mistake that gives this answer, or with where to look."""
    right = case.right.to(torch.float64)
    if answer.shape != right.shape:
        raise NotYet(f"{name} has the shape {tuple(answer.shape)}; it should be {tuple(right.shape)}.")
    if torch.allclose(answer, right, rtol=1e-4, atol=1e-6):
        return
    for hint, wrong in case.mistakes.items():
        if wrong.shape == answer.shape and torch.allclose(answer, wrong.to(torch.float64), rtol=1e-4, atol=1e-6):
            raise NotYet(hint)
    raise NotYet(f"{name} is {_shown(answer)}, and that is not it. {case.look}")


def _shown(values: Tensor) -> str:
    return f"{values.item():.4g}" if values.dim() == 0 else str([round(x, 4) for x in values.flatten().tolist()[:6]])


def _number(answer: Any, name: str) -> Tensor:
    value = _called(answer if answer is ... else lambda: answer, name)
    if value.dim():
        raise NotYet(f"{name} is one number; this has the shape {tuple(value.shape)}.")
    return value


def check_gate(my_gate: Callable[[Tensor, float], Tensor]) -> None:
    """Exercise 1: the mask sigmoid(s e) of an embedding (eq. 1); its gradient has to be a number where s e is large."""
    answer = _called(my_gate, "my_gate", torch.tensor([-2.0, -0.1, 0.0, 0.5]), 3.0)
    _compare(answer, "my_gate(e, s)", cases.of_gate())
    far = torch.tensor([-2.0], requires_grad=True)
    mask = my_gate(far, 400.0)
    if isinstance(mask, Tensor) and mask.requires_grad:
        (gradient,) = torch.autograd.grad(mask.sum(), far)
        if not torch.isfinite(gradient).all():
            raise NotYet(
                "The masks are right, but at s e = -800 the gradient is not a number: exp(800) is more than a float "
                "can hold. torch.sigmoid computes the same without it."
            )
    print("Right: with s = 3 the embedding 0.5 gives a mask of 0.818, and e = 0 gives one half at every slope.")


def check_slopes(my_slope: Callable[[int, int, float], float]) -> None:
    """Exercise 2: s in batch b of B (eq. 3), b from 1 to B."""
    answer = torch.stack([_called(my_slope, "my_slope", b, 5, 4.0) for b in range(1, 6)])
    _compare(answer, "my_slope for b = 1 to 5", cases.of_slopes())
    print("Right: it rises evenly from 1/s_max in the first batch to s_max in the last.")


def check_compensation(my_compensation: Callable[[Tensor, float, float], Tensor]) -> None:
    """Exercise 3: what the gradient of an embedding is multiplied by (eq. 4), with s e kept within 50 of 0."""
    near, far = cases.NEAR
    answer = _called(my_compensation, "my_compensation", *near)
    _compare(answer, "my_compensation(e, s, s_max)", cases.of_compensation(*near))
    if not torch.allclose(
        _called(my_compensation, "my_compensation", *far), cases.of_compensation(*far).right, rtol=1e-4
    ):
        raise NotYet("At s e = 2400 the cosh is more than a float can hold: keep s e between -50 and 50 inside it.")
    print("Right: at e = 0 it is s_max / s, and it grows as fast as the steep gate's derivative shrinks.")


def check_gradient_factor(my_factor: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 4: 1 - min(a_i, a_j) for all weights between two layers (eq. 2), as a weight matrix has them: a row for
    each unit i that reads, a column for each unit j that is read.
    """
    answer = _called(my_factor, "my_factor", *cases.LAYERS)
    case = cases.of_factor(*cases.LAYERS)
    if answer.shape == case.right.T.shape:
        raise NotYet("The matrix is turned: it has a row for each unit that reads and a column for each that is read.")
    _compare(answer, "my_factor(read, reading)", case)
    print("Right: a weight between two used units gets no gradient, one with a free unit at either end all of it.")


def check_regularizer(my_regularizer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 5: R of the mask m of a task and the cumulative mask p of those before it (eq. 5)."""
    _compare(
        _called(my_regularizer, "my_regularizer", *cases.MASKS),
        "my_regularizer(m, p)",
        cases.of_regularizer(*cases.MASKS),
    )
    print("Right: the share of the free units that the task takes.")


def check_costs(mode: str, answer: float, p: Tensor, m: Tensor, c: float) -> None:
    """Exercise 6: c R for masks over a few units, worked out by hand (section 2.6, and `cross`)."""
    value = _number(answer, f"the answer for {mode}")
    _compare(value, f"the answer for {mode}", cases.of_costs(mode, p, m, c))
    print(f"Right: {mode} costs {value.item():.4g} here.")


def check_weights_in_use(answer: int, read: Tensor, reading: Tensor, n_inputs: int) -> None:
    """Exercise 7: weights in use in two layers, the first of which reads `n_inputs` inputs (section 4.4)."""
    value = _number(answer, "the answer")
    _compare(value, "the answer", cases.of_weights(read, reading, n_inputs))
    print(f"Right: {int(value)} weights.")


def check_training(learn: Callable[..., Tensor]) -> None:
    """Exercise 8: two tasks, an epoch each, beside the loop of `hatlab.method.loop`: the same numbers, in float64."""
    if not callable(learn):
        raise NotYet("learn: replace the dots by your answer.")
    rng = torch.Generator().manual_seed(0)
    data = [(torch.rand(48, 1, 8, 8, generator=rng, dtype=torch.float64), torch.arange(48) % 2) for _ in range(2)]
    config = RunConfig(schedule="paper", max_epochs=1, batch_size=16, min_units=0, dropout=(0.0, 0.0))
    networks, masks = [], []
    for by_hand in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = HATMLP((1, 8, 8), classes=[2, 2], widths=(20, 15), dropout=(0.0, 0.0)).double()
        cumulative = torch.zeros(35, dtype=torch.float64)
        for task, (images, labels) in enumerate(data):
            order = torch.Generator().manual_seed(task)
            if by_hand:
                how = {"epochs": 1, "c": config.c, "s_max": config.s_max, "batch_size": config.batch_size}
                given = (network, task, images, labels, cumulative, order)
                cumulative = _called(lambda given=given, how=how: learn(*given, **how), "learn")
            else:
                cumulative = train_task(network, task, images, labels, cumulative, config, generator=order)
        networks.append(dict(network.named_parameters()))
        masks.append(cumulative)
    away = {name: float((networks[1][name] - right).detach().abs().max()) for name, right in networks[0].items()}
    name = max(away, key=lambda name: away[name] if away[name] == away[name] else torch.inf)
    if not away[name] < 1e-8:
        what = {"gates": "embeddings", "trunk": "weights of the trunk", "heads": "weights of the heads"}
        raise NotYet(
            f"After two tasks the {what[name.partition('.')[0]]} ({name}) are {away[name]:.2g} away from those of "
            "hatlab.method.loop: read its steps beside yours, one by one."
        )
    if masks[1].shape != masks[0].shape or not torch.allclose(masks[1], masks[0], atol=1e-8):
        raise NotYet("The weights are right, but the cumulative mask that is returned is not the larger of both masks.")
    print("Right: after two tasks every number is that of hatlab.method.loop, to eight digits.")
