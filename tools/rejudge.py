"""Judge the committed tables of a profile anew, where training it again would take hours.

    python tools/rejudge.py mnist
    python tools/rejudge.py cnn
    python tools/rejudge.py tight

Writes results/reference/PROFILE/verdicts.csv, and of ablations `findings.csv` beside it in a folder of their name, by
today's rules from the tables that are committed. The notebooks in the folders of figures show what they showed when
they were run. Once a profile is made again, `tools/reference.py take` replaces all of it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from hatlab.analysis import paper, verdicts
from hatlab.analysis.verdicts import Printed, Verdict
from hatlab.config import RunConfig
from hatlab.experiments.cross_ablation import claims as ablation_claims
from hatlab.experiments.cross_ablation import tables as ablation
from hatlab.experiments.forgetting import claims as forgetting_claims
from hatlab.experiments.precision import claims as precision_claims
from hatlab.experiments.precision import tables as precision
from hatlab.experiments.weight_reuse import claims as reuse_claims
from hatlab.support.artifacts import COST, cost
from hatlab.support.paths import checkout

OLD = ("claim", "unit", "paper", "ours", "low", "high", "n", "verdict", "why")


def spread(row: pd.Series) -> list[float]:
    """Return n values with the mean and the t interval of an older verdict."""
    n = int(row["n"])
    if n < 2 or row["ours"] in (0, 100):  # all runs or none
        return [row["ours"]] * n
    sd = (row["high"] - row["ours"]) / special.stdtrit(n - 1, 0.975) * np.sqrt(n)
    values = np.array([-1.0, 1.0] * (n // 2) + [0.0] * (n % 2))
    return list(row["ours"] + (sd / values.std(ddof=1) if values.any() else 0.0) * values)


def of_capacity(folder: Path, old: pd.DataFrame, config: RunConfig) -> list[Verdict]:
    """What the capacity curve's older verdicts are now; seeds are counted in the curves."""
    seeds = pd.read_parquet(folder / "capacity.parquet")["seed"].nunique()
    found = []
    for _, row in old.iterrows():
        claim = row["claim"].removeprefix("Fig. 5: ").replace("(derived from e", "(from e")
        in_all = re.fullmatch(r"in (\d+) of \1 runs", row["why"]) is not None
        if "before the first step" in claim:
            if seeds > 1:
                expected = 25.0 if "between" in claim else 50.0
                found.append(verdicts.derived(claim, spread(row), expected))
        elif "jumps up" in claim or "never falls" in claim:
            assert in_all, row["why"]
            found.append(verdicts.check(claim, [True] * int(row["n"])))
        elif "average accuracy" in claim:
            found.append(
                verdicts.number(claim, spread(row), Printed(row["paper"], 0.1), deviations=paper.deviations(config))
            )
        else:
            assert in_all, row["why"]
            claim = row["claim"].replace("(c > 0)", "(every c > 0)") if "within every task" in claim else row["claim"]
            found.append(verdicts.most_runs(claim, [True] * seeds))
    return found


def of_ablation(folder: Path) -> pd.DataFrame:
    """Return the sentences of an ablation; those on the modes at their best c, if it chose them."""
    outcomes, best = pd.read_parquet(folder / "outcomes.parquet"), []
    if (folder / "tuning.parquet").exists():
        chosen = ablation.best(pd.read_parquet(folder / "tuning.parquet"))
        best = ablation_claims.at_best(pd.read_parquet(folder / "at_best.parquet"), chosen)
    differences = ablation.differences(ablation.pairs(outcomes))
    return ablation_claims.table(differences, ablation.summary(outcomes), best)


def judged(folder: Path, config: RunConfig) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the verdicts of a figure by today's rules, and of an ablation the findings."""
    old = pd.read_parquet(folder / "verdicts.parquet")
    notebook = next(folder.glob("*.ipynb")).name[3:-6]
    if tuple(old) == Verdict._fields:  # of today's kind
        return old, of_ablation(folder) if notebook == "cross_ablation" else None
    assert tuple(old) == OLD, f"{folder}: of neither kind"
    match notebook:
        case "capacity_usage":
            found = of_capacity(folder, old, config)
        case "cross_ablation":
            pairs = ablation.pairs(pd.read_parquet(folder / "outcomes.parquet"))
            return ablation_claims.verdict_table(pairs), of_ablation(folder)
        case "hyperparameters":
            ratios = pd.read_parquet(folder / "ratios.parquet").assign(learnt=np.nan, forgotten=np.nan)
            found = forgetting_claims.verdicts_for_ranges(ratios, 0.75, 400.0)
        case "forgetting":
            found = forgetting_claims.verdicts_for(pd.read_parquet(folder / "ratios.parquet"), {"mnist": 60_000})
        case "precision":
            pairs = precision.pairs(pd.read_parquet(folder / "outcomes.parquet"))
            found = precision_claims.verdicts_for(pairs)
        case "weight_reuse":
            found = reuse_claims.verdicts_for(pd.read_parquet(folder / "pairs.parquet"))
        case "compression":
            why = "the paper's network is its CNN, this is an MLP 400-400"
            found = [verdicts.new(row["claim"], spread(row), why, unit=row["unit"]) for _, row in old.iterrows()]
    return verdicts.table(found), None


def every(profile: str) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return the verdicts of a profile in the order in which they are committed, and its ablations' findings."""
    reference = checkout() / "results" / "reference" / profile
    tables, findings = [], {}
    for name in dict.fromkeys(pd.read_csv(reference / "verdicts.csv")["figure"]):
        manifest = json.loads((reference / name / "manifest.json").read_text(encoding="utf-8"))
        table, found = judged(reference / name, RunConfig(**manifest["runs"][0]["config"]))
        tables.append(table.assign(figure=name, **cost(manifest)))
        if found is not None:
            findings[name] = found
    return pd.concat(tables, ignore_index=True)[["figure", *Verdict._fields, *COST]], findings


def main(profile: str) -> None:
    """Do what the module's text says."""
    reference = checkout() / "results" / "reference" / profile
    table, findings = every(profile)
    table.to_csv(reference / "verdicts.csv", index=False, lineterminator="\n")
    for name, found in findings.items():
        (reference / "findings").mkdir(exist_ok=True)
        found.to_csv(reference / "findings" / f"{name}.csv", index=False, lineterminator="\n")
    print(f"{profile}: {verdicts.summary(table)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
