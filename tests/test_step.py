"""The step: pure, equal to autograd and SGD written out, mapped over replicas, and careful with what is frozen."""

import pytest
import torch

from hatlab import protection
from hatlab.networks import HATCNN, HATMLP
from hatlab.step import Batch, Hyper, State, step

HYPER = Hyper(0.05, 0.75, 400.0, 1e4, 6.0, 50.0, 0, "original", "authors")


def one_step(network, hyper=HYPER, *, seed=0, task=1, cumulative=None, s=20.0, batch=16):
    """A step on random images; the state before it, and what `step` returned."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *network.input_shape, generator=draw)
    y = torch.randint(0, 2, (batch,), generator=draw)
    mine = ("trunk.", f"heads.{task}.")
    parameters = {n: p.detach().clone() for n, p in network.named_parameters() if n.startswith(mine)}
    state = State(parameters, network.gates[task].detach().clone())
    cumulative = torch.zeros_like(state.e) if cumulative is None else cumulative
    factors = network.movable(cumulative)
    given = Batch(x, y, network.draw_dropout(batch, draw), s)
    return state, given, factors, step(network, task, state, given, hyper, cumulative, factors)


def networks():
    torch.manual_seed(0)
    return [HATMLP((1, 6, 6), [2, 2], (24, 12)), HATCNN((1, 28, 28), [2, 2])]


@pytest.mark.parametrize("network", networks(), ids=["mlp", "cnn"])
def test_a_step_changes_nothing_it_is_given(network):
    before = [p.detach().clone() for p in network.parameters()]
    state, *_, (after, losses) = one_step(network)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    named = dict(network.named_parameters())
    assert all(torch.equal(value, named[name]) for name, value in state.parameters.items())
    assert losses.shape == (2,)
    assert any(not torch.equal(after.parameters[n], p) for n, p in state.parameters.items())


def test_a_step_is_autograd_and_sgd_written_out():
    """The same numbers from loss.backward() through the gate, as the authors' loop does it."""
    network = networks()[0]
    cumulative = torch.rand(36, generator=torch.Generator().manual_seed(5))
    _, given, factors, (after, losses) = one_step(network, cumulative=cumulative)
    network.zero_grad()
    mask = network.mask(1, given.s)
    ce = torch.nn.functional.cross_entropy(network(given.x, 1, mask, given.keep), given.y)
    r = (mask * (1 - cumulative)).sum() / (1 - cumulative).sum()
    (ce + 0.75 * r).backward()
    torch.testing.assert_close(losses, torch.stack((ce, r)).detach())
    for name, p in network.named_parameters():
        if name in after.parameters:
            gradient = p.grad * factors.get(name, 1)
            torch.testing.assert_close(after.parameters[name], p.detach() - 0.05 * gradient, atol=1e-6, rtol=1e-6)
    e = network.gates[1].detach()
    ratio = 400 / given.s * (torch.cosh(given.s * e) + 1) / (torch.cosh(e) + 1)
    expected = (e - 0.05 * network.gates.grad[1] * ratio).clamp(-6, 6)
    clamped = (given.s * e).abs() > 50
    torch.testing.assert_close(after.e[~clamped], expected[~clamped], atol=1e-5, rtol=1e-4)


def test_a_step_can_be_mapped_over_replicas():
    network = networks()[0]
    runs = [one_step(network, HYPER._replace(learning_rate=rate), seed=i, s=s)
            for i, (rate, s) in enumerate([(0.05, 3.0), (0.01, 40.0), (0.5, 399.0)])]  # fmt: skip
    rates, slopes = torch.tensor([0.05, 0.01, 0.5]), torch.tensor([3.0, 40.0, 399.0])

    def stack(values):
        return torch.stack(list(values))

    parameters = {n: stack(s.parameters[n] for s, *_ in runs) for n in runs[0][0].parameters}
    keep = [None if k is None else stack(g.keep[i] for _, g, *_ in runs) for i, k in enumerate(runs[0][1].keep)]

    def replica(parameters, e, x, y, keep, s, rate):
        state, batch = State(parameters, e), Batch(x, y, keep, s)
        zeros = torch.zeros(36)
        after, losses = step(network, 1, state, batch, HYPER._replace(learning_rate=rate), zeros, {})
        return tuple(after), losses

    (mapped, e), losses = torch.func.vmap(replica)(
        parameters, stack(s.e for s, *_ in runs), stack(g.x for _, g, *_ in runs), stack(g.y for _, g, *_ in runs),
        keep, slopes, rates,
    )  # fmt: skip
    for i, (*_, (after, loss)) in enumerate(runs):
        torch.testing.assert_close(losses[i], loss, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(e[i], after.e, atol=1e-5, rtol=1e-5)
        for name, values in after.parameters.items():
            torch.testing.assert_close(mapped[name][i], values, atol=1e-5, rtol=1e-5)


def test_the_gradient_is_clipped_after_compensation():
    network = networks()[0]
    state, _, _, (free, _) = one_step(network, s=1.0)
    _, _, _, (clipped, _) = one_step(network, HYPER._replace(grad_clip=0.1), s=1.0)

    def moved(after):
        parts = [after.parameters[n] - p for n, p in state.parameters.items()] + [after.e - state.e]
        return torch.cat([part.flatten() for part in parts])

    assert moved(clipped).norm() == pytest.approx(0.05 * 0.1, rel=1e-3)
    assert moved(free).norm() > moved(clipped).norm()
    torch.testing.assert_close(
        moved(free) / moved(free).norm(), moved(clipped) / moved(clipped).norm(), atol=2e-3, rtol=0
    )


def test_embeddings_stay_within_their_clamp():
    network = networks()[0]
    _, _, _, (after, _) = one_step(network, HYPER._replace(learning_rate=1e6, embedding_clamp=2.0))
    assert after.e.abs().max() == 2.0


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_what_a_hard_mask_protects_does_not_move_and_earlier_logits_keep_their_bits(name):
    """With a cumulative mask of exact zeros and ones, nothing that task 0 computes may change at all."""
    network = networks()[name == "cnn"].eval()
    hard = (torch.rand(network.gates.shape[1], generator=torch.Generator().manual_seed(1)) > 0.5).float()
    x = torch.randn(8, *network.input_shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = network(x, 0, hard)
    state, _, factors, (after, _) = one_step(network, cumulative=hard)
    frozen = protection.protected_values(state.parameters, factors)
    count = protection.verify_protected(after.parameters, factors, frozen)
    assert 0 < count == sum(v.numel() for v in frozen.values())
    with torch.no_grad():
        network_after = torch.func.functional_call(network, after.parameters, (x, 0, hard))
    # weights into unused units move, but their units are gated; into used units only from unused ones, which are 0
    assert torch.equal(before, network_after)
    assert any(not torch.equal(after.parameters[n], p) for n, p in state.parameters.items() if "trunk" in n)
