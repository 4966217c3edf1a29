"""Capacity usage, counted from masks (section 4.4 of the paper, Fig. 5).

With A = max(cumulative mask of the tasks before, mask of the current task), a weight from unit j to unit i is
used when min(A_i, A_j) > 0.5; a weight of the first layer when A_i > 0.5. Heads and biases are left out.
Both units of a used weight are above the threshold, so weights are counted as products of unit counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hatlab.method.protection import GatedLayer

__all__ = ["COLUMNS", "adahat_capacity", "capacity_rows", "weight_usage", "weights_used"]

COLUMNS = (
    "layer",
    "units",
    "units_used",
    "weights",
    "weights_used",
    "weights_new",
    "weights_reused",
    "adahat_capacity",
)

Masks = Mapping[str, np.ndarray]


def _count(chain: Sequence[GatedLayer], used: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Weights of each layer between used units; `used`: layer name -> (units,) bool."""
    counts = {}
    for link in chain:
        columns = link.weights // (link.units * link.kernel)
        if link.previous is not None:
            columns = int(used[link.previous].sum()) * link.inputs_per_unit
        counts[link.name] = int(used[link.name].sum()) * columns * link.kernel
    return counts


def weights_used(chain: Sequence[GatedLayer], mask: Masks, threshold: float = 0.5) -> int:
    """Return how many trunk weights `mask` (layer name -> (units,)) uses."""
    return sum(_count(chain, {name: m > threshold for name, m in mask.items()}).values())


def weight_usage(chain: Sequence[GatedLayer], mask: Masks, threshold: float = 0.5) -> float:
    """Return the share of all trunk weights that `mask` (layer name -> (units,)) uses, in [0, 1]."""
    return weights_used(chain, mask, threshold) / sum(link.weights for link in chain)


def adahat_capacity(chain: Sequence[GatedLayer], cumulative: Masks) -> dict[str, float]:
    """Return AdaHAT's "network capacity": the mean of 1 - min(a_i, a_j) over weights and biases, what remains.

    `cumulative`: layer name -> (units,), the mask of the tasks before. Returned per layer, and as "total".
    """
    remaining, sizes = {}, {}
    for link in chain:
        post = cumulative[link.name].astype(np.float64)
        taken = post.sum() * (link.weights / link.units)
        if link.previous is not None:
            pre = cumulative[link.previous].astype(np.float64)
            taken = np.minimum.outer(post, pre).sum() * link.inputs_per_unit * link.kernel
        sizes[link.name] = link.weights + link.bias * link.units
        remaining[link.name] = sizes[link.name] - taken - link.bias * post.sum()
    total = sum(remaining.values()) / sum(sizes.values())
    return {**{name: float(remaining[name] / sizes[name]) for name in sizes}, "total": float(total)}


def capacity_rows(
    chain: Sequence[GatedLayer], cumulative: Masks, mask: Masks, adahat: Mapping[str, float], threshold: float = 0.5
) -> list[tuple[str | int | float, ...]]:
    """Return one row of `COLUMNS` per layer, then one for "total".

    Args:
        chain: how the trunk's layers are joined.
        cumulative: layer name -> (units,), the mask of the tasks before; zeros in the first task.
        mask: the same of the current task, at s_max.
        adahat: `adahat_capacity(chain, cumulative)`, which is constant during a task.
        threshold: above it a unit counts as used.

    `weights_used` is what max(cumulative, mask) uses; `weights_new` the part of it that `cumulative` alone does not;
    `weights_reused` what both the cumulative mask and the current task's own mask use.
    """
    before = {name: m > threshold for name, m in cumulative.items()}
    own = {name: m > threshold for name, m in mask.items()}
    now = {name: before[name] | own[name] for name in before}
    used, old = _count(chain, now), _count(chain, before)
    both = _count(chain, {name: before[name] & own[name] for name in before})
    rows: list[tuple[str | int | float, ...]] = []
    for link in chain:
        n = link.name
        rows.append((n, link.units, int(now[n].sum()), link.weights, used[n], used[n] - old[n], both[n], adahat[n]))
    sums = [sum(int(row[k]) for row in rows) for k in range(1, 7)]
    return [*rows, ("total", *sums, adahat["total"])]
