"""Eq. 6 from whole runs: against the formula written out, and the sentences and verdicts against their tables."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.analysis import paper
from hatlab.config import ConfigError, RunConfig
from hatlab.data.datasets import load
from hatlab.data.tasks import make_sequence
from hatlab.experiments.forgetting import claims, tables
from hatlab.training.runs import Run, Tables

BASE = RunConfig(widths=(10,), n_tasks=3)


def made_run(config, matrix):
    """A finished run with this accuracy matrix (after task, task)."""
    rows = [(t, k, matrix[t][k]) for t in range(len(matrix)) for k in range(t + 1)]
    accuracy = pd.DataFrame(rows, columns=["after_task", "task", "accuracy"])
    empty = pd.DataFrame()
    return Run(config, None, {}, Tables(empty, accuracy, empty, empty))


def test_chance_is_what_stratified_guessing_reaches():
    sequence = make_sequence(BASE.replace(class_groups=((0, 1), (2, 3, 4)), n_tasks=None, task_order="fixed"))
    found = tables.chance(sequence)
    rng = np.random.default_rng(0)
    for task, expected in zip(sequence.tasks, found, strict=True):
        y = load("digits").y_train[task.train]
        truth = load("digits").y_test[task.test]
        guesses = rng.choice(y, (4000, len(truth)))
        assert np.mean(guesses == truth) == pytest.approx(expected, abs=0.005)
    assert found[0] == pytest.approx(1 / 2, abs=0.01) and found[1] == pytest.approx(1 / 3, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.lists(st.floats(0.7, 1), min_size=6, max_size=6))
def test_the_ratio_is_equation_6(own, joint):
    own, joint = ([values[:1], values[1:3], values[3:]] for values in (own, joint))
    config = BASE.replace(seed=3)
    table = tables.forgetting([made_run(config, own)], [made_run(tables.joint_config(config), joint)])
    random = tables.chance(make_sequence(config))
    for t in range(3):
        rho = [(own[t][k] - random[k]) / (joint[t][k] - random[k]) - 1 for k in range(t + 1)]
        assert table["ratio"][t] == pytest.approx(np.mean(rho))
        assert table["accuracy"][t] == pytest.approx(100 * np.mean(own[t]))
    assert table["tasks_learnt"].tolist() == [1, 2, 3]


def test_where_joint_training_learns_nothing_the_ratio_is_nan_and_the_reason_is_given():
    config = BASE.replace(seed=3)
    random = tables.chance(make_sequence(config))
    joint = [[0.9], [0.9, random[1] + 0.04], [0.9, random[1] + 0.06, 0.9]]
    own = [[0.8], [0.8, 0.9], [0.8, 0.7, 0.9]]
    with pytest.warns(UserWarning, match="the forgetting ratio is NaN: less than 5 points above chance") as raised:
        table = tables.forgetting([made_run(config, own)], [made_run(tables.joint_config(config), joint)])
    assert table["ratio"].isna().tolist() == [False, True, False]
    assert table["accuracy"].notna().all()
    told = str(raised[0].message).splitlines()[1:]
    assert len(told) == 1 and told[0].startswith(f"task 2: joint training reaches {random[1] + 0.04:.1%} (run ")
    assert told[0].endswith(f"2 tasks learnt), chance is {random[1]:.1%}")


def test_all_methods_share_one_joint_reference():
    configs = [
        BASE,
        BASE.replace(c=2.5, mode="cross", s_max=50.0, gate_precision="float64", compensation="exact"),
        BASE.replace(method="sgd", c=0),
        BASE.replace(method="ewc", c=0, ewc_lambda=1.0),
    ]
    assert {tables.joint_config(config).run_id for config in configs} == {tables.joint_config(BASE).run_id}
    assert tables.joint_config(BASE.replace(seed=1)) != tables.joint_config(BASE)
    assert tables.joint_config(BASE.replace(max_epochs=3)).max_epochs == 3


def test_a_run_without_its_reference_is_named():
    matrix = [[1], [1, 1], [1, 1, 1]]
    other = made_run(tables.joint_config(BASE.replace(seed=1)), matrix)
    with pytest.raises(ValueError, match=rf"run {BASE.run_id} \(seed 0\) has no joint reference"):
        tables.forgetting([made_run(BASE, matrix)], [other])


def table_of(values, tasks=(1, 2), **columns):
    """A table of `forgetting`: method -> ratios after the last task, one per seed; 0 before."""
    rows = [
        {"run": f"{method}{seed}", "method": method, "c": 0.75, "s_max": 400.0, "seed": seed, "tasks_learnt": t,
         "ratio": ratio if t == max(tasks) else 0.0, "accuracy": 90.0 + seed, "learnt": 95.0, "forgotten": 5.0,
         **columns}
        for method, ratios in values.items()
        for seed, ratio in enumerate(ratios)
        for t in tasks
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_over_seeds_gives_a_mean_and_its_interval():
    means = tables.over_seeds(table_of({"hat": [-0.1, -0.2, -0.3]}))
    last = means[means["tasks_learnt"] == 2].iloc[0]
    assert last["ratio"] == pytest.approx(-0.2) and last["seeds"] == 3
    assert last["ratio_high"] - last["ratio"] == pytest.approx(4.3027 * 0.1 / np.sqrt(3), rel=1e-4)


def test_sentences_follow_the_table():
    table = table_of({"hat": [-0.01, -0.03], "sgd": [-0.5, -0.6]})
    first, second = claims.statements(table)
    assert first.startswith("After 2 tasks HAT has a forgetting ratio of -0.020 [-0.147, 0.107] (n = 2)")
    assert second.startswith("After 2 tasks SGD has a forgetting ratio of -0.550")
    swapped = table.assign(method=table["method"].map({"hat": "sgd", "sgd": "hat"}))
    assert claims.statements(swapped)[0].startswith("After 2 tasks SGD has a forgetting ratio of -0.020")
    (alone,) = claims.statements(table_of({"ewc": [-0.2]}))
    assert "EWC has a forgetting ratio of -0.200 (one seed, no interval)" in alone


def test_verdicts_on_the_papers_mixture_and_elsewhere():
    values = {"hat": [-0.01, -0.02, -0.03], "sgd": [-0.2, -0.21, -0.22], "ewc": [0.0, -0.5, -0.6],
              "sgd_frozen": [0.1, 0.09, 0.11]}  # fmt: skip

    def judged(table, sizes):
        return {v.claim.partition(":")[0]: v for v in claims.verdicts_for(table, sizes)}

    mine = judged(table_of(values), paper.SIZES)
    assert mine["HAT forgets no more than SGD (Table 1)"].verdict == "holds"
    assert mine["HAT forgets no more than EWC (Table 1)"].verdict == "undecided"  # in the first seed it does
    assert mine["HAT forgets no more than SGD-F (Table 1)"].verdict == "fails"
    assert (mine["HAT"].kind, mine["HAT"].paper, mine["SGD"].paper) == ("number", -0.02, -0.2)
    assert mine["SGD-F"].verdict == "differs" and mine["EWC"].verdict == "undecided"
    for sizes in ({"digits": 1797}, {**paper.SIZES, "gtsrb": 26_640}):
        elsewhere = judged(table_of(values), sizes)
        assert (elsewhere["HAT"].kind, elsewhere["HAT"].verdict) == ("new", "estimated")
        assert elsewhere["HAT forgets no more than SGD (Table 1)"].verdict == "holds"  # said of any data
    eight = claims.verdicts_for(table_of({"hat": [-0.06, -0.07]}, tasks=(1, 2, 8)), paper.SIZES)
    assert [v.paper for v in eight] == [-0.02, -0.06]
    missing = judged(table_of({"hat": [-0.01, math.nan, -0.02], "sgd": [-0.2] * 3}), {})
    assert (missing["HAT"].n, missing["HAT forgets no more than SGD (Table 1)"].n) == (2, 2)


def grid_table(ratio):
    """Rows over s_max at c = 0.75 and over c at s_max = 400; `ratio(c, s_max, seed)`."""
    points = {(0.75, s): None for s in (25.0, 400.0, 800.0)} | {(c, 400.0): None for c in (0.1, 0.75, 4.0)}
    return pd.DataFrame(
        [
            {
                "c": c,
                "s_max": s,
                "seed": seed,
                "ratio": ratio(c, s, seed),
                "accuracy": 90.0,
                "learnt": 90.0,
                "forgotten": 0.0,
            }
            for c, s in points
            for seed in (0, 1)
        ]
    )


def test_the_extremes_of_each_line_are_named():
    table = grid_table(lambda c, s, seed: -c - 1 / s - seed / 100)
    slope, strength = claims.sensitivity(table, 0.75, 400.0)
    assert "Over s_max from 25 to 800, at c = 0.75, the ratio is highest at 800, -0.756" in slope
    assert "lowest at 25, -0.795" in slope and "extremes of 3 values" in slope and "n = 2" in slope
    assert "the ratio is highest at 0.1" in strength and "lowest at 4" in strength


def test_what_is_lost_within_the_papers_ranges():
    table = grid_table(lambda c, s, seed: -c + (s == 25) * -0.1)
    slope, strength = claims.verdicts_for_ranges(table, 0.75, 400.0)
    assert slope.ours == pytest.approx(-0.1)
    assert strength.ours == pytest.approx(-0.65)  # 0.75 against 0.1; 4 is outside of the range
    assert {slope.verdict, strength.verdict} == {"estimated"}


def test_table_1_is_the_papers():
    assert paper.forgetting("HAT", 8) == (-0.06, 0.01) and paper.forgetting("SGD-F", 2) == (-0.20, 0.15)
    assert paper.forgetting("HAT", 5) is None and paper.forgetting("random", 8) is None
    assert paper.TABLE_1["rho_8"].is_monotonic_increasing and len(paper.TABLE_1) == 10
    assert set(paper.METHODS.values()) <= set(paper.TABLE_1["method"])


# --- the choice of parameters -----------------------------------------------------------------------------------------


def test_hat_and_ewc_have_as_many_choices_on_seeds_that_are_not_reported():
    found = tables.candidates(BASE, ["ewc", "sgd"], [0.25, 2.5], [400.0], [5.0, 500.0], [100, 101], [0, 1])
    assert [(config.method, config.c, config.ewc_lambda) for config in found[::2]] == [
        ("hat", 0.25, 5000.0), ("hat", 2.5, 5000.0), ("ewc", 0.0, 5.0), ("ewc", 0.0, 500.0),
    ]  # fmt: skip
    assert {config.seed for config in found} == {100, 101}
    assert all(config.method == "hat" for config in tables.candidates(BASE, ["sgd"], [1.0], [400.0], [], [9], [0]))
    with pytest.raises(ConfigError, match=r"tuning_seeds = \[3, 4\]: 4 is among seeds = \[4, 5\], too"):
        tables.candidates(BASE, [], [1.0], [400.0], [], [3, 4], [4, 5])
    with pytest.raises(ConfigError, match=r"ewc_lambdas = \[5.0\]: needed are as many values as HAT has .* 2 x 1"):
        tables.candidates(BASE, ["ewc"], [1.0, 2.0], [400.0], [5.0], [9], [0])


def tried(accuracies):
    """Runs of two choices of each method, with these accuracies by seed."""
    configs = [BASE.replace(c=c) for c in (0.25, 2.5)]
    configs += [BASE.replace(method="ewc", c=0.0, ewc_lambda=value) for value in (5.0, 500.0)]
    return [
        made_run(config.replace(seed=100 + k), [[value]]) for config, values in zip(configs, accuracies, strict=True)
        for k, value in enumerate(values)
    ]  # fmt: skip


def test_the_highest_mean_is_chosen_and_the_first_of_equal_ones():
    table = tables.tuning(tried([[0.9, 0.8], [0.8, 0.7], [0.5, 0.7], [0.6, 0.6]]))
    assert table["chosen"].tolist() == [True, False, True, False] and table["seeds"].tolist() == [2] * 4
    assert table["accuracy"].tolist() == pytest.approx([85, 75, 60, 60])
    assert tables.best(table) == {"hat": {"c": 0.25, "s_max": 400.0}, "ewc": {"ewc_lambda": 5.0}}
    other = tables.tuning(tried([[0.7, 0.7], [0.8, 0.7], [0.5, 0.5], [0.6, 0.6]]))
    assert tables.best(other) == {"hat": {"c": 2.5, "s_max": 400.0}, "ewc": {"ewc_lambda": 500.0}}
