"""What a caller brings to a run: a network from a factory, images in memory, callbacks.

Such a run is named by a label and a checksum of what determines it, so it is recorded, loaded and resumed like others.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Final

from torch import Tensor

from hatlab.config import ConfigError, RunConfig
from hatlab.data.datasets import Dataset, in_memory
from hatlab.method.networks import HATNetwork
from hatlab.training.replicas import AfterStep
from hatlab.training.trainer import Factory, Trainer

__all__ = ["Callback", "Callbacks", "checksum", "customised"]

PLAIN: Final = (bool, int, float, complex, str, bytes, type(None))
# Modules whose functions are named and not read: their versions are in every manifest.
NAMED: Final = {*sys.stdlib_module_names, "builtins", "hatlab", "numpy", "torch", "torchvision"} - {"__main__"}
LABEL: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,39}", re.ASCII)


class Callback:
    """Called while runs are trained, in one thread at a time. A subclass overrides what it needs.

    It may read the network, and must leave its values as they are. An exception that it raises ends the sweep, and a
    later call goes on from the checkpoints.
    """

    def after_step(self, config: RunConfig, network: HATNetwork, task: int, step: int, losses: Tensor) -> None:
        """Called after each step: its number within the run, from 0, and (2,) the cross-entropy and R before it."""

    def after_epoch(self, config: RunConfig, network: HATNetwork, task: int, epoch: int) -> None:
        """Called after an epoch was validated; after a task's last, the network is that of its best epoch."""

    def after_task(self, config: RunConfig, network: HATNetwork, task: int) -> None:
        """Called after the last epoch of a task."""


class Callbacks:
    """The callbacks of a sweep, called one after the other, whichever thread trains."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise ConfigError(f"callbacks: {callback!r} is no instance of hatlab.Callback")
        self._all, self._lock = list(callbacks), threading.Lock()

    @property
    def after_step(self) -> AfterStep | None:
        """What the engine calls after each step; None if no callback overrides it, so that nothing waits for it."""
        return self._after_step if any(type(c).after_step is not Callback.after_step for c in self._all) else None

    def _after_step(self, trainer: Trainer, position: int, losses: Tensor) -> None:
        with self._lock:
            for callback in self._all:
                callback.after_step(trainer.config, trainer.network, trainer.task, trainer.steps + position, losses)

    def after_epoch(self, trainer: Trainer) -> None:
        """Tell of the epoch that was recorded last, and of its task if that is done."""
        if not self._all:
            return
        task, epoch = trainer.rows["epochs"][-1][:2]
        with self._lock:
            for callback in self._all:
                callback.after_epoch(trainer.config, trainer.network, task, epoch)
                if trainer.task > task:
                    callback.after_task(trainer.config, trainer.network, task)


def customised(
    configs: Sequence[RunConfig], network: Factory | None, images: Mapping[str, Any] | None, label: str | None
) -> tuple[list[RunConfig], dict[str, tuple[Dataset, ...]]]:
    """Return the configs under the names of what the caller brings, and its images under theirs.

    Raises:
        ConfigError: no label, or one that cannot be part of a name; a factory that cannot be named, with the reason.
        DatasetError: arrays that are no images.
    """
    if network is None and images is None:
        if label is not None:
            raise ConfigError(f"label = {label!r} names a network or images, and neither is given")
        return list(configs), {}
    if not isinstance(label, str) or not LABEL.fullmatch(label):
        raise ConfigError(
            f"label = {label!r}: runs with a network or images of one's own need one, of 1 to 40 letters, digits, "
            "'_', '.' and '-'"
        )
    names: dict[str, str] = {}
    sets: dict[str, tuple[Dataset, ...]] = {}
    if network is not None:
        names["network"] = f"custom:{label}-{checksum(network)}"
    if images is not None:
        data = in_memory(label, images)
        names["dataset"], sets[data.name] = data.name, (data,)
    return [config.replace(**names) for config in configs], sets


def checksum(factory: Factory) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of a factory's source, defaults, and of what of its own it reads.

    Raises:
        ConfigError: something that it reads cannot be named; says what, and what can.
    """
    found = "\n".join(_determine(factory, "network", set()))
    return hashlib.sha256(found.encode()).hexdigest()[:12]


def _determine(value: Any, where: str, seen: set[int]) -> Iterator[str]:
    """Yield the texts that determine `value`."""
    if isinstance(value, PLAIN):
        yield repr(value)
    elif isinstance(value, tuple):
        for item in value:
            yield from _determine(item, where, seen)
    elif isinstance(value, ModuleType):
        yield value.__name__
    elif isinstance(value, functools.partial):
        for part in (value.func, value.args, tuple(sorted(value.keywords.items()))):
            yield from _determine(part, where, seen)
    elif isinstance(value, FunctionType | BuiltinFunctionType | type):
        if str(value.__module__).partition(".")[0] in NAMED:
            yield f"{value.__module__}.{value.__qualname__}"
        elif id(value) not in seen:
            seen.add(id(value))
            yield from _from_source(value, where, seen)
    else:
        raise ConfigError(
            f"{where} is {value!r:.80}, of type {type(value).__name__}, whose content cannot be named: allowed are "
            "functions and classes whose source can be read, modules, numbers, text, and tuples of these"
        )


def _from_source(value: Any, where: str, seen: set[int]) -> Iterator[str]:
    if value.__name__ == "<lambda>":
        raise ConfigError(f"{where} is a lambda, whose source cannot be told from that of its line: define a function")
    try:
        yield inspect.getsource(value)
    except (OSError, TypeError):
        raise ConfigError(
            f"{where}: the source of {value.__name__} cannot be read; define it in a file or in a notebook's cell"
        ) from None
    if isinstance(value, type):
        inside = {**vars(value), **{base.__name__: base for base in value.__bases__}}
        reads = {name: item for name, item in inside.items() if isinstance(item, FunctionType | type)}
    else:
        cells = dict(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
        reads = {name: cell.cell_contents for name, cell in cells.items()}
        reads |= {name: value.__globals__[name] for name in sorted(_names(value.__code__)) if name in value.__globals__}
        reads |= {"its defaults": value.__defaults__} | (value.__kwdefaults__ or {})
    for name, item in reads.items():
        yield name
        yield from _determine(item, f"{where}: {value.__name__} reads {name}, which", seen)


def _names(code: CodeType) -> set[str]:
    """Return the names that a function's code, and what is defined in it, looks up outside."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)
