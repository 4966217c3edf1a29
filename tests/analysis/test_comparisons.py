import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.analysis.comparisons import MIN_PAIRS, differences, holm, paired, pairs_needed, sign_flip_p, smallest_p
from hatlab.analysis.metrics import mean_interval

VALUES = st.lists(st.floats(-100, 100).map(lambda x: round(x, 4)), min_size=MIN_PAIRS, max_size=8)


@settings(deadline=None)
@given(VALUES)
def test_the_interval_is_students(values):
    assert paired(values)[:4] == pytest.approx((len(values), *mean_interval(values)), abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(VALUES)
def test_the_other_sign_mirrors_mean_and_test(values):
    one, other = paired(values), paired([-value for value in values])
    assert (other.mean, other.p) == (-one.mean, one.p)
    assert math.isnan(one.low) == math.isnan(other.low)


def test_values_that_differ_by_rounding_are_equal():
    """Sums of the same numbers in another order; an interval of them would be about their last bits."""
    values = [0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1, 0.6, 0.6, 0.6]
    assert len(set(values)) > 1
    found = paired(values)
    assert found.low == found.mean == found.high == pytest.approx(0.6)
    assert paired([1e-15, -1e-15, 0, 0, 1e-15]) == (5, 0, 0, 0, 1)


def test_ties_are_ties_whatever_the_last_bits_are():
    sample = np.array([0.1, 0.2, 0.3, 0.3, 0.1, 0.7])
    noise = np.array([1, -1, 1, -1, 1, -1]) * 1e-15
    assert paired(sample + noise) == paired(sample)


@pytest.mark.parametrize("n", range(1, MIN_PAIRS))
def test_few_values_have_no_p_value_and_one_has_no_interval(n):
    found = paired(np.arange(1.0, n + 1))
    assert found[:2] == (n, (n + 1) / 2) and math.isnan(found.p)
    assert math.isnan(found.low) == math.isnan(found.high) == (n == 1)


def test_no_pairs_have_nothing_and_missing_ones_do_not_count():
    assert paired([math.nan, math.nan]).n == 0 and math.isnan(paired([]).mean)
    assert paired([1, math.nan, 2, 3, 4, 5]) == paired([1, 2, 3, 4, 5])


@pytest.mark.parametrize(("values", "message"), [([], "no values"), ([1, math.inf], "inf"), ([1, math.nan], "nan")])
def test_what_is_no_sample_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        sign_flip_p(values)


def compared(**arms):
    """Comparisons of one family; each arm's differences by name."""
    rows = [(arm, "all", value) for arm, values in arms.items() for value in values]
    found = differences(pd.DataFrame(rows, columns=["arm", "which", "difference"]), ["arm", "which"], ["which"])
    return found.set_index("arm")


CLEAR, SMALL = [1.0, 1.1, 0.9, 1.2, 1.0, 0.8, 1.1, 0.9, 1.0, 1.1], [3, 1, 2, 1, -1, 2, 1, 3, -0.5, 1.0]


def test_a_difference_is_found_if_it_stands_beside_the_others():
    assert compared(one=CLEAR).loc["one", "found"] == "yes"
    assert compared(one=SMALL).loc["one", "found"] == "yes"
    nothing = {f"arm {k}": np.random.default_rng(k).normal(size=10) for k in range(12)}
    among = compared(one=SMALL, **nothing)
    assert among.loc["one", "found"] == "alone" and among.loc["one", "p"] < 0.05 < among.loc["one", "p_holm"]
    assert compared(one=CLEAR[:4]).loc["one", "found"] == "few"
    assert compared(one=[-1, 1, -2, 2, 0.5, -0.5]).loc["one", "found"] == "no"


def test_what_is_0_in_every_pair_is_no_test_and_costs_the_others_nothing():
    alone, beside = compared(one=SMALL), compared(one=SMALL, zero=[0.0] * 10)
    assert beside.loc["one", "p_holm"] == alone.loc["one", "p_holm"]
    assert math.isnan(beside.loc["zero", "p_holm"]) and beside.loc["zero", "found"] == "no"


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_the_p_value_is_the_share_of_sign_patterns_at_least_as_far_out(values):
    sums = [np.dot(signs, values) for signs in itertools.product((1, -1), repeat=len(values))]
    share = np.mean(np.abs(sums) >= abs(sum(values)) - 1e-7)
    assert sign_flip_p(values) == pytest.approx(share)


@pytest.mark.parametrize("n", [5, 8, 13, 14])
def test_the_smallest_p_is_that_of_differences_of_one_sign(n):
    assert sign_flip_p(np.random.default_rng(0).uniform(5, 6, n)) == pytest.approx(smallest_p(n))


def test_how_many_pairs_so_many_comparisons_need():
    assert (pairs_needed(1), pairs_needed(12), pairs_needed(48)) == (6, 9, 11)
    assert 12 * smallest_p(9) < 0.05 < 12 * smallest_p(8)
    assert pairs_needed(250) is None  # the test draws 9999 patterns of signs


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.01, math.nan, 0.6]), [0.02, math.nan, 0.6])
    assert holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_step_by_step(p, level):
    """As Holm defines it: from the smallest up, until one is at least level over how many are left."""
    rejected = set()
    for step, k in enumerate(np.argsort(p, kind="stable")):
        if p[k] * (len(p) - step) >= level:
            break
        rejected.add(int(k))
    adjusted = holm(p)
    assert set(np.flatnonzero(adjusted < level)) == rejected
    assert np.all(adjusted >= p) and adjusted.max() <= 1
