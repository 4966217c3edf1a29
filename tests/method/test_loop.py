"""The loop that one reads and the engine that trains make the same runs, whatever parameter is changed.

They are compared in float64. In float32, 1 - m of an open unit is a few steps of 6e-8 from 0, so that the last bit of a
sum decides over a good part of its embedding's gradient: loop and engine, whose products round differently on some
CPUs, would then be 1e-2 apart after fifty steps, and both right.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import hatlab
from hatlab.config import ConfigError, RunConfig
from hatlab.data.loading import Images
from hatlab.data.tasks import make_sequence
from hatlab.experiments.forgetting.tables import joint_config
from hatlab.method.loop import train_task
from hatlab.method.networks import HATNetwork
from hatlab.support.progress import Progress
from hatlab.training import trainer as training
from hatlab.training.baselines import ewc
from hatlab.training.dropout_rng import DropoutRNG
from hatlab.training.engine import ReplicaGroup
from hatlab.training.grouping import compatible
from hatlab.training.trainer import Trainer

CPU = torch.device("cpu")
DOUBLE, SINGLE = torch.float64, torch.float32
TOLERANCE = {DOUBLE: 1e-7, SINGLE: 1e-5}
# 4 steps an epoch, 48 in all
BASE = RunConfig(widths=(30, 20), batch_size=64, max_epochs=6, n_tasks=2)


class Learnt(NamedTuple):
    """What a run has learnt.

    Attributes:
        network: parameter name -> value.
        cumulative: (all units,) mask after the last task.
        losses: (epochs, 2), means over each epoch's steps of cross-entropy and c R.
        steps: how many were taken.
    """

    network: dict[str, torch.Tensor]
    cumulative: torch.Tensor
    losses: np.ndarray
    steps: int


def trainers_of(configs, dtype):
    sequences = [make_sequence(config) for config in configs]
    images = Images.of(sequences[0].datasets, CPU)
    scale, shift = (tuple(value.to(dtype) for value in values) for values in (images.scale, images.shift))
    images = replace(images, scale=scale, shift=shift)
    trainers = [Trainer(config, sequence, images) for config, sequence in zip(configs, sequences, strict=True)]
    for trainer in trainers:
        trainer.cumulative = trainer.cumulative.to(dtype)
        if dtype == DOUBLE:
            trainer.network.double()
    return trainers


def by_engine(configs, dtype=DOUBLE):
    """Train runs as a sweep does: those that can share a step side by side."""
    learnt = {}
    for kind in compatible(configs, lambda config: config):
        trainers = trainers_of(kind, dtype)
        group = ReplicaGroup(trainers)
        group.train(lambda trainer: None, Progress())
        assert not group.diverged
        for config, trainer in zip(kind, trainers, strict=True):
            epochs = np.array([(row[2], row[3]) for row in trainer.rows["epochs"]])  # CE + c R, R
            losses = np.stack((epochs[:, 0] - config.c * epochs[:, 1], config.c * epochs[:, 1]), 1)
            state = {name: p.detach() for name, p in trainer.network.named_parameters()}
            learnt[config] = Learnt(state, trainer.cumulative, losses, trainer.steps)
    return [learnt[config] for config in configs]


def by_loop(config, dtype=DOUBLE):
    """Train the same run with the loop: it starts from the same weights, and draws the same order and dropout."""
    (start,) = trainers_of([config], dtype)
    network, steps, epochs = start.network, [], []
    shapes = [(config.batch_size, *shape) for shape in network.dropout_shapes]
    dropout_rng = DropoutRNG(shapes, network.dropout, CPU)

    def forward(x, task, mask):
        if not network.training:
            return HATNetwork.forward(network, x, task, mask)
        position = torch.tensor([dropout_rng.position(start.dropout_rng, len(steps))])
        masks = [factors if factors is None else factors[0, : len(x)] for factors in dropout_rng.draw(position)]
        return HATNetwork.forward(network, x, task, mask, masks)

    network.forward = forward

    nothing = torch.zeros(network.gates.shape[1])
    cumulative, protected, springs = nothing, nothing, {}
    for task, data in enumerate(start.data):
        train, valid = (split.batch(torch.arange(len(split))) for split in (data.train, data.valid))
        before = len(steps)
        hooks = [hold(network.get_parameter(name), *spring) for name, spring in springs.items()]
        done = train_task(
            network, task, *train, protected, config, valid,
            generator=start.order, after_step=lambda *losses: steps.append(losses),
        )  # fmt: skip
        for hook in hooks:
            hook.remove()
        an_epoch = -(-len(data.train) // config.batch_size)
        epochs += torch.tensor(steps[before:]).reshape(-1, an_epoch, 2).mean(1).tolist()
        cumulative = hatlab.update_cumulative_mask(cumulative, done)
        protected = {"hat": done, "sgd_frozen": cumulative}.get(config.method, nothing)
        if config.method == "ewc":
            springs = {
                name: (network.get_parameter(name).detach().clone(), config.ewc_lambda * information)
                for name, information in ewc.fisher(network, task, data.train).items()
            }
    state = {name: p.detach() for name, p in network.named_parameters()}
    return Learnt(state, cumulative, np.array(epochs), len(steps))


def hold(p, anchor, stiffness):
    """Add the gradient of half of `stiffness` times the squared distance from `anchor`, whenever `p` gets one."""
    return p.register_hook(lambda gradient: gradient + stiffness * (p.detach() - anchor))


def distance(one, other):
    """The largest difference of two runs in any parameter or mask."""
    pairs = [(one.network[name], other.network[name]) for name in one.network]
    return max(float((a - b).abs().max()) for a, b in [*pairs, (one.cumulative, other.cumulative)])


def assert_equal(engine, loop, dtype=DOUBLE):
    assert engine.steps == loop.steps
    assert distance(engine, loop) <= TOLERANCE[dtype]
    np.testing.assert_allclose(engine.losses, loop.losses, atol=TOLERANCE[dtype])


def assert_different(one, other):
    """So a field that both engine and loop ignore is noticed."""
    assert one.losses.shape != other.losses.shape or np.abs(one.losses - other.losses).max() > 1e-3


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """images("colour"), images("grey 28"): the name of a set of four classes, blurred noise around a mean for each."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)

    def make(name, side, channels, each):
        means = rng.integers(60, 196, (4, side, side, channels))

        def draw(labels):
            return (means[labels] + rng.normal(0, 30, (len(labels), side, side, channels))).clip(0, 255)

        y, test = np.arange(4).repeat(each), np.arange(4).repeat(4)
        path = folder / f"{name}.npz"
        np.savez(path, x_train=draw(y).astype(np.uint8), y_train=y, x_test=draw(test).astype(np.uint8), y_test=test)
        return f"npz:{path}"

    names = {"colour": make("colour", 8, 3, 60), "grey 28": make("grey", 28, 1, 30)}
    return names.__getitem__


# --- the same numbers -------------------------------------------------------------------------------------------------

MODES = [{"mode": "original"}, {"mode": "cross"}, {"mode": "reuse"}, {"c": 0.0}]


def small_cnn(shape, classes, dropout, embedding_init, gated):
    """In the place of `HATCNN`, with its kinds of layers in its order."""
    trunk = {"c1": nn.Conv2d(3, 12, 3), "c2": nn.Conv2d(12, 16, 2), "fc1": nn.Linear(16, 30), "fc2": nn.Linear(30, 20)}
    low, high = dropout
    return HATNetwork(trunk, shape, classes, [low, low, high, high], 0.0, embedding_init, gated)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_engine_and_loop_agree_over_fifty_steps_of_two_tasks(images, monkeypatch, network):
    """In every mode, side by side; dropout is on, and in the second task the first one's weights are protected."""
    base = BASE.replace(batch_size=50)  # 5 steps an epoch
    if network == "cnn":
        monkeypatch.setattr(training, "HATCNN", small_cnn)
        base = BASE.replace(dataset=images("colour"), network="cnn", batch_size=21)  # 5 steps an epoch
    assert all(base.dropout)
    configs = [base.replace(**mode) for mode in MODES]
    for config, engine in zip(configs, by_engine(configs), strict=True):
        assert engine.steps >= 50
        assert_equal(engine, by_loop(config))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_engine_and_loop_have_the_same_losses_in_float32(mode):
    config = BASE.replace(**mode)
    (engine,), loop = by_engine([config], SINGLE), by_loop(config, SINGLE)
    np.testing.assert_allclose(engine.losses, loop.losses, atol=TOLERANCE[SINGLE])


def test_engine_and_loop_agree_over_fifty_steps_of_the_authors_cnn(images):
    config = RunConfig(dataset=images("grey 28"), network="cnn", batch_size=10, max_epochs=5, validation=0.17)
    (engine,) = by_engine([config])
    assert engine.steps >= 50
    assert_equal(engine, by_loop(config))


# --- every field ------------------------------------------------------------------------------------------------------

# Field -> a value away from its default, and what else both runs have where it would make no difference to BASE.
NOISY = {"c": 0.0, "learning_rate": 1.0, "dropout": (0.0, 0.0), "max_epochs": 8}  # the validation loss rises at times
PLAIN = {"method": "sgd", "c": 0.0}
CHANGED = {
    "dataset": ("colour", {}),
    "sequence": ("permuted", {"dataset": "colour"}),
    "classes_per_task": (5, {}),
    "class_groups": (((3, 1), (0, 7, 4)), {"n_tasks": None, "max_epochs": 4}),
    "n_tasks": (3, {"max_epochs": 4}),
    "task_order": ("fixed", {}),
    "validation": ("train", {}),
    "network": ("cnn", {"dataset": "grey 28", "batch_size": 32, "max_epochs": 2}),
    "widths": ((24, 33, 17), {}),
    "dropout": ((0.1, 0.3), {}),
    "method": ("sgd_frozen", PLAIN),
    "c": (2.5, {}),
    "mode": ("cross", {}),
    "min_units": (45, {}),  # in the second task fewer are free
    "s_max": (50.0, {}),
    "schedule": ("paper", {}),
    "compensation": ("exact", {}),
    "gate_precision": ("float64", {"s_max": 60.0}),  # in float32, with slopes for which its steps are small
    "embedding_init": ("uniform", {}),
    "embedding_clamp": (0.5, {}),
    "cosh_clamp": (5.0, {}),
    "batch_size": (50, {}),
    "max_epochs": (3, {}),
    "learning_rate": (0.2, {}),
    "lr_patience": (1, NOISY),
    "lr_factor": (10.0, NOISY | {"lr_patience": 1}),
    "lr_min": (0.9, NOISY | {"lr_patience": 1}),
    "grad_clip": (0.5, {}),
    "ewc_lambda": (50.0, {"method": "ewc", "c": 0.0, "batch_size": 16, "max_epochs": 1}),
    "seed": (1, {}),
}
REFUSED = ("momentum", "weight_decay")  # any value but the default is an error


def pair(field, images, base=BASE):
    """Two configs that differ in one field, the first with its default where BASE has it."""
    value, context = CHANGED[field]
    named = {"dataset": images(context["dataset"])} if "dataset" in context else {}
    one = base.replace(**{**context, **named})
    return one, one.replace(**{field: images(value) if field == "dataset" else value})


def test_every_field_of_a_config_is_changed_here_or_refused():
    """A new field has to be handled: by engine, loop and, where it applies, joint training."""
    assert sorted([*CHANGED, *REFUSED]) == sorted(RunConfig.model_fields)
    for field in REFUSED:
        with pytest.raises(ConfigError, match=f"{field} = 0.5: must be 0"):
            RunConfig(**{field: 0.5})


@pytest.mark.parametrize("field", CHANGED)
def test_engine_and_loop_agree_with_one_field_changed(images, field):
    """The two runs are trained as a sweep trains them: side by side if runs may differ in that field."""
    configs, dtype = pair(field, images), SINGLE if field == "gate_precision" else DOUBLE
    loops = [by_loop(config, dtype) for config in configs]
    for engine, loop in zip(by_engine(configs, dtype), loops, strict=True):
        assert_equal(engine, loop, dtype)
    assert_different(*loops)


# --- joint training ---------------------------------------------------------------------------------------------------

# What a network without gates does not know of, and what makes joint training what it is.
OF_GATES = ("mode", "min_units", "s_max", "compensation", "gate_precision", "embedding_init")
NOT_OF_JOINT = (*OF_GATES, "embedding_clamp", "cosh_clamp", "ewc_lambda", "c", "method")
OF_SEVERAL_TASKS = ("n_tasks", "task_order")


@pytest.mark.parametrize("field", [field for field in CHANGED if field not in (*NOT_OF_JOINT, *OF_SEVERAL_TASKS)])
def test_joint_training_of_one_task_and_loop_agree_with_one_field_changed(images, field):
    configs = [
        config.replace(class_groups=config.class_groups and config.class_groups[:1], n_tasks=1)
        for config in pair(field, images, BASE.replace(**PLAIN))
    ]
    loops = [by_loop(config) for config in configs]
    for config, loop in zip(configs, loops, strict=True):
        (joint,) = by_engine([config.replace(method="joint")])
        assert_equal(joint, loop)
    assert_different(*loops)


@pytest.mark.parametrize("field", CHANGED)
def test_runs_that_differ_in_what_joint_training_does_not_read_share_one_joint_run(images, field):
    one, other = (joint_config(config) for config in pair(field, images))
    assert (one == other) is (field in NOT_OF_JOINT)


# --- the loop by itself -----------------------------------------------------------------------------------------------

QUICK = RunConfig(max_epochs=2, batch_size=16)


def small_task(n=40, classes=2, seed=0):
    """Images (n, 1, 4, 4) whose label is read off their first pixels, so that a network learns them."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    x = torch.randn(n, 1, 4, 4, generator=draw)
    x[:, 0, 0] += 3 * torch.eye(4)[y]
    return x, y


def small_network(**arguments):
    torch.manual_seed(0)
    return hatlab.HATMLP((1, 4, 4), [2, 2], (24, 16), **arguments)


def nothing_taken(network):
    return torch.zeros(network.gates.shape[1])


def test_two_tasks_are_learnt_and_the_first_is_kept():
    network, config = small_network(dropout=(0.0, 0.0)), RunConfig(max_epochs=20, batch_size=16, c=0.1)
    tasks = [small_task(200, seed=seed) for seed in (0, 1)]
    cumulative, logits = nothing_taken(network), []
    for task, (x, y) in enumerate(tasks):
        cumulative = train_task(network, task, x, y, cumulative, config)
        with torch.no_grad():
            logits.append(network(tasks[0][0], 0, network.mask(0, config.s_max)))
            assert (network(x, task, network.mask(task, config.s_max)).argmax(1) == y).float().mean() > 0.95
        assert not network.training and not cumulative.requires_grad
    assert 0 < (cumulative == 1).sum() < len(cumulative)
    torch.testing.assert_close(*logits, atol=1e-2, rtol=0)


def test_the_networks_dropout_is_on_in_training():
    x, y = small_task()
    losses = []
    for dropout in ((0.0, 0.0), (0.2, 0.5)):
        seen = []
        network = small_network(dropout=dropout)
        train_task(network, 0, x, y, nothing_taken(network), QUICK.replace(batch_size=40),
                   after_step=lambda ce, penalty, seen=seen: seen.append(float(ce)))  # fmt: skip
        losses.append(seen[0])
    assert losses[0] != losses[1]


def test_the_epoch_with_the_lowest_validation_loss_is_kept():
    """Validation labels are the opposite: every epoch is worse than the first."""
    x, y = small_task(200)
    ends = []
    for epochs in (1, 6):
        network = small_network(dropout=(0.0, 0.0))
        order = torch.Generator().manual_seed(0)
        config = RunConfig(max_epochs=epochs, batch_size=16, learning_rate=0.5, c=0.0)
        train_task(network, 0, x, y, nothing_taken(network), config, (x, 1 - y), generator=order)
        ends.append(network.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": 2}, "task = 2: the network has tasks 0 to 1"),
        ({"images": torch.zeros(40, 16)}, r"images have shape \(40, 16\) .* \(n, 1, 4, 4\) and torch.float32"),
        ({"images": torch.zeros(40, 1, 4, 4).double()}, "type torch.float64"),
        ({"images": torch.zeros(0, 1, 4, 4), "labels": torch.zeros(0).long()}, r"images have shape \(0, 1, 4, 4\)"),
        ({"labels": torch.full((40,), 3)}, r"lie in 3 .. 3: \(40,\) and 0 .. 1 are needed for task 0"),
        ({"labels": torch.zeros(39).long()}, r"labels have shape \(39,\)"),
        ({"valid": (torch.zeros(1, 1, 4, 4), torch.tensor([2]))}, "lie in 2 .. 2"),
        ({"cumulative": torch.zeros(39)}, r"shape \(39,\): the last axis must have all 40 units"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_step(change, message):
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, labels = small_task()
    given = {"task": 0, "images": images, "labels": labels, "cumulative": nothing_taken(network), "valid": None}
    with pytest.raises(ValueError, match=message):
        train_task(network, config=QUICK, **(given | change))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_rate_that_is_far_too_high_ends_in_an_error():
    network = small_network()
    with pytest.raises(FloatingPointError, match=r"the validation loss is .* after epoch 1"):
        train_task(network, 0, *small_task(), nothing_taken(network), QUICK.replace(learning_rate=1e30))
