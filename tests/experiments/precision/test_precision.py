import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.analysis.comparisons import paired
from hatlab.analysis.metrics import mean_interval
from hatlab.analysis.verdicts import ESTIMATED
from hatlab.config import ConfigError, RunConfig
from hatlab.experiments.precision import tables
from hatlab.experiments.precision.claims import alone, statements, verdicts_for
from hatlab.experiments.precision.tables import ARMS, OUTCOMES, differences, outcomes, over_seeds, pairs, plan, simulate
from hatlab.method.gate import compensated_gradient, gate, s_schedule
from hatlab.method.regularizer import mask_sparsity
from hatlab.training.runs import Run, Tables

# Share of active units after 1, 2 and 5 epochs, measured once by another program in one draw of 4544 units.
RECORDED = {"float32": (36.0, 33.3, 28.1), "float64": (30.3, 26.9, 20.4), "exact": (28.4, 14.9, 2.7)}


def by_epoch(simulated, arm):
    return simulated[simulated["arm"] == arm].pivot(index="seed", columns="epoch", values="active")


@pytest.fixture(scope="module")
def simulated():
    return simulate([0, 1, 2], epochs=5)


def test_what_the_regularizer_alone_leaves_is_said_of_each_arm(simulated):
    said = alone(simulated)
    assert [sentence.partition(":")[0] for sentence in said] == ["float32", "float64", "exact compensation"]
    last = simulated[simulated["epoch"] == 5]
    assert (
        f"after 5 epochs of the regularizer alone {last.loc[last['arm'] == 'float32', 'active'].mean():.2f}% ["
        in said[0]
    )
    swapped = simulated.replace({"arm": {"float32": "exact", "exact": "float32"}})
    assert alone(swapped)[0].removeprefix("exact compensation") == said[0].removeprefix("float32")
    assert (
        "(n = 1)" in alone(simulated[simulated["seed"] == 0])[0]
        and "[" not in alone(simulated[simulated["seed"] == 0])[0]
    )


def test_all_arms_start_from_the_same_embeddings_and_close_units_at_their_own_pace(simulated):
    starts = simulated[simulated["epoch"] == 0]
    assert starts.groupby("seed")["active"].nunique().tolist() == [1, 1, 1] and starts["active"].nunique() == 3
    curves = {arm: by_epoch(simulated, arm) for arm in ARMS}
    for curve in curves.values():
        assert (curve.diff(axis=1).iloc[:, 1:] < 0).all(axis=None)
    after = [curves[arm].loc[:, 1:] for arm in ("float32", "float64", "exact")]
    assert (after[0] > after[1]).all(axis=None) and (after[1] > after[2]).all(axis=None)


@pytest.mark.parametrize("arm", ARMS)
def test_units_close_as_fast_as_was_measured_before(simulated, arm):
    """Three standard deviations of a share in a draw of 4544 units."""
    found = by_epoch(simulated, arm)[[1, 2, 5]].mean().to_numpy() / 100
    away = 3 * np.sqrt(found * (1 - found) / 4544)
    assert np.all(np.abs(found - np.array(RECORDED[arm]) / 100) < away)


@settings(max_examples=5, deadline=None)
@given(st.sampled_from(list(ARMS)), st.integers(0, 2**31), st.sampled_from([0.75, 5.0]), st.sampled_from([50.0, 400.0]))
def test_units_that_are_off_are_not_missed(arm, seed, c, s_max):
    """The same with all units to the end, one seed at a time, and the gradient of c R by autograd."""
    units, fields, form = 60, RunConfig(**ARMS[arm]), ARMS[arm]["compensation"]
    e = torch.randn(units, generator=torch.Generator().manual_seed(seed)).clamp(-6, 6)
    e = e.to(getattr(torch, fields.gate_precision))
    expected = [int((e > 0).sum())]
    for _ in range(3):
        for s in s_schedule("authors", s_max, 100, 4).tolist():
            mask = gate(e, s).requires_grad_()
            r = mask_sparsity([mask], [torch.zeros_like(mask)], "original")
            (gradient,) = torch.autograd.grad(c * r, mask)
            pulled = compensated_gradient(gradient, mask.detach(), e, s, s_max, form, 50.0)
            e = (e - 0.05 * pulled).clamp(-6, 6)
        expected.append(int((e > 0).sum()))
    size = {"units": units, "c": c, "s_max": s_max, "images": 100, "batch_size": 4, "epochs": 3}
    found = by_epoch(simulate([seed + 1, seed], **size), arm).loc[seed]
    assert (found * units / 100).round(9).tolist() == expected


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 10))
def test_exact_compensation_is_descent_along_the_plain_sigmoid(seed, c):
    """In NumPy: e falls by rate * c / units * s_max * sigmoid'(e) at each step."""
    units, s_max = 50, 400.0
    e = torch.randn(units, generator=torch.Generator().manual_seed(seed)).clamp(-6, 6).double().numpy()
    for _ in range(50):
        plain = 1 / (1 + np.exp(-e))
        e = np.clip(e - 0.05 * c / units * s_max * plain * (1 - plain), -6, 6)
    if np.abs(e).min() < 1e-4:  # rounding decides
        return
    size = {"units": units, "c": c, "s_max": s_max, "images": 25, "batch_size": 1, "epochs": 2}
    assert by_epoch(simulate([seed], **size), "exact")[2].item() == pytest.approx(100 * np.mean(e > 0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"c": 0.0}, "c = 0 in the simulation"),
        ({"c": -1.0}, r"c = -1\.0"),
        ({"schedule": "mine"}, "schedule = 'mine'"),
        ({"s_max": 0.5}, r"s_max = 0\.5"),
        ({"seeds": []}, "asked for 0 seeds"),
        ({"units": 0}, "asked for 0 units"),
        ({"epochs": 0}, "asked for 0 epochs"),
        ({"images": 0}, "asked for 0 images"),
    ],
)
def test_what_cannot_be_simulated_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        simulate(**values)


def test_every_arm_is_planned_for_every_schedule_and_seed():
    configs = plan(RunConfig(c=2.5), ["authors", "paper"], [0, 3])
    keys = [(c.schedule, c.gate_precision, c.compensation, c.seed) for c in configs]
    arms = [("float32", "authors"), ("float64", "authors"), ("float32", "exact")]
    assert keys == [(s, *arm, seed) for s in ("authors", "paper") for arm in arms for seed in (0, 3)]
    assert {c.c for c in configs} == {2.5} and len({c.run_id for c in configs}) == 12


@pytest.mark.parametrize(
    ("values", "schedules", "seeds", "message"),
    [
        ({"method": "sgd", "c": 0.0}, ["authors"], [0], "method = 'sgd': allowed is 'hat'"),
        ({"gate_precision": "float64"}, ["authors"], [0], "gate_precision = 'float64'.*leave both out"),
        ({"compensation": "exact"}, ["authors"], [0], "compensation = 'exact'.*leave both out"),
        ({}, [], [0], r"schedule: \[\] is not a list of one or more values"),
        ({}, ["author"], [0], "schedule = 'author'"),
        ({}, ["authors"], [1, 1], "seed: 1 is named twice"),
    ],
)
def test_plans_that_make_no_sense_are_refused(values, schedules, seeds, message):
    with pytest.raises(ConfigError, match=message):
        plan(RunConfig(**values), schedules, seeds)


def finished(tmp_path, schedules=("authors", "paper"), seeds=(0, 1, 2, 3, 4)):
    """Runs whose usage is 60, 45 and 10 % by arm, 5 more with the paper's schedule; the seed is added to all."""
    runs = []
    for config in plan(RunConfig(), schedules, seeds):
        level = {"float32": 600, "float64": 450}[config.gate_precision] if config.compensation == "authors" else 100
        used = level + 50 * (config.schedule == "paper") + 10 * config.seed
        row = {"run": config.run_id, "task": 0, "weights": 1000, "weights_used": used}
        capacity = pd.DataFrame([{**row, "epoch": 0, "layer": layer} for layer in ("fc1", "total")])
        accuracy = pd.DataFrame([{"run": config.run_id, "after_task": 0, "task": 0, "accuracy": 0.9}])
        tables = Tables(capacity, accuracy, accuracy[["run"]], pd.DataFrame([row]))
        runs.append(Run(config, tmp_path, {}, tables))
    return runs


def test_the_curves_table_says_which_arm_and_schedule_a_row_is_of(tmp_path):
    table = tables.capacity(finished(tmp_path, seeds=(0, 1)))
    assert list(table.columns[:3]) == ["run", "schedule", "arm"] and set(table["layer"]) == {"total"}
    assert len(table) == 12
    used = table.groupby(["schedule", "arm"], sort=False)["weights_used"].min()
    assert used.to_dict() == {
        ("authors", "float32"): 600, ("authors", "float64"): 450, ("authors", "exact"): 100,
        ("paper", "float32"): 650, ("paper", "float64"): 500, ("paper", "exact"): 150,
    }  # fmt: skip


def test_means_over_seeds(tmp_path):
    table = over_seeds(outcomes(finished(tmp_path)))
    assert table[["schedule", "arm"]].to_numpy().tolist() == [[s, a] for s in ("authors", "paper") for a in ARMS]
    row = table.iloc[1]
    found = row[["usage", "usage_low", "usage_high"]].astype(float)
    np.testing.assert_allclose(found, mean_interval([45, 46, 47, 48, 49]))
    assert row["seeds"] == 5 and row["accuracy"] == pytest.approx(90)


def test_arms_are_compared_within_a_schedule_and_schedules_within_an_arm(tmp_path):
    table = outcomes(finished(tmp_path)).sample(frac=1, random_state=1).sort_values("schedule")  # order plays no part
    table.loc[(table["arm"] == "exact") & (table["seed"] == 3), "usage"] -= 4
    found = differences(pairs(table))
    keys = ["arm", "schedule", "reference_arm", "reference_schedule"]
    usage = found[found["outcome"] == "usage"].set_index(keys)
    assert {key: round(mean, 6) for key, mean in usage["mean"].items()} == {
        ("float64", "authors", "float32", "authors"): -15, ("exact", "authors", "float32", "authors"): -50.8,
        ("float64", "paper", "float32", "paper"): -15, ("exact", "paper", "float32", "paper"): -50.8,
        ("float32", "paper", "float32", "authors"): 5, ("float64", "paper", "float64", "authors"): 5,
        ("exact", "paper", "exact", "authors"): 5,
    }  # fmt: skip
    row = usage.loc[("exact", "authors", "float32", "authors")]
    assert (row["n"], row["low"], row["high"]) == pytest.approx((5, *paired([-50, -50, -50, -54, -50])[2:4]))
    assert set(found["outcome"]) == set(OUTCOMES) and len(found) == 14


def test_sentences_follow_the_table(tmp_path):
    table = outcomes(finished(tmp_path, ["authors"], range(10)))
    table.loc[(table["arm"] == "float64") & (table["seed"] == 0), "accuracy"] += 1
    first, second = statements(differences(pairs(table)))
    assert first.startswith(
        "With float64 instead of float32 (authors schedule), usage at the end: lower (−15.0 [−15.0, −15.0] points); "
    )
    assert "average accuracy: no difference found, beyond 0.33 excluded (+0.10 [−0.13, 0.33] points)" in first
    assert first.endswith("; n = 10 seeds.") and "exact compensation" in second and "lower (−50.0 [" in second
    table["usage"] = 100 - table["usage"]
    assert "higher (+15.0 [15.0, 15.0] points)" in statements(differences(pairs(table)))[0]
    few = statements(differences(pairs(outcomes(finished(tmp_path, seeds=(0, 1))))))
    assert "usage at the end: too few pairs (−15.0 [−15.0, −15.0] points)" in few[0]
    assert few[4].startswith("With the paper schedule instead of the authors one (float32), usage")
    assert "too few pairs (+5.0 [" in few[4]
    alone = statements(differences(pairs(outcomes(finished(tmp_path)))))  # five pairs cannot stand beside six others
    assert "nominally significant, not after Holm's correction (−15.0 [" in alone[0]


def test_the_paper_has_nothing_to_compare_with(tmp_path):
    found = verdicts_for(pairs(outcomes(finished(tmp_path))))
    assert {v.verdict for v in found} == {ESTIMATED} and all(math.isnan(v.paper) for v in found)
    assert [(round(v.ours, 6), v.n) for v in found] == [(-15, 5), (-50, 5), (-15, 5), (-50, 5), (5, 5)]
    assert [v.why for v in found[:4]] == ["the paper does not report precision"] * 4
    assert found[4].claim == "usage at the end: paper - authors schedule"
    assert len(verdicts_for(pairs(outcomes(finished(tmp_path, ["paper"]))))) == 2
