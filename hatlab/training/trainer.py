"""One run on a task sequence, of HAT or a reference: evaluation, and what is decided between two epochs.

`Trainer` keeps what lasts from epoch to epoch; all of it can be saved between two epochs and taken up again. The
epochs themselves are the engine's, which takes those of several runs side by side.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatlab.config import RunConfig
from hatlab.data.loading import Images, Split, TaskData
from hatlab.data.tasks import TaskSequence
from hatlab.method import protection
from hatlab.method.capacity import COLUMNS, adahat_capacity, capacity_rows, weights_used
from hatlab.method.networks import HATCNN, HATMLP, HATNetwork
from hatlab.method.regularizer import mask_sparsity
from hatlab.support.progress import Progress
from hatlab.training.baselines import ewc
from hatlab.training.dropout_rng import stream
from hatlab.training.open_units import open_parameters
from hatlab.training.step import forward

__all__ = ["Factory", "Trainer", "TrainingDiverged", "build_network", "evaluate"]


# (C, H, W) of an image, classes of each task -> network
Factory: TypeAlias = Callable[[tuple[int, ...], Sequence[int]], HATNetwork]

_GLOBAL_GENERATOR = threading.Lock()  # of initial weights; runs may start in several threads at once


class TrainingDiverged(RuntimeError):
    """A loss that is not a finite number; the message names the task, the epoch and the step."""


@torch.no_grad()
def evaluate(network: HATNetwork, task: int, data: Split, s: float, batch_size: int = 1024) -> tuple[float, float]:
    """Return (mean cross-entropy, accuracy in [0, 1]) of `task` with its mask at slope `s`, not thresholded.

    Units whose mask is 0 are left out.
    """
    parameters, mask = open_parameters(network, task, network.mask(task, s))
    loss, correct = torch.zeros((), dtype=torch.float64, device=mask.device), torch.zeros((), device=mask.device)
    for rows in torch.split(torch.arange(len(data), device=mask.device), batch_size):
        x, y = data.batch(rows)
        (logits,) = forward(network, parameters, x[None], mask, [None] * len(network.dropout))
        loss += F.cross_entropy(logits, y, reduction="sum")
        correct += (logits.argmax(1) == y).sum()
    return float(loss) / len(data), float(correct) / len(data)


def build_network(config: RunConfig, sequence: TaskSequence, factory: Factory | None = None) -> HATNetwork:
    """Return the network with its initial weights, which depend on `config.seed` alone; on the CPU.

    `factory` makes a network of the caller's own, see `runs.sweep`.

    Raises:
        ValueError: the network does not take images of this size, or needs a factory that is not given.
    """
    classes = [len(task.classes) for task in sequence.tasks]
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the generators of all GPUs, too, which the fork does not put back
        torch.default_generator.manual_seed(config.seed)
        shape, init, gated = sequence.input_shape, config.embedding_init, config.method == "hat"
        network: HATNetwork
        if config.network == "mlp":
            network = HATMLP(shape, classes, config.widths, config.dropout, init, gated)
        elif config.network == "cnn":
            network = HATCNN(shape, classes, config.dropout, init, gated)
        elif factory is None:
            raise ValueError("this network is made by a factory, which has to be given: network=...")
        else:
            network = _checked(factory(shape, classes), shape, classes)
            network.gated = gated
        if config.gate_precision == "float64":
            network.gates.data = network.gates.data.double()
        if config.schedule == "paper":
            for module in network.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)
                    assert module.bias is not None
                    nn.init.zeros_(module.bias)
    return network


def _checked(network: HATNetwork, shape: tuple[int, ...], classes: Sequence[int]) -> HATNetwork:
    if not isinstance(network, HATNetwork):
        raise ValueError(f"the factory returned a {type(network).__name__}: allowed is a HATNetwork")
    heads = [len(network.get_parameter(f"heads.{k}.bias")) for k in range(len(network.heads))]
    if network.input_shape != tuple(shape) or heads != list(classes):
        raise ValueError(
            f"the factory was given input shape {shape} and classes {classes}, and returned a network of input shape "
            f"{network.input_shape} and classes {heads}"
        )
    return network


class Trainer:
    """One run: its network, and the state that its training goes on from.

    Args:
        config: the run.
        sequence: its tasks, from `make_sequence(config)`.
        images: the images of the sequence's data sets, on the device where the run is trained.
        factory: of a network of the caller's own.

    Attributes:
        network: the weights as they are now; the engine trains them in place.
        cumulative: (all units,) mask of the tasks done.
        task: position of the task in training; the number of tasks when all are done.
        within: of the task in training, what its next epoch starts from; None before its first.
        gradient_mask: of the task in training: parameter name -> factor of its gradient; empty in the first.
        anchors: of EWC: trunk parameter name -> (value after the last task, stiffness); empty in the first task.
        order: generator of the order in which an epoch goes through the images.
        dropout_rng: start of the run's stream of dropout's random numbers; `steps`: how many steps have drawn from it.
        rows: table name -> rows, without the run's column (see `TABLES`).
    """

    TABLES: Mapping[str, tuple[str, ...]] = {
        "capacity": ("task", "epoch", *COLUMNS),
        "accuracy": ("after_task", "task", "accuracy", "loss"),
        "epochs": (
            "task", "epoch", "train_loss", "train_regularizer", "valid_loss", "valid_accuracy", "learning_rate",
        ),
        "tasks": ("task", "name", "epochs", "best_epoch", "weights", "weights_used", "protected_values"),
    }  # fmt: skip

    def __init__(
        self, config: RunConfig, sequence: TaskSequence, images: Images, factory: Factory | None = None
    ) -> None:
        self.config, self.sequence, self.device, self.factory = config, sequence, images.device, factory
        self.network = build_network(config, sequence, factory).to(self.device)
        with torch.no_grad():  # the authors clamp the embeddings of all tasks at every step
            self.network.gates.clamp_(-config.embedding_clamp, config.embedding_clamp)
        self.cumulative = torch.zeros_like(self.network.gates[0], dtype=torch.float32).detach()
        # always drawn on the CPU, so that the order is the same on every device
        self.order = torch.Generator().manual_seed(stream(config.seed, 1) % 2**63)
        self.dropout_rng, self.steps = stream(config.seed, 2), 0
        self.data = TaskData.of(sequence, images)
        self.task = 0
        self.within: dict[str, Any] | None = None
        self.gradient_mask: dict[str, Tensor] = {}
        self.anchors: dict[str, tuple[Tensor, Tensor]] = {}
        self.rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in self.TABLES}
        self._before: Mapping[str, np.ndarray] = {}  # the cumulative mask by layer, and what remains of the capacity
        self._adahat: Mapping[str, float] = {}

    @property
    def finished(self) -> bool:
        """Whether all tasks are done."""
        return self.task == len(self.sequence.tasks)

    @property
    def split(self) -> TaskData:
        """The images of the task in training."""
        return self.data[self.task]

    @property
    def steps_per_epoch(self) -> int:
        """How many steps an epoch of the task in training has."""
        return -(-len(self.split.train) // self.config.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the rest of the run depends on, as tensors and plain values."""
        return {
            # copied: in a group each is a part of a tensor of all runs, which would be saved whole
            "network": {name: value.clone() for name, value in self.network.state_dict().items()},
            "cumulative": self.cumulative,
            "order": self.order.get_state(),
            "steps": self.steps,
            "task": self.task,
            "within": self.within,
            "anchors": self.anchors,
            "rows": self.rows,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `saved`, on whatever device it was saved."""
        self.network.load_state_dict(saved["network"])
        self.cumulative = saved["cumulative"].to(self.device)
        self.order.set_state(saved["order"])
        self.steps, self.task, self.within, self.rows = (saved[name] for name in ("steps", "task", "within", "rows"))
        self.anchors = {
            name: (anchor.to(self.device), stiffness.to(self.device))
            for name, (anchor, stiffness) in saved["anchors"].items()
        }
        if self.within is not None:
            protected = self.within["protected"]
            self.within["protected"] = {name: values.to(self.device) for name, values in protected.items()}
            self._look_back()

    def trained(self) -> dict[str, Tensor]:
        """Return what the current task trains: trunk, its head and "gates", its embedding; they share memory with
        the network. Joint training has the heads of all tasks so far.
        """
        first = 0 if self.config.method == "joint" else self.task
        heads = tuple(f"heads.{k}." for k in range(first, self.task + 1))
        parameters = {
            name: p.detach() for name, p in self.network.named_parameters() if name.startswith(("trunk.", *heads))
        }
        return {**parameters, "gates": self.network.gates[self.task].detach()}

    def begin_epoch(self) -> None:
        """Enter the next task, unless the run is within one."""
        if self.within is not None:
            return
        if self.config.method == "joint":
            self.network.load_state_dict(build_network(self.config, self.sequence, self.factory).state_dict())
        self._look_back()
        self.within = {
            "epoch": 0,
            "learning_rate": self.config.learning_rate,
            "patience": self.config.lr_patience,
            "best_loss": math.inf,
            "best_epoch": -1,
            "best": None,
            "protected": protection.frozen_values(self.trained(), self.gradient_mask),
        }
        self._capacity(-1)

    def end_epoch(self, losses: np.ndarray, validation: tuple[float, float], progress: Progress) -> None:
        """Record an epoch whose steps had `losses`, (steps, 2), and decide how to go on.

        `validation`: cross-entropy and accuracy in [0, 1] on the validation images.

        Raises:
            TrainingDiverged: a loss is not a finite number.
            FrozenWeightMoved: a protected weight changed, which would be a defect of this program.
        """
        config, task, now = self.config, self.task, self.within
        assert now is not None
        epoch = now["epoch"]
        bad = np.flatnonzero(~np.isfinite(losses).all(1))
        if len(bad):
            ce, r = losses[bad[0]]
            raise self._diverged(f"step {bad[0] + 1} of {len(losses)} has cross-entropy {ce} and R {r}")
        ce, r = losses.mean(0).tolist()
        cross_entropy, accuracy = validation
        valid_loss = cross_entropy + ewc.penalty(self.trained(), self.anchors)
        if config.schedule == "authors":
            valid_loss += config.c * self._regularizer()
        if not math.isfinite(valid_loss):
            raise self._diverged(f"the validation loss is {valid_loss} after its last step")
        self.rows["epochs"].append((task, epoch, ce + config.c * r, r, valid_loss, accuracy, now["learning_rate"]))
        usage = self._capacity(epoch)
        if valid_loss < now["best_loss"]:
            best = {name: value.clone() for name, value in self.trained().items()}
            now |= {"best_loss": valid_loss, "best_epoch": epoch, "best": best, "patience": config.lr_patience}
        else:
            now["patience"] -= 1
            if now["patience"] <= 0:
                now |= {"learning_rate": now["learning_rate"] / config.lr_factor, "patience": config.lr_patience}
        now["epoch"] = epoch + 1
        progress.epoch_done(config.run_id, task, epoch, accuracy, usage)
        if now["epoch"] == config.max_epochs or now["learning_rate"] < config.lr_min:
            self._finish_task(now, progress)

    def _finish_task(self, now: Mapping[str, Any], progress: Progress) -> None:
        """Restore the best model, check that what is frozen stayed so, add the mask, and test all tasks so far."""
        config, task = self.config, self.task
        for name, value in self.trained().items():
            value.copy_(now["best"][name])
        protected = protection.verify_frozen(self.trained(), self.gradient_mask, now["protected"])
        if config.method == "ewc":
            self.anchors = self._anchors()
        with torch.no_grad():
            self.cumulative = protection.update_cumulative_mask(self.cumulative, self.network.mask(task, config.s_max))
        weights = sum(link.weights for link in self.network.gated_layers)
        used = weights_used(self.network.gated_layers, self._numpy(self.cumulative))
        self.rows["tasks"].append(
            (task, self.sequence.tasks[task].name, now["epoch"], now["best_epoch"], weights, used, protected)
        )
        accuracy = 0.0
        for earlier in range(task + 1):
            loss, accuracy = evaluate(self.network, earlier, self.data[earlier].test, config.s_max)
            self.rows["accuracy"].append((task, earlier, accuracy, loss))
        self.task, self.within, self.gradient_mask = task + 1, None, {}
        progress.task_done(config.run_id, task, now["epoch"], accuracy, used / weights)

    def _anchors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return EWC's penalties after the current task: its Fisher information joins the mean over those before."""
        found = ewc.fisher(self.network, self.task, self.split.train)
        anchors = {}
        for name, value in found.items():
            stiffness = self.config.ewc_lambda * value
            if name in self.anchors:
                stiffness = (stiffness + self.task * self.anchors[name][1]) / (self.task + 1)
            anchors[name] = (self.trained()[name].clone(), stiffness)
        return anchors

    def _look_back(self) -> None:
        """Work out what the tasks before mean for the current one."""
        protects = self.config.method in ("hat", "sgd_frozen") and self.task > 0
        self.gradient_mask = self.network.gradient_mask(self.cumulative) if protects else {}
        self._before = self._numpy(self.cumulative)
        self._adahat = adahat_capacity(self.network.gated_layers, self._before)

    def _capacity(self, epoch: int) -> float:
        """Add the table's rows of this epoch, and return the share of all weights in use."""
        with torch.no_grad():
            own = self._numpy(self.network.mask(self.task, self.config.s_max))
        rows = capacity_rows(self.network.gated_layers, self._before, own, self._adahat)
        self.rows["capacity"] += [(self.task, epoch, *row) for row in rows]
        total = dict(zip(COLUMNS, rows[-1], strict=True))
        return int(total["weights_used"]) / int(total["weights"])

    @torch.no_grad()
    def _regularizer(self) -> float:
        mask = self.network.mask(self.task, self.config.s_max)
        layers, previous = (self.network.split(vector).values() for vector in (mask, self.cumulative))
        return float(mask_sparsity(layers, previous, self.config.mode, self.config.min_units))

    def _numpy(self, vector: Tensor) -> dict[str, np.ndarray]:
        return {name: part.cpu().numpy() for name, part in self.network.split(vector).items()}

    def _diverged(self, what: str) -> TrainingDiverged:
        epoch, name = self.within["epoch"] if self.within else 0, self.sequence.tasks[self.task].name
        return TrainingDiverged(
            f"training diverged in task {self.task + 1} ({name}), epoch {epoch + 1}: {what}. The last "
            f"checkpoint, if there is one, is kept; a learning_rate below {self.config.learning_rate:g} may help"
        )
