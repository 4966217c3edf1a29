import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hatlab.method.networks import HATNetwork
from hatlab.method.protection import (
    FrozenWeightMoved,
    frozen_values,
    gated_layers,
    gradient_mask,
    update_cumulative_mask,
    verify_frozen,
)

# multiples of 1/8 with more of the ends: exact in float32, and some weights are protected fully
MASK_VALUES = st.sampled_from([0.0, 1.0]) | st.integers(0, 8).map(lambda k: k / 8)


def linear_linear(a, b, c, positions, bias):
    return {"fc1": nn.Linear(3, a, bias), "fc2": nn.Linear(a, b, bias), "fc3": nn.Linear(b, c, bias)}


def conv_conv(a, b, c, positions, bias):
    return {"c1": nn.Conv2d(2, a, 2, bias=bias), "c2": nn.Conv2d(a, b, (1, 3), bias=bias), "c3": nn.Conv2d(b, c, 1)}


def conv_flatten_linear(a, b, c, positions, bias):
    return {
        "c1": nn.Conv2d(1, a, 3, bias=bias),
        "fc1": nn.Linear(a * positions, b, bias),
        "fc2": nn.Linear(b, c, bias),
    }


def conv1d_flatten_linear(a, b, c, positions, bias):
    return {"c1": nn.Conv1d(2, a, 3, bias=bias), "c2": nn.Conv1d(a, b, 2), "fc1": nn.Linear(b * positions, c, bias)}


@st.composite
def chains(draw):
    """A trunk of three layers, and a cumulative mask of its units."""
    kind = draw(st.sampled_from([linear_linear, conv_conv, conv_flatten_linear, conv1d_flatten_linear]))
    a, b, c, positions = (draw(st.integers(1, 4)) for _ in range(4))
    trunk = kind(a, b, c, positions, bias=draw(st.booleans()))
    mask = {
        name: torch.tensor(draw(st.lists(MASK_VALUES, min_size=n, max_size=n)))
        for name, n in zip(trunk, (a, b, c), strict=True)
    }
    return trunk, mask


def by_weight(trunk, mask):
    """What `gradient_mask` promises, one weight at a time: 1 - min over the units that the weight joins."""
    factors, before = {}, None
    for name, layer in trunk.items():
        own = mask[name].tolist()
        weight = np.empty(layer.weight.shape, np.float32)
        for place in np.ndindex(weight.shape):
            unit, column = place[:2]
            joined = own[unit]
            if before is not None:
                columns_of_a_unit = weight.shape[1] // len(before)
                joined = min(joined, before[column // columns_of_a_unit])
            weight[place] = 1 - joined
        factors[f"{name}.weight"] = weight
        if layer.bias is not None:
            factors[f"{name}.bias"] = np.array([1 - a for a in own], np.float32)
        before = own
    return factors


def parameters_of(trunk):
    return {f"{name}.{kind}": p.detach() for name, layer in trunk.items() for kind, p in layer.named_parameters()}


@given(chains())
@settings(deadline=None)
def test_movable_equals_a_loop_over_the_weights(chain):
    trunk, mask = chain
    factors, expected = gradient_mask(trunk, mask), by_weight(trunk, mask)
    parameters = parameters_of(trunk)
    assert set(factors) == set(expected) == set(parameters)
    for name, factor in factors.items():
        np.testing.assert_array_equal(factor.expand_as(parameters[name]), expected[name])


def test_the_weights_of_a_filter_are_those_of_its_positions_in_the_flattened_map():
    # found by asking the network: only filter 2 is on, so only weights that read it have a gradient
    trunk = conv_flatten_linear(4, 5, 3, 2 * 3, True)
    network = HATNetwork(trunk, (1, 6, 8), [2], [0.0, 0.0, 0.0])
    on = {"c1": torch.eye(4)[2], "fc1": torch.ones(5), "fc2": torch.ones(3)}
    with torch.no_grad():
        for layer in trunk.values():
            layer.weight.abs_()
            layer.bias.fill_(1.0)
    network(torch.ones(1, 1, 6, 8), 0, torch.cat(list(on.values()))).sum().backward()
    read = trunk["fc1"].weight.grad != 0
    assert read.any()
    assert torch.equal(read, (gradient_mask(trunk, on)["fc1.weight"] == 0).expand_as(read))


def test_the_first_layer_has_no_mask_over_the_data():
    for trunk in (linear_linear(2, 3, 4, 1, True), conv_conv(2, 3, 4, 1, True)):
        name = next(iter(trunk))
        own = torch.tensor([1.0, 0.25])
        factors = gradient_mask(
            trunk, {k: torch.zeros(layer.weight.shape[0]) for k, layer in trunk.items()} | {name: own}
        )
        weight = trunk[name].weight
        expected = torch.stack([torch.zeros_like(weight[0]), torch.full_like(weight[0], 0.75)])
        assert torch.equal(factors[f"{name}.weight"].expand_as(weight), expected)


def test_before_the_first_task_everything_may_move_and_after_a_full_one_nothing():
    trunk = conv_flatten_linear(2, 3, 4, 2, True)
    for value in (0.0, 1.0):
        mask = {name: torch.full((layer.weight.shape[0],), value) for name, layer in trunk.items()}
        assert all(torch.equal(f, torch.full_like(f, 1 - value)) for f in gradient_mask(trunk, mask).values())


def test_the_links_of_a_chain_are_read_off_its_layers():
    first, second, third = gated_layers(conv_flatten_linear(4, 5, 3, 6, False))
    assert (first.name, second.name, third.name) == ("c1", "fc1", "fc2")
    assert (first.previous, second.previous, third.previous) == (None, "c1", "fc1")
    assert (first.units, second.units, third.units) == (4, 5, 3)
    assert (first.kernel, second.kernel, third.kernel) == (9, 1, 1)
    assert (first.inputs_per_unit, second.inputs_per_unit, third.inputs_per_unit) == (1, 6, 1)
    assert (first.weights, second.weights, third.weights) == (36, 120, 15)
    assert not first.bias


@pytest.mark.parametrize(
    ("trunk", "error", "message"),
    [
        ({"c1": nn.Conv2d(1, 4, 3), "bn": nn.BatchNorm2d(4)}, TypeError, "layer 'bn' is a BatchNorm2d: only linear"),
        ({"up": nn.ConvTranspose2d(1, 4, 3)}, TypeError, "layer 'up' is a ConvTranspose2d"),
        ({"c1": nn.Conv2d(4, 4, 3, groups=2)}, ValueError, "layer 'c1' has groups = 2: allowed is 1"),
        (
            {"c1": nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")},
            ValueError,
            "'c1' has padding_mode = 'circular': allowed is 'zeros'",
        ),
        ({"fc1": nn.Linear(3, 4), "fc2": nn.Linear(6, 2)}, ValueError, "layer 'fc2' reads 6 inputs.* the 4 units"),
        ({"fc1": nn.Linear(3, 4), "fc2": nn.Linear(3, 2)}, ValueError, "layer 'fc2' reads 3 inputs.* the 4 units"),
        ({"c1": nn.Conv2d(1, 4, 3), "c2": nn.Conv2d(8, 2, 3)}, ValueError, "layer 'c2' reads 8 inputs.* the 4 units"),
    ],
    ids=["batch norm", "transposed", "groups", "circular", "more inputs", "fewer inputs", "conv of two positions"],
)
def test_a_layer_whose_weights_have_no_units_to_belong_to_is_refused_by_name(trunk, error, message):
    with pytest.raises(error, match=message):
        gated_layers(trunk)
    with pytest.raises(error, match=message):
        gradient_mask(trunk, {name: torch.ones(4) for name in trunk})


def test_the_cumulative_mask_is_the_largest_so_far():
    earlier, now = torch.tensor([0.0, 0.3, 1.0, 0.5]), torch.tensor([0.2, 0.1, 0.0, 0.5])
    assert torch.equal(update_cumulative_mask(earlier, now), torch.tensor([0.2, 0.3, 1.0, 0.5]))


def flip(value, bit):
    """The float32 tensor without axes `value` with one of its 32 bits flipped."""
    mask = torch.tensor(1 << bit if bit < 31 else -(2**31), dtype=torch.int32)
    return (value.view(torch.int32) ^ mask).view(torch.float32)


@given(chains(), st.data())
@settings(deadline=None)
def test_one_flipped_bit_is_noticed_exactly_where_the_weight_is_protected_fully(chain, data):
    trunk, mask = chain
    factors, parameters = gradient_mask(trunk, mask), {k: p.clone() for k, p in parameters_of(trunk).items()}
    before = frozen_values(parameters, factors)
    name = data.draw(st.sampled_from(sorted(parameters)))
    place = tuple(data.draw(st.integers(0, n - 1)) for n in parameters[name].shape)
    parameters[name][place] = flip(parameters[name][place], data.draw(st.integers(0, 31)))
    expected = by_weight(trunk, mask)
    if expected[name][place] == 0:
        total = int((expected[name] == 0).sum())
        with pytest.raises(
            FrozenWeightMoved, match=f"^1 of {total} fully protected values of '{name}' changed. Likely"
        ):
            verify_frozen(parameters, factors, before)
    else:
        assert verify_frozen(parameters, factors, before) == sum(int((f == 0).sum()) for f in expected.values())


def test_a_sign_of_zero_is_a_bit_too():
    parameters, factors = {"fc1.weight": torch.zeros(2, 2)}, {"fc1.weight": torch.zeros(2, 1)}
    before = frozen_values(parameters, factors)
    assert verify_frozen(parameters, factors, before) == 4
    parameters["fc1.weight"][1] = -0.0
    with pytest.raises(FrozenWeightMoved, match=r"2 of 4 fully protected values of 'fc1.weight' changed"):
        verify_frozen(parameters, factors, before)


def test_changed_values_are_counted_and_not_their_bytes():
    parameters, factors = {"fc1.weight": torch.ones(2, 2)}, {"fc1.weight": torch.zeros(2, 1)}
    before = frozen_values(parameters, factors)
    parameters["fc1.weight"][1] = -0.1
    with pytest.raises(FrozenWeightMoved, match=r"2 of 4 fully protected values of 'fc1.weight' changed"):
        verify_frozen(parameters, factors, before)


def test_frozen_values_are_a_copy_of_what_has_factor_0_and_nothing_else():
    weight = torch.arange(6.0).reshape(2, 3)
    factors = {"fc1.weight": torch.tensor([[0.0], [1.0]]), "fc1.bias": torch.tensor([1e-7, 1.0])}
    held = frozen_values({"fc1.weight": weight, "fc1.bias": torch.ones(2)}, factors)
    weight += 10
    assert held["fc1.weight"].tolist() == [0, 1, 2]
    assert held["fc1.bias"].tolist() == []


def test_a_gradient_times_its_factor_leaves_protected_weights_where_they_are():
    torch.manual_seed(0)
    trunk = conv_flatten_linear(3, 4, 2, 4, True)
    network = HATNetwork(trunk, (1, 6, 6), [2], [0.0, 0.0, 0.0])
    cumulative = {name: (torch.arange(n) % 2).float() for name, n in network.units.items()}
    parameters, factors = parameters_of(trunk), gradient_mask(trunk, cumulative)
    before = frozen_values(parameters, factors)
    everything = {name: p.clone() for name, p in parameters.items()}
    x = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    F.cross_entropy(network(x, 0, torch.ones(9)), torch.arange(8) % 2).backward()
    with torch.no_grad():
        for name, layer in trunk.items():
            for kind, p in layer.named_parameters():
                p -= p.grad * factors[f"{name}.{kind}"]
    assert verify_frozen(parameters_of(trunk), factors, before) > 0
    assert all((p != everything[name]).any() for name, p in parameters_of(trunk).items())
