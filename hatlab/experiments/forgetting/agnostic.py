"""HAT where the task is not given at test time: it is guessed from how sure each task's mask is of an image.

Every task's mask and head are tried on every test image. The task is chosen whose output has the least entropy, as a
share of the largest that its number of classes allows. An image counts as right if its task is chosen and its class is
that of the highest logit. With the task given, as everywhere else, the choice is right by definition.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from hatlab.analysis import metrics
from hatlab.analysis.masks import load_network
from hatlab.data.datasets import load_all
from hatlab.data.loading import Images, TaskData
from hatlab.data.tasks import make_sequence
from hatlab.method.networks import HATNetwork
from hatlab.training.runs import Run

__all__ = ["Agnostic", "entropies", "over_seeds", "without_task"]


BATCH: Final = 1024  # images; the maps of the authors' CNN for a whole test set take gigabytes


class Agnostic(NamedTuple):
    """Tables of several runs.

    Attributes:
        accuracy: `seed`, `task` (from 1); in % of the task's test images `given` (right with the task given), `guessed`
            (right without) and `found` (the task is).
        confusion: `seed`, `task`, `chosen`: in % of the task's test images `share`, for which `chosen` was.
    """

    accuracy: pd.DataFrame
    confusion: pd.DataFrame


@torch.no_grad()
def entropies(network: HATNetwork, x: Tensor, s_max: float) -> tuple[Tensor, Tensor]:
    """Return for each image and task the entropy of the output, in [0, 1], and the class with the highest logit.

    Both are (images, tasks). `x`: (images, C, H, W), normalised.
    """
    found, classes = [], []
    for task in range(len(network.heads)):
        logits = network(x, task, network.mask(task, s_max))
        log_p = torch.log_softmax(logits, 1)
        found.append(-(log_p.exp() * log_p).sum(1) / math.log(max(logits.shape[1], 2)))
        classes.append(logits.argmax(1))
    return torch.stack(found, 1), torch.stack(classes, 1)


def without_task(runs: Sequence[Run]) -> Agnostic:
    """Return how far finished runs of HAT get without the task; the network as it is after the last task.

    Raises:
        RecordError: a run without its checkpoint.
        DatasetError: the images cannot be loaded.
    """
    sets = functools.cache(load_all)
    accuracy, confusion = [], []
    for run in runs:
        sequence = make_sequence(run.config, sets(run.config.dataset))
        network = load_network(run, sequence)
        images = Images.of(sequence.datasets, torch.device("cpu"))
        for task, data in enumerate(TaskData.of(sequence, images)):
            batches = [data.test.batch(rows) for rows in torch.split(torch.arange(len(data.test)), BATCH)]
            found = [entropies(network, x, run.config.s_max) for x, _ in batches]
            y = torch.cat([labels for _, labels in batches])
            chosen = torch.cat([entropy for entropy, _ in found]).argmin(1)
            classes = torch.cat([classes for _, classes in found])
            given = classes[:, task] == y
            shares = [
                100 * float(values.double().mean()) for values in (given, given & (chosen == task), chosen == task)
            ]
            accuracy.append((run.config.seed, task + 1, *shares))
            counts = torch.bincount(chosen, minlength=len(network.heads)) / len(y)
            confusion += [(run.config.seed, task + 1, k + 1, 100 * float(share)) for k, share in enumerate(counts)]
    return Agnostic(
        pd.DataFrame(accuracy, columns=["seed", "task", "given", "guessed", "found"]),
        pd.DataFrame(confusion, columns=["seed", "task", "chosen", "share"]),
    )


def over_seeds(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over tasks of `given`, `guessed` and `found`, over seeds with 95% intervals, in one row.

    `accuracy`: as in `Agnostic`.
    """
    columns = ["given", "guessed", "found"]
    return metrics.over_seeds(accuracy.groupby("seed", as_index=False)[columns].mean(), [], columns)
