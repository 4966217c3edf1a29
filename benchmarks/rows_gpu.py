"""Rows that need a GPU."""

from __future__ import annotations

import torch

from benchmarks.ours import Epochs, train
from benchmarks.table import Measured, NotMeasured, Setting, row
from benchmarks.timing import ratio, stopwatch
from hatlab.training import open_units
from hatlab.training.runs import trainers


def _need_gpu() -> None:
    if not torch.cuda.is_available():
        raise NotMeasured("this machine has no GPU that torch can use")


@row("gpu_sweep_80", "80 runs (8 c x 10 seeds) of MLP 784-2000-2000 on a GPU: as a sweep / one by one, eager", "<= 0.1")
def gpu_sweep_80(setting: Setting) -> Measured:
    _need_gpu()
    size = {"n_tasks": 2, "max_epochs": 1}
    strengths = [0.1 * (k + 1) for k in range(2 if setting.quick else 8)]
    config = setting.split_mnist(2000, 2000, task_order="shuffled", **size)
    configs = config.grid(c=strengths, seed=range(10))

    def cost(one_by_one_and_eager: bool) -> float:
        runs = trainers(configs, "cuda")  # not timed: the same for both
        return stopwatch(lambda: train(runs, one_by_one_and_eager))()

    measured = ratio(lambda: cost(False), lambda: cost(True), setting.runs(3))
    more = {"images": setting.images.title, "n_runs": len(configs), **size}
    return Measured(measured, ("as a sweep", "one by one, eager"), "s", more)


@row(
    "gpu_closed", "20 runs of MLP 784-2000-2000 on a GPU, c = .75: an epoch, closed units left out / computed", "<= 0.9"
)
def gpu_closed(setting: Setting) -> Measured:
    _need_gpu()
    configs = setting.split_mnist(2000, 2000, c=0.75).grid(seed=range(20))
    sides, before = [], open_units.ON_CUDA
    try:
        for left_out in (True, False):
            open_units.ON_CUDA = left_out
            sides.append(Epochs(configs, device="cuda"))
            sides[-1]()  # recorded, with what it was told
        measured = ratio(*map(stopwatch, sides), runs=setting.runs(7))
    finally:
        open_units.ON_CUDA = before
    return Measured(measured, ("left out", "computed"), "s an epoch", {"images": setting.images.title})


@row("gpu_cnn_step", "the authors' CNN at 32x32 on a GPU: a run's step captured / eager", "<= 0.4")
def gpu_cnn_step(setting: Setting) -> Measured:
    _need_gpu()
    config = setting.split_mnist(dataset=setting.images.cifar, network="cnn")
    captured, eager = (Epochs([config], device="cuda", capture=capture) for capture in (True, False))
    sides = (stopwatch(side, side.steps, times=5) for side in (captured, eager))
    measured = ratio(*sides, runs=setting.runs(15))
    return Measured(measured, ("captured step", "eager step"), "s", {"images": setting.images.cifar_title})
