"""What the steps of several runs read and change, laid out along a replica axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from hatlab.method.gate import gate
from hatlab.method.networks import HATNetwork
from hatlab.training.dropout_rng import DropoutRNG
from hatlab.training.step import Batch, Hyper, State, TaskContext, forward

__all__ = ["WHOLE_VECTORS", "Layout"]

WHOLE_VECTORS: Final = 64  # numbers; a multiple of what any CPU works on at once


@dataclass
class Layout:
    """Some runs, R of them, for the steps of their current tasks. Steps change `state` and `position` in place.

    Attributes:
        network: gives the layers; its own parameters are not read.
        size: images of a batch.
        images: of all tasks, (n, C, H, W) uint8.
        state, hyper, context: as `step` reads them.
        dropout_rng: draws dropout's factors; `position`: (R,), where each run's stream stands.
        scale, shift: (R, 1, ...), how each run's images are normalised.
        pixels: (R, 1, C H W), how a run permutes them; None if none does.
    """

    network: HATNetwork
    size: int
    images: Tensor
    state: State
    hyper: Hyper
    context: TaskContext
    dropout_rng: DropoutRNG
    position: Tensor
    scale: Tensor
    shift: Tensor
    pixels: Tensor | None

    def __len__(self) -> int:
        return len(self.position)

    def batch(self, rows: Tensor, labels: Tensor, weight: Tensor, s: Tensor) -> Batch:
        """Return what a step of the first runs is given, and move their dropout on.

        `rows`, `labels`, `weight`: (runs, n); `s`: (runs,).
        """
        active, n = rows.shape
        position = self.position[:active]
        # drawn for a whole batch, whoever trains beside: a smaller batch uses the first images' part
        dropout_masks = [factors if factors is None else factors[:, :n] for factors in self.dropout_rng.draw(position)]
        position += self.dropout_rng.stride
        return Batch(self.normalised(rows), labels, weight, dropout_masks, s[:, None])

    def normalised(self, rows: Tensor) -> Tensor:
        """Return the images of the first runs at `rows`, (runs, n), as their networks see them."""
        active, n = rows.shape
        x = self.images[rows].to(self.scale.dtype).mul_(self.scale[:active]).sub_(self.shift[:active])
        if self.pixels is None:
            return x
        return x.flatten(2).gather(2, self.pixels[:active].expand(-1, n, -1)).reshape(x.shape)

    def arguments(self, values: Mapping[str, Tensor]) -> tuple[HATNetwork, State, Hyper, TaskContext, Batch]:
        """Return the arguments of `step` for the first runs; `values` as for `batch`."""
        active, parts = len(values["rows"]), (self.state, self.hyper, self.context)
        if active < len(self):
            parts = tuple(_first(active, part) for part in parts)
        return self.network, *parts, self.batch(**values)

    def mask(self, s: Tensor) -> Tensor:
        """Return the mask (R, units) of the runs' current tasks at slopes `s`, (R,)."""
        return gate(self.state.e, s[:, None]) if self.network.gated else torch.ones_like(self.state.e)

    def logits(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Return the logits (R, n, classes) of the images at `rows`, (R, n), without dropout."""
        no_dropout: Sequence[None] = [None] * len(self.network.dropout)
        return forward(self.network, self.state.parameters, self.normalised(rows), mask, no_dropout)


def _first(active: int, part: Any) -> Any:
    """Return a named tuple with its tensors cut to the first `active` runs."""

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[:active]
        return {name: tensor[:active] for name, tensor in value.items()} if isinstance(value, Mapping) else value

    return type(part)(*map(cut, part))
