import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hatlab.analysis.metrics import mean_interval
from hatlab.experiments.capacity_usage.claims import statement
from hatlab.experiments.capacity_usage.tables import SHARES, by_task, over_seeds
from hatlab.method.capacity import COLUMNS, adahat_capacity, capacity_rows, weights_used
from hatlab.method.protection import gated_layers
from hatlab.training.runs import Tables

NONE = pd.DataFrame()
SIZES = {"fc1": 3, "fc2": 4}
CHAIN = gated_layers({"fc1": nn.Linear(5, 3), "fc2": nn.Linear(3, 4)})
WEIGHTS = sum(layer.weights for layer in CHAIN)
MASKS = st.fixed_dictionaries({name: st.lists(st.floats(0, 1), min_size=n, max_size=n) for name, n in SIZES.items()})


def recorded(tasks, c=0.75, s_max=400.0, seed=0, best=0):
    """The tables of a run whose tasks kept these masks, layer name -> units, at the epoch `best`.

    Every other epoch has a mask that is open everywhere, and would be noticed.
    """
    run, rows, done = f"{c}-{s_max}-{seed}", [], []
    cumulative = {name: np.zeros(n) for name, n in SIZES.items()}
    for task, mask in enumerate(tasks):
        kept = {name: np.array(values) for name, values in mask.items()}
        adahat = adahat_capacity(CHAIN, cumulative)
        for epoch in (-1, 0, 1):
            now = kept if epoch == best else {name: np.ones(n) for name, n in SIZES.items()}
            for row in capacity_rows(CHAIN, cumulative, now, adahat):
                rows.append((run, "digits", c, "original", s_max, seed, task, epoch, *row))
        cumulative = {name: np.maximum(cumulative[name], kept[name]) for name in cumulative}
        done.append((run, c, s_max, seed, task, best))
    capacity = pd.DataFrame(rows, columns=["run", "dataset", "c", "mode", "s_max", "seed", "task", "epoch", *COLUMNS])
    return Tables(capacity, NONE, NONE, pd.DataFrame(done, columns=["run", "c", "s_max", "seed", "task", "best_epoch"]))


def together(*runs):
    return Tables(pd.concat([run.capacity for run in runs]), NONE, NONE, pd.concat([run.tasks for run in runs]))


@settings(max_examples=60, deadline=None)
@given(st.lists(MASKS, min_size=1, max_size=4), st.sampled_from([0, 1]))
def test_a_tasks_weights_are_reused_or_not_or_new(tasks, best):
    table = by_task(recorded(tasks, best=best))
    assert table[["task", "layer"]].to_numpy().tolist() == [
        [task, layer] for task in range(1, len(tasks) + 1) for layer in ("fc1", "fc2", "total")
    ]
    np.testing.assert_allclose(table["used"], table["reused"] + table["not_reused"] + table["new"], atol=1e-9)
    np.testing.assert_allclose(table["free"], 100 - table["reused"] - table["not_reused"], atol=1e-9)
    assert (table[list(SHARES)].to_numpy() >= -1e-9).all() and (table[list(SHARES)].to_numpy() <= 100 + 1e-9).all()
    before = {name: np.zeros(n) for name, n in SIZES.items()}
    for task, mask in enumerate(tasks, start=1):
        own = {name: np.array(values) for name, values in mask.items()}
        row = table[(table["task"] == task) & (table["layer"] == "total")].iloc[0]
        overlap = {name: np.minimum(before[name], own[name]) for name in own}
        after = {name: np.maximum(before[name], own[name]) for name in own}
        for name, masks in (("used", after), ("reused", overlap)):
            assert row[name] == pytest.approx(100 * weights_used(CHAIN, masks) / WEIGHTS)
        assert row["free"] == pytest.approx(100 - 100 * weights_used(CHAIN, before) / WEIGHTS)
        assert row["adahat"] == pytest.approx(100 * adahat_capacity(CHAIN, before)["total"])
        before = after


def test_a_weight_that_nobody_uses_can_be_new():
    """Task 1 holds unit 0 of each layer; task 2 opens unit 1 of the second layer and shuts the first layer's."""
    first = {"fc1": [1, 0, 0], "fc2": [1, 0, 0, 0]}
    second = {"fc1": [0, 0, 0], "fc2": [0, 1, 0, 0]}
    table = by_task(recorded([first, second])).set_index(["task", "layer"])
    assert table.loc[(2, "fc2"), ["new", "reused", "not_reused"]].tolist() == pytest.approx([100 / 12, 0, 100 / 12])
    assert table.loc[(2, "fc1"), ["new", "reused", "not_reused"]].tolist() == pytest.approx([0, 0, 100 / 3])


def masks(level):
    return {"fc1": [1, level, 0], "fc2": [1, 1, level, 0]}


def test_means_and_intervals_are_over_seeds():
    runs = [recorded([masks(seed), masks(1)], c=c, seed=seed) for c in (2.5, 0.1) for seed in (0, 1)]
    table = over_seeds(by_task(together(*runs)))
    assert list(dict.fromkeys(table["c"])) == [2.5, 0.1] and set(table["seeds"]) == {2} and len(table) == 2 * 2 * 3
    row = table[(table["c"] == 0.1) & (table["task"] == 1) & (table["layer"] == "fc1")].iloc[0]
    values = [100 / 3, 200 / 3]  # one of three units, or two
    np.testing.assert_allclose(row[["new", "new_low", "new_high"]].astype(float), mean_interval(values))
    by_slope = over_seeds(by_task(recorded([masks(0)], s_max=25.0)), ["s_max", "layer"])
    assert by_slope[["s_max", "layer"]].to_numpy().tolist() == [[25.0, "fc1"], [25.0, "fc2"], [25.0, "total"]]
    assert by_slope["new_low"].isna().all()


def test_the_sentence_is_computed():
    soft = {"fc1": [0.4, 0, 0], "fc2": [0.4, 0, 0, 0]}  # uses nothing, takes something
    table = by_task(recorded([soft, soft]))
    taken = 0.4 * (5 + 1) + 0.4 + 0.4  # five weights and a bias of the first layer, a weight and a bias of the second
    away = -100 * taken / (15 + 3 + 12 + 4)
    assert f"between {away:+.2f} and {away:+.2f} percentage points" in statement(table)
    assert "1 run, each before 1 task)" in statement(table)
    assert statement(by_task(recorded([soft]))) == "There is one task, and before it the whole network is left."
