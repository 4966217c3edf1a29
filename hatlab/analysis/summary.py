"""The few numbers that people read of runs: per task of one run, per run of a sweep, and over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hatlab.analysis import metrics
from hatlab.analysis.metrics import average_accuracy, backward_transfer
from hatlab.config import RunConfig
from hatlab.data.mixture import is_mixture
from hatlab.training.runs import Run, Tables

__all__ = ["by_compressibility", "by_run", "by_task", "describe", "over_seeds"]


def describe(run: Run) -> str:
    """Return what was trained on what, as a figure's title says it: "Split MNIST (5 tasks), MLP 400-400".

    Of a mixture, whose title is long, it counts the data sets: "Mixture of 8 data sets (8 tasks), CNN".
    """
    config, n = run.config, len(run.tasks)
    several = "s" * (n > 1)
    network = (
        f"MLP {'-'.join(map(str, config.widths))}"
        if config.network == "mlp"
        else {"cnn": "CNN"}.get(config.network, config.network)
    )
    if is_mixture(config.dataset):
        data = f"Mixture of {n} data set{several}"
    else:
        data = f"{config.sequence.capitalize()} {run.manifest['title']}"
    return f"{data} ({n} task{several}), {network}"


def by_task(run: Run) -> pd.DataFrame:
    """Return one row per task of `run`, in training order.

    Columns: `task` (from 1), `name`, `epochs`, `accuracy` and `accuracy_at_end` (test accuracy in % right after the
    task and after the last one), `usage` (weights that the cumulative mask uses after the task, in % of the trunk's).
    """
    tasks = run.tasks.set_index("task")
    accuracy = run.accuracy
    own = accuracy[accuracy["task"] == accuracy["after_task"]].set_index("task")["accuracy"]
    end = accuracy[accuracy["after_task"] == accuracy["after_task"].max()].set_index("task")["accuracy"]
    columns = {
        "task": tasks.index + 1,
        "name": tasks["name"],
        "epochs": tasks["epochs"],
        "accuracy": 100 * own,
        "accuracy_at_end": 100 * end,
        "usage": 100 * tasks["weights_used"] / tasks["weights"],
    }
    return pd.DataFrame(columns).reset_index(drop=True)


def by_compressibility(tables: Tables) -> pd.DataFrame:
    """Return one row per c and number of tasks learnt, with means and 95% t intervals over seeds, all in %.

    Columns: `c`, `tasks_learnt`, `seeds`; `usage`, `usage_low`, `usage_high`: weights that the cumulative mask uses;
    `accuracy`, `accuracy_low`, `accuracy_high`: test accuracy, averaged over the tasks learnt so far.

    Args:
        tables: what `hatlab.collect` returns, of runs that differ in c and seed only.
    """
    tasks, accuracy = tables.tasks, tables.accuracy
    usage = tasks.assign(usage=100 * tasks["weights_used"] / tasks["weights"])
    learnt = accuracy.groupby(["run", "after_task"], as_index=False)["accuracy"].mean()
    both = usage.merge(learnt, left_on=["run", "task"], right_on=["run", "after_task"])
    table = both.assign(tasks_learnt=both["task"] + 1, accuracy=100 * both["accuracy"])
    table = table.sort_values(["c", "tasks_learnt"], kind="stable")
    return metrics.over_seeds(table, ["c", "tasks_learnt"], ["usage", "accuracy"])


def by_run(runs: Sequence[Run], parameters: Sequence[str]) -> pd.DataFrame:
    """Return one row per run, in the order of `runs`: what it is worth after its last task.

    Columns: the `parameters` named; `run`; `accuracy`: test accuracy in %, averaged over the tasks; `usage`: weights
    that the cumulative mask uses, in % of the trunk's; `backward_transfer` in percentage points, NaN for a single task.
    """
    columns: dict[str, pd.Series] = {}
    for name in parameters:
        values = [getattr(run.config, name) for run in runs]
        columns[name] = pd.Series(values, dtype=object if None in values else None)  # a None is no NaN here
    last = [run.tasks.iloc[-1] for run in runs]
    columns["run"] = pd.Series([run.run_id for run in runs])
    columns["accuracy"] = pd.Series([100 * average_accuracy(run.accuracy) for run in runs])
    columns["usage"] = pd.Series([100 * task["weights_used"] / task["weights"] for task in last])
    columns["backward_transfer"] = pd.Series([100 * backward_transfer(run.accuracy) for run in runs])
    return pd.DataFrame(columns)


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per combination of the parameters other than the seed, with means and 95% t intervals over seeds.

    Columns: those parameters; `seeds`; each of `accuracy`, `usage` and `backward_transfer` with its `_low` and `_high`.

    Args:
        table: what `by_run` returns, with `seed` among its parameters.
    """
    names = [name for name in table if name in RunConfig.model_fields and name != "seed"]
    return metrics.over_seeds(table, names, ("accuracy", "usage", "backward_transfer"))
