"""What a batch may take of a machine: options with a number, each checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hatlab.config import ConfigError

__all__ = ["Limits"]

MOST_WORKERS: Final = 1000
MOST_RETRIES: Final = 1000
LONGEST: Final = 100_000_000  # seconds: three years; clocks of the operating system overflow some way above
LEAST_MEMORY, MOST_MEMORY = 10_000_000, 10**18  # a kernel that does nothing holds 60 MB


@dataclass(frozen=True)
class Limits:
    """Options of a batch, as `hatlab.batch` takes them.

    Attributes:
        workers, scheduler, resources, retries, timeout, memory: see `hatlab.batch`.

    Raises:
        ConfigError: naming every option at once that cannot be used.
    """

    workers: int | None = None
    scheduler: str | None = None
    resources: Mapping[str, float] | None = None
    retries: int = 0
    timeout: float | None = None
    memory: int | str | None = None

    def __post_init__(self) -> None:
        problems = [problem for problem in self._problems() if problem]
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def bytes(self) -> int | None:
        """The limit to the memory of a run."""
        return _bytes(self.memory)

    def _problems(self) -> list[str]:
        problems = [
            _outside("workers", self.workers, 1, MOST_WORKERS, "a whole number from 1 to 1000, or none"),
            _outside("retries", self.retries, 0, MOST_RETRIES, "a whole number from 0 to 1000"),
            _outside("timeout", self.timeout, 0, LONGEST, "a number of seconds above 0 and at most 100,000,000", float),
        ]
        try:
            self.bytes  # noqa: B018  says what is wrong with it
        except ConfigError as error:
            problems.append(str(error))
        for name, amount in (self.resources or {}).items():
            if not _number(amount) or not 0 < amount < math.inf:
                problems.append(f"resources = {name}={amount!r}: allowed is a number above 0, as in GPU=1")
        if self.resources and self.scheduler is None:
            problems.append(
                f"resources = {dict(self.resources)}: only workers of a scheduler have any; name it with --scheduler"
            )
        if self.scheduler is not None and self.workers is not None:
            problems.append(
                f"workers = {self.workers}: {self.scheduler} has workers of its own; allowed is one of the two"
            )
        return problems


def _number(value: Any, kind: type = float) -> bool:
    return isinstance(value, (int, kind)) and not isinstance(value, bool)


def _outside(name: str, value: Any, least: float, most: float, allowed: str, kind: type = int) -> str:
    """Say that a number is none or out of bounds, or return "". A number that need not be whole is above `least`."""
    fits = value is None or (_number(value, kind) and least <= value <= most and (kind is int or value > least))
    return "" if fits else f"{name} = {value!r}: allowed is {allowed}"


def _bytes(memory: Any) -> int | None:
    if memory is None:
        return None
    from dask.utils import parse_bytes

    try:
        found = float(parse_bytes(memory)) if isinstance(memory, str) or _number(memory) else math.nan
    except (ValueError, TypeError, OverflowError):
        found = math.nan
    if not LEAST_MEMORY <= found <= MOST_MEMORY:
        raise ConfigError(f"memory = {memory!r}: allowed are bytes from 10MB upwards, as in 4GB or 500MB")
    return int(found)
