import functools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hatlab
from hatlab.config import RunConfig
from hatlab.data.loading import Split
from hatlab.experiments.compression.pruning import NEGLIGIBLE, NothingLeft, compress, compressed, fidelity, statement
from hatlab.method.capacity import weights_used
from hatlab.method.networks import HATCNN, HATMLP, HATNetwork
from hatlab.support.progress import Progress

S_MAX = 400.0


def mlp():
    return HATMLP((1, 3, 4), [3, 5], widths=(7, 6, 5), dropout=(0.2, 0.5))


def convolutions():
    """Two convolutions, one padded and without bias, the last with maps of 2x3, and a linear layer."""
    trunk = {
        "c1": nn.Conv2d(2, 5, 3, padding=1, bias=False),
        "c2": nn.Conv2d(5, 6, (3, 2), dilation=(1, 2)),
        "fc1": nn.Linear(6 * 2 * 3, 7),
    }
    return HATNetwork(trunk, (2, 12, 16), [3, 5], [0.2, 0.2, 0.5])


def unpooled():
    trunk = {"c1": nn.Conv2d(2, 5, 3, stride=2), "fc1": nn.Linear(5 * 3 * 2, 7)}
    return HATNetwork(trunk, (2, 8, 6), [3, 5], [0.2, 0.5], pool=False)


@functools.cache
def cnn():
    return HATCNN((1, 28, 28), [3, 5])


@st.composite
def gated(draw, build):
    """A network with random weights, half of whose masks are exactly 0 or 1, the others anything; no layer is empty."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    network = build()
    with torch.no_grad():
        for e in network.split(network.gates).values():
            anything = torch.rand_like(e) * 0.12 - 0.06  # masks from 4e-11 up to 1
            closed_or_open = 6 * torch.sign(torch.randn_like(e))
            e.copy_(torch.where(torch.rand_like(e) < 0.5, anything, closed_or_open))
            e[:, 0] = 0.03
    return network.eval()


def as_arrays(network, vector):
    return {name: mask.detach().numpy() for name, mask in network.split(vector).items()}


@torch.no_grad()
def check(network, task, threshold):
    """The cut network says what the masked one does with masks up to the threshold at 0, and is as small as counted."""
    mask = network.mask(task, S_MAX)
    small = compress(network, task, S_MAX, threshold)
    x = torch.randn(4, *network.input_shape)
    expected = network(x, task, torch.where(mask > threshold, mask, 0.0))
    scale = float(expected.abs().max())
    torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-5 * scale)
    if threshold == NEGLIGIBLE:
        torch.testing.assert_close(small(x), network(x, task, mask), rtol=0, atol=1e-5 * scale)
    trunk = [getattr(small, link.name).weight for link in network.gated_layers]
    assert sum(w.numel() for w in trunk) == weights_used(network.gated_layers, as_arrays(network, mask), threshold)
    head = network.heads[task]
    assert small.head.weight.shape == (head.out_features, len(trunk[-1]))


@pytest.mark.parametrize("build", [mlp, convolutions, unpooled])
@given(st.data(), st.integers(0, 1), st.sampled_from([0.0, NEGLIGIBLE, 0.5]))
@settings(deadline=None, max_examples=40)
def test_the_cut_network_equals_the_masked_one(build, data, task, threshold):
    check(data.draw(gated(build)), task, threshold)


@given(st.data())
@settings(deadline=None, max_examples=3)
def test_it_does_for_the_authors_cnn(data):
    check(data.draw(gated(cnn)), 1, NEGLIGIBLE)


def test_the_cut_network_is_plain_and_small():
    network = convolutions()
    with torch.no_grad():
        network.gates.fill_(-6)
        for name, e in network.split(network.gates).items():
            e[0, :2] = 6 if name != "c2" else 0.0  # a mask of 1, in c2 of 1/2
    small = compress(network, 0, S_MAX)
    assert [type(module) for module in small] == [
        nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear,
    ]  # fmt: skip
    assert [small.c1.weight.shape[0], small.c2.weight.shape[0], small.fc1.weight.shape[0]] == [2, 2, 2]
    # channel-major: the positions of the two filters kept are the first columns; their mask is in the weights
    torch.testing.assert_close(small.fc1.weight, network.trunk["fc1"].weight[:2, :12] / 2)
    torch.testing.assert_close(small.c2.weight, network.trunk["c2"].weight[:2, :2])
    assert small.c1.bias is None and torch.equal(small.fc1.bias, network.trunk["fc1"].bias[:2])


def test_it_leaves_the_network_and_everybodys_random_numbers_alone():
    torch.manual_seed(0)
    network = mlp()
    with torch.no_grad():
        network.gates.fill_(6)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    small = compress(network, 0, S_MAX)
    assert torch.equal(torch.get_rng_state(), generator)
    with torch.no_grad():
        for p in small.parameters():
            p.add_(1)
    assert all(p.requires_grad for p in small.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_layer_without_units_is_refused():
    network = mlp()
    with torch.no_grad():
        network.gates.fill_(6)
        network.split(network.gates)["fc2"][0] = -6
    with pytest.raises(NothingLeft, match="layer 'fc2' has no unit whose mask of task 1 is above 1e-08"):
        compress(network, 0, S_MAX)
    compress(network, 1, S_MAX)


def test_fidelity_counts_what_a_threshold_changes():
    network = HATMLP((1, 1, 2), [2], widths=(2,)).eval()
    with torch.no_grad():
        network.trunk["fc1"].weight.copy_(torch.eye(2))
        network.trunk["fc1"].bias.zero_()
        network.heads[0].weight.copy_(torch.eye(2))
        network.heads[0].bias.copy_(torch.tensor([0.0, 0.5]))
        network.gates.copy_(torch.tensor([[-np.log(3) / S_MAX, 6.0]]))  # masks of 1/4 and 1
    images = torch.tensor([[1, 0], [8, 0], [0, 8]], dtype=torch.uint8).reshape(3, 1, 1, 2)
    labels = torch.tensor([1, 0, 1])
    data = Split(images, torch.arange(3), labels, torch.ones(1, 1, 1), torch.zeros(1, 1, 1), None)
    # logits with the mask: (1/4, 1/2), (2, 1/2), (0, 8.5); without the first unit: (0, 1/2), (0, 1/2), (0, 8.5)
    found = fidelity(network, compress(network, 0, S_MAX, 0.5), 0, S_MAX, data, batch_size=2)
    assert found == pytest.approx((3, 8.5, 2.0, 2, 2 / 3))
    found = fidelity(network, compress(network, 0, S_MAX), 0, S_MAX, data, batch_size=2)
    assert found == pytest.approx((3, 8.5, 0.0, 3, 1.0), abs=1e-6)


SINGLE = RunConfig(
    widths=(40, 40),
    dropout=(0.0, 0.0),
    batch_size=16,
    max_epochs=8,
    classes_per_task=10,
    embedding_init="uniform",
    c=1.5,
)


def test_the_table_of_runs_agrees_with_the_runs_own(tmp_path):
    runs = hatlab.sweep(SINGLE.grid(seed=[0, 1]), results=tmp_path, device="cpu", progress=Progress())
    table = compressed(runs)
    assert list(table["threshold"]) == [NEGLIGIBLE, 0.5] * 2
    for run in runs:
        exact, half = table[table["run"] == run.run_id].itertuples()
        assert half.weights == run.tasks["weights_used"].iloc[0] <= exact.weights
        assert half.share == pytest.approx(100 * half.weights / run.tasks["weights"].iloc[0])
        first, second = map(int, half.units.split("-"))
        assert half.weights == 64 * first + first * second
        assert half.parameters == half.weights + first + second + 10 * second + 10
        assert exact.accuracy == pytest.approx(run.accuracy["accuracy"].iloc[0], abs=1e-6)
        assert exact.same_predictions == exact.images == 355
        assert exact.largest_difference < 1e-5 * exact.largest_logit
    assert "710 of 710 predictions are the same" in statement(table).splitlines()[0]


def test_a_network_that_is_closed_has_a_row_and_no_network(tmp_path):
    run = hatlab.run(SINGLE.replace(max_epochs=1), results=tmp_path, device="cpu", progress=Progress())
    (row,) = compressed([run], [1.0]).itertuples()  # no mask is above 1
    assert (row.units, row.weights, row.share) == ("", 0, 0)
    assert np.isnan(row.parameters) and np.isnan(row.accuracy)


def test_the_sentences_follow_the_table():
    columns = ["threshold", "share", "images", "largest_logit", "largest_difference", "same_predictions"]
    rows = [(1e-8, 10.0, 100, 20.0, 1e-6, 100), (1e-8, 20.0, 100, 25.0, 3e-6, 100), (0.5, 8.0, 100, 20.0, 1.25, 97)]
    first, second, third = statement(pd.DataFrame([*rows, (0.9, 0.0, *[np.nan] * 4)], columns=columns)).splitlines()
    assert first.startswith(
        "Units with masks above 1e-08: 15% of the trunk's weights (mean, n = 2); no logit differs by"
    )
    assert first.endswith("more than 3e-06, where they reach 25; 200 of 200 predictions are the same.")
    assert second.endswith("more than 1.2, where they reach 20; 97 of 100 predictions are the same.")
    assert third == "Units with masks above 0.9: each network has a layer without any (n = 1)."
