"""Paired comparisons: the mean difference over seeds, its interval, its p value, and Holm's correction.

Two arms of an experiment that share a seed share task order, initial weights and batches, so what is compared is the
difference within each pair. Intervals are Student's, as for all means over seeds: of those that were simulated they
cover the mean most nearly as often as they say (`tests/analysis/test_intervals.py`). p values are those of the
sign-flip permutation test by `scipy.stats.permutation_test`: under the null hypothesis each difference's sign is
random. It draws from a generator with a fixed seed, so equal differences give equal numbers. It keeps its level at any
size, but cannot give less than `smallest_p`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from hatlab.analysis.metrics import mean_interval
from hatlab.config import ConfigError

__all__ = [
    "ALPHA", "EQUAL", "MIN_PAIRS", "Comparison", "differences", "holm", "numbers", "paired", "pairs_needed",
    "refuse_shared", "sign_flip_p", "smallest_p", "word",
]  # fmt: skip

ALPHA: Final = 0.05
EQUAL: Final = "equal in every pair"
MIN_PAIRS: Final = 5  # with fewer the test's smallest p value is 0.125
# From 14 pairs on there are more patterns of signs than this, and the test draws so many of them.
RESAMPLES: Final = 9999
SEED: Final = 0
# Values are counted in billionths: sums of whole numbers are the same in any order, so ties between resamples are ties
# on every machine, and what differs by the rounding of its own sums does not differ.
PER_UNIT: Final = 1e9


def refuse_shared(tuning_seeds: Sequence[int], seeds: Sequence[int]) -> None:
    """Refuse a seed on which parameters are chosen and that is reported, too, with ConfigError."""
    if both := sorted(set(tuning_seeds) & set(seeds)):
        raise ConfigError(f"tuning_seeds = {list(tuning_seeds)}: {both[0]} is among seeds = {list(seeds)}, too")


class Comparison(NamedTuple):
    """What the differences of n pairs say.

    Attributes:
        n: pairs.
        mean: of the differences; NaN without pairs.
        low, high: 95% interval of the mean; NaN with fewer than two pairs.
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
    mean, low, high = map(float, mean_interval(_counted(sample) / PER_UNIT))
    return Comparison(len(sample), mean, low, high, sign_flip_p(sample))


def differences(pairs: pd.DataFrame, contrast: Sequence[str], family: Sequence[str]) -> pd.DataFrame:
    """Return what pairs of runs say: one row per contrast.

    Columns: `contrast`; `n`, `mean`, `low`, `high`, `p` as in `Comparison`; `p_holm`: corrected for all comparisons of
    the same family but those in which every difference is 0, which are no tests; `found`:

    - "yes": the interval excludes 0, and `p_holm` is below `ALPHA`;
    - "alone": the interval excludes 0, but it would not stand beside the other comparisons;
    - "no": the interval includes 0;
    - "few": too few pairs for the test.

    Args:
        pairs: a row for each pair, with columns `contrast` and `difference`.
        contrast: what tells comparisons apart.
        family: those columns of it in which comparisons agree that are corrected for their number.
    """
    rows = [(*key, *paired(same["difference"].to_numpy())) for key, same in pairs.groupby(list(contrast), sort=False)]
    result = pd.DataFrame(rows, columns=[*contrast, *Comparison._fields])
    tested = result["p"].where((result["low"] != 0) | (result["high"] != 0))
    result["p_holm"] = tested.groupby([result[name] for name in family], sort=False).transform(
        lambda p: holm(p.to_numpy())
    )
    result["found"] = [_found(row) for row in result.itertuples()]
    return result


def _found(row: Any) -> str:
    if math.isnan(row.p):
        return "few"
    if row.low <= 0 <= row.high:
        return "no"
    return "yes" if row.p_holm < ALPHA else "alone"


def word(row: Any) -> str:
    """Return what a row of `differences` says, in words: "higher" and "lower" only where they stand corrected."""
    if not row.n:
        return "cannot be compared"
    if row.found == "few":
        return "too few pairs"
    if row.low == row.high == 0:
        return EQUAL
    if row.found == "no":
        return f"no difference found, beyond {_number(max(-row.low, row.high), _digits(row))} excluded"
    if row.found == "alone":
        return "nominally significant, not after Holm's correction"
    return "higher" if row.mean > 0 else "lower"


def numbers(row: Any) -> str:
    """Return "+1.2 [0.8, 1.7]" for a row of `differences`: one decimal, or as many as the interval's width needs and as
    tell its ends from 0.
    """
    if math.isnan(row.low):
        return _number(row.mean, 1, "+")
    digits = _digits(row)
    if row.found in ("yes", "alone") and round(min(abs(row.low), abs(row.high)), digits) == 0:
        digits += 1
    return f"{_number(row.mean, digits, '+')} [{_number(row.low, digits)}, {_number(row.high, digits)}]"


def _digits(row: Any) -> int:
    width = row.high - row.low
    return min(max(1 - math.floor(math.log10(width)), 1), 3) if width > 0 else 1


def _number(value: float, digits: int, sign: str = "") -> str:
    text = f"{value:{sign}.{digits}f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", "−")


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


def pairs_needed(comparisons: int, level: float = ALPHA) -> int | None:
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
