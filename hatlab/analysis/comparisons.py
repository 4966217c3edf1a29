"""Paired comparisons: the mean difference over seeds, its bootstrap interval, its p value, and Holm's correction.

Two arms of an experiment that share a seed share task order, initial weights and batches, so what is compared is the
difference within each pair. Intervals are BCa bootstrap intervals of the mean (Efron 1987) by
`scipy.stats.bootstrap`; p values are those of the sign-flip permutation test by `scipy.stats.permutation_test`: under
the null hypothesis each difference's sign is random. Both draw from a generator with a fixed seed, so equal
differences give equal numbers.

With few pairs a bootstrap interval is too narrow: in 4,000 simulated samples from a normal distribution (999 resamples)
an interval called 95% covered the mean in 85% of those of 5, 90% of those of 10 and 93% of those of 20. The test keeps
its level at any size, but cannot give less than `smallest_p`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from hatlab.analysis.metrics import Interval

__all__ = ["MIN_PAIRS", "Comparison", "bca_interval", "holm", "paired", "pairs_needed", "sign_flip_p", "smallest_p"]

# With fewer values a bootstrap has too few different resamples to say anything about the tails.
MIN_PAIRS: Final = 5
# From 14 pairs on there are more patterns of signs than this, and the test draws so many of them.
RESAMPLES: Final = 9999
SEED: Final = 0
# Values are counted in billionths: sums of whole numbers are the same in any order, so ties between resamples are ties
# on every machine, and what differs by the rounding of its own sums does not differ.
PER_UNIT: Final = 1e9


class Comparison(NamedTuple):
    """What the differences of n pairs say.

    Attributes:
        n: pairs.
        mean: of the differences; NaN without pairs.
        low, high: 95% BCa interval of the mean; NaN with fewer than `MIN_PAIRS` pairs.
        p: two-sided, of the sign-flip test, not corrected; NaN with fewer than `MIN_PAIRS` pairs.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float


def paired(differences: Sequence[float] | np.ndarray) -> Comparison:
    """Compare two arms by their differences, one per pair; pairs without one (NaN) are left out and not counted.

    Raises:
        ValueError: a difference is infinite.
    """
    sample = np.asarray(differences, dtype=float)
    sample = sample[~np.isnan(sample)]
    if not len(sample):
        return Comparison(0, math.nan, math.nan, math.nan, math.nan)
    mean, low, high = bca_interval(sample)
    return Comparison(len(sample), mean, low, high, sign_flip_p(sample))


def bca_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the mean of independent values, one per seed, and its BCa bootstrap interval.

    No interval (NaN) with fewer than `MIN_PAIRS` values. Values that are all equal leave nothing to resample: the
    interval is that value, which is not to say that another seed could not differ.

    Args:
        values: (n,) finite numbers, below a million: they are counted in billionths.
        confidence: nominal probability that the interval covers the mean.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    counted = _counted(values)
    mean = float(counted.mean()) / PER_UNIT
    if len(counted) < MIN_PAIRS:
        return Interval(mean, math.nan, math.nan)
    if (counted == counted[0]).all():
        return Interval(mean, mean, mean)
    from scipy import stats  # slow to import

    found = stats.bootstrap(
        (counted,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(mean, float(found.low) / PER_UNIT, float(found.high) / PER_UNIT)


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided p value of the sign-flip test that differences are symmetric around 0.

    Exact up to 13 differences, from random patterns of signs above. NaN with fewer than `MIN_PAIRS` differences.

    Raises:
        ValueError: there are no differences, or one is not finite.
    """
    counted = _counted(differences)
    if len(counted) < MIN_PAIRS:
        return math.nan
    from scipy import stats  # slow to import

    test = stats.permutation_test(
        (counted,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(SEED)
    )
    return float(test.pvalue)


def smallest_p(n: int) -> float:
    """Return the smallest p value that the sign-flip test of n pairs can give: all differences have one sign."""
    return 2 / min(2.0**n, RESAMPLES + 1)


def pairs_needed(comparisons: int, level: float = 0.05) -> int | None:
    """Return with how many pairs a difference can pass `level` after Holm's correction; None: with no number."""
    numbers = range(MIN_PAIRS, RESAMPLES.bit_length() + 1)
    return next((n for n in numbers if comparisons * smallest_p(n) < level), None)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return p values corrected for their number by Holm's method (1979), in the same order.

    The k-th smallest of m is multiplied by m - k + 1, and is at least the one before it. Differences that are below a
    level then are so with at most that probability of a single false one, however the comparisons depend on each other.
    NaN stays NaN and counts for nothing.
    """
    adjusted = np.array(p, dtype=float)
    known = np.flatnonzero(~np.isnan(adjusted))
    order = known[np.argsort(adjusted[known], kind="stable")]
    steps = np.maximum.accumulate(adjusted[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def _counted(values: Sequence[float] | np.ndarray) -> np.ndarray:
    sample = np.asarray(values, dtype=float)
    if not len(sample):
        raise ValueError("a mean of no values was asked for: at least one is needed")
    if not np.isfinite(sample).all():
        raise ValueError(f"values are to be finite, and one is {sample[~np.isfinite(sample)][0]}")
    return np.round(sample * PER_UNIT) + 0.0  # not -0.0
