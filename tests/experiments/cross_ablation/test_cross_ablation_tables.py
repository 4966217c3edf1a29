import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.analysis.comparisons import holm, paired
from hatlab.analysis.metrics import mean_interval
from hatlab.config import ConfigError, RunConfig
from hatlab.experiments.cross_ablation import claims, tables
from hatlab.experiments.cross_ablation.tables import ARMS, CONTRASTS, OUTCOMES
from hatlab.training.runs import Run, Tables

BASE = RunConfig(dataset="mnist", widths=(400, 400), max_epochs=20)


def outcomes_of(value, cs=(0.25, 0.75), seeds=range(10)):
    """A table of outcomes. `value(arm, c, seed, outcome)` in %."""
    cells = [(arm, c, seed) for arm in ARMS for c in (cs if arm != "none" else [0.0]) for seed in seeds]
    rows = [(*cell, "-".join(map(str, cell)), *(value(*cell, name) for name in OUTCOMES)) for cell in cells]
    return pd.DataFrame(rows, columns=["arm", "c", "seed", "run", *OUTCOMES])


def noisy(arm, c, seed, outcome):
    place = list(ARMS).index(arm), round(100 * c), seed, list(OUTCOMES).index(outcome)
    return 50 + 5 * place[0] + np.random.default_rng(place).normal()


def test_the_plan_is_the_arms_over_c_and_seeds():
    cells = tables.plan(BASE, [0.25, 0.75, 2.5], range(3))
    assert len(cells) == (4 * 3 + 1) * 3 and len(tables.configs(cells)) == len(cells)
    by_hand = BASE.grid(c=[0], seed=range(3))
    for c in (0.25, 0.75, 2.5):
        by_hand += BASE.grid(c=[c], mode=["original", "cross", "reuse"], seed=range(3))
        by_hand += BASE.grid(c=[c / 2], mode=["original"], seed=range(3))
    assert {config.run_id for config in by_hand} == {config.run_id for config in tables.configs(cells)}
    trained = {(cell.arm, cell.config.mode, cell.config.c / cell.c if cell.c else 0) for cell in cells}
    assert trained == {
        ("none", "original", 0), ("original", "original", 1), ("half", "original", 0.5), ("cross", "cross", 1),
        ("reuse", "reuse", 1),
    }  # fmt: skip


def test_a_run_in_two_places_is_made_once():
    cells = tables.plan(BASE, [0.5, 1, 2], [0, 1])
    assert len(cells) == 26 and len(tables.configs(cells)) == 22
    twice = [(cell.arm, cell.c) for cell in cells if cell.config == BASE.replace(c=0.5, seed=0)]
    assert twice == [("original", 0.5), ("half", 1)]


@pytest.mark.parametrize(
    ("base", "cs", "seeds", "message"),
    [
        (BASE, [0.5, 0.0], [0], r"cs = \[0.5, 0.0\]: 0.0 is not above 0"),
        (BASE, [-1.0], [0], "-1.0 is not above 0"),
        (BASE, "[0.5]", [0], r"c: '\[0.5\]' is not a list of one or more values; .* Its -y does: -y 'cs: \[0.5\]'"),
        (BASE, [0.5, 0.5], [0], "c: 0.5 is named twice"),
        (BASE, [0.5], [0, 0], "seed: 0 is named twice"),
        (BASE, [], [0], "c: .* is not a list of one or more"),
        (BASE, [0.5], [], "seed: .* is not a list of one or more"),
        (BASE.replace(mode="cross"), [0.5], [0], "mode = 'cross'"),
        (BASE.replace(method="sgd", c=0.0), [0.5], [0], "method = 'sgd'"),
        (BASE.replace(n_tasks=1), [0.5], [0], "n_tasks = 1"),
    ],
)
def test_a_plan_that_compares_nothing_is_refused(base, cs, seeds, message):
    with pytest.raises(ConfigError, match=message):
        tables.plan(base, cs, seeds)


def run_of(config, accuracy, epochs, best=(1, 0, 1)):
    """A run of three tasks; `epochs`: (task, epoch) -> weights used, new and reused, of 1000."""
    tasks = pd.DataFrame({"task": range(3), "best_epoch": best, "weights": 1000, "weights_used": [200, 400, 500]})
    rows = [(task, epoch, "total", 1000, *counts) for (task, epoch), counts in epochs.items()]
    rows += [(task, epoch, "fc1", 1, 1, 1, 1) for task, epoch in epochs]
    columns = ["task", "epoch", "layer", "weights", "weights_used", "weights_new", "weights_reused"]
    capacity = pd.DataFrame(rows, columns=columns)
    tests = [(after, task, value) for after, row in enumerate(accuracy) for task, value in enumerate(row)]
    table = pd.DataFrame(tests, columns=["after_task", "task", "accuracy"])
    return Run(config, None, {}, Tables(capacity, table, pd.DataFrame(), tasks))


EPOCHS = {
    (0, -1): (500, 500, 0), (0, 0): (300, 300, 0), (0, 1): (200, 200, 0),
    (1, -1): (600, 400, 100), (1, 0): (400, 200, 50), (1, 1): (300, 100, 200),
    (2, -1): (700, 300, 300), (2, 0): (600, 200, 100), (2, 1): (500, 100, 300),
}  # fmt: skip


def test_the_share_reused_is_of_what_is_held_at_the_best_epoch_of_all_tasks_but_the_first():
    run = run_of(BASE, [[1], [1, 1], [1, 1, 1]], EPOCHS)
    assert tables.share_reused(run) == pytest.approx((100 * 50 / 200 + 100 * 300 / 400) / 2)


def test_where_nothing_is_held_nothing_can_be_reused():
    nothing_before = EPOCHS | {(1, 0): (200, 200, 0)}
    assert tables.share_reused(run_of(BASE, [[1]], nothing_before)) == pytest.approx(75)
    nothing_at_all = nothing_before | {(2, 1): (100, 100, 0)}
    assert math.isnan(tables.share_reused(run_of(BASE, [[1]], nothing_at_all)))


def test_outcomes_have_a_row_per_cell_and_are_in_percent():
    cells = tables.plan(BASE, [0.5, 1], [3])
    accuracy = [[0.9], [0.9, 0.8], [0.7, 0.75, 0.95]]
    runs = [run_of(config, accuracy, EPOCHS) for config in tables.configs(cells)]
    table = tables.outcomes(cells, runs[::-1])
    assert list(table["arm"]) == ["none"] + [arm for arm in ARMS if arm != "none" for _ in range(2)]
    assert list(table["run"]) == [cell.config.run_id for cell in cells]
    half, original = (
        table.query(f"arm == '{arm}' and c == {c}").iloc[0] for arm, c in (("half", 1), ("original", 0.5))
    )
    assert half["run"] == original["run"]
    for row in table.itertuples():
        assert (row.capacity, row.reused) == pytest.approx((50, 50))
        assert (row.accuracy, row.forgetting) == pytest.approx((80, 12.5))


def test_what_does_not_change_is_no_negative_forgetting():
    cells = tables.plan(BASE, [1], [3])
    runs = [run_of(config, [[0.9], [0.9, 0.8]], EPOCHS) for config in tables.configs(cells)]
    forgetting = tables.outcomes(cells, runs)["forgetting"]
    assert (forgetting == 0).all() and not np.signbit(forgetting).any()


def test_a_run_that_is_missing_is_an_error():
    cells = tables.plan(BASE, [1], [3])
    runs = [run_of(config, [[0.9], [0.9, 0.8]], EPOCHS) for config in tables.configs(cells)]
    with pytest.raises(KeyError, match=runs[-1].run_id):
        tables.outcomes(cells, runs[:-1])


def test_pairs_are_differences_within_a_seed():
    table = outcomes_of(noisy, seeds=(0, 4)).sample(frac=1, random_state=0)
    pairs = tables.pairs(table)
    assert len(pairs) == len(CONTRASTS) * 2 * len(OUTCOMES) * 2
    assert list(pairs[["arm", "reference"]].drop_duplicates().itertuples(index=False, name=None)) == list(CONTRASTS)
    for row in pairs.itertuples():
        reference = noisy(row.reference, 0 if row.reference == "none" else row.c, row.seed, row.outcome)
        assert row.difference == pytest.approx(noisy(row.arm, row.c, row.seed, row.outcome) - reference)


def test_differences_are_those_of_the_pairs_corrected_within_a_contrast():
    pairs = tables.pairs(outcomes_of(noisy))
    table = tables.differences(pairs)
    assert len(table) == len(CONTRASTS) * 2 * len(OUTCOMES)
    for row in table.itertuples():
        same = pairs.query(f"arm == '{row.arm}' and reference == '{row.reference}' and c == {row.c}")
        values = same.loc[same["outcome"] == row.outcome, "difference"]
        assert (row.n, row.mean, row.low, row.high, row.p) == paired(values.to_numpy())
    for _, family in table.groupby(["arm", "reference"]):
        np.testing.assert_array_equal(family["p_holm"], holm(family["p"].to_numpy()))
    pd.testing.assert_frame_equal(table, tables.differences(pairs.copy()), check_exact=True)


def test_what_counts_as_found():
    """cross - half: a clear difference, one that stands alone only, one around 0, none at all."""
    ups = {
        "capacity": [1.0] * 10,
        "reused": [2.0, 1.5, 1.2, 1.0, 0.9, 0.8, 0.5, 0.3, -0.2, -0.9],
        "accuracy": [1.0, -1.0] * 5,
        "forgetting": [0.0] * 10,
    }
    table = outcomes_of(lambda arm, c, seed, name: 50 + (ups[name][seed] if arm == "cross" else 0))
    found = tables.differences(tables.pairs(table)).query("reference == 'half'")
    assert set(zip(found["outcome"], found["found"], strict=True)) == {
        ("capacity", "yes"), ("reused", "alone"), ("accuracy", "no"), ("forgetting", "no"),
    }  # fmt: skip


@pytest.mark.parametrize(("n", "expected"), [(4, "few"), (5, "alone"), (10, "yes")])
def test_few_seeds_find_nothing(n, expected):
    table = outcomes_of(lambda arm, c, seed, name: 50 + 10 * (arm == "cross"), seeds=range(n))
    found = tables.differences(tables.pairs(table)).query("arm == 'cross'")
    assert set(found["found"]) == {expected} and set(found["n"]) == {n}


def test_outcomes_that_cannot_be_measured_are_no_pairs():
    table = outcomes_of(lambda arm, c, seed, name: math.nan if name == "reused" else noisy(arm, c, seed, name))
    found = tables.differences(tables.pairs(table)).set_index("outcome")
    assert (found.loc["reused", "n"] == 0).all() and set(found.loc["reused", "found"]) == {"few"}
    assert found.loc["capacity", "p_holm"].notna().all()
    means = tables.summary(table).set_index("outcome").loc["reused"]
    assert (means["n"] == 0).all() and means["mean"].isna().all()
    assert list(claims.verdict_table(tables.pairs(table))["n"]) == [10, 10, 10]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5))
def test_what_is_added_to_both_arms_plays_no_part(seed, shift):
    rng = np.random.default_rng(seed)
    values = {key: rng.normal() for key in [(arm, s) for arm in ARMS for s in range(6)]}
    one = outcomes_of(lambda arm, c, s, name: values[arm, s], cs=(1.0,), seeds=range(6))
    other = one.assign(**{name: one[name] + shift * one["seed"] for name in OUTCOMES})
    a, b = (tables.differences(tables.pairs(table)) for table in (one, other))
    np.testing.assert_allclose(a[["mean", "low", "high"]], b[["mean", "low", "high"]], atol=1e-6)


def test_the_summary_has_the_mean_and_interval_of_each_arm():
    table = outcomes_of(noisy)
    summary = tables.summary(table)
    assert len(summary) == (4 * 2 + 1) * len(OUTCOMES)
    row = summary.query("arm == 'half' and c == 0.75 and outcome == 'accuracy'").iloc[0]
    values = table.query("arm == 'half' and c == 0.75")["accuracy"]
    assert (row["n"], row["mean"], row["low"], row["high"]) == (10, *mean_interval(values.to_numpy()))


def test_verdicts_are_the_main_contrast_which_the_paper_has_not():
    pairs = tables.pairs(outcomes_of(noisy, cs=(0.25, 0.75, 2.5)))
    table = claims.verdict_table(pairs)
    assert set(table["verdict"]) == {"estimated"} and set(table["why"]) == {"the paper has no cross mode"}
    assert table["paper"].isna().all() and all("c = 0.75" in claim for claim in table["claim"])
    rows = tables.differences(pairs).query("c == 0.75 and arm == 'cross' and reference == 'half'")
    np.testing.assert_allclose(table[["ours", "low", "high", "n"]], rows[["mean", "low", "high", "n"]], atol=1e-8)


@pytest.mark.parametrize(("cs", "expected"), [([2.5, 0.75, 0.1], 0.75), ([4, 1, 2], 2), ([3], 3)])
def test_the_c_that_stands_for_all(cs, expected):
    assert tables.main_c(cs) == expected


# --- each mode at its own best c --------------------------------------------------------------------------------------


def test_the_best_c_is_that_of_the_highest_mean_and_original_has_both_arms_to_choose_from():
    accuracy = {("half", 2.5): 70, ("original", 2.5): 60, ("cross", 0.75): 80, ("reuse", 2.5): 65}
    table = outcomes_of(
        lambda arm, c, seed, name: accuracy.get((arm, c), 50) + seed * (name == "accuracy"), cs=(0.75, 2.5)
    )
    assert tables.best(table) == {
        "none": ("none", 0.0), "original": ("half", 2.5), "cross": ("cross", 0.75), "reuse": ("reuse", 2.5),
    }  # fmt: skip


def test_modes_are_paired_by_seed_at_their_own_c():
    table = outcomes_of(noisy, cs=(0.75, 2.5))
    chosen = {"none": ("none", 0.0), "original": ("half", 2.5), "cross": ("cross", 0.75), "reuse": ("reuse", 2.5)}
    found = tables.at_best(tables.best_pairs(table, chosen)).set_index(["arm", "reference", "outcome"])
    assert len(found) == 3 * len(OUTCOMES)
    cross, half = (
        table[(table["arm"] == arm) & (table["c"] == c)].set_index("seed")["accuracy"]
        for arm, c in (("cross", 0.75), ("half", 2.5))
    )
    row = found.loc[("cross", "original", "accuracy")]
    assert (row["n"], row["mean"]) == (10, pytest.approx((cross - half).mean()))
    of_outcome = found.xs("accuracy", level="outcome")
    np.testing.assert_array_equal(of_outcome["p_holm"], holm(of_outcome["p"].to_numpy()))


def test_an_advantage_that_another_c_of_original_undoes_is_none():
    """Cross is five points better than original at c/2, and original is as good at its own best c."""

    def value(arm, c, seed, name):
        level = {("cross", 0.75): 85, ("half", 0.75): 80, ("original", 0.75): 85}.get((arm, c), 70)
        return level + ((seed * 7 + len(arm)) % 5) / 10

    table = outcomes_of(value, cs=(0.75, 2.5))
    beside = tables.differences(tables.pairs(table)).query(
        "reference == 'half' and c == 0.75 and outcome == 'accuracy'"
    )
    assert beside["found"].item() == "yes" and beside["mean"].item() > 4
    chosen = tables.best(table)
    at_best = tables.at_best(tables.best_pairs(table, chosen)).query("arm == 'cross' and outcome == 'accuracy'")
    assert at_best["found"].item() == "no"
    said = claims.at_best(tables.at_best(tables.best_pairs(table, chosen)), chosen)
    assert said[0].startswith("cross at c = 0.75 compared with original at c = 0.75 (n = 10): ")
    assert "average accuracy no difference found, beyond" in said[0]
    assert said[2].startswith("original at c = 0.75 compared with no regularizer (n = 10): ")


def test_the_accuracy_at_the_best_c_has_a_verdict_for_each_contrast():
    table = outcomes_of(noisy, cs=(0.75, 2.5))
    chosen = tables.best(table)
    found = claims.verdict_table(tables.pairs(table), tables.best_pairs(table, chosen), chosen).iloc[len(OUTCOMES) :]
    assert len(found) == 3 and found["claim"].str.endswith(": average accuracy").all()
    means = tables.at_best(tables.best_pairs(table, chosen)).query("outcome == 'accuracy'")["mean"]
    np.testing.assert_allclose(found["ours"], means)
    assert found["claim"].iloc[2].endswith("minus no regularizer: average accuracy")
