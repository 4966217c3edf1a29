"""The state of several runs side by side: what their steps read and change, laid out along a replica axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatlab.method.gate import gate, s_schedule
from hatlab.method.networks import HATNetwork
from hatlab.method.regularizer import affine
from hatlab.training.dropout_rng import DropoutRNG
from hatlab.training.graph import StepGraph
from hatlab.training.step import Batch, Hyper, State, TaskContext, aligned, forward, step
from hatlab.training.trainer import Trainer

__all__ = ["AfterStep", "ReplicaState"]

# trainer, position of the step in its epoch, (2,) cross-entropy and R before it
AfterStep = Callable[[Trainer, int, Tensor], None]

VALIDATION_BATCHES: Final = 4  # training batches in one of validation: without gradients they take no more memory
WHOLE_VECTORS: Final = 64  # numbers; a multiple of what any CPU works on at once


def _in_order(trainers: Sequence[Trainer]) -> list[Trainer]:
    return sorted(trainers, key=lambda trainer: trainer.steps_per_epoch, reverse=True)


class ReplicaState:
    """Weights and hyper-parameters of several runs, with a leading replica axis, for the steps of their current tasks.

    The trunk's weights are shared with the runs' networks. The head and the embedding of a task are copied in before
    an epoch and back after it.

    Args:
        trainers: the runs.
        captured: on a CUDA device, record a step once and replay it as a whole.

    Attributes:
        trainers: those with most steps first: who still trains is then always the first part of each tensor.
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
        shapes = {name: factor.shape for trainer in trainers for name, factor in trainer.gradient_mask.items()}
        # a factor of one column is that of all columns
        gradient_mask = {
            n: self._empty(*(shape if shape[-1] == 1 else aligned(shape))).fill_(1) for n, shape in shapes.items()
        }
        held = {name: anchor.shape for trainer in trainers for name, (anchor, _) in trainer.anchors.items()}
        anchors = ({name: self._empty(*aligned(shape)) for name, shape in held.items()} for _ in range(2))
        self.context = TaskContext(self._empty(units), self._empty(), self._empty(units), gradient_mask, *anchors)
        self.dropout_rng = DropoutRNG(
            [(self.size, *shape) for shape in self.network.dropout_shapes], self.network.dropout, self.device
        )
        self.position = torch.zeros(len(trainers), dtype=torch.int64, device=self.device)
        split = first.split.train
        self.images = split.images
        self.scale, self.shift = (self._empty(1, *split.scale.shape) for _ in range(2))
        self.pixels = None if split.pixels is None else self._empty(1, len(split.pixels), dtype=torch.int64)
        self._tasks = [-1] * len(trainers)
        self._graph: StepGraph | None = None

    def serves(self, trainers: Sequence[Trainer]) -> bool:
        """Whether these, which are all or some of its runs, can go on with it.

        A step that was captured is captured anew only when half of its runs have left: until then they idle.
        """
        if bool(self.context.gradient_mask) != any(trainer.gradient_mask for trainer in trainers):
            return False
        if bool(self.context.anchor) != any(trainer.anchors for trainer in trainers):
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
            self.position[row] = self.dropout_rng.position(trainer.dropout_rng, trainer.steps)
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
            self.context.coefficient[row, : self.units], self.context.offset[row] = coefficient, offset
            self.context.regularizer_gradient[row, : self.units], _ = affine(
                trainer.cumulative, config.mode, config.c, config.min_units
            )
            for name, factor in trainer.gradient_mask.items():
                self.context.gradient_mask[name][row, ..., : factor.shape[-1]] = factor
            for name, pair in trainer.anchors.items():
                for part, value in zip((self.context.anchor[name], self.context.stiffness[name]), pair, strict=True):
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

    def _copy_back(self, trainers: Sequence[Trainer]) -> None:
        for row, trainer in self._rows(trainers):
            for held, own in self._own(row, trainer):
                own.copy_(held)

    def _plan(self, trainers: Sequence[Trainer]) -> dict[str, Tensor]:
        """Which images each run takes at each step, (R, steps, batch): where, label and weight; slopes (R, steps)."""
        runs, steps = len(self.trainers), max(trainer.steps_per_epoch for trainer in trainers)
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
            s[row, : trainer.steps_per_epoch] = s_schedule(config.schedule, config.s_max, n, self.size)
        shape = (runs, steps, self.size)
        return {
            "rows": rows.reshape(shape),
            "labels": labels.reshape(shape),
            "weight": torch.from_numpy(weight).to(self.device).reshape(shape),
            "s": torch.from_numpy(s).to(self.device),
        }

    def batch(self, rows: Tensor, labels: Tensor, weight: Tensor, s: Tensor) -> Batch:
        """Return what a step of the first runs is given, and move their dropout on.

        `rows`, `labels`, `weight`: (runs, n); `s`: (runs,).
        """
        active, n = rows.shape
        x = self._normalised(rows)
        position = self.position[:active]
        # drawn for a whole batch, whoever trains beside: a smaller batch uses the first images' part
        dropout_masks = [factors if factors is None else factors[:, :n] for factors in self.dropout_rng.draw(position)]
        position += self.dropout_rng.stride
        return Batch(x, labels, weight, dropout_masks, s[:, None])

    def _normalised(self, rows: Tensor) -> Tensor:
        """Return the images of the first runs at `rows`, (runs, n), as their networks see them."""
        active, n = rows.shape
        x = self.images[rows].to(torch.float32).mul_(self.scale[:active]).sub_(self.shift[:active])
        if self.pixels is None:
            return x
        return x.flatten(2).gather(2, self.pixels[:active].expand(-1, n, -1)).reshape(x.shape)

    def epoch(
        self, trainers: Sequence[Trainer], check: Callable[[], None], after_step: AfterStep | None = None
    ) -> list[np.ndarray]:
        """Train an epoch of each run's current task; return each run's losses, (steps, 2).

        Args:
            trainers: all or some of the runs.
            check: called before every step, to raise where training is to end.
            after_step: called after every step of each run.
        """
        self._load(trainers)
        plan = self._plan(trainers)
        runs, steps, _ = plan["rows"].shape
        losses = torch.zeros(runs, steps, 2, device=self.device)
        if self.captured and self._graph is None:
            self._graph = self._record(plan)
        lengths = [trainer.steps_per_epoch for trainer in self.trainers if trainer in trainers]
        for k in range(steps):
            check()
            now = {name: values[:, k] for name, values in plan.items()}
            if self._graph is not None:
                losses[:, k] = self._graph.replay(now)
            else:
                # the last, smaller batch is as wide: a sum's rounding depends on how many numbers are added, and so a
                # run's bits would depend on who trains beside it
                active = sum(length > k for length in lengths)
                batch = self.batch(**{name: values[:active] for name, values in now.items()})
                losses[:active, k] = step(self.network, *self._first(active), batch)
            if after_step is not None:
                self._copy_back(trainers)
                for row, trainer in self._rows(trainers):
                    if k < trainer.steps_per_epoch:
                        after_step(trainer, k, losses[row, k])
        self._copy_back(trainers)
        for trainer in trainers:
            trainer.steps += trainer.steps_per_epoch
        table = losses.double().cpu().numpy()  # the only wait for the device
        rows = [self.trainers.index(trainer) for trainer in trainers]
        return [table[row][: trainer.steps_per_epoch] for row, trainer in zip(rows, trainers, strict=True)]

    @torch.no_grad()
    def validate(self, trainers: Sequence[Trainer]) -> list[tuple[float, float]]:
        """Return each run's mean cross-entropy and accuracy in [0, 1] on its validation images, the mask at s_max.

        All runs go side by side, in batches of one size whoever validates beside: so a run has the bits it has alone.
        """
        splits = {row: trainer.split.valid for row, trainer in self._rows(trainers)}
        size = VALIDATION_BATCHES * self.size
        batches = -(-max(map(len, splits.values())) // size)
        rows = torch.zeros(len(self.trainers), batches * size, dtype=torch.int64, device=self.device)
        labels, counts = torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.float32)
        for row, split in splits.items():
            rows[row, : len(split)], labels[row, : len(split)], counts[row, : len(split)] = split.index, split.labels, 1
        mask = gate(self.state.e, self.hyper.s_max[:, None]) if self.network.gated else torch.ones_like(self.state.e)
        sums = self._empty(2, dtype=torch.float64)
        mask, no_dropout = mask.float(), [None] * len(self.network.dropout)
        for index, y, count in zip(*(torch.split(values, size, 1) for values in (rows, labels, counts)), strict=True):
            logits = forward(self.network, self.state.parameters, self._normalised(index), mask, no_dropout)
            of_each = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").reshape(y.shape)
            right = (logits.argmax(2) == y).to(count.dtype)
            sums += torch.stack(((of_each * count).sum(1), (right * count).sum(1)), 1)
        means = {row: (sums[row] / len(split)).tolist() for row, split in splits.items()}
        return [tuple(means[self.trainers.index(trainer)]) for trainer in trainers]

    def _record(self, plan: Mapping[str, Tensor]) -> StepGraph:
        """Record a step of all runs. Recording takes steps whose images count nothing, which change no weight."""
        before = self.position.clone()

        def take(inputs: Mapping[str, Tensor]) -> Tensor:
            return step(self.network, self.state, self.hyper, self.context, self.batch(**inputs))

        graph = StepGraph(take, {name: values[:, 0] for name, values in plan.items()}, self.device)
        self.position.copy_(before)
        return graph

    def _first(self, active: int) -> tuple[State, Hyper, TaskContext]:
        parts = (self.state, self.hyper, self.context)
        return parts if active == len(self.trainers) else tuple(_first(active, part) for part in parts)


def _first(active: int, part: Any) -> Any:
    """Return a named tuple with its tensors cut to the first `active` runs."""

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[:active]
        return {name: tensor[:active] for name, tensor in value.items()} if isinstance(value, Mapping) else value

    return type(part)(*map(cut, part))
