"""The exercises of the walkthrough, checked: a check tells a student what is wrong, not only that something is.

A check takes the student's answer and prints why it is right, or raises `NotYet`. It never shows the right answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hatlab.config import RunConfig
from hatlab.method.gate import gate, s_schedule
from hatlab.method.loop import train_task
from hatlab.method.networks import HATMLP

__all__ = [
    "NotYet", "check_compensation", "check_costs", "check_gate", "check_gradient_factor", "check_regularizer",
    "check_slopes", "check_training", "check_weights_in_use",
]  # fmt: skip

COSH_CLAMP = 50.0  # the authors'


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


def _compare(answer: Tensor, right: Tensor, name: str, mistakes: dict[str, Tensor], look: str) -> None:
    """Raise with the first known mistake that gives this answer, or with where to `look`."""
    right = right.to(torch.float64)
    if answer.shape != right.shape:
        raise NotYet(f"{name} has the shape {tuple(answer.shape)}; it should be {tuple(right.shape)}.")
    if torch.allclose(answer, right, rtol=1e-4, atol=1e-6):
        return
    for hint, wrong in mistakes.items():
        if wrong.shape == answer.shape and torch.allclose(answer, wrong.to(torch.float64), rtol=1e-4, atol=1e-6):
            raise NotYet(hint)
    raise NotYet(f"{name} is {_shown(answer)}, and that is not it. {look}")


def _shown(values: Tensor) -> str:
    return f"{values.item():.4g}" if values.dim() == 0 else str([round(x, 4) for x in values.flatten().tolist()[:6]])


def _number(answer: Any, name: str) -> Tensor:
    value = _called(answer if answer is ... else lambda: answer, name)
    if value.dim():
        raise NotYet(f"{name} is one number; this has the shape {tuple(value.shape)}.")
    return value


def check_gate(my_gate: Callable[[Tensor, float], Tensor]) -> None:
    """Exercise 1: the mask sigmoid(s e) of an embedding (eq. 1); its gradient has to be a number where s e is large."""
    e = torch.tensor([-2.0, -0.1, 0.0, 0.5])
    answer = _called(my_gate, "my_gate", e, 3.0)
    mistakes = {
        "The slope s has no effect: it multiplies e inside the sigmoid.": torch.sigmoid(e),
        "The slope s stands outside: it multiplies e inside the sigmoid, so that the mask stays between 0 and 1.": (
            3.0 * torch.sigmoid(e)
        ),
        "s and e are added; they have to be multiplied.": torch.sigmoid(3.0 + e),
        "The sign is turned: units with e > 0 have to be open, those with e < 0 shut.": torch.sigmoid(-3.0 * e),
        "e is divided by s: a larger s has to make the gate steeper.": torch.sigmoid(e / 3.0),
        "This is s e itself; the sigmoid around it is missing.": 3.0 * e,
    }
    _compare(answer, gate(e, 3.0), "my_gate(e, s)", mistakes, "It is the sigmoid of the slope times the embedding.")
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
    n, s_max = 5, 4.0
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
        "The slope ends at s_max + 1/s_max: what is added on the way is s_max - 1/s_max.": (
            1 / s_max + s_max * (steps - 1) / (n - 1)
        ),
    }
    look = "In batch 1 it is 1/s_max, in batch B it is s_max, and every step between adds the same."
    _compare(answer, right, "my_slope for b = 1 to 5", mistakes, look)
    print("Right: it rises evenly from 1/s_max in the first batch to s_max in the last.")


def check_compensation(my_compensation: Callable[[Tensor, float, float], Tensor]) -> None:
    """Exercise 3: what the gradient of an embedding is multiplied by (eq. 4), with s e kept within 50 of 0."""
    e, s, s_max = torch.tensor([-0.3, -0.01, 0.0, 0.02, 0.3], dtype=torch.float64), 100.0, 400.0
    answer = _called(my_compensation, "my_compensation", e, s, s_max)
    right = _compensation(e, s, s_max)
    mistakes = {
        "s_max is missing: the gradient is to be s_max times that at s = 1.": right / s_max,
        "s is missing: the derivative of sigmoid(s e) by e is s times that of the sigmoid.": right * s,
        "The ratio is upside down: the flat gate's derivative is divided by the steep one's.": s_max**2 / right,
        "e and s e have changed places: the steep gate's cosh, of s e, stands above.": (
            s_max * (torch.cosh(e) + 1) / (s * (torch.cosh((s * e).clamp(-COSH_CLAMP, COSH_CLAMP)) + 1))
        ),
        "The ones are missing: it is cosh + 1, above and below.": (
            s_max * torch.cosh((s * e).clamp(-COSH_CLAMP, COSH_CLAMP)) / (s * torch.cosh(e))
        ),
    }
    look = "It is s_max times the sigmoid's derivative at e, over s times its derivative at s e."
    _compare(answer, right, "my_compensation(e, s, s_max)", mistakes, look)
    far = _called(my_compensation, "my_compensation", torch.tensor([6.0], dtype=torch.float64), s_max, s_max)
    if not torch.allclose(far, _compensation(torch.tensor([6.0], dtype=torch.float64), s_max, s_max), rtol=1e-4):
        raise NotYet("At s e = 2400 the cosh is more than a float can hold: keep s e between -50 and 50 inside it.")
    print("Right: at e = 0 it is s_max / s, and it grows as fast as the steep gate's derivative shrinks.")


def _compensation(e: Tensor, s: float, s_max: float) -> Tensor:
    return s_max * (torch.cosh((s * e).clamp(-COSH_CLAMP, COSH_CLAMP)) + 1) / (s * (torch.cosh(e) + 1))


def check_gradient_factor(my_factor: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 4: 1 - min(a_i, a_j) for all weights between two layers (eq. 2), as a weight matrix has them: a row for
    each unit i that reads, a column for each unit j that is read.
    """
    read, reading = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 0.2])
    answer = _called(my_factor, "my_factor", read, reading)
    smaller = torch.minimum(reading[:, None], read)
    mistakes = {
        "That is the smaller mask itself: the gradient has to vanish where it is 1, so take 1 minus it.": smaller,
        "That takes the larger mask: a weight is kept only if both of its units are used, so take the smaller.": (
            1 - torch.maximum(reading[:, None], read)
        ),
        "That is 1 minus the product of the masks; the paper takes the smaller one.": 1 - reading[:, None] * read,
        "That looks at the units that are read alone; both ends count.": (1 - read).expand(2, 3),
        "That looks at the units that read alone; both ends count.": (1 - reading)[:, None].expand(2, 3),
    }
    if answer.shape == smaller.T.shape:
        raise NotYet("The matrix is turned: it has a row for each unit that reads and a column for each that is read.")
    look = "Between two fully used units it is 0; with a free unit at either end it is 1."
    _compare(answer, 1 - smaller, "my_factor(read, reading)", mistakes, look)
    print("Right: a weight between two used units gets no gradient, one with a free unit at either end all of it.")


def check_regularizer(my_regularizer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 5: R of the mask m of a task and the cumulative mask p of those before it (eq. 5)."""
    m, p = torch.tensor([1.0, 0.5, 0.2, 0.0, 0.8]), torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0])
    answer = _called(my_regularizer, "my_regularizer", m, p)
    free = 1 - p
    mistakes = {
        "The sum is divided by the number of all units; only the free ones are divided by.": (m * free).mean(),
        "All of m is counted; units that earlier tasks use cost nothing.": m.sum() / free.sum(),
        "It is not divided: R is a share of the free units.": (m * free).sum(),
        "That counts what is reused; R counts what is newly taken.": (m * p).sum() / p.sum(),
        "It is divided by what the task takes; R is a share of the free units.": (m * free).sum() / m.sum(),
    }
    look = "It is what the task takes of the free units, over what is free."
    _compare(answer, (m * free).sum() / free.sum(), "my_regularizer(m, p)", mistakes, look)
    print("Right: the share of the free units that the task takes.")


def check_costs(mode: str, answer: float, p: Tensor, m: Tensor, c: float) -> None:
    """Exercise 6: c R for masks over a few units, worked out by hand (section 2.6, and `cross`)."""
    value = _number(answer, f"the answer for {mode}")
    free, used, n = (1 - p).sum(), p.sum(), len(m)
    taken, reused = (m * (1 - p)).sum(), (m * p).sum()
    original, unused = taken / free, 1 - reused / used
    right = {"original": original, "cross": (original + unused) / 2}[mode]
    mistakes = {
        "original": {
            "The factor c is missing.": original,
            "The sum is divided by the number of all units; only the free ones are divided by.": c * taken / n,
            "All units of m are counted; those that earlier tasks use cost nothing.": c * m.sum() / free,
            "That is the cross mode; original is the share of the free units that is taken, alone.": (
                c * (original + unused) / 2
            ),
        },
        "cross": {
            "The factor c is missing.": (original + unused) / 2,
            "That is original at this c; cross is half of it, and half of the share not reused.": c * original,
            "That is half of original: the share that is not reused is missing.": c * original / 2,
            "That is the share reused; the second part is 1 minus it, the share that is not.": (
                c * (original + reused / used) / 2
            ),
            "That is the share not reused alone; cross is the mean of it and of the share taken.": c * unused,
            "The two shares are added; cross takes their mean.": c * (original + unused),
            "Sums are divided by the number of all units: divide by the free ones, and by the used ones.": (
                c * (taken / n + 1 - reused / n) / 2
            ),
        },
    }[mode]
    look = "Count the free units and those of them that m takes; for cross also the used ones, and those that m leaves."
    _compare(value, c * right, f"the answer for {mode}", mistakes, look)
    print(f"Right: {mode} costs {value.item():.4g} here.")


def check_weights_in_use(answer: int, read: Tensor, reading: Tensor, n_inputs: int) -> None:
    """Exercise 7: weights in use in two layers, the first of which reads `n_inputs` inputs (section 4.4)."""
    value = _number(answer, "the answer")
    a, b = (read > 0.5).sum(), (reading > 0.5).sum()
    mistakes = {
        "That is the second layer alone: the weights from the inputs to used units are in use, too.": a * b,
        "That is the first layer alone.": a * n_inputs,
        "Units are counted; weights are asked for.": a + b,
        "Those with one used unit at either end are counted, too; both ends have to be used.": (
            a * n_inputs + len(read) * len(reading) - (len(read) - a) * (len(reading) - b)
        ),
        "All weights are counted, those of unused units, too.": torch.tensor(len(read) * (n_inputs + len(reading))),
    }
    look = "In the first layer count used units times inputs, in the second pairs of used units."
    _compare(value, a * n_inputs + a * b, "the answer", mistakes, look)
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
