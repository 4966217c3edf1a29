"""The state of several runs side by side: what their steps read and change, laid out along a replica axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatlab.method.gate import s_schedule
from hatlab.method.networks import HATNetwork
from hatlab.method.regularizer import affine
from hatlab.training.dropout_rng import DropoutRNG
from hatlab.training.graph import StepGraph
from hatlab.training.layout import WHOLE_VECTORS, Layout
from hatlab.training.open_units import LOOK_EVERY, leave_out_closed, skips_closed_units
from hatlab.training.parts import Part
from hatlab.training.step import Hyper, State, TaskContext, aligned, step
from hatlab.training.trainer import Trainer

__all__ = ["AfterStep", "ReplicaState"]

# trainer, position of the step in its epoch, (2,) cross-entropy and R before it
AfterStep = Callable[[Trainer, int, Tensor], None]

VALIDATION_BATCHES: Final = 4  # training batches in one of validation: without gradients they take no more memory


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
        self.device, self.dtype = first.device, self.network.get_parameter("heads.0.weight").dtype
        self.size = first.config.batch_size
        self.units, inputs = self.network.gates.shape[1], list(self.network.units.values())[-1]
        # a CPU's sigmoid rounds otherwise at the end of a tensor that fills no whole vector: a run's bits would depend
        # on its place in the group
        units = math.ceil(self.units / WHOLE_VECTORS) * WHOLE_VECTORS
        classes = max(len(task.classes) for trainer in trainers for task in trainer.sequence.tasks)
        trunk = self._trunk()
        linear = [f"trunk.{name}.weight" for name, layer in self.network.trunk.items() if isinstance(layer, nn.Linear)]
        state = State(
            {**trunk, "head.weight": self._empty(*aligned((classes, inputs))), "head.bias": self._empty(classes)},
            self._empty(units, dtype=self.network.gates.dtype),
            {name: torch.empty_like(trunk[name]) for name in linear if self.device.type == "cpu"},
        )
        config = first.config
        s_max = self._empty(dtype=torch.float64)
        same = (config.embedding_clamp, config.cosh_clamp, config.compensation)
        hyper = Hyper(self._empty(), s_max, self._empty(), *same)
        shapes = {name: factor.shape for trainer in trainers for name, factor in trainer.gradient_mask.items()}
        # a factor of one column is that of all columns
        gradient_mask = {
            n: self._empty(*(shape if shape[-1] == 1 else aligned(shape))).fill_(1) for n, shape in shapes.items()
        }
        held = {name: anchor.shape for trainer in trainers for name, (anchor, _) in trainer.anchors.items()}
        anchors = ({name: self._empty(*aligned(shape)) for name, shape in held.items()} for _ in range(2))
        context = TaskContext(self._empty(units), self._empty(), self._empty(units), gradient_mask, *anchors)
        dropout_rng = DropoutRNG(
            [(self.size, *shape) for shape in self.network.dropout_shapes], self.network.dropout, self.device
        )
        split = first.split.train
        scale, shift = (self._empty(1, *split.scale.shape) for _ in range(2))
        pixels = None if split.pixels is None else self._empty(1, len(split.pixels), dtype=torch.int64)
        position = self._empty(dtype=torch.int64)
        self.whole = Layout(
            self.network, self.size, split.images, state, hyper, context, dropout_rng, position, scale, shift, pixels
        )
        self._all = Part(self.whole, range(len(trainers)))
        self._parts, self._skips = [self._all], skips_closed_units(self.network, config)
        self._tasks = [-1] * len(trainers)
        self._captured: dict[tuple[int, ...], tuple[Part, StepGraph]] = {}  # for the sizes of its layers

    def serves(self, trainers: Sequence[Trainer]) -> bool:
        """Whether these, which are all or some of its runs, can go on with it.

        A step that was captured is captured anew only when half of its runs have left: until then they idle.
        """
        if bool(self.whole.context.gradient_mask) != any(trainer.gradient_mask for trainer in trainers):
            return False
        if bool(self.whole.context.anchor) != any(trainer.anchors for trainer in trainers):
            return False
        if self.captured:
            return 2 * len(trainers) > len(self.trainers)
        return self.trainers == _in_order(trainers)

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(len(self.trainers), *shape, dtype=dtype or self.dtype, device=self.device)

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
            self.whole.hyper.learning_rate[row] = within["learning_rate"]
            self.whole.position[row] = self.whole.dropout_rng.position(trainer.dropout_rng, trainer.steps)
            if self._tasks[row] == trainer.task:
                continue
            self._tasks[row] = trainer.task
            for name in ("s_max", "grad_clip"):
                getattr(self.whole.hyper, name)[row] = getattr(config, name)
            classes = len(trainer.sequence.tasks[trainer.task].classes)
            # a class that the task has not got has a logit of minus infinity, and never a gradient
            self.whole.state.parameters["head.bias"][row, classes:] = -torch.inf
            for held, own in self._own(row, trainer):
                held.copy_(own)
            coefficient, offset = affine(trainer.cumulative, config.mode, min_units=config.min_units)
            self.whole.context.coefficient[row, : self.units], self.whole.context.offset[row] = coefficient, offset
            self.whole.context.regularizer_gradient[row, : self.units], _ = affine(
                trainer.cumulative, config.mode, config.c, config.min_units
            )
            for name, factor in trainer.gradient_mask.items():
                self.whole.context.gradient_mask[name][row, ..., : factor.shape[-1]] = factor
            for name, pair in trainer.anchors.items():
                for part, value in zip(
                    (self.whole.context.anchor[name], self.whole.context.stiffness[name]), pair, strict=True
                ):
                    part[row, ..., : value.shape[-1]] = value
            split = trainer.split.train
            self.whole.scale[row, 0], self.whole.shift[row, 0] = split.scale, split.shift
            if self.whole.pixels is not None and split.pixels is not None:
                self.whole.pixels[row, 0] = split.pixels

    def _own(self, row: int, trainer: Trainer) -> list[tuple[Tensor, Tensor]]:
        """What only the current task of one run trains: here, and in its network."""
        here, there, head = self.whole.state.parameters, trainer.trained(), f"heads.{trainer.task}"
        classes, inputs = there[f"{head}.weight"].shape
        return [
            (here["head.weight"][row, :classes, :inputs], there[f"{head}.weight"]),
            (here["head.bias"][row, :classes], there[f"{head}.bias"]),
            (self.whole.state.e[row, : self.units], there["gates"]),
        ]

    def _copy_back(self, trainers: Sequence[Trainer]) -> None:
        for part in self._parts:
            part.copy_back()
        for row, trainer in self._rows(trainers):
            for held, own in self._own(row, trainer):
                own.copy_(held)

    def _plan(self, trainers: Sequence[Trainer]) -> dict[str, Tensor]:
        """Which images each run takes at each step, (R, steps, batch): where, label and weight; slopes (R, steps)."""
        runs, steps = len(self.trainers), max(trainer.steps_per_epoch for trainer in trainers)
        rows = torch.zeros(runs, steps * self.size, dtype=torch.int64, device=self.device)
        labels = torch.zeros_like(rows)
        weight = np.zeros((runs, steps * self.size))
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
            "weight": torch.from_numpy(weight).to(self.device, self.dtype).reshape(shape),
            "s": torch.from_numpy(s).to(self.device),
        }

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
        self._parts = [self._all]
        plan = self._plan(trainers)
        steps = plan["rows"].shape[1]
        losses = torch.zeros(len(self.trainers), steps, 2, device=self.device)
        lengths = [trainer.steps_per_epoch if trainer in trainers else 0 for trainer in self.trainers]
        for k in range(steps):
            check()
            if self._skips and k % LOOK_EVERY == 0:
                self._parts = leave_out_closed(self._parts, plan["s"][:, k], self._part, together=self.captured)
            for part in self._parts:
                # a captured step is of all runs. Otherwise the last, smaller batch is as wide as the others: a sum's
                # rounding depends on how many numbers are added, and so a run's bits would depend on who trains beside
                active = len(part.rows) if self.captured else sum(lengths[row] > k for row in part.rows)
                if active:
                    now = part.first(active)
                    values = {name: of_all[now, k] for name, of_all in plan.items()}
                    if self.captured:
                        losses[now, k] = self._graph(part, values).replay(values)
                    else:
                        losses[now, k] = step(*part.layout.arguments(values))
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
        The units that the epoch left out are closed at s_max, too.
        """
        splits = {row: trainer.split.valid for row, trainer in self._rows(trainers)}
        size = VALIDATION_BATCHES * self.size
        batches = -(-max(map(len, splits.values())) // size)
        rows = torch.zeros(len(self.trainers), batches * size, dtype=torch.int64, device=self.device)
        labels, counts = torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.float32)
        for row, split in splits.items():
            rows[row, : len(split)], labels[row, : len(split)], counts[row, : len(split)] = split.index, split.labels, 1
        sums = self._empty(2, dtype=torch.float64)
        for part in self._parts:
            now, mask = part.first(len(part.rows)), part.layout.mask(part.layout.hyper.s_max).to(self.dtype)
            for index, y, count in zip(
                *(torch.split(values[now], size, 1) for values in (rows, labels, counts)), strict=True
            ):
                logits = part.layout.logits(index, mask)
                of_each = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").reshape(y.shape)
                right = (logits.argmax(2) == y).to(count.dtype)
                sums[now] += torch.stack(((of_each * count).sum(1), (right * count).sum(1)), 1)
        means = {row: (sums[row] / len(split)).tolist() for row, split in splits.items()}
        return [tuple(means[self.trainers.index(trainer)]) for trainer in trainers]

    def _part(self, rows: Sequence[int], units: Sequence[Tensor], moving: Sequence[int]) -> Part:
        """Return these units of these runs as a part; one that was captured is filled anew."""
        sizes = tuple(which.shape[1] for which in units)
        if sizes not in self._captured:
            return Part(self.whole, rows, units, moving)
        part, _ = self._captured[sizes]
        part.copy_in(units)
        return part

    def _graph(self, part: Part, values: Mapping[str, Tensor]) -> StepGraph:
        """Return the step of this part, recorded the first time; that takes steps whose images count nothing."""
        if part.sizes not in self._captured:
            layout = part.layout
            before = layout.position.clone()
            graph = StepGraph(lambda inputs: step(*layout.arguments(inputs)), values, self.device)
            layout.position.copy_(before)
            self._captured[part.sizes] = part, graph
        return self._captured[part.sizes][1]
