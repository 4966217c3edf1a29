"""What earlier tasks learnt is kept: the cumulative mask, and which weights may still move (section 2.3).

A weight from unit j to unit i belongs to earlier tasks as far as both units do: min(a_i, a_j), eq. 2. Which
units a weight joins is read off how the layers follow each other, for any chain of linear and
convolutional layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = [
    "FrozenWeightMoved", "GatedLayer", "frozen_values", "gated_layers", "gradient_mask", "update_cumulative_mask",
    "verify_frozen",
]  # fmt: skip


class FrozenWeightMoved(RuntimeError):
    """A weight that the cumulative mask protects fully has changed."""


@dataclass(frozen=True)
class GatedLayer:
    """One gated layer and the gated layer before it.

    Attributes:
        name: the layer's name.
        previous: name of the layer whose units it reads; None for the first, which reads the input.
        units: output units: rows of a linear layer, filters of a convolution.
        inputs_per_unit: weight columns that read one unit of `previous` (of the input, for the first layer): 1, or the
            positions of a filter's map where a linear layer reads a flattened convolution.
        kernel: weights per pair of output unit and column: 1, or the kernel's area.
        weights, bias: number of weights in all, and whether there is a bias.
    """

    name: str
    previous: str | None
    units: int
    inputs_per_unit: int
    kernel: int
    weights: int
    bias: bool


def gated_layers(trunk: Mapping[str, nn.Module]) -> list[GatedLayer]:
    """Return how the layers of `trunk` (name -> layer, in the order in which they follow each other) are joined.

    Raises:
        TypeError, ValueError: no layers, or one that is not linear and no convolution, that is grouped or not padded
            with zeros, or whose inputs are not a whole number per unit of the last.
    """
    if not trunk:
        raise ValueError("trunk has no layers: at least one is needed")
    chain: list[GatedLayer] = []
    for name, layer in trunk.items():
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            raise TypeError(f"layer '{name}' is a {type(layer).__name__}: only linear and convolutional ones are gated")
        for option, needed in (("groups", 1), ("padding_mode", "zeros")):
            if (given := getattr(layer, option, needed)) != needed:
                raise ValueError(f"layer '{name}' has {option} = {given!r}: allowed is {needed!r}")
        weight = layer.weight
        units, columns = weight.shape[:2]
        last = chain[-1] if chain else None
        readers = last.units if last else columns
        if columns % readers or (columns != readers and not isinstance(layer, nn.Linear)):
            raise ValueError(
                f"layer '{name}' reads {columns} inputs, which do not divide among the {readers} units before it"
            )
        previous, kernel, bias = last.name if last else None, weight[0, 0].numel(), layer.bias is not None
        chain.append(GatedLayer(name, previous, units, columns // readers, kernel, weight.numel(), bias))
    return chain


def update_cumulative_mask(cumulative: Tensor, mask: Tensor) -> Tensor:
    """Return the cumulative mask after a task (sec. 2.3): the larger of that before it (at first zeros) and its mask.

    All have (all units,); the result is not part of a graph.
    """
    return torch.maximum(cumulative, mask.detach())


def gradient_mask(trunk: Mapping[str, nn.Module], cumulative: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return, per parameter "<layer>.weight" and "<layer>.bias", the factor of its gradient: 1 - min(a_i, a_j).

    The first layer and every bias have no unit before them ("no attention over the input data"): 1 - a_i.

    `trunk` is as for `gated_layers`; `cumulative`: layer name -> (units,) mask of the tasks so far, in [0, 1]. The
    factors broadcast against their parameter; 0 means frozen.
    """
    factors: dict[str, Tensor] = {}
    for layer in gated_layers(trunk):
        post = cumulative[layer.name]
        if layer.bias:
            factors[f"{layer.name}.bias"] = 1 - post
        # a row per unit, and an axis for the columns and each axis of a kernel
        joined = post.reshape(-1, *[1] * (trunk[layer.name].weight.dim() - 1))  # type: ignore[operator]
        if layer.previous is not None:
            # a flattened map is channel-major: all positions of a filter stand side by side
            pre = cumulative[layer.previous].repeat_interleave(layer.inputs_per_unit)
            joined = torch.minimum(joined, pre.reshape(1, -1, *[1] * (joined.dim() - 2)))
        factors[f"{layer.name}.weight"] = 1 - joined
    return factors


def frozen_values(parameters: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of the values that are protected fully (factor exactly 0), per parameter, one-dimensional."""
    return {
        name: parameters[name][(factor == 0).expand_as(parameters[name])].detach().clone()
        for name, factor in factors.items()
    }


def verify_frozen(parameters: Mapping[str, Tensor], factors: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> int:
    """Compare the fully protected values bit by bit with those `before`, and return how many there are.

    Raises:
        FrozenWeightMoved: naming the parameter and how many of its protected values changed.
    """
    for name, now in frozen_values(parameters, factors).items():
        changed = now.view(torch.uint8) != before[name].view(torch.uint8) if now.numel() else now
        if bool(changed.any()):
            moved = int(changed.reshape(now.numel(), -1).any(1).sum())
            raise FrozenWeightMoved(
                f"{moved} of {now.numel()} fully protected values of '{name}' changed. Likely causes: an optimiser "
                "with weight decay, or with momentum from an earlier task, moves a weight whose gradient is 0; or "
                "protect_gradients_ was not called between loss.backward() and the optimiser's step"
            )
    return sum(values.numel() for values in before.values())
