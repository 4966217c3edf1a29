"""Runs validated side by side have the losses and accuracies that each network has by itself."""

import numpy as np
import pytest
import torch

from hatlab.config import RunConfig
from hatlab.data.loading import Images
from hatlab.data.tasks import make_sequence
from hatlab.support.progress import Progress
from hatlab.training import replicas
from hatlab.training.engine import ReplicaGroup
from hatlab.training.trainer import Trainer, evaluate

SMALL = RunConfig(widths=(33, 20), batch_size=16, n_tasks=3)


def trainers_of(configs):
    sequences = [make_sequence(config) for config in configs]
    images = Images.of(sequences[0].datasets, torch.device("cpu"))
    return [Trainer(config, sequence, images) for config, sequence in zip(configs, sequences, strict=True)]


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    rng, y = np.random.default_rng(0), np.arange(4).repeat(20)
    x = rng.integers(0, 256, (80, 6, 6, 3), dtype=np.uint8)
    x[..., 0] //= 3  # so that channels are normalised otherwise
    path = tmp_path_factory.mktemp("sets") / "colour.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[::5], y_test=y[::5])
    return f"npz:{path}"


KINDS = {
    "validation sets of several sizes and classes": {
        "class_groups": ((0, 1), (2, 3, 4, 5), (6, 7, 8)), "n_tasks": None, "validation": 0.3,
    },
    "gates in float64": {"gate_precision": "float64"},
    "permuted colour images": {"dataset": "colour", "sequence": "permuted", "n_tasks": 2},
    "no gates": {"method": "sgd", "c": 0.0},
    "more images than a batch": {"validation": "train", "batch_size": 4},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_validation_side_by_side_is_each_networks_own(monkeypatch, colour, kind):
    changes = KINDS[kind] | ({"dataset": colour} if KINDS[kind].get("dataset") else {})
    configs = SMALL.replace(max_epochs=1, **changes).grid(seed=range(4), s_max=[400.0, 20.0])
    original, seen = replicas.ReplicaState.validate, []

    def watch(self, trainers):
        found = original(self, trainers)
        for trainer, (loss, accuracy) in zip(trainers, found, strict=True):
            own = evaluate(trainer.network, trainer.task, trainer.split.valid, trainer.config.s_max)
            assert loss == pytest.approx(own[0], rel=1e-5) and accuracy == own[1]
            seen.append(len(trainer.split.valid))
        return found

    monkeypatch.setattr(replicas.ReplicaState, "validate", watch)
    group = ReplicaGroup(trainers_of(configs))
    count = sum(len(trainer.data) for trainer in group.trainers)
    group.train(lambda trainer: None, Progress())
    assert len(seen) == count  # an epoch a task
    if kind.startswith("validation"):
        assert len(set(seen)) > 1
