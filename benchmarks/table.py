"""What a row of the table is, and the list of all rows; `rows_*.py` add theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hatlab
from benchmarks.images import Images
from benchmarks.machine import cores
from benchmarks.timing import Ratio

__all__ = ["ROWS", "Measured", "NotMeasured", "Row", "Setting", "row"]


class NotMeasured(RuntimeError):
    """The row cannot be measured on this machine; the message says why."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What every row is given: where images are, and whether to be quick (fewer and shorter runs)."""

    images: Images
    quick: bool = False

    def runs(self, count: int) -> int:
        return 2 if self.quick else count

    def split_mnist(self, *widths: int, **changes: Any) -> hatlab.RunConfig:
        """Return the network 784-400-400 on Split-MNIST, or with other widths; its learning rate never drops."""
        values = {"dataset": self.images.mnist, "widths": widths or (400, 400), "task_order": "fixed"}
        return hatlab.RunConfig(**{**values, "lr_patience": 10**6, **changes})

    def need_cores(self, count: int) -> int:
        if cores() < count:
            raise NotMeasured(f"this machine has fewer than {count} cores")
        return count


@dataclass(frozen=True)
class Measured:
    """A ratio, what its two sides are, in which unit, and what else is kept in the row."""

    ratio: Ratio
    sides: tuple[str, str]
    unit: str
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One row: `target` begins with "<= x" or ">= x", which `judged` (the ratio mostly) is compared with."""

    name: str
    what: str
    target: str
    measure: Callable[[Setting], Measured]
    judged: Callable[[Ratio], float]

    def met(self, measured: Ratio) -> bool:
        relation, bound = self.target.split()[:2]
        value = self.judged(measured)
        return value <= float(bound) if relation == "<=" else value >= float(bound)


ROWS: dict[str, Row] = {}
Measure = Callable[[Setting], Measured]


def row(
    name: str, what: str, target: str, judged: Callable[[Ratio], float] = lambda measured: measured.ratio
) -> Callable[[Measure], Measure]:
    """Add the decorated function to the table."""

    def add(measure: Measure) -> Measure:
        ROWS[name] = Row(name, what, target, measure, judged)
        return measure

    return add
