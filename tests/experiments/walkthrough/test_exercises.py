"""Each listed mistake has its own hint, no two give the same answer, and only the right answer passes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hatlab.experiments.walkthrough import exercises
from hatlab.experiments.walkthrough.exercises import NotYet
from hatlab.method.gate import gate, s_schedule
from hatlab.method.regularizer import mask_sparsity

P, M = torch.tensor([1.0, 1, 1, 0, 0, 0, 0]), torch.tensor([1.0, 1, 0, 1, 0, 0, 0])
READ, READING = torch.tensor([0.9, 1.0, 0.0, 0.2, 1.0]), torch.tensor([1.0, 0.0, 0.7, 0.1, 0.0])


def slope(b, n, s_max):
    return 1 / s_max + (s_max - 1 / s_max) * (b - 1) / (n - 1)


def factor(read, reading):
    return 1 - torch.minimum(reading[:, None], read)


def compensation(e, s, s_max, limit=50):
    return s_max * (torch.cosh((s * e).clamp(-limit, limit)) + 1) / (s * (torch.cosh(e) + 1))


def regularizer(m, p):
    return (m * (1 - p)).sum() / (1 - p).sum()


def costs(mode):
    return lambda answer: exercises.check_costs(mode, answer, P, M, c=3)


def count(answer):
    exercises.check_weights_in_use(answer, READ, READING, 64)


RIGHT = [
    (exercises.check_gate, gate),
    (exercises.check_gate, lambda e, s: torch.sigmoid(s * e).tolist()),  # a list does as well
    (exercises.check_slopes, slope),
    (exercises.check_slopes, lambda b, n, s_max: s_schedule("paper", s_max, n, 1)[b - 1]),
    (exercises.check_compensation, compensation),
    (exercises.check_gradient_factor, factor),
    (exercises.check_regularizer, regularizer),
    (costs("original"), 0.75),
    (costs("cross"), 0.875),
    (count, 198),
]
WRONG = [
    (exercises.check_gate, lambda e, s: torch.sigmoid(e), "slope s has no effect"),
    (exercises.check_gate, lambda e, s: s * torch.sigmoid(e), "slope s stands outside"),
    (exercises.check_gate, lambda e, s: torch.sigmoid(s + e), "multiplied"),
    (exercises.check_gate, lambda e, s: torch.sigmoid(-s * e), "sign is turned"),
    (exercises.check_gate, lambda e, s: torch.sigmoid(e / s), "steeper"),
    (exercises.check_gate, lambda e, s: s * e, "sigmoid around it is missing"),
    (exercises.check_gate, lambda e, s: torch.tanh(s * e), "is .*, and that is not it. It is the sigmoid"),
    (exercises.check_gate, lambda e, s: torch.sigmoid(s * e).sum(), r"shape \(\); it should be \(4,\)"),
    (exercises.check_gate, lambda e, s: 1 / (1 + torch.exp(-s * e)), "masks are right, but at s e = -800 the gradient"),
    (exercises.check_gate, lambda e: e, "ends in an error, TypeError"),
    (exercises.check_gate, 0.5, "has to be a function"),
    (exercises.check_slopes, lambda b, n, s_max: slope(b + 1, n, s_max), "first batch is b = 1"),
    (exercises.check_slopes, lambda b, n, s: 1 / s + (s - 1 / s) * (b - 1) / n, "last batch should reach s_max"),
    (exercises.check_slopes, lambda b, n, s_max: s_max * (b - 1) / (n - 1), "starts at 0"),
    (exercises.check_slopes, lambda b, n, s_max: slope(n + 1 - b, n, s_max), "slope falls"),
    (exercises.check_slopes, lambda b, n, s: 1 / s + s * (b - 1) / (n - 1), "ends at s_max"),
    (exercises.check_slopes, lambda b, n, s_max: s_max, "that is not it. In batch 1 it is 1/s_max"),
    (exercises.check_slopes, lambda b, n, s_max: 1 / (b - 1), "ends in an error, ZeroDivisionError"),
    (exercises.check_compensation, lambda e, s, s_max: compensation(e, s, 1), "s_max is missing"),
    (exercises.check_compensation, lambda e, s, s_max: s * compensation(e, s, s_max), "s is missing"),
    (exercises.check_compensation, lambda e, s, s_max: s_max**2 / compensation(e, s, s_max), "upside down"),
    (
        exercises.check_compensation,
        lambda e, s, s_max: s_max * (torch.cosh(e) + 1) / (s * (torch.cosh((s * e).clamp(-50, 50)) + 1)),
        "changed places",
    ),
    (exercises.check_compensation, lambda e, s, s_max: s_max * torch.cosh(s * e) / (s * torch.cosh(e)), "ones are"),
    (exercises.check_compensation, lambda e, s, s_max: compensation(e, s, s_max, 1e9), "more than a float can hold"),
    (exercises.check_compensation, lambda e, s, s_max: e, "that is not it. It is s_max times the sigmoid's derivative"),
    (exercises.check_gradient_factor, lambda read, reading: factor(reading, read), "matrix is turned"),
    (exercises.check_gradient_factor, lambda read, reading: 1 - factor(read, reading), "take 1 minus it"),
    (exercises.check_gradient_factor, lambda r, g: 1 - torch.maximum(g[:, None], r), "takes the larger mask"),
    (exercises.check_gradient_factor, lambda r, g: 1 - g[:, None] * r, "product of the masks"),
    (exercises.check_gradient_factor, lambda r, g: (1 - r).expand(2, 3), "units that are read alone"),
    (exercises.check_gradient_factor, lambda r, g: (1 - g)[:, None].expand(2, 3), "units that read alone"),
    (exercises.check_gradient_factor, lambda r, g: 1 - torch.minimum(g[:1], r), "shape"),
    (exercises.check_regularizer, lambda m, p: (m * (1 - p)).mean(), "number of all units"),
    (exercises.check_regularizer, lambda m, p: m.sum() / (1 - p).sum(), "All of m is counted"),
    (exercises.check_regularizer, lambda m, p: (m * (1 - p)).sum(), "not divided"),
    (exercises.check_regularizer, lambda m, p: (m * p).sum() / p.sum(), "counts what is reused"),
    (exercises.check_regularizer, lambda m, p: (m * (1 - p)).sum() / m.sum(), "divided by what the task takes"),
    (exercises.check_regularizer, lambda m, p: m, r"shape \(5,\)"),
    (costs("original"), 1 / 4, "factor c is missing"),
    (costs("original"), 3 * 1 / 7, "number of all units"),
    (costs("original"), 3 * 3 / 4, "All units of m are counted"),
    (costs("original"), 3 * (1 / 4 + 1 / 3) / 2, "That is the cross mode"),
    (costs("original"), 0.1, "is 0.1, and that is not it. Count the free units"),
    (costs("cross"), (1 / 4 + 1 / 3) / 2, "factor c is missing"),
    (costs("cross"), 3 * 1 / 4, "That is original at this c"),
    (costs("cross"), 3 * 1 / 4 / 2, "half of original"),
    (costs("cross"), 3 * (1 / 4 + 2 / 3) / 2, "share reused; the second part is 1 minus it"),
    (costs("cross"), 3 * 1 / 3, "share not reused alone"),
    (costs("cross"), 3 * (1 / 4 + 1 / 3), "shares are added"),
    (costs("cross"), 3 * (1 / 7 + 1 - 2 / 7) / 2, "by the number of all units"),
    (costs("cross"), [1.0, 2.0], "one number"),
    (count, 6, "second layer alone"),
    (count, 192, "first layer alone"),
    (count, 5, "weights are asked for"),
    (count, 192 + 25 - 2 * 3, "both ends"),
    (count, 5 * 64 + 25, "All weights are counted"),
    (count, 12, "is 12, and that is not it"),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_a_right_answer_is_told_so(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_a_wrong_answer_is_told_why(check, answer, hint):
    with pytest.raises(NotYet, match=hint):
        check(answer)


@pytest.mark.parametrize("check", [check for check, _ in RIGHT])
@pytest.mark.parametrize("answer", [..., lambda *_: ..., lambda *_: None], ids=["dots", "dots in it", "no return"])
def test_an_answer_that_is_not_there_is_told_so(check, answer):
    number = check in (count, *(c for c, a in RIGHT if isinstance(a, float)))
    if number and answer is not ...:
        pytest.skip("a number, not a function")
    with pytest.raises(NotYet, match="replace the dots"):
        check(answer)


def test_no_hint_gives_the_answer_away():
    for check, answer, _ in WRONG:
        with pytest.raises(NotYet) as told:
            check(answer)
        for shown in ("198", "0.875", "0.75,", "should be ["):
            assert shown not in str(told.value), told.value


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=8), st.floats(0.1, 4),
    st.sampled_from(["original", "cross"]),
)  # fmt: skip
def test_whatever_the_masks_the_regularizer_itself_is_right(units, c, mode):
    p, m = (torch.tensor(values, dtype=torch.float32) for values in zip(*units, strict=True))
    if 0 < p.sum() < len(p):  # of both kinds
        exercises.check_costs(mode, float(c * mask_sparsity([m], [p], mode, min_units=0)), p, m, c)


# --- the loop of one's own --------------------------------------------------------------------------------------------


def learner(**changed):
    """The loop of the last exercise, with pieces that may be replaced."""
    own = {
        "slope": slope,
        "gate": gate,
        "regularizer": regularizer,
        "factor": factor,
        "compensation": compensation,
        "bias": lambda used: 1 - used,
        "after": torch.maximum,
        "clamp": 6,
        **changed,
    }

    def learn(network, task, images, labels, cumulative, order, epochs, c, s_max, batch_size):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        e, used = network.gates, network.split(cumulative)
        for _ in range(epochs):
            batches = torch.randperm(len(images), generator=order).split(batch_size)
            for b, rows in enumerate(batches, start=1):
                s = own["slope"](b, len(batches), s_max)
                mask = own["gate"](e[task], s)
                loss = nn.functional.cross_entropy(network(images[rows], task, mask), labels[rows])
                loss = loss + c * own["regularizer"](mask, cumulative)
                optimizer.zero_grad()
                loss.backward()
                for layer, before in ("fc1", torch.ones(64).to(cumulative)), ("fc2", used["fc1"]):
                    network.get_parameter(f"trunk.{layer}.weight").grad *= own["factor"](before, used[layer])
                    network.get_parameter(f"trunk.{layer}.bias").grad *= own["bias"](used[layer])
                e.grad[task] *= own["compensation"](e[task].detach(), s, s_max)
                optimizer.step()
                e.data.clamp_(-own["clamp"], own["clamp"])
        return own["after"](cumulative, own["gate"](e[task], s_max).detach())

    return learn


def test_a_right_loop_equals_hatlabs(capsys):
    exercises.check_training(learner())
    assert capsys.readouterr().out.startswith("Right: after two tasks every number is that of hatlab.method.loop")


@pytest.mark.parametrize(
    ("changed", "hint"),
    [
        ({"slope": lambda b, n, s_max: s_max}, "away from those of"),
        ({"regularizer": lambda m, p: m.mean()}, "away from those of"),
        ({"factor": lambda read, reading: torch.ones(len(reading), len(read))}, "weights of the trunk"),
        ({"bias": lambda used: torch.ones_like(used)}, "weights of the trunk"),
        ({"compensation": lambda e, s, s_max: torch.ones_like(e)}, "embeddings"),
        ({"after": lambda cumulative, mask: cumulative * mask}, "away from those of|is not the larger of both"),
        ({"gate": lambda e, s: ...}, "learn ends in an error"),
    ],
)
def test_a_wrong_loop_is_told_where(changed, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.check_training(learner(**changed))


def test_a_cumulative_mask_that_is_wrong_at_the_end_only_is_found():
    calls = []

    def after(cumulative, mask):
        calls.append(1)
        return torch.maximum(cumulative, mask) if len(calls) == 1 else mask

    with pytest.raises(NotYet, match="is not the larger of both masks"):
        exercises.check_training(learner(after=after))


def test_a_hint_is_shown_without_the_way_through_the_module():
    assert NotYet("Turn it.")._render_traceback_() == ["Not yet. Turn it."]
