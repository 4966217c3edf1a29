"""Rows about one run: against plain PyTorch, against CLArena, against the machine's own speed."""

from __future__ import annotations

import functools

import torch

from benchmarks import peers
from benchmarks.clarena import CLArena, NotInstalled, installed
from benchmarks.machine import cores
from benchmarks.ours import Epochs, set_up
from benchmarks.table import Measured, NotMeasured, Setting, row
from benchmarks.timing import Ratio, ratio, stopwatch, threads
from hatlab.training.grouping import in_worker_threads


def _step_against_bare(setting: Setting, threads_: int) -> Measured:
    with threads(setting.need_cores(threads_)):
        ours = Epochs([setting.split_mnist()])
        x, y = ours.data()
        model = peers.mlp(784, (400, 400), 2)
        bare = functools.partial(peers.bare_epoch, model, peers.sgd(model), x, y)
        measured = ratio(stopwatch(ours, ours.steps), stopwatch(bare, ours.steps), setting.runs(15))
    return Measured(measured, ("hatlab's step", "bare loop's step"), "s", {"images": setting.images.title})


@row("step_1_thread", "a hatlab run's step / a bare PyTorch loop's, MLP 784-400-400, 1 thread", "<= 1.15")
def step_1_thread(setting: Setting) -> Measured:
    return _step_against_bare(setting, 1)


@row("step_2_threads", "the same with 2 threads", "<= 1.15")
def step_2_threads(setting: Setting) -> Measured:
    return _step_against_bare(setting, 2)


@row("cnn_step", "the authors' CNN at 32x32: a hatlab run's step / a bare PyTorch loop's, all cores", "<= 1.1")
def cnn_step(setting: Setting) -> Measured:
    with threads(cores()):
        ours = Epochs([setting.split_mnist(dataset=setting.images.cifar, network="cnn")])
        x, y = ours.data()
        model = peers.cnn(2)
        bare = functools.partial(peers.bare_epoch, model, peers.sgd(model), x, y)
        measured = ratio(stopwatch(ours, ours.steps), stopwatch(bare, ours.steps), setting.runs(9))
    return Measured(measured, ("hatlab's step", "bare loop's step"), "s", {"images": setting.images.cifar_title})


def _against_loader(setting: Setting, workers: int) -> Measured:
    with threads(cores()):
        ours = Epochs([setting.split_mnist()])
        task = ours.first.sequence.tasks[ours.first.task]
        batches = peers.loader(setting.images.torchvision_root, task.classes, len(task.train), workers)
        model = peers.mlp(784, (400, 400), 2)
        loop = functools.partial(peers.loader_epoch, model, peers.sgd(model), batches)
        measured = ratio(stopwatch(loop), stopwatch(ours), setting.runs(9))
    return Measured(measured, ("DataLoader epoch", "hatlab's epoch"), "s", {"images": setting.images.title})


@row("data_loader", "torchvision DataLoader loop of the same MLP, no HAT: its epoch / hatlab's with HAT", ">= 4")
def data_loader(setting: Setting) -> Measured:
    return _against_loader(setting, 0)


@row("data_loader_2_workers", "the same with num_workers=2", ">= 4")
def data_loader_2_workers(setting: Setting) -> Measured:
    return _against_loader(setting, 2)


@functools.cache
def _against_clarena(setting: Setting, usual: bool) -> tuple[Ratio, Ratio]:
    """Return the ratios of whole epochs and of set-ups."""
    if setting.quick and not installed():
        raise NotMeasured("CLArena is not installed yet: `make bench` without --quick does it")
    tasks = 2 if usual or setting.quick else 3
    config = setting.split_mnist()
    set_up(config)  # CLArena's images are unpacked already, so hatlab's are in its cache
    try:
        with threads(cores()), CLArena(setting.images.torchvision_root, cores(), usual) as peer:

            def begin() -> float:
                seconds = peer.task()
                peer.epoch()
                return seconds

            of_set_up = ratio(begin, stopwatch(lambda: set_up(config)), tasks, warm_up=0)
            ours = Epochs([config], task=tasks - 1)  # the task that CLArena has arrived at
            of_epoch = ratio(peer.epoch, stopwatch(ours.whole if usual else ours), setting.runs(9))
    except NotInstalled as error:
        raise NotMeasured(str(error)) from None
    return of_epoch, of_set_up


@row("clarena_epoch", "CLArena 1.1.0: an epoch as its pipeline runs it / hatlab's, both with validation", ">= 5")
def clarena_epoch(setting: Setting) -> Measured:
    measured, _ = _against_clarena(setting, usual=True)
    return Measured(measured, ("CLArena's epoch", "hatlab's epoch"), "s", {"images": setting.images.title})


@row("clarena_training", "the same without validation, metrics, logger and progress bar", ">= 5")
def clarena_training(setting: Setting) -> Measured:
    measured, _ = _against_clarena(setting, usual=False)
    return Measured(measured, ("CLArena's epoch", "hatlab's epoch"), "s", {"images": setting.images.title})


@row(
    "clarena_set_up",
    "CLArena 1.1.0: from the start of a task to its first step / hatlab's for a whole run of five tasks",
    "<= 0.3 s for hatlab",
    judged=lambda measured: measured.sides[1],
)
def clarena_set_up(setting: Setting) -> Measured:
    _, measured = _against_clarena(setting, usual=False)
    return Measured(measured, ("CLArena's set-up", "hatlab's set-up"), "s", {"images": setting.images.title})


def _share_of_sgemm(setting: Setting, threads_: int, lanes: int = 1) -> Measured:
    """FLOP/s of a step's products over torch.mm's, of one run, or of a run in each of `lanes` at once."""
    size, widths = 2048, (784, 2000, 2000)
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    products = [m * n for m, n in zip(widths, (*widths[1:], 2), strict=True)]
    # one product forward and two backward, the gradients of weights and of inputs, which the first layer has not
    per_image = 2 * (3 * sum(products) - products[0])
    with threads(setting.need_cores(threads_)):
        config = setting.split_mnist(2000, 2000, validation=0.9)  # a short epoch
        runs = [Epochs([config.replace(seed=seed)]) for seed in range(lanes)]
        gflop = per_image * sum(len(run.first.split.train) for run in runs) / 1e9
        ours = functools.partial(in_worker_threads, [lambda check, run=run: run() for run in runs], lanes)
        measured = ratio(
            stopwatch(lambda: torch.mm(a, b, out=out), 2 * size**3 / 1e9, times=3),
            stopwatch(ours if lanes > 1 else runs[0], gflop),
            setting.runs(9),
        )
    return Measured(measured, ("torch.mm 2048", "hatlab's step"), "s/GFLOP", {"images": setting.images.title})


@row("sgemm_1_thread", "MLP 784-2000-2000: FLOP/s of a step's products / torch.mm's at 2048, 1 thread", ">= 0.6")
def sgemm_1_thread(setting: Setting) -> Measured:
    return _share_of_sgemm(setting, 1)


@row("sgemm_2_threads", "the same with 2 threads", ">= 0.6")
def sgemm_2_threads(setting: Setting) -> Measured:
    return _share_of_sgemm(setting, 2)


@row("sgemm_lanes", "the same of a run per core, in lanes as a sweep trains them; torch.mm with all cores", ">= 0.6")
def sgemm_lanes(setting: Setting) -> Measured:
    setting.need_cores(2)
    return _share_of_sgemm(setting, cores(), lanes=cores())


@row(
    "denormals",
    "a step of 512 images whose masks are denormal numbers / one with ordinary masks, all cores",
    "<= 1.1",
)
def denormals(setting: Setting) -> Measured:
    def steps(denormal: bool) -> Epochs:
        # one batch an epoch and the paper's schedule: every step is at s = s_max; a large one, so that what an epoch
        # costs besides its step does not blur the ratio
        epochs = Epochs([setting.split_mnist(validation=0.96, batch_size=512, schedule="paper")])
        assert epochs.steps == 1, epochs.steps
        if denormal:  # sigmoid(400 e) is between 1e-45 and 1e-38
            with torch.no_grad():
                epochs.first.network.gates.uniform_(-0.2575, -0.2205)
        return epochs

    with threads(cores()):
        small, ordinary = steps(True), steps(False)
        times = 10 if setting.quick else 40
        measured = ratio(
            stopwatch(small, times=times),
            stopwatch(ordinary, times=times),
            setting.runs(15),
        )
    return Measured(measured, ("denormal masks' step", "ordinary masks' step"), "s", {"images": setting.images.title})
