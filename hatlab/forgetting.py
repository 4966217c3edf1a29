"""Forgetting, as the paper measures it (eq. 6, Fig. 3, Table 1): each task's accuracy between two references.

0 means that a task is known as well as by a network that was trained on all tasks together, -1 that it is known no
better than by chance.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hatlab import metrics, paper
from hatlab.config import RunConfig
from hatlab.datasets import load_all
from hatlab.metrics import LEAST_GAIN, accuracy_matrix, forgetting_ratio
from hatlab.paper import METHODS
from hatlab.runs import Run
from hatlab.tasks import TaskSequence, make_sequence
from hatlab.verdicts import Verdict, compare, holds

__all__ = [
    "chance",
    "forgetting",
    "joint_config",
    "judge",
    "judge_ranges",
    "over_seeds",
    "sensitivity",
    "statements",
]


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
    """Return the run of joint training that a run of `config` is held against: the same tasks, network and seed."""
    return config.replace(method="joint", c=0.0, embedding_init=RunConfig().embedding_init)


def forgetting(runs: Sequence[Run], joint: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run and number of tasks learnt t: rho^{<=t}, the mean over these tasks of eq. 6.

    Columns: `run`, `method`, `c`, `s_max`, `seed`, `tasks_learnt`, `ratio` (NaN where that of one of the tasks is),
    `accuracy` (mean over the tasks, in %).

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
                }
            )
    if undefined:
        why = f"less than {100 * LEAST_GAIN:g} points above chance is too little to divide by"
        warnings.warn("\n".join([f"the forgetting ratio is NaN: {why}", *undefined]), stacklevel=2)
    return pd.DataFrame(rows)


def over_seeds(table: pd.DataFrame, by: Sequence[str] = ("method", "tasks_learnt")) -> pd.DataFrame:
    """Return one row per combination of `by`, in order of appearance, with means and 95% t intervals over seeds.

    Columns: `by`, `seeds`, and `ratio` and `accuracy` each with its `_low` and `_high`.

    Args:
        table: what `forgetting` returns.
    """
    return metrics.over_seeds(table, by, ("ratio", "accuracy"))


def statements(table: pd.DataFrame) -> list[str]:
    """Return what the table says after the last task, a sentence for each method, from least to most forgotten."""
    t = int(table["tasks_learnt"].max())
    means = over_seeds(table[table["tasks_learnt"] == t], by=["method"]).sort_values("ratio", ascending=False)
    return [
        f"After {t} tasks {METHODS[row['method']]} has a forgetting ratio of {_interval(row)} (n = {row['seeds']}), "
        f"with an average accuracy of {row['accuracy']:.1f}%."
        for row in means.to_dict("records")
    ]


def judge(table: pd.DataFrame, dataset: str) -> list[Verdict]:
    """Return verdicts: HAT forgets no more than each other method, and each method's ratios against Table 1.

    Args:
        table: what `forgetting` returns.
        dataset: as in `RunConfig`; the paper's numbers are of its whole mixture.
    """
    other = "" if dataset == "mixture" else "the paper's number is of its eight data sets in one sequence"
    last = table[table["tasks_learnt"] == table["tasks_learnt"].max()]
    ratios = last.pivot(index="seed", columns="method", values="ratio")
    methods = [name for name in METHODS if name in ratios]
    found = [
        holds(f"HAT forgets no more than {METHODS[name]} (Table 1)", (ratios["hat"] >= ratios[name]).tolist())
        for name in methods
        if name != "hat" and "hat" in ratios
    ]
    for name in methods:
        for t in (2, 8):
            values = table[(table["method"] == name) & (table["tasks_learnt"] == t)]["ratio"].tolist()
            printed = paper.forgetting(METHODS[name], t)
            if values and printed is not None:
                claim = f"{METHODS[name]}: forgetting ratio after {t} tasks (Table 1)"
                found.append(compare(claim, values, printed[0], rounding=0.005, unit="", not_comparable=other))
    return found


def sensitivity(table: pd.DataFrame, c: float, s_max: float) -> list[str]:
    """Return what Fig. 4's two lines say, a sentence each.

    Args:
        table: rows of `forgetting` after the last task, over `s_max` at this `c` and over `c` at this `s_max`.
    """
    sentences = []
    for name, fixed, line in _lines(over_seeds(table, by=["s_max", "c"]), c, s_max):
        rows = sorted(line.to_dict("records"), key=lambda row: row["ratio"])
        worst, best = rows[0], rows[-1]
        sentences.append(
            f"Over {name} from {line[name].min():g} to {line[name].max():g}, at {fixed}, least is forgotten at "
            f"{best[name]:g}, {_interval(best)}, and most at {worst[name]:g}, {_interval(worst)}. These are extremes "
            f"of {len(line)} values, picked after seeing them (n = {line['seeds'].min()} seeds each)."
        )
    return sentences


def judge_ranges(table: pd.DataFrame, c: float, s_max: float) -> list[Verdict]:
    """Return what is lost at most within the ranges that section 4.3 calls good, against the best value of all.

    The section states no measure of good, so there is nothing to agree with.

    Args:
        table, c, s_max: as for `sensitivity`.
    """
    found = []
    for (name, _, line), (low, high) in zip(_lines(table, c, s_max), ((25, 800), (0.1, 2.5)), strict=True):
        ratios = line.pivot(index="seed", columns=name, values="ratio")
        inside = [value for value in ratios if low <= float(str(value)) <= high]
        lost = ratios[inside].min(axis=1) - ratios.max(axis=1)
        claim = f"{name} from {low:g} to {high:g} is good (section 4.3): worst ratio in it minus best of all"
        found.append(compare(claim, lost.tolist(), float("nan"), rounding=0.0, unit=""))
    return found


def _lines(table: pd.DataFrame, c: float, s_max: float) -> list[tuple[str, str, pd.DataFrame]]:
    """The two lines of Fig. 4: what varies, what is fixed, the rows."""
    return [
        ("s_max", f"c = {c:g}", table[table["c"] == c]),
        ("c", f"s_max = {s_max:g}", table[table["s_max"] == s_max]),
    ]


def _interval(row: Mapping[Hashable, Any]) -> str:
    if np.isnan(row["ratio_low"]):
        return f"{row['ratio']:.3f} (one seed, no interval)"
    return f"{row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]"
