"""What a run costs, as far as the operating system tells: CPU time, GPU memory, energy.

Energy is that of the whole machine (Intel's and AMD's RAPL counters, NVIDIA's NVML), not of one run: where several run
at a time, each is told what all took.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import psutil

from hatlab.batches.processes import family

__all__ = ["cpu_seconds", "energy", "gpu_memory"]

RAPL: Final = Path("/sys/class/powercap")
ASK: Final = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
ASK_SECONDS: Final = 10.0


def cpu_seconds(pid: int) -> float:
    """Return the seconds of CPU time that a process, its descendants, and those of them that have ended have used."""
    used = 0.0
    for one in family(pid):
        with contextlib.suppress(psutil.Error, OSError):
            times: Any = psutil.Process(one).cpu_times()
            used += (
                times.user
                + times.system
                + getattr(times, "children_user", 0.0)
                + getattr(times, "children_system", 0.0)
            )
    return round(used, 2)


@functools.cache
def _has_nvidia() -> bool:
    return shutil.which(ASK[0]) is not None


def gpu_memory(pid: int) -> int:
    """Return the bytes of GPU memory that a process and its descendants hold; 0 where the system does not tell."""
    if not _has_nvidia():
        return 0
    try:
        told = subprocess.run(ASK, capture_output=True, text=True, timeout=ASK_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    ours, held = set(family(pid)), 0
    for line in told.splitlines():
        with contextlib.suppress(ValueError):
            process, mebibytes = map(int, line.split(","))
            held += mebibytes * 2**20 if process in ours else 0
    return held


def energy() -> float | None:
    """Return a count of joules that the machine has used since some moment; None where the system does not tell.

    A counter may start anew; then a difference is negative, and says nothing.
    """
    joules = [*_rapl(), *_nvml()]
    return sum(joules) if joules else None


def _rapl() -> list[float]:
    found = []
    for package in RAPL.glob("*-rapl:?"):  # the parts of a package are in it
        with contextlib.suppress(OSError, ValueError):
            found.append(int((package / "energy_uj").read_text()) / 1e6)
    return found


@functools.cache
def _gpus() -> tuple[Any, list[Any]]:
    """Return NVML and its handles of this machine's GPUs; none where there is no library, driver or card."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, [pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # whatever a driver of another version says
        return None, []


def _nvml() -> list[float]:
    nvml, handles = _gpus()
    found = []
    for handle in handles:
        with contextlib.suppress(nvml.NVMLError):  # a card that does not count
            found.append(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
    return found
