"""One step of HAT for R runs side by side: everything has a leading replica axis, and one run is R = 1.

The step never looks at a value and draws nothing, so it can be captured once and replayed. Its order is that of the
authors' code: forward, loss, backward, gradient masks, compensation, clipping, SGD, clamp. `forward` computes what
`HATNetwork.forward` computes, R times at once; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatlab.method.gate import compensated_gradient, gate
from hatlab.method.networks import HATNetwork

__all__ = ["Batch", "Hyper", "State", "TaskContext", "aligned", "forward", "step"]

ALIGNED: Final = 4  # numbers of float32
MAPS = torch.channels_last  # how maps lie in a CPU's memory: pooling takes a tenth of the time that it takes otherwise


def aligned(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape in which a parameter of this shape is held: a linear layer's weight has rows of whole 16 bytes.

    A CPU's products round otherwise where rows are not aligned, and then a run's bits depend on its place among others.
    """
    return (shape[0], -(-shape[1] // ALIGNED) * ALIGNED) if len(shape) == 2 else tuple(shape)


class State(NamedTuple):
    """What a step changes.

    Attributes:
        parameters: the trunk's by their name in the network, "head.weight" and "head.bias": (R, ...). A linear
            layer's weight may have more columns than the layer has inputs, see `aligned`: they are 0 and stay so.
        e: (R, units), the embedding of the task that each run is at. Here and below units are those of all layers, and
            may be more: what follows them is padding, and stays 0.
        gradient_buffers: name of a linear layer's weight -> tensor of its shape into which its gradient is written. A
            weight without one gets new memory at every step, which is slow on a CPU if the tensor is large.
        moving: name of a weight of one run that has a buffer -> (rows, columns). Behind its first rows, only its first
            columns move: the rest is frozen or closed, and its gradient is not computed.
    """

    parameters: dict[str, Tensor]
    e: Tensor
    gradient_buffers: Mapping[str, Tensor] = MappingProxyType({})
    moving: Mapping[str, tuple[int, int]] = MappingProxyType({})


class Batch(NamedTuple):
    """What a step is given.

    Attributes:
        x, y: images (R, n, C, H, W) and labels (R, n).
        weight: (R, n), what each image counts: 1 / (images of the run's batch), 0 for a row that is only padding.
            A run whose first row counts nothing is left as it is.
        dropout_masks: dropout's factors (R, n, ...), or None where there are none.
        s: (R, 1) float64, the gate's slope.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    dropout_masks: Sequence[Tensor | None]
    s: Tensor


class Hyper(NamedTuple):
    """Parameters of the runs under their names in `RunConfig`: (R,), `s_max` as float64, and one for all from
    `embedding_clamp` on.
    """

    learning_rate: Tensor
    s_max: Tensor
    grad_clip: Tensor
    embedding_clamp: float
    cosh_clamp: float
    compensation: str


class TaskContext(NamedTuple):
    """What a run's earlier tasks determine about its current one; constant during a task.

    Attributes:
        coefficient, offset: (R, units) and (R,): the regularizer is offset + sum of coefficient times mask, see
            `regularizer.affine`.
        regularizer_gradient: (R, units), the gradient of c times the regularizer by the mask.
        gradient_mask: parameter name -> (R, ...), what its gradient is multiplied by; empty if all runs are in their
            first task.
        anchor, stiffness: parameter name -> (R, ...): EWC pulls it towards `anchor` with half of `stiffness` times the
            squared distance; no entries without EWC.
    """

    coefficient: Tensor
    offset: Tensor
    regularizer_gradient: Tensor
    gradient_mask: Mapping[str, Tensor]
    anchor: Mapping[str, Tensor] = MappingProxyType({})
    stiffness: Mapping[str, Tensor] = MappingProxyType({})


def _times(h: Tensor, factor: Tensor | None) -> Tensor:
    return h if factor is None else h * factor


def _one_by_one(h: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
    """(R, n, in, H, W) -> (R, n, out, H', W'), each run with its own filters."""
    x = h.flatten(0, 1).contiguous(memory_format=MAPS).reshape(h.shape)
    maps = [
        F.conv2d(x[i], weight[i], None if bias is None else bias[i], layer.stride, layer.padding, layer.dilation)
        for i in range(len(h))
    ]
    return (maps[0] if len(maps) == 1 else torch.cat(maps)).reshape(*h.shape[:2], *maps[0].shape[1:])


def _in_groups(h: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
    """The same as one convolution in R groups: many small kernels are what a GPU is slow with."""
    runs, n = h.shape[:2]
    joined, flat = h.transpose(0, 1).flatten(1, 2), None if bias is None else bias.flatten()
    maps = F.conv2d(joined, weight.flatten(0, 1), flat, layer.stride, layer.padding, layer.dilation, runs)
    return maps.reshape(n, runs, -1, *maps.shape[2:]).transpose(0, 1)


class _Linear(torch.autograd.Function):
    """(R, n, in) -> (R, n, out), each run with its own weights: the products that nn.Linear makes, batched.

    Autograd would return the gradient of a batched weight as a transposed view. Everything that reads it would then
    read memory column by column, which takes several times as long.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        buffer: Tensor | None,
        moving: tuple[int, int] | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.buffer, ctx.moving = buffer, moving
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x = torch.bmm(gradient, weight) if ctx.needs_input_grad[0] else None
        of_bias = gradient.sum(1) if ctx.needs_input_grad[2] else None
        if ctx.moving is None:
            return of_x, torch.bmm(gradient.mT, x, out=ctx.buffer), of_bias, None, None
        rows, columns = ctx.moving
        upper, lower = _in_buffer(ctx.buffer, ctx.moving)
        torch.bmm(gradient[..., :rows].mT, x, out=upper)
        if columns:
            torch.bmm(gradient[..., rows:].mT, x[..., :columns], out=lower)
        return of_x, weight.new_zeros(()).expand_as(weight), of_bias, None, None  # the gradient is in the buffer


def _moving(value: Tensor, moving: tuple[int, int]) -> list[Tensor]:
    """Cut a weight (1, out, in), or the factors of its gradient, into the two parts that move, see `State.moving`."""
    rows, columns = moving
    return [value[:, :rows], value[:, rows:, :columns]]


def _in_buffer(buffer: Tensor, moving: tuple[int, int]) -> list[Tensor]:
    """Return where in its buffer the gradient of the two parts is, each in one piece of memory."""
    (rows, columns), (_, out, inputs) = moving, buffer.shape
    upper, lower = torch.split(
        buffer.flatten()[: rows * inputs + (out - rows) * columns], [rows * inputs, (out - rows) * columns]
    )
    return [upper.view(1, rows, inputs), lower.view(1, out - rows, columns)]


def _linear(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    buffer: Tensor | None = None,
    moving: tuple[int, int] | None = None,
) -> Tensor:
    padding = weight.shape[2] - h.shape[2]
    out: Tensor = _Linear.apply(F.pad(h, (0, padding)) if padding else h, weight, bias, buffer, moving)
    return out


def forward(
    network: HATNetwork,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    mask: Tensor,
    dropout_masks: Sequence[Tensor | None],
    gradient_buffers: Mapping[str, Tensor] = MappingProxyType({}),
    moving: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> Tensor:
    """Return the logits of R runs, (R, n, classes).

    Args:
        network: gives the layers; its own parameters are not read.
        parameters, x, dropout_masks, gradient_buffers, moving: as in `State` and `Batch`.
        mask: (R, units). Where `parameters` hold a part of each layer's units only, it has those.
    """
    sizes = [parameters[f"trunk.{name}.weight"].shape[1] for name in network.trunk]
    masks = dict(zip(network.trunk, torch.split(mask[:, : sum(sizes)], sizes, 1), strict=True))
    h = _times(x, dropout_masks[0])
    for (name, layer), factor in zip(network.trunk.items(), dropout_masks[1:], strict=True):
        of_weight, of_bias = f"trunk.{name}.weight", f"trunk.{name}.bias"
        weight, bias = parameters[of_weight], parameters.get(of_bias)
        if isinstance(layer, nn.Linear):
            buffer = gradient_buffers.get(of_weight)
            h = F.relu(_linear(h.flatten(2), weight, bias, buffer, moving.get(of_weight)))
            h = _times(h, factor) * masks[name][:, None]
        else:
            assert isinstance(layer, nn.Conv2d)
            # one convolution keeps a CPU busy, and groups are slow there
            convolve = _one_by_one if h.device.type == "cpu" or len(h) == 1 else _in_groups
            h = _times(convolve(h, weight, bias, layer), factor)
            if network.pool:
                pooled = F.max_pool2d(h.flatten(0, 1), 2)
                h = pooled.reshape(*h.shape[:2], *pooled.shape[1:])
            h = F.relu(h) * masks[name][:, None, :, None, None]  # of a quarter of the numbers, and the same
    return _linear(h, parameters["head.weight"], parameters["head.bias"])


def step(network: HATNetwork, state: State, hyper: Hyper, context: TaskContext, batch: Batch) -> Tensor:
    """Take one step of SGD on CE + c R in each run, in place in `state`; without gates on CE and EWC's penalty.

    Returns:
        (R, 2): cross-entropy and R before the step.
    """
    with torch.enable_grad():
        parameters = {name: p.detach().requires_grad_() for name, p in state.parameters.items()}
        # the gates may be more precise than what they gate
        mask = gate(state.e, batch.s) if network.gated else torch.ones_like(state.e)
        seen = mask.to(batch.x.dtype).requires_grad_()
        logits = forward(network, parameters, batch.x, seen, batch.dropout_masks, state.gradient_buffers, state.moving)
        of_each = F.cross_entropy(logits.flatten(0, 1), batch.y.flatten(), reduction="none")
        cross_entropy = (of_each.reshape(batch.y.shape) * batch.weight).sum(1)
        # no run's loss depends on another's parameters: the gradient of the sum holds the gradient of each
        *gradients, of_mask = torch.autograd.grad(cross_entropy.sum(), [*parameters.values(), seen])
    with torch.no_grad():
        of_mask = of_mask.to(mask.dtype).add_(context.regularizer_gradient)
        r = context.offset + (context.coefficient * mask).sum(1)
        norms = []
        if network.gated:
            of_e = compensated_gradient(
                of_mask, mask, state.e, batch.s, hyper.s_max[:, None], hyper.compensation, hyper.cosh_clamp
            )
            norms.append(torch.linalg.vector_norm(of_e, dim=1).to(cross_entropy.dtype))
        moves: list[tuple[Tensor, Tensor]] = []
        for name, gradient in zip(parameters, gradients, strict=True):
            value, factor, moving = state.parameters[name], context.gradient_mask.get(name), state.moving.get(name)
            if name in context.anchor:
                gradient.addcmul_(context.stiffness[name], value - context.anchor[name])
            if moving is None:
                parts = [(value, gradient, factor)]
            else:
                factors = [None, None] if factor is None else _moving(factor, moving)
                of_buffer = _in_buffer(state.gradient_buffers[name], moving)
                parts = list(zip(_moving(value, moving), of_buffer, factors, strict=True))
            for p, of_p, factor in parts:
                if factor is not None:
                    of_p.mul_(factor)
                norms.append(torch.linalg.vector_norm(of_p.flatten(1), dim=1))  # while it is in the cache
                moves.append((p, of_p))
        norm = torch.linalg.vector_norm(torch.stack(norms, 1), dim=1)
        # a gradient of 0 moves nothing, but an idle run has the regularizer's
        trains = batch.weight[:, 0] > 0
        rate = hyper.learning_rate * trains * torch.clamp(hyper.grad_clip / (norm + 1e-6), max=1)
        for p, gradient in moves:
            p.addcmul_(gradient, rate.reshape(-1, *[1] * (p.dim() - 1)), value=-1)
        if network.gated:
            # rounded once, as SGD does: near the edge of a mask one ulp decides over a whole quantum of its gradient
            state.e.addcmul_(of_e, rate[:, None].to(of_e.dtype), value=-1)
            state.e.clamp_(-hyper.embedding_clamp, hyper.embedding_clamp)
    return torch.stack((cross_entropy.detach(), r.to(cross_entropy.dtype)), 1)
