"""Which interval of a mean over few seeds covers it as often as it says: a simulation, committed as a test."""

import numpy as np
import pytest
from scipy import stats

from hatlab.analysis.metrics import mean_interval

SAMPLES = 4000
DRAWS = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "uniform": (lambda rng, shape: rng.uniform(size=shape), 0.5),
    "skewed": (lambda rng, shape: rng.gamma(4.0, size=shape), 4.0),
}


def covered(low, high, mean):
    return float(np.mean((low <= mean) & (mean <= high)))


def drawn(kind, n, samples=SAMPLES):
    draw, mean = DRAWS[kind]
    return draw(np.random.default_rng(n), (n, samples)), mean


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize(("kind", "least", "most"), [("normal", 94, 96), ("uniform", 91, 96), ("skewed", 92, 96)])
def test_students_interval_covers_the_mean_as_often_as_it_says(kind, least, most, n):
    sample, mean = drawn(kind, n)
    _, low, high = mean_interval(sample)
    assert least <= 100 * covered(low, high, mean) <= most


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_bootstrap_covers_it_less_often(n):
    """So BCa intervals (Efron, 1987), which were in use here before, are not."""
    sample, mean = drawn("normal", n, samples=600)
    student = mean_interval(sample)
    rng = np.random.default_rng(0)
    found = stats.bootstrap((sample,), np.mean, axis=0, n_resamples=499, method="BCa", rng=rng).confidence_interval
    bca = covered(found.low, found.high, mean)
    assert bca < covered(student.low, student.high, mean)
    assert bca < 0.93
