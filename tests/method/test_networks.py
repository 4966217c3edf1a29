import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from hatlab.method.gate import gate
from hatlab.method.networks import HATCNN, HATMLP, HATNetwork
from hatlab.method.regularizer import affine
from hatlab.training.step import Batch, Hyper, State, TaskContext, step

MIXTURE = (10, 100, 10, 10, 10, 43, 100, 10)  # classes of the authors' eight data sets


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


@functools.cache
def cnn():
    """The authors' network for the mixture, at the size of their images."""
    torch.manual_seed(0)
    return HATCNN((3, 32, 32), MIXTURE)


def conv_linear_linear(dropout=(0.0, 0.0, 0.0), classes=(3, 2), filters=4, hidden=(6, 5)):
    torch.manual_seed(0)
    trunk = {
        "c1": nn.Conv2d(2, filters, 3),
        "fc1": nn.Linear(filters * 2 * 3, hidden[0]),
        "fc2": nn.Linear(hidden[0], hidden[1]),
    }
    return HATNetwork(trunk, (2, 6, 8), classes, dropout)


# Sizes


def test_the_cnn_has_the_authors_layers():
    weights = {name: layer.weight.numel() for name, layer in cnn().trunk.items()}
    assert weights == {"c1": 3072, "c2": 73_728, "c3": 131_072, "fc1": 2_097_152, "fc2": 4_194_304}
    assert sum(weights.values()) == 6_499_328
    assert sum(layer.bias.numel() for layer in cnn().trunk.values()) == 4544
    assert [tuple(cnn().trunk[c].kernel_size) for c in ("c1", "c2", "c3")] == [(4, 4), (3, 3), (2, 2)]
    assert cnn().trunk["fc1"].in_features == 1024


def test_the_cnn_has_the_authors_heads_embeddings_and_total():
    assert sum(p.numel() for p in cnn().heads.parameters()) == 600_357
    assert cnn().gates.shape == (8, 4544)
    assert cnn().gates.numel() == 36_352
    total = sum(p.numel() for p in cnn().parameters())
    assert total == 6_499_328 + 4544 + 600_357 + 36_352
    assert round(total / 1e6, 2) == 7.14


def test_the_cnns_dropout_is_low_on_the_first_two_layers_and_high_on_the_others():
    assert cnn().dropout == (0.0, 0.2, 0.2, 0.5, 0.5, 0.5)


def test_the_default_mlp_is_the_authors():
    network = HATMLP((1, 28, 28), (5, 5))
    assert {name: tuple(layer.weight.shape) for name, layer in network.trunk.items()} == {
        "fc1": (2000, 784),
        "fc2": (2000, 2000),
    }
    assert network.dropout == (0.2, 0.5, 0.5)
    assert [tuple(head.weight.shape) for head in network.heads] == [(5, 2000), (5, 2000)]
    assert network.gates.shape == (2, 4000)


def test_the_mlp_takes_any_widths():
    network = HATMLP((2, 3, 4), (2, 3, 4), widths=(7, 1, 9), dropout=(0.0, 0.0))
    assert network.units == {"fc1": 7, "fc2": 1, "fc3": 9}
    for task, classes in enumerate((2, 3, 4)):
        assert network(images(5, 2, 3, 4), task, network.mask(task, 1.0)).shape == (5, classes)


@pytest.mark.parametrize("side", [28, 29, 32, 33, 45, 64])
def test_the_cnn_takes_square_images_of_28_and_more(side):
    network = HATCNN((1, side, side), (2,)).eval()
    kernels = [network.trunk[name].kernel_size[0] for name in ("c1", "c2", "c3")]
    assert kernels == [side // 8, side // 10, 2]
    assert network(images(2, 1, side, side), 0, network.mask(0, 400.0)).shape == (2, 2)


@pytest.mark.parametrize(("height", "width"), [(27, 27), (8, 8), (32, 28), (28, 32)])
def test_other_images_are_refused_with_their_size_and_the_reason(height, width):
    with pytest.raises(
        ValueError, match=f"images of {height} x {width}: they must be square and at least 28 x 28, beca"
    ):
        HATCNN((3, height, width), (2,))


@pytest.mark.parametrize(
    ("trunk", "layer"),
    [
        ({"fc1": nn.Linear(95, 4), "fc2": nn.Linear(4, 3)}, "fc1"),
        ({"fc1": nn.Linear(96, 4), "fc2": nn.Linear(5, 3)}, "fc2"),
        ({"c1": nn.Conv2d(1, 4, 3), "fc2": nn.Linear(24, 3)}, "c1"),
        ({"c1": nn.Conv2d(2, 4, 7), "fc2": nn.Linear(4, 3)}, "c1"),
        ({"c1": nn.Conv2d(2, 4, 3, dilation=3), "fc2": nn.Linear(4, 3)}, "c1"),
        ({"c1": nn.Conv2d(2, 4, (6, 3)), "fc2": nn.Linear(4, 3)}, "c1"),
        ({"c1": nn.Conv2d(2, 4, 3), "fc2": nn.Linear(23, 3)}, "fc2"),
        ({"fc1": nn.Linear(96, 4), "c2": nn.Conv2d(4, 3, 1)}, "c2"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_by_name_when_the_network_is_built(trunk, layer):
    with pytest.raises(
        ValueError, match=rf"layer '{layer}' .*(does not fit what|do not divide among the \d+ units) (comes )?before it"
    ):
        HATNetwork(trunk, (2, 6, 8), (2,), (0.0, 0.0))


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@given(
    sides=st.tuples(st.integers(4, 12), st.integers(4, 12)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 2),
    padding=st.sampled_from([0, 1, (1, 0), "same", "valid"]),
    dilation=st.integers(1, 2),
)
@settings(deadline=None, max_examples=60)
def test_the_shapes_are_those_of_torch(sides, kernel, stride, padding, dilation):
    """Computed for the network as for its layers, called one after the other; where torch refuses, so does it."""
    convolution = nn.Conv2d(2, 3, kernel, 1 if padding == "same" else stride, padding, dilation)
    try:
        maps = convolution(torch.zeros(1, 2, *sides))
        flat = F.max_pool2d(maps, 2).flatten(1)
    except RuntimeError:
        with pytest.raises(ValueError, match=r"layer 'c1' .* does not fit what comes before it"):
            HATNetwork({"c1": convolution, "fc2": nn.Linear(3, 4)}, (2, *sides), (2,), (0.0, 0.0))
        return
    network = HATNetwork({"c1": convolution, "fc2": nn.Linear(flat.shape[1], 4)}, (2, *sides), (2,), (0.0, 0.0))
    assert network.dropout_shapes == [(2, *sides), tuple(maps.shape[1:]), (4,)]


def test_a_trunk_without_layers_or_with_a_convolution_at_its_end_is_refused():
    with pytest.raises(ValueError, match="trunk has no layers"):
        HATNetwork({}, (1, 8, 8), (2,), ())
    with pytest.raises(ValueError, match="the last trunk layer, 'c1', is a convolution"):
        HATNetwork({"c1": nn.Conv2d(1, 4, 3)}, (1, 8, 8), (2,), (0.0,))


def test_layers_of_another_dtype_fit_too():
    layer = nn.Linear(9, 4, dtype=torch.float64)
    assert HATNetwork({"fc1": layer}, (1, 3, 3), (2,), (0.0,)).units == {"fc1": 4}


@pytest.mark.parametrize("n", [1, 3])
def test_factors_must_be_given_for_every_dropout(n):
    network = HATMLP((1, 3, 3), (2,), (5,))
    with pytest.raises(ValueError, match=f"dropout_masks has {n} factors for 2 dropouts"):
        network(torch.ones(1, 1, 3, 3), 0, torch.ones(5), [None] * n)


def test_dropout_must_be_given_for_every_layer():
    with pytest.raises(ValueError, match="dropout has 1 values for 2 trunk layers"):
        HATNetwork({"fc1": nn.Linear(4, 3), "fc2": nn.Linear(3, 2)}, (1, 2, 2), (2,), (0.5,))


# Embeddings and masks


@pytest.mark.parametrize(
    ("init", "distribution"),
    [("normal", stats.norm(0, 1)), ("uniform", stats.uniform(0, 2))],
    ids=["normal", "uniform"],
)
def test_embeddings_follow_their_distribution(init, distribution):
    torch.manual_seed(0)
    e = HATMLP((1, 1, 1), (2,) * 10, (500, 500), embedding_init=init).gates.detach().numpy().ravel()
    assert stats.kstest(e, distribution.cdf).pvalue > 0.001


def test_an_unknown_initialisation_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="embedding_init = 'ones': allowed are 'normal' and 'uniform'"):
        HATMLP((1, 2, 2), (2,), (3,), embedding_init="ones")


def test_a_mask_is_the_gate_of_its_tasks_own_embedding():
    network = conv_linear_linear()
    for task in (0, 1):
        assert torch.equal(network.mask(task, 30.0), gate(network.gates[task], 30.0))
    assert not torch.equal(network.mask(0, 30.0), network.mask(1, 30.0))


def test_split_cuts_units_into_layers_in_order():
    parts = conv_linear_linear().split(torch.arange(30.0).reshape(2, 15))
    assert list(parts) == ["c1", "fc1", "fc2"]
    assert parts["fc1"].tolist() == [[4, 5, 6, 7, 8, 9], [19, 20, 21, 22, 23, 24]]
    assert torch.equal(torch.cat(list(parts.values()), -1), torch.arange(30.0).reshape(2, 15))


# Forward


def test_the_mlp_is_linear_relu_mask_layer_by_layer():
    network = HATMLP((1, 2, 3), (2, 3), (5, 4)).eval()
    x, mask = images(7, 1, 2, 3), torch.rand(9, generator=generator(1))
    h = torch.relu(x.reshape(7, 6) @ network.trunk["fc1"].weight.T + network.trunk["fc1"].bias) * mask[:5]
    h = torch.relu(h @ network.trunk["fc2"].weight.T + network.trunk["fc2"].bias) * mask[5:]
    torch.testing.assert_close(network(x, 1, mask), h @ network.heads[1].weight.T + network.heads[1].bias)


def test_the_cnn_is_conv_relu_pool_mask_then_linear_relu_mask():
    network = cnn().eval()
    x, mask = images(2, 3, 32, 32), torch.rand(4544, generator=generator(1))
    h, start = x, 0
    for name in ("c1", "c2", "c3"):
        h = F.max_pool2d(F.relu(network.trunk[name](h)), kernel_size=2)
        h = h * mask[start : start + h.shape[1]].view(1, -1, 1, 1).expand_as(h)
        start += h.shape[1]
    h = h.reshape(2, 1024)
    for name in ("fc1", "fc2"):
        h = F.relu(network.trunk[name](h)) * mask[start : start + 2048].view(1, 2048)
        start += 2048
    torch.testing.assert_close(network(x, 5, mask), network.heads[5](h))


@pytest.mark.parametrize("layer", ["c1", "fc1", "fc2"])
def test_a_unit_whose_mask_is_0_is_as_good_as_removed(layer):
    big = conv_linear_linear().double().eval()
    x, mask = images(5, 2, 6, 8).double(), torch.rand(15, generator=generator(1)).double()
    masks = big.split(mask)
    masks[layer][1] = 0
    kept = {
        name: torch.arange(n) if name != layer else torch.tensor([0, *range(2, n)]) for name, n in big.units.items()
    }
    units = {name: len(rows) for name, rows in kept.items()}
    small = conv_linear_linear(filters=units["c1"], hidden=(units["fc1"], units["fc2"])).double().eval()
    with torch.no_grad():
        columns = torch.arange(2)  # channels of the input
        for name, rows in kept.items():
            if name == "fc1":  # six positions of each filter, side by side
                columns = (columns[:, None] * 6 + torch.arange(6)).flatten()
            small.trunk[name].weight.copy_(big.trunk[name].weight[rows][:, columns])
            small.trunk[name].bias.copy_(big.trunk[name].bias[rows])
            columns = rows
        small.heads[0].weight.copy_(big.heads[0].weight[:, columns])
        small.heads[0].bias.copy_(big.heads[0].bias)
    smaller_mask = torch.cat([masks[name][rows] for name, rows in kept.items()])
    assert len(smaller_mask) == 14
    torch.testing.assert_close(big(x, 0, mask), small(x, 0, smaller_mask), rtol=1e-12, atol=1e-12)


# Dropout


def factors(*shape, p, seed):
    """Dropout's factors: 0 with probability p, else 1 / (1 - p)."""
    return (torch.rand(*shape, generator=generator(seed)) >= p) / (1 - p)


def test_the_shapes_of_what_dropout_acts_on_are_those_of_the_maps_in_front_of_pooling():
    assert conv_linear_linear().dropout_shapes == [(2, 6, 8), (4, 4, 6), (6,), (5,)]
    assert HATMLP((1, 28, 28), (2,), (30, 20)).dropout_shapes == [(1, 28, 28), (30,), (20,)]
    maps = [(3, 32, 32), (64, 29, 29), (128, 12, 12), (256, 5, 5)]
    assert cnn().dropout_shapes == [*maps, (2048,), (2048,)]


def test_given_factors_act_on_the_input_behind_relu_and_in_front_of_pooling():
    network = conv_linear_linear(dropout=(0.5, 0.5, 0.5))
    x, mask = images(3, 2, 6, 8), torch.rand(15, generator=generator(1))
    dropout_masks = [factors(3, *shape, p=0.5, seed=seed) for seed, shape in enumerate(network.dropout_shapes)]
    masks = network.split(mask)
    h = F.relu(network.trunk["c1"](x * dropout_masks[0])) * dropout_masks[1]
    h = F.max_pool2d(h, 2) * masks["c1"].reshape(4, 1, 1)
    h = F.relu(network.trunk["fc1"](h.reshape(3, 24))) * dropout_masks[2] * masks["fc1"]
    h = F.relu(network.trunk["fc2"](h)) * dropout_masks[3] * masks["fc2"]
    torch.testing.assert_close(network(x, 0, mask, dropout_masks), network.heads[0](h))


def test_without_given_factors_torchs_own_dropout_acts_in_training_mode_only():
    torch.manual_seed(0)
    network = HATMLP((1, 2, 3), (2,), (50,), dropout=(0.2, 0.5))
    x, mask = images(7, 1, 2, 3), torch.ones(50)
    torch.manual_seed(5)
    by_network = network.train()(x, 0, mask)
    torch.manual_seed(5)
    h = F.dropout(F.relu(network.trunk["fc1"](F.dropout(x, 0.2).flatten(1))), 0.5)
    torch.testing.assert_close(by_network, network.heads[0](h))
    evaluated = network.eval()(x, 0, mask)
    assert not torch.allclose(by_network, evaluated)
    torch.testing.assert_close(evaluated, network(x, 0, mask, [None, None]))


# A stack of one's own


def test_a_stack_of_ones_own_trains_a_step():
    network = conv_linear_linear()
    parameters = {name: p.detach()[None].clone() for name, p in network.named_parameters() if name.startswith("trunk.")}
    head = {f"head.{name}": p.detach()[None].clone() for name, p in network.heads[1].named_parameters()}
    state = State({**parameters, **head}, network.gates[1:].detach().clone())
    before = {name: p.clone() for name, p in (*state.parameters.items(), ("e", state.e))}
    x, y = images(1, 20, 2, 6, 8), torch.arange(20)[None] % 2
    batch = Batch(x, y, torch.full((1, 20), 1 / 20), [None] * 4, torch.ones(1, 1, dtype=torch.float64))
    hyper = Hyper(
        torch.tensor([0.05]), torch.tensor([400.0], dtype=torch.float64), torch.tensor([1e4]), 6.0, 50.0, "authors"
    )
    coefficient, offset = affine(torch.zeros(15), "original")
    context = TaskContext(coefficient[None], offset[None], 0.1 * coefficient[None], {})
    losses = step(network, state, hyper, context, batch)
    assert all((p != before[name]).any() for name, p in (*state.parameters.items(), ("e", state.e)))
    after = step(network, state, hyper, context, batch)
    assert float(after[0] @ torch.tensor([1, 0.1])) < float(losses[0] @ torch.tensor([1, 0.1]))
