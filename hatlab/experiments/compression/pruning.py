"""Compression: what is left of a network when the mask of its task is cut out (Fig. 7).

A unit whose mask is 0 hands on nothing, whatever it computes. So it can go, with the weights into it and out of it, and
what remains is a smaller network of ordinary layers. The mask acts behind ReLU and pooling on whole units, so a value
between 0 and 1 goes into the weights that read the unit: W (a h) = (W a) h.

Two thresholds are at work. A weight counts as used, here as everywhere, when both its units have masks above 0.5. The
masks below are not all 0, though, and to drop such a unit changes what the network says. `compress` therefore drops
only what a float32 sum does not notice, see `NEGLIGIBLE`; `fidelity` measures what either threshold changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from hatlab.analysis.masks import load_network
from hatlab.data.loading import Images, Split, TaskData
from hatlab.data.tasks import make_sequence
from hatlab.method.networks import HATNetwork
from hatlab.training.runs import Run

__all__ = ["NEGLIGIBLE", "Fidelity", "NothingLeft", "compress", "compressed", "fidelity", "statement"]

# Half a unit in the last place of 1 in float32 is 6e-8: with a mask below this a unit is lost in the rounding of what
# the open units next to it hand on.
NEGLIGIBLE: Final = 1e-8


class NothingLeft(ValueError):
    """A layer of which a task uses no unit, so that what the network says does not depend on the image."""


@torch.no_grad()
def compress(network: HATNetwork, task: int, s_max: float, threshold: float = NEGLIGIBLE) -> nn.Sequential:
    """Return the part of `network` that `task` uses, as ordinary layers without masks, gates or dropout.

    It maps images (batch, C, H, W) to logits (batch, classes of the task), equal to those of `network` in evaluation
    mode with the mask of `task` at `s_max`: up to the rounding of float32 with the default threshold, and to a
    difference that `fidelity` measures with a higher one. Its trunk has `capacity.weights_used(..., threshold)`
    weights. The parameters are copies, on the device of `network`.

    Args:
        network: trained.
        task: whose mask and head.
        s_max: slope of the gate.
        threshold: units whose mask is at most this are left out.

    Raises:
        NothingLeft: a layer would have no units.
    """
    masks = network.split(network.mask(task, s_max))
    kept = {name: torch.nonzero(mask > threshold).flatten() for name, mask in masks.items()}
    for name, units in kept.items():
        if not len(units):
            raise NothingLeft(
                f"layer '{name}' has no unit whose mask of task {task + 1} is above {threshold:g}: what the network "
                "says would not depend on the image. A smaller c, or a smaller threshold, leaves some"
            )
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for link in network.gated_layers:
        layer = network.trunk[link.name]
        columns: Tensor | slice = slice(None)
        factor: Tensor | None = None
        if link.previous is not None:
            # a flattened map is channel-major: all positions of a filter stand side by side
            columns = _positions(kept[link.previous], link.inputs_per_unit)
            factor = masks[link.previous][kept[link.previous]].repeat_interleave(link.inputs_per_unit)
        if isinstance(layer, nn.Linear):
            modules.setdefault("flatten", nn.Flatten())
        modules[link.name] = _cut(layer, kept[link.name], columns, factor)
        modules[f"{link.name}_relu"] = nn.ReLU()
        if network.pool and not isinstance(layer, nn.Linear):
            modules[f"{link.name}_pool"] = nn.MaxPool2d(2)
    last = network.gated_layers[-1].name
    modules["head"] = _cut(network.heads[task], slice(None), kept[last], masks[last][kept[last]])
    return nn.Sequential(modules).eval()


def _positions(units: Tensor, inputs_per_unit: int) -> Tensor:
    return (units[:, None] * inputs_per_unit + torch.arange(inputs_per_unit, device=units.device)).flatten()


def _cut(layer: nn.Module, rows: Tensor | slice, columns: Tensor | slice, factor: Tensor | None) -> nn.Module:
    """The part of a layer with the given rows (units) and columns, the columns multiplied by `factor`."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight = layer.weight[rows][:, columns]
    if factor is not None:
        weight = weight * factor.reshape(1, -1, *[1] * (weight.dim() - 2)).to(weight.dtype)
    units, inputs = weight.shape[:2]
    # on "meta" nothing is drawn for values that are replaced at once
    part: nn.Linear | nn.Conv2d = (
        nn.Linear(inputs, units, device="meta")
        if isinstance(layer, nn.Linear)
        else nn.Conv2d(
            inputs,
            units,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            device="meta",
        )
    )
    part.weight = nn.Parameter(weight.clone())
    part.bias = nn.Parameter(layer.bias[rows].clone()) if layer.bias is not None else None
    return part


class Fidelity(NamedTuple):
    """How near a compressed network comes to the masked one, over some images.

    Attributes:
        images: how many.
        largest_logit: largest absolute value among the masked network's logits.
        largest_difference: largest absolute difference of a logit.
        same_predictions: how many images get the same class from both.
        accuracy: of the compressed network, in [0, 1].
    """

    images: int
    largest_logit: float
    largest_difference: float
    same_predictions: int
    accuracy: float


@torch.no_grad()
def fidelity(
    network: HATNetwork, small: nn.Module, task: int, s_max: float, data: Split, batch_size: int = 1024
) -> Fidelity:
    """Hold `small` against `network` with the mask of `task` at `s_max`, over `data`, which is on their device."""
    network.eval()
    mask = network.mask(task, s_max)
    logit, difference, same, correct = 0.0, 0.0, 0, 0
    for rows in torch.split(torch.arange(len(data), device=mask.device), batch_size):
        x, y = data.batch(rows)
        masked, ours = network(x, task, mask), small(x)
        logit = max(logit, float(masked.abs().max()))
        difference = max(difference, float((masked - ours).abs().max()))
        same += int((masked.argmax(1) == ours.argmax(1)).sum())
        correct += int((ours.argmax(1) == y).sum())
    return Fidelity(len(data), logit, difference, same, correct / len(data))


def compressed(runs: Sequence[Run], thresholds: Sequence[float] = (NEGLIGIBLE, 0.5)) -> pd.DataFrame:
    """Cut the networks of `runs` at each threshold, and measure the smaller ones on the test images of the first task.

    Columns: `run`, `c`, `seed`, `threshold`; `units`: left in each layer, as "23-15"; `weights` of the trunk and their
    `share` in %; `parameters`: with biases and head; then the fields of `Fidelity`. NaN from `parameters` on, and no
    weights, where a layer has no unit left.

    Raises:
        RecordError: a run without its checkpoint.
        DatasetError: images that cannot be loaded.
    """
    rows = []
    for run in runs:
        sequence = make_sequence(run.config)
        network = load_network(run, sequence)
        data = TaskData.of(sequence, Images.of(sequence.datasets, torch.device("cpu")))[0].test
        full = sum(link.weights for link in network.gated_layers)
        for threshold in thresholds:
            row: dict[str, Any] = {
                "run": run.run_id,
                "c": run.config.c,
                "seed": run.config.seed,
                "threshold": threshold,
            }
            try:
                small = compress(network, 0, run.config.s_max, threshold)
            except NothingLeft:
                rows.append({**row, "units": "", "weights": 0, "share": 0.0})
                continue
            trunk = [getattr(small, link.name).weight for link in network.gated_layers]
            weights = sum(weight.numel() for weight in trunk)
            row |= {"units": "-".join(str(len(weight)) for weight in trunk), "weights": weights}
            row |= {"share": 100 * weights / full, "parameters": sum(p.numel() for p in small.parameters())}
            rows.append({**row, **fidelity(network, small, 0, run.config.s_max, data)._asdict()})
    columns = ["run", "c", "seed", "threshold", "units", "weights", "share", "parameters", *Fidelity._fields]
    return pd.DataFrame(rows, columns=columns)


def statement(table: pd.DataFrame) -> str:
    """Say in words what `compressed` found: one sentence for each threshold."""
    lines = []
    for threshold, same in table.groupby("threshold"):
        cut = same.dropna(subset=["images"]).nlargest(len(same), "largest_difference")
        if cut.empty:
            lines.append(
                f"Units with masks above {threshold:g}: each network has a layer without any (n = {len(same)})."
            )
            continue
        worst, sums = cut.iloc[0], cut[["same_predictions", "images"]].sum().astype(int)
        lines.append(
            f"Units with masks above {threshold:g}: {same['share'].mean():.3g}% of the trunk's weights (mean, "
            f"n = {len(same)}); no logit differs by more than {worst['largest_difference']:.2g}, where they reach "
            f"{worst['largest_logit']:.2g}; {sums['same_predictions']} of {sums['images']} predictions are the same."
        )
    return "\n".join(lines)
