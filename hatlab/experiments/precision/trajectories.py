"""Embeddings while a first task is learnt, step by step, with each precision of the gate."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import torch

from hatlab.config import RunConfig
from hatlab.data.loading import Images, TaskData
from hatlab.data.tasks import make_sequence
from hatlab.experiments.precision.tables import ARMS
from hatlab.method.loop import train_task
from hatlab.training.trainer import build_network

__all__ = ["embeddings"]

UNITS: Final = 60  # more lines than this hide each other


def embeddings(base: RunConfig, epochs: int = 3) -> pd.DataFrame:
    """Train the first task of `base` for a few epochs by the loop of `hatlab.method.loop`, each arm from one start.

    Returns:
        One row per arm, unit and step: `arm`, `unit` (the first `UNITS` of the first layer), `epoch` (the time, 0
        before the first step) and the embedding `e`.

    Raises:
        DatasetError: the images cannot be loaded.
    """
    frames = []
    for arm, fields in ARMS.items():
        config = base.replace(**fields, max_epochs=epochs)
        sequence = make_sequence(config)
        network = build_network(config, sequence)
        train = TaskData.of(sequence, Images.of(sequence.datasets, torch.device("cpu")))[0].train
        images, labels = train.batch(torch.arange(len(train)))
        shown = network.gates[0, : min(UNITS, network.gated_layers[0].units)]
        seen = [shown.tolist()]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # of dropout
            train_task(
                network, 0, images, labels, torch.zeros(network.gates.shape[1]), config,
                generator=torch.Generator().manual_seed(config.seed),
                after_step=lambda *_, shown=shown, seen=seen: seen.append(shown.tolist()),
            )  # fmt: skip
        values = np.array(seen)  # (steps + 1, units)
        time = np.linspace(0, epochs, len(values))
        units = np.tile(np.arange(values.shape[1]), len(values))
        columns = {"arm": arm, "unit": units, "epoch": np.repeat(time, values.shape[1]), "e": values.ravel()}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)
