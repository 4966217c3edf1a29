"""What the numbers were measured on, without anything that names the machine or its owner."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

__all__ = ["cores", "describe", "other_work", "slug"]


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Return CPU, memory, GPU, system and versions, as they go into the JSON file."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": _memory(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.machine()}",
    }


def slug(machine: dict[str, Any]) -> str:
    """Return e.g. "amd-epyc-2-cores": the name of the machine's file."""
    words = " ".join(filter(None, (machine["cpu"], machine["gpu"], f"{machine['cores']} cores")))
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|\bcpu\b|@.*ghz", "", words.lower())).strip("-")


def other_work() -> float | None:
    """Return the CPU seconds that were used since boot by others than this process and its finished children, or
    taken away by other virtual machines; None where the system does not tell.
    """
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields)
    own = os.times()
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - sum(own[:4])


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return found[1].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
