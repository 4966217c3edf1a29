"""The step: the module's formula R times, equal to autograd and SGD written out, and careful with what is frozen."""

import pytest
import torch
from torch import nn

from hatlab.method import protection
from hatlab.method.networks import HATCNN, HATMLP, HATNetwork
from hatlab.method.regularizer import affine
from hatlab.training import step as step_module
from hatlab.training.step import Batch, Hyper, State, TaskContext, forward, step

C = 0.75


def strided(pool=True):
    """Biases that are missing, strides and padding: whatever a trunk may have."""
    trunk = {
        "c1": nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False),
        "fc1": nn.Linear(5 * (4 * 4 if pool else 8 * 8), 7, bias=False),
        "fc2": nn.Linear(7, 6),
    }
    return HATNetwork(trunk, (3, 16, 16), [3, 3], [0.2, 0.5, 0.5], pool=pool)


BUILDERS = {
    "mlp": lambda: HATMLP((1, 6, 6), [2, 2], (24, 12)),
    "cnn": lambda: HATCNN((1, 28, 28), [2, 2]),
    "strided": strided,
    "unpooled": lambda: strided(pool=False),
}


def networks(name, runs, seed=0):
    torch.manual_seed(seed)
    return [BUILDERS[name]() for _ in range(runs)]


def stacked(members, task=1):
    """The state of several networks, copied, with a leading replica axis."""

    def stack(name):
        return torch.stack([dict(member.named_parameters())[name].detach() for member in members])

    names = [name for name, _ in members[0].named_parameters() if name.startswith("trunk.")]
    head = {f"head.{kind}": stack(f"heads.{task}.{kind}") for kind in ("weight", "bias")}
    return State({**{name: stack(name) for name in names}, **head}, stack("gates")[:, task])


def draw_batch(network, runs, n=16, s=20.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(runs, n, *network.input_shape, generator=draw)
    y = torch.randint(0, 2, (runs, n), generator=draw)
    dropout_masks = [
        (torch.rand(runs, n, *shape, generator=draw) >= p).float() / (1 - p) if p else None
        for shape, p in zip(network.dropout_shapes, network.dropout, strict=True)
    ]
    return Batch(x, y, torch.full((runs, n), 1 / n), dropout_masks, torch.full((runs, 1), s, dtype=torch.float64))


def hyper_of(runs, rate=0.05, clip=1e4, clamp=6.0):
    s_max = torch.full((runs,), 400.0, dtype=torch.float64)
    return Hyper(torch.full((runs,), rate), s_max, torch.full((runs,), clip), clamp, 50.0, "authors")


def context_of(members, cumulative=None, mode="original"):
    """What a cumulative mask (R, units) means; none: the first task."""
    units = members[0].gates.shape[1]
    masks = torch.zeros(len(members), units) if cumulative is None else cumulative
    parts = [affine(mask, mode, min_units=0) for mask in masks]
    regularizer_gradient = torch.stack([affine(mask, mode, C, min_units=0)[0] for mask in masks])
    factors = (
        [] if cumulative is None else [member.gradient_mask(mask) for member, mask in zip(members, masks, strict=True)]
    )
    gradient_mask = {
        name: torch.stack([factor[name] for factor in factors]) for name in (factors[0] if factors else {})
    }
    return TaskContext(
        torch.stack([c for c, _ in parts]), torch.stack([o for _, o in parts]), regularizer_gradient, gradient_mask
    )


def copy(state):
    return State({name: value.clone() for name, value in state.parameters.items()}, state.e.clone())


def values(state):
    return [*state.parameters.values(), state.e]


# --- the formula ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("dropout", [True, False])
def test_the_batched_formula_is_the_modules(name, dropout):
    members = networks(name, 3)
    batch, state = draw_batch(members[0], 3), stacked(members)
    mask = torch.sigmoid(batch.s.float() * state.e)
    dropout_masks = batch.dropout_masks if dropout else [None] * len(batch.dropout_masks)
    logits = forward(members[0], state.parameters, batch.x, mask, dropout_masks)
    for i, member in enumerate(members):
        mine = [k if k is None else k[i] for k in dropout_masks]
        expected = member.eval()(batch.x[i], 1, mask[i], mine)
        torch.testing.assert_close(logits[i], expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_batched_gradient_is_the_modules(name):
    members = networks(name, 3)
    batch, state = draw_batch(members[0], 3), stacked(members)
    parameters = {n: p.requires_grad_() for n, p in state.parameters.items()}
    mask = torch.sigmoid(batch.s.float() * state.e).requires_grad_()
    logits = forward(members[0], parameters, batch.x, mask, batch.dropout_masks)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4))
    (logits * weights).sum().backward()
    for i, member in enumerate(members):
        own = mask[i].detach().requires_grad_()
        mine = [k if k is None else k[i] for k in batch.dropout_masks]
        (member(batch.x[i], 1, own, mine) * weights[i]).sum().backward()
        torch.testing.assert_close(mask.grad[i], own.grad, atol=1e-4, rtol=1e-4)
        for n, p in member.named_parameters():
            if (joined := n.replace("heads.1.", "head.")) in parameters:
                torch.testing.assert_close(parameters[joined].grad[i], p.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_in_groups_is_one_convolution_after_the_other(bias):
    layer = nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2, bias=bias)
    draw = torch.Generator().manual_seed(0)
    h, weight = torch.randn(4, 6, 3, 9, 11, generator=draw), torch.randn(4, 5, 3, 3, 3, generator=draw)
    biases = torch.randn(4, 5, generator=draw) if bias else None
    torch.testing.assert_close(
        step_module._in_groups(h, weight, biases, layer), step_module._one_by_one(h, weight, biases, layer)
    )


def test_the_gradient_of_a_weight_lies_in_memory_as_the_weight_does():
    """Else the update would go through memory crosswise."""
    x = torch.randn(2, 5, 7, requires_grad=True)
    weight = torch.randn(2, 3, 7, requires_grad=True)
    step_module._linear(x, weight, None, None).sum().backward()
    assert weight.grad.is_contiguous()
    torch.autograd.gradcheck(
        lambda *given: step_module._linear(*given, None),
        [t.double().detach().requires_grad_() for t in (x, weight, torch.randn(2, 3))],
    )


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["original", "cross", "reuse"])
def test_a_step_is_autograd_and_sgd_written_out(mode):
    """The same numbers from loss.backward() through the gate, as the authors' loop does it."""
    (network,) = networks("mlp", 1)
    cumulative = torch.rand(36, generator=torch.Generator().manual_seed(5))
    batch, state = draw_batch(network, 1), stacked([network])
    losses = step(network, state, hyper_of(1), context_of([network], cumulative[None], mode), batch)
    network.zero_grad()
    s = batch.s.item()
    mask = network.mask(1, s)
    logits = network(batch.x[0], 1, mask, [k[0] for k in batch.dropout_masks])
    ce = torch.nn.functional.cross_entropy(logits, batch.y[0])
    r1 = (mask * (1 - cumulative)).sum() / (1 - cumulative).sum()
    r2 = 1 - (mask * cumulative).sum() / cumulative.sum()
    r = {"original": r1, "cross": (r1 + r2) / 2, "reuse": r2}[mode]
    (ce + C * r).backward()
    torch.testing.assert_close(losses[0], torch.stack((ce, r)).detach())
    factors = network.gradient_mask(cumulative)
    for name, p in network.named_parameters():
        if (joined := name.replace("heads.1.", "head.")) in state.parameters:
            expected = p.detach() - 0.05 * p.grad * factors.get(name, 1)
            torch.testing.assert_close(state.parameters[joined][0], expected, atol=1e-6, rtol=1e-6)
    e = network.gates[1].detach()
    ratio = 400 / s * (torch.cosh(s * e) + 1) / (torch.cosh(e) + 1)
    expected = (e - 0.05 * network.gates.grad[1] * ratio).clamp(-6, 6)
    clamped = (s * e).abs() > 50
    torch.testing.assert_close(state.e[0][~clamped], expected[~clamped], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", BUILDERS)
def test_runs_side_by_side_take_the_steps_they_take_alone(name):
    members = networks(name, 3)
    cumulative = torch.rand(3, members[0].gates.shape[1], generator=torch.Generator().manual_seed(1))
    batch, together, hyper = draw_batch(members[0], 3), stacked(members), hyper_of(3)
    hyper = hyper._replace(learning_rate=torch.tensor([0.05, 0.01, 0.5]), grad_clip=torch.tensor([1e4, 0.1, 1e4]))
    losses = step(members[0], together, hyper, context_of(members, cumulative), batch)
    for i, member in enumerate(members):
        alone, own = stacked([member]), slice(i, i + 1)
        mine = Batch(
            *(t[own] for t in batch[:3]), [k if k is None else k[own] for k in batch.dropout_masks], batch.s[own]
        )
        rates = Hyper(*(t[own] for t in hyper[:3]), *hyper[3:])
        loss = step(member, alone, rates, context_of([member], cumulative[own]), mine)
        torch.testing.assert_close(losses[own], loss, atol=1e-6, rtol=1e-5)
        for a, b in zip(values(alone), values(together), strict=True):
            torch.testing.assert_close(a[0], b[i], atol=1e-5, rtol=1e-5)


def test_a_run_that_diverges_does_not_touch_the_others():
    members = networks("mlp", 3)
    batch, sound, ill = draw_batch(members[0], 3), stacked(members), stacked(members)
    step(members[0], sound, hyper_of(3), context_of(members), batch)
    ill.parameters["trunk.fc1.weight"][1] = torch.nan
    losses = step(members[0], ill, hyper_of(3), context_of(members), batch)
    assert losses[1, 0].isnan() and losses[[0, 2]].isfinite().all()
    for a, b in zip(values(sound), values(ill), strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])


def test_rows_that_count_nothing_change_nothing():
    """A run with fewer images than others in its last batch gets rows of padding."""
    members = networks("cnn", 2)
    batch = draw_batch(members[0], 2, n=6)
    weight = torch.tensor([[0.25] * 4 + [0.0] * 2, [1 / 6] * 6])
    padded, short = stacked(members), stacked(members[:1])
    step(members[0], padded, hyper_of(2), context_of(members), batch._replace(weight=weight))
    factors = [k if k is None else k[:1, :4] for k in batch.dropout_masks]
    first = Batch(batch.x[:1, :4], batch.y[:1, :4], weight[:1, :4], factors, batch.s[:1])
    step(members[0], short, hyper_of(1), context_of(members[:1]), first)
    for a, b in zip(values(short), values(padded), strict=True):
        torch.testing.assert_close(a[0], b[0], atol=1e-6, rtol=1e-5)


def test_a_run_with_no_images_idles():
    members = networks("mlp", 2)
    batch, state = draw_batch(members[0], 2), stacked(members)
    before = copy(state)
    batch.weight[0] = 0
    step(members[0], state, hyper_of(2), context_of(members), batch)
    for a, b in zip(values(before), values(state), strict=True):
        assert torch.equal(a[0].view(torch.int32), b[0].view(torch.int32))
        assert not torch.equal(a[1], b[1])


def test_a_step_changes_nothing_but_its_state():
    members = networks("mlp", 2)
    cumulative = torch.rand(2, 36)
    batch, state, hyper, context = (
        draw_batch(members[0], 2),
        stacked(members),
        hyper_of(2),
        context_of(members, cumulative),
    )
    given = [
        batch.x,
        batch.y,
        batch.weight,
        *batch.dropout_masks,
        batch.s,
        *hyper[:3],
        *context[:3],
        *context.gradient_mask.values(),
    ]
    before = [tensor.clone() for tensor in given]
    weights = [p.detach().clone() for p in members[0].parameters()]
    step(members[0], state, hyper, context, batch)
    assert all(torch.equal(a, b) for a, b in zip(before, given, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, members[0].parameters(), strict=True))
    assert not any(value.requires_grad for value in values(state))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_step_never_looks_at_a_value(name):
    """On tensors that have none: so it can be captured once and replayed."""
    members = networks(name, 2)
    cumulative = torch.rand(2, members[0].gates.shape[1])

    def meta(value):
        if isinstance(value, torch.Tensor):
            return value.to("meta")
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(meta, value))
        if isinstance(value, list):
            return [meta(item) for item in value]
        return {key: meta(item) for key, item in value.items()} if isinstance(value, dict) else value

    given = stacked(members), hyper_of(2), context_of(members, cumulative), draw_batch(members[0], 2)
    losses = step(members[0].to("meta"), *map(meta, given))
    assert losses.shape == (2, 2)


def test_the_gradient_is_clipped_after_compensation():
    members = networks("mlp", 1)
    batch = draw_batch(members[0], 1, s=1.0)

    def moved(clip):
        state = stacked(members)
        before = copy(state)
        step(members[0], state, hyper_of(1, clip=clip), context_of(members), batch)
        return torch.cat([(a - b).flatten() for a, b in zip(values(state), values(before), strict=True)])

    free, clipped = moved(1e4), moved(0.1)
    assert clipped.norm() == pytest.approx(0.05 * 0.1, rel=1e-3)
    assert free.norm() > clipped.norm()
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), atol=2e-3, rtol=0)


def test_embeddings_stay_within_their_clamp():
    members = networks("mlp", 1)
    state = stacked(members)
    step(members[0], state, hyper_of(1, rate=1e6, clamp=2.0), context_of(members), draw_batch(members[0], 1))
    assert state.e.abs().max() == 2.0


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_what_a_hard_mask_protects_does_not_move_and_earlier_logits_keep_their_bits(name):
    """With a cumulative mask of exact zeros and ones, nothing that task 0 computes may change at all."""
    (network,) = networks(name, 1)
    hard = (torch.rand(network.gates.shape[1], generator=torch.Generator().manual_seed(1)) > 0.5).float()
    x = torch.randn(8, *network.input_shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = network.eval()(x, 0, hard)
    state, context = stacked([network]), context_of([network], hard[None])
    old = copy(state)
    frozen = protection.frozen_values(state.parameters, context.gradient_mask)
    step(network, state, hyper_of(1), context, draw_batch(network, 1))
    count = protection.verify_frozen(state.parameters, context.gradient_mask, frozen)
    assert 0 < count == sum(v.numel() for v in frozen.values())
    trunk = {name: value[0] for name, value in state.parameters.items() if name.startswith("trunk.")}
    with torch.no_grad():
        # weights into unused units move, but their units are gated; into used units only from unused ones, which are 0
        assert torch.equal(before, torch.func.functional_call(network, trunk, (x, 0, hard)))
    assert any(not torch.equal(value, old.parameters[name][0]) for name, value in trunk.items())
