"""How torch computes while runs train: in float32, repeatably, on as many CPU threads as pay; then as it was before.

Memory that a step frees stays with the process until then: the maps of a convolution are large, and a CPU's step of the
authors' CNN takes a fifth to a quarter longer where the system has to give them anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from hatlab.method.networks import HATNetwork

__all__ = ["float32", "torch_settings"]

# Weights times images in a step, of all runs of a group: between 200-200 on digits in batches of 16 (0.8 million),
# where a second thread gains next to nothing, and 100-100 on MNIST in batches of 64 (6 million), where it does.
SMALL_STEP = 4_000_000
# Of mallopt(3). Where nobody sets a limit, glibc raises it to `LARGEST` at most.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST, KEPT = 1 << 25, 1 << 30  # bytes
# What has an attribute `fp32_precision`; an operation that has none of its own takes that of what stands before it.
# Not torch.backends.mkldnn: up to torch 2.14 setting its attribute sets that of torch.backends.
_backends: Final[Any] = torch.backends  # some parts have no types
PRECISIONS: Final = (
    _backends,
    _backends.cudnn,
    _backends.cuda.matmul,
    _backends.cudnn.conv,
    _backends.cudnn.rnn,
    _backends.mkldnn.matmul,
    _backends.mkldnn.conv,
    _backends.mkldnn.rnn,
)


class _Shared:
    """What all threads share: the first to enter sets it up, the last to leave puts it back."""

    def __init__(self, set_up: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._set_up, self._lock, self._inside = set_up, threading.Lock(), 0
        self._before = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before.enter_context(self._set_up())
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.close()


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    precisions = []
    for part in PRECISIONS:  # each is read when those that it would inherit from say nothing
        precisions.append(part.fp32_precision)
        part.fp32_precision = "none"
    # torch refuses to tell the older switch while the newer ones contradict it
    older = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        for part in PRECISIONS:
            part.fp32_precision = "ieee"
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        torch.set_float32_matmul_precision(older)  # sets some of the newer ones
        for part, precision in zip(PRECISIONS, precisions, strict=True):
            part.fp32_precision = precision
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark


@contextlib.contextmanager
def _kept_memory() -> Iterator[None]:
    """Let glibc, where it is what allocates, keep what is freed; then give it back, with the limits it ends up with."""
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(TRIM_THRESHOLD, KEPT), libc.mallopt(MMAP_THRESHOLD, KEPT)
    try:
        yield
    finally:
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST), libc.mallopt(MMAP_THRESHOLD, LARGEST)
        libc.malloc_trim(0)


_shared: Final = _Shared(_float32)
_memory: Final = _Shared(_kept_memory)


def float32() -> contextlib.AbstractContextManager[None]:
    """Within it products and convolutions are float32's, never TF32's or bfloat16's, and cuDNN's are repeatable.

    Whatever the user chose, by the older switches of torch or by the newer, is back at the end. Threads may overlap.
    """
    return _shared


@contextlib.contextmanager
def torch_settings(network: HATNetwork, batch_size: int, runs: int, device: torch.device) -> Iterator[None]:
    """Set torch up for steps of `runs` runs on `device`, and back at the end; `float32` holds within it.

    On a CPU a step too small to share uses one thread: there, waking a second one costs what it saves, and where the
    cores are busy many times that. Numbers below 1e-38, which some CPUs are slow with, count as 0.
    """
    threads = torch.get_num_threads()
    flushed = not (torch.tensor(1e-40) * 1).item()
    weights = sum(link.weights for link in network.gated_layers)
    plain = all(isinstance(layer, torch.nn.Linear) for layer in network.trunk.values())
    if plain and runs * batch_size * weights < SMALL_STEP:
        torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        with float32(), _memory:
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)
