"""Trains runs alone and beside others, over many widths and numbers of classes, and says where a bit differs.

    python tests/beside.py [EVERY [FIRST]]

takes every so many of the cases, from the first. `test_engine.py` starts it once for each instruction set, for a
process chooses its own when torch is imported.
"""

import sys

import numpy as np
import torch

from hatlab.config import RunConfig
from hatlab.data.datasets import Dataset
from hatlab.data.loading import Images
from hatlab.data.tasks import make_sequence
from hatlab.support.progress import Progress
from hatlab.training import open_units, replicas
from hatlab.training.engine import ReplicaGroup
from hatlab.training.torch_settings import torch_settings
from hatlab.training.trainer import Trainer

CPU = torch.device("cpu")
WIDTHS = range(2, 140)
CLASSES = range(2, 13)


def made(classes: int, side: int) -> Dataset:
    """Noise around a mean for each of twice so many classes, four images of each, in no file."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(2 * classes), 4)
    means = rng.integers(60, 196, (2 * classes, 1, side, side))
    x = (means[y] + rng.normal(0, 30, (len(y), 1, side, side))).clip(0, 255).astype(np.uint8)
    return Dataset("npz:made", "made", x, y, x, y, tuple(map(str, set(y.tolist()))), (0.5,), (0.25,), {})


def bits(trainer: Trainer) -> list[bytes]:
    """Everything that a run has come to: weights, embeddings, losses and accuracies."""
    return [repr(trainer.rows).encode(), *(p.detach().numpy().tobytes() for p in trainer.network.parameters())]


def cases() -> list[tuple[RunConfig, int, int]]:
    """Each width as first and as second layer, with batches, images and methods in turn."""
    found = []
    for i, width in enumerate(WIDTHS):
        base = RunConfig(
            dataset="npz:made",
            classes_per_task=CLASSES[i % len(CLASSES)],
            widths=(width, WIDTHS[-1 - 7 * i % len(WIDTHS)]),
            dropout=((0.0, 0.0), (0.2, 0.5))[i % 2],
            batch_size=(16, 5, 9, 20)[i % 4],
            max_epochs=1,
            validation="train",
            min_units=0,
        )
        if i % 5 == 0:
            base = base.replace(method=("ewc", "sgd_frozen")[i % 2], c=0.0)
        found.append((base, CLASSES[i % len(CLASSES)], (5, 6, 7)[i % 3]))
    return found


def main(every: int = 1, first: int = 0) -> int:
    images = {}
    different = []
    tried = cases()[first::every]
    enough = open_units.ENOUGH
    open_units.LINEAR_UNITS, replicas.LOOK_EVERY = 8, 1
    for i, (base, classes, side) in enumerate(tried):
        open_units.ENOUGH = (0, enough)[i % 2]  # every other leaves closed units out, as large networks do
        if (classes, side) not in images:
            data = made(classes, side)
            images[classes, side] = data, Images.of([data], CPU)
        data, held = images[classes, side]
        configs = [base.replace(seed=seed) for seed in range(3)]
        together, alone = ([Trainer(c, make_sequence(c, [data]), held) for c in configs] for _ in range(2))
        with torch_settings(together[0].network, 1, 1, CPU):  # one thread
            for group in (together, *([one] for one in alone)):
                ReplicaGroup(group).train(lambda trainer: None, Progress())
        if any(bits(one) != bits(other) for one, other in zip(together, alone, strict=True)):
            different.append((base.widths, classes, side * side, base.batch_size, base.method))
    for widths, classes, pixels, batch, method in different:
        print(f"widths {widths}, {classes} classes, {pixels} pixels, batches of {batch}, {method}: the bits differ")
    print(f"{len(different)} of {len(tried)} differ")
    return min(len(different), 1)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
