"""The engine: epochs of several runs side by side, one step for all of them at a time.

The runs of a group keep their own books (`Trainer`). For each epoch the engine lays their weights, embeddings and
hyper-parameters beside each other, lists which images each run takes at each step, and takes the steps. A run that
has fewer steps than others drops out of the last ones; one that finishes a task goes on with its next at once; one
that has finished all leaves the group. No step waits for the device; between epochs each run is validated by itself.
"""

from __future__ import annotations

import functools
import gc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from hatlab.method.gate import slopes
from hatlab.method.networks import HATNetwork
from hatlab.method.regularizer import affine
from hatlab.support.progress import Progress
from hatlab.training.baselines.joint import joint_epoch
from hatlab.training.noise import Noise
from hatlab.training.step import Batch, Hyper, Past, State, aligned, step
from hatlab.training.trainer import Trainer, TrainingDiverged

__all__ = ["SHARED", "Group"]

WHOLE_VECTORS: Final = 64  # numbers; a multiple of what any CPU works on at once

# What runs must have in common to share a step.
SHARED = (
    "dataset", "sequence", "classes_per_task", "class_groups", "n_tasks", "validation", "network", "widths", "dropout",
    "batch_size", "method", "compensation", "gate_precision", "embedding_clamp", "cosh_clamp",
)  # fmt: skip


class Group:
    """Trains runs side by side; one alone is a group of one.

    Args:
        trainers: runs that agree in all of `SHARED`, over the same images.
        capture: on a CUDA device, record a step once and replay it as a whole.
        check: called before every step, to raise where training is to end.

    Attributes:
        trainers: those that are not finished.
        diverged: those whose loss was no finite number, and why; they have left the group.
    """

    def __init__(
        self, trainers: Iterable[Trainer], capture: bool = True, check: Callable[[], None] = lambda: None
    ) -> None:
        self.trainers = [trainer for trainer in trainers if not trainer.finished]
        self.captured = capture and any(trainer.device.type == "cuda" for trainer in self.trainers)
        self.check = check
        self.diverged: list[tuple[Trainer, TrainingDiverged]] = []
        self._stack: _Stack | None = None

    def train(self, after_epoch: Callable[[Trainer], None], progress: Progress) -> None:
        """Train until all runs are finished or have diverged; `after_epoch` is called after each epoch of each run.

        Raises:
            FrozenWeightMoved: a protected weight changed, which would be a defect of this program.
        """
        while self.trainers:
            for trainer, losses in zip(list(self.trainers), self.train_epoch(), strict=True):
                self._end_epoch(trainer, losses, after_epoch, progress)
        self._stack = None

    def _end_epoch(
        self, trainer: Trainer, losses: np.ndarray, after_epoch: Callable[[Trainer], None], progress: Progress
    ) -> None:
        try:
            trainer.end_epoch(losses, progress)
        except TrainingDiverged as error:
            self.diverged.append((trainer, error.with_traceback(None)))  # it would hold on to the group
        else:
            after_epoch(trainer)
            if not trainer.finished:
                return
        self.trainers.remove(trainer)
        for p in trainer.network.parameters():
            p.data = p.data.clone()  # its weights were a part of the group's, which is not to stay for it

    def train_epoch(self) -> list[np.ndarray]:
        """Train one epoch of each run's current task, without validation; return each run's losses, (steps, 2)."""
        for trainer in self.trainers:
            trainer.begin_epoch()
        if self.trainers[0].config.method == "joint":
            return [joint_epoch(trainer, self.check) for trainer in self.trainers]
        if self._stack is None or not self._stack.serves(self.trainers):
            self._stack = None  # its memory is needed
            self._stack = _Stack(self.trainers, self.captured)
        stack = self._stack
        table = stack.epoch(self.trainers, self.check).double().cpu().numpy()  # the only wait for the device
        return [table[stack.trainers.index(trainer)][: _steps(trainer)] for trainer in self.trainers]


def _steps(trainer: Trainer) -> int:
    return -(-len(trainer.split.train) // trainer.config.batch_size)


def _in_order(trainers: Sequence[Trainer]) -> list[Trainer]:
    """Those with most steps first: who still trains is then always the first part of each tensor."""
    return sorted(trainers, key=_steps, reverse=True)


class _Stack:
    """Weights and hyper-parameters of several runs, with a leading replica axis.

    The trunk's weights are shared with the runs' networks; what belongs to one task only is copied in and out.
    """

    def __init__(self, trainers: Sequence[Trainer], captured: bool) -> None:
        self.trainers, self.captured = _in_order(trainers), captured
        first = trainers[0]
        self.network: HATNetwork = first.network
        self.device, self.size = first.device, first.config.batch_size
        self.units, inputs = self.network.gates.shape[1], list(self.network.units.values())[-1]
        # a CPU's sigmoid rounds otherwise at the end of a tensor that fills no whole vector: a run's bits would depend
        # on its place in the group
        units = math.ceil(self.units / WHOLE_VECTORS) * WHOLE_VECTORS
        classes = max(len(task.classes) for trainer in trainers for task in trainer.sequence.tasks)
        trunk = self._trunk()
        linear = [f"trunk.{name}.weight" for name, layer in self.network.trunk.items() if isinstance(layer, nn.Linear)]
        self.state = State(
            {**trunk, "head.weight": self._empty(*aligned((classes, inputs))), "head.bias": self._empty(classes)},
            self._empty(units, dtype=self.network.gates.dtype),
            {name: torch.empty_like(trunk[name]) for name in linear if self.device.type == "cpu"},
        )
        config = first.config
        s_max = self._empty(dtype=torch.float64)
        same = (config.embedding_clamp, config.cosh_clamp, config.compensation)
        self.hyper = Hyper(self._empty(), s_max, self._empty(), *same)
        shapes = {name: factor.shape for trainer in trainers for name, factor in trainer.movable.items()}
        # a factor of one column is that of all columns
        movable = {
            n: self._empty(*(shape if shape[-1] == 1 else aligned(shape))).fill_(1) for n, shape in shapes.items()
        }
        held = {name: anchor.shape for trainer in trainers for name, (anchor, _) in trainer.anchors.items()}
        anchors = ({name: self._empty(*aligned(shape)) for name, shape in held.items()} for _ in range(2))
        self.past = Past(self._empty(units), self._empty(), self._empty(units), movable, *anchors)
        self.noise = Noise(
            [(self.size, *shape) for shape in self.network.dropout_shapes], self.network.dropout, self.device
        )
        self.position = torch.zeros(len(trainers), dtype=torch.int64, device=self.device)
        split = first.split.train
        self.images = split.images
        self.scale, self.shift = (self._empty(1, *split.scale.shape) for _ in range(2))
        self.pixels = None if split.pixels is None else self._empty(1, len(split.pixels), dtype=torch.int64)
        self._tasks = [-1] * len(trainers)
        self._graph: _Graph | None = None

    def serves(self, trainers: Sequence[Trainer]) -> bool:
        """Whether these, which are all or some of its runs, can go on with it.

        A step that was captured is captured anew only when half of its runs have left: until then they idle.
        """
        if bool(self.past.movable) != any(trainer.movable for trainer in trainers):
            return False
        if bool(self.past.anchor) != any(trainer.anchors for trainer in trainers):
            return False
        if self.captured:
            return 2 * len(trainers) > len(self.trainers)
        return self.trainers == _in_order(trainers)

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(len(self.trainers), *shape, dtype=dtype, device=self.device)

    def _trunk(self) -> dict[str, Tensor]:
        """Lay the runs' trunks side by side, one parameter after the other, and let each run's be a part of it."""
        networks = [dict(trainer.network.named_parameters()) for trainer in self.trainers]
        stacked = {}
        for name in networks[0]:
            if name.startswith("trunk."):
                mine = [network[name] for network in networks]
                shape = aligned(mine[0].shape)
                if len(mine) == 1 and shape == mine[0].shape:
                    stacked[name] = mine[0].detach()[None]
                    continue
                stacked[name] = self._empty(*shape)
                for p, row in zip(mine, stacked[name], strict=True):
                    p.data = row[..., : p.shape[-1]].copy_(p.detach())
        return stacked

    def _rows(self, trainers: Sequence[Trainer]) -> list[tuple[int, Trainer]]:
        return [(row, trainer) for row, trainer in enumerate(self.trainers) if trainer in trainers]

    def _load(self, trainers: Sequence[Trainer]) -> None:
        """Copy in what the runs' current tasks have of their own."""
        for row, trainer in self._rows(trainers):
            config, within = trainer.config, trainer.within
            assert within is not None
            self.hyper.learning_rate[row] = within["learning_rate"]
            self.position[row] = self.noise.position(trainer.noise, trainer.steps)
            if self._tasks[row] == trainer.task:
                continue
            self._tasks[row] = trainer.task
            for name in ("s_max", "grad_clip"):
                getattr(self.hyper, name)[row] = getattr(config, name)
            classes = len(trainer.sequence.tasks[trainer.task].classes)
            # a class that the task has not got has a logit of minus infinity, and never a gradient
            self.state.parameters["head.bias"][row, classes:] = -torch.inf
            for held, own in self._own(row, trainer):
                held.copy_(own)
            coefficient, offset = affine(trainer.cumulative, config.mode, min_units=config.min_units)
            self.past.coefficient[row, : self.units], self.past.offset[row] = coefficient, offset
            self.past.pull[row, : self.units], _ = affine(trainer.cumulative, config.mode, config.c, config.min_units)
            for name, factor in trainer.movable.items():
                self.past.movable[name][row, ..., : factor.shape[-1]] = factor
            for name, pair in trainer.anchors.items():
                for part, value in zip((self.past.anchor[name], self.past.stiffness[name]), pair, strict=True):
                    part[row, ..., : value.shape[-1]] = value
            split = trainer.split.train
            self.scale[row, 0], self.shift[row, 0] = split.scale, split.shift
            if self.pixels is not None and split.pixels is not None:
                self.pixels[row, 0] = split.pixels

    def _own(self, row: int, trainer: Trainer) -> list[tuple[Tensor, Tensor]]:
        """What only the current task of one run trains: here, and in its network."""
        here, there, head = self.state.parameters, trainer.trained(), f"heads.{trainer.task}"
        classes, inputs = there[f"{head}.weight"].shape
        return [
            (here["head.weight"][row, :classes, :inputs], there[f"{head}.weight"]),
            (here["head.bias"][row, :classes], there[f"{head}.bias"]),
            (self.state.e[row, : self.units], there["gates"]),
        ]

    def _store(self, trainers: Sequence[Trainer]) -> None:
        """Copy that back, and count the steps."""
        for row, trainer in self._rows(trainers):
            for held, own in self._own(row, trainer):
                own.copy_(held)
            trainer.steps += _steps(trainer)

    def _plan(self, trainers: Sequence[Trainer]) -> dict[str, Tensor]:
        """Which images each run takes at each step, (R, steps, batch): where, label and weight; slopes (R, steps)."""
        runs, steps = len(self.trainers), max(map(_steps, trainers))
        rows = torch.zeros(runs, steps * self.size, dtype=torch.int64, device=self.device)
        labels = torch.zeros_like(rows)
        weight = np.zeros((runs, steps * self.size), np.float32)
        s = np.ones((runs, steps))
        for row, trainer in self._rows(trainers):
            split, config = trainer.split.train, trainer.config
            n = len(split)
            order = torch.randperm(n, generator=trainer.order).to(self.device)
            rows[row, :n], labels[row, :n] = split.index[order], split.labels[order]
            offset = np.arange(n)
            weight[row, :n] = 1 / np.minimum(n - offset // self.size * self.size, self.size)
            s[row, : _steps(trainer)] = slopes(config.schedule, config.s_max, n, self.size)
        shape = (runs, steps, self.size)
        return {
            "rows": rows.reshape(shape),
            "labels": labels.reshape(shape),
            "weight": torch.from_numpy(weight).to(self.device).reshape(shape),
            "s": torch.from_numpy(s).to(self.device),
        }

    def _step(self, active: int, rows: Tensor, labels: Tensor, weight: Tensor, s: Tensor) -> Tensor:
        """One step of the first `active` runs on rows (active, n); returns (active, 2)."""
        n = rows.shape[1]
        x = self.images[rows]
        if self.pixels is not None:
            x = x.flatten(2).gather(2, self.pixels[:active].expand(-1, n, -1)).reshape(x.shape)
        x = x.to(torch.float32).mul_(self.scale[:active]).sub_(self.shift[:active])
        position = self.position[:active]
        # drawn for a whole batch, whoever trains beside: a smaller batch uses the first images' part
        keep = [factors if factors is None else factors[:, :n] for factors in self.noise.draw(position)]
        position += self.noise.stride
        state, hyper, past = self.state, self.hyper, self.past
        if active < len(self.trainers):
            state, hyper, past = (_first(active, part) for part in (state, hyper, past))
        return step(self.network, state, Batch(x, labels, weight, keep, s[:, None]), hyper, past)

    def epoch(self, trainers: Sequence[Trainer], check: Callable[[], None]) -> Tensor:
        """Take all steps of an epoch of `trainers`; returns (R, steps, 2), of which a run's first steps count."""
        self._load(trainers)
        plan = self._plan(trainers)
        runs, steps, _ = plan["rows"].shape
        losses = torch.zeros(runs, steps, 2, device=self.device)
        if self.captured:
            if self._graph is None:
                self._graph = _Graph(self, plan)
            for k in range(steps):
                check()
                losses[:, k] = self._graph.replay({name: values[:, k] for name, values in plan.items()})
        else:
            lengths = [len(trainer.split.train) for trainer in trainers]
            for k in range(steps):
                check()
                left = [n - k * self.size for n in lengths if n > k * self.size]
                active = len(left)
                # as wide for the last, smaller batch: a sum's rounding depends on how many numbers are added, and so a
                # run's bits would depend on who trains beside it
                rows, labels, weight = (plan[name][:active, k] for name in ("rows", "labels", "weight"))
                losses[:active, k] = self._step(active, rows, labels, weight, plan["s"][:active, k])
        self._store(trainers)
        return losses


def _first(active: int, part: Any) -> Any:
    """Return a named tuple with its tensors cut to the first `active` runs."""

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[:active]
        return {name: tensor[:active] for name, tensor in value.items()} if isinstance(value, Mapping) else value

    return type(part)(*map(cut, part))


@functools.cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """The same for all captures: cuBLAS keeps a workspace, 32 MB on some GPUs, for every stream that it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class _Graph:
    """A step of all runs of a stack, recorded once as a CUDA graph."""

    def __init__(self, stack: _Stack, plan: Mapping[str, Tensor]) -> None:
        self.inputs = {name: torch.zeros_like(values[:, 0]) for name, values in plan.items()}
        self.inputs["s"].fill_(1)
        before = stack.position.clone()
        # images that all count nothing change no weight, so the warm-up that libraries ask for does no harm
        self.device = stack.device
        with torch.cuda.device(self.device):
            aside = _capture_stream(torch.cuda.current_device())
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):
                    self._step(stack)
            torch.cuda.current_stream().wait_stream(aside)
            gc.collect()  # an older graph must not be given up in the midst of this one
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=aside):
                self.losses = self._step(stack)
            stack.position.copy_(before)

    def _step(self, stack: _Stack) -> Tensor:
        i = self.inputs
        return stack._step(len(stack.trainers), i["rows"], i["labels"], i["weight"], i["s"])

    def replay(self, values: Mapping[str, Tensor]) -> Tensor:
        """Take a step with these inputs; the result is overwritten by the next."""
        for name, value in values.items():
            self.inputs[name].copy_(value)
        with torch.cuda.device(self.device):
            self.graph.replay()
        return self.losses
