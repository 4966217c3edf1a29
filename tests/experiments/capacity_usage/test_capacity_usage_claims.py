import math

import numpy as np
import pandas as pd
import pytest

from hatlab.analysis.verdicts import AGREES, DIFFERS, FAILS, HOLDS, PASSES, UNDECIDED
from hatlab.config import RunConfig
from hatlab.experiments.capacity_usage.claims import _accuracy, verdicts_for
from hatlab.training.runs import Run, Tables

NONE = pd.DataFrame()
WEIGHTS = {"fc1": 1000, "fc2": 4000, "total": 5000}
START = {"fc1": 0.5, "fc2": 0.25}
CLAIMS = ["between gated units", "first layer", "jumps up", "never falls", "ends below", "growing c"]


def run(tmp_path, c=0.75, seed=0, ends=(1000, 1500), starts=(1500, 2000), lasts=None, layers=("fc1", "fc2"), **values):
    """Weights in use by the cumulative mask after each task, before its first step, and after its last epoch."""
    config = RunConfig(c=c, seed=seed, **values)
    lasts = ends if lasts is None else lasts
    rows = []
    for task, counts in enumerate(zip(starts, lasts, strict=True)):
        for epoch, count in zip((-1, 7), counts, strict=True):
            for layer in layers:
                share = START[layer] + 0.02 * (-1) ** seed
                rows.append((config.run_id, task, epoch, layer, WEIGHTS[layer], round(share * WEIGHTS[layer])))
            rows.append((config.run_id, task, epoch, "total", WEIGHTS["total"], count))
    capacity = pd.DataFrame(rows, columns=["run", "task", "epoch", "layer", "weights", "weights_used"])
    tasks = pd.DataFrame(
        {"run": config.run_id, "task": range(len(ends)), "weights": WEIGHTS["total"], "weights_used": ends}
    )
    return Run(config, tmp_path, {}, Tables(capacity, NONE.assign(run=[]), NONE.assign(run=[]), tasks))


def runs(tmp_path, seeds=6, **changed):
    """So many seeds at two values of c; one run is changed."""
    found = [run(tmp_path, 2.5, seed, ends=(500, 700)) for seed in range(seeds)]
    found += [run(tmp_path, 0.75, seed) for seed in range(seeds - 1)]
    return [*found, run(tmp_path, **{"c": 0.75, "seed": seeds - 1, "ends": (1000, 1500), **changed})]


def verdicts(found):
    return {name: next(v.verdict for v in found if name in v.claim) for name in CLAIMS}


AS_DESCRIBED = dict.fromkeys(CLAIMS[:4], PASSES) | dict.fromkeys(CLAIMS[4:], HOLDS)


def test_what_the_figure_is_described_to_show_is_found_where_it_is(tmp_path):
    found = verdicts_for(runs(tmp_path))
    assert verdicts(found) == AS_DESCRIBED
    assert [v.kind for v in found] == ["check"] * 4 + ["statement"] * 2
    assert [v.n for v in found] == [6, 6, 12, 12, 6, 6]  # what is so by construction is seen in each run
    assert [round(v.ours, 6) for v in found[:2]] == [25, 50] and all(math.isnan(v.paper) for v in found)


@pytest.mark.parametrize(
    ("changed", "claim", "verdict", "why"),
    [
        # to where usage was already
        ({"starts": (1500, 1000), "lasts": (1000, 900)}, "jumps up", FAILS, "in 11 of 12 runs"),
        ({"ends": (1000, 900)}, "never falls", FAILS, "in 11 of 12 runs"),
        ({"lasts": (1000, 2000)}, "ends below", UNDECIDED, "with 5 of 6 seeds; the interval has one half in it"),
        ({"ends": (500, 600)}, "growing c", UNDECIDED, "with 5 of 6 seeds; the interval has one half in it"),
    ],
)
def test_one_run_without_it_changes_the_verdict(tmp_path, changed, claim, verdict, why):
    found = verdicts_for(runs(tmp_path, **changed))
    assert verdicts(found) == {**AS_DESCRIBED, claim: verdict}
    assert next(v.why for v in found if claim in v.claim) == why


def test_statements_can_fail(tmp_path):
    """Networks that fill up within each task, and more so the larger c is."""
    found = [
        run(tmp_path, c, seed, ends=(1000, end), lasts=(1600, 2100))
        for seed in range(6)
        for c, end in ((0.75, 1500), (2.5, 1600))
    ]
    assert {v.verdict for v in verdicts_for(found)[4:]} == {FAILS}


def test_five_seeds_show_no_majority(tmp_path):
    assert [v.verdict for v in verdicts_for(runs(tmp_path, seeds=5))[4:]] == [UNDECIDED] * 2


def test_a_full_network_has_nothing_to_jump_to(tmp_path):
    full = run(tmp_path, ends=(5000, 5000), starts=(5000, 5000), lasts=(4999, 4999))
    assert next(v.verdict for v in verdicts_for([full]) if "jumps up" in v.claim) == PASSES


def test_how_far_the_start_is_from_what_is_derived_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(START, "fc2", 0.4)
    found = verdicts_for([run(tmp_path, seed=seed) for seed in range(2, 8)])
    assert (found[0].verdict, found[1].verdict) == (FAILS, PASSES)
    assert found[0].ours == pytest.approx(40) and found[0].low < 40 < found[0].high


def test_nothing_is_derived_for_masks_that_do_not_start_from_a_normal_distribution(tmp_path):
    found = verdicts_for([run(tmp_path, seed=seed, embedding_init="uniform") for seed in (0, 1)])
    assert not any("before the first step" in v.claim for v in found) and len(found) == 3


def test_what_runs_cannot_show_is_left_out(tmp_path):
    one_task = verdicts_for(
        [run(tmp_path, 0.0, seed, ends=(1500,), starts=(1500,), layers=("fc1",)) for seed in (0, 1)]
    )
    assert [v.claim for v in one_task] == ["weights of the first layer in use before the first step (from e ~ N(0, 1))"]
    slopes = verdicts_for([run(tmp_path, seed=seed, s_max=s_max) for seed in (0, 1) for s_max in (25.0, 400.0)])
    assert not any("growing c" in v.claim for v in slopes)
    assert [v.n for v in slopes] == [2, 2, 4, 4, 2] and not np.isnan(slopes[0].low)


# --- the number that the text prints ----------------------------------------------------------------------------------


def two_tasks(tmp_path, accuracy, seed, **values):
    config = RunConfig(dataset="mnist", classes_per_task=5, seed=seed, **values)
    finished = run(tmp_path, seed=seed)
    tested = pd.DataFrame({"run": config.run_id, "after_task": 1, "task": [0, 1], "accuracy": accuracy / 100})
    return Run(config, tmp_path, {}, finished.tables._replace(accuracy=tested))


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ([99.0, 99.02, 98.98], AGREES),
        ([98.0, 98.02, 97.98], DIFFERS),
        ([99.0, 98.0, 99.9], UNDECIDED),
        ([99.0, 99.0], UNDECIDED),
    ],
)
def test_the_accuracy_that_the_text_prints_is_compared_with_its_deviations(tmp_path, accuracies, verdict):
    found = _accuracy([two_tasks(tmp_path, value, seed, max_epochs=20) for seed, value in enumerate(accuracies)])[0]
    assert (found.kind, found.verdict, found.paper, found.n) == ("number", verdict, 99.0, len(accuracies))
    assert found.deviations == "validation = 0.15, theirs train; max_epochs = 20, theirs 200"
