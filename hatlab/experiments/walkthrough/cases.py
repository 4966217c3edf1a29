"""What the walkthrough's exercises compare an answer with: the right one, and the mistakes that have their own hint.

Also the numbers that an exercise asks about: the notebook's own, and others for each student of a class.
"""

from __future__ import annotations

import itertools
import random
from typing import NamedTuple

import torch
from torch import Tensor

from hatlab.method.gate import gate, s_schedule

__all__ = [
    "COMMON", "LAYERS", "MASKS", "NEAR", "N_INPUTS", "Case", "Numbers", "hints", "numbers_for", "of_compensation",
    "of_costs", "of_factor", "of_gate", "of_regularizer", "of_slopes", "of_weights",
]  # fmt: skip

COSH_CLAMP = 50.0  # the authors'


class Numbers(NamedTuple):
    """What the exercises that ask for a number are about.

    Attributes:
        p, m: exercise 6: the cumulative mask of earlier tasks and the new task's mask, 0 or 1, of seven units.
        c: exercise 6: the compressibility.
        read, reading: exercise 7: the cumulative masks of two layers of five units.
    """

    p: tuple[int, ...]
    m: tuple[int, ...]
    c: int
    read: tuple[float, ...]
    reading: tuple[float, ...]


COMMON = Numbers((1, 1, 1, 0, 0, 0, 0), (1, 1, 0, 1, 0, 0, 0), 3, (0.9, 1, 0, 0.2, 1), (1, 0, 0.7, 0.1, 0))
N_INPUTS = 64  # exercise 7's first layer reads an image of 8 x 8


# what the functions of exercises 3, 4 and 5 are tried on
NEAR = (
    (torch.tensor([-0.3, -0.01, 0.0, 0.02, 0.3], dtype=torch.float64), 100.0, 400.0),
    (torch.tensor([6.0], dtype=torch.float64), 400.0, 400.0),
)
LAYERS = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 0.2])
MASKS = torch.tensor([1.0, 0.5, 0.2, 0.0, 0.8]), torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0])


class Case(NamedTuple):
    """What an answer is compared with: the right one, hint -> a wrong one that it is for, and the hint for others."""

    right: Tensor
    mistakes: dict[str, Tensor]
    look: str


def of_gate() -> Case:
    """Return exercise 1: the mask sigmoid(s e) at s = 3 of four embeddings (eq. 1)."""
    e = torch.tensor([-2.0, -0.1, 0.0, 0.5])
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
    return Case(gate(e, 3.0), mistakes, "It is the sigmoid of the slope times the embedding.")


def of_slopes(n: int = 5, s_max: float = 4.0) -> Case:
    """Return exercise 2: s in each of `n` batches (eq. 3)."""
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
    return Case(
        right, mistakes, "In batch 1 it is 1/s_max, in batch B it is s_max, and every step between adds the same."
    )


def of_compensation(e: Tensor, s: float, s_max: float) -> Case:
    """Return exercise 3: what the gradient of `e` is multiplied by (eq. 4)."""
    right = s_max * (torch.cosh((s * e).clamp(-COSH_CLAMP, COSH_CLAMP)) + 1) / (s * (torch.cosh(e) + 1))
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
    return Case(right, mistakes, "It is s_max times the sigmoid's derivative at e, over s times its derivative at s e.")


def of_factor(read: Tensor, reading: Tensor) -> Case:
    """Return exercise 4: 1 - min(a_i, a_j) for masks of two and three units (eq. 2)."""
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
    return Case(1 - smaller, mistakes, "Between two fully used units it is 0; with a free unit at either end it is 1.")


def of_regularizer(m: Tensor, p: Tensor) -> Case:
    """Return exercise 5: R of a mask and a cumulative mask (eq. 5)."""
    free = 1 - p
    mistakes = {
        "The sum is divided by the number of all units; only the free ones are divided by.": (m * free).mean(),
        "All of m is counted; units that earlier tasks use cost nothing.": m.sum() / free.sum(),
        "It is not divided: R is a share of the free units.": (m * free).sum(),
        "That counts what is reused; R counts what is newly taken.": (m * p).sum() / p.sum(),
        "It is divided by what the task takes; R is a share of the free units.": (m * free).sum() / m.sum(),
    }
    look = "It is what the task takes of the free units, over what is free."
    return Case((m * free).sum() / free.sum(), mistakes, look)


def of_costs(mode: str, p: Tensor, m: Tensor, c: float) -> Case:
    """Return exercise 6: c R in a mode, for masks of 0 and 1."""
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
    return Case(c * right, mistakes, look)


def of_weights(read: Tensor, reading: Tensor, n_inputs: int) -> Case:
    """Return exercise 7: the weights in use in two layers."""
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
    return Case(a * n_inputs + a * b, mistakes, look)


def _cases(numbers: Numbers) -> dict[str, list[Case]]:
    """What is compared in each exercise but the last, whose right answer is a trained network."""
    p, m, read, reading = (torch.tensor(v, dtype=torch.float64) for v in (numbers.p, numbers.m, *numbers[3:]))
    return {
        "gate": [of_gate()],
        "slope": [of_slopes()],
        "compensation": [of_compensation(*NEAR[0])],
        "factor": [of_factor(*LAYERS)],
        "regularizer": [of_regularizer(*MASKS)],
        "costs": [of_costs(mode, p, m, numbers.c) for mode in ("original", "cross")],
        "weights": [of_weights(read, reading, N_INPUTS)],
    }


def hints(exercise: str) -> list[str]:
    """Return what a check says of each mistake that it knows, in the order in which it looks for them.

    Raises:
        KeyError: there is no such exercise, or it is the last, which compares every number of a training.
    """
    return list(dict.fromkeys(hint for case in _cases(COMMON)[exercise] for hint in case.mistakes))


def numbers_for(student: str, seed: int) -> Numbers:
    """Return the numbers of one student's copy: others for another name or seed, always the same for these.

    They are drawn until the right answer and every listed mistake of an exercise are different numbers.
    """
    draw = random.Random(f"{seed} {student}")
    while True:
        p, m = ([draw.randint(0, 1) for _ in range(7)] for _ in range(2))
        read, reading = ([draw.choice([0, 0.1, 0.2, 0.3, 0.7, 0.8, 0.9, 1]) for _ in range(5)] for _ in range(2))
        numbers = Numbers(tuple(p), tuple(m), draw.randint(2, 9), tuple(read), tuple(reading))
        if not 2 <= sum(p) <= 5:
            continue
        cases = _cases(numbers)
        if all(_told_apart(case) for name in ("costs", "weights") for case in cases[name]):
            return numbers


def _told_apart(case: Case) -> bool:
    """Whether no two answers are within a hundredth of each other, and none is 0."""
    values = sorted(float(value) for value in (case.right, *case.mistakes.values()))
    return values[0] > 0 and all(high > 1.01 * low for low, high in itertools.pairwise(values))
