"""Who works on the runs of a batch, and what each run may take: threads of this process, or a Dask scheduler's workers.

Each thread, and each thread of a Dask worker, watches over one kernel at a time (`runner.perform`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from hatlab.batches.ledger import State, Status
from hatlab.batches.runner import Assignment, perform, request_stop
from hatlab.config import ConfigError

__all__ = ["ClusterError", "Limits", "Scheduler", "Threads", "cores"]

MOST_WORKERS, MOST_RETRIES = 1000, 1000
LONGEST: Final = 100_000_000  # seconds: three years; clocks of the operating system overflow some way above
LEAST_MEMORY, MOST_MEMORY = 10_000_000, 10**18  # a kernel that does nothing holds 60 MB
CONNECT_SECONDS: Final = 60
LOST: Final = (
    "the scheduler {} is gone; runs that workers have begun end there, and the same command goes on with the rest"
)


class ClusterError(RuntimeError):
    """A scheduler that does not answer, or does no longer."""


@dataclass(frozen=True)
class Limits:
    """What a batch may take of a machine.

    Attributes:
        workers, scheduler, resources, retries, timeout, memory, stop_after: see `hatlab.batch`.

    Raises:
        ConfigError: naming every option at once that cannot be used.
    """

    workers: int | None = None
    scheduler: str | None = None
    resources: Mapping[str, float] | None = None
    retries: int = 0
    timeout: float | None = None
    memory: int | str | None = None
    stop_after: int | None = None

    def __post_init__(self) -> None:
        workers, timeout, amounts = self.workers, self.timeout, dict(self.resources or {})
        fine = {
            f"workers = {workers!r}: allowed is a whole number from 1 to {MOST_WORKERS}, or none": (
                workers is None or (_is_number(workers, int) and 1 <= workers <= MOST_WORKERS)
            ),
            f"retries = {self.retries!r}: allowed is a whole number from 0 to {MOST_RETRIES}": (
                _is_number(self.retries, int) and 0 <= self.retries <= MOST_RETRIES
            ),
            f"stop_after = {self.stop_after!r}: allowed is a whole number from 0 (never), or none": (
                self.stop_after is None or (_is_number(self.stop_after, int) and self.stop_after >= 0)
            ),
            f"timeout = {timeout!r}: allowed is a number of seconds above 0 and at most {LONGEST:,}": (
                timeout is None or (_is_number(timeout) and 0 < timeout <= LONGEST)
            ),
            f"memory = {self.memory!r}: allowed are bytes from 10MB upwards, as in 4GB or 500MB": (
                self.memory is None or LEAST_MEMORY <= _bytes(self.memory) <= MOST_MEMORY
            ),
            **{
                f"resources = {name}={amount!r}: allowed is a number above 0, as in GPU=1": (
                    _is_number(amount) and 0 < amount < math.inf
                )
                for name, amount in amounts.items()
            },
            f"resources = {amounts}: only workers of a scheduler have any; name it with --scheduler": (
                not amounts or self.scheduler is not None
            ),
            f"workers = {workers}: {self.scheduler} has workers of its own; allowed is one of the two": (
                workers is None or self.scheduler is None
            ),
        }
        if problems := [problem for problem, is_fine in fine.items() if not is_fine]:
            raise ConfigError("\n".join(problems))

    @property
    def bytes(self) -> int | None:
        """The limit to the memory of a run."""
        return None if self.memory is None else int(_bytes(self.memory))


def _is_number(value: Any, kind: type = float) -> bool:
    return isinstance(value, (int, kind)) and not isinstance(value, bool)


def _bytes(memory: Any) -> float:
    """Return the bytes that "4GB" or a number means; NaN where it means none."""
    from dask.utils import parse_bytes

    try:
        return float(parse_bytes(memory)) if isinstance(memory, str) or _is_number(memory) else math.nan
    except (ValueError, TypeError, OverflowError):
        return math.nan


class Threads:
    """Threads of this process, which share its cores and memory.

    Args:
        workers: runs at a time.

    Attributes:
        environment: variables for the kernels, over those of this process.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        # what the user's environment says is left as it is
        share = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores() // workers))}
        self.environment: Mapping[str, str] = share
        self._pool = ThreadPoolExecutor(workers, "run of a notebook")

    @property
    def memory(self) -> int | None:
        """Bytes for each run."""
        from distributed.system import MEMORY_LIMIT

        return int(MEMORY_LIMIT) // self.workers

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __str__(self) -> str:
        return f"{self.workers} at a time on this machine"

    def submit(self, job: Assignment) -> Any:
        """Hand a run to the workers, and return its future."""
        return self._pool.submit(perform, job)

    def stop(self, call: str, now: bool = False) -> None:
        """Have all workers end the runs of one call."""
        request_stop(call, now)

    def outcome(self, future: Any) -> Status | tuple[State, str]:
        """Return what `perform` returned; state and reason if it could not."""
        if (error := future.exception()) is not None:
            return "failed", f"{type(error).__name__}: {error}"
        status: Status = future.result()
        return status


class Scheduler:
    """The workers of a Dask scheduler; used as `Threads` is. `dask worker` sets one thread, and divides the memory.

    Args:
        address: as in tcp://host:8786.
        resources: what each run takes of a worker.

    Raises:
        ConfigError: on entering: an address that is none.
        ClusterError: on entering: nobody answers; later: the scheduler is gone.
    """

    environment: Mapping[str, str] = {}
    memory: int | None = None

    def __init__(self, address: str, resources: Mapping[str, float] | None = None) -> None:
        self.address, self.resources = address, dict(resources) if resources else None
        self._stack = ExitStack()
        self.client: Any = None

    def __enter__(self) -> Scheduler:
        from distributed import Client

        try:
            self.client = self._stack.enter_context(Client(self.address, timeout=CONNECT_SECONDS))
        except ValueError as error:
            wanted = "wanted is an address such as tcp://host:8786"
            raise ConfigError(f"scheduler = '{self.address}': {error}; {wanted}") from None
        except OSError as error:
            raise ClusterError(f"no scheduler answers at {self.address}: {error}") from None
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __str__(self) -> str:
        at_once = sum(self.client.nthreads().values())
        who = f"{at_once} at a time" if at_once else "no worker yet: waiting"
        return f"{self.address}: {who}; Dask's dashboard: {self.client.dashboard_link}"

    def submit(self, job: Assignment) -> Any:
        key = f"notebook-{job.run.run_id}-{job.call}"
        return self.client.submit(perform, job, key=key, resources=self.resources, pure=False)

    def stop(self, call: str, now: bool = False) -> None:
        self.client.run(request_stop, call, now=now, on_error="ignore")

    def outcome(self, future: Any) -> Status | tuple[State, str]:
        from distributed import KilledWorker

        if future.status in ("lost", "cancelled"):
            raise ClusterError(LOST.format(self.address))
        if future.status != "error":
            status: Status = future.result()
            return status
        if isinstance(error := future.exception(), KilledWorker):
            return "killed", "its workers were killed, one after the other"
        return "failed", f"{type(error).__name__}: {error}"


def cores() -> int:
    """Return how many cores this process may use; a container's share counts."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)
