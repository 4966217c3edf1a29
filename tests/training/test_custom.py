"""A network, images and callbacks of one's own: named by what determines them, trained and resumed like others."""

import functools
import importlib.util
import sys
import textwrap
import types

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import hatlab
from hatlab.config import ConfigError, RunConfig
from hatlab.data.datasets import DatasetError
from hatlab.data.tasks import make_sequence
from hatlab.method.networks import HATCNN, HATNetwork
from hatlab.support.progress import Progress
from hatlab.training import runs
from hatlab.training.custom import checksum

QUIET = Progress()
SMALL = RunConfig(batch_size=32, max_epochs=2, n_tasks=2)
FILTERS = (6, 8, 10)


def three_convolutions(shape, classes):
    """8x8 digits through three convolutions, without pooling."""
    first, second, third = FILTERS
    trunk = {
        "c1": nn.Conv2d(shape[0], first, 3, stride=2, padding=1),
        "c2": nn.Conv2d(first, second, 3, padding=1),
        "c3": nn.Conv2d(second, third, 3),
        "fc1": nn.Linear(third * 4, 12),
    }
    return HATNetwork(trunk, shape, classes, [0.1, 0.1, 0.1, 0.2], pool=False)


def arrays(n=60, seed=0):
    draw = np.random.default_rng(seed)
    y = np.arange(n) % 4
    x = (60 * y[:, None, None] + draw.integers(0, 40, (n, 6, 6))).astype(np.uint8)
    return {"x_train": x, "y_train": y, "x_test": x[:8], "y_test": y[:8]}


def assert_alike(one, other):
    for name, table in one.tables._asdict().items():
        pd.testing.assert_frame_equal(table, getattr(other.tables, name))


def test_a_network_of_ones_own_is_swept_recorded_and_loaded(tmp_path):
    configs = SMALL.grid(c=[0.1, 1.5])
    found = hatlab.sweep(configs, results=tmp_path, progress=QUIET, network=three_convolutions, label="three")
    for config, one in zip(configs, found, strict=True):
        assert one.config == config.replace(network=f"custom:three-{checksum(three_convolutions)}")
        assert set(one.capacity["layer"]) == {"c1", "c2", "c3", "fc1", "total"}
        assert one.folder.name == one.run_id
    # finished runs need no factory
    again = hatlab.sweep([one.config for one in found], results=tmp_path, progress=QUIET)
    for one, other in zip(found, again, strict=True):
        assert_alike(one, other)


def test_a_run_alone_is_the_run_of_a_sweep(tmp_path):
    configs = SMALL.grid(seed=[0, 1, 2])
    together = hatlab.sweep(configs, results=tmp_path / "a", progress=QUIET, network=three_convolutions, label="three")
    for config, one in zip(configs, together, strict=True):
        alone = hatlab.run(config, results=tmp_path / "b", progress=QUIET, network=three_convolutions, label="three")
        assert alone.config == one.config
        pd.testing.assert_frame_equal(alone.epochs, one.epochs, rtol=1e-4)


class Stop(hatlab.Callback):
    def after_epoch(self, config, network, task, epoch):
        if (task, epoch) == (1, 0):
            raise KeyboardInterrupt


def test_a_run_that_was_stopped_goes_on_and_needs_its_factory_for_it(tmp_path):
    given = {"results": tmp_path / "a", "progress": QUIET}
    with pytest.raises(KeyboardInterrupt):
        hatlab.run(SMALL, **given, network=three_convolutions, label="three", callbacks=[Stop()])
    named = SMALL.replace(network=f"custom:three-{checksum(three_convolutions)}")
    with pytest.raises(ConfigError, match=r"network = 'custom:three-.* made by a factory, which has to be given"):
        hatlab.run(named, **given)
    resumed = hatlab.run(SMALL, **given, network=three_convolutions, label="three")
    assert len(resumed.manifest["sessions"]) == 2
    whole = hatlab.run(SMALL, results=tmp_path / "b", progress=QUIET, network=three_convolutions, label="three")
    assert_alike(resumed, whole)


def test_methods_without_masks_train_the_network_without_its_gates(tmp_path):
    config = SMALL.replace(method="sgd", c=0.0)
    done = hatlab.run(config, results=tmp_path, progress=QUIET, network=three_convolutions, label="three")
    assert (done.capacity["weights_used"] == done.capacity["weights"]).all()
    joint = config.replace(method="joint")
    done = hatlab.run(joint, results=tmp_path, progress=QUIET, network=three_convolutions, label="three")
    assert done.tasks["epochs"].tolist() == [2, 2]


def test_what_a_factory_decides_itself_does_not_name_the_run():
    name = f"custom:three-{checksum(three_convolutions)}"
    same = [{}, {"widths": (3,)}, {"dropout": (0.0, 0.0)}, {"embedding_init": "uniform"}]
    assert len({SMALL.replace(network=name, **change).run_id for change in same}) == 1
    assert SMALL.replace(network=name).run_id != SMALL.run_id


@pytest.mark.parametrize("name", ["custom:three", "custom:three-xyz", "transformer", "custom:-0123456789ab "])
def test_a_name_that_no_factory_got_is_refused(name):
    with pytest.raises(ConfigError, match=r"network = .*'mlp' or 'cnn'"):
        SMALL.replace(network=name)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda shape, classes: nn.Linear(2, 2), "lambda"),
        (types.SimpleNamespace(), "of type SimpleNamespace, whose content cannot be named"),
    ],
)
def test_a_factory_that_cannot_be_named_is_refused_with_the_reason(tmp_path, factory, message):
    with pytest.raises(ConfigError, match=message):
        hatlab.run(SMALL, results=tmp_path, network=factory, label="x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda shape, classes: nn.Linear(2, 2), "returned a Linear: allowed is a HATNetwork"),
        (lambda shape, classes: HATCNN((1, 28, 28), classes), r"returned a network of input shape \(1, 28, 28\)"),
        (lambda shape, classes: three_convolutions(shape, [2]), r"classes \[2\]"),
        (lambda shape, classes: three_convolutions((1, 3, 3), classes), "does not fit what comes before it"),
    ],
)
def test_a_factory_that_returns_what_does_not_fit_is_refused_before_training(monkeypatch, tmp_path, make, message):
    def factory(shape, classes):
        return make(shape, classes)

    monkeypatch.setattr("hatlab.training.custom.checksum", lambda factory: "0" * 12)  # `make` is a lambda
    with pytest.raises(ConfigError, match=message):
        hatlab.run(SMALL, results=tmp_path, progress=QUIET, network=factory, label="x")


# --- what names a factory ---------------------------------------------------------------------------------------------

SOURCE = """
from torch import nn
import torch.nn.functional as F
from hatlab import HATNetwork

WIDTH, UNREAD = 20, [1]

class Wide(nn.Linear):
    factor = 1

    def reset(self):
        return {reset}

def layers(n):
    return {{"fc1": nn.Linear(n, {inner})}}

def factory(shape, classes, n={default}):
    inside = lambda: WIDTH
    return HATNetwork(layers(inside()), shape, classes, [0.5], n) or Wide
"""


def defined(monkeypatch, tmp_path, name, width=20, **values):
    path = tmp_path / f"{name}.py"
    text = textwrap.dedent(SOURCE).format(**{"reset": 1, "inner": "WIDTH", "default": 3} | values)
    path.write_text(text.replace("WIDTH, UNREAD = 20", f"WIDTH, UNREAD = {width}"))
    spec = importlib.util.spec_from_file_location(f"mine_{tmp_path.name}_{name}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module.factory


def test_a_factory_is_named_by_its_source_its_defaults_and_what_it_reads(monkeypatch, tmp_path):
    one = checksum(defined(monkeypatch, tmp_path, "one"))
    assert checksum(defined(monkeypatch, tmp_path, "two")) == one
    changes = [{"reset": 2}, {"inner": "WIDTH + 1"}, {"default": 4}, {"width": 21}]
    assert (
        len({one, *(checksum(defined(monkeypatch, tmp_path, f"v{k}", **change)) for k, change in enumerate(changes))})
        == 5
    )


def test_values_that_a_factory_closes_over_or_is_given_name_it_too():
    def of(width):
        def factory(shape, classes, scale=1):
            return width, scale

        return factory

    assert checksum(of(1)) == checksum(of(1)) != checksum(of(2))
    assert checksum(functools.partial(of(1), scale=2)) != checksum(functools.partial(of(1), scale=3))
    with pytest.raises(ConfigError, match=r"network: factory reads width, which is \[1\], of type list"):
        checksum(of([1]))


def test_a_factory_without_source_is_refused():
    space = {}
    exec("def factory(shape, classes): return None", space)
    with pytest.raises(ConfigError, match="the source of factory cannot be read"):
        checksum(space["factory"])


# --- labels and images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [None, "", "a b", "-x", "x/y", "x" * 41, 3])
def test_a_label_that_cannot_be_part_of_a_name_is_refused(tmp_path, label):
    with pytest.raises(ConfigError, match=f"label = {label!r}"):
        hatlab.run(SMALL, results=tmp_path, images=arrays(), label=label)


def test_a_label_with_nothing_to_name_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="label = 'x' names a network or images, and neither is given"):
        hatlab.run(SMALL, results=tmp_path, label="x")


def test_arrays_are_trained_on_like_the_same_file(tmp_path):
    config = SMALL.replace(widths=(12, 9), batch_size=8)
    own = hatlab.run(config, results=tmp_path / "a", progress=QUIET, images=arrays(), label="mine")
    np.savez(tmp_path / "mine.npz", **arrays())
    file = hatlab.run(config.replace(dataset=f"npz:{tmp_path / 'mine.npz'}"), results=tmp_path / "b", progress=QUIET)
    assert own.config.dataset.startswith("arrays:mine-") and own.manifest["title"] == file.manifest["title"]
    for name, table in own.tables._asdict().items():
        pd.testing.assert_frame_equal(table.drop(columns="run"), getattr(file.tables, name).drop(columns="run"))
    # once finished it is loaded without the arrays; other arrays are another run
    assert_alike(own, hatlab.run(own.config, results=tmp_path / "a", progress=QUIET))
    other = hatlab.run(config, results=tmp_path / "a", progress=QUIET, images=arrays(seed=1), label="mine")
    assert other.run_id != own.run_id


def test_arrays_that_are_gone_are_asked_for():
    with pytest.raises(DatasetError, match="its images were arrays in memory: give them again"):
        make_sequence(SMALL.replace(dataset="arrays:mine-0123456789ab"))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"x_train": 1}, r"images = \['x_train'\]: needed are arrays called x_train, y_train, x_test, y_test"),
        ([1], "images = list: needed are"),
        (arrays() | {"x_test": np.zeros((8, 6, 6))}, "x_test has dtype float64; allowed: uint8"),
        (arrays() | {"y_test": np.zeros(7, int)}, r"y_test has shape \(7,\), but x_test holds 8 images"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, images, message):
    with pytest.raises(DatasetError, match=message):
        hatlab.run(SMALL, results=tmp_path, images=images, label="mine")


# --- callbacks --------------------------------------------------------------------------------------------------------


class Watch(hatlab.Callback):
    def __init__(self):
        self.steps, self.epochs, self.tasks = [], [], []

    def after_step(self, config, network, task, step, losses):
        self.steps.append(
            (config.seed, task, step, losses.tolist(), float(network.heads[task].weight[0].detach().double().sum()))
        )

    def after_epoch(self, config, network, task, epoch):
        self.epochs.append((config.seed, task, epoch))

    def after_task(self, config, network, task):
        self.tasks.append((config.seed, task))


@pytest.mark.parametrize("method", ["hat", "joint"])
def test_callbacks_see_every_step_epoch_and_task_of_every_run(tmp_path, method):
    watch = Watch()
    base = SMALL.replace(widths=(12, 9), method=method, c=0.75 if method == "hat" else 0)
    found = hatlab.sweep(base.grid(seed=[0, 1]), results=tmp_path, progress=QUIET, callbacks=[watch])
    for one in found:
        seed = one.config.seed
        assert [entry[1:] for entry in watch.epochs if entry[0] == seed] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert [entry[1:] for entry in watch.tasks if entry[0] == seed] == [(0,), (1,)]
        steps = [entry for entry in watch.steps if entry[0] == seed]
        assert [entry[2] for entry in steps] == list(range(len(steps)))
        # the losses are those of the tables, and the network is the one that the step left
        if method == "hat":
            first = [entry[3] for entry in steps[: len(steps) // 4]]
            assert np.mean(first, 0)[1] == pytest.approx(one.epochs["train_regularizer"][0], rel=1e-5)
            assert len({entry[4] for entry in steps}) == len(steps)
    plain = hatlab.sweep(base.grid(seed=[0, 1]), results=tmp_path / "without", progress=QUIET)
    for one, other in zip(found, plain, strict=True):
        assert_alike(one, other)


def test_callbacks_are_called_in_one_thread_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "worker_threads", lambda *_: 2)
    inside, most = [], []

    class Slow(hatlab.Callback):
        def after_step(self, config, network, task, step, losses):
            inside.append(1)
            most.append(len(inside))
            torch.randn(64, 64).sum()
            inside.pop()

    base = SMALL.replace(widths=(12, 9), max_epochs=1)
    hatlab.sweep(base.grid(seed=range(3)), results=tmp_path, progress=QUIET, device="cpu", callbacks=[Slow()])
    assert max(most) == 1 and len(most) > 10


def test_nothing_waits_for_callbacks_that_look_at_no_step():
    from hatlab.training.custom import Callbacks

    class Epochs(hatlab.Callback):
        def after_epoch(self, config, network, task, epoch):
            pass

    assert Callbacks([Epochs()]).after_step is None
    assert Callbacks([Epochs(), Watch()]).after_step is not None
    with pytest.raises(ConfigError, match=r"callbacks: <function .*> is no instance of hatlab\.Callback"):
        Callbacks([assert_alike])
