"""How a network shrinks while it learns one task: size and accuracy, epoch by epoch (Fig. 7).

Masks start open with e ~ U(0, 2) and a regularizer of c = 1.5 closes what is not needed. The size is the share of the
trunk's weights between units that the task's mask uses, as `capacity` counts them; the accuracy is held against that of
plain SGD, which has the whole network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from hatlab.config import ConfigError, RunConfig
from hatlab.metrics import Interval, mean_interval
from hatlab.paper import COMPRESSION
from hatlab.runs import Run
from hatlab.tasks import make_sequence
from hatlab.verdicts import Verdict, compare, holds

__all__ = ["by_epoch", "by_run", "judge", "single_task", "statement"]

PAPER_TRUNK: Final = 6_499_328  # trunk weights of the authors' CNN for images of 32x32 in three channels


def single_task(config: RunConfig) -> RunConfig:
    """Return `config` if it has one task, which says so before anything is trained.

    Raises:
        ConfigError: it has several.
        DatasetError: its images cannot be loaded.
    """
    n = len(make_sequence(config).tasks)
    if n > 1:
        raise ConfigError(
            f"classes_per_task = {config.classes_per_task} makes {n} tasks of '{config.dataset}': compression is "
            "that of a single one; allowed is the number of all classes, or n_tasks = 1"
        )
    return config


def by_epoch(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the points of Fig. 7: one row per run and epoch.

    Columns: `run`, `c`, `seed`, `epoch` (from 0), `share`: weights that the task's mask uses at s_max, in % of the
    trunk's; `accuracy`: validation accuracy in %.

    Raises:
        ValueError: a run with more than one task.
    """
    tables = []
    for run in runs:
        if len(run.tasks) > 1:
            raise ValueError(f"run {run.run_id} has {len(run.tasks)} tasks: compression is that of a single one")
        used = run.capacity[run.capacity["layer"] == "total"]
        points = run.epochs.merge(used, on=["task", "epoch"])
        columns = {
            "run": run.run_id,
            "c": run.config.c,
            "seed": run.config.seed,
            "epoch": points["epoch"],
            "share": 100 * points["weights_used"] / points["weights"],
            "accuracy": 100 * points["valid_accuracy"],
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def by_run(runs: Sequence[Run], references: Sequence[Run], tolerance: float) -> pd.DataFrame:
    """Return one row per run of HAT, beside plain SGD from the same seed.

    Columns: `run`, `c`, `seed`, `epochs`; of the model that is kept, which has the best validation loss: `best_epoch`,
    `share` (of the trunk's weights that it uses), `accuracy` (validation) and `test_accuracy`; `sgd_accuracy` and
    `sgd_test_accuracy`, the same of SGD; `smallest_share`: the smallest share of any epoch whose validation accuracy is
    at most `tolerance` below SGD's, NaN if none is. Shares and accuracies in %.

    Args:
        runs: HAT on a single task.
        references: a run with method = "sgd" for each of their seeds.
        tolerance: in percentage points.

    Raises:
        ValueError: a run with more than one task, or without a reference of its seed.
    """
    plain = {run.config.seed: _kept(run) for run in references}
    rows = []
    for run in runs:
        seed = run.config.seed
        if seed not in plain:
            raise ValueError(
                f"no run of SGD with seed {seed} to compare run {run.run_id} with; there are {list(plain)}"
            )
        points, kept, sgd = by_epoch([run]), _kept(run), plain[seed]
        level = sgd["accuracy"] - tolerance
        row = {"run": run.run_id, "c": run.config.c, "seed": seed, "epochs": len(points), **kept}
        row |= {f"sgd_{name}": sgd[name] for name in ("accuracy", "test_accuracy")}
        # the counts behind two equal accuracies may differ in their last bit
        row["smallest_share"] = points.loc[points["accuracy"] >= level - 1e-9, "share"].min()
        rows.append(row)
    return pd.DataFrame(rows)


def _kept(run: Run) -> dict[str, Any]:
    points = by_epoch([run]).set_index("epoch")
    best = int(run.tasks["best_epoch"].iloc[0])
    kept = points.loc[best]
    test = 100 * float(run.accuracy["accuracy"].iloc[0])
    return {"best_epoch": best, "share": kept["share"], "accuracy": kept["accuracy"], "test_accuracy": test}


def statement(results: pd.DataFrame) -> str:
    """Say in words what `by_run` found: for each c the size of the models that are kept, and what it costs."""
    lines = []
    for c, same in results.groupby("c"):
        share = _number(mean_interval(same["share"].tolist()), "%")
        gap = _number(mean_interval((same["test_accuracy"] - same["sgd_test_accuracy"]).tolist()), " points")
        lines.append(
            f"c = {c:g}: the models that are kept use {share} of the trunk's weights; their test accuracy less that of "
            f"SGD from the same seed is {gap}; n = {len(same)}."
        )
    return "\n".join(lines)


def _number(interval: Interval, unit: str) -> str:
    mean, low, high = interval
    return f"{mean:.2f}{unit}" + ("" if math.isnan(low) else f" (95% interval {low:.2f} to {high:.2f})")


def judge(runs: Sequence[Run], results: pd.DataFrame, tolerance: float) -> list[Verdict]:
    """Hold the results against the paper, for each c: is SGD's accuracy reached, and with which share of the weights?

    Args:
        runs: of HAT.
        results: what `by_run` returns of them.
        tolerance: as given to it.
    """
    verdicts = []
    for c, same in results.groupby("c"):
        run = next(run for run in runs if run.run_id == same["run"].iloc[0])
        title = run.manifest["title"]
        why = _not_comparable(run)
        reached = same["smallest_share"].notna()
        where = f"{title}, c = {c:g} (Fig. 7)"
        points = f"{tolerance:g} point{'s' * (tolerance != 1)}"
        claim = f"some epoch is within {points} of SGD's validation accuracy: {where}"
        verdicts.append(holds(claim, reached.tolist(), not_comparable=why))
        if reached.any():
            shares = same.loc[reached, "smallest_share"].tolist()
            claim = f"smallest share of the weights of such an epoch: {where}"
            verdicts.append(compare(claim, shares, COMPRESSION.get(title, math.nan), rounding=0.5, not_comparable=why))
    return verdicts


def _not_comparable(run: Run) -> str:
    """Why a run is not one of the paper's experiment; "" if it is."""
    config = run.config
    if config.network != "cnn":
        return f"the paper's network is its CNN, this is an MLP {'-'.join(map(str, config.widths))}"
    if int(run.tasks["weights"].iloc[0]) != PAPER_TRUNK:
        return "the paper's images have 32x32 pixels in three channels"
    if config.n_tasks is not None or config.class_groups is not None:
        return "the paper's task has all classes of its data set"
    if (config.c, config.embedding_init) != (1.5, "uniform"):
        return f"the paper has c = 1.5 and e ~ U(0, 2), here c = {config.c:g} and e is {config.embedding_init}"
    return ""
