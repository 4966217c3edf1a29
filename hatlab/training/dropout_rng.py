"""Dropout's random numbers, a function of (seed, position) and of nothing else.

A generator keeps a state that all who draw from it share. Here word k of a stream is a hash of its start plus k times
a constant: SplitMix64 (Steele, Lea and Flood, 2014), whose k-th output needs no other. So a run draws the same numbers
alone and beside others, on a CPU and on a GPU, after a resume and inside a captured step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["DropoutRNG", "offsets", "random_words", "stream"]

_SPAN = 2**64


def _signed(word: int) -> int:
    """The 64 bits of `word` as torch's int64 holds them."""
    return (word + _SPAN // 2) % _SPAN - _SPAN // 2


GAMMA, FIRST, SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def stream(seed: int, purpose: int) -> int:
    """Return where the stream for one purpose of one seed starts, an int64."""
    return _signed(int(np.random.SeedSequence((seed, purpose)).generate_state(1, np.uint64)[0]))


def offsets(count: int, device: torch.device | None = None) -> Tensor:
    """Return what words 1 to `count` of any stream lie behind its start, int64 (count,)."""
    return torch.arange(1, count + 1, device=device) * GAMMA


def random_words(start: Tensor, offsets: Tensor) -> Tensor:
    """Return the words at `offsets` (count,) of the streams that start at `start` (R,), as int64 (R, count)."""
    z = start[:, None] + offsets
    # torch shifts the sign in: it is masked away. In place: these are the widest passes of a step's random numbers
    z.bitwise_xor_((z >> 30).bitwise_and_((1 << 34) - 1)).mul_(FIRST)
    z.bitwise_xor_((z >> 27).bitwise_and_((1 << 37) - 1)).mul_(SECOND)
    return z.bitwise_xor_((z >> 31).bitwise_and_((1 << 33) - 1))


class DropoutRNG:
    """Dropout's factors for the steps of R runs.

    Args:
        shapes: what each dropout of a step acts on, the batch included.
        probabilities: of each; where it is 0 nothing is drawn.
        device: where.

    Attributes:
        stride: a run's position moves by this from one step to the next.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], probabilities: Sequence[float], device: torch.device) -> None:
        self.shapes, self.probabilities = [tuple(shape) for shape in shapes], list(probabilities)
        sizes = [math.prod(shape) if p else 0 for shape, p in zip(shapes, probabilities, strict=True)]
        self.words = [-(-size // 4) for size in sizes]  # sixteen bits decide each value
        count = sum(self.words)
        self.stride = _signed(count * GAMMA)
        self._offsets = offsets(count, device)

    def position(self, start: int, steps: int) -> int:
        """Return the position, an int64, at which a stream stands after `steps` steps."""
        return _signed(start + steps * self.stride)

    def draw(self, position: Tensor) -> list[Tensor | None]:
        """Return for each dropout (R, *shape) float32: 0 with probability p, met to 1/65536, else 1 / (1 - p).

        `position`: (R,) int64, from `position`.
        """
        bits = random_words(position, self._offsets).view(torch.int16)
        factors: list[Tensor | None] = []
        parts = torch.split(bits, [4 * count for count in self.words], 1)
        for part, shape, p in zip(parts, self.shapes, self.probabilities, strict=True):
            if not p:
                factors.append(None)
                continue
            bound = min(round(p * 65536), 65535) - 32768  # that 16 bits can hold
            keep = part[:, : math.prod(shape)] >= bound
            factors.append(keep.to(torch.float32).mul_(1 / (1 - p)).reshape(-1, *shape))
        return factors
