"""How a network shrinks while it learns one task: size and accuracy, epoch by epoch (Fig. 7).

Masks start open with e ~ U(0, 2) and a regularizer of c = 1.5 closes what is not needed. The size is the share of the
trunk's weights between units that the task's mask uses, as `capacity` counts them. The accuracy is compared with that
of plain SGD, which has the whole network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from hatlab.config import ConfigError, RunConfig
from hatlab.data.tasks import make_sequence
from hatlab.training.runs import Run

__all__ = ["by_epoch", "by_run", "single_task"]


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
