"""What the paper says of compression (section 4.4, Fig. 7), compared with the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import pandas as pd

from hatlab.analysis.metrics import Interval, mean_interval
from hatlab.analysis.paper import COMPRESSION
from hatlab.analysis.verdicts import Printed, Verdict, most_runs, new, number
from hatlab.training.runs import Run

__all__ = ["statement", "verdicts_for"]

PAPER_TRUNK: Final = 6_499_328  # trunk weights of the authors' CNN for images of 32x32 in three channels


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


def verdicts_for(runs: Sequence[Run], results: pd.DataFrame, tolerance: float) -> list[Verdict]:
    """Compare the results with the paper, for each c: is SGD's accuracy reached, and with which share of the weights?

    Args:
        runs: of HAT.
        results: what `by_run` returns of them.
        tolerance: as given to it.
    """
    verdicts = []
    for c, same in results.groupby("c"):
        run = next(run for run in runs if run.run_id == same["run"].iloc[0])
        title = run.manifest["title"]
        printed, other = COMPRESSION.get(title), _not_the_papers(run)
        reached = same["smallest_share"].notna()
        where = f"{title}, c = {c:g} (Fig. 7)"
        points = f"{tolerance:g} point{'s' * (tolerance != 1)}"
        claim = f"some epoch is within {points} of SGD's validation accuracy: {where}"
        shares = same.loc[reached, "smallest_share"].tolist()
        size = f"smallest share of the weights of such an epoch: {where}"
        if printed is not None and not other:
            verdicts.append(most_runs(claim, reached.tolist()))
            found = [number(size, shares, Printed(printed, 1.0))] if shares else []
        else:
            why = other or "the paper prints no number of this data set"
            verdicts.append(new(claim, (100.0 * reached).tolist(), why, unit="% of runs"))
            found = [new(size, shares, why)] if shares else []
        verdicts += found
    return verdicts


def _not_the_papers(run: Run) -> str:
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
