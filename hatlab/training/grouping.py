"""Which runs of a sweep train side by side, and how many at a time.

The rules read configs, sizes and free memory, and time nothing, so that a run repeated is the same run. What they were
measured with is in `benchmarks/README.md`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from hatlab.config import RunConfig
from hatlab.method.networks import HATNetwork
from hatlab.training.engine import SHARED

__all__ = [
    "OutOfMemory",
    "Stopped",
    "chunks",
    "compatible",
    "in_worker_threads",
    "is_out_of_memory",
    "max_replicas",
    "worker_threads",
]

Job = TypeVar("Job")

# On a CPU: weights of all runs of a group, 32 MB. Beyond, they leave the last cache between two steps.
CPU_WEIGHTS = 8_000_000
# Worker threads take turns in Python, which needs about a millisecond of a step of thirty or more.
MOST_WORKER_THREADS = 8
# Each run holds a lock, which is an open file, and some systems allow a process 256 of those.
MOST_TOGETHER = 128
# On a GPU: share of the free memory that a group may take, by an estimate.
GPU_SHARE = 0.8
# float32 values a run holds: of each weight its value, gradient, best value, what is protected, and twice what protects
# it; of each unit of each image in a step its factors, products and gradients.
COPIES_OF_WEIGHTS, COPIES_OF_UNITS = 6, 10
# What errors say that have no type of their own: of a CPU, of a launch or a capture, of cuBLAS and cuDNN.
OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")

Result = TypeVar("Result")


class OutOfMemory(RuntimeError):
    """One run alone does not fit into memory; the message names it."""


def compatible(jobs: Sequence[Job], config_of: Callable[[Job], RunConfig]) -> list[list[Job]]:
    """Return `jobs` in lists that can share a step, in the order in which their first come."""
    found: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        found.setdefault(tuple(getattr(config_of(job), name) for name in SHARED), []).append(job)
    return list(found.values())


def chunks(kind: Sequence[Job], most: Callable[[], int]) -> Iterator[list[Job]]:
    """Yield the jobs of one kind in parts that differ in size by one at most; `most` is asked before each."""
    left = list(kind)
    while left:
        size = math.ceil(len(left) / math.ceil(len(left) / max(1, most())))
        yield left[:size]
        left = left[size:]


def max_replicas(network: HATNetwork, batch_size: int, device: torch.device) -> int:
    """Return how many runs of `network` are trained side by side on `device`: at least 1."""
    weights = sum(p.numel() for p in network.parameters())
    if device.type != "cuda":
        return max(1, min(CPU_WEIGHTS // weights, MOST_TOGETHER))
    units = batch_size * sum(math.prod(shape) for shape in network.dropout_shapes)
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    one = 4 * (COPIES_OF_WEIGHTS * weights + COPIES_OF_UNITS * units)
    return max(1, min(int(GPU_SHARE * (free + cached)) // one, MOST_TOGETHER))


def worker_threads(network: HATNetwork, jobs: int, device: torch.device) -> int:
    """Return how many of `jobs` runs of `network` that train alone do so at once, in threads of their own.

    More than one only on a CPU whose cache a single run fills: smaller ones are faster side by side, with all threads
    inside each step.
    """
    alone = device.type == "cpu" and max_replicas(network, 1, device) == 1
    return min(jobs, torch.get_num_threads(), MOST_WORKER_THREADS) if alone else 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or one that it came from, is what is raised when a GPU's or the machine's memory runs out."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError | torch.cuda.OutOfMemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(text in str(seen) for text in OUT_OF_MEMORY):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class Stopped(RuntimeError):
    """Another worker failed, or Ctrl-C was pressed: this one ends where it is."""


def in_worker_threads(work: Sequence[Callable[[Callable[[], None]], Result]], at_once: int) -> list[Result]:
    """Call each of `work`, `at_once` at a time, and return their results in order.

    Each gets a function to call often: it raises `Stopped` when the work is to end. The first error of any is raised
    after all have ended.
    """
    threads, stop = torch.get_num_threads(), threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    def worker(piece: Callable[[Callable[[], None]], Result]) -> Result:
        check()
        torch.set_num_threads(max(1, threads // at_once))
        return piece(check)

    with ThreadPoolExecutor(at_once, thread_name_prefix="worker") as pool:
        futures = [pool.submit(worker, piece) for piece in work]
        try:
            # in short waits, for a long one cannot be interrupted on Windows
            while (seen := wait(futures, timeout=0.5, return_when=FIRST_EXCEPTION)).not_done:
                if any(future.exception() for future in seen.done):
                    break
        finally:
            stop.set()
            for future in futures:
                future.cancel()
            wait(futures)
            torch.set_num_threads(threads)  # what a worker sets holds for some of torch's libraries everywhere
    failed = [future.exception() for future in futures if future.done() and not future.cancelled()]
    for error in failed:
        if error is not None and not isinstance(error, Stopped):
            raise error
    return [future.result() for future in futures]
