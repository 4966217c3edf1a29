"""Weight reuse: which share of the weights of one task a later one uses too (section 4.4 of the paper, Fig. 6).

M_t is the set of trunk weights that the mask of task t alone uses, as `capacity` counts them: those between two units
above the threshold, in the first layer those of a unit above it. Of task i's weights, task j reuses

    |M_i and M_j| / |M_i|.

Two masks that know nothing of each other overlap as well. If the units that j uses in each layer were drawn at random,
as many as there are, a weight of layer l would be among M_j with the probability |M_j,l| / (weights of l), and on
average j would reuse the mean of that over M_i. What is reused beyond chance is the first share over this one.

Being above it is no sign of a search. Gates start half open, and the regularizer has no reason to close units that
earlier tasks hold, since these cost nothing. Gates that nobody touched would reuse half of the first layer's weights
and a quarter of those between two gated layers, at any c; `by_layer` has that beside what is reused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hatlab.analysis import comparisons, metrics
from hatlab.analysis.masks import task_masks
from hatlab.analysis.metrics import mean_interval
from hatlab.config import RunConfig
from hatlab.method.capacity import weights_used
from hatlab.method.protection import GatedLayer
from hatlab.training.runs import Run

__all__ = ["arms", "by_layer", "held", "layer_differences", "layer_means", "of_runs", "over_seeds", "weight_reuse"]

SHARES = ("reused", "expected", "beyond_chance")


def weight_reuse(
    chain: Sequence[GatedLayer], masks: Sequence[Mapping[str, np.ndarray]], threshold: float = 0.5
) -> pd.DataFrame:
    """Return one row for every task and every later one.

    Args:
        chain: how the trunk's layers are joined.
        masks: of each task in training order: layer name -> (units,).
        threshold: above it a unit counts as used.

    Returns:
        Columns `task` and `later` (positions in training, from 0); `weights`: how many `task` uses; `reused`: how many
        of them `later` uses too, in %; `expected`: the same for masks that know nothing of each other; `beyond_chance`:
        reused / expected. NaN where a task uses no weight.
    """
    per_layer = np.array([[weights_used([link], mask, threshold) for link in chain] for mask in masks], dtype=float)
    shares = per_layer / [link.weights for link in chain]
    rows = []
    for i, first in enumerate(masks):
        own = per_layer[i].sum()
        for j in range(i + 1, len(masks)):
            both = weights_used(chain, {n: np.minimum(first[n], masks[j][n]) for n in first}, threshold)
            reused = 100 * both / own if own else math.nan
            expected = 100 * float((per_layer[i] * shares[j]).sum()) / own if own else math.nan
            rows.append((i, j, int(own), reused, expected, reused / expected if expected else math.nan))
    return pd.DataFrame(rows, columns=["task", "later", "weights", *SHARES])


def of_runs(runs: Sequence[Run], threshold: float = 0.5) -> pd.DataFrame:
    """Return `weight_reuse` of each run, below each other; before its columns `run` and `seed`, and behind `later`
    the names of the two tasks, `task_name` and `later_name`.

    Raises:
        RecordError: a run without its checkpoint.
        ValueError: a run with fewer than two tasks, or without masks.
    """
    tables = []
    for run in runs:
        if len(run.tasks) < 2:
            raise ValueError(f"run {run.run_id} has one task: weights can be reused from two on")
        table = weight_reuse(*task_masks(run), threshold)
        names = run.tasks.set_index("task")["name"]
        table.insert(0, "run", run.run_id)
        table.insert(1, "seed", run.config.seed)
        for place, which in enumerate(("task", "later"), start=4):
            table.insert(place, f"{which}_name", table[which].map(names))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def over_seeds(reuse: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each pair of positions, with means and 95% t intervals over seeds.

    Columns: `task`, `later`; `task_name`, `later_name`, all empty if the seeds trained the tasks in different orders,
    as the authors' shuffle has it: the mean is then over whatever stood at these places; `n`: seeds that have a value;
    and each of `reused`, `expected` and `beyond_chance` with its `_low` and `_high`. A seed in which `task` uses no
    weight is left out of its pairs.

    Args:
        reuse: what `of_runs` returns, of runs that differ in seed only.

    Raises:
        ValueError: a seed occurs in several runs.
    """
    if reuse.duplicated(["seed", "task", "later"]).any():
        raise ValueError("several runs of one seed: select one, the mean is over seeds")
    pairs, names = reuse.groupby(["task", "later"]), ["task_name", "later_name"]
    one_order = bool((pairs[names].nunique() == 1).all(axis=None))
    rows = []
    for (task, later), same in pairs:
        row = {"task": task, "later": later}
        row |= {name: same[name].iloc[0] if one_order else "" for name in names}
        row["n"] = int(same["reused"].notna().sum())
        for name in SHARES:
            values = same[name].dropna().tolist()
            row |= zip((name, f"{name}_low", f"{name}_high"), mean_interval(values or [math.nan]), strict=True)
        rows.append(row)
    return pd.DataFrame(rows)


def arms(base: RunConfig) -> dict[str, RunConfig]:
    """Return the runs whose reuse is compared: without regularizer, `base`, and its cross mode (or original)."""
    other = "original" if base.mode == "cross" else "cross"
    return {"c = 0": base.replace(c=0.0, mode="original"), base.mode: base, other: base.replace(mode=other)}


def by_layer(runs: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """Return how much of what an earlier task holds a later one reuses, layer by layer: one row per arm, seed, layer.

    Columns: `arm`, `seed`, `layer`; `reused`: in %, the mean over all pairs of tasks whose first uses weights there;
    `untouched`: what gates that still are as they started would reuse, in % on average.

    Args:
        runs: arm -> its runs, one for each seed.
    """
    rows = []
    for arm, of_arm in runs.items():
        for run in of_arm:
            chain, masks = task_masks(run)
            for link in chain:
                own = [{name: mask[name] for name in (link.name, link.previous) if name} for mask in masks]
                reused = float(weight_reuse([link], own)["reused"].mean())
                rows.append((arm, run.config.seed, link.name, reused, 25.0 if link.previous else 50.0))
    return pd.DataFrame(rows, columns=["arm", "seed", "layer", "reused", "untouched"])


def layer_means(table: pd.DataFrame) -> pd.DataFrame:
    """Return means over seeds with 95% intervals: `arm`, `layer`, `untouched`, `seeds`, `reused` with `_low`, `_high`.

    `table`: what `by_layer` returns.
    """
    return metrics.over_seeds(table, ["arm", "layer", "untouched"], ["reused"])


def layer_differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return what `comparisons.differences` finds of each arm minus "c = 0", layer by layer, in percentage points.

    Corrected for all of them. `table`: what `by_layer` returns.
    """
    none = table.loc[table["arm"] == "c = 0", ["seed", "layer", "reused"]]
    pairs = table[table["arm"] != "c = 0"].merge(none, on=["seed", "layer"], suffixes=("", "_none"))
    pairs = pairs.assign(reference="c = 0", difference=pairs["reused"] - pairs["reused_none"])
    return comparisons.differences(pairs, ["arm", "reference", "layer"], ["reference"])


def held(runs: Sequence[Run], threshold: float = 0.5) -> pd.DataFrame:
    """Return how much of the trunk is protected after each task, and how much of that no task uses.

    The cumulative mask protects a weight between two used units, whichever tasks use them. If task 1 uses the one and
    task 2 the other, no task uses the weight.

    Columns: `run`, `seed`, `task` (from 1); in % of the trunk's weights `held`, of which `used` by some task and `idle`
    by none.
    """
    rows = []
    for run in runs:
        chain, masks = task_masks(run)
        weights = sum(link.weights for link in chain)
        used = {link.name: np.array([mask[link.name] > threshold for mask in masks]) for link in chain}
        for task in range(len(masks)):
            of_pairs = np.array([_pairs(link, {n: m[: task + 1] for n, m in used.items()}) for link in chain]).sum(0)
            both, some = 100 * of_pairs / weights
            rows.append((run.run_id, run.config.seed, task + 1, both, some, both - some))
    return pd.DataFrame(rows, columns=["run", "seed", "task", "held", "used", "idle"])


def _pairs(link: GatedLayer, used: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Count a layer's weights between units that any of the tasks uses, and those that one of them uses as a whole.

    `used`: layer name -> (tasks, units) bool.
    """
    post = used[link.name]
    if link.previous is None:
        count = int(post.any(0).sum()) * (link.weights // link.units)
        return count, count
    pre, each = used[link.previous], link.inputs_per_unit * link.kernel
    together = post.T.astype(np.int64) @ pre.astype(np.int64) > 0
    return int(np.outer(post.any(0), pre.any(0)).sum()) * each, int(together.sum()) * each
