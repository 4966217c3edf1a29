"""hatlab: the capacity-usage curves of HAT (Hard Attention to the Task, Serra et al., ICML 2018), reproducible.

`RunConfig` describes a run, `run` and `sweep` train it or load it, `collect` puts the tables of several side by
side, `batch` runs a notebook with many parameters. The parts of the method can be used alone: `HATMLP`, `HATCNN`,
`HATMaskSparsityReg`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hatlab._version import __version__ as __version__

if TYPE_CHECKING:
    from hatlab.batches.batches import batch
    from hatlab.config import ConfigError, RunConfig
    from hatlab.method.networks import HATCNN, HATMLP
    from hatlab.method.regularizer import HATMaskSparsityReg
    from hatlab.training.runs import Run, Tables, collect, run, sweep

_HOME = {
    "batch": "batches.batches",
    "ConfigError": "config",
    "RunConfig": "config",
    "HATCNN": "method.networks",
    "HATMLP": "method.networks",
    "HATMaskSparsityReg": "method.regularizer",
    "Run": "training.runs",
    "Tables": "training.runs",
    "collect": "training.runs",
    "run": "training.runs",
    "sweep": "training.runs",
}

__all__ = [
    "HATCNN",
    "HATMLP",
    "ConfigError",
    "HATMaskSparsityReg",
    "Run",
    "RunConfig",
    "Tables",
    "batch",
    "collect",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Import on first use: `hatlab --help` need not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'hatlab' has no attribute '{name}'")
    return getattr(import_module(f"hatlab.{_HOME[name]}"), name)
