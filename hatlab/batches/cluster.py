"""Who works on the runs of a batch: threads of this process, or the workers of a Dask scheduler.

Each thread, and each thread of a Dask worker, watches over one kernel at a time (`runner.perform`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final, Protocol

from hatlab.batches.ledger import State, Status
from hatlab.batches.runner import Assignment, perform, request_stop
from hatlab.config import ConfigError

__all__ = ["ClusterError", "Scheduler", "Threads", "Workers", "cores"]

CONNECT_SECONDS: Final = 60
LOST: Final = (
    "the scheduler {} is gone; runs that workers have begun end there, and the same command goes on with the rest"
)


class ClusterError(RuntimeError):
    """A scheduler that does not answer, or does no longer."""


class Future(Protocol):
    """What `concurrent.futures` and Dask have in common."""

    def done(self) -> bool: ...


class Workers(Protocol):
    """A context in which runs can be submitted."""

    @property
    def at_once(self) -> int:
        """How many runs can be under way; 0 while a scheduler has no worker."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for the kernels, over those that their workers have."""

    @property
    def memory(self) -> int | None:
        """Bytes for each run; None if the workers see to it."""

    def __enter__(self) -> Workers: ...

    def __exit__(self, *error: object) -> None: ...

    def describe(self) -> str:
        """Say who works."""

    def submit(self, job: Assignment) -> Future:
        """Hand a run to the workers."""

    def stop(self, call: str, now: bool = False) -> None:
        """Have all workers end the runs of one call."""

    def outcome(self, future: Any) -> Status | tuple[State, str]:
        """Return what `perform` did of a future that is done; state and reason if it could not.

        Raises:
            ClusterError: the scheduler is gone.
        """


class Threads:
    """Threads of this process, which share its cores and memory.

    Args:
        workers: runs at a time.
    """

    def __init__(self, workers: int) -> None:
        self.at_once = workers
        # what the user's environment says is left as it is
        share = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores() // workers))}
        self.environment: Mapping[str, str] = share
        self._pool = ThreadPoolExecutor(workers, "run of a notebook")

    @property
    def memory(self) -> int | None:
        from distributed.system import MEMORY_LIMIT

        return int(MEMORY_LIMIT) // self.at_once

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def describe(self) -> str:
        return f"{self.at_once} at a time on this machine"

    def submit(self, job: Assignment) -> Future:
        return self._pool.submit(perform, job)

    def stop(self, call: str, now: bool = False) -> None:
        request_stop(call, now)

    def outcome(self, future: Any) -> Status | tuple[State, str]:
        if (error := future.exception()) is not None:
            return "failed", f"{type(error).__name__}: {error}"
        status: Status = future.result()
        return status


class Scheduler:
    """The workers of a Dask scheduler, which have an environment of their own: `dask worker` sets one thread.

    Args:
        address: as in tcp://host:8786.
        resources: what each run takes of a worker.

    Raises:
        ConfigError: on entering: an address that is none.
        ClusterError: on entering: nobody answers.
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

    @property
    def at_once(self) -> int:
        return sum(self.client.nthreads().values())

    def describe(self) -> str:
        who = f"{self.at_once} at a time" if self.at_once else "no worker yet: waiting"
        return f"{self.address}: {who}; Dask's dashboard: {self.client.dashboard_link}"

    def submit(self, job: Assignment) -> Future:
        key = f"notebook-{job.run.run_id}-{job.call}"
        future: Future = self.client.submit(perform, job, key=key, resources=self.resources, pure=False)
        return future

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
