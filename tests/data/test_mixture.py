"""The paper's mixture: its sets at 3x32x32, what it says when some are missing, and a run over it."""

import re

import numpy as np
import pytest
from conftest import png
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from small_sets import ORDERS, put, trust, write_all, write_cifar, write_idx_set, write_letters_idx

import hatlab
from hatlab.analysis.summary import describe
from hatlab.config import ConfigError, RunConfig
from hatlab.data import datasets, mixture
from hatlab.data.datasets import DatasetError, fetch, load, load_all, split_names, verify
from hatlab.data.mixture import MEMBERS, is_mixture, members, to_shape
from hatlab.data.public_sets import PublicSet
from hatlab.data.tasks import make_sequence
from hatlab.support.progress import Progress

# hat.md, section 4: set, its classes, mean and standard deviation of each channel in the authors' code
GIVEN = [
    ("cifar10", 10, [125.3 / 255, 123.0 / 255, 113.9 / 255], [63.0 / 255, 62.1 / 255, 66.7 / 255]),
    ("cifar100", 100, [125.3 / 255, 123.0 / 255, 113.9 / 255], [63.0 / 255, 62.1 / 255, 66.7 / 255]),
    ("mnist", 10, [0.1] * 3, [0.2752] * 3),
    ("svhn", 10, [0.4377, 0.4438, 0.4728], [0.198, 0.201, 0.197]),
    ("fashion_mnist", 10, [0.2190] * 3, [0.3318] * 3),
    ("gtsrb", 43, [0.3398, 0.3117, 0.3210], [0.2755, 0.2647, 0.2712]),
    ("facescrub", 3, [0.5163, 0.5569, 0.4695], [0.2307, 0.2272, 0.2479]),  # of the paper's 100 persons here are 3
    ("notmnist", 10, [0.4254] * 3, [0.4501] * 3),
]
TITLES = ["CIFAR-10", "CIFAR-100", "MNIST", "SVHN", "Fashion-MNIST", "GTSRB", "FaceScrub (3 persons)", "notMNIST"]


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        ("mixture", tuple(f"mixture:{name}" for name, *_ in GIVEN)),
        ("mixture:mnist", ("mixture:mnist",)),
        ("mixture:svhn,mnist", ("mixture:svhn", "mixture:mnist")),
        ("mixture:mnist,npz:a,b+c.npz,folder:x", ("mixture:mnist", "mixture:npz:a,b+c.npz", "mixture:folder:x")),
        ("mnist+mixture:svhn", ("mnist", "mixture:svhn")),
    ],
)
def test_names(dataset, names):
    assert split_names(dataset) == names


@given(names=st.lists(st.sampled_from([*MEMBERS, "npz:a/b.npz", "folder:c,d/e"]), min_size=1, unique=True))
def test_members_of_a_mixture_are_found_again(names):
    dataset = f"mixture:{','.join(names)}"
    assert is_mixture(dataset) and members(dataset) == tuple(names)
    for name in split_names(dataset):
        assert split_names(name) == (name,)


@pytest.mark.parametrize("name", ["mnist", "npz:mixture", "mixtures", "folder:mixture:x"])
def test_what_is_no_mixture(name):
    assert not is_mixture(name)


@pytest.mark.parametrize("member", ["minst", "digits", "", "mnist,", "mnist+svhn", "npz", "mixture"])
def test_what_cannot_be_part_of_a_mixture(empty_home, member):
    for use in (load, load_all):
        with pytest.raises(DatasetError) as error:
            use(f"mixture:{member}")
        message = str(error.value)
        assert f"dataset = 'mixture:{member}': '{member}' cannot be part of a mixture" in message
        assert all(known in message for known in (*MEMBERS, "npz:PATH", "folder:PATH"))


@pytest.mark.parametrize(
    "dataset", ["mixture+mnist", "mnist+mixture", "cifar10+mixture:svhn", "digits+mixture:mnist,svhn"]
)
def test_a_mixture_stands_alone(empty_home, dataset):
    with pytest.raises(ConfigError, match=rf"dataset = '{re.escape(dataset)}': 'mixture.*' cannot be joined to others"):
        make_sequence(RunConfig(dataset=dataset))


def test_a_mixture_is_not_loaded_as_one_set(empty_home):
    for name in ("mixture", "mixture:mnist,svhn"):
        with pytest.raises(DatasetError, match=f"dataset = '{name}': a mixture is several data sets, not one"):
            load(name)


# --- pixels ---------------------------------------------------------------------------------------------------------


@given(x=hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.just(28), st.just(28))))
def test_28x28_gets_a_frame_of_zeros(x):
    framed = to_shape(x, "mnist")
    assert framed.shape == (len(x), 3, 32, 32) and framed.dtype == np.uint8 and framed.flags.c_contiguous
    expected = np.pad(np.broadcast_to(x, (len(x), 3, 28, 28)), ((0, 0), (0, 0), (2, 2), (2, 2)))
    np.testing.assert_array_equal(framed, expected)


def test_32x32_keeps_its_pixels():
    rng = np.random.default_rng(0)
    colour, grey = (rng.integers(0, 256, (2, channels, 32, 32), dtype=np.uint8) for channels in (3, 1))
    assert to_shape(colour, "svhn") is colour
    np.testing.assert_array_equal(to_shape(grey, "npz:x"), np.repeat(grey, 3, axis=1))


def test_notmnist_is_resized_as_the_authors_did():
    x = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    found = to_shape(x, "notmnist")
    for image, pixels in zip(found, x, strict=True):
        expected = np.asarray(Image.fromarray(pixels[0]).resize((32, 32), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(image, np.broadcast_to(expected, (3, 32, 32)))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 64, 64), (1, 28, 32)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(DatasetError, match=rf"'npz:x' has images of {shape[2]}x{shape[1]}; allowed .* 28x28 or 32x32"):
        to_shape(np.zeros((2, *shape), np.uint8), "npz:x")


def test_own_images(empty_home, tmp_path):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 200, (20, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=np.arange(20) % 2, x_test=x, y_test=np.arange(20) % 2)
    for split in ("train", "test"):
        for label in ("a", "b"):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            put(tmp_path / "own", {f"{split}/{label}/0.png": png(pixels)})
    for name in (f"npz:{tmp_path / 'own.npz'}", f"folder:{tmp_path / 'own'}"):
        found = load(f"mixture:{name}")
        assert (found.name, found.title) == (f"mixture:{name}", "own")
        assert found.checksums == load(name).checksums
        scaled = found.x_train / 255
        assert found.x_train.shape[1:] == (3, 32, 32)
        np.testing.assert_allclose(found.mean, scaled.mean(axis=(0, 2, 3)))  # of the frame too
        np.testing.assert_allclose(found.std, scaled.std(axis=(0, 2, 3)))


# --- all eight ------------------------------------------------------------------------------------------------------


@pytest.fixture
def eight(empty_home, monkeypatch, no_network):
    write_all(empty_home / "data")
    trust(monkeypatch)


def test_the_papers_mixture(eight):
    sets = load_all("mixture")
    assert [data.title for data in sets] == TITLES
    for data, (name, n_classes, mean, std) in zip(sets, GIVEN, strict=True):
        assert data.name == f"mixture:{name}" and len(data.classes) == n_classes
        np.testing.assert_allclose(data.mean, mean, atol=1e-12)
        np.testing.assert_allclose(data.std, std, atol=1e-12)
        for x in (data.x_train, data.x_test):
            assert x.shape[1:] == (3, 32, 32) and x.dtype == np.uint8 and x.flags.c_contiguous
    for k in (2, 4):  # MNIST and Fashion-MNIST have a frame, three equal channels, and the labels that they have alone
        np.testing.assert_array_equal(sets[k].x_train[:, 1, 2:30, 2:30], load(GIVEN[k][0]).x_train[:, 0])
        np.testing.assert_array_equal(sets[k].y_train, load(GIVEN[k][0]).y_train)
    np.testing.assert_array_equal(sets[3].x_test, load("svhn").x_test)
    for k in (0, 1, 3, 5, 6):
        assert sets[k].mean == load(GIVEN[k][0]).mean


@pytest.mark.parametrize("seed", ORDERS)
def test_each_set_is_a_task_in_the_authors_order(eight, seed):
    config = RunConfig(dataset="mixture", seed=seed)
    found = make_sequence(config)
    assert list(found.order) == ORDERS[seed] and found.input_shape == (3, 32, 32)
    assert [task.name for task in found.tasks] == [TITLES[k] for k in ORDERS[seed]]
    for task in found.tasks:
        data = found.datasets[task.dataset]
        assert task.classes == tuple(range(len(data.classes))) and task.pixels is None
        assert len(task.valid) == int(0.15 * len(data.y_train))
        assert len(task.valid) + len(task.train) == len(data.y_train) and len(task.test) == len(data.y_test)
    if seed == 0:  # the caption of Fig. 6
        short = [task.name.split(" (")[0] for task in found.tasks]
        assert short == ["FaceScrub", "MNIST", "CIFAR-100", "notMNIST", "SVHN", "CIFAR-10", "GTSRB", "Fashion-MNIST"]
        assert found.title == f"mixture of {', '.join(TITLES)}"


def test_verify_and_fetch_take_all_members(eight):
    checks = verify("mixture:mnist,notmnist")
    assert len(checks) == 5 and all(check.ok for check in checks)
    assert len(fetch("mixture")) == 4 + 4 + 1 + 1 + 2 + 3 + 1 + 1


# --- some of them ---------------------------------------------------------------------------------------------------


def test_all_that_is_missing_is_named_at_once(empty_home, no_network):
    write_idx_set(empty_home / "data" / "MNIST" / "raw", 20, 20)
    write_letters_idx(empty_home / "data")
    dataset = "mixture:mnist,cifar10,facescrub,notmnist,gtsrb,npz:none.npz"
    with pytest.raises(DatasetError) as error:
        load_all(dataset)
    message = str(error.value)
    head = f"dataset = '{dataset}': 4 of its 6 data sets are missing: cifar10, facescrub, gtsrb, npz:none.npz\n"
    assert message.startswith(head)
    for word in (
        "cifar-10-python.tar.gz",
        "facescrub/<person>/<image>",
        "GTSRB_Final_Test_GT.zip",
        "needed is an .npz",
    ):
        assert message.count(word) >= 1
    assert message.endswith("\n  mixture:mnist,notmnist")
    assert no_network == []  # it cannot become complete: nothing is downloaded
    assert [data.title for data in load_all("mixture:notmnist")] == ["notMNIST (400 images)"]


def test_what_can_be_downloaded_is_tried_before_it_is_called_missing(empty_home, no_network, monkeypatch):
    (empty_home / "data").mkdir()
    write_cifar(empty_home / "data", "cifar10")
    monkeypatch.setattr(PublicSet, "expected", lambda self: dict.fromkeys(self.files, "md5:0"))
    with pytest.raises(DatasetError) as error:
        load_all("mixture:cifar10,svhn,cifar100")
    assert "2 of its 3 data sets are missing: svhn, cifar100" in str(error.value)
    assert str(error.value).count("no route to host") == 2 and len(no_network) == 2
    assert str(error.value).endswith("\n  mixture:cifar10")
    with pytest.raises(DatasetError, match="nothing was downloaded"):
        load_all("mixture:cifar10,svhn,cifar100", download=False)
    assert len(no_network) == 2


def test_nothing_is_there(empty_home, no_network):
    with pytest.raises(DatasetError) as error:
        make_sequence(RunConfig(dataset="mixture"))
    assert "8 of its 8 data sets are missing" in str(error.value) and str(error.value).endswith("None is there.")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sequence": "permuted"}, ["sequence = 'permuted'", "'split'"]),
        ({"classes_per_task": 5}, ["classes_per_task = 5", "allowed: the default, 2"]),
        ({"classes_per_task": (2, 2)}, ["classes_per_task = (2, 2)"]),
        ({"class_groups": ((0, 1),)}, ["class_groups = ((0, 1),)", "allowed: the default, None"]),
        ({"dataset": "mixture:mnist,mnist"}, ["named twice"]),
        ({"n_tasks": 4}, ["n_tasks = 4", "gives 3 tasks"]),
    ],
)
def test_parameters_that_contradict(empty_home, monkeypatch, values, words):
    write_idx_set(empty_home / "data" / "MNIST" / "raw", 20, 20)
    write_idx_set(empty_home / "data" / "FashionMNIST" / "raw", 20, 20)
    write_letters_idx(empty_home / "data")
    trust(monkeypatch)
    config = RunConfig(**{"dataset": "mixture:mnist,fashion_mnist,notmnist", **values})
    with pytest.raises(ConfigError) as error:
        make_sequence(config)
    for word in (f"'{config.dataset}'", *words):
        assert word in str(error.value)
    if "n_tasks" not in values and "dataset" not in values:
        assert "each set of a mixture is one task" in str(error.value)


def test_n_tasks_keeps_the_first_sets(empty_home, monkeypatch):
    write_idx_set(empty_home / "data" / "MNIST" / "raw", 20, 20)
    write_idx_set(empty_home / "data" / "FashionMNIST" / "raw", 20, 20)
    write_letters_idx(empty_home / "data")
    trust(monkeypatch)
    found = make_sequence(RunConfig(dataset="mixture:notmnist,fashion_mnist,mnist", n_tasks=2))
    assert {task.name for task in found.tasks} == {"notMNIST (400 images)", "Fashion-MNIST"}
    assert found.title == "mixture of notMNIST (400 images), Fashion-MNIST"


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_over_a_mixture(empty_home, tmp_path):
    rng = np.random.default_rng(0)
    for name, side, n_classes in (("small", 28, 2), ("large", 32, 3)):
        y = np.arange(60) % n_classes
        x = rng.integers(0, 50, (60, side, side), dtype=np.uint8) + (60 * y[:, None, None]).astype(np.uint8)
        np.savez(empty_home / f"{name}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    config = RunConfig(dataset="mixture:npz:small.npz,npz:large.npz", widths=(8,), max_epochs=1)
    run = hatlab.run(config, results=tmp_path, device="cpu", progress=Progress())
    assert run.manifest["title"] == "mixture of small, large"
    assert run.manifest["data"].keys() == {"small.npz", "large.npz"}
    assert set(run.tasks["name"]) == {"small", "large"}
    assert describe(run) == "Mixture of 2 data sets (2 tasks), MLP 8"
    assert run.accuracy["accuracy"].between(0, 1).all() and len(run.accuracy) == 3
    again = hatlab.run(config, results=tmp_path, device="cpu", progress=Progress())
    assert again.manifest == run.manifest


# --- the real sets, where they are ----------------------------------------------------------------------------------


def test_real_mixture_of_four(shared_data):
    cifar10 = "cifar10-exact/cifar10-exact.npz"
    for path in ("MNIST/raw", "FashionMNIST/raw", "notmnist-10k", cifar10):
        shared_data(path)
    found = make_sequence(RunConfig(dataset=f"mixture:mnist,fashion_mnist,notmnist,npz:{cifar10}"))
    mnist, fashion, letters, cifar = found.datasets
    titles = [data.title for data in found.datasets]
    cifar_title = "CIFAR-10 (59,896 of 60,000 official pixels)"
    assert titles == ["MNIST", "Fashion-MNIST", "notMNIST (10,000 images)", cifar_title]
    assert found.title == f"mixture of MNIST, Fashion-MNIST, notMNIST (10,000 images), {cifar_title}"
    counts = [(60_000, 10_000), (60_000, 10_000), (9_000, 1_000), (50_000, 10_000)]
    assert [(len(data.y_train), len(data.y_test)) for data in found.datasets] == counts
    assert all(data.x_train.shape[1:] == (3, 32, 32) and data.x_train.dtype == np.uint8 for data in found.datasets)
    assert sorted(found.order) == [0, 1, 2, 3] and found.input_shape == (3, 32, 32)
    for task in found.tasks:
        n_train, n_test = counts[task.dataset]
        assert (len(task.valid), len(task.train)) == (int(0.15 * n_train), n_train - int(0.15 * n_train))
        assert len(task.test) == n_test and task.classes == tuple(range(10))
    assert (mnist.mean, mnist.std) == ((0.1,) * 3, (0.2752,) * 3)
    assert (fashion.mean, fashion.std) == ((0.2190,) * 3, (0.3318,) * 3)
    assert (letters.mean, letters.std) == ((0.4254,) * 3, (0.4501,) * 3)
    assert cifar.mean == pytest.approx((0.4914, 0.4824, 0.4467), abs=1e-4)
    # the authors' constants describe the images as they are here: notMNIST's, of another sample, nearly so
    for data, tolerance in ((mnist, 0.001), (fashion, 0.001), (letters, 0.01), (cifar, 0.02)):
        mean, std = datasets._moments(data.x_train)
        assert (abs(np.array(mean) - data.mean) / data.std < tolerance).all()
        assert (abs(np.array(std) / data.std - 1) < tolerance).all()
    frame = np.ones((32, 32), bool)
    frame[2:30, 2:30] = False
    assert not mnist.x_train[:, :, frame].any() and letters.x_train[:, :, frame].any()
    assert mixture.CONSTANTS.keys() == {"mnist", "fashion_mnist", "notmnist"}
