"""What a finished run has learnt, read from its checkpoint: the mask of every task, and the network.

A task's embedding is not touched by the tasks after it, so one checkpoint, made after the last task, has the masks
of all of them as they were when each was done. A run that came out of a store (`hatlab.analysis.store`) has its masks
in a file of their own, and no network.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from hatlab.data.tasks import TaskSequence, make_sequence
from hatlab.method.gate import gate
from hatlab.method.networks import HATNetwork
from hatlab.method.protection import GatedLayer, gated_layers
from hatlab.support.provenance import checksum
from hatlab.training.records import Record, RecordError
from hatlab.training.runs import Run
from hatlab.training.trainer import Factory, build_network

__all__ = ["MASKS", "as_npz", "has_network", "load_network", "task_masks"]

MASKS: Final = "masks.npz"  # in the folder of a run from a store
CHAIN: Final = "joined layers"  # in it


def task_masks(run: Run) -> tuple[list[GatedLayer], list[dict[str, np.ndarray]]]:
    """Return how the trunk's layers are joined, and the masks a = sigmoid(s_max e) of the tasks in training order.

    No images are loaded. Each mask is layer name -> (units,) float32 in [0, 1], worked out in the precision of e.

    Raises:
        RecordError: the checkpoint, and the file of masks of a run from a store, are missing or altered.
        ValueError: the run has no masks, because its method is not HAT.
    """
    if run.config.method != "hat":
        raise ValueError(f"run {run.run_id} was trained with method = '{run.config.method}', which has no masks")
    if not has_network(run) and MASKS in run.manifest["files"]:
        with np.load(_verified(run, run.folder / MASKS)) as file:
            chain = [GatedLayer(**link) for link in json.loads(str(file[CHAIN]))]
            stacked = {link.name: file[f"mask {link.name}"] for link in chain}  # (tasks, units) each
        tasks = range(len(stacked[chain[0].name]))
        return chain, [{name: rows[k] for name, rows in stacked.items()} for k in tasks]
    state = _network_state(run)
    chain = gated_layers(_layers(state))
    sizes = [link.units for link in chain]
    masks = []
    for e in state["gates"]:
        parts = torch.split(gate(e, run.config.s_max).to(torch.float32), sizes)
        masks.append({link.name: part.numpy() for link, part in zip(chain, parts, strict=True)})
    return chain, masks


def as_npz(run: Run) -> bytes:
    """Return the bytes of a compressed .npz with what `task_masks` returns: each layer's masks (tasks, units), and how
    the layers are joined, as JSON.

    Raises:
        RecordError, ValueError: as `task_masks`.
    """
    chain, masks = task_masks(run)
    arrays = {f"mask {link.name}": np.stack([mask[link.name] for mask in masks]) for link in chain}
    buffer = io.BytesIO()
    arrays[CHAIN] = np.array(json.dumps([asdict(link) for link in chain]))
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # its other arguments have no space in their names
    return buffer.getvalue()


def has_network(run: Run) -> bool:
    """Whether the run still has the network that it trained."""
    return _record(run).checkpoint.exists()


def load_network(run: Run, sequence: TaskSequence | None = None, factory: Factory | None = None) -> HATNetwork:
    """Return the network as the run left it, on the CPU and in evaluation mode.

    Args:
        run: finished, with its checkpoint.
        sequence: its tasks, if they are at hand; None: they are made, which loads the images.
        factory: of the network, if the run was given one.

    Raises:
        RecordError: the checkpoint is missing or altered.
        DatasetError: the images cannot be loaded.
    """
    state = _network_state(run)
    network = build_network(run.config, sequence if sequence is not None else make_sequence(run.config), factory)
    network.load_state_dict(state)
    return network.eval()


def _network_state(run: Run) -> dict[str, Tensor]:
    record = _record(run)
    if not record.checkpoint.exists():
        raise RecordError(
            f"run {run.run_id} has no trained network any more: {record.checkpoint} does not exist (reference results "
            "are committed without theirs). To train it again, give another results folder, or move the run's away"
        )
    _verified(run, record.checkpoint)
    saved = record.load_checkpoint()
    assert saved is not None
    network: dict[str, Tensor] = saved["network"]
    return network


def _record(run: Run) -> Record:
    return Record(run.config, run.folder.parent.parent, run.folder.name.partition("-")[2])


def _verified(run: Run, path: Path) -> Path:
    wanted = run.manifest["files"][path.name]
    if not path.exists() or checksum(path) != wanted:
        raise RecordError(
            f"{path} is missing or was altered (the manifest says {wanted}): move the run's folder away to run again"
        )
    return path


def _layers(state: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """The trunk's layers without values, as `gated_layers` reads them: all that it asks for are their shapes."""
    layers: dict[str, nn.Module] = {}
    for name, weight in state.items():
        if name.startswith("trunk.") and name.endswith(".weight"):
            layer = name.removeprefix("trunk.").removesuffix(".weight")
            units, columns, *kernel = weight.shape
            bias = f"trunk.{layer}.bias" in state
            layers[layer] = (
                nn.Conv2d(columns, units, tuple(kernel), bias=bias, device="meta")  # type: ignore[arg-type]
                if kernel
                else nn.Linear(columns, units, bias=bias, device="meta")
            )
    return layers
