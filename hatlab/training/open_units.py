"""Closed gates cost nothing: a step over the open units alone computes what a step over all of them does.

A unit whose mask is exactly 0 adds exact zeros to every sum. The gradients of the weights into it and out of it are
exactly 0, and so is that of its embedding, whose factor is m (1 - m). Within an epoch s only grows, so the unit stays
closed until the epoch ends. Some way into an epoch the open units of each layer are therefore copied out, with what
belongs to them; the steps run on the copy, which is copied back when the epoch ends or something looks at the network.
Of a large network's linear layers, the gradient of weights between units that are both frozen is not computed either.

When to copy is a function of a run's own state, so that a repeated run is the same run: never of time, and on a CPU
never of who trains beside.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hatlab.config import RunConfig
from hatlab.method.networks import HATNetwork
from hatlab.training.parts import Part, places, repeated

__all__ = ["LOOK_EVERY", "leave_out_closed", "multiplications", "open_parameters", "skips_closed_units"]

SKIP = True  # False computes closed units like any other, for comparisons
ON_CUDA = False  # not measured yet, and each size that is captured takes memory of its own

LOOK_EVERY = 8  # steps
# A copy is made when it saves this share of the multiplications that a step takes.
WORTH_A_COPY = 0.1
# Units are left out in multiples of a sixteenth of their layer, and of what products and convolutions work on at once.
SHARE, LINEAR_UNITS, FILTERS = 16, 32, 8
# Multiplications for an image: in smaller networks products are not what takes the time.
ENOUGH = 150_000
# Weights; runs of larger networks train alone on a CPU. There gradients of frozen weights are left out, too.
LARGE = 4_000_000
MOVING_UNITS = 16  # what the number of units that move is rounded up to


def skips_closed_units(network: HATNetwork, config: RunConfig) -> bool:
    """Whether steps of this run leave closed units out: the gates' gradients are exactly 0 there, and it pays."""
    exact = config.compensation == "authors" and network.gates.dtype == torch.float32
    return exact and _pays(network)


def _pays(network: HATNetwork) -> bool:
    here = ON_CUDA or network.gates.device.type != "cuda"
    return SKIP and here and network.gated and multiplications(network, list(network.units.values())) >= ENOUGH


def multiplications(network: HATNetwork, sizes: Sequence[int]) -> int:
    """Return how many multiplications the trunk takes for an image, with so many units in each layer."""
    total, before = 0, None
    for link, size, shape in zip(network.gated_layers, sizes, network.dropout_shapes[1:], strict=True):
        inputs = link.weights // (link.units * link.kernel) if before is None else before * link.inputs_per_unit
        total += size * inputs * link.kernel * math.prod(shape[1:])
        before = size
    return total


def _cost(network: HATNetwork, sizes: Sequence[int], moving: Sequence[int]) -> int:
    """Return the multiplications of a step for an image: forward, back to each layer's inputs, and to its weights.

    Of `sizes` units in each layer `moving` are neither frozen nor closed.
    """
    total = 3 * multiplications(network, sizes)
    for k, (layer, link) in enumerate(zip(network.trunk.values(), network.gated_layers, strict=True)):
        if isinstance(layer, nn.Linear):
            inputs = link.weights // link.units if k == 0 else (sizes[k - 1] - moving[k - 1]) * link.inputs_per_unit
            total -= (sizes[k] - moving[k]) * inputs
    return total


def open_parameters(network: HATNetwork, task: int, mask: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return the parameters of the units whose `mask`, (units,), is not 0, and their mask, for `step.forward`.

    All units where the network is too small for it to pay; one of each layer at least.
    """
    layers = network.split(mask)
    kept = [torch.nonzero(values != 0 if _pays(network) else values == values).flatten() for values in layers.values()]
    kept = [which if len(which) else torch.zeros_like(which.new_empty(1)) for which in kept]
    named, found = {name: p.detach() for name, p in network.named_parameters()}, {}
    for name, axes in places(network).items():
        name_there = name.replace("head.", f"heads.{task}.")
        if name_there not in named:  # a layer without bias
            continue
        value = named[name_there]
        for axis, (layer, repeats) in enumerate(axes):
            if layer is not None and len(kept[layer]) < len(list(layers.values())[layer]):
                value = value.index_select(axis, repeated(kept[layer], repeats))
        found[name] = value[None]
    return found, torch.cat([values[which] for values, which in zip(layers.values(), kept, strict=True)])[None]


class _Choice(NamedTuple):
    """For each layer: which units a run holds, those that may move first, and how many these are."""

    units: list[Tensor]
    moving: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(map(len, self.units))


def _choose(part: Part, i: int, opened: Sequence[Tensor], sizes: Sequence[int]) -> _Choice:
    """Choose `sizes` of the units of the i-th run: those that are `opened`, (size,) of each layer, and some others."""
    network, frozen = part.network, part.whole.context.gradient_mask
    large = sum(link.weights for link in network.gated_layers) > LARGE and len(part.whole) == 1
    units, moving = [], []
    for name, which, is_open, size in zip(network.trunk, part.units, opened, sizes, strict=True):
        chosen = torch.argsort(~is_open, stable=True)[:size].sort().values
        count, factor = size, frozen.get(f"trunk.{name}.bias")
        if large and factor is not None:
            moves = is_open[chosen] & (factor[part.rows[i]][which[i][chosen]] != 0)
            count = min(size, MOVING_UNITS * math.ceil(int(moves.sum()) / MOVING_UNITS))
            chosen = chosen if count == size else chosen[torch.argsort(~moves, stable=True)]
        units.append(which[i][chosen])
        moving.append(count)
    return _Choice(units, tuple(moving))


def leave_out_closed(
    parts: Sequence[Part],
    s: Tensor,
    make: Callable[[Sequence[int], Sequence[Tensor], Sequence[int]], Part],
    together: bool = False,
) -> list[Part]:
    """Return the parts of a group in which runs leave out units that are closed at slopes `s`, if it is worth a copy.

    Runs that hold as many units as each other, layer by layer, make one part.

    Args:
        parts: of all runs of the group.
        s: (R,), of all runs; it must not fall before the parts are copied back for good.
        make: from rows, units and how many of them may move to a part, as `Part` is made.
        together: all runs hold as many units as the run with most, in quarters of a layer: for captured steps.
    """
    choices: dict[int, _Choice] = {}
    moved = set()
    for part in parts:
        opened = torch.split(part.layout.mask(s[part.index])[:, : sum(part.sizes)] != 0, list(part.sizes), 1)
        counts = torch.stack([layer.sum(1) for layer in opened], 1)
        if together:
            counts = counts.amax(0).expand_as(counts)
        for i, (row, count) in enumerate(zip(part.rows, counts.tolist(), strict=True)):
            sizes = tuple(map(min, _rounded(part.network, count, together), part.sizes))
            choice = _choose(part, i, [layer[i] for layer in opened], sizes)
            if _cost(part.network, sizes, choice.moving) <= (1 - WORTH_A_COPY) * _cost(
                part.network, part.sizes, part.moving
            ):
                moved.add(row)
            else:
                choice = _Choice([which[i] for which in part.units], part.moving)
            choices[row] = choice
    if not moved:
        return list(parts)
    new = {choices[row].sizes for row in moved}
    kept = [part for part in parts if moved.isdisjoint(part.rows) and part.sizes not in new]
    left = [part for part in parts if part not in kept]
    for part in left:
        part.copy_back()
    rows = sorted((row for part in left for row in part.rows), key=lambda row: (choices[row].sizes, row))
    for _, group in itertools.groupby(rows, key=lambda row: choices[row].sizes):
        chosen = list(group)
        units = [torch.stack(layer) for layer in zip(*(choices[row].units for row in chosen), strict=True)]
        kept.append(make(chosen, units, choices[chosen[0]].moving))
    return kept


def _rounded(network: HATNetwork, counts: Sequence[int], coarse: bool) -> tuple[int, ...]:
    """Return the sizes in which so many open units of each layer are held: at most the layer's own.

    `coarse`: quarters of a layer, for steps that are captured once for each size.
    """
    sizes = []
    for layer, units, count in zip(network.trunk.values(), network.units.values(), counts, strict=True):
        least = LINEAR_UNITS if isinstance(layer, nn.Linear) else FILTERS
        by = math.ceil(units / (4 if coarse else SHARE) / least) * least
        sizes.append(min(units, by * max(1, math.ceil(count / by))))
    return tuple(sizes)
