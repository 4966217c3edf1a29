"""The Dask cluster that runs notebooks: one in this process, or any whose scheduler is named.

The one in this process has threads for workers, each of which watches over a kernel. Scheduler and workers talk inside
the process, so that nothing listens but Dask's dashboard, on this machine alone unless another address is given.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from hatlab.config import ConfigError
from hatlab.ledger import NotebookRun, State
from hatlab.runner import Assignment, RunFailed, perform, request_stop

if TYPE_CHECKING:
    from distributed import Client, Future

    Futures = dict[Future[State], NotebookRun]

__all__ = ["Cluster", "ClusterError"]

CONNECT_SECONDS: Final = 10


class ClusterError(RuntimeError):
    """A scheduler that does not answer, or does no longer."""


class Cluster:
    """A context in which runs can be submitted.

    Args:
        workers: runs at a time, for the cluster in this process.
        scheduler: address of an existing one; None: in this process.
        dashboard: address that the dashboard of the one in this process listens on.

    Raises:
        ConfigError: on entering: an address that is none.
        ClusterError: on entering: nobody answers.
    """

    client: Client

    def __init__(self, workers: int, scheduler: str | None, dashboard: str) -> None:
        self.workers, self.scheduler, self.dashboard = workers, scheduler, dashboard
        self._stack = ExitStack()

    def __enter__(self) -> Cluster:
        from distributed import Client, LocalCluster

        if self.scheduler is not None:
            try:
                self.client = self._stack.enter_context(Client(self.scheduler, timeout=CONNECT_SECONDS))
            except ValueError as error:
                raise ConfigError(
                    f"scheduler = '{self.scheduler}': {error}; wanted is an address such as tcp://host:8786"
                ) from None
            except OSError as error:
                raise ClusterError(f"no scheduler answers at {self.scheduler}: {error}") from None
            return self
        try:
            cluster = LocalCluster(
                n_workers=1,
                threads_per_worker=self.workers,
                processes=False,
                dashboard_address=self.dashboard,
                worker_dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: Dask's, around one of the others
            raise ConfigError(f"dashboard = '{self.dashboard}': {error}") from None
        self._stack.enter_context(cluster)
        self.client = self._stack.enter_context(Client(cluster))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def describe(self) -> str:
        """Say who works, and where the dashboard is."""
        info = self.client.scheduler_info()
        port = info["services"].get("dashboard")
        if self.scheduler is None:
            host = self.dashboard.rpartition(":")[0] or "127.0.0.1"
            address = f"http://{host}:{port}/status"
            return f"{self.workers} at a time on this machine; Dask's dashboard: {address}"
        threads = sum(worker["nthreads"] for worker in info["workers"].values())
        who = f"{len(info['workers'])} workers, {threads} at a time" if info["workers"] else "no worker yet: waiting"
        return f"{self.scheduler}: {who}; Dask's dashboard: {self.client.dashboard_link}"

    @property
    def at_once(self) -> int:
        """How many runs can be under way."""
        if self.scheduler is None:
            return self.workers
        return sum(worker["nthreads"] for worker in self.client.scheduler_info()["workers"].values())

    def kernel_environment(self) -> dict[str, str]:
        """Return what makes the kernels on this machine share its cores, unless the user's environment says how.

        Workers elsewhere have an environment of their own: `dask worker` sets one thread.
        """
        if self.scheduler is not None or "OMP_NUM_THREADS" in os.environ:
            return {}
        from dask.system import CPU_COUNT

        return {"OMP_NUM_THREADS": str(max(1, CPU_COUNT // self.workers))}

    def submit(self, jobs: Sequence[Assignment], retries: int, resources: Mapping[str, float] | None) -> Futures:
        """Hand the jobs to the workers; return future -> run."""
        return {
            self.client.submit(
                perform,
                job,
                key=f"notebook-{job.run.run_id}-{job.call}",
                retries=retries,
                resources=dict(resources) if resources else None,
                pure=False,
            ): job.run
            for job in jobs
        }

    def stop(self, call: str, now: bool = False) -> None:
        """Have all workers end the runs of one call."""
        self.client.run(request_stop, call, now=now, on_error="ignore")

    def problem(self, future: Future[State]) -> tuple[State, str] | None:
        """Return how a run ended that could not say so itself; None if it has.

        Raises:
            ClusterError: the scheduler is gone.
        """
        from distributed import KilledWorker

        if future.status in ("lost", "cancelled"):
            raise ClusterError(
                f"the scheduler{f' {self.scheduler}' if self.scheduler else ''} is gone; runs that workers have begun "
                f"end there, and the same command goes on with the rest"
            )
        if future.status != "error" or isinstance(error := future.exception(), RunFailed):
            return None
        if isinstance(error, KilledWorker):
            return "killed", "its workers were killed, one after the other"
        return "failed", f"{type(error).__name__}: {error}"
