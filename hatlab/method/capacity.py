"""Capacity usage, counted from masks (section 4.4 of the paper, Fig. 5).

With A = max(cumulative mask of the tasks before, mask of the current task), a weight from unit j to unit i is
used when min(A_i, A_j) > 0.5; a weight of the first layer when A_i > 0.5. Heads and biases are left out.
Both units of a used weight are above the threshold, so weights are counted as products of unit counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hatlab.method.protection import GatedLayer

__all__ = ["COLUMNS", "adahat_capacity", "capacity_rows", "weights_used"]

COLUMNS = (
    "layer", "units", "units_used", "weights", "weights_used", "weights_new", "weights_reused", "adahat_capacity",
)  # fmt: skip

Masks = Mapping[str, np.ndarray]


def _count(chain: Sequence[GatedLayer], used: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Weights of each layer between used units; `used`: layer name -> (units,) bool."""
    counts = {}
    for layer in chain:
        columns = layer.weights // (layer.units * layer.kernel)
        if layer.previous is not None:
            columns = int(used[layer.previous].sum()) * layer.inputs_per_unit
        counts[layer.name] = int(used[layer.name].sum()) * columns * layer.kernel
    return counts


def weights_used(chain: Sequence[GatedLayer], mask: Masks, threshold: float = 0.5) -> int:
    """Return how many trunk weights `mask` (layer name -> (units,)) uses."""
    return sum(_count(chain, {name: m > threshold for name, m in mask.items()}).values())


def adahat_capacity(chain: Sequence[GatedLayer], cumulative: Masks) -> dict[str, float]:
    """Return AdaHAT's "network capacity": the mean of 1 - min(a_i, a_j) over weights and biases, what remains.

    `cumulative`: layer name -> (units,), the mask of the tasks before. Returned per layer, and as "total".
    """
    remaining, sizes = {}, {}
    for layer in chain:
        post = cumulative[layer.name].astype(np.float64)
        taken = post.sum() * (layer.weights / layer.units)
        if layer.previous is not None:
            pre = cumulative[layer.previous].astype(np.float64)
            taken = np.minimum.outer(post, pre).sum() * layer.inputs_per_unit * layer.kernel
        sizes[layer.name] = layer.weights + layer.bias * layer.units
        remaining[layer.name] = sizes[layer.name] - taken - layer.bias * post.sum()
    total = sum(remaining.values()) / sum(sizes.values())
    return {**{name: float(remaining[name] / sizes[name]) for name in sizes}, "total": float(total)}


def capacity_rows(
    chain: Sequence[GatedLayer], cumulative: Masks, mask: Masks, adahat: Mapping[str, float], threshold: float = 0.5
) -> list[tuple[str | int | float, ...]]:
    """Return one row of `COLUMNS` per layer, then one for "total".

    `cumulative`: layer name -> (units,), the mask of the tasks before; `mask`: that of the current task at s_max;
    `adahat`: `adahat_capacity(chain, cumulative)`, which is constant during a task. A unit above `threshold` is used.
    `weights_used` is what max(cumulative, mask) uses; `weights_new` the part of it that `cumulative` alone does not;
    `weights_reused` what both the cumulative mask and the current task's own mask use.
    """
    before = {name: m > threshold for name, m in cumulative.items()}
    own = {name: m > threshold for name, m in mask.items()}
    now = {name: before[name] | own[name] for name in before}
    used, old = _count(chain, now), _count(chain, before)
    both = _count(chain, {name: before[name] & own[name] for name in before})
    rows: list[tuple[str | int | float, ...]] = []
    for layer in chain:
        n = layer.name
        rows.append((n, layer.units, int(now[n].sum()), layer.weights, used[n], used[n] - old[n], both[n], adahat[n]))
    sums = [sum(int(row[k]) for row in rows) for k in range(1, 7)]
    return [*rows, ("total", *sums, adahat["total"])]
