"""Groups: what a run learns does not depend on who trains beside it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hatlab.config import RunConfig
from hatlab.data.loading import Images
from hatlab.data.tasks import make_sequence
from hatlab.method.networks import HATNetwork
from hatlab.support.progress import Progress
from hatlab.training import engine, replicas
from hatlab.training import trainer as training
from hatlab.training.engine import ReplicaGroup
from hatlab.training.torch_settings import torch_settings
from hatlab.training.trainer import Trainer

SMALL = RunConfig(widths=(30, 20), batch_size=32, max_epochs=2, n_tasks=3)
CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parent.parent.parent
QUIET = Progress()


def trainers_of(configs):
    sequences = [make_sequence(config) for config in configs]
    images = Images.of(sequences[0].datasets, CPU)
    return [Trainer(config, sequence, images) for config, sequence in zip(configs, sequences, strict=True)]


def train(trainers):
    group = ReplicaGroup(trainers)
    group.train(lambda trainer: None, QUIET)
    return group


def distance(one, other):
    """The largest difference between any two weights or embeddings."""
    pairs = zip(one.network.parameters(), other.network.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def varied(base, runs=8):
    """Runs that differ in all that runs of a group may differ in."""
    return [
        base.replace(
            seed=i % 3,
            c=(0.0, 0.1, 0.75, 2.5)[i % 4],
            mode=("original", "cross", "reuse")[i % 3],
            s_max=(400.0, 50.0)[i % 2],
            learning_rate=(0.05, 0.02)[i // 4 % 2],
            schedule=("authors", "paper")[i // 2 % 2],
            grad_clip=(1e4, 0.5)[i // 4 % 2],
            min_units=(10, 0)[i % 2],
        )
        for i in range(runs)
    ]


def images_of_size(folder, side, classes=2, each=60):
    """A data set of blurred noise around a mean per class, so that there is something to learn."""
    rng = np.random.default_rng(0)
    means = rng.integers(60, 196, (classes, side, side))
    y = np.repeat(np.arange(classes), each)

    def draw(labels):
        return (means[labels] + rng.normal(0, 30, (len(labels), side, side))).clip(0, 255).astype(np.uint8)

    path = folder / f"made-{side}.npz"
    test = np.arange(classes).repeat(4)
    np.savez(path, x_train=draw(y), y_train=y, x_test=draw(test), y_test=test)
    return path


@pytest.mark.parametrize("dropout", [(0.0, 0.0), (0.2, 0.5)])
def test_on_one_thread_of_a_cpu_not_a_bit_depends_on_who_trains_beside(dropout):
    """Layers that fill no whole vector, last batches of several sizes, runs that leave at different times."""
    base = RunConfig(widths=(101, 83), dropout=dropout, batch_size=16, max_epochs=3, n_tasks=3)
    configs = base.grid(c=[0.75, 2.5], seed=[0, 1, 2]) + base.grid(mode=["cross"], seed=[0, 1])
    whole, part, alone = (trainers_of(configs) for _ in range(3))
    with torch_settings(whole[0].network, 1, 1, CPU):  # one thread
        for group in (whole, part[:3], part[3:], *([one] for one in alone)):
            train(group)
    for one, other, third in zip(whole, part, alone, strict=True):
        assert distance(one, other) == distance(one, third) == 0
        assert one.rows == other.rows == third.rows  # losses, too


INSTRUCTIONS = (
    "MKL_ENABLE_INSTRUCTIONS=SSE4_2", "MKL_ENABLE_INSTRUCTIONS=AVX2", "MKL_CBWR=COMPATIBLE", "MKL_CBWR=AVX2",
    "ONEDNN_MAX_CPU_ISA=SSE41", "ATEN_CPU_CAPABILITY=default", "ATEN_CPU_CAPABILITY=avx2", "",
)  # fmt: skip


@pytest.mark.parametrize("first, instructions", [*enumerate(INSTRUCTIONS)], ids=lambda value: str(value) or "all")
def test_nor_with_other_instructions_widths_and_classes(first, instructions):
    """An eighth of the cases with each; `python tests/beside.py` takes them all."""
    name, _, value = instructions.partition("=")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **({name: value} if name else {})}
    command = [sys.executable, ROOT / "tests" / "beside.py", str(len(INSTRUCTIONS)), str(first)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_weights_are_whole_again_when_a_group_is_left_and_in_every_checkpoint():
    """Odd widths: in the group, each row of a weight is followed by padding, and runs lie in one storage."""
    together = trainers_of(RunConfig(widths=(101, 83), max_epochs=1, n_tasks=1).grid(seed=[0, 1]))
    saved = []
    ReplicaGroup(together).train(lambda trainer: saved.append(trainer.state_dict()["network"]), QUIET)
    assert len(saved) >= 2
    for tensors in (*saved, *(trainer.network.state_dict() for trainer in together)):
        for tensor in tensors.values():
            assert tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes


def small_cnn(shape, classes, dropout, embedding_init, gated):
    """In the place of `HATCNN`, with its kinds of layers in its order."""
    trunk = {
        "c1": nn.Conv2d(shape[0], 12, 3), "c2": nn.Conv2d(12, 16, 4), "c3": nn.Conv2d(16, 24, 2),
        "fc1": nn.Linear(24 * 2 * 2, 60), "fc2": nn.Linear(60, 40),
    }  # fmt: skip
    low, high = dropout
    return HATNetwork(trunk, shape, classes, [low, low, high, high, high], 0.0, embedding_init, gated)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_fifty_steps_alone_and_in_a_group_of_eight_agree(tmp_path, monkeypatch, name):
    """Dropout on; seeds, c, mode, s_max, rate, schedule and task order differ within the group."""
    monkeypatch.setattr(training, "HATCNN", small_cnn)
    if name == "mlp":
        base = RunConfig(widths=(100, 80), batch_size=16, task_order="shuffled", n_tasks=3)
        epochs = 4  # 16 to 20 steps each
    else:
        path = images_of_size(tmp_path, 28)
        base = RunConfig(dataset=f"npz:{path}", network="cnn", batch_size=4, n_tasks=1, validation=0.17)
        epochs = 2  # 25 steps each
    assert all(base.dropout)
    configs = varied(base)
    together = trainers_of(configs)
    group = ReplicaGroup(together)
    for _ in range(epochs):
        group.train_epoch()
    assert min(trainer.steps for trainer in together) >= 50
    for config, trainer in zip(configs, together, strict=True):
        (alone,) = trainers_of([config])
        start = [p.detach().clone() for p in alone.network.parameters()]
        one = ReplicaGroup([alone])
        for _ in range(epochs):
            one.train_epoch()
        assert alone.steps == trainer.steps
        moved = max(float((a - b.detach()).abs().max()) for a, b in zip(start, alone.network.parameters(), strict=True))
        assert moved > 1e-3
        assert distance(alone, trainer) <= 1e-5


def test_ten_seeds_end_alike_alone_and_side_by_side():
    """Whole runs diverge from rounding; their accuracy and capacity usage are one distribution."""
    configs = SMALL.replace(widths=(60, 60), max_epochs=15, c=0.75).grid(seed=range(10))
    together, alone = trainers_of(configs), trainers_of(configs)
    train(together)
    for trainer in alone:
        train([trainer])

    def ends(trainers):
        accuracy = [np.mean([row[2] for row in t.rows["accuracy"] if row[0] == 2]) for t in trainers]
        usage = [t.rows["tasks"][-1][5] / t.rows["tasks"][-1][4] for t in trainers]
        return np.array(accuracy), np.array(usage)

    for one, other in zip(ends(together), ends(alone), strict=True):
        assert one.std() > 0
        # the mean of each lies within the 95% t interval of the other, which is 2.26 standard errors wide
        for a, b in ((one, other), (other, one)):
            assert abs(a.mean() - b.mean()) <= 2.26 * a.std(ddof=1) / np.sqrt(10)


def test_runs_of_a_group_with_other_numbers_of_images_and_steps(tmp_path):
    """Classes of very different sizes, in another order for each run: some finish their epochs early."""
    rng = np.random.default_rng(1)
    y = np.repeat(np.arange(6), [40, 10, 25, 60, 13, 31])
    x = rng.integers(0, 256, (len(y), 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "uneven.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    base = RunConfig(dataset=f"npz:{tmp_path / 'uneven.npz'}", widths=(30, 20), batch_size=16, max_epochs=2)
    configs = base.grid(seed=range(5))
    together = trainers_of(configs)
    assert len({len(trainer.split.train) for trainer in together}) > 1
    train(together)
    for config, trainer in zip(configs, together, strict=True):
        (alone,) = trainers_of([config])
        train([alone])
        assert alone.steps == trainer.steps
        assert distance(alone, trainer) <= 1e-5


def test_runs_whose_tasks_have_different_numbers_of_classes():
    base = SMALL.replace(class_groups=((0, 1), (2, 3, 4, 5), (6, 7, 8)), n_tasks=None)
    configs = base.grid(seed=range(4))
    together = trainers_of(configs)
    assert len({len(trainer.sequence.tasks[0].classes) for trainer in together}) > 1
    train(together)
    for config, trainer in zip(configs, together, strict=True):
        (alone,) = trainers_of([config])
        train([alone])
        assert distance(alone, trainer) <= 1e-5


@pytest.mark.parametrize("kind", ["permuted", "mixed"])
def test_permuted_and_mixed_sequences_side_by_side(tmp_path, kind):
    if kind == "permuted":
        base = SMALL.replace(sequence="permuted", n_tasks=2, max_epochs=1)
    else:
        rng = np.random.default_rng(2)
        names = []
        for k in range(2):
            path = tmp_path / f"set{k}.npz"
            x = (rng.random((40, 8, 8)) * (90 + 160 * k)).astype(np.uint8)
            np.savez(path, x_train=x, y_train=np.arange(40) % 2, x_test=x[:8], y_test=np.arange(8) % 2)
            names.append(f"npz:{path}")
        base = SMALL.replace(dataset="+".join(names), n_tasks=2, batch_size=8)
    configs = base.grid(seed=range(4))
    together = trainers_of(configs)
    train(together)
    for config, trainer in zip(configs, together, strict=True):
        (alone,) = trainers_of([config])
        train([alone])
        assert distance(alone, trainer) <= 1e-5
    if kind == "mixed":
        assert len({t.sequence.order for t in together}) > 1


def test_a_run_that_stops_early_goes_on_with_its_next_task_and_leaves_when_it_is_done(monkeypatch):
    """Its patience is its own, and what is left of the group is what is paid for."""
    base = SMALL.replace(max_epochs=12, lr_min=0.04, task_order="fixed", c=0.0)
    configs = [base.replace(lr_patience=patience) for patience in (1, 2, 50)]
    sizes, tasks = [], []
    original = replicas.step

    def watch(network, state, *rest):
        sizes.append(len(state.e))
        return original(network, state, *rest)

    monkeypatch.setattr(replicas, "step", watch)
    # no epoch is better than the first: each run's patience decides how long its tasks are
    monkeypatch.setattr(replicas.ReplicaState, "validate", lambda self, trainers: [(1.0, 0.5)] * len(trainers))
    together = trainers_of(configs)
    group = ReplicaGroup(together)
    group.train(lambda trainer: tasks.append(tuple(t.task for t in together)), QUIET)
    epochs = [[row[2] for row in trainer.rows["tasks"]] for trainer in together]
    assert epochs == [[2, 2, 2], [3, 3, 3], [12, 12, 12]]
    assert any(max(now) - min(now) >= 1 for now in tasks)
    steps = [t.steps for t in together]
    assert sum(sizes) == sum(steps)  # no step is taken for a run that has left
    assert len(sizes) == max(steps)  # and none twice for those that stay
    assert sizes[0] == 3 and sizes[-1] == 1
    for config, trainer in zip(configs, together, strict=True):
        (alone,) = trainers_of([config])
        train([alone])
        assert distance(alone, trainer) <= 1e-5


def test_a_run_that_diverges_leaves_and_the_others_end_as_they_would():
    configs = [SMALL, SMALL.replace(learning_rate=1e30), SMALL.replace(seed=1)]
    together = trainers_of(configs)
    group = train(together)
    ((trainer, error),) = group.diverged
    assert trainer is together[1] and "task 1" in str(error)
    for i in (0, 2):
        (alone,) = trainers_of([configs[i]])
        train([alone])
        assert together[i].finished
        assert distance(alone, together[i]) <= 1e-5


def test_runs_that_stand_at_different_epochs_go_on_together(tmp_path):
    """As after a kill: each was saved at another moment."""
    configs = SMALL.grid(seed=[0, 1], c=[0.1, 0.75])
    whole = trainers_of(configs)
    train(whole)
    states = []
    for k, trainer in enumerate(trainers_of(configs)):
        group = ReplicaGroup([trainer])
        for _ in range(k):
            group.train(lambda trainer: None, QUIET, epochs=1)
        torch.save(trainer.state_dict(), tmp_path / f"{k}.pt")
        states.append((trainer.task, trainer.within and trainer.within["epoch"]))
    assert len(set(states)) == 4
    rest = trainers_of(configs)
    for k, trainer in enumerate(rest):
        trainer.load_state_dict(torch.load(tmp_path / f"{k}.pt", weights_only=True))
    train(rest)
    for a, b in zip(whole, rest, strict=True):
        assert distance(a, b) <= 1e-5
        assert [row[:2] for row in a.rows["epochs"]] == [row[:2] for row in b.rows["epochs"]]


def test_a_saved_state_holds_one_run_and_not_its_group(tmp_path):
    configs = SMALL.grid(seed=range(8))
    group, (alone,) = trainers_of(configs), trainers_of(configs[:1])
    ReplicaGroup(group).train_epoch()
    ReplicaGroup([alone]).train_epoch()
    torch.save(group[0].state_dict(), tmp_path / "group.pt")
    torch.save(alone.state_dict(), tmp_path / "alone.pt")
    sizes = [(tmp_path / f"{name}.pt").stat().st_size for name in ("group", "alone")]
    assert sizes[0] < 1.1 * sizes[1]


def test_what_runs_may_not_share_is_named():
    assert set(engine.SHARED) <= set(RunConfig.model_fields)
    free = {
        "seed",
        "c",
        "s_max",
        "mode",
        "learning_rate",
        "task_order",
        "lr_patience",
        "lr_factor",
        "lr_min",
        "max_epochs",
    }
    assert not free & set(engine.SHARED)


class Replayed:
    """In the place of a CUDA graph: the same fixed inputs and shapes, the step taken anew each time."""

    def __init__(self, take, inputs, device):
        self.take, self.inputs = take, {name: torch.zeros_like(values) for name, values in inputs.items()}

    def replay(self, values):
        for name, value in values.items():
            self.inputs[name].copy_(value)
        return self.take(self.inputs)


def test_what_a_captured_step_is_given_makes_the_same_runs(monkeypatch):
    """Fixed shapes: runs that have fewer steps, or are finished, idle until half have left."""
    graphs, memory = [], []

    def record(take, inputs, device):
        graphs.append(len(inputs["s"]))
        memory.append(None)
        return Replayed(take, inputs, device)

    original = replicas.step

    def watch(network, state, hyper, context, batch):
        # a graph reads the memory that it was recorded with
        held = [t.data_ptr() for t in (*state.parameters.values(), state.e, *hyper[:3], *context[:3])]
        assert memory[-1] in (None, held)
        memory[-1] = held
        return original(network, state, hyper, context, batch)

    monkeypatch.setattr(replicas, "StepGraph", record)
    monkeypatch.setattr(replicas, "step", watch)
    base = SMALL.replace(batch_size=64)
    # 50 steps at most, as promised: over more, a difference in the last bit of an embedding grows, on some CPUs
    # to 2e-4 within 200
    configs = [base.replace(seed=seed, max_epochs=epochs) for seed, epochs in enumerate((1, 1, 2, 3, 4))]
    trainers = trainers_of(configs)
    group = ReplicaGroup(trainers)
    group.captured = True
    group.train(lambda trainer: None, QUIET)
    # first tasks, then with something to protect, and when half of the runs have left
    assert graphs[0] == 5 and graphs[-1] == 1 and len(graphs) <= 5
    monkeypatch.undo()
    for config, trainer in zip(configs, trainers, strict=True):
        (alone,) = trainers_of([config])
        train([alone])
        assert trainer.finished
        assert distance(alone, trainer) <= 1e-5
        assert [row[:3] for row in alone.rows["tasks"]] == [row[:3] for row in trainer.rows["tasks"]]
