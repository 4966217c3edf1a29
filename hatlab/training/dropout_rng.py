"""Dropout's random numbers, a function of (seed, position) and of nothing else.

A generator keeps a state that all who draw from it share. Here word k of a stream is a hash of its start plus k times
a constant: SplitMix64 (Steele, Lea and Flood, 2014), whose k-th output needs no other. So a run draws the same numbers
alone and beside others, on a CPU and on a GPU, after a resume and inside a captured step.
"""

from __future__ import annotations

import copy
import itertools
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
    """Return the words at `offsets` (count,) or (R, count) of the streams that start at `start` (R,).

    The result is int64 (R, count).
    """
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
        self.probabilities = list(probabilities)
        sizes = [math.prod(shape) if p else 0 for shape, p in zip(shapes, probabilities, strict=True)]
        words = [-(-size // 4) for size in sizes]  # sixteen bits decide each value
        self.stride = _signed(sum(words) * GAMMA)
        self._device = device
        self._all = [tuple(shape) for shape in shapes]
        self._first = list(itertools.accumulate(words, initial=0))
        self._offsets = torch.empty(0)
        self._picks: list[Tensor | None] = [None] * len(words)
        self.select(self._picks)

    def copy(self) -> DropoutRNG:
        """Return another that draws the same numbers; `select` on one leaves the other as it is."""
        other = copy.copy(self)
        other._offsets, other._picks = torch.empty(0), [None] * len(self._picks)
        return other

    def select(self, units: Sequence[Tensor | None]) -> None:
        """From now on draw factors for some units only: those that they have when all are drawn.

        `units`: for each dropout (R, m), which of the second axis of what it acts on; None for all. As many as last
        time are written where those stand, which a captured step reads.
        """
        found = [self._selection(k, which) for k, which in enumerate(units)]
        self._counts = [words.shape[1] for words, _, _ in found]
        runs = max((len(words) for words, _, _ in found), default=1)
        drawn = torch.cat([words.expand(runs, -1) for words, _, _ in found], 1)
        self._offsets = drawn if drawn.shape != self._offsets.shape else self._offsets.copy_(drawn)
        self._picks = [_written(pick, old) for (_, pick, _), old in zip(found, self._picks, strict=True)]
        self.shapes = [shape for _, _, shape in found]

    def _selection(self, k: int, units: Tensor | None) -> tuple[Tensor, Tensor | None, tuple[int, ...]]:
        """Return the words' offsets (R, count) for one dropout, which of the values in them count, and their shape.

        Values are picked from those of some images at a time, so many that these are whole words: (R, values).
        """
        shape, first, end = self._all[k], *self._first[k : k + 2]
        everything = offsets(end, self._device)[None, first:]
        if units is None or not self.probabilities[k]:
            return everything, None, shape
        n, of_image, each = shape[0], math.prod(shape[1:]), math.prod(shape[2:])
        images = 1 if of_image % 4 == 0 else n
        starts = torch.arange(images, device=self._device)[:, None] * of_image + units[:, None] * each
        starts = starts.flatten(1)  # (R, units of the images), where each unit's values begin
        within = torch.arange(each, device=self._device)
        shape = (n, units.shape[1], *shape[2:])
        per_unit = -(-(each + 3) // 4)  # words that hold a unit's values, wherever these begin
        if starts.shape[1] * per_unit >= -(-images * of_image // 4):
            return everything, (starts[..., None] + within).flatten(1), shape
        words = starts[..., None] // 4 + torch.arange(per_unit, device=self._device)
        words = words.flatten(1)[:, None] + torch.arange(0, n, images, device=self._device)[:, None] * of_image // 4
        drawn = torch.arange(starts.shape[1], device=self._device) * per_unit * 4 + starts % 4
        return (first + 1 + words.flatten(1)) * GAMMA, (drawn[..., None] + within).flatten(1), shape

    def position(self, start: int, steps: int) -> int:
        """Return the position, an int64, at which a stream stands after `steps` steps."""
        return _signed(start + steps * self.stride)

    def draw(self, position: Tensor) -> list[Tensor | None]:
        """Return for each dropout (R, *shape) float32: 0 with probability p, met to 1/65536, else 1 / (1 - p).

        `position`: (R,) int64, from `position`.
        """
        runs = len(position)
        bits = random_words(position, self._offsets[:runs]).view(torch.int16)
        factors: list[Tensor | None] = []
        parts = torch.split(bits, [4 * count for count in self._counts], 1)
        for part, shape, p, pick in zip(parts, self.shapes, self.probabilities, self._picks, strict=True):
            if not p:
                factors.append(None)
                continue
            bound = min(round(p * 65536), 65535) - 32768  # that 16 bits can hold
            size = math.prod(shape)
            if pick is None:
                part = part[:, :size]
            else:
                times = size // pick.shape[1]
                part = part.reshape(runs, times, -1).gather(2, pick[:runs, None].expand(-1, times, -1))
            kept = (part >= bound).reshape(-1, *shape)
            if len(shape) > 2 and kept.device.type == "cpu":  # channels last, as `step` has maps on a CPU
                kept = kept.movedim(2, -1).contiguous().movedim(-1, 2)
            factors.append(kept.to(torch.float32).mul_(1 / (1 - p)))
        return factors


def _written(new: Tensor | None, old: Tensor | None) -> Tensor | None:
    return old.copy_(new) if new is not None and old is not None and old.shape == new.shape else new
