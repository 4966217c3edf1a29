"""A part of a group: some of its runs on some of their units, copied out of the whole and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from hatlab.method.networks import HATNetwork
from hatlab.training.layout import WHOLE_VECTORS, Layout
from hatlab.training.step import State, TaskContext

__all__ = ["Part", "places", "repeated"]


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
        self._places = places(self.network)
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
                picked.append(repeated(self.units[layer][i], repeats))
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


def repeated(units: Tensor, repeats: int) -> Tensor:
    """Return where what belongs to these units stands, if so many belong to each, one after the other."""
    return (units[:, None] * repeats + torch.arange(repeats, device=units.device)).flatten()


def places(network: HATNetwork) -> dict[str, tuple[_Axis, _Axis]]:
    """Return for each parameter of a step what its rows and its columns go along."""
    none: _Axis = (None, 1)
    places: dict[str, tuple[_Axis, _Axis]] = {}
    for k, link in enumerate(network.gated_layers):
        places[f"trunk.{link.name}.weight"] = (k, 1), (k - 1, link.inputs_per_unit) if k else none
        places[f"trunk.{link.name}.bias"] = (k, 1), none
    return {**places, "head.weight": (none, (len(network.gated_layers) - 1, 1)), "head.bias": (none, none)}
