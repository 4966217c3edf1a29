import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hatlab.experiments.walkthrough import exercises
from hatlab.experiments.walkthrough.exercises import NotYet
from hatlab.method.gate import gate, s_schedule
from hatlab.method.regularizer import mask_sparsity

P, M = torch.tensor([1.0, 1, 1, 0, 0, 0]), torch.tensor([1.0, 1, 1, 1, 0, 0])
FRONT, BEHIND = torch.tensor([0.9, 1.0, 0.0, 0.2, 1.0]), torch.tensor([1.0, 0.0, 0.7, 0.1, 0.0])


def slope(b, n, s_max):
    return 1 / s_max + (s_max - 1 / s_max) * (b - 1) / (n - 1)


def factor(front, behind):
    return 1 - torch.minimum(behind[:, None], front)


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (exercises.check_gate, gate),
        (exercises.check_gate, lambda e, s: (1 / (1 + torch.exp(-s * e))).tolist()),  # a list does as well
        (exercises.check_slopes, slope),
        (exercises.check_slopes, lambda b, n, s_max: s_schedule("paper", s_max, n, 1)[b - 1]),
        (exercises.check_gradient_factor, factor),
        (lambda answer: exercises.check_regularizer("original", answer, P, M, 2), 2 / 3),
        (lambda answer: exercises.check_regularizer("cross", answer, P, M, 2), 1 / 3),
        (lambda answer: exercises.check_weights_in_use(answer, FRONT, BEHIND, 64), 198),
    ],
)
def test_a_right_answer_is_told_so(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda e, s: torch.sigmoid(e), "slope s has no effect"),
        (lambda e, s: s * torch.sigmoid(e), "slope s stands outside"),
        (lambda e, s: torch.sigmoid(s + e), "multiplied"),
        (lambda e, s: torch.sigmoid(-s * e), "sign is turned"),
        (lambda e, s: torch.sigmoid(e / s), "steeper"),
        (lambda e, s: s * e, "sigmoid around it is missing"),
        (lambda e, s: torch.tanh(s * e), r"is \[.*it should be \[0.0025, 0.4256"),
        (lambda e, s: torch.sigmoid(s * e).sum(), r"shape \(\); it should be \(4,\)"),
        (lambda e, s: ..., "returns Ellipsis"),
        (lambda e, s: None, "returns nothing"),
        (lambda e: e, "ends in an error, TypeError"),
        (..., "has to be a function"),
    ],
)
def test_a_wrong_gate_is_told_why(answer, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.check_gate(answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda b, n, s_max: slope(b + 1, n, s_max), "first batch is b = 1"),
        (lambda b, n, s_max: 1 / s_max + (s_max - 1 / s_max) * (b - 1) / n, "last batch should reach s_max"),
        (lambda b, n, s_max: s_max * (b - 1) / (n - 1), "starts at 0"),
        (lambda b, n, s_max: slope(n + 1 - b, n, s_max), "slope falls"),
        (lambda b, n, s_max: s_max, "it should be"),
        (lambda b, n, s_max: 1 / (b - 1), "ends in an error, ZeroDivisionError"),
    ],
)
def test_a_wrong_slope_is_told_why(answer, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.check_slopes(answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda front, behind: factor(behind, front), "matrix is turned"),
        (lambda front, behind: 1 - factor(front, behind), "take 1 minus it"),
        (lambda front, behind: 1 - torch.maximum(behind[:, None], front), "takes the larger mask"),
        (lambda front, behind: 1 - behind[:, None] * front, "product of the masks"),
        (lambda front, behind: 1 - torch.minimum(behind[:1], front), "shape"),
    ],
)
def test_wrong_factors_are_told_why(answer, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.check_gradient_factor(answer)


@pytest.mark.parametrize(
    ("mode", "answer", "hint"),
    [
        ("original", 1 / 3, "factor c is missing"),
        ("original", 3 * 1 / 6, "number of all units"),
        ("original", 3 * 4 / 3, "All units of m are counted"),
        ("original", 0.1, "is 0.1; it should be 1"),
        ("cross", 3 * (1 / 3 + 1) / 2, "R2 is 1 minus it"),
        ("cross", 3 * (1 / 3), "That is original at this c"),
        ("cross", 3 * 0, "share not reused alone"),
        ("cross", ..., "where numbers are needed"),
        ("cross", [1.0, 2.0], "one number"),
    ],
)
def test_a_wrong_regularizer_is_told_why(mode, answer, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.check_regularizer(mode, answer, P, M, c=3)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=8), st.floats(0.1, 4),
    st.sampled_from(["original", "cross"]),
)  # fmt: skip
def test_whatever_the_masks_the_regularizer_itself_is_right(units, c, mode):
    p, m = (torch.tensor(values, dtype=torch.float32) for values in zip(*units, strict=True))
    exercises.check_regularizer(mode, float(c * mask_sparsity([m], [p], mode, min_units=0)), p, m, c)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (6, "second layer alone"),
        (192, "first layer alone"),
        (5, "weights are asked for"),
        (192 + 25 - 2 * 3, "both ends"),
        (..., "numbers are needed"),
        (0, "it should be 198"),
    ],
)
def test_a_wrong_count_is_told_why(answer, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.check_weights_in_use(answer, FRONT, BEHIND, 64)


def test_a_hint_is_shown_without_the_way_through_the_module():
    assert NotYet("Turn it.")._render_traceback_() == ["Not yet. Turn it."]
