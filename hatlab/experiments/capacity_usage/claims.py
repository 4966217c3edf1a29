"""What Fig. 5 is described to show, and whether it is so: properties of the method, to be seen on any images.

The image of the figure was not at hand, and the text gives no number of it. The properties follow from how masks
start (e ~ N(0, 1), so that each unit is as likely on as off), from the regularizer, and from the cumulative mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hatlab.analysis import paper
from hatlab.analysis.metrics import average_accuracy
from hatlab.analysis.verdicts import Printed, Verdict, check, derived, most_runs, number
from hatlab.training.runs import Run, collect

__all__ = ["statement", "verdicts_for"]


def verdicts_for(runs: Sequence[Run]) -> list[Verdict]:
    """Return a verdict on each property of Fig. 5; those that `runs` cannot show are left out.

    How usage starts is checked by seed, since all runs of one seed start alike; what is true by construction by run;
    what the paper says in words by seed, over all of its runs.

    Args:
        runs: of HAT, on one data set and network.

    Raises:
        ValueError: there are no runs.
    """
    tables = collect(runs)
    normal = all(run.config.embedding_init == "normal" for run in runs)
    return [
        *(_start(tables.capacity) if normal else []),
        *_switches(tables.capacity, tables.tasks),
        *_pruning(tables.capacity),
        *_order(tables.tasks),
        *_accuracy(runs),
    ]


def _start(capacity: pd.DataFrame) -> list[Verdict]:
    before = capacity[(capacity["task"] == 0) & (capacity["epoch"] == -1) & (capacity["layer"] != "total")]
    first = before["layer"].iloc[0]
    verdicts = []
    for what, rows, expected in (
        ("weights between gated units", before[before["layer"] != first], 25.0),
        ("weights of the first layer", before[before["layer"] == first], 50.0),
    ):
        one = (
            rows.groupby("run").agg({"seed": "first", "weights": "sum", "weights_used": "sum"}).groupby("seed").first()
        )
        if len(one) > 1:  # one seed has no interval
            values = (100 * one["weights_used"] / one["weights"]).tolist()
            verdicts.append(derived(f"{what} in use before the first step (from e ~ N(0, 1))", values, expected))
    return verdicts


def _switches(capacity: pd.DataFrame, tasks: pd.DataFrame) -> list[Verdict]:
    """A new task's embedding opens half of the units, so usage jumps; a maximum over tasks never falls."""
    total = capacity[capacity["layer"] == "total"]
    starts = total[total["epoch"] == -1].pivot(index="run", columns="task", values="weights_used")
    ends = tasks.pivot(index="run", columns="task", values="weights_used")
    if ends.shape[1] < 2:
        return []
    ends = ends.reindex(starts.index)
    after, before = starts.to_numpy()[:, 1:], ends.to_numpy()[:, :-1]
    full = before == tasks["weights"].iloc[0]  # nothing is left that a jump could take
    jumps, kept = ((after > before) | full).all(axis=1), (ends.diff(axis=1).iloc[:, 1:] >= 0).all(axis=1)
    return [
        check("usage jumps up at every task switch", jumps.tolist()),
        check("usage after each task never falls", kept.tolist()),
    ]


def _pruning(capacity: pd.DataFrame) -> list[Verdict]:
    total = capacity[(capacity["layer"] == "total") & (capacity["c"] > 0)].sort_values("epoch")
    if total.empty:
        return []
    ends = total.groupby(["seed", "run", "task"])["weights_used"].agg(["first", "last"])
    pruned = (ends["last"] < ends["first"]).groupby("seed").all()
    claim = "Fig. 5: within every task usage ends below where it started (every c > 0)"
    return [most_runs(claim, pruned.tolist())]


def _order(tasks: pd.DataFrame) -> list[Verdict]:
    last = tasks[(tasks["task"] == tasks["task"].max()) & (tasks["c"] > 0)].sort_values("c")
    falls = {}
    for seed, of_seed in last.groupby("seed"):
        lines = [same["weights_used"].diff().iloc[1:] < 0 for _, same in of_seed.groupby("s_max")]
        if any(map(len, lines)):
            falls[seed] = all(line.all() for line in lines)
    claim = "sec. 2.6: usage after the last task falls with growing c (c > 0)"
    return [most_runs(claim, list(falls.values()))] if falls else []


def _accuracy(runs: Sequence[Run]) -> list[Verdict]:
    """What the text prints of HAT on this sequence, if it does, beside the runs with its c and s_max."""
    alike = [run for run in runs if (run.config.c, run.config.s_max, run.config.mode) == (0.75, 400.0, "original")]
    printed = paper.accuracy(alike[0].config) if alike else None
    if printed is None:
        return []
    name, value = printed
    values = [100 * average_accuracy(run.accuracy) for run in alike]
    return [
        number(
            f"average accuracy on {name} (section 4)",
            values,
            Printed(value, 0.1),
            deviations=paper.deviations(alike[0].config),
        )
    ]


def statement(table: pd.DataFrame) -> str:
    """Say in words how far AdaHAT's capacity is from the share of free weights, over all runs and tasks but the first.

    Args:
        table: what `by_task` returns.
    """
    later = table[(table["layer"] == "total") & (table["task"] > 1)]
    if later.empty:
        return "There is one task, and before it the whole network is left."
    beyond = later["adahat"] - later["free"]
    runs, tasks = later["run"].nunique(), later["task"].nunique()
    return (
        f"AdaHAT's capacity minus the share of free weights: between {beyond.min():+.2f} and {beyond.max():+.2f} "
        f"percentage points, {beyond.mean():+.2f} on average ({runs} run{'s' * (runs > 1)}, each before "
        f"{tasks} task{'s' * (tasks > 1)})."
    )
