"""Rows about closed units: whole runs that leave them out / that compute them, and / plain PyTorch without HAT.

All sides of a run are trained side by side, an epoch of each in turn: training, validation and, at the end of a task,
its tests. The ratio is that of the sums over all epochs; its interval a bootstrap over the epochs.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

import hatlab
from benchmarks import peers
from benchmarks.machine import cores
from benchmarks.table import Measured, NotMeasured, Setting, row
from benchmarks.timing import CONFIDENCE, Ratio, threads
from hatlab.data.datasets import DatasetError
from hatlab.support.progress import Progress
from hatlab.training import open_units, replicas
from hatlab.training.engine import ReplicaGroup
from hatlab.training.runs import trainers
from hatlab.training.torch_settings import torch_settings

CIFAR10 = "npz:cifar10-exact/cifar10-exact.npz"
GROUP_EPOCHS, CNN_EPOCHS = 20, 10  # of a task: a quarter of an hour and half an hour on a fast core


class Side:
    """Runs that are trained an epoch at a time; `shares`: by epoch, of all multiplications those that were taken."""

    def __init__(self, configs: list[hatlab.RunConfig], skip: bool) -> None:
        self.skip, self.taken, self.all = skip, 0, 0
        self.shares: list[float] = []
        self.runs = trainers(configs, "cpu")
        self.group = ReplicaGroup(self.runs)

    def __call__(self) -> None:
        network, config = self.runs[0].network, self.runs[0].config
        whole, step, before = list(network.units.values()), replicas.step, open_units.SKIP

        def counted(network: hatlab.HATNetwork, state: Any, *rest: Any) -> torch.Tensor:
            sizes = [state.parameters[f"trunk.{name}.weight"].shape[1] for name in network.trunk]
            self.taken += len(state.e) * open_units.multiplications(network, sizes)
            self.all += len(state.e) * open_units.multiplications(network, whole)
            return step(network, state, *rest)

        self.taken = self.all = 0
        open_units.SKIP, replicas.step = self.skip, counted  # type: ignore[assignment]
        try:
            with torch_settings(network, config.batch_size, len(self.runs), self.runs[0].device):
                self.group.train(lambda trainer: None, Progress(), epochs=1)
        finally:
            open_units.SKIP, replicas.step = before, step
        self.shares.append(self.taken / self.all)


class Bare:
    """The same network, images and epochs in a plain loop of PyTorch, validated after each epoch."""

    def __init__(self, config: hatlab.RunConfig) -> None:
        (self.run,) = trainers([config], "cpu")
        self.epochs = 0

    def __call__(self) -> None:
        data = self.run.data[self.epochs // self.run.config.max_epochs]
        if self.epochs % self.run.config.max_epochs == 0:
            (self.x, self.y), (self.valid_x, self.valid_y) = (
                split.batch(torch.arange(len(split))) for split in (data.train, data.valid)
            )
            self.model = peers.mlp(784, self.run.config.widths, len(self.run.sequence.tasks[0].classes))
            self.sgd = peers.sgd(self.model)
        self.epochs += 1
        peers.bare_epoch(self.model.train(), self.sgd, self.x, self.y)
        with torch.no_grad():
            for x, y in zip(self.valid_x.split(256), self.valid_y.split(256), strict=True):
                F.cross_entropy(self.model.eval()(x), y, reduction="sum").item()


def _in_turn(sides: dict[str, Callable[[], None]], epochs: int) -> dict[str, list[float]]:
    """Return what each epoch of each side took, in seconds; who goes first changes."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for k in range(epochs):
        names = list(sides)[k % len(sides) :] + list(sides)[: k % len(sides)]
        for name in names:
            begun = time.perf_counter()
            sides[name]()
            took[name].append(time.perf_counter() - begun)
    return took


def _shares(sides: dict[str, Any]) -> dict[str, list[float]]:
    return {name: [round(share, 3) for share in side.shares] for name, side in sides.items() if isinstance(side, Side)}


def _measured(
    took: dict[str, list[float]], one: str, other: str, shares: dict[str, list[float]], **more: Any
) -> Measured:
    pairs, random, resamples = list(zip(took[one], took[other], strict=True)), Random(0), 2000

    def of_sums(epochs: list[tuple[float, float]]) -> float:
        return sum(a for a, _ in epochs) / sum(b for _, b in epochs)

    drawn = sorted(of_sums(random.choices(pairs, k=len(pairs))) for _ in range(resamples))
    cut = round(resamples * (1 - CONFIDENCE) / 2)
    middles = statistics.median(took[one]), statistics.median(took[other])
    more |= {"ratio_by_epoch": [round(a / b, 3) for a, b in pairs], "share_by_epoch": shares[one]}
    measured = Ratio(of_sums(pairs), drawn[cut], drawn[-1 - cut], len(pairs), middles)
    return Measured(measured, (one, other), "s an epoch", more)


LEFT_OUT, COMPUTED, AT_2_5, BARE = "closed units left out", "computed", "left out, c = 2.5", "plain loop, no HAT"


Found: TypeAlias = tuple[dict[str, list[float]], dict[str, list[float]], dict[str, Any]]  # seconds, shares, and more


@functools.cache
def _mlp_2000(setting: Setting) -> Found:
    epochs = 1 if setting.quick else 20
    config = setting.split_mnist(2000, 2000, classes_per_task=5, max_epochs=epochs, c=0.75)
    sides = {
        LEFT_OUT: Side([config], True),
        COMPUTED: Side([config], False),
        AT_2_5: Side([config.replace(c=2.5)], True),
        BARE: Bare(config),
    }
    with threads(1):
        took = _in_turn(sides, 2 * epochs)
    return took, _shares(sides), {"images": setting.images.title, "epochs_a_task": epochs, "tasks": 2}


@row("closed_2000", "two-task MNIST, 2000-2000, c = .75: closed units left out / computed, 1 thread", "<= 0.45")
def closed_2000(setting: Setting) -> Measured:
    took, shares, more = _mlp_2000(setting)
    return _measured(took, LEFT_OUT, COMPUTED, shares, **more)


@row("closed_2000_bare", "the same / a plain PyTorch loop of that network without HAT", "<= 0.5")
def closed_2000_bare(setting: Setting) -> Measured:
    took, shares, more = _mlp_2000(setting)
    return _measured(took, LEFT_OUT, BARE, shares, **more)


@row("closed_2000_c_2.5", "the same at c = 2.5: left out / computed", "<= 0.3")
def closed_2000_c_2_5(setting: Setting) -> Measured:
    took, shares, more = _mlp_2000(setting)
    return _measured(took, AT_2_5, COMPUTED, shares, **more)


@row("closed_2000_c_0", "the same at c = 0, 4 epochs a task: left out / computed", "<= 1.03")
def closed_2000_c_0(setting: Setting) -> Measured:
    epochs = 1 if setting.quick else 4
    config = setting.split_mnist(2000, 2000, classes_per_task=5, max_epochs=epochs, c=0.0)
    sides = {LEFT_OUT: Side([config], True), COMPUTED: Side([config], False)}
    with threads(1):
        took = _in_turn(dict(sides), 2 * epochs)
    more = {"images": setting.images.title, "epochs_a_task": epochs, "tasks": 2}
    return _measured(took, LEFT_OUT, COMPUTED, _shares(sides), **more)


@row(
    "closed_400",
    "five-task MNIST, 400-400, 20 epochs each, c = .75, 16 seeds side by side: left out / computed",
    "<= 0.7",
)
def closed_400(setting: Setting) -> Measured:
    epochs = 1 if setting.quick else GROUP_EPOCHS
    configs = setting.split_mnist(max_epochs=epochs, c=0.75).grid(seed=range(16))
    sides = {LEFT_OUT: Side(configs, True), COMPUTED: Side(configs, False)}
    with threads(cores()):
        took = _in_turn(dict(sides), 5 * epochs)
    more = {"images": setting.images.title, "epochs_a_task": epochs, "tasks": 5}
    return _measured(took, LEFT_OUT, COMPUTED, _shares(sides), **more)


@functools.cache
def _cnn(setting: Setting) -> Found:
    epochs = 1 if setting.quick else CNN_EPOCHS
    config = setting.split_mnist(dataset=CIFAR10, network="cnn", max_epochs=epochs, c=0.75)
    try:
        sides = {
            LEFT_OUT: Side([config], True),
            COMPUTED: Side([config], False),
            AT_2_5: Side([config.replace(c=2.5)], True),
        }
    except DatasetError as error:
        raise NotMeasured(f"needs {CIFAR10}: {error}") from None
    with threads(1):
        took = _in_turn(dict(sides), 5 * epochs)
    title = sides[LEFT_OUT].runs[0].sequence.title
    return took, _shares(sides), {"images": title, "epochs_a_task": epochs, "tasks": 5}


@row("closed_cnn", "the CNN, five tasks of CIFAR-10, 10 epochs each, c = .75: left out / computed, 1 thread", "<= 0.6")
def closed_cnn(setting: Setting) -> Measured:
    took, shares, more = _cnn(setting)
    return _measured(took, LEFT_OUT, COMPUTED, shares, **more)


@row("closed_cnn_c_2.5", "the same at c = 2.5", "<= 0.45")
def closed_cnn_c_2_5(setting: Setting) -> Measured:
    took, shares, more = _cnn(setting)
    return _measured(took, AT_2_5, COMPUTED, shares, **more)
