import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hatlab.method.capacity import COLUMNS, adahat_capacity, capacity_rows, weights_used
from hatlab.method.networks import HATCNN, HATMLP
from hatlab.method.protection import gated_layers

COUNTS = ["units", "units_used", "weights", "weights_used", "weights_new", "weights_reused"]
# exactly 0.5, which is not above the threshold, among them
MASK_VALUES = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1, width=32)


def mlp(a, b, c, positions):
    return {"fc1": nn.Linear(3, a), "fc2": nn.Linear(a, b, bias=False), "fc3": nn.Linear(b, c)}


def convs(a, b, c, positions):
    return {"c1": nn.Conv2d(2, a, 2), "c2": nn.Conv2d(a, b, (1, 3)), "fc1": nn.Linear(b * positions, c)}


@st.composite
def chains(draw, n_masks):
    """A trunk of three layers, and masks of its units: layer name -> (units,)."""
    a, b, c, positions = (draw(st.integers(1, 4)) for _ in range(4))
    trunk = draw(st.sampled_from([mlp, convs]))(a, b, c, positions)
    units = dict(zip(trunk, (a, b, c), strict=True))
    return trunk, *(
        {name: np.array(draw(st.lists(MASK_VALUES, min_size=n, max_size=n)), np.float32) for name, n in units.items()}
        for _ in range(n_masks)
    )


def weight_masks(trunk, mask):
    """min(a_i, a_j) of every weight, one at a time: layer name -> array of the weight's shape."""
    masks, before = {}, None
    for name, layer in trunk.items():
        masks[name] = np.empty(layer.weight.shape)
        for place in np.ndindex(layer.weight.shape):
            joined = mask[name][place[0]]
            if before is not None:
                joined = min(joined, before[place[1] * len(before) // layer.weight.shape[1]])
            masks[name][place] = joined
        before = mask[name]
    return masks


def table(trunk, cumulative, mask):
    chain = gated_layers(trunk)
    rows = capacity_rows(chain, cumulative, mask, adahat_capacity(chain, cumulative))
    return pd.DataFrame(rows, columns=list(COLUMNS)).set_index("layer")


@given(chains(2))
@settings(deadline=None)
def test_the_rows_equal_counts_over_explicit_weight_masks(chain):
    trunk, cumulative, mask = chain
    joined = {name: np.maximum(cumulative[name], mask[name]) for name in trunk}
    now, old, own = ({n: w > 0.5 for n, w in weight_masks(trunk, m).items()} for m in (joined, cumulative, mask))
    rows = table(trunk, cumulative, mask)
    assert list(rows.index) == [*trunk, "total"]
    for name, layer in trunk.items():
        expected = {
            "units": len(mask[name]),
            "units_used": (joined[name] > 0.5).sum(),
            "weights": layer.weight.numel(),
            "weights_used": now[name].sum(),
            "weights_new": (now[name] & ~old[name]).sum(),
            "weights_reused": (old[name] & own[name]).sum(),
        }
        assert rows.loc[name, COUNTS].to_dict() == expected


@given(chains(2))
@settings(deadline=None)
def test_new_and_old_weights_make_up_those_used_and_totals_are_sums(chain):
    trunk, cumulative, mask = chain
    rows = table(trunk, cumulative, mask)
    none = {name: np.zeros_like(m) for name, m in mask.items()}
    old = table(trunk, cumulative, none)
    assert (rows.weights_used == old.weights_used + rows.weights_new).all()
    assert (rows.weights_reused <= old.weights_used).all()
    assert (rows.weights_used <= rows.weights).all()
    assert rows.loc["total", COUNTS].tolist() == rows.loc[list(trunk), COUNTS].sum().tolist()
    first_task = table(trunk, none, mask)
    assert (first_task.weights_new == first_task.weights_used).all()
    assert (first_task.weights_reused == 0).all()
    same_again = table(trunk, mask, mask)
    assert (same_again.weights_new == 0).all()
    assert (same_again.weights_reused == same_again.weights_used).all()


@given(chains(2), st.data())
@settings(deadline=None)
def test_one_more_unit_never_uses_fewer_weights(chain, data):
    trunk, cumulative, mask = chain
    name = data.draw(st.sampled_from(sorted(mask)))
    more = mask[name].copy()
    more[data.draw(st.integers(0, len(more) - 1))] = 1
    fewer, after = (table(trunk, cumulative, m) for m in (mask, mask | {name: more}))
    assert (after[COUNTS] >= fewer[COUNTS]).all(axis=None)


@given(chains(1), st.sampled_from([0.25, 0.5]))
@settings(deadline=None)
def test_weights_used_is_the_number_of_weights_above_the_threshold(chain, threshold):
    trunk, mask = chain
    every = np.concatenate([w.ravel() for w in weight_masks(trunk, mask).values()])
    assert weights_used(gated_layers(trunk), mask, threshold) == (every > threshold).sum()


@given(chains(2))
@settings(deadline=None)
def test_weights_used_of_the_union_is_the_total_of_the_table(chain):
    trunk, cumulative, mask = chain
    total = table(trunk, cumulative, mask).loc["total"]
    union = {name: np.maximum(cumulative[name], mask[name]) for name in mask}
    assert weights_used(gated_layers(trunk), union) == total.weights_used


@given(chains(1))
@settings(deadline=None)
def test_adahat_capacity_is_the_mean_of_what_remains_of_weights_and_biases(chain):
    trunk, cumulative = chain
    remaining = {}
    for name, joined in weight_masks(trunk, cumulative).items():
        biases = cumulative[name] if trunk[name].bias is not None else []
        remaining[name] = 1 - np.concatenate([joined.ravel(), biases])
    capacity = adahat_capacity(gated_layers(trunk), cumulative)
    assert list(capacity) == [*trunk, "total"]
    for name, values in remaining.items():
        assert capacity[name] == pytest.approx(values.mean(), abs=1e-9)
    assert capacity["total"] == pytest.approx(np.concatenate(list(remaining.values())).mean(), abs=1e-9)
    assert table(trunk, cumulative, cumulative).adahat_capacity.to_dict() == capacity


def test_adahat_capacity_is_1_in_the_first_task_and_0_when_everything_is_taken():
    trunk = convs(3, 4, 2, 5)
    for value, capacity in ((0.0, 1.0), (1.0, 0.0)):
        mask = {name: np.full(layer.weight.shape[0], value, np.float32) for name, layer in trunk.items()}
        assert set(adahat_capacity(gated_layers(trunk), mask).values()) == {capacity}


def test_half_used_layers_use_half_of_the_first_layers_weights_and_a_quarter_of_the_others():
    trunk = dict(HATMLP((1, 4, 4), (2,), (10, 20, 6)).trunk.items())
    half = {name: np.arange(n) % 2 for name, n in (("fc1", 10), ("fc2", 20), ("fc3", 6))}
    rows = table(trunk, {name: np.zeros_like(m) for name, m in half.items()}, half)
    assert (rows.weights_used / rows.weights).to_dict() == pytest.approx(
        {"fc1": 0.5, "fc2": 0.25, "fc3": 0.25, "total": (80 + 50 + 30) / (160 + 200 + 120)}
    )


def test_the_authors_network_starts_its_first_task_with_a_quarter_of_its_weights():
    # e ~ N(0, 1) opens half of the units: the first point of the curve, 25.0 %, and 50 % for c1
    torch.manual_seed(0)
    network = HATCNN((3, 32, 32), (10,))
    with torch.no_grad():
        mask = {name: m.numpy() for name, m in network.split(network.mask(0, 400.0)).items()}
    rows = table(dict(network.trunk.items()), {name: np.zeros_like(m) for name, m in mask.items()}, mask)
    usage = rows.weights_used / rows.weights
    assert rows.loc["total", "weights"] == 6_499_328
    assert usage["total"] == pytest.approx(0.25, abs=0.02)
    assert usage["c1"] == pytest.approx(0.5, abs=0.2)


def test_counts_stay_exact_beyond_what_32_bits_hold():
    trunk = {name: nn.Linear(65_536, 65_536, bias=False, device="meta") for name in ("fc1", "fc2")}
    ones = {name: np.ones(65_536, np.float32) for name in trunk}
    chain = gated_layers(trunk)
    total = capacity_rows(chain, ones, ones, dict.fromkeys([*trunk, "total"], 0.0))[-1]
    assert total[3:7] == (2**33, 2**33, 0, 2**33)
