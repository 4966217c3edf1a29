"""What continual learning measures: accuracies, transfer, forgetting, intransigence, and intervals over seeds.

An accuracy table has one row per test: columns `after_task`, `task` (positions in training order) and `accuracy`. In
formulas a_{k,j} is the accuracy on task j after task k, and T the number of tasks. docs/metrics.md has them side by
side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

__all__ = [
    "Interval",
    "accuracy_matrix",
    "average_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "forgetting",
    "forgetting_ratio",
    "forward_transfer",
    "intransigence",
    "learning_accuracy",
    "mean_interval",
    "over_seeds",
]


class Interval(NamedTuple):
    """A mean and its confidence interval; `low` and `high` are NaN for a single value."""

    mean: Any
    low: Any
    high: Any


def accuracy_matrix(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return A of one run: row `after_task`, column `task`; NaN where the task had not been trained.

    Raises:
        ValueError: the table holds more than one run.
    """
    if accuracy.duplicated(["after_task", "task"]).any():
        raise ValueError("the accuracy table holds several runs: select one, or group by the column 'run'")
    return accuracy.pivot(index="after_task", columns="task", values="accuracy")


def average_accuracy(accuracy: pd.DataFrame) -> float:
    """Return the mean accuracy over all tasks after the last one, A^{<=T} of the paper."""
    return float(np.mean(accuracy_matrix(accuracy).iloc[-1]))


def backward_transfer(accuracy: pd.DataFrame) -> float:
    """Return the mean over tasks but the last of (accuracy after the last task) - (accuracy after their own).

    Lopez-Paz and Ranzato (2017). Negative means forgetting; NaN for a single task.
    """
    matrix = accuracy_matrix(accuracy).to_numpy()
    change = matrix[-1] - np.diag(matrix)
    return float(change[:-1].mean()) if len(change) > 1 else float("nan")


def average_incremental_accuracy(accuracy: pd.DataFrame) -> float:
    """Return the mean over k of the average accuracy on tasks 1 to k after task k (Rebuffi et al., 2017)."""
    return float(accuracy_matrix(accuracy).mean(axis=1).mean())


def learning_accuracy(accuracy: pd.DataFrame) -> float:
    """Return the mean over tasks of a_{j,j}, the accuracy right after a task was learnt (Riemer et al., 2019)."""
    return float(np.diag(accuracy_matrix(accuracy)).mean())


def forgetting(accuracy: pd.DataFrame) -> float:
    """Return the mean over tasks j but the last of max_{k<T} a_{k,j} - a_{T,j} (Chaudhry et al., 2018).

    Never below minus `backward_transfer`, which starts from a_{j,j}; NaN for a single task.
    """
    matrix = accuracy_matrix(accuracy).to_numpy()
    if len(matrix) < 2:
        return float("nan")
    return float((np.nanmax(matrix[:-1, :-1], axis=0) - matrix[-1, :-1]).mean())


def intransigence(accuracy: pd.DataFrame, alone: np.ndarray) -> float:
    """Return the mean over tasks of what a task is learnt less well than alone: alone_j - a_{j,j}.

    Chaudhry et al. (2018) compare with a network trained on tasks 1 to j together; here it is one that has task j only,
    which nothing can disturb.

    `alone`: (tasks,) accuracy on each task, in training order, of a run that was trained on it alone.
    """
    return float((alone - np.diag(accuracy_matrix(accuracy))).mean())


def forward_transfer(accuracy: pd.DataFrame, alone: np.ndarray) -> float:
    """Return the mean over tasks but the first of what earlier tasks add to learning one: a_{j,j} - alone_j.

    As Wang et al. (2024) define it. Lopez-Paz and Ranzato (2017) take the accuracy before task j is learnt, which with
    a head for each task is chance. NaN for a single task. `alone` is as for `intransigence`.
    """
    gained = np.diag(accuracy_matrix(accuracy)) - alone
    return float(gained[1:].mean()) if len(gained) > 1 else float("nan")


# With less between joint training and chance, a hundredth of accuracy would be more than a fifth of the ratio.
LEAST_GAIN: Final = 0.05


def forgetting_ratio(accuracy: np.ndarray, random: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Return rho of eq. 6 per task: (A - A_R) / (A_J - A_R) - 1; 0 keeps everything, -1 forgets everything.

    NaN where A_J - A_R is less than `LEAST_GAIN`: joint training has hardly learnt the task, or there is nothing to
    learn, as in a task of one class.

    Args:
        accuracy: (tasks,) accuracies after training on all of them in sequence.
        random: (tasks,) accuracies of a stratified random classifier.
        joint: (tasks,) accuracies after training on all of them together.
    """
    gain = np.where(joint - random < LEAST_GAIN, np.nan, joint - random)
    return np.asarray((accuracy - random) / gain - 1)


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the mean of independent values (one per seed) and its Student t interval.

    Args:
        values: (n,) numbers, or (n, ...) for an interval at every place behind the first axis.
        confidence: probability that the interval covers the mean.

    Raises:
        ValueError: there are no values.
    """
    sample = np.asarray(values, dtype=float)
    if not len(sample):
        raise ValueError("a mean of no values was asked for: at least one is needed")
    n, mean = len(sample), sample.mean(axis=0)
    if n < 2:
        return Interval(mean, mean * np.nan, mean * np.nan)
    reach = special.stdtrit(n - 1, (1 + confidence) / 2) * sample.std(axis=0, ddof=1) / np.sqrt(n)
    return Interval(mean, mean - reach, mean + reach)


def over_seeds(table: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Return one row per combination of `by`, in order of appearance, with means and 95% t intervals over its rows.

    Columns: `by`; `seeds`, the number of rows; each of `values` with its `_low` and `_high`.

    Args:
        table: a row for each run, of which those alike in `by` differ in seed only.
        by: what is held apart; none: all rows are alike.
        values: numbers.
    """
    alike = [same for _, same in table.groupby(list(by), sort=False, dropna=False)] if by else [table]
    rows = []
    for same in alike:
        row = {"seeds": len(same)}
        for name in values:
            row |= zip((name, f"{name}_low", f"{name}_high"), mean_interval(same[name].tolist()), strict=True)
        rows.append(row)
    combinations = table.loc[[same.index[0] for same in alike], list(by)].reset_index(drop=True)
    return pd.concat([combinations, pd.DataFrame(rows)], axis=1)
