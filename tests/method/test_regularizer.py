import shutil
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.method.regularizer import MODES, HATMaskSparsityReg, affine, mask_sparsity

pytestmark = pytest.mark.filterwarnings("ignore:the network has .* the regularizer is always 0")  # where it is meant

# Values are multiples of 1/1024, so that sums are exact and a denominator equals min_units where it should.
HARD = st.sampled_from([0.0, 1.0])
SOFT = st.integers(0, 1024).map(lambda k: k / 1024)


@st.composite
def layers(draw):
    """Mask and cumulative mask of 1 to 4 layers of 1 to 20 units: layer name -> list of values."""
    widths = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    both = []
    for values in (
        draw(st.sampled_from([HARD, SOFT])),
        draw(st.sampled_from([HARD, SOFT, st.just(0.0), st.just(1.0)])),
    ):
        both.append({f"fc{i}": draw(st.lists(values, min_size=n, max_size=n)) for i, n in enumerate(widths, start=1)})
    return tuple(both)


def tensors(values, dtype=torch.float64):
    return {name: torch.tensor(v, dtype=dtype) for name, v in values.items()}


def ratios(m, p, min_units):
    """Shares of the free and of the used units that a mask takes, in float64; None over too few units."""
    m, p = np.asarray(m, np.float64), np.asarray(p, np.float64)
    free, used = (1 - p).sum(), p.sum()
    return (
        (m * (1 - p)).sum() / free if free > min_units else None,
        (m * p).sum() / used if used > min_units else None,
    )


def formula(mask, previous, factor, mode, min_units=10):
    """The loss as the design defines it."""
    every = (np.concatenate([np.asarray(v) for v in values.values()]) for values in (mask, previous))
    taken, reused = ratios(*every, min_units)
    r1 = 0 if taken is None else taken
    r2 = 0 if reused is None else 1 - reused
    return factor * {"original": r1, "cross": (r1 + r2) / 2, "reuse": r2}[mode]


def random_masks(widths, previous, seed=0, dtype=torch.float32):
    """A soft random mask, and a cumulative mask: "first task", "full network" or "soft"."""
    generator = torch.Generator().manual_seed(seed)
    fill = {"first task": torch.zeros, "full network": torch.ones}.get(
        previous, lambda n, dtype: torch.rand(n, generator=generator, dtype=dtype)
    )
    mask = {f"fc{i}": torch.rand(n, generator=generator, dtype=dtype) for i, n in enumerate(widths)}
    return mask, {name: fill(len(m), dtype=dtype) for name, m in mask.items()}


WIDTHS = {"unequal widths": (30, 7, 50), "equal widths": (20, 20), "one layer": (40,), "few units": (3, 2)}
PREVIOUS = ("first task", "full network", "soft")
situations = pytest.mark.parametrize(
    ("widths", "previous"),
    [pytest.param(w, p, id=f"{name}, {p}") for name, w in WIDTHS.items() for p in PREVIOUS],
)
every_mode = pytest.mark.parametrize("mode", MODES)


# The definition


@given(layers(), st.sampled_from(list(MODES)), st.floats(0, 1000), st.integers(0, 30) | st.floats(0, 30))
@settings(deadline=None)
def test_the_loss_equals_the_formula(both, mode, factor, min_units):
    loss, _ = HATMaskSparsityReg(factor, mode, min_units)(*map(tensors, both))
    assert loss.shape == ()
    np.testing.assert_allclose(loss, formula(*both, factor, mode, min_units), rtol=1e-12)


@given(layers(), st.sampled_from(list(MODES)), st.integers(0, 30))
@settings(deadline=None)
def test_network_sparsity_equals_the_formula_per_layer_without_the_factor(both, mode, min_units):
    mask, previous = both
    _, sparsity = HATMaskSparsityReg(7.0, mode, min_units)(tensors(mask), tensors(previous))
    assert list(sparsity) == list(mask)
    for name, share in sparsity.items():
        taken, reused = (0 if share is None else share for share in ratios(mask[name], previous[name], min_units))
        expected = {"original": taken, "cross": (taken + reused) / 2, "reuse": reused}[mode]
        np.testing.assert_allclose(share, expected, rtol=1e-12)


@given(layers(), st.sampled_from(list(MODES)), st.floats(0, 1000), st.integers(0, 30))
@settings(deadline=None)
def test_the_loss_lies_between_0_and_the_factor(both, mode, factor, min_units):
    loss, _ = HATMaskSparsityReg(factor, mode, min_units)(*map(tensors, both))
    assert 0 <= float(loss) <= factor


def test_the_bounds_are_reached():
    ones, zeros = {"fc1": torch.ones(40)}, {"fc1": torch.zeros(40)}
    half = {"fc1": torch.arange(40) % 2.0}
    other_half = {"fc1": 1 - half["fc1"]}

    def loss(mode, mask):
        return float(HATMaskSparsityReg(3.0, mode)(mask, half)[0])

    assert [loss("original", m) for m in (zeros, half, other_half, ones)] == [0, 0, 3, 3]
    assert [loss("reuse", m) for m in (zeros, half, other_half, ones)] == [3, 0, 3, 0]
    assert [loss("cross", m) for m in (zeros, half, other_half, ones)] == [1.5, 0, 3, 1.5]


def test_the_loss_pools_all_layers_before_it_divides():
    mask = {"small": torch.ones(20), "large": torch.zeros(60)}
    previous = {"small": torch.zeros(20), "large": torch.zeros(60)}
    loss, sparsity = HATMaskSparsityReg(1.0)(mask, previous)
    assert float(loss) == 0.25
    assert [float(share) for share in sparsity.values()] == [1, 0]


@given(layers(), st.floats(0.001, 1000))
@settings(deadline=None)
def test_in_the_first_task_cross_is_exactly_original_at_half_the_factor(both, factor):
    mask = tensors(both[0], torch.float32)
    nothing = {name: torch.zeros_like(m) for name, m in mask.items()}
    cross, _ = HATMaskSparsityReg(factor, "cross")(mask, nothing)
    original, _ = HATMaskSparsityReg(factor, "original")(mask, nothing)
    half_factor, _ = HATMaskSparsityReg(factor / 2, "original")(mask, nothing)
    assert torch.equal(2 * cross, original)
    assert torch.equal(cross, half_factor)


@pytest.mark.parametrize(("units", "counts"), [(10, False), (11, True)])
def test_a_ratio_counts_from_one_unit_more_than_min_units(units, counts):
    mask = {"fc1": torch.ones(units)}
    for mode, previous, full in (("original", torch.zeros, 1), ("reuse", torch.ones, 0)):
        loss, sparsity = HATMaskSparsityReg(1.0, mode)(mask, {"fc1": previous(units)})
        assert float(loss) == (full if counts else 0)
        assert float(sparsity["fc1"]) == counts


def test_in_the_reuse_mode_a_mask_that_reuses_nothing_costs_the_factor_only_where_the_ratio_counts():
    for units, expected in ((10, 0), (11, 2)):
        loss, _ = HATMaskSparsityReg(2.0, "reuse")({"fc1": torch.zeros(units)}, {"fc1": torch.ones(units)})
        assert float(loss) == expected


# Gradients


@every_mode
@situations
def test_backward_gives_the_gradient_of_the_formula(mode, widths, previous):
    mask, previous = random_masks(widths, previous, dtype=torch.float64)
    leaves = {name: m.requires_grad_() for name, m in mask.items()}
    loss, _ = HATMaskSparsityReg(0.75, mode)(leaves, previous)
    loss.backward()
    p = torch.cat(list(previous.values()))
    counts = [float(units) if units > 10 else float("inf") for units in ((1 - p).sum(), p.sum())]
    of_r1, of_r2 = (1 - p) / counts[0], -p / counts[1]
    expected = 0.75 * {"original": of_r1, "cross": (of_r1 + of_r2) / 2, "reuse": of_r2}[mode]
    torch.testing.assert_close(torch.cat([m.grad for m in leaves.values()]), expected, rtol=1e-12, atol=0)


@every_mode
def test_torch_func_grad_equals_backward(mode):
    mask, previous = random_masks((30, 7, 50), "soft")
    module = HATMaskSparsityReg(0.75, mode)
    by_func = torch.func.grad(lambda m: module(m, previous)[0])(mask)
    leaves = {name: m.clone().requires_grad_() for name, m in mask.items()}
    module(leaves, previous)[0].backward()
    for name, gradient in by_func.items():
        torch.testing.assert_close(gradient, leaves[name].grad, rtol=0, atol=0)


# As an affine function of the mask


def by_autograd(mask, previous, mode, factor, min_units=10):
    """factor R and its gradient by the mask of all units."""
    leaves = [m.clone().requires_grad_() for m in mask.values()]
    loss = factor * mask_sparsity(leaves, previous.values(), mode, min_units)
    return loss.detach(), torch.cat(torch.autograd.grad(loss, leaves))


factors = st.just(0) | st.floats(1e-3, 1000)


@given(layers(), st.sampled_from(list(MODES)), factors, st.integers(0, 80) | st.floats(0, 80))
@settings(deadline=None)
def test_offset_and_coefficients_give_the_formula(both, mode, factor, min_units):
    mask, previous = (torch.cat(list(tensors(values).values())) for values in both)
    coefficient, offset = affine(previous, mode, factor, min_units)
    assert coefficient.shape == previous.shape
    assert offset.shape == ()
    np.testing.assert_allclose(
        offset + (coefficient * mask).sum(),
        formula(*both, factor, mode, min_units),
        rtol=1e-12,
        atol=1e-12 * factor,  # 1 - reused cancels
    )


@given(layers(), st.sampled_from(list(MODES)), factors, st.integers(0, 80) | st.floats(0, 80))
@settings(deadline=None)
def test_where_sums_are_exact_the_coefficients_are_autograds_gradient_bit_for_bit(both, mode, factor, min_units):
    mask, previous = (tensors(values, torch.float32) for values in both)
    loss, gradient = by_autograd(mask, previous, mode, factor, min_units)
    coefficient, offset = affine(torch.cat(list(previous.values())), mode, factor, min_units)
    assert torch.equal(coefficient, gradient)
    value = offset + (coefficient * torch.cat(list(mask.values()))).sum()
    torch.testing.assert_close(value, loss, rtol=1e-5, atol=1e-6 * factor)


SHARP = {  # cumulative masks of a run: soft, nearly binary, binary
    "soft": lambda values: values,
    "steep": lambda values: torch.sigmoid(200 * (values - 0.5)),
    "binary": torch.round,
}


@every_mode
@pytest.mark.parametrize("of", SHARP.values(), ids=SHARP)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_one_layer_the_coefficients_are_autograds_gradient_bit_for_bit(mode, of, dtype):
    for seed in range(20):
        mask, soft = random_masks((2000 if seed % 2 else 123,), "soft", seed, dtype)
        previous = {name: of(p) for name, p in soft.items()}
        factor = (0.75, 1, 0.1, 2.3)[seed % 4]
        _, gradient = by_autograd(mask, previous, mode, factor)
        coefficient, _ = affine(previous["fc0"], mode, factor)
        assert torch.equal(coefficient, gradient)


@every_mode
@situations
def test_of_several_layers_the_coefficients_are_autograds_gradient_but_for_the_order_of_sums(mode, widths, previous):
    mask, before = random_masks(widths, previous)
    loss, gradient = by_autograd(mask, before, mode, 0.75)
    coefficient, offset = affine(torch.cat(list(before.values())), mode, 0.75)
    torch.testing.assert_close(coefficient, gradient, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(offset + (coefficient * torch.cat(list(mask.values()))).sum(), loss)


@pytest.mark.parametrize(
    ("mode", "first_task", "full_network"),
    [("original", (0.75, 0), (0, 0)), ("cross", (0.375, 0), (-0.375, 0.375)), ("reuse", (0, 0), (-0.75, 0.75))],
)
def test_in_a_first_task_only_the_free_units_count_and_in_a_full_network_only_the_used(mode, first_task, full_network):
    for previous, (slope, expected) in ((torch.zeros(64), first_task), (torch.ones(64), full_network)):
        coefficient, offset = affine(previous, mode, 0.75)
        assert torch.equal(coefficient, torch.full((64,), slope / 64))
        assert float(offset) == expected


@pytest.mark.parametrize(("units", "counts"), [(10, False), (11, True)])
def test_a_coefficient_counts_from_one_unit_more_than_min_units(units, counts):
    for mode, previous, sign in (("original", torch.zeros, 1), ("reuse", torch.ones, -1)):
        coefficient, offset = affine(previous(units), mode)
        expected = sign / units if counts else 0
        torch.testing.assert_close(coefficient, torch.full((units,), float(expected)))
        assert float(offset) == (counts and mode == "reuse")


@every_mode
def test_the_coefficients_keep_the_dtype_and_leave_no_device_and_branch_on_no_value(mode):
    for dtype in (torch.float32, torch.float64):
        previous = torch.rand(30, dtype=dtype)
        assert [part.dtype for part in affine(previous, mode, 0.75)] == [dtype] * 2
        assert [part.device.type for part in affine(previous.to("meta"), mode, 0.75)] == ["meta"] * 2


# Where it runs


@every_mode
def test_mapped_over_replicas_it_equals_a_loop(mode):
    replicas = [random_masks((30, 7, 50), previous, seed) for seed, previous in enumerate(PREVIOUS)]
    stacked = [{name: torch.stack([r[k][name] for r in replicas]) for name in replicas[0][k]} for k in (0, 1)]
    module = HATMaskSparsityReg(0.75, mode)
    losses, sparsities = torch.func.vmap(module)(*stacked)
    for k, replica in enumerate(replicas):
        loss, sparsity = module(*replica)
        torch.testing.assert_close(losses[k], loss)
        for name, share in sparsity.items():
            torch.testing.assert_close(sparsities[name][k], share)


@every_mode
def test_gradients_can_be_mapped_over_replicas(mode):
    replicas = [random_masks((40,), previous, seed) for seed, previous in enumerate(PREVIOUS)]
    m, p = (torch.stack([r[k]["fc0"] for r in replicas]) for k in (0, 1))
    gradient = torch.func.grad(lambda m, p: mask_sparsity([m], [p], mode))
    expected = torch.stack([gradient(*pair) for pair in zip(m, p, strict=True)])
    torch.testing.assert_close(torch.func.vmap(gradient)(m, p), expected)


@every_mode
@pytest.mark.parametrize("previous", PREVIOUS)
def test_nothing_depends_on_a_value_or_leaves_the_masks_device(mode, previous):
    # on the meta device tensors have no values: a branch on one, or a tensor made on the CPU, is an error
    masks = random_masks((30, 7), previous)
    on_meta = [{name: m.to("meta") for name, m in values.items()} for values in masks]
    loss, sparsity = HATMaskSparsityReg(0.75, mode)(*on_meta)
    assert {loss.device.type, *(share.device.type for share in sparsity.values())} == {"meta"}


@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))), reason="torch.compile needs a C++ compiler: none found"
)
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
)  # torch 2.11's compiler
def test_compiled_into_one_graph_it_equals_the_formula():
    module = HATMaskSparsityReg(0.75, "cross")
    compiled = torch.compile(module, fullgraph=True)
    for previous in PREVIOUS:  # the same graph serves all three
        masks = random_masks((30, 7, 50), previous)
        torch.testing.assert_close(compiled(*masks), module(*masks))


@every_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_mask_is_kept(mode, dtype):
    mask, previous = random_masks((30, 7), "soft", dtype=dtype)
    loss, sparsity = HATMaskSparsityReg(0.75, mode)(mask, previous)
    assert {loss.dtype, *(share.dtype for share in sparsity.values())} == {dtype}


@every_mode
def test_a_bool_cumulative_mask_equals_a_float_one(mode):
    mask, soft = random_masks((30, 7, 50), "soft")
    as_bool = {name: p > 0.5 for name, p in soft.items()}
    as_float = {name: p.float() for name, p in as_bool.items()}
    module = HATMaskSparsityReg(0.75, mode)
    torch.testing.assert_close(module(mask, as_bool), module(mask, as_float), rtol=0, atol=0)


def test_the_layers_of_the_two_masks_are_matched_by_name_not_by_position():
    mask, previous = random_masks((30, 30), "soft")
    turned = dict(reversed(previous.items()))
    module = HATMaskSparsityReg(0.75, "cross")
    torch.testing.assert_close(module(mask, turned), module(mask, previous), rtol=0, atol=0)


# Bad input


@pytest.mark.parametrize("factor", [-0.1, float("nan"), float("inf"), "0.75", None, True, torch.tensor(0.75)])
def test_a_factor_that_is_no_finite_number_of_at_least_0_is_refused_by_value(factor):
    with pytest.raises(ValueError, match=r"factor = .*: allowed is a finite number of at least 0") as error:
        HATMaskSparsityReg(factor)
    assert repr(factor) in str(error.value)


@pytest.mark.parametrize("mode", ["Cross", "new", "", None])
def test_an_unknown_mode_is_refused_with_those_there_are(mode):
    message = f"mode = {mode!r}: allowed are original, cross, reuse"
    with pytest.raises(ValueError, match=message):
        HATMaskSparsityReg(0.75, mode)
    with pytest.raises(ValueError, match=message):
        mask_sparsity([torch.ones(20)], [torch.ones(20)], mode)


@pytest.mark.parametrize("min_units", [-1, float("nan"), True, "10"])
def test_min_units_below_0_is_refused(min_units):
    with pytest.raises(ValueError, match=f"min_units = {min_units!r}: allowed is a finite number of at least 0"):
        HATMaskSparsityReg(0.75, min_units=min_units)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, int, float])
def test_a_number_of_numpy_is_a_number(kind):
    mask, previous = random_masks((30, 7), "soft")
    expected, _ = HATMaskSparsityReg(3.0, "cross", min_units=5)(mask, previous)
    loss, _ = HATMaskSparsityReg(kind(3), "cross", min_units=kind(5))(mask, previous)
    assert type(loss) is torch.Tensor and torch.equal(loss, expected)


@every_mode
def test_a_network_of_at_most_min_units_is_told_that_nothing_is_regularized(mode):
    mask, previous = random_masks((6, 4), "soft")
    with pytest.warns(UserWarning, match=r"network has 10 units, and a ratio over at most min_units = 10 counts as 0"):
        loss, _ = HATMaskSparsityReg(0.75, mode)(mask, previous)
    assert loss == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HATMaskSparsityReg(0.75, mode, min_units=9)(mask, previous)


@pytest.mark.parametrize(
    ("mask", "previous", "error", "message"),
    [
        ({}, {}, ValueError, r"mask has layers \[\], previous_cumulative_mask \[\]: not the same"),
        ({}, {"fc1": torch.ones(3)}, ValueError, r"mask has layers \[\], previous_cumulative_mask \['fc1'\]"),
        (
            {"fc1": torch.ones(3), "fc2": torch.ones(3)},
            {"fc1": torch.ones(3)},
            ValueError,
            r"mask has layers \['fc1', 'fc2'\], previous_cumulative_mask \['fc1'\]: not the same",
        ),
        (
            {"fc1": torch.ones(3)},
            {"fc1": torch.ones(3), "c1": torch.ones(3)},
            ValueError,
            r"mask has layers \['fc1'\], previous_cumulative_mask \['fc1', 'c1'\]: not the same",
        ),
        (
            {"fc1": torch.ones(3), "fc2": torch.ones(4)},
            {"fc1": torch.ones(3), "fc2": torch.ones(5)},
            ValueError,
            r"layer 'fc2': mask has shape \(4,\), previous_cumulative_mask \(5,\)",
        ),
        (
            {"fc1": torch.ones(2, 3)},
            {"fc1": torch.ones(2, 3)},
            ValueError,
            r"layer 'fc1': mask has shape \(2, 3\).*must be \(units,\)",
        ),
        (
            {"fc1": torch.ones(3, dtype=torch.bool)},
            {"fc1": torch.ones(3)},
            TypeError,
            r"mask\['fc1'\] has dtype torch.bool: a floating-point mask is needed",
        ),
        (
            {"fc1": torch.ones(3, dtype=torch.int64)},
            {"fc1": torch.ones(3)},
            TypeError,
            r"mask\['fc1'\] has dtype torch.int64",
        ),
    ],
    ids=["empty", "empty mask", "missing layer", "extra layer", "widths", "axes", "bool mask", "int mask"],
)
def test_masks_that_do_not_fit_are_refused_by_name(mask, previous, error, message):
    with pytest.raises(error, match=message):
        HATMaskSparsityReg(0.75)(mask, previous)


# The table of the module: as published / here


def published(mask, previous, factor, mode):
    """The published arithmetic in our words; its quirks are the point of the tests below."""
    r1_part = sum((m * (1 - p)).sum() for m, p in zip(mask.values(), previous.values(), strict=True))
    r1_whole = sum((1 - p).sum() for p in previous.values())
    original = factor * r1_part / r1_whole if r1_whole > 10 else 0
    if mode == "original":
        return original
    if mode == "cross":
        r2_part = sum(m * p.sum() for m, p in zip(mask.values(), previous.values(), strict=True))
        r2_whole = sum(p.sum() for p in previous.values())
        reuse = 1 - r2_part / r2_whole if r2_whole > 10 else 0
        return factor * (original + reuse) / 2
    return None


def test_row_1_the_published_loss_is_a_vector_which_has_no_backward_and_ours_a_scalar():
    mask, previous = random_masks((20, 20), "soft")
    leaves = {name: m.requires_grad_() for name, m in mask.items()}
    theirs = published(leaves, previous, 0.75, "cross")
    assert theirs.shape == (20,)
    with pytest.raises(RuntimeError, match="only for scalar outputs"):
        theirs.backward()
    ours, _ = HATMaskSparsityReg(0.75, "cross")(leaves, previous)
    ours.backward()
    assert all(m.grad.any() for m in leaves.values())


def test_row_1_the_published_loss_needs_layers_of_one_width_and_ours_does_not():
    mask, previous = random_masks((256, 100, 64), "soft")
    with pytest.raises(RuntimeError, match="size of tensor"):
        published(mask, previous, 0.75, "cross")
    ours, _ = HATMaskSparsityReg(0.75, "cross")(mask, previous)
    assert float(ours) == pytest.approx(formula(mask, previous, 0.75, "cross"), rel=1e-5)


def test_row_2_the_published_factor_counts_twice_and_ours_once():
    # in a first task of one layer the other flaws do not show
    masks = random_masks((40,), "first task")
    theirs = [published(*masks, factor, "cross") for factor in (0.5, 1.0)]
    ours = [HATMaskSparsityReg(factor, "cross")(*masks)[0] for factor in (0.5, 1.0)]
    assert float(theirs[1] / theirs[0]) == pytest.approx(4)
    assert float(ours[1] / ours[0]) == pytest.approx(2)
    assert float(theirs[1]) == pytest.approx(float(ours[1]))


def test_row_3_the_published_loss_of_a_full_network_has_no_backward_and_ours_a_gradient_of_0():
    mask, previous = random_masks((30, 7), "full network")
    leaves = {name: m.requires_grad_() for name, m in mask.items()}
    assert not hasattr(published(leaves, previous, 0.75, "original"), "backward")
    ours, _ = HATMaskSparsityReg(0.75, "original")(leaves, previous)
    ours.backward()
    assert torch.equal(ours, torch.tensor(0.0))
    assert all(torch.equal(m.grad, torch.zeros_like(m)) for m in leaves.values())


def test_row_4_the_published_loss_of_an_unknown_mode_is_none_and_ours_an_error():
    assert published(*random_masks((20,), "soft"), 0.75, "crosss") is None
    with pytest.raises(ValueError, match="mode = 'crosss'"):
        HATMaskSparsityReg(0.75, "crosss")


@pytest.mark.parametrize("previous", ["first task", "soft"])
def test_where_the_published_loss_is_sound_ours_equals_it(previous):
    masks = random_masks((30, 7), previous)
    ours, _ = HATMaskSparsityReg(0.75, "original")(*masks)
    torch.testing.assert_close(ours, published(*masks, 0.75, "original"))
