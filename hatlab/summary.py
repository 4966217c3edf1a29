"""The few numbers that people read of runs: per task of one run, and per compressibility over seeds."""

from __future__ import annotations

import pandas as pd

from hatlab.metrics import mean_interval
from hatlab.runs import Run, Tables

__all__ = ["by_compressibility", "by_task", "describe"]


def describe(run: Run) -> str:
    """Return what was trained on what, as a figure's title says it: "Split MNIST (5 tasks), MLP 400-400"."""
    config, n = run.config, len(run.tasks)
    network = f"MLP {'-'.join(map(str, config.widths))}" if config.network == "mlp" else "CNN"
    return f"{config.sequence.capitalize()} {run.manifest['title']} ({n} task{'s' * (n > 1)}), {network}"


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
    rows = []
    for _, same in both.groupby(["c", "task"]):
        row = {"c": same["c"].iloc[0], "tasks_learnt": same["task"].iloc[0] + 1, "seeds": len(same)}
        for name, values in (("usage", same["usage"]), ("accuracy", 100 * same["accuracy"])):
            row |= zip((name, f"{name}_low", f"{name}_high"), mean_interval(values.tolist()), strict=True)
        rows.append(row)
    return pd.DataFrame(rows)
