import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from hatlab.method import gate as attention
from hatlab.method.gate import compensated_gradient, gate, s_schedule

S_MAX, CLAMP = 400.0, 50.0


def epochs():
    """Keywords of `slopes`: an epoch of at least one image."""
    return st.fixed_dictionaries(
        {"s_max": st.floats(1, 1000), "n": st.integers(1, 3000), "batch_size": st.integers(1, 200)}
    )


def several_batches():
    return epochs().filter(lambda k: k["n"] > k["batch_size"])


@given(epochs())
@settings(deadline=None)
def test_the_authors_slopes_follow_the_sample_offset(k):
    s_max, n = k["s_max"], k["n"]
    expected = [(s_max - 1 / s_max) * i / n + 1 / s_max for i in range(0, n, k["batch_size"])]
    np.testing.assert_allclose(s_schedule("authors", **k), expected, rtol=1e-12)


@given(several_batches())
@settings(deadline=None)
def test_the_papers_slopes_follow_the_batch_number(k):
    s_max = k["s_max"]
    total = math.ceil(k["n"] / k["batch_size"])
    expected = [1 / s_max + (s_max - 1 / s_max) * (b - 1) / (total - 1) for b in range(1, total + 1)]
    np.testing.assert_allclose(s_schedule("paper", **k), expected, rtol=1e-12)


@given(st.sampled_from(["authors", "paper"]), several_batches())
@settings(deadline=None)
def test_every_epoch_starts_again_at_one_over_s_max_with_a_slope_for_every_batch(schedule, k):
    s = s_schedule(schedule, **k)
    assert s[0] == 1 / k["s_max"]
    assert s.shape == (math.ceil(k["n"] / k["batch_size"]),)
    assert s.dtype == np.float64


@given(several_batches().filter(lambda k: k["s_max"] > 1.01))
@settings(deadline=None)
def test_the_last_slope_is_s_max_in_the_paper_and_less_in_the_authors_code(k):
    assert s_schedule("paper", **k)[-1] == pytest.approx(k["s_max"], rel=1e-12)
    assert s_schedule("authors", **k)[-1] < k["s_max"]


def test_the_authors_last_slope_on_mnist_is_399_787():
    assert s_schedule("authors", 400, 60_000, 64)[-1] == pytest.approx(399.787, abs=5e-4)


def test_an_epoch_of_one_batch_is_the_first_for_the_authors_and_the_last_for_the_paper():
    assert s_schedule("authors", 400, 10, 64).tolist() == [1 / 400]
    assert s_schedule("paper", 400, 10, 64) == pytest.approx([400])


def test_an_unknown_schedule_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="schedule = 'cosine': allowed are 'authors' and 'paper'"):
        s_schedule("cosine", 400, 100, 10)


@pytest.mark.parametrize("s", [1 / 400, 1.0, 37.0, 400.0])
def test_the_gate_is_the_sigmoid_of_s_e(s):
    e = torch.linspace(-6, 6, 101, dtype=torch.float64)
    np.testing.assert_allclose(gate(e, s), expit(s * e.numpy()), rtol=1e-12)
    assert torch.equal(gate(e, torch.tensor(s, dtype=torch.float64)), gate(e, s))


def test_the_gate_at_s_max_is_not_quite_binary_near_zero():
    # this leak through the protection is the authors' ("not necessarily binary")
    assert 0.01 < float(gate(torch.tensor(-0.01), S_MAX)) < 0.05
    assert float(gate(torch.tensor(0.05), S_MAX)) == 1


def derivative_of_mask(e):
    """What an undisturbed gradient is multiplied by: s_max sigmoid'(e), in float64."""
    y = expit(np.asarray(e, np.float64))
    return S_MAX * y * (1 - y)


def compensated(e, s, form="authors", dtype=torch.float32, gradient=1.0, clamp=CLAMP):
    """The compensated gradient of embeddings `e` whose masks have `gradient`, as float64."""
    e = torch.as_tensor(e, dtype=dtype)
    upstream = torch.as_tensor(gradient, dtype=dtype).expand_as(e)
    return compensated_gradient(upstream, gate(e, s), e, s, S_MAX, form, clamp).double().numpy()


@pytest.mark.parametrize("s", [1 / 400, 0.5, 3.0, 100.0, 399.787])
def test_the_authors_form_is_autograd_through_the_gate_times_the_cosh_ratio(s):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2000, generator=generator).clamp(-6, 6)
    upstream = torch.randn(2000, generator=generator)
    e = values.clone().requires_grad_()
    torch.sigmoid(s * e).backward(upstream)
    ratio = (S_MAX / s) * (torch.cosh(torch.clamp(s * values, -CLAMP, CLAMP)) + 1) / (torch.cosh(values) + 1)
    ours = compensated_gradient(upstream, gate(values, s), values, s, S_MAX, "authors", CLAMP)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, e.grad * ratio, rtol=5e-7, atol=0)


@given(st.floats(-6, 6), st.floats(1 / 400, 400), st.floats(-10, 10).filter(lambda g: abs(g) > 1e-3))
@settings(deadline=None)
def test_in_float64_both_forms_agree_where_nothing_rounds_or_is_clamped(e, s, g):
    if s * e > 15 or s * e < -CLAMP:  # 1 - mask has lost its digits, or cosh is clamped
        e /= 10 * s
    authors, exact = (compensated([e], s, form, torch.float64, g) for form in ("authors", "exact"))
    np.testing.assert_allclose(authors, exact, rtol=1e-8)


@given(st.floats(-6, 6), st.floats(-10, 10), st.floats(1 / 400, 400))
@settings(deadline=None)
def test_the_exact_form_is_the_gradient_at_slope_one_times_s_max(e, g, s):
    np.testing.assert_allclose(
        compensated([e], s, "exact", torch.float64, g), g * derivative_of_mask([e]), rtol=1e-10, atol=1e-12
    )


def test_the_authors_form_is_zero_where_the_mask_has_rounded_to_one():
    e = torch.linspace(0, 6, 1001)
    gone = gate(e, S_MAX) == 1
    authors, exact = compensated(e, S_MAX), compensated(e, S_MAX, "exact")
    assert gone.float().mean() > 0.95
    assert not authors[gone].any()
    assert (authors[~gone] > 0).all()
    assert (exact > 0).all()


def test_near_the_edge_the_authors_form_is_quantised_in_float32():
    assert compensated([0.16], 100)[0] == pytest.approx(105.3, abs=0.05)
    assert derivative_of_mask(0.16) == pytest.approx(99.4, abs=0.05)
    assert compensated([0.16], 100, dtype=torch.float64)[0] == pytest.approx(derivative_of_mask(0.16), rel=1e-6)


@pytest.mark.parametrize("s", [100.0, 200.0, S_MAX])
def test_inactive_units_keep_their_full_gradient_in_float32(s):
    e = np.float32(-0.063)
    assert -CLAMP < s * e < 0
    assert compensated([e], s)[0] == pytest.approx(derivative_of_mask(e), rel=1e-4)
    assert derivative_of_mask(e) == pytest.approx(99.9, abs=0.05)
    # the active unit opposite has none left, or a wrong one
    assert compensated([-e], S_MAX)[0] == 0


def test_beyond_the_clamp_the_gradient_falls_as_the_clamped_cosh_says():
    # 1 - mask is 1 and mask is exp(s e) here, so what is left is exp(s e + 50) of the gradient
    e = np.float32(-0.15)
    left = math.exp(S_MAX * float(e) + CLAMP)
    assert left == pytest.approx(math.exp(-10), rel=1e-4)
    assert compensated([e], S_MAX)[0] == pytest.approx(left * derivative_of_mask(e), rel=1e-3)
    assert compensated([e], S_MAX, clamp=70.0)[0] == pytest.approx(derivative_of_mask(e), rel=1e-3)


def test_the_compensated_gradient_is_finite_for_every_embedding_and_slope_of_training():
    e = torch.linspace(-6, 6, 501)
    for s in s_schedule("paper", S_MAX, 100, 1):
        assert np.isfinite(compensated(e, float(s))).all()


ROWS = st.lists(st.floats(1 / 400, 400), min_size=1, max_size=6)


def columns(s, s_max):
    """s and s_max of several runs as the step has them, (R, 1) float64."""
    return (torch.tensor(values, dtype=torch.float64)[:, None] for values in (s, s_max))


@given(ROWS, st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None)
def test_slopes_as_tensors_give_the_gate_the_bits_that_numbers_give(s, units, seed):
    e = torch.randn(len(s), units, generator=torch.Generator().manual_seed(seed)).clamp(-6, 6)
    as_tensor, _ = columns(s, s)
    for row, number in enumerate(s):
        # a row is compared with itself in place: on a CPU exp rounds otherwise where a row ends
        assert torch.equal(gate(e, as_tensor)[row], gate(e, number)[row])
    assert gate(e, as_tensor).dtype == torch.float32


@pytest.mark.parametrize("form", ["authors", "exact"])
@given(ROWS, st.floats(1, 1000), st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None)
def test_slopes_as_tensors_give_the_compensation_the_bits_that_numbers_give(form, s, s_max, units, seed):
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(len(s), units, generator=generator).clamp(-6, 6)
    upstream = torch.randn(len(s), units, generator=generator)
    many = [s_max / (1 + row) for row in range(len(s))]
    as_tensor, max_as_tensor = columns(s, many)
    mask = gate(e, as_tensor)
    together = compensated_gradient(upstream, mask, e, as_tensor, max_as_tensor, form, CLAMP)
    assert together.dtype == torch.float32
    for row, (number, highest) in enumerate(zip(s, many, strict=True)):
        by_numbers = compensated_gradient(upstream, mask, e, number, highest, form, CLAMP)
        mixed = compensated_gradient(upstream, mask, e, as_tensor, highest, form, CLAMP)
        assert torch.equal(together[row], by_numbers[row])
        assert torch.equal(mixed[row], by_numbers[row])


@pytest.mark.parametrize("form", ["authors", "exact"])
def test_slopes_as_tensors_keep_their_digits_where_e_is_float64(form):
    e = torch.linspace(-6, 6, 34, dtype=torch.float64).reshape(2, 17)
    s, s_max = columns([0.1, 1 / 3], [400, 400])
    together = compensated_gradient(torch.ones_like(e), gate(e, s), e, s, s_max, form, CLAMP)
    for row, number in enumerate((0.1, 1 / 3)):
        alone = compensated_gradient(torch.ones_like(e), gate(e, number), e, number, 400.0, form, CLAMP)
        assert torch.equal(together[row], alone[row])


def test_an_unknown_compensation_is_refused_with_those_there_are():
    one = torch.ones(1)
    with pytest.raises(ValueError, match="compensation = 'none': allowed are 'authors' and 'exact'"):
        compensated_gradient(one, one, one, 1.0, S_MAX, "none", CLAMP)


@pytest.mark.parametrize(("dtype", "ulp"), [(torch.float32, 2**-23), (torch.float64, 2**-52)])
def test_the_hyperbolic_cosine_is_right_to_two_units_in_the_last_place(dtype, ulp):
    x = torch.linspace(-80, 80, 160_001, dtype=torch.float64).to(dtype)
    exact = np.cosh(x.numpy().astype(np.longdouble))
    assert np.all(np.abs(attention._cosh(x).numpy() - exact) <= 2 * ulp * exact)
    assert attention._cosh(torch.zeros(1, dtype=dtype)) == 1
