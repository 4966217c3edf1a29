"""Training HAT on a task sequence: evaluation, and the loop over epochs and tasks.

`Trainer` keeps what lasts from step to step; all of it can be saved between two epochs and taken up again, to the
same bits on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatlab import protection
from hatlab.attention import slopes
from hatlab.capacity import COLUMNS, adahat_capacity, capacity_rows, weights_used
from hatlab.config import ConfigError, RunConfig
from hatlab.loading import Split, TaskData
from hatlab.networks import HATCNN, HATMLP, HATNetwork
from hatlab.progress import Progress
from hatlab.regularizer import mask_sparsity
from hatlab.step import Batch, Hyper, State, step
from hatlab.tasks import TaskSequence

__all__ = ["Trainer", "TrainingDiverged", "build_network", "evaluate"]


class TrainingDiverged(RuntimeError):
    """A loss that is not a finite number; the message names the task, the epoch and the step."""


@torch.no_grad()
def evaluate(network: HATNetwork, task: int, data: Split, s: float, batch_size: int = 1024) -> tuple[float, float]:
    """Return (mean cross-entropy, accuracy in [0, 1]) of `task` with its mask at slope `s`, not thresholded."""
    mask = network.mask(task, s)
    loss, correct = torch.zeros((), dtype=torch.float64, device=mask.device), torch.zeros((), device=mask.device)
    network.eval()
    for rows in torch.split(torch.arange(len(data), device=mask.device), batch_size):
        x, y = data.batch(rows)
        logits = network(x, task, mask)
        loss += F.cross_entropy(logits, y, reduction="sum")
        correct += (logits.argmax(1) == y).sum()
    return float(loss) / len(data), float(correct) / len(data)


def build_network(config: RunConfig, sequence: TaskSequence) -> HATNetwork:
    """Return the network with its initial weights, which depend on `config.seed` alone; on the CPU.

    Raises:
        ValueError: the network does not take images of this size.
    """
    classes = [len(task.classes) for task in sequence.tasks]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        common = (sequence.input_shape, classes)
        network = (
            HATMLP(*common, config.widths, config.dropout, config.embedding_init)
            if config.network == "mlp"
            else HATCNN(*common, config.dropout, config.embedding_init)
        )
        if config.schedule == "paper":
            for module in network.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)
                    assert module.bias is not None
                    nn.init.zeros_(module.bias)
    return network


def _generator(seed: int, stream: int, device: torch.device) -> torch.Generator:
    """Independent random numbers for each purpose, from the run's seed alone."""
    word = np.random.SeedSequence((seed, stream)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(word >> np.uint64(1)))


class Trainer:
    """Trains one run, task after task.

    Args:
        config: the run.
        sequence: its tasks, from `make_sequence(config)`.
        device: where it is trained.

    Attributes:
        task: position of the task in training; the number of tasks when all are done.
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

    def __init__(self, config: RunConfig, sequence: TaskSequence, device: torch.device) -> None:
        self.config, self.sequence, self.device = config, sequence, device
        self.network = build_network(config, sequence).to(device)
        with torch.no_grad():  # the authors clamp the embeddings of all tasks at every step
            self.network.gates.clamp_(-config.embedding_clamp, config.embedding_clamp)
        self.cumulative = torch.zeros_like(self.network.gates[0]).detach()
        self.order = _generator(config.seed, 1, torch.device("cpu"))
        self.noise = _generator(config.seed, 2, device)
        self.data = TaskData.of(sequence, device)
        self.task = 0
        self.within: dict[str, Any] | None = None  # of the task in training: what its next epoch starts from
        self.rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in self.TABLES}

    def train(self, after_epoch: Callable[[], None], progress: Progress) -> None:
        """Train what is left of the sequence; `after_epoch` is called whenever the state is worth saving.

        Raises:
            TrainingDiverged: what `after_epoch` saved last is from the last epoch that ended well.
            FrozenWeightMoved: a protected weight changed, which would be a defect of this program.
        """
        while self.task < len(self.sequence.tasks):
            self._train_task(after_epoch, progress)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the rest of the run depends on, as tensors and plain values."""
        return {
            "device": self.device.type,
            "network": self.network.state_dict(),
            "cumulative": self.cumulative,
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            "task": self.task,
            "within": self.within,
            "rows": self.rows,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `saved`.

        Raises:
            ConfigError: it was saved on another kind of device, whose random numbers this one cannot go on with.
        """
        if saved["device"] != self.device.type:
            raise ConfigError(
                f"device = '{self.device.type}': the run was begun on {saved['device']} and can only go on there; "
                f"ask for device '{saved['device']}', or move the run's folder away to begin anew"
            )
        self.network.load_state_dict(saved["network"])
        self.cumulative = saved["cumulative"].to(self.device)
        self.order.set_state(saved["order"])
        self.noise.set_state(saved["noise"])
        self.task, self.within, self.rows = saved["task"], saved["within"], saved["rows"]
        if self.within is not None:
            protected = self.within["protected"]
            self.within["protected"] = {name: values.to(self.device) for name, values in protected.items()}

    def _trained(self) -> dict[str, Tensor]:
        """The parameters that the current task trains, by name."""
        return {
            name: p.detach()
            for name, p in self.network.named_parameters()
            if name.startswith(("trunk.", f"heads.{self.task}."))
        }

    def _store(self, state: State) -> None:
        with torch.no_grad():
            for name, p in self._trained().items():
                p.copy_(state.parameters[name])
            self.network.gates[self.task].copy_(state.e)

    def _state(self) -> State:
        return State({n: p.clone() for n, p in self._trained().items()}, self.network.gates[self.task].detach().clone())

    def _train_task(self, after_epoch: Callable[[], None], progress: Progress) -> None:
        config, task = self.config, self.task
        data = self.data[task]
        factors = {}
        if task > 0:
            factors = self.network.movable(self.cumulative)
        layers = self._numpy(self.cumulative)
        adahat = adahat_capacity(self.network.links, layers)
        if self.within is None:
            self.within = {
                "epoch": 0,
                "learning_rate": config.learning_rate,
                "patience": config.lr_patience,
                "best_loss": math.inf,
                "best_epoch": -1,
                "best": None,
                "protected": protection.protected_values(self._trained(), factors),
            }
            self._capacity(-1, layers, adahat)
        now = self.within
        while now["epoch"] < config.max_epochs and now["learning_rate"] >= config.lr_min:
            epoch = now["epoch"]
            state, losses = self._train_epoch(data.train, factors, now["learning_rate"])
            self._store(state)
            cross_entropy, accuracy = evaluate(self.network, task, data.valid, config.s_max)
            valid_loss = cross_entropy
            if config.schedule == "authors":
                valid_loss += config.c * self._regularizer()
            if not math.isfinite(valid_loss):
                raise self._diverged(f"the validation loss is {valid_loss} after its last step")
            self.rows["epochs"].append((task, epoch, *losses, valid_loss, accuracy, now["learning_rate"]))
            usage = self._capacity(epoch, layers, adahat)
            if valid_loss < now["best_loss"]:
                now |= {"best_loss": valid_loss, "best_epoch": epoch, "best": state._asdict()}
                now["patience"] = config.lr_patience
            else:
                now["patience"] -= 1
                if now["patience"] <= 0:
                    now["learning_rate"] /= config.lr_factor
                    now["patience"] = config.lr_patience
            now["epoch"] = epoch + 1
            progress.epoch_done(task, epoch, accuracy, usage)
            after_epoch()
        self._finish_task(factors, progress)
        after_epoch()

    def _train_epoch(
        self, data: Split, factors: Mapping[str, Tensor], rate: float
    ) -> tuple[State, tuple[float, float]]:
        """One pass over `data`; returns the new state and the mean of (CE + c R, R) over its steps."""
        config = self.config
        hyper = Hyper(
            rate, config.c, config.s_max, config.grad_clip, config.embedding_clamp, config.cosh_clamp, config.min_units,
            config.mode, config.compensation,
        )  # fmt: skip
        order = torch.randperm(len(data), generator=self.order).to(self.device)
        s = slopes(config.schedule, config.s_max, len(data), config.batch_size).tolist()
        state, losses = self._state(), []
        for rows, slope in zip(torch.split(order, config.batch_size), s, strict=True):
            x, y = data.batch(rows)
            batch = Batch(x, y, self.network.draw_dropout(len(rows), self.noise), slope)
            state, loss = step(self.network, self.task, state, batch, hyper, self.cumulative, factors)
            losses.append(loss)
        table = torch.stack(losses).double().cpu()  # the only wait for the device in an epoch
        bad = (~table.isfinite()).any(1).nonzero()
        if len(bad):
            first = int(bad[0])
            ce, r = table[first].tolist()
            raise self._diverged(f"step {first + 1} of {len(table)} has cross-entropy {ce} and R {r}")
        ce, r = table.mean(0).tolist()
        return state, (ce + config.c * r, r)

    def _finish_task(self, factors: Mapping[str, Tensor], progress: Progress) -> None:
        """Restore the best model, check that what is frozen stayed so, add the mask, and test all tasks so far."""
        config, task, now = self.config, self.task, self.within
        assert now is not None
        self._store(State(**now["best"]))
        protected = protection.verify_protected(self._trained(), factors, now["protected"])
        with torch.no_grad():
            self.cumulative = protection.cumulate(self.cumulative, self.network.mask(task, config.s_max))
        weights = sum(link.weights for link in self.network.links)
        used = weights_used(self.network.links, self._numpy(self.cumulative))
        self.rows["tasks"].append(
            (task, self.sequence.tasks[task].name, now["epoch"], now["best_epoch"], weights, used, protected)
        )
        accuracy = 0.0
        for earlier in range(task + 1):
            loss, accuracy = evaluate(self.network, earlier, self.data[earlier].test, config.s_max)
            self.rows["accuracy"].append((task, earlier, accuracy, loss))
        self.task, self.within = task + 1, None
        progress.task_done(task, now["epoch"], accuracy, used / weights)

    def _capacity(self, epoch: int, before: Mapping[str, np.ndarray], adahat: Mapping[str, float]) -> float:
        """Add the table's rows of this epoch, and return the share of all weights in use."""
        with torch.no_grad():
            own = self._numpy(self.network.mask(self.task, self.config.s_max))
        rows = capacity_rows(self.network.links, before, own, adahat)
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
            f"training diverged in task {self.task + 1} ({name}), epoch {epoch + 1}: {what}. The checkpoint of the "
            f"last good epoch is kept; a learning_rate below {self.config.learning_rate:g} may help"
        )
