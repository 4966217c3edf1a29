"""CPU time, GPU memory and energy: what the system tells, and nothing where it does not."""

import os
import stat
import subprocess
import sys

from hatlab.batches import meters


def test_cpu_time_counts_children_and_grows(tmp_path):
    busy = (
        "import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', 'sum(range(20_000_000))'])\n"
        "print('x', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        used = meters.cpu_seconds(process.pid)
        process.kill()
    assert used > 0.1
    assert meters.cpu_seconds(process.pid) == 0


def test_gpu_memory_is_that_of_the_process_as_nvidia_smi_tells(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{os.getpid()}, 512'\necho '1, 4096'\necho '{os.getpid()}, [N/A]'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    meters._has_nvidia.cache_clear()
    assert meters.gpu_memory(os.getpid()) == 512 * 2**20
    tool.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert meters.gpu_memory(os.getpid()) == 0
    monkeypatch.setattr(meters, "ASK", ("no-such-tool",))
    meters._has_nvidia.cache_clear()
    assert meters.gpu_memory(os.getpid()) == 0
    meters._has_nvidia.cache_clear()


def test_energy_is_the_sum_of_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(meters, "_nvml", list)
    monkeypatch.setattr(meters, "RAPL", tmp_path)
    assert meters.energy() is None
    for name, joules in ("intel-rapl:0", 3), ("intel-rapl:1", 4), ("intel-rapl:0:0", 2):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{joules}000000\n")
    assert meters.energy() == 7
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert meters.energy() == 3


class Nvml:
    """Two cards of which one does not count."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, k):
        return k

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if handle:
            raise self.NVMLError("not supported")
        return 2500.0  # millijoules


def test_energy_of_gpus_is_counted_where_they_count(tmp_path, monkeypatch):
    monkeypatch.setattr(meters, "RAPL", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    meters._gpus.cache_clear()
    assert meters.energy() == 2.5
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meters._gpus.cache_clear()
    assert meters.energy() is None
    meters._gpus.cache_clear()
