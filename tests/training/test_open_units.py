"""A step over the open units computes what a step over all of them does."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.config import RunConfig
from hatlab.method.networks import HATMLP
from hatlab.training import open_units, replicas
from hatlab.training import trainer as training
from hatlab.training.engine import ReplicaGroup
from hatlab.training.open_units import leave_out_closed, multiplications, open_parameters, skips_closed_units
from hatlab.training.parts import Part
from hatlab.training.torch_settings import torch_settings
from hatlab.training.trainer import evaluate
from tests.training.test_engine import CPU, QUIET, Replayed, distance, images_of_size, small_cnn, train, trainers_of

BASE = RunConfig(widths=(100, 83), batch_size=16, max_epochs=6, n_tasks=2, task_order="shuffled")


@pytest.fixture(autouse=True)
def small_networks_too(monkeypatch):
    """Their products are too small to be worth it. Half of the layers' sizes are made to be left out in small steps."""
    monkeypatch.setattr(open_units, "ENOUGH", 0)
    monkeypatch.setattr(open_units, "LINEAR_UNITS", 8)
    monkeypatch.setattr(open_units, "FILTERS", 2)
    monkeypatch.setattr(replicas, "LOOK_EVERY", 2)


def parts_seen(monkeypatch):
    """Remember the sizes of all parts that are made."""
    sizes, make = [], Part.copy_in

    def watch(self, units):
        sizes.append(self.sizes)
        return make(self, units)

    monkeypatch.setattr(Part, "copy_in", watch)
    return sizes


def recorded(config, monkeypatch, skip, steps, moved=0.0):
    """Train the first task; return (steps, values): losses, weights and embedding. The first weights begin `moved`."""
    (run,), history = trainers_of([config]), []
    with torch.no_grad():
        next(run.network.trunk.parameters()).mul_(1 + moved)

    def after_step(trainer, k, losses):
        if len(history) < steps:
            history.append(torch.cat([losses, *(p.flatten() for p in trainer.trained().values())]).clone())

    with monkeypatch.context() as patch, torch_settings(run.network, 1, 1, CPU):
        patch.setattr(open_units, "SKIP", skip)
        group = ReplicaGroup([run], after_step=after_step)
        while len(history) < steps:
            group.train_epoch()
    return torch.stack(history)


def of_network(tmp_path, monkeypatch, network, **changes):
    """A config of an MLP on digits, or of a network of the CNN's kinds of layers on made images."""
    if network == "cnn":
        monkeypatch.setattr(training, "HATCNN", small_cnn)
        changes |= {"dataset": f"npz:{images_of_size(tmp_path, 28, classes=4, each=120)}", "network": "cnn"}
    return BASE.replace(**changes)


def compared_step_by_step(run, epochs):
    """Train so many epochs, and take each step also on all units, from where the run stands.

    Returns the largest difference of losses, weights and embedding after each step that left units out, and in each
    step the sizes of the layers and how many of their units could move.
    """
    group, sizes, apart, moving, step = ReplicaGroup([run]), [], [], [], replicas.step

    def both(network, state, hyper, context, batch):
        (part,), whole = group._state._parts, group._state.whole
        sizes.append(part.sizes)
        moving.append(part.moving)
        if part.layout is whole:
            return step(network, state, hyper, context, batch)
        part.copy_back()
        held = [*whole.state.parameters.values(), whole.state.e]
        before = [value.clone() for value in held]
        drawn = whole.dropout_rng.draw(part.layout.position - whole.dropout_rng.stride)
        masks = [factors if factors is None else factors[:, : batch.y.shape[1]] for factors in drawn]
        expected = step(network, whole.state, whole.hyper, whole.context, batch._replace(dropout_masks=masks))
        of_all = [value.clone() for value in held]
        for value, old in zip(held, before, strict=True):
            value.copy_(old)
        losses = step(network, state, hyper, context, batch)
        part.copy_back()
        pairs = [(losses, expected), *zip(held, of_all, strict=True)]
        finite = [(one.nan_to_num(neginf=0), other.nan_to_num(neginf=0)) for one, other in pairs]
        apart.append(max(float((one - other).abs().max()) for one, other in finite))
        return losses

    with pytest.MonkeyPatch.context() as patch, torch_settings(run.network, 1, 1, CPU):
        patch.setattr(replicas, "step", both)
        group.train(lambda trainer: None, QUIET, epochs)  # and what is frozen stays frozen bit by bit, or this raises
    return apart, sizes, moving


@pytest.mark.parametrize("mode", ["original", "cross", "reuse"])
@pytest.mark.parametrize("schedule", ["authors", "paper"])
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_each_step_is_that_of_all_units(tmp_path, monkeypatch, network, schedule, mode):
    """In 200 steps of two tasks, dropout on."""
    monkeypatch.setattr(open_units, "LARGE", 0)  # gradients of frozen weights, too
    monkeypatch.setattr(open_units, "MOVING_UNITS", 4)
    epochs = 7 if network == "mlp" else 10
    config = of_network(tmp_path, monkeypatch, network, schedule=schedule, mode=mode, max_epochs=epochs)
    (run,) = trainers_of([config])
    apart, sizes, moving = compared_step_by_step(run, 2 * epochs)
    assert run.finished and run.steps >= 200
    assert len(apart) > run.steps / 4
    # in one of a hundred steps a ReLU or a pooling may be decided by the last bit
    assert np.quantile(apart, 0.99) <= 1e-5 and max(apart) <= 1e-3
    work = [multiplications(run.network, held) for held in sizes]
    assert min(work) < 0.6 * max(work)
    assert any(a < b for step in zip(moving, sizes, strict=True) for a, b in zip(*step, strict=True))


@pytest.mark.parametrize("schedule", ["authors", "paper"])
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_fifty_steps_agree(tmp_path, monkeypatch, network, schedule):
    """One after the other: within 1e-5, or within what first weights change that are one in the last place off.

    Near s = 400 a last bit grows that much within an epoch, whatever it comes from.
    """
    config = of_network(tmp_path, monkeypatch, network, schedule=schedule)
    if schedule == "paper":  # an epoch of 100 steps: at its end, where s = 400, last bits grow to whole units
        (run,) = trainers_of([config])
        config = config.replace(batch_size=len(run.split.train) // 100)
    sizes = parts_seen(monkeypatch)
    one = recorded(config, monkeypatch, True, 50)
    assert len(set(sizes)) > 1
    other = recorded(config, monkeypatch, False, 50)
    assert len(one) == 50 and float((one[0] - one[-1]).abs().max()) > 1e-3
    last_place = [recorded(config, monkeypatch, False, 50, moved) for moved in (2**-24, -(2**-24), 2**-23)]
    control = max(float((moved - other).abs().max()) for moved in last_place)
    assert float((one - other).abs().max()) <= max(1e-5, control)
    assert float((one - other)[:20].abs().max()) <= 1e-5


@given(
    widths=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    c=st.sampled_from([0.0, 0.5, 2.5, 20.0]),
    s_max=st.sampled_from([5.0, 100.0, 400.0, 800.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_whatever_the_widths_c_and_s_max(widths, c, s_max, seed):
    (run,) = trainers_of([BASE.replace(widths=widths, c=c, s_max=s_max, seed=seed, batch_size=8)])
    apart, *_ = compared_step_by_step(run, 1)
    assert np.quantile([0, *apart], 0.95) <= 1e-5


def test_ten_seeds_end_alike(monkeypatch):
    """Whole runs diverge from rounding; accuracy and capacity usage have the same mean, within 95% intervals."""
    configs = BASE.replace(widths=(60, 60), max_epochs=15, classes_per_task=5).grid(seed=range(10))
    ends = []
    for skip in (True, False):
        monkeypatch.setattr(open_units, "SKIP", skip)
        trainers = trainers_of(configs)
        train(trainers)
        accuracy = [np.mean([row[2] for row in t.rows["accuracy"] if row[0] == 1]) for t in trainers]
        ends.append(np.array([accuracy, [t.rows["tasks"][-1][5] / t.rows["tasks"][-1][4] for t in trainers]]))
    one, other = ends
    assert (one.std(1) > 0).all()
    for values in ends:
        assert (abs(one.mean(1) - other.mean(1)) <= 2.26 * values.std(1, ddof=1) / np.sqrt(10)).all()


def test_on_one_thread_not_a_bit_depends_on_who_trains_beside():
    """Runs move from part to part by what they have open themselves."""
    configs = BASE.replace(max_epochs=4).grid(c=[0.5, 2.5], seed=[0, 1, 2])
    together, alone = trainers_of(configs), trainers_of(configs)
    with torch_settings(together[0].network, 1, 1, CPU):
        train(together)
        for trainer in alone:
            train([trainer])
    for one, other in zip(together, alone, strict=True):
        assert distance(one, other) == 0 and one.rows == other.rows


def test_a_run_goes_on_from_a_checkpoint_to_the_same_bits(monkeypatch):
    monkeypatch.setattr(open_units, "LARGE", 0)
    config = BASE.replace(max_epochs=4)
    (whole,), (first,), (second,) = (trainers_of([config]) for _ in range(3))
    with torch_settings(whole.network, 1, 1, CPU):
        train([whole])
        ReplicaGroup([first]).train(lambda trainer: None, QUIET, epochs=3)
        second.load_state_dict(first.state_dict())
        train([second])
    assert distance(whole, second) == 0 and whole.rows == second.rows


def test_captured_steps_hold_the_widest_of_the_group_and_are_captured_once_for_each_size(monkeypatch):
    recordings, sizes = [], parts_seen(monkeypatch)

    def record(take, inputs, device):
        recordings.append(len(inputs["s"]))
        return Replayed(take, inputs, device)

    monkeypatch.setattr(replicas, "StepGraph", record)
    configs = BASE.replace(max_epochs=2, c=2.5).grid(seed=range(3))
    trainers = trainers_of(configs)
    group = ReplicaGroup(trainers)
    group.captured = True
    group.train(lambda trainer: None, QUIET, epochs=2)
    assert len(recordings) == len(set(sizes)) + 1 < len(sizes) + 1
    assert set(recordings) == {3}
    assert {units for pair in sizes for units in pair} <= {32, 64, 96, 100, 24, 48, 72, 83}
    group.train(lambda trainer: None, QUIET)
    for config, trainer in zip(configs, trainers, strict=True):
        (alone,) = trainers_of([config])
        train([alone])
        assert [row[:3] for row in alone.rows["tasks"]] == [row[:3] for row in trainer.rows["tasks"]]
        assert distance(alone, trainer) <= 1e-4


def test_validation_in_the_parts_is_that_of_the_network(monkeypatch):
    trainers = trainers_of(BASE.replace(c=2.5, max_epochs=4).grid(seed=range(3)))
    sizes = parts_seen(monkeypatch)
    group = ReplicaGroup(trainers)
    for _ in range(3):
        group.train_epoch()
    assert sizes
    found = group._state.validate(trainers)
    for trainer, pair in zip(trainers, found, strict=True):
        expected = evaluate(trainer.network, 0, trainer.split.valid, trainer.config.s_max)
        assert pair == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "change", [{"compensation": "exact"}, {"gate_precision": "float64"}, {"method": "sgd"}, {"method": "ewc"}]
)
def test_nothing_is_left_out_where_a_closed_unit_learns_or_there_are_no_gates(monkeypatch, change):
    config = BASE.replace(max_epochs=2, **({"c": 0.0} if "method" in change else {"c": 2.5}), **change)
    sizes = parts_seen(monkeypatch)
    (run,) = trainers_of([config])
    assert not skips_closed_units(run.network, config)
    if config.method == "hat":  # a unit that is closed at every slope but the first: its embedding learns all the same
        with torch.no_grad():
            run.network.gates[0, 0] = -2.0
        before = float(run.network.gates[0, 0].detach())
        ReplicaGroup([run]).train_epoch()
        moved = float(run.network.gates[0, 0].detach()) - before
        assert moved != 0
    train([run])
    assert not sizes


def test_small_steps_are_left_whole(monkeypatch):
    """Where products are not what takes the time nothing is gained; the paper's networks are far above."""
    monkeypatch.undo()
    network = HATMLP((1, 28, 28), [2], (400, 400))
    config = RunConfig(dataset="mnist", widths=(400, 400))
    assert skips_closed_units(network, config)
    assert not skips_closed_units(HATMLP((1, 8, 8), [2], (100, 100)), config.replace(widths=(100, 100)))


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_evaluation_leaves_out_what_the_mask_closes(tmp_path, monkeypatch, network):
    (run,) = trainers_of([of_network(tmp_path, monkeypatch, network)])
    with torch.no_grad():
        run.network.gates[0, : 3 * run.network.gates.shape[1] // 4 : 2] = -2.0
    _, mask = open_parameters(run.network, 0, run.network.mask(0, 400.0))
    assert mask.shape[1] == int((run.network.mask(0, 400.0) != 0).sum()) < run.network.gates.shape[1]
    found = evaluate(run.network, 0, run.data[0].test, 400.0)
    monkeypatch.setattr(open_units, "SKIP", False)
    assert found == pytest.approx(evaluate(run.network, 0, run.data[0].test, 400.0), rel=1e-5)
    with torch.no_grad():
        run.network.gates[0] = -2.0  # no unit is left: the head's bias speaks
    monkeypatch.setattr(open_units, "SKIP", True)
    closed = evaluate(run.network, 0, run.data[0].test, 400.0)
    monkeypatch.setattr(open_units, "SKIP", False)
    assert closed == pytest.approx(evaluate(run.network, 0, run.data[0].test, 400.0), rel=1e-5)


def test_a_callback_sees_the_network_as_it_is_after_each_step():
    """Runs without one end in the same weights; with one, each step's are seen, while units are left out."""
    seen = []

    def after_step(trainer, k, losses):
        (part,) = group._state._parts
        seen.append((part.sizes, trainer.network.gates[0].detach().clone()))

    watched, other = (trainers_of([BASE.replace(c=2.5)])[0] for _ in range(2))
    group = ReplicaGroup([watched], after_step=after_step)
    group.train_epoch()
    ReplicaGroup([other]).train_epoch()
    assert distance(watched, other) == 0
    assert len({sizes for sizes, _ in seen}) > 2
    moved = [not torch.equal(a, b) for (_, a), (_, b) in itertools.pairwise(seen)]
    assert sum(moved) > len(moved) / 2  # near s = 400 there are steps in which no embedding moves


def test_a_part_without_change_is_kept():
    (run,) = trainers_of([BASE])
    group = ReplicaGroup([run])
    group.train_epoch()
    state = group._state
    parts = [Part(state.whole, [0])]
    same = leave_out_closed(parts, torch.ones(1, dtype=torch.float64), Part)
    assert same == parts
    fewer = leave_out_closed(
        parts, torch.full((1,), 400.0, dtype=torch.float64), lambda *chosen: Part(state.whole, *chosen)
    )
    assert multiplications(run.network, fewer[0].sizes) < multiplications(run.network, parts[0].sizes)
