"""Lanes: pieces of work that go on at once, each in a Python thread with its share of the CPU threads.

Where one run fills the caches by itself, two runs with a thread each are faster than one run with two: nothing waits
for the slower half of a product. Torch lets go of Python's lock inside its operations, and the lanes share the images.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

__all__ = ["Stopped", "in_lanes"]

Result = TypeVar("Result")


class Stopped(RuntimeError):
    """Another lane failed, or Ctrl-C was pressed: this one ends where it is."""


def in_lanes(work: Sequence[Callable[[Callable[[], None]], Result]], lanes: int) -> list[Result]:
    """Call each of `work`, `lanes` at a time, and return their results in order.

    Each gets a function to call often: it raises `Stopped` when the work is to end. The first error of any is raised
    after all lanes have ended.
    """
    threads, stop = torch.get_num_threads(), threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    def lane(piece: Callable[[Callable[[], None]], Result]) -> Result:
        check()
        torch.set_num_threads(max(1, threads // lanes))
        return piece(check)

    with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
        futures = [pool.submit(lane, piece) for piece in work]
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
            torch.set_num_threads(threads)  # what a lane sets holds for some of torch's libraries everywhere
    failed = [future.exception() for future in futures if future.done() and not future.cancelled()]
    for error in failed:
        if error is not None and not isinstance(error, Stopped):
            raise error
    return [future.result() for future in futures]
