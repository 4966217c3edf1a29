import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hatlab
from hatlab.analysis.masks import task_masks
from hatlab.analysis.metrics import mean_interval
from hatlab.analysis.verdicts import ESTIMATED
from hatlab.config import RunConfig
from hatlab.experiments.weight_reuse import claims, tables
from hatlab.experiments.weight_reuse.tables import weight_reuse
from hatlab.method.protection import gated_layers
from hatlab.support.progress import Progress
from hatlab.training.runs import Run

MASK_VALUES = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1, width=32)


def trunk(a, b, c, positions):
    return {"c1": nn.Conv2d(2, a, 2), "c2": nn.Conv2d(a, b, (1, 3)), "fc1": nn.Linear(b * positions, c)}


@st.composite
def chains(draw, n_masks):
    """Two convolutions and a linear layer of up to 3 units each, and masks of them."""
    sizes = [draw(st.integers(1, 3)) for _ in range(3)]
    layers = trunk(*sizes, draw(st.integers(1, 3)))
    masks = [
        {
            name: np.array(draw(st.lists(MASK_VALUES, min_size=n, max_size=n)), np.float32)
            for name, n in zip(layers, sizes, strict=True)
        }
        for _ in range(n_masks)
    ]
    return layers, masks


def used(layers, mask):
    """Whether each weight is used, one at a time: all layers, flattened."""
    parts, before = [], None
    for name, layer in layers.items():
        part = np.zeros(layer.weight.shape, bool)
        for place in np.ndindex(part.shape):
            reads = 1.0 if before is None else before[place[1] * len(before) // part.shape[1]]
            part[place] = min(mask[name][place[0]], reads) > 0.5
        parts.append(part.ravel())
        before = mask[name]
    return np.concatenate(parts)


@given(chains(3))
@settings(deadline=None)
def test_shares_equal_counts_over_explicit_weight_masks(chain):
    layers, masks = chain
    table = weight_reuse(gated_layers(layers), masks)
    assert list(zip(table["task"], table["later"], strict=True)) == [(0, 1), (0, 2), (1, 2)]
    for row in table.itertuples():
        first, later = used(layers, masks[row.task]), used(layers, masks[row.later])
        assert row.weights == first.sum()
        if not first.any():
            assert math.isnan(row.reused) and math.isnan(row.expected) and math.isnan(row.beyond_chance)
            continue
        assert row.reused == pytest.approx(100 * (first & later).sum() / first.sum())
        if row.expected:
            assert row.beyond_chance == pytest.approx(row.reused / row.expected)


@given(chains(2))
@settings(deadline=None, max_examples=30)
def test_expected_is_the_mean_over_all_ways_to_place_the_later_tasks_units(chain):
    layers, (first, later) = chain
    orders = itertools.product(*(itertools.permutations(mask) for mask in later.values()))
    placed = [dict(zip(layers, map(np.array, order), strict=True)) for order in orders]
    shares = [weight_reuse(gated_layers(layers), [first, mask])["reused"].iloc[0] for mask in placed]
    expected = weight_reuse(gated_layers(layers), [first, later])["expected"].iloc[0]
    np.testing.assert_allclose(np.mean(shares), expected, atol=1e-9)


def test_a_task_reuses_all_of_what_its_own_mask_contains():
    layers = {"fc1": nn.Linear(4, 4), "fc2": nn.Linear(4, 4)}
    small, large = ({name: np.arange(4) < k for name in layers} for k in (2, 3))
    (there,), (back,) = (
        weight_reuse(gated_layers(layers), pair)["reused"] for pair in ((small, large), (large, small))
    )
    assert there == 100
    assert back == pytest.approx(100 * (2 * 4 + 2 * 2) / (3 * 4 + 3 * 3))  # the first layer reads all inputs


SMALL = RunConfig(widths=(30, 20), batch_size=32, max_epochs=2, n_tasks=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    return hatlab.sweep(SMALL.grid(seed=[0, 1]), results=results, device="cpu", progress=Progress())


def test_the_table_of_runs_names_the_tasks(runs):
    table = tables.of_runs(runs)
    assert list(table.columns) == [
        "run", "seed", "task", "later", "task_name", "later_name", "weights", "reused", "expected", "beyond_chance",
    ]  # fmt: skip
    assert list(table["run"].unique()) == [run.run_id for run in runs] and len(table) == 6
    for run in runs:
        names = dict(zip(run.tasks["task"], run.tasks["name"], strict=True))
        own = table[table["run"] == run.run_id]
        assert list(own["task_name"]) == [names[k] for k in own["task"]]
        assert list(own["later_name"]) == [names[k] for k in own["later"]]
    assert table["reused"].between(0, 100).all()


def test_one_task_has_nothing_to_reuse(tmp_path):
    run = hatlab.run(SMALL.replace(n_tasks=1, max_epochs=1), results=tmp_path, device="cpu", progress=Progress())
    with pytest.raises(ValueError, match="has one task"):
        tables.of_runs([run])


def pairs(values, names=("a", "b", "c")):
    """A table as `of_runs` makes it: `values[seed]` are the shares of pairs (0, 1), (0, 2) and (1, 2), 20 by chance."""
    rows = []
    for seed, shares in enumerate(values):
        for (i, j), share in zip([(0, 1), (0, 2), (1, 2)], shares, strict=True):
            order = names[seed] if isinstance(names[0], list) else names
            rows.append((f"run{seed}", seed, i, j, order[i], order[j], 100, share, 20.0, share / 20))
    columns = "run seed task later task_name later_name weights reused expected beyond_chance"
    return pd.DataFrame(rows, columns=columns.split())


def test_means_over_seeds_and_their_intervals():
    table = pairs([[10, 20, 30], [20, 40, 60], [60, 60, math.nan]])
    means = tables.over_seeds(table)
    assert list(means["n"]) == [3, 3, 2]
    np.testing.assert_allclose(means[["reused", "reused_low", "reused_high"]].iloc[0], mean_interval([10, 20, 60]))
    np.testing.assert_allclose(means["reused"], [30, 40, 45])
    np.testing.assert_allclose(means["beyond_chance"], means["reused"] / 20)
    assert list(means["task_name"]) == ["a", "a", "b"] and list(means["later_name"]) == ["b", "c", "c"]


def test_places_with_different_tasks_have_no_names():
    table = pairs([[10, 20, 30]] * 2, names=(["a", "b", "c"], ["a", "c", "b"]))
    means = tables.over_seeds(table)
    assert set(means["task_name"]) == set(means["later_name"]) == {""}


def test_two_runs_of_one_seed_are_no_mean_over_seeds():
    table = pairs([[10, 20, 30]])
    with pytest.raises(ValueError, match="several runs of one seed"):
        tables.over_seeds(pd.concat([table, table.assign(run="other")]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[40, 40, 40], [42, 42, 42]], "uses 41% (95% interval 28 to 54) of an earlier one's"),
        ([[40, 40, 40], [42, 42, 42]], "2.05 times (95% interval 1.41 to 2.69) what masks as large that know nothing"),
        ([[40, 40, 40]], "2.00 times (one seed, no interval) what masks as large"),
        ([[math.nan] * 3], "No task uses any weight"),
    ],
)
def test_the_sentence_follows_the_table(values, words):
    assert words in claims.statement(pairs(values))


def test_there_is_no_number_of_the_paper_to_agree_with():
    share, times = claims.verdicts_for(pairs([[40, 40, 40], [50, 50, 50]]))
    assert (share.ours, share.n, share.unit, share.verdict) == (45, 2, "%", ESTIMATED)
    assert (times.ours, times.unit, times.why) == (2.25, "times", "the paper prints no number (sec. 4.4, Fig. 6)")
    assert claims.verdicts_for(pairs([[math.nan] * 3])) == []


# --- layer by layer ---------------------------------------------------------------------------------------------------


def shares(**arms):
    """A table as `by_layer` makes it, of one layer behind another: each arm's share by seed."""
    rows = [(arm, seed, "fc2", value, 25.0) for arm, values in arms.items() for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["arm", "seed", "layer", "reused", "untouched"]).replace("none", "c = 0")


def test_a_layers_share_is_that_of_its_own_weights(runs):
    table = tables.by_layer({"original": runs})
    assert list(table.columns) == ["arm", "seed", "layer", "reused", "untouched"]
    assert table["untouched"].tolist() == [50, 25] * len(runs)
    chain, masks = task_masks(runs[0])
    first = [mask[chain[0].name] > 0.5 for mask in masks]
    own = [100 * (a & b).sum() / a.sum() for a, b in itertools.combinations(first, 2)]
    assert table["reused"].iloc[0] == pytest.approx(np.mean(own))


def test_untouched_gates_reuse_what_is_said_of_them():
    """A thousand units a layer, drawn as embeddings start: half open, whatever the other task has."""
    rng = np.random.default_rng(0)
    chain = gated_layers({"fc1": nn.Linear(4, 1000), "fc2": nn.Linear(1000, 1000)})
    masks = [{name: (rng.normal(size=1000) > 0).astype(float) for name in ("fc1", "fc2")} for _ in range(8)]
    for link, expected in zip(chain, (50, 25), strict=True):
        assert weight_reuse([link], masks)["reused"].mean() == pytest.approx(expected, abs=2)


@pytest.mark.parametrize(
    ("cross", "words"),
    [
        ([35.0 + 0.1 * k for k in range(10)], "cross: higher (+10.0 [10.0, 10.0] points)"),
        ([15.0 + 0.1 * k for k in range(10)], "cross: lower (−10.0 [−10.0, −10.0] points)"),
        ([25.0 + 0.1 * k + (-1) ** k for k in range(10)], "cross: no difference found, beyond 0.8 excluded (0.0 ["),
        ([35.0, 36.0], "cross: too few pairs (+10.4 ["),
    ],
)  # fmt: skip
def test_arms_are_compared_with_none(cross, words):
    table = shares(none=[25.0 + 0.1 * k for k in range(len(cross))], cross=cross)
    (said,) = claims.layers(tables.layer_means(table), tables.layer_differences(table))
    assert said.startswith("fc2: untouched gates would reuse 25%; c = 0: 25.")
    assert f"Compared with c = 0, {words}" in said


def test_the_arms_are_none_the_base_and_its_cross_mode():
    base = SMALL.replace(c=0.75)
    found = tables.arms(base)
    assert list(found) == ["c = 0", "original", "cross"] and found["original"] == base
    assert (found["c = 0"].c, found["cross"].mode, found["cross"].c) == (0, "cross", 0.75)
    assert list(tables.arms(base.replace(mode="cross"))) == ["c = 0", "cross", "original"]


# --- what is protected, and used by no task ---------------------------------------------------------------------------


def test_what_is_protected_for_nobody_is_said_of_the_last_task():
    rows = [(seed, task, 10.0 * task + seed, 1.0 * task) for seed in range(3) for task in (1, 2)]
    table = pd.DataFrame(rows, columns=["seed", "task", "held", "idle"])
    assert claims.held(table) == (
        "After 2 tasks 21.0% (95% interval 18.5 to 23.5) of the weights are protected; 2.0 points (95% interval 2.0 to "
        "2.0) of that are used by no task (n = 3)."
    )
    assert "0.0 points (95% interval 0.0 to 0.0)" in claims.held(table.assign(idle=0.0))
    assert "20.0% (one seed, no interval)" in claims.held(table[table["seed"] == 0])


def test_what_lies_between_units_of_different_tasks_is_protected_and_idle(monkeypatch):
    """Two layers of two units over four inputs: task 1 uses the first unit of each, task 2 the second."""
    chain = gated_layers({"fc1": nn.Linear(4, 2), "fc2": nn.Linear(2, 2)})
    masks = [{"fc1": np.array(one), "fc2": np.array(one)} for one in ([1.0, 0.0], [0.0, 1.0])]
    monkeypatch.setattr(tables, "task_masks", lambda run: (chain, masks))
    run = Run(SMALL, None, {}, None)
    table = tables.held([run])
    np.testing.assert_allclose(table["held"], [100 * 5 / 12, 100])
    np.testing.assert_allclose(table["used"], [100 * 5 / 12, 100 * 10 / 12])
    np.testing.assert_allclose(table["idle"], [0, 100 * 2 / 12])


@settings(max_examples=50, deadline=None)
@given(chains(3))
def test_pairs_are_counted_as_weights_one_by_one(drawn):
    layers, masks = drawn
    chain = gated_layers(layers)
    used = {link.name: np.array([mask[link.name] > 0.5 for mask in masks]) for link in chain}
    for link in chain:
        weight = layers[link.name].weight
        both, some = np.zeros(weight.shape, bool), np.zeros(weight.shape, bool)
        for i, j in itertools.product(range(weight.shape[0]), range(weight.shape[1])):
            reader = used[link.name][:, i]
            source = (
                np.ones_like(reader) if link.previous is None else used[link.previous][:, j // link.inputs_per_unit]
            )
            both[i, j], some[i, j] = reader.any() and source.any(), (reader & source).any()
        assert tables._pairs(link, used) == (both.sum(), some.sum())


def test_what_is_held_is_what_the_run_counted(runs):
    table = tables.held(runs)
    for run in runs:
        counted = 100 * run.tasks["weights_used"] / run.tasks["weights"]
        np.testing.assert_allclose(table.loc[table["run"] == run.run_id, "held"], counted)
    assert (table["idle"] >= 0).all() and (table.groupby("run")["idle"].first() == 0).all()
