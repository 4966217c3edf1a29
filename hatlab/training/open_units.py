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
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from hatlab.config import RunConfig
from hatlab.method.networks import HATNetwork
from hatlab.training.layout import WHOLE_VECTORS, Layout
from hatlab.training.step import State, TaskContext

__all__ = ["LOOK_EVERY", "Part", "leave_out_closed", "multiplications", "skips_closed_units"]

SKIP = True  # False computes closed units like any other, for comparisons

LOOK_EVERY = 8  # steps
# A copy is made when it saves this share of the multiplications that a step takes.
WORTH_A_COPY = 0.1
# Units are left out in multiples of a sixteenth of their layer, and of what products and convolutions work on at once.
SHARE, LINEAR_UNITS, FILTERS = 16, 32, 8
# Below so many multiplications in a run's step its products are not what takes the time.
ENOUGH = 10_000_000
# Weights; runs of larger networks train alone on a CPU. There gradients of frozen weights are left out, too.
LARGE = 4_000_000
MOVING_UNITS = 16  # what the number of units that move is rounded up to


def skips_closed_units(network: HATNetwork, config: RunConfig) -> bool:
    """Whether steps of this run leave closed units out: the gates' gradients are exactly 0 there, and it pays."""
    exact = network.gated and config.compensation == "authors" and network.gates.dtype == torch.float32
    work = config.batch_size * multiplications(network, list(network.units.values()))
    return SKIP and exact and work >= ENOUGH


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


class Part:
    """Some of a group's runs on some of their units: those that are open, and closed ones up to the size that is held.

    Args:
        whole: all runs of the group on all units.
        rows: which of its runs.
        units: for each layer (runs, size): which of its units; None for all runs on all units.
        moving: of one run: how many of each layer's units may move, the first; None for all.

    Attributes:
        layout: what steps read and change: a copy, unless it is the whole.
        sizes: units of each layer.
    """

    def __init__(
        self,
        whole: Layout,
        rows: Sequence[int],
        units: Sequence[Tensor] | None = None,
        moving: Sequence[int] | None = None,
    ) -> None:
        self.whole, self.rows, self.network = whole, list(rows), whole.network
        self.index = torch.tensor(self.rows, device=whole.position.device)
        self._places = _places(self.network)
        of_layers = list(self.network.units.values())
        if units is None:
            self.sizes = self.moving = tuple(of_layers)
            self.layout = whole
            self.units = [torch.arange(n, device=self.index.device).expand(len(rows), -1) for n in of_layers]
        else:
            self.sizes = tuple(which.shape[1] for which in units)
            self.moving = tuple(moving or self.sizes)
            self.layout = self._like_whole()
            self.copy_in(units)

    def first(self, active: int) -> slice | Tensor:
        """Return what picks the first `active` of its runs from a tensor of all runs."""
        return slice(active) if self.layout is self.whole else self.index[:active]

    def copy_in(self, units: Sequence[Tensor]) -> None:
        """Copy these units of the whole into this part; `units` as for the class, in the sizes that it has."""
        self.units = list(units)
        whole, here = self.whole, self.layout
        for full, part in zip(_of_runs(whole), _of_runs(here), strict=True):
            part.copy_(full[self.index])
        for full, part in zip(_of_units(whole), _of_units(here), strict=True):
            part[:, : sum(self.sizes)] = full[self.index[:, None], self._flat()]
        pairs = (
            (whole.state.parameters, here.state.parameters),
            (whole.context.gradient_mask, here.context.gradient_mask),
        )
        for of_whole, of_part in pairs:
            for name, part in of_part.items():
                for i, row in enumerate(self.rows):
                    rows, columns = self._picked(name, i)
                    value = of_whole[name][row]
                    value = value if rows is None else value.index_select(0, rows)
                    part[i].copy_(value if columns is None else value.index_select(1, columns))
        here.dropout_rng.select([None, *units])

    def copy_back(self) -> None:
        """Copy what steps changed back into the whole."""
        whole, here = self.whole, self.layout
        if here is whole:
            return
        whole.position[self.index] = here.position
        whole.state.e[self.index[:, None], self._flat()] = here.state.e[:, : sum(self.sizes)]
        for name, part in here.state.parameters.items():
            for i, row in enumerate(self.rows):
                rows, columns = self._picked(name, i)
                full, value = whole.state.parameters[name][row], part[i]
                if columns is not None:
                    value = (full if rows is None else full.index_select(0, rows)).index_copy_(1, columns, value)
                if rows is not None:
                    full.index_copy_(0, rows, value)
                elif columns is None:
                    full.copy_(value)

    def _picked(self, name: str, i: int) -> tuple[Tensor | None, Tensor | None]:
        """Return which rows and columns of a parameter of the i-th run are here; None for all."""
        rows, columns = self._places[name]
        picked: list[Tensor | None] = []
        for layer, repeats in (rows, columns):
            if layer is None or self._all_of(layer):
                picked.append(None)
            else:
                which = self.units[layer][i]
                each = torch.arange(repeats, device=which.device)
                picked.append(which if repeats == 1 else (which[:, None] * repeats + each).flatten())
        return picked[0], picked[1]

    def _all_of(self, layer: int) -> bool:
        """Whether all units of a layer are here, in their order."""
        return self.moving[layer] == list(self.network.units.values())[layer]

    def _flat(self) -> Tensor:
        """Return where its units stand among those of all layers, (runs, units)."""
        first, places = 0, []
        for which, n in zip(self.units, self.network.units.values(), strict=True):
            places.append(which + first)
            first += n
        return torch.cat(places, 1)

    def _like_whole(self) -> Layout:
        whole, runs = self.whole, len(self.rows)

        def empty(like: Tensor, *shape: int) -> Tensor:
            return torch.zeros(runs, *shape, dtype=like.dtype, device=like.device)

        def by_units(name: str, like: Tensor) -> Tensor:
            shape = list(like.shape[1:])
            for axis, (layer, repeats) in enumerate(self._places[name]):
                if layer is not None and not self._all_of(layer):
                    shape[axis] = self.sizes[layer] * repeats
            return empty(like, *shape)

        state, hyper, context = whole.state, whole.hyper, whole.context
        parameters = {name: by_units(name, p) for name, p in state.parameters.items()}
        buffers = {  # steps follow each other: all parts write into the whole's
            name: buffer.flatten()[: parameters[name].numel()].view_as(parameters[name])
            for name, buffer in state.gradient_buffers.items()
        }
        moving = {
            name: (self.moving[layer], 0 if before is None else self.moving[before] * repeats)
            for name in buffers
            for (layer, _), (before, repeats) in [self._places[name]]
            if layer is not None and self.moving[layer] < self.sizes[layer]
        }
        units = -(-sum(self.sizes) // WHOLE_VECTORS) * WHOLE_VECTORS
        e, coefficient, regularizer_gradient = (empty(like, units) for like in _of_units(whole))
        learning_rate, s_max, grad_clip, offset, position, scale, shift, *pixels = (
            empty(like, *like.shape[1:]) for like in _of_runs(whole)
        )
        gradient_mask = {name: by_units(name, like) for name, like in context.gradient_mask.items()}
        return replace(
            whole,
            state=State(parameters, e, buffers, moving),
            hyper=hyper._replace(learning_rate=learning_rate, s_max=s_max, grad_clip=grad_clip),
            context=TaskContext(coefficient, offset, regularizer_gradient, gradient_mask),
            dropout_rng=whole.dropout_rng.copy(),
            position=position,
            scale=scale,
            shift=shift,
            pixels=pixels[0] if pixels else None,
        )


def _of_runs(layout: Layout) -> list[Tensor]:
    """What has a value, or values of images, for each run."""
    hyper = layout.hyper
    found = [hyper.learning_rate, hyper.s_max, hyper.grad_clip, layout.context.offset, layout.position]
    found += [layout.scale, layout.shift]
    return found if layout.pixels is None else [*found, layout.pixels]


def _of_units(layout: Layout) -> list[Tensor]:
    """What has a value for each unit of all layers."""
    return [layout.state.e, layout.context.coefficient, layout.context.regularizer_gradient]


# layer whose units it goes along, None if none's, and how many of it belong to each unit
_Axis: TypeAlias = tuple[int | None, int]


def _places(network: HATNetwork) -> dict[str, tuple[_Axis, _Axis]]:
    """Return for each parameter of a step what its rows and its columns go along."""
    none: _Axis = (None, 1)
    places: dict[str, tuple[_Axis, _Axis]] = {}
    for k, link in enumerate(network.gated_layers):
        places[f"trunk.{link.name}.weight"] = (k, 1), (k - 1, link.inputs_per_unit) if k else none
        places[f"trunk.{link.name}.bias"] = (k, 1), none
    return {**places, "head.weight": (none, (len(network.gated_layers) - 1, 1)), "head.bias": (none, none)}


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
