"""Forgetting, as the paper measures it (eq. 6, Fig. 3, Table 1): each task's accuracy between two references.

0 means that a task is known as well as by a network that was trained on all tasks together, -1 that it is known no
better than by chance.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from hatlab.analysis import metrics
from hatlab.analysis.comparisons import refuse_shared
from hatlab.analysis.metrics import LEAST_GAIN, accuracy_matrix, forgetting_ratio
from hatlab.config import ConfigError, RunConfig
from hatlab.data.datasets import load_all
from hatlab.data.tasks import TaskSequence, make_sequence
from hatlab.training.runs import Run

__all__ = ["best", "candidates", "chance", "forgetting", "joint_config", "over_seeds", "training_images", "tuning"]


def chance(sequence: TaskSequence) -> np.ndarray:
    """Return what a stratified random classifier is expected to reach on each task, (tasks,), in [0, 1].

    It answers with the frequencies of the training labels, so it is right with probability sum_k p_k q_k, with q the
    frequencies in the test set.
    """
    found = []
    for task in sequence.tasks:
        data, n = sequence.datasets[task.dataset], len(task.classes)
        labels = (task.labels_of(data.y_train[task.train]), task.labels_of(data.y_test[task.test]))
        p, q = (np.bincount(part, minlength=n) / len(part) for part in labels)
        found.append(float(p @ q))
    return np.array(found)


def joint_config(config: RunConfig) -> RunConfig:
    """Return the run of joint training that a run of `config` is compared with: the same tasks, network and seed."""
    return config.replace(method="joint", c=0.0, embedding_init=RunConfig().embedding_init)


def candidates(
    base: RunConfig,
    methods: Sequence[str],
    cs: Sequence[float],
    s_maxs: Sequence[float],
    ewc_lambdas: Sequence[float],
    tuning_seeds: Sequence[int],
    seeds: Sequence[int],
) -> list[RunConfig]:
    """Return the runs among which HAT's c and s_max and EWC's lambda are chosen, on seeds that are not reported.

    Raises:
        ConfigError: a seed is for choosing and for reporting; one of two methods would be given more choices.
    """
    refuse_shared(tuning_seeds, seeds)
    if "ewc" in methods and len(cs) * len(s_maxs) != len(ewc_lambdas):
        raise ConfigError(
            f"ewc_lambdas = {list(ewc_lambdas)}: needed are as many values as HAT has of cs and s_maxs, "
            f"{len(cs)} x {len(s_maxs)}"
        )
    tried = base.grid(c=cs, s_max=s_maxs, seed=tuning_seeds)
    if "ewc" in methods:
        tried += base.replace(method="ewc", c=0.0).grid(ewc_lambda=ewc_lambdas, seed=tuning_seeds)
    return tried


TUNED = {"hat": ("c", "s_max"), "ewc": ("ewc_lambda",)}


def tuning(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row for each choice: `method`, `c`, `s_max`, `ewc_lambda`; `seeds`; test accuracy in % after the last
    task, averaged over the tasks, `accuracy` with its `_low` and `_high`; `chosen`: the highest mean of its method, the
    first of equal ones.

    `runs`: those of `candidates`.
    """
    names = ["method", "c", "s_max", "ewc_lambda"]
    rows = [
        {name: getattr(run.config, name) for name in names} | {"accuracy": 100 * metrics.average_accuracy(run.accuracy)}
        for run in runs
    ]
    table = metrics.over_seeds(pd.DataFrame(rows), names, ["accuracy"])
    return table.assign(chosen=table.index.isin(table.groupby("method")["accuracy"].idxmax()))


def best(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return method -> the parameters that were chosen for it. `table`: what `tuning` returns."""
    rows = table[table["chosen"]].set_index("method")
    return {str(method): {name: float(row[name]) for name in TUNED[str(method)]} for method, row in rows.iterrows()}


def forgetting(runs: Sequence[Run], joint: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run and number of tasks learnt t: rho^{<=t}, the mean over these tasks of eq. 6.

    Columns: `run`, `method`, `c`, `s_max`, `seed`, `tasks_learnt`, `ratio` (NaN where that of one of the tasks is),
    `accuracy` (mean over the tasks, in %), and what of it is forgetting and what is not: `learnt` (the same, of each
    task right after it was learnt) and `forgotten` (`metrics.forgetting`, in percentage points; NaN for t = 1).

    Args:
        runs: of any method.
        joint: the runs of `joint_config` of each of them, in any order, each once.

    Raises:
        ValueError: a run whose joint reference is not among `joint`.
        DatasetError: the labels, which chance is computed from, cannot be loaded.

    Warns:
        UserWarning: naming the tasks for which `metrics.forgetting_ratio` is NaN, and why.
    """
    references = {run.config.run_id: run for run in joint}
    sets = functools.cache(load_all)
    by_chance = functools.cache(lambda config: chance(make_sequence(config, sets(config.dataset))))
    rows, undefined = [], dict[str, None]()
    for run in runs:
        config = joint_config(run.config)
        if config.run_id not in references:
            raise ValueError(
                f"run {run.run_id} (seed {run.config.seed}) has no joint reference: run {config.run_id} is not among "
                f"those given ({', '.join(references) or 'none'})"
            )
        own, together = (accuracy_matrix(one.accuracy).to_numpy() for one in (run, references[config.run_id]))
        random = by_chance(config)
        for t in range(len(own)):
            first = slice(t + 1)
            ratios = forgetting_ratio(own[t, first], random[first], together[t, first])
            ratio = ratios.mean()
            for task in np.flatnonzero(np.isnan(ratios)):
                reached = f"joint training reaches {together[t, task]:.1%} (run {config.run_id}, {t + 1} tasks learnt)"
                undefined[f"task {task + 1}: {reached}, chance is {random[task]:.1%}"] = None
            rows.append(
                {
                    "run": run.run_id,
                    **{name: getattr(run.config, name) for name in ("method", "c", "s_max", "seed")},
                    "tasks_learnt": t + 1,
                    "ratio": float(ratio),
                    "accuracy": 100 * float(own[t, first].mean()),
                    **_learnt(run.accuracy[run.accuracy["after_task"] <= t]),
                }
            )
    if undefined:
        why = f"less than {100 * LEAST_GAIN:g} points above chance is too little to divide by"
        warnings.warn("\n".join([f"the forgetting ratio is NaN: {why}", *undefined]), stacklevel=2)
    return pd.DataFrame(rows)


def _learnt(accuracy: pd.DataFrame) -> dict[str, float]:
    return {"learnt": 100 * metrics.learning_accuracy(accuracy), "forgotten": 100 * metrics.forgetting(accuracy)}


def training_images(config: RunConfig) -> dict[str, int]:
    """Return the data sets of a run, by their names in `RunConfig`, and how many training images each has."""
    sets = load_all(config.dataset)
    return {data.name.rpartition(":")[2]: len(data.x_train) for data in sets}


def over_seeds(table: pd.DataFrame, by: Sequence[str] = ("method", "tasks_learnt")) -> pd.DataFrame:
    """Return one row per combination of `by`, in order of appearance, with means and 95% t intervals over seeds.

    Columns: `by`, `seeds`, and `ratio`, `accuracy`, `learnt` and `forgotten` each with its `_low` and `_high`.

    Args:
        table: what `forgetting` returns.
    """
    return metrics.over_seeds(table, by, ("ratio", "accuracy", "learnt", "forgotten"))
