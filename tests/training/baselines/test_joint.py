"""Joint training: of one task it is plain training; of several it is SGD on the pooled loss, anew for each."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hatlab.config import RunConfig
from hatlab.data.loading import Images
from hatlab.data.tasks import make_sequence
from hatlab.support.progress import Progress
from hatlab.training.baselines.joint import JointState
from hatlab.training.engine import ReplicaGroup
from hatlab.training.runs import run
from hatlab.training.trainer import Trainer, build_network

JOINT = RunConfig(method="joint", c=0, widths=(30, 20), batch_size=32, max_epochs=3, n_tasks=3)


def trainer_of(config):
    sequence = make_sequence(config)
    return Trainer(config, sequence, Images.of(sequence.datasets, torch.device("cpu")))


def test_joint_training_of_one_task_is_plain_training():
    """The same order, dropout and steps, by another program."""
    one = JOINT.replace(n_tasks=1)
    joint, plain = trainer_of(one), trainer_of(one.replace(method="sgd"))
    for trainer in (joint, plain):
        ReplicaGroup([trainer]).train(lambda _: None, Progress())
    for p, q in zip(joint.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-5)
    assert [row[5] for row in joint.rows["epochs"]] == [row[5] for row in plain.rows["epochs"]]


def test_an_epoch_is_sgd_on_the_pooled_loss():
    """One step over all images of three tasks, against autograd on the mean over images."""
    whole = JOINT.replace(batch_size=10_000, dropout=(0, 0))
    trainer, reference = trainer_of(whole), trainer_of(whole)
    trainer.task = 2
    losses = ReplicaGroup([trainer]).train_epoch()[0]
    network = reference.network
    total, n = 0.0, 0
    for task in range(3):
        split = reference.data[task].train
        x, y = split.batch(torch.arange(len(split)))
        total = total + F.cross_entropy(network(x, task, torch.ones(50)), y, reduction="sum")
        n += len(split)
    loss = total / n
    np.testing.assert_allclose(losses, [[loss.item(), 0]], rtol=1e-5)
    loss.backward()
    for name, p in network.named_parameters():
        now = dict(trainer.network.named_parameters())[name]
        expected = p if p.grad is None else p - 0.05 * p.grad
        torch.testing.assert_close(now, expected, atol=1e-6, rtol=1e-4)


def test_each_task_starts_from_the_initial_weights():
    trainer = trainer_of(JOINT)
    initial = build_network(JOINT, trainer.sequence).state_dict()
    starts = []

    class Watch(Progress):
        def task_done(self, run_id, task, epochs, accuracy, usage):
            if task < 2:
                trainer.begin_epoch()
                starts.append({name: value.clone() for name, value in trainer.network.state_dict().items()})

    ReplicaGroup([trainer]).train(lambda _: None, Watch())
    assert len(starts) == 2
    for start in starts:
        assert all(torch.equal(start[name], initial[name]) for name in initial)


def test_joint_training_forgets_nothing_and_leaves_all_tables(tmp_path):
    config = JOINT.replace(batch_size=16, max_epochs=15, dropout=(0, 0), task_order="fixed")
    joint = run(config, results=tmp_path)
    sequential = run(config.replace(method="sgd"), results=tmp_path)
    last = [table.query("after_task == 2")["accuracy"].mean() for table in (joint.accuracy, sequential.accuracy)]
    assert last[0] > 0.95 and last[0] > last[1]
    assert len(joint.accuracy) == 6 and joint.tasks["epochs"].tolist() == [15] * 3
    assert (joint.capacity["weights_used"] == joint.capacity["weights"]).all()


def test_a_joint_run_goes_on_where_it_was():
    whole, resumed = trainer_of(JOINT), trainer_of(JOINT)
    states = []
    ReplicaGroup([whole]).train(lambda trainer: states.append(copy.deepcopy(trainer.state_dict())), Progress())
    resumed.load_state_dict(states[4])
    ReplicaGroup([resumed]).train(lambda _: None, Progress())
    for p, q in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_no_step_copies_anything_to_the_device(monkeypatch, n_tasks):
    """Twice as many steps in an epoch make not one tensor more from Python's values, and move not one more."""

    def moved(batch_size):
        trainer, calls = trainer_of(JOINT.replace(batch_size=batch_size)), []
        trainer.task = n_tasks - 1
        trainer.begin_epoch()
        to, tensor = torch.Tensor.to, torch.tensor

        def watch(self, *arguments, **named):
            device = named.get("device", arguments[0] if arguments else None)
            if isinstance(device, torch.device):
                calls.append("to")
            return to(self, *arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "to", watch)
            patch.setattr(torch, "tensor", lambda *a, **k: calls.append("tensor") or tensor(*a, **k))
            (losses,) = JointState().epoch([trainer], lambda: None)
        return len(losses), calls

    (few, calls), (many, others) = moved(64), moved(16)
    assert many > 2 * few
    assert calls == others and calls
