"""Ratios of two sides timed in one run, in alternation, so that both meet the same machine."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch

__all__ = ["Ratio", "curve", "median_interval", "ratio", "rise", "rise_of", "stopwatch", "threads"]

Cost = Callable[[], float]  # does the work once and returns what it cost, seconds mostly
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """A median over `runs` with its interval, and the medians of the two sides that it is made of."""

    ratio: float
    low: float
    high: float
    runs: int
    sides: tuple[float, float]


def stopwatch(
    work: Callable[[], object], per: float = 1, times: int = 1, clock: Callable[[], float] = time.perf_counter
) -> Cost:
    """Return what does `work` so many times, and tells how long one took, divided by `per`."""

    def cost() -> float:
        begun = clock()
        for _ in range(times):
            work()
        return (clock() - begun) / (per * times)

    return cost


def ratio(a: Cost, b: Cost, runs: int, warm_up: int = 1) -> Ratio:
    """Return the median over `runs` pairs of cost of `a` / cost of `b`, after `warm_up` pairs that do not count.

    Which side goes first alternates, so that neither profits from a clock speed that rises or falls.
    """
    pairs = []
    for k in range(-warm_up, runs):
        first, second = (a, b) if k % 2 == 0 else (b, a)
        costs = first(), second()
        if k >= 0:
            pairs.append(costs if k % 2 == 0 else costs[::-1])
    middle, low, high = median_interval([x / y for x, y in pairs])
    return Ratio(
        middle, low, high, runs, (statistics.median(x for x, _ in pairs), statistics.median(y for _, y in pairs))
    )


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and its interval between two order statistics, which assumes no distribution.

    The narrowest pair (k-th smallest, k-th largest) that covers the median with a probability of at least 95%; of
    fewer than 6 values no pair does, and it is their smallest and largest.
    """
    ordered, n = sorted(values), len(values)
    k, outside = 0, 0.0
    while k < n // 2:
        outside += 2 * math.comb(n, k) / 2**n  # probability that exactly k values lie below, or above, the median
        if outside > 1 - CONFIDENCE:
            break
        k += 1
    k = max(k, 1)
    return statistics.median(ordered), ordered[k - 1], ordered[n - k]


def curve(costs: Mapping[int, Cost], runs: int) -> dict[int, list[float]]:
    """Return the cost at each size in each of `runs` rounds through all sizes, up and down in turn."""
    table: dict[int, list[float]] = {size: [] for size in costs}
    for k in range(runs):
        for size in sorted(costs, reverse=k % 2 == 1):
            table[size].append(costs[size]())
    return table


def rise(per_unit: Sequence[float]) -> float:
    """Return how far a cost per unit rises above that at any smaller size: at most 1 if it never does."""
    return max(later / min(per_unit[:k]) for k, later in enumerate(per_unit) if k > 0)


def rise_of(table: Mapping[int, Sequence[float]], seed: int = 0, resamples: int = 2000) -> Ratio:
    """Return the rise of the medians of `table`, from `curve`, with a 95% bootstrap interval over its rounds.

    The sides are the cost per unit at the smallest and at the largest size.
    """
    runs, random = len(next(iter(table.values()))), Random(seed)

    def medians(rounds: Sequence[int]) -> list[float]:
        return [statistics.median(values[k] for k in rounds) / size for size, values in table.items()]

    drawn = sorted(rise(medians(random.choices(range(runs), k=runs))) for _ in range(resamples))
    cut = round(resamples * (1 - CONFIDENCE) / 2)
    middle = medians(range(runs))
    return Ratio(rise(middle), drawn[cut], drawn[-1 - cut], runs, (middle[0], middle[-1]))


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` CPU threads, and as many as before at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
