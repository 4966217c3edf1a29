"""What earlier tasks do to learning a new one: each task beside a network that was trained on it alone.

docs/metrics.md has the formulas. Forgetting is what is lost of what was learnt; intransigence is what was not learnt.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from hatlab.analysis import metrics
from hatlab.analysis.paper import METHODS
from hatlab.config import RunConfig
from hatlab.data.datasets import load_all
from hatlab.data.mixture import is_mixture
from hatlab.data.tasks import make_sequence
from hatlab.training.runs import Run

__all__ = ["METRICS", "alone", "over_seeds", "statements", "transfer"]

# column -> its name in text and its unit
METRICS: Final = {
    "average_accuracy": ("average accuracy", "%"),
    "average_incremental_accuracy": ("average incremental accuracy", "%"),
    "learning_accuracy": ("learning accuracy", "%"),
    "forgetting": ("forgetting", " points"),
    "intransigence": ("intransigence", " points"),
    "forward_transfer": ("forward transfer", " points"),
}


def alone(base: RunConfig, seeds: Sequence[int]) -> dict[int, list[RunConfig]]:
    """Return, for each seed, the runs of plain training on each of its tasks alone, in the order of training.

    Empty for permuted tasks and for mixtures, whose tasks no config names one by one.

    Raises:
        DatasetError: the labels, which say what the tasks are, cannot be loaded.
    """
    if base.sequence == "permuted" or is_mixture(base.dataset):
        return {}
    sets = load_all(base.dataset)
    first = [0, *itertools.accumulate(len(data.classes) for data in sets)]
    plain = base.replace(method="sgd", c=0.0, n_tasks=None, classes_per_task=RunConfig().classes_per_task)
    found = {}
    for seed in seeds:
        tasks = make_sequence(base.replace(seed=seed), sets).tasks
        groups = [tuple(first[task.dataset] + label for label in task.classes) for task in tasks]
        found[seed] = [plain.replace(seed=seed, class_groups=(group,)) for group in groups]
    return found


def transfer(runs: Sequence[Run], of_tasks: dict[int, list[RunConfig]], single: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run: `run`, `method`, `seed` and each of `METRICS`, in % and percentage points; the last two
    are NaN where no task was trained alone.

    Args:
        runs: of any method.
        of_tasks: what `alone` returns.
        single: what these configs came to, in any order.
    """
    reached = {run.config: float(run.accuracy["accuracy"].iloc[-1]) for run in single}
    rows = []
    for run in runs:
        reference = pd.Series([reached[config] for config in of_tasks.get(run.config.seed, ())], dtype=float).to_numpy()
        row: dict[str, Any] = {"run": run.run_id, "method": run.config.method, "seed": run.config.seed}
        for name in METRICS:
            if name not in ("intransigence", "forward_transfer"):
                row[name] = 100 * getattr(metrics, name)(run.accuracy)
            else:
                row[name] = 100 * getattr(metrics, name)(run.accuracy, reference) if len(reference) else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per `method`: `seeds`, and each of `METRICS` with its `_low` and `_high`."""
    return metrics.over_seeds(table, ["method"], list(METRICS))


def statements(means: pd.DataFrame) -> list[str]:
    """Say in a sentence for each method what was lost and what was not learnt, from what `over_seeds` returns."""
    said = []
    for row in means.to_dict("records"):
        parts = []
        for name in ("forgetting", "intransigence", "forward_transfer"):
            label, unit = METRICS[name]
            value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
            interval = "" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]"
            parts.append(f"{label} {value:.2f}{unit}{interval}" if not pd.isna(value) else f"{label} not measured")
        said.append(f"{METHODS[row['method']]}: {', '.join(parts)} (n = {row['seeds']}).")
    return said
