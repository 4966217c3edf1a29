"""Rows about sweeps: runs side by side, tasks one after the other, memory."""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
from typing import Any

import hatlab
from benchmarks.machine import cores
from benchmarks.ours import Epochs, sweep
from benchmarks.processes import Processes
from benchmarks.table import Measured, NotMeasured, Setting, row
from benchmarks.timing import Ratio, curve, median_interval, ratio, rise_of, stopwatch, threads
from hatlab.support.paths import home
from hatlab.training.grouping import in_worker_threads


def _seeds(config: hatlab.RunConfig, count: int) -> list[hatlab.RunConfig]:
    return config.replace(task_order="shuffled").grid(seed=range(count))


def _sixteen(setting: Setting, width: int, runs: int, epochs: int) -> Measured:
    size = {"n_tasks": 1, "max_epochs": 1} if setting.quick else {"n_tasks": 2, "max_epochs": epochs}
    configs = _seeds(setting.split_mnist(width, width, **size), 16)
    with threads(cores()):
        together, alone = (functools.partial(sweep, configs, replicas=replicas) for replicas in (None, 1))
        sweep(configs[:1])
        measured = ratio(stopwatch(together), stopwatch(alone), setting.runs(runs), warm_up=0)
    return Measured(measured, ("as a sweep", "one after the other"), "s", {"images": setting.images.title, **size})


@row("sweep_16_widths_100", "16 runs of MLP 784-100-100 as a sweep / one after the other, end to end", "<= 0.5")
def sweep_16_widths_100(setting: Setting) -> Measured:
    return _sixteen(setting, 100, runs=7, epochs=2)


@row("sweep_16_widths_400", "16 runs of MLP 784-400-400 as a sweep / one after the other, end to end", "<= 0.7")
def sweep_16_widths_400(setting: Setting) -> Measured:
    return _sixteen(setting, 400, runs=5, epochs=1)


def _processes(setting: Setting, config: hatlab.RunConfig) -> Measured:
    """An epoch of 16 runs side by side, in one process per core with a thread each / in one with all threads."""
    setting.need_cores(2)
    with threads(cores()), Processes(config, [range(core, 16, cores()) for core in range(cores())]) as apart:
        together = Epochs(config.grid(seed=range(16)))
        measured = ratio(stopwatch(apart), stopwatch(together), setting.runs(9))
    return Measured(measured, ("one process per core", "threads inside a step"), "s", {"images": setting.images.title})


@row("processes_widths_100", "16 runs, widths 100, side by side: one process per core / threads in a step", ">= 0.8")
def processes_widths_100(setting: Setting) -> Measured:
    return _processes(setting, setting.split_mnist(100, 100))


@row("processes_widths_400", "16 runs, widths 400, side by side: the same", ">= 0.8")
def processes_widths_400(setting: Setting) -> Measured:
    return _processes(setting, setting.split_mnist(validation=0.5))


def _lanes(setting: Setting, config: hatlab.RunConfig, pairs: int) -> Measured:
    """An epoch of as many runs as there are cores, in lanes / one after the other with all threads inside a step."""
    setting.need_cores(2)
    with threads(cores()):
        runs = [Epochs([config.replace(seed=seed)]) for seed in range(cores())]
        at_once = functools.partial(in_worker_threads, [lambda check, run=run: run() for run in runs], len(runs))

        def in_turn() -> None:
            for run in runs:
                run()

        measured = ratio(stopwatch(at_once), stopwatch(in_turn), setting.runs(pairs))
    return Measured(measured, ("in lanes", "threads inside a step"), "s", {"images": setting.images.title})


@row("lanes_widths_2000", "MLP 784-2000-2000, a run per core: in lanes / in turn with threads in a step", "<= 1")
def lanes_widths_2000(setting: Setting) -> Measured:
    return _lanes(setting, setting.split_mnist(2000, 2000, validation=0.8), 9)


@row("lanes_cnn", "the CNN: the same", "<= 1")
def lanes_cnn(setting: Setting) -> Measured:
    return _lanes(setting, setting.split_mnist(dataset=setting.images.cifar, network="cnn", validation=0.5), 5)


def _curve(costs: dict[int, list[hatlab.RunConfig]], setting: Setting, unit: str) -> Measured:
    with threads(cores()):
        sweep(next(iter(costs.values())))
        table = curve({n: stopwatch(functools.partial(sweep, runs)) for n, runs in costs.items()}, setting.runs(5))
    points = {str(n): statistics.median(seconds) for n, seconds in table.items()}
    sides = f"{min(costs)} {unit}", f"{max(costs)} {unit}s"
    more: dict[str, Any] = {"images": setting.images.part_title, "unit": unit, "seconds": points}
    return Measured(rise_of(table), sides, f"s/{unit}", more)


@row("tasks", "1, 2, 4, 8 permuted tasks: most that the time per task is above that of fewer tasks", "<= 1.1")
def tasks(setting: Setting) -> Measured:
    config = setting.split_mnist(
        dataset=setting.images.part_of_mnist, sequence="permuted", max_epochs=1 if setting.quick else 2
    )
    counts = (1, 2, 4) if setting.quick else (1, 2, 4, 8)
    return _curve({n: [config.replace(n_tasks=n)] for n in counts}, setting, "task")


@row("replicas", "sweeps of 1, 2, 4 ... 64 runs: most that the time per run is above that of fewer runs", "<= 1.1")
def replicas(setting: Setting) -> Measured:
    config = setting.split_mnist(dataset=setting.images.part_of_mnist, n_tasks=1 if setting.quick else 2, max_epochs=1)
    counts = (1, 2, 4, 8) if setting.quick else (1, 2, 4, 8, 16, 32, 64)
    return _curve({n: _seeds(config, n) for n in counts}, setting, "run")


@functools.cache
def _memory(setting: Setting) -> list[dict[str, float]]:
    """Return what `benchmarks.memory` says of a sweep of 16 runs, each time in a fresh process."""
    config = setting.split_mnist(max_epochs=1, n_tasks=2)
    command = [sys.executable, "-m", "benchmarks.memory", config.to_json(), "16"]
    found = []
    for _ in range(setting.runs(3)):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home())
        if done.returncode:
            raise NotMeasured((done.stderr.strip().splitlines() or ["no message"])[-1])
        found.append(json.loads(done.stdout))
    return found


def _peak(setting: Setting, copies: int) -> Measured:
    found = _memory(setting)
    sums = [part["data"] + copies * part["parameters"] + part["activations"] for part in found]
    ratios = [part["peak"] / total for part, total in zip(found, sums, strict=True)]
    middle, low, high = median_interval(ratios)
    sides = statistics.median(part["peak"] for part in found) / 1e6, statistics.median(sums) / 1e6
    parts = {name: round(found[0][name] / 1e6, 1) for name in ("data", "parameters", "activations")}
    return Measured(
        Ratio(middle, low, high, len(found), sides),
        ("peak", f"data + {copies} x parameters + activations"),
        "MB",
        {"images": setting.images.title, "parts_mb": parts},
    )


@row("memory", "peak memory of a sweep of 16 runs / (data once + 16 x weights + activations)", "<= 1.2")
def memory(setting: Setting) -> Measured:
    return _peak(setting, 1)


@row(
    "memory_4_copies",
    "the same / (data once + 16 x 4 x weights + activations): with gradients, best weights, gradient masks",
    "<= 1.2",
)
def memory_4_copies(setting: Setting) -> Measured:
    return _peak(setting, 4)
