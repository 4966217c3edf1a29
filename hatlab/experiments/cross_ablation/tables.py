"""The ablation of the regularizer's `cross` mode: which runs it takes, what is measured, and how arms are compared.

Arms at a compressibility c: `original`, `cross` and `reuse` (see `hatlab.method.regularizer`), `half`, which is
`original` at c/2, and `none`, which is c = 0 and the same for every c. In the first task R2 is 0, so `cross` at c is
`half`, number for number; what the reuse term does is therefore `cross` minus `half`, while `cross` minus `original`
also has in it what half a c does. Runs are compared in pairs of the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import pandas as pd

from hatlab.analysis import comparisons, metrics
from hatlab.analysis.metrics import average_accuracy, backward_transfer
from hatlab.config import ConfigError, RunConfig
from hatlab.training.runs import Run

__all__ = [
    "ARMS",
    "CONTRASTS",
    "MAIN",
    "OUTCOMES",
    "Cell",
    "at_best",
    "best",
    "best_pairs",
    "by_task",
    "configs",
    "differences",
    "main_c",
    "outcomes",
    "pairs",
    "plan",
    "share_reused",
    "summary",
]

# arm -> its name in text, its mode, and what c is multiplied by
ARMS: Final = {
    "none": ("no regularizer", "original", 0.0),
    "original": ("original", "original", 1.0),
    "half": ("original at c/2", "original", 0.5),
    "cross": ("cross", "cross", 1.0),
    "reuse": ("reuse", "reuse", 1.0),
}
# column -> its name in text; in % all, their differences in percentage points
OUTCOMES: Final = {
    "capacity": "capacity usage",
    "reused": "share reused",
    "accuracy": "average accuracy",
    "forgetting": "forgetting",
}
MAIN: Final = ("cross", "half")
CONTRASTS: Final = (MAIN, ("cross", "original"), ("reuse", "original"), ("original", "none"))
PAPERS_C: Final = 0.75


class Cell(NamedTuple):
    """One run in its role: a run can be `original` at one c and `half` at twice that c."""

    arm: str
    c: float
    seed: int
    config: RunConfig


def plan(base: RunConfig, cs: Sequence[float], seeds: Sequence[int]) -> list[Cell]:
    """Return what is to be run: every arm at every c and seed, `none` once for each seed, with c = 0.

    Args:
        base: everything but c, mode and seed.
        cs: compressibilities, above 0.
        seeds: one pair of every contrast for each.

    Raises:
        ConfigError: a base that is no HAT, has a mode of its own or a single task; c that is not above 0; a c or seed
            that is named twice, or none at all.
    """
    if base.method != "hat" or base.mode != "original":
        raise ConfigError(
            f"method = {base.method!r} and mode = {base.mode!r} for the ablation's runs: allowed are 'hat' and "
            f"'original', for the ablation sets the modes itself"
        )
    if base.n_tasks == 1:
        raise ConfigError(
            "n_tasks = 1: the ablation is about what a task does with those before it; allowed is 2 or more"
        )
    if isinstance(cs, list | tuple | range) and (wrong := [c for c in cs if not c > 0]):
        raise ConfigError(f"cs = {list(cs)}: {wrong[0]} is not above 0; the arm without a regularizer is always there")
    base.grid(c=cs, seed=seeds)  # says what is wrong with either
    cells = []
    for arm, (_, mode, factor) in ARMS.items():
        for c in cs if factor else [0.0]:
            for seed in seeds:
                cells.append(Cell(arm, float(c), seed, base.replace(c=float(c * factor), mode=mode, seed=seed)))
    return cells


def configs(cells: Sequence[Cell]) -> list[RunConfig]:
    """Return the configs of `cells`, each once."""
    return list(dict.fromkeys(cell.config for cell in cells))


def share_reused(run: Run) -> float:
    """Return how much of what earlier tasks hold a task reuses, in %, averaged over all tasks but the first.

    For each task, at the epoch whose mask was kept: weights that both the cumulative mask of the tasks before and the
    task's own mask use (`weights_reused`), over all weights that the former uses (`weights_used` - `weights_new`).
    This is what R2 rewards, counted in weights instead of units. Tasks before which nothing was in use are left out;
    NaN if none is left.
    """
    kept = run.tasks.loc[run.tasks["task"] > 0, ["task", "best_epoch"]].rename(columns={"best_epoch": "epoch"})
    total = run.capacity[run.capacity["layer"] == "total"].merge(kept, on=["task", "epoch"])
    held = total["weights_used"] - total["weights_new"]
    return float((100 * total["weights_reused"] / held)[held > 0].mean())


def outcomes(cells: Sequence[Cell], runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row per cell, measured after the last task.

    Columns: `arm`; `c`, of which the arm is one (`half` was trained at half of it); `seed`; `run`; all in %:
    `capacity` (weights that the cumulative mask uses, of the trunk's), `reused` (see `share_reused`), `accuracy` (test
    accuracy, averaged over the tasks), `forgetting` (by how much accuracy on a task fell since it was learnt, averaged
    over all tasks but the last: minus backward transfer). `reused` and `forgetting` are NaN where there is one task.

    Args:
        cells: from `plan`.
        runs: what `sweep(configs(cells))` returned, in any order.
    """
    found = {run.run_id: run for run in runs}
    measured = {name: _measured(run) for name, run in found.items()}
    rows = [(cell.arm, cell.c, cell.seed, cell.config.run_id, *measured[cell.config.run_id]) for cell in cells]
    return pd.DataFrame(rows, columns=["arm", "c", "seed", "run", *OUTCOMES])


def _measured(run: Run) -> tuple[float, ...]:
    last = run.tasks.iloc[-1]
    forgetting = -100 * backward_transfer(run.accuracy) + 0.0  # not -0.0
    capacity = 100 * last["weights_used"] / last["weights"]
    return float(capacity), share_reused(run), 100 * average_accuracy(run.accuracy), forgetting


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return means over seeds with 95% intervals: one row per arm, c and outcome.

    Columns: `arm`, `c`, `outcome`, `n`, `mean`, `low`, `high`.

    Args:
        table: what `outcomes` returns.
    """
    rows = []
    for (arm, c), same in table.groupby(["arm", "c"], sort=False):
        for outcome in OUTCOMES:
            values = same[outcome].dropna().to_numpy()
            interval = metrics.mean_interval(values) if len(values) else [math.nan] * 3
            rows.append((arm, c, outcome, len(values), *interval))
    return pd.DataFrame(rows, columns=["arm", "c", "outcome", "n", "mean", "low", "high"])


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the differences between arms within each seed, in percentage points.

    Columns: `arm` and `reference` (see `CONTRASTS`), `c`, `outcome`, `seed`, `difference` (arm minus reference).

    Args:
        table: what `outcomes` returns.
    """
    values = table.melt(["arm", "c", "seed"], list(OUTCOMES), "outcome", "value")
    frames = []
    for arm, reference in CONTRASTS:
        alike = ["seed", "outcome"] if reference == "none" else ["c", "seed", "outcome"]
        other = values.loc[values["arm"] == reference, [*alike, "value"]]
        both = values[values["arm"] == arm].merge(other, on=alike, suffixes=("", "_reference"))
        difference = both["value"] - both["value_reference"]
        frames.append(both[["arm", "c", "outcome", "seed"]].assign(reference=reference, difference=difference))
    columns = ["arm", "reference", "c", "outcome", "seed", "difference"]
    return pd.concat(frames, ignore_index=True)[columns]


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return what the pairs say, see `comparisons.differences`: one row per `arm`, `reference`, `c` and `outcome`.

    Corrected for all comparisons of the same two arms, over c and outcomes.

    Args:
        table: what `pairs` returns.
    """
    return comparisons.differences(table, ["arm", "reference", "c", "outcome"], ["arm", "reference"])


def main_c(cs: Sequence[float]) -> float:
    """Return the paper's c if it is among `cs`, else the middle one: where one c has to stand for all."""
    return PAPERS_C if PAPERS_C in cs else sorted(cs)[len(cs) // 2]


def by_task(cells: Sequence[Cell], runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row per cell and task, as capacity runs out.

    Columns: `arm`, `c`, `seed`, `task` (from 1); in % `newest` (test accuracy on the task right after it), `free`
    (weights that no task before held), `usage` (weights that are held after it) and `reused` (of what is held before
    it; NaN in the first task).

    Args:
        cells, runs: as for `outcomes`.
    """
    found = {run.run_id: _of_tasks(run) for run in runs}
    tables = [
        found[cell.config.run_id].assign(arm=cell.arm, c=cell.c, seed=cell.seed)[["arm", "c", "seed", *TASK_COLUMNS]]
        for cell in cells
    ]
    return pd.concat(tables, ignore_index=True)


TASK_COLUMNS: Final = ("task", "newest", "free", "usage", "reused")


def _of_tasks(run: Run) -> pd.DataFrame:
    kept = run.tasks[["task", "best_epoch", "weights"]].rename(columns={"best_epoch": "epoch"})
    total = run.capacity[run.capacity["layer"] == "total"].drop(columns="weights")
    total = kept.merge(total, on=["task", "epoch"]).sort_values("task", ignore_index=True)
    own = run.accuracy[run.accuracy["task"] == run.accuracy["after_task"]].sort_values("task", ignore_index=True)
    held = total["weights_used"] - total["weights_new"]
    return pd.DataFrame(
        {
            "task": total["task"] + 1,
            "newest": 100 * own["accuracy"],
            "free": 100 * (1 - held / total["weights"]),
            "usage": 100 * total["weights_used"] / total["weights"],
            "reused": (100 * total["weights_reused"] / held).where(held > 0),
        }
    )


def best(table: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """Return mode -> (arm, c) with the highest mean average accuracy; both arms of original are its choices.

    `table`: what `outcomes` returns, of seeds that are not reported.
    """
    means = table.groupby(["arm", "c"], sort=False)["accuracy"].mean().reset_index()
    modes = {arm: mode for arm, (_, mode, factor) in ARMS.items() if factor} | {"none": "none"}
    highest = means.loc[means.groupby(means["arm"].map(modes), sort=False)["accuracy"].idxmax()]
    return {modes[arm]: (arm, c) for arm, c in zip(highest["arm"].tolist(), highest["c"].tolist(), strict=True)}


BEST_CONTRASTS: Final = (("cross", "original"), ("reuse", "original"), ("original", "none"))


def best_pairs(table: pd.DataFrame, chosen: Mapping[str, tuple[str, float]]) -> pd.DataFrame:
    """Return the differences between modes within each seed, each mode at the c that was chosen for it.

    Columns: `arm`, `reference`, `outcome`, `seed`, `difference` (arm minus reference, in percentage points).

    Args:
        table: what `outcomes` returns, of the seeds that are reported.
        chosen: what `best` returns.
    """
    values = {
        mode: table[(table["arm"] == arm) & (table["c"] == c)].set_index("seed")[list(OUTCOMES)]
        for mode, (arm, c) in chosen.items()
    }
    frames = []
    for one, other in BEST_CONTRASTS:
        difference = values[one] - values[other]
        long = difference.reset_index().melt("seed", var_name="outcome", value_name="difference")
        frames.append(long.assign(arm=one, reference=other))
    return pd.concat(frames, ignore_index=True)[["arm", "reference", "outcome", "seed", "difference"]]


def at_best(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return what `comparisons.differences` finds in `best_pairs`, corrected for all comparisons of an outcome."""
    return comparisons.differences(pairs, ["arm", "reference", "outcome"], ["outcome"])
