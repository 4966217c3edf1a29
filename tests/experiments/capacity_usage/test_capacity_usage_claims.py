import numpy as np
import pandas as pd
import pytest

from hatlab.analysis.verdicts import AGREES, DIFFERS, NOT_COMPARABLE
from hatlab.config import RunConfig
from hatlab.experiments.capacity_usage.claims import verdicts_for
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


def runs(tmp_path, **changed):
    """Two seeds at two values of c, one of them changed."""
    odd = {"c": 0.75, "seed": 1, "ends": (1000, 1500), **changed}
    return [
        run(tmp_path, 2.5, 0, ends=(500, 700)),
        run(tmp_path, 2.5, 1, ends=(500, 700)),
        run(tmp_path, 0.75, 0),
        run(tmp_path, **odd),
    ]


def verdicts(found):
    return {name: next(v.verdict for v in found if name in v.claim) for name in CLAIMS}


def test_what_the_figure_is_described_to_show_is_found_where_it_is(tmp_path):
    found = verdicts_for(runs(tmp_path))
    assert verdicts(found) == dict.fromkeys(CLAIMS, AGREES)
    assert [v.n for v in found] == [2, 2, 4, 4, 4, 2]  # seeds start alike and are compared over c; runs otherwise
    assert [(v.paper, round(v.ours, 6)) for v in found[:2]] == [(25, 25), (50, 50)]
    assert all("derived" in v.claim for v in found[:2])


@pytest.mark.parametrize(
    ("changed", "claim", "why"),
    [
        ({"starts": (1500, 1000), "lasts": (1000, 900)}, "jumps up", "in 3 of 4 runs"),  # to where usage was already
        ({"ends": (1000, 900)}, "never falls", "in 3 of 4 runs"),
        ({"lasts": (1000, 2000)}, "ends below", "in 3 of 4 runs"),
        ({"ends": (500, 600)}, "growing c", "in 1 of 2 runs"),
    ],
)
def test_one_run_without_it_is_enough_to_differ(tmp_path, changed, claim, why):
    found = verdicts_for(runs(tmp_path, **changed))
    assert verdicts(found) == {**dict.fromkeys(CLAIMS, AGREES), claim: DIFFERS}
    assert next(v.why for v in found if claim in v.claim) == why


def test_a_full_network_has_nothing_to_jump_to(tmp_path):
    full = run(tmp_path, ends=(5000, 5000), starts=(5000, 5000), lasts=(4999, 4999))
    assert next(v.verdict for v in verdicts_for([full]) if "jumps up" in v.claim) == AGREES


def test_how_far_the_start_is_from_what_is_derived_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(START, "fc2", 0.4)
    found = verdicts_for([run(tmp_path, seed=seed) for seed in range(2, 8)])
    assert (found[0].verdict, found[1].verdict) == (DIFFERS, AGREES)
    assert found[0].ours == pytest.approx(40) and found[0].low < 40 < found[0].high


def test_masks_that_do_not_start_from_a_normal_distribution_are_not_compared_with_one(tmp_path):
    found = verdicts_for([run(tmp_path, seed=seed, embedding_init="uniform") for seed in (0, 1)])
    assert {v.verdict for v in found[:2]} == {NOT_COMPARABLE} and "N(0, 1)" in found[0].why


def test_what_runs_cannot_show_is_left_out(tmp_path):
    one_task = verdicts_for(
        [run(tmp_path, 0.0, seed, ends=(1500,), starts=(1500,), layers=("fc1",)) for seed in (0, 1)]
    )
    assert [v.claim for v in one_task] == [
        "Fig. 5: weights of the first layer in use before the first step (derived from e ~ N(0, 1))"
    ]
    slopes = verdicts_for([run(tmp_path, seed=seed, s_max=s_max) for seed in (0, 1) for s_max in (25.0, 400.0)])
    assert not any("growing c" in v.claim for v in slopes)
    assert [v.n for v in slopes] == [2, 2, 4, 4, 4] and not np.isnan(slopes[0].low)
