"""hatlab: the capacity-usage curves of HAT (Hard Attention to the Task, Serra et al., ICML 2018), reproducible.

`RunConfig` describes a run, `run` and `sweep` train it or load it, `collect` puts the tables of several side by
side, `batch` runs a notebook with many parameters. The parts of the method can be used alone: `HATMLP`, `HATCNN` and
`HATNetwork`, `gate`, `HATMaskSparsityReg`, `protect_gradients_` and what follows it; `train_task` is the loop made of
them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hatlab._version import __version__ as __version__

if TYPE_CHECKING:
    from hatlab.batches.batches import batch
    from hatlab.config import ConfigError, RunConfig
    from hatlab.data.datasets import load
    from hatlab.data.tasks import make_sequence
    from hatlab.method.gate import gate, s_schedule
    from hatlab.method.loop import train_task
    from hatlab.method.networks import HATCNN, HATMLP, HATNetwork
    from hatlab.method.protection import FrozenWeightMoved, update_cumulative_mask
    from hatlab.method.regularizer import HATMaskSparsityReg
    from hatlab.method.updates import (
        clamp_embeddings_,
        compensate_,
        protect_gradients_,
        protected_values,
        verify_protected,
    )
    from hatlab.training.custom import Callback
    from hatlab.training.runs import Run, Tables, collect, run, sweep

_NAMES = {
    "batches.batches": ("batch",),
    "config": ("ConfigError", "RunConfig"),
    "data.datasets": ("load",),
    "data.tasks": ("make_sequence",),
    "method.gate": ("gate", "s_schedule"),
    "method.loop": ("train_task",),
    "method.networks": ("HATCNN", "HATMLP", "HATNetwork"),
    "method.protection": ("FrozenWeightMoved", "update_cumulative_mask"),
    "method.regularizer": ("HATMaskSparsityReg",),
    "method.updates": (
        "clamp_embeddings_",
        "compensate_",
        "protect_gradients_",
        "protected_values",
        "verify_protected",
    ),
    "training.custom": ("Callback",),
    "training.runs": ("Run", "Tables", "collect", "run", "sweep"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "HATCNN",
    "HATMLP",
    "Callback",
    "ConfigError",
    "FrozenWeightMoved",
    "HATMaskSparsityReg",
    "HATNetwork",
    "Run",
    "RunConfig",
    "Tables",
    "batch",
    "clamp_embeddings_",
    "collect",
    "compensate_",
    "gate",
    "load",
    "make_sequence",
    "protect_gradients_",
    "protected_values",
    "run",
    "s_schedule",
    "sweep",
    "train_task",
    "update_cumulative_mask",
    "verify_protected",
]


def __getattr__(name: str) -> Any:
    """Import on first use: `hatlab --help` need not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'hatlab' has no attribute '{name}'")
    return getattr(import_module(f"hatlab.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
