"""What HAT adds to an update: each piece against the formula, and an optimiser that moves what is protected."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.method.networks import HATMLP
from hatlab.method.protection import FrozenWeightMoved
from hatlab.method.updates import (
    clamp_embeddings_,
    compensate_,
    protect_gradients_,
    protected_values,
    verify_protected,
)

X = torch.randn(12, 1, 2, 3, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 2


def network(seed=0, **arguments):
    torch.manual_seed(seed)
    return HATMLP((1, 2, 3), [2, 2], (5, 4), (0.0, 0.0), **arguments)


def half_taken():
    return torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0, 1.0, 0.25, 0.0, 1.0])


def backward(net, task=1, s=3.0):
    mask = net.mask(task, s)
    if mask.requires_grad:
        mask.retain_grad()
    F.cross_entropy(net(X, task, mask), Y).backward()
    return mask


def test_each_gradient_is_multiplied_by_one_minus_the_smaller_mask_of_its_two_units():
    net, taken = network(), half_taken()
    backward(net)
    before = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    protect_gradients_(net, taken)
    first, second = taken[:5], taken[5:]
    factors = {
        "trunk.fc1.weight": (1 - first)[:, None],
        "trunk.fc1.bias": 1 - first,
        "trunk.fc2.weight": 1 - torch.minimum(second[:, None], first[None]),
        "trunk.fc2.bias": 1 - second,
    }
    for name, p in net.named_parameters():
        if p.grad is not None:
            assert torch.equal(p.grad, before[name] * factors.get(name, torch.ones(())))


def test_a_parameter_without_a_gradient_is_left_out():
    net = network()
    protect_gradients_(net, half_taken())
    assert all(p.grad is None for p in net.parameters())


@given(s=st.floats(0.01, 12), s_max=st.floats(1, 1000))
@settings(deadline=None)
def test_the_authors_ratio_and_the_exact_form_agree_where_nothing_rounds(s, s_max):
    """Only the embedding of the task is touched; exp(s e) stays far from the bound of cosh."""
    found = []
    for form in ("authors", "exact"):
        net = network()
        with torch.no_grad():
            net.gates.clamp_(-0.5, 0.5)
        mask = backward(net, s=s)
        others = net.gates.grad[0].clone()
        compensate_(net, 1, s, s_max, form, mask=mask)
        assert torch.equal(net.gates.grad[0], others)
        e, by_mask = net.gates[1].detach(), mask.grad
        expected = by_mask * s_max * torch.sigmoid(e) * (1 - torch.sigmoid(e))
        torch.testing.assert_close(net.gates.grad[1], expected, atol=1e-6, rtol=2e-3)
        found.append(net.gates.grad[1])
    torch.testing.assert_close(*found, atol=1e-6, rtol=2e-3)


def test_compensation_before_backward_or_of_an_unknown_form_is_refused():
    net = network()
    with pytest.raises(ValueError, match=r"compensate_ comes after loss\.backward"):
        compensate_(net, 1, 3.0, 400.0)
    mask = backward(net)
    with pytest.raises(ValueError, match="compensation = 'exact' without the gradient of a mask"):
        compensate_(net, 1, 3.0, 400.0, "exact")
    with pytest.raises(ValueError, match="compensation = 'both'"):
        compensate_(net, 1, 3.0, 400.0, "both", mask=mask)


def test_a_network_without_gates_needs_no_compensation():
    net = network(gated=False)
    backward(net)
    compensate_(net, 1, 3.0, 400.0)
    assert net.gates.grad is None


def test_embeddings_of_all_tasks_are_clamped():
    net = network()
    with torch.no_grad():
        net.gates.mul_(100)
    clamp_embeddings_(net, 2.5)
    assert net.gates.abs().max() == 2.5 and (net.gates.abs() == 2.5).any(1).all()
    with pytest.raises(ValueError, match="bound = 0 of the embeddings"):
        clamp_embeddings_(net, 0)


OPTIMISERS = {
    "plain SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "weight decay": lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=0.01),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
}


def two_tasks(optimizer, net, protect=True):
    """Train both tasks a few steps with one optimiser; return how many values stayed, or raise."""
    nothing = torch.zeros(9)
    for task, taken in enumerate((nothing, half_taken())):
        before = protected_values(net, taken)
        for _ in range(3):
            optimizer.zero_grad()
            backward(net, task)
            if protect:
                protect_gradients_(net, taken)
            optimizer.step()
        count = verify_protected(net, taken, before)
    return count


def test_plain_sgd_leaves_what_is_protected():
    """Weights between units 0, 1 and 5, 8; the first two units' six weights each; a bias for each of the four."""
    net = network()
    assert two_tasks(OPTIMISERS["plain SGD"](net.parameters()), net) == 2 * 2 + 2 * 6 + 4


@pytest.mark.parametrize("name", ["momentum", "weight decay", "Adam"])
def test_an_optimiser_that_moves_what_has_no_gradient_is_named_as_a_likely_cause(name):
    net = network()
    with pytest.raises(FrozenWeightMoved, match=r"of 'trunk\.fc1\..*weight decay, or with momentum"):
        two_tasks(OPTIMISERS[name](net.parameters()), net)


def test_a_forgotten_protection_is_named_as_a_likely_cause():
    net = network()
    with pytest.raises(FrozenWeightMoved, match="protect_gradients_ was not called"):
        two_tasks(OPTIMISERS["plain SGD"](net.parameters()), net, protect=False)


def test_a_mask_of_another_number_of_units_is_refused():
    net = network()
    for call in (protect_gradients_, protected_values):
        with pytest.raises(ValueError, match=r"shape \(8,\): the last axis must have all 9 units"):
            call(net, torch.zeros(8))
