"""The gated networks: `HATMLP` and `HATCNN`, and the chain of layers that both are.

A network has three named parts: `trunk` (the gated layers, in order), `gates` (an embedding per task, with a value for
each unit of the trunk) and `heads` (a linear layer per task).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatlab.method.gate import gate
from hatlab.method.protection import gated_layers, gradient_mask

__all__ = ["HATCNN", "HATMLP", "HATNetwork"]


class HATNetwork(nn.Module):
    """A chain of linear and convolutional layers whose units are gated per task (section 2 of the paper).

    Each trunk layer is followed by ReLU, dropout, 2x2 max pooling if it is a convolution, and its mask, as in the
    authors' code. Maps are flattened, channel-major, in front of the first linear layer.

    Args:
        trunk: layer name -> nn.Linear or nn.Conv2d, in the order in which they follow each other.
        input_shape: (C, H, W) of one image.
        classes: number of classes of each task.
        dropout, input_dropout: probability behind each trunk layer, in order, and on the input.
        embedding_init: "normal", e ~ N(0, 1), or "uniform", e ~ U(0, 2).
        gated: False makes it the plain network: every mask is 1.
        pool: False leaves out the pooling.

    Raises:
        TypeError: a layer that is neither linear nor a convolution.
        ValueError: the layers do not fit each other or the input.

    Attributes:
        gated_layers: how the trunk's layers are joined, see `protection.gated_layers`.
        dropout, dropout_shapes: probability of each dropout, the input's first, and the shape, without the batch, of
            what it acts on.
        units: layer name -> number of gated units, in order.
        gates: (tasks, all units) embeddings e, layer after layer.
    """

    def __init__(
        self,
        trunk: Mapping[str, nn.Linear | nn.Conv2d],
        input_shape: Sequence[int],
        classes: Sequence[int],
        dropout: Sequence[float],
        input_dropout: float = 0.0,
        embedding_init: str = "normal",
        gated: bool = True,
        pool: bool = True,
    ) -> None:
        super().__init__()
        self.gated_layers = gated_layers(trunk)
        if len(dropout) != len(trunk):
            raise ValueError(f"dropout has {len(dropout)} values for {len(trunk)} trunk layers: one each is needed")
        self.input_shape = tuple(input_shape)
        self.gated, self.pool = gated, pool
        self.trunk = nn.ModuleDict(trunk)
        self.units = {name: layer.weight.shape[0] for name, layer in trunk.items()}
        if embedding_init not in ("normal", "uniform"):
            raise ValueError(f"embedding_init = {embedding_init!r}: allowed are 'normal' and 'uniform'")
        e = torch.empty(len(classes), sum(self.units.values()))
        if not e.is_meta:  # where there are no values to draw, torch would import its compiler to draw none
            e.normal_() if embedding_init == "normal" else e.uniform_(0, 2)
        self.gates = nn.Parameter(e)
        self.heads = nn.ModuleList(nn.Linear(list(self.units.values())[-1], n) for n in classes)
        self.dropout = (input_dropout, *dropout)
        self.dropout_shapes = _dropout_shapes(trunk, self.input_shape, pool)
        if len(self.dropout_shapes[-1]) != 1:
            raise ValueError(
                f"the last trunk layer, '{list(trunk)[-1]}', is a convolution: the heads read a linear layer"
            )

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut values of all units, (..., all units), into layer name -> (..., units); ValueError for another number."""
        if vector.shape[-1] != self.gates.shape[1]:
            raise ValueError(f"shape {tuple(vector.shape)}: the last axis must have all {self.gates.shape[1]} units")
        return dict(zip(self.units, torch.split(vector, list(self.units.values()), -1), strict=True))

    def mask(self, task: int, s: float | Tensor) -> Tensor:
        """Return the mask of `task` at slope `s`, (all units,), of all layers; of the type of the weights."""
        mask = gate(self.gates[task], s) if self.gated else torch.ones_like(self.gates[task])
        return mask.to(self.get_parameter("heads.0.weight").dtype)

    def gradient_mask(self, cumulative: Tensor) -> dict[str, Tensor]:
        """Return trunk parameter's name -> factor of its gradient (`protection.gradient_mask`), for (all units,)."""
        factors = gradient_mask(dict(self.trunk.items()), self.split(cumulative))
        return {f"trunk.{name}": factor for name, factor in factors.items()}

    def forward(
        self, x: Tensor, task: int, mask: Tensor, dropout_masks: Sequence[Tensor | None] | None = None
    ) -> Tensor:
        """Return the logits of `task`'s head.

        `x`: (batch, C, H, W), normalised. `mask`: (all units,), e.g. `self.mask(task, s_max)`. `dropout_masks`: one
        (batch, ...) or None for each of `dropout`; without them torch's own dropout, in training mode only. The result
        is (batch, classes of the task).
        """
        logits: Tensor = self.heads[task](self.features(x, mask, dropout_masks))
        return logits

    def features(self, x: Tensor, mask: Tensor, dropout_masks: Sequence[Tensor | None] | None = None) -> Tensor:
        """Return what the heads read, (batch, units of the last layer); arguments as for `forward`."""
        factors = iter(dropout_masks) if dropout_masks is not None else None

        def drop(h: Tensor, p: float) -> Tensor:
            if factors is None:
                return F.dropout(h, p, self.training)
            factor = next(factors)
            return h if factor is None else h * factor

        if dropout_masks is not None and len(dropout_masks) != len(self.dropout):
            raise ValueError(
                f"dropout_masks has {len(dropout_masks)} factors for {len(self.dropout)} dropouts: one each is needed"
            )
        masks = self.split(mask)
        h = drop(x, self.dropout[0])
        for (name, layer), p in zip(self.trunk.items(), self.dropout[1:], strict=True):
            if isinstance(layer, nn.Linear):
                h = drop(F.relu(layer(h.flatten(1))), p) * masks[name]
            else:
                h = drop(F.relu(layer(h)), p)
                h = (F.max_pool2d(h, 2) if self.pool else h) * masks[name].reshape(-1, 1, 1)
        return h


def _dropout_shapes(
    trunk: Mapping[str, nn.Linear | nn.Conv2d], input_shape: tuple[int, ...], pool: bool
) -> list[tuple[int, ...]]:
    """Shapes, without the batch, of what dropout acts on; says which layer does not fit if one does not.

    They are computed, not tried out: without values torch would import its compiler for that.
    """
    shapes: list[tuple[int, ...]] = [input_shape]
    h = input_shape
    for name, layer in trunk.items():
        linear = isinstance(layer, nn.Linear)
        h = (math.prod(h),) if linear else h
        reads = layer.weight.shape[1]
        if len(h) != layer.weight.dim() - 1 or h[0] != reads:
            raise ValueError(
                f"layer '{name}' ({layer}) does not fit what comes before it: it reads {reads} "
                f"{'inputs' if linear else 'channels of maps'}, and is given {' x '.join(map(str, h))}"
            )
        h = (layer.weight.shape[0], *([] if isinstance(layer, nn.Linear) else _sides(layer, h[1:])))
        shapes.append(h)
        h = (h[0], *(side // 2 for side in h[1:])) if pool and not linear else h
        if min(h) < 1:
            raise ValueError(
                f"layer '{name}' ({layer}) does not fit what comes before it: its maps of "
                f"{' x '.join(map(str, shapes[-1][1:]))} leave nothing after pooling"
            )
    return shapes


def _sides(layer: nn.Conv2d, sides: Sequence[int]) -> list[int]:
    """Height and width of a convolution's maps, given those that it reads."""
    if layer.padding == "same":
        return list(sides)
    padding = (0, 0) if isinstance(layer.padding, str) else layer.padding
    each = zip(sides, padding, layer.dilation, layer.kernel_size, layer.stride, strict=True)
    return [max(0, (side + 2 * pad - wide * (kernel - 1) - 1) // by + 1) for side, pad, wide, kernel, by in each]


class HATMLP(HATNetwork):
    """Multi-layer perceptron fc1 ... fcN; the authors' for MNIST is 2 layers of 2000 units.

    `widths`: units of each hidden layer. `dropout`: on the input, and behind each hidden layer. The rest is as for
    `HATNetwork`.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: Sequence[int],
        widths: Sequence[int] = (2000, 2000),
        dropout: tuple[float, float] = (0.2, 0.5),
        embedding_init: str = "normal",
        gated: bool = True,
    ) -> None:
        sizes = [math.prod(input_shape), *widths]
        trunk = {f"fc{i}": nn.Linear(sizes[i - 1], sizes[i]) for i in range(1, len(sizes))}
        super().__init__(trunk, input_shape, classes, [dropout[1]] * len(widths), dropout[0], embedding_init, gated)


class HATCNN(HATNetwork):
    """The authors' AlexNet-like network: convolutions of 64, 128 and 256 filters, two linear layers of 2048 units.

    The kernels follow the image's side: side // 8, side // 10 and 2, without padding; 4, 3 and 2 for 32 x 32.
    `dropout`: behind the first two layers, and behind the other three. The rest is as for `HATNetwork`.

    Raises:
        ValueError: images that are not square or smaller than 28 x 28.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: Sequence[int],
        dropout: tuple[float, float] = (0.2, 0.5),
        embedding_init: str = "normal",
        gated: bool = True,
    ) -> None:
        channels, height, width = input_shape
        if height != width or height < 28:
            raise ValueError(
                f"HATCNN was given images of {height} x {width}: they must be square and at least 28 x 28, because its "
                "kernels and poolings are made for 32 x 32. Pad the images"
            )
        low, high = dropout
        filters = (channels, 64, 128, 256)
        side, trunk = height, {}
        for i, kernel in enumerate((height // 8, height // 10, 2), start=1):
            trunk[f"c{i}"] = nn.Conv2d(filters[i - 1], filters[i], kernel)
            side = (side - kernel + 1) // 2
        layers: dict[str, nn.Linear | nn.Conv2d] = {
            **trunk,
            "fc1": nn.Linear(256 * side * side, 2048),
            "fc2": nn.Linear(2048, 2048),
        }
        super().__init__(layers, input_shape, classes, [low, low, high, high, high], 0.0, embedding_init, gated)
