"""What each task takes of the network, and what was left for it: section 4.4 of the paper, taken apart by task.

At the epoch whose mask is kept, the weights in use, those of max(cumulative mask of the tasks before, own mask), are

    used = reused + not reused + new

reused: held by tasks before, and the task's own mask uses them too; not reused: held by tasks before, and the task
does without; new: what only this task added. Among the new ones are weights between a unit of the task and a unit of
earlier tasks that it has shut: nobody uses them, but they are protected from then on.

What was left for the task can be counted in two ways: `free`, the weights that the cumulative mask did not use, and
AdaHAT's "network capacity", the mean of 1 - min(a_i, a_j) over weights and biases of that mask (`capacity`), which
takes masks as they are, also between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hatlab.analysis import metrics
from hatlab.training.runs import Tables

__all__ = ["SHARES", "by_task", "over_seeds"]

SHARES = ("used", "reused", "not_reused", "new", "free", "adahat")


def by_task(tables: Tables) -> pd.DataFrame:
    """Return one row per run, task and layer (and "total").

    Columns: `run`, `c`, `s_max`, `seed`; `task`, from 1; `layer`; `weights`; and in % of them `SHARES`: `used`,
    `reused`, `not_reused` and `new` at the epoch whose mask is kept, `free` and `adahat` before the task's first step.

    Args:
        tables: what `hatlab.collect` returns.
    """
    kept = tables.tasks[["run", "task", "best_epoch"]].rename(columns={"best_epoch": "epoch"})
    rows = tables.capacity.merge(kept, on=["run", "task", "epoch"])
    held = rows["weights_used"] - rows["weights_new"]
    counts = {
        "used": rows["weights_used"],
        "reused": rows["weights_reused"],
        "not_reused": held - rows["weights_reused"],
        "new": rows["weights_new"],
        "free": rows["weights"] - held,
    }
    table = rows[["run", "c", "s_max", "seed", "task", "layer", "weights"]].assign(task=rows["task"] + 1)
    shares = {name: 100 * count / rows["weights"] for name, count in counts.items()}
    return table.assign(**shares, adahat=100 * rows["adahat_capacity"])


def over_seeds(table: pd.DataFrame, by: Sequence[str] = ("c", "layer", "task")) -> pd.DataFrame:
    """Return one row per combination of `by`, in order of appearance, with means and 95% t intervals over seeds.

    Columns: `by`, `seeds`, and each of `SHARES` with its `_low` and `_high`.

    Args:
        table: what `by_task` returns, of runs that differ in `by` and seed only.
    """
    return metrics.over_seeds(table, by, SHARES)
