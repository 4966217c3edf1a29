"""What the paper says of forgetting (Fig. 3, Table 1) and of c and s_max (Fig. 4), compared with the tables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from hatlab.analysis import paper
from hatlab.analysis.paper import METHODS, PAPER_SEEDS
from hatlab.analysis.verdicts import Printed, Verdict, new, number, statement
from hatlab.experiments.forgetting.tables import over_seeds

MARGIN = 0.02  # of a ratio: two of the last digits that Table 1 prints

__all__ = ["sensitivity", "statements", "verdicts_for", "verdicts_for_ranges", "without_task"]


def statements(table: pd.DataFrame) -> list[str]:
    """Return what the table says after the last task, a sentence for each method, from least to most forgotten."""
    t = int(table["tasks_learnt"].max())
    means = over_seeds(table[table["tasks_learnt"] == t], by=["method"]).sort_values("ratio", ascending=False)
    return [
        f"After {t} tasks {METHODS[row['method']]} has a forgetting ratio of {_interval(row)} (n = {row['seeds']}), "
        f"with an average accuracy of {row['accuracy']:.1f}%: {row['learnt']:.1f}% right after each task, of which "
        f"{row['forgotten']:.1f} points were forgotten on the tasks but the last."
        for row in means.to_dict("records")
    ]


def verdicts_for(table: pd.DataFrame, sizes: Mapping[str, int]) -> list[Verdict]:
    """Return verdicts: HAT forgets no more than each other method, and each method's ratios beside Table 1.

    Args:
        table: what `forgetting` returns.
        sizes: data set -> its training images. The paper's numbers are of its whole mixture.
    """
    last = table[table["tasks_learnt"] == table["tasks_learnt"].max()]
    ratios = last.pivot(index="seed", columns="method", values="ratio").dropna()
    methods = [name for name in METHODS if name in ratios]
    found = [
        statement(
            f"HAT forgets no more than {METHODS[name]} (Table 1): difference of the ratios, allowed {-MARGIN:g}",
            (ratios["hat"] - ratios[name]).tolist(),
            -MARGIN,
            unit="",
        )
        for name in methods
        if name != "hat" and "hat" in ratios
    ]
    for name in methods:
        for t in (2, 8):
            values = table[(table["method"] == name) & (table["tasks_learnt"] == t)]["ratio"].dropna().tolist()
            printed = paper.forgetting(METHODS[name], t)
            if values and printed is not None:
                claim = f"{METHODS[name]}: ratio after {t} tasks (Table 1)"
                if dict(sizes) == paper.SIZES:
                    found.append(number(claim, values, Printed(printed[0], 0.01, printed[1], PAPER_SEEDS), unit=""))
                else:
                    found.append(new(claim, values, "Table 1 is of the paper's eight data sets", unit=""))
    return found


def without_task(means: pd.DataFrame) -> str:
    """Say how far HAT gets without the task, from what `agnostic.over_seeds` returns."""
    (row,) = means.to_dict("records")

    def share(name: str) -> str:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return f"{row[name]:.1f}%" + ("" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]")

    return (
        f"With the task given HAT is right in {share('given')} of the test images; with the task guessed from the "
        f"entropy of each task's output in {share('guessed')}. The task is found in {share('found')} "
        f"(n = {row['seeds']})."
    )


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
            f"Over {name} from {line[name].min():g} to {line[name].max():g}, at {fixed}, the ratio is highest at "
            f"{best[name]:g}, {_interval(best)}, and lowest at {worst[name]:g}, {_interval(worst)}. These are extremes "
            f"of {len(line)} values, picked after seeing them (n = {line['seeds'].min()} seeds each)."
        )
    return sentences


def verdicts_for_ranges(table: pd.DataFrame, c: float, s_max: float) -> list[Verdict]:
    """Return what is lost at most within the ranges that section 4.3 calls good, against the best value of all.

    Args:
        table, c, s_max: as for `sensitivity`.
    """
    found = []
    for (name, _, line), (low, high) in zip(_lines(table, c, s_max), ((25, 800), (0.1, 2.5)), strict=True):
        ratios = line.pivot(index="seed", columns=name, values="ratio")
        inside = [value for value in ratios if low <= float(str(value)) <= high]
        lost = ratios[inside].min(axis=1) - ratios.max(axis=1)
        claim = f"{name} from {low:g} to {high:g} is good (section 4.3): worst ratio in it minus best of all"
        found.append(new(claim, lost.tolist(), "the section states no measure of good", unit=""))
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
