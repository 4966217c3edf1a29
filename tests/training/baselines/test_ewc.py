"""EWC: its Fisher information by hand, and what its springs do."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hatlab.analysis.metrics import backward_transfer
from hatlab.config import RunConfig
from hatlab.data.loading import Images
from hatlab.data.tasks import make_sequence
from hatlab.support.progress import Progress
from hatlab.training.baselines import ewc
from hatlab.training.engine import ReplicaGroup
from hatlab.training.runs import run
from hatlab.training.trainer import Trainer

SMALL = RunConfig(method="ewc", c=0, widths=(30, 20), dropout=(0, 0), batch_size=32, max_epochs=3, n_tasks=2)


def trainer_of(config):
    sequence = make_sequence(config)
    return Trainer(config, sequence, Images.of(sequence.datasets, torch.device("cpu")))


def test_the_fisher_information_is_the_mean_of_squared_gradients_of_batches():
    trainer = trainer_of(SMALL)
    network, data = trainer.network.eval(), trainer.data[0].train
    found = ewc.fisher(network, 0, data)
    assert set(found) == {name for name, _ in network.named_parameters() if name.startswith("trunk.")}
    expected = {name: np.zeros(value.shape) for name, value in found.items()}
    for first in range(0, len(data), 20):
        rows = torch.arange(first, min(first + 20, len(data)))
        x, y = data.batch(rows)
        network.zero_grad()
        F.cross_entropy(network(x, 0, torch.ones(50)), y).backward()
        for name in expected:
            gradient = dict(network.named_parameters())[name].grad.double().numpy()
            expected[name] += len(rows) / len(data) * gradient**2
    for name, value in found.items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-4, atol=1e-12)


def test_the_penalty_is_half_of_stiffness_times_squared_distance():
    anchors = {"w": (torch.tensor([1.0, 2.0]), torch.tensor([10.0, 4.0]))}
    assert ewc.penalty({"w": torch.tensor([2.0, 5.0])}, anchors) == (10 * 1 + 4 * 9) / 2
    assert ewc.penalty({"w": torch.tensor([2.0, 5.0])}, {}) == 0


def test_a_step_adds_the_gradient_of_the_penalty():
    """In the second task a run with springs moves by the spring's pull beside one without."""
    with_springs, without = trainer_of(SMALL), trainer_of(SMALL.replace(ewc_lambda=0.0))
    for trainer in (with_springs, without):
        trainer.task = 1
        values = dict(trainer.network.named_parameters())
        trainer.anchors = {
            name: (values[name].detach() - 0.01, torch.full_like(values[name], 2.0))
            for name in values
            if name.startswith("trunk.")
        }
    without.anchors = {}
    before = {name: p.detach().clone() for name, p in without.network.named_parameters()}
    one_step = SMALL.replace(batch_size=10_000)
    for trainer in (with_springs, without):
        trainer.config = one_step
        ReplicaGroup([trainer]).train_epoch()
    after = dict(with_springs.network.named_parameters())
    for name, p in without.network.named_parameters():
        pull = -0.05 * 2.0 * 0.01 if name.startswith("trunk.") else 0.0
        torch.testing.assert_close(after[name] - p, torch.full_like(p, pull), atol=1e-6, rtol=1e-3)
    assert any(not torch.equal(before[name], p) for name, p in without.network.named_parameters())


def test_fisher_information_is_averaged_over_tasks():
    trainer = trainer_of(SMALL.replace(n_tasks=3, max_epochs=1))
    seen = []
    own = trainer._anchors

    def watch():
        seen.append(({name: k for name, (_, k) in trainer.anchors.items()}, own()))
        return seen[-1][1]

    trainer._anchors = watch
    ReplicaGroup([trainer]).train(lambda _: None, Progress())
    assert len(seen) == 3 and seen[0][0] == {}
    before, now = seen[2]
    last = ewc.fisher(trainer.network, 2, trainer.data[2].train)
    for name, (_, stiffness) in now.items():
        torch.testing.assert_close(stiffness, (5000 * last[name] + 2 * before[name]) / 3)


def test_stiff_springs_forget_less(tmp_path):
    config = SMALL.replace(n_tasks=5, batch_size=16, max_epochs=15, task_order="fixed")
    loose, stiff = (run(config.replace(ewc_lambda=k), results=tmp_path) for k in (0.0, 1e6))
    assert backward_transfer(stiff.accuracy) > backward_transfer(loose.accuracy)


def test_a_run_without_springs_is_plain_sgd(tmp_path):
    loose = run(SMALL.replace(ewc_lambda=0.0), results=tmp_path)
    plain = run(SMALL.replace(method="sgd"), results=tmp_path)
    assert loose.accuracy.drop(columns="run").equals(plain.accuracy.drop(columns="run"))


@pytest.mark.parametrize("stop", [1, 4])
def test_a_run_goes_on_with_its_springs(stop):
    whole, resumed = trainer_of(SMALL), trainer_of(SMALL)
    epochs = 0
    saved = None

    def note(trainer):
        nonlocal epochs, saved
        epochs += 1
        if epochs == stop:
            saved = copy.deepcopy(trainer.state_dict())

    ReplicaGroup([whole]).train(note, Progress())
    resumed.load_state_dict(saved)
    ReplicaGroup([resumed]).train(lambda _: None, Progress())
    for p, q in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(p, q)


def test_runs_with_springs_train_side_by_side_as_they_do_alone():
    """They enter their second tasks at different epochs: one has springs beside one that has none yet."""
    configs = SMALL.grid(seed=[0, 1, 2])
    configs[1] = configs[1].replace(max_epochs=5)
    together, alone = ([trainer_of(config) for config in configs] for _ in range(2))
    ReplicaGroup(together).train(lambda _: None, Progress())
    for trainer in alone:
        ReplicaGroup([trainer]).train(lambda _: None, Progress())
    for one, other in zip(together, alone, strict=True):
        for p, q in zip(one.network.parameters(), other.network.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)
