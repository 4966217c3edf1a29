import subprocess
import sys

import numpy as np
import pytest
from conftest import pack
from hypothesis import given
from hypothesis.extra import numpy as hnp

from hatlab.config import ConfigError
from hatlab.data import datasets
from hatlab.data.datasets import DatasetError, fetch, load, load_all, split_names, verify
from hatlab.data.public_sets import PublicSet
from hatlab.support import paths

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def check_contract(data):
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert x.dtype == np.uint8 and x.ndim == 4 and x.shape[1] in (1, 3) and x.flags.c_contiguous
        assert y.dtype == np.int64 and y.shape == (len(x),)
        assert set(y.tolist()) == set(range(len(data.classes)))
    assert data.x_train.shape[1:] == data.x_test.shape[1:]
    assert len(data.mean) == len(data.std) == data.x_train.shape[1]
    assert data.checksums and all(found.startswith(("md5:", "sha256:")) for found in data.checksums.values())


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        ("digits", ("digits",)),
        ("cifar10+cifar100", ("cifar10", "cifar100")),
        ("mnist+npz:a/b.npz+folder:c", ("mnist", "npz:a/b.npz", "folder:c")),
        ("npz:c++/x+y.npz+digits", ("npz:c++/x+y.npz", "digits")),
        ("mnist+nonsense", ("mnist", "nonsense")),
    ],
)
def test_split_names(dataset, names):
    assert split_names(dataset) == names


@pytest.mark.parametrize("name", ["minst", "npz", "npz:", "zip:x", "", "mnist+"])
def test_unknown_name_lists_all(name):
    for use in (load, verify):
        with pytest.raises(ConfigError) as error:
            use(name)
        message = str(error.value)
        assert f"dataset = '{name}'" in message
        for known in ("digits", "fashion_mnist", "cifar100", "svhn", "gtsrb", "notmnist", "npz:PATH", "folder:PATH"):
            assert known in message


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(DatasetError, match="did you mean 'cifar100'"):
        load("cifar_100")


def test_only_public_sets_are_fetched(tiny_npz):
    assert fetch("digits") == []
    with pytest.raises(DatasetError, match=r"allowed: mnist, fashion_mnist, cifar10, cifar100, svhn, gtsrb$"):
        fetch(f"npz:{tiny_npz}")


def test_sets_of_a_name_are_loaded_in_order(empty_home, tiny_npz):
    first, second = load_all(f"digits+npz:{tiny_npz}")
    assert (first.name, second.name) == ("digits", f"npz:{tiny_npz}")
    with pytest.raises(DatasetError, match="dataset = 'minst'"):
        load_all("digits+minst")


def test_cheap_commands_do_not_import_torch():
    code = "import sys; from hatlab.data.datasets import status; status(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=paths.home(), check=False).returncode == 0


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits():
    from sklearn.datasets import load_digits

    data = load("digits")
    check_contract(data)
    assert data.x_train.shape == (1442, 1, 8, 8) and data.x_test.shape == (355, 1, 8, 8)
    mean, std = datasets._moments(data.x_train)
    assert data.mean == pytest.approx(mean, abs=5e-5) and data.std == pytest.approx(std, abs=5e-5)
    grey = np.rint(np.concatenate([data.x_train, data.x_test]).astype(float) * 16 / 255).reshape(-1, 64)
    original = load_digits().data
    assert sorted(map(tuple, grey)) == sorted(map(tuple, original))  # every image once, no grey value lost
    shares = np.bincount(data.y_test) / np.bincount(np.concatenate([data.y_train, data.y_test]))
    assert (abs(shares - 0.2) < 0.01).all()
    assert [check.ok for check in verify("digits")] == [True]


def test_other_digits_are_refused(monkeypatch):
    monkeypatch.setattr(datasets, "DIGITS_CHECKSUM", "sha256:other")
    with pytest.raises(DatasetError, match="expected sha256:other, found sha256:87ff"):
        load("digits")


# --- npz and folder -------------------------------------------------------------------------------------------------


def test_npz(empty_home, tiny_npz, tiny_arrays):
    for _ in ("decoded", "cached"):
        data = load(f"npz:{tiny_npz}")
        check_contract(data)
        assert data.title == "tiny" and data.classes == ("0", "1", "2", "3")
        np.testing.assert_array_equal(data.x_train[:, 0], tiny_arrays["x_train"])
        assert data.mean == pytest.approx((tiny_arrays["x_train"].mean() / 255,))
        assert data.std == pytest.approx((tiny_arrays["x_train"].std() / 255,))
    assert len(list((empty_home / "data" / "cache").iterdir())) == 1
    (check,) = verify(f"npz:{tiny_npz}")
    assert check.ok and check.found == next(iter(data.checksums.values())) and check.expected == ""


def test_altered_npz_is_noticed(empty_home, tiny_npz, tiny_arrays):
    load(f"npz:{tiny_npz}")
    np.savez(tiny_npz, **{**tiny_arrays, "x_train": 255 - tiny_arrays["x_train"]})
    np.testing.assert_array_equal(load(f"npz:{tiny_npz}").x_train[:, 0], 255 - tiny_arrays["x_train"])
    tiny_npz.write_bytes(tiny_npz.read_bytes()[:-50])
    with pytest.raises(DatasetError, match=r"dataset = 'npz:.*not a readable"):
        load(f"npz:{tiny_npz}")
    (check,) = verify(f"npz:{tiny_npz}")
    assert not check.ok and "not a readable" in check.problem


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_folder(empty_home, tiny_folder, tmp_path, kind):
    source = tiny_folder if kind == "folder" else pack(tiny_folder, tmp_path / "pets.tar.xz")
    for _ in ("decoded", "cached"):
        data = load(f"folder:{source}")
        check_contract(data)
        assert data.title == "pets" and data.classes == ("cat", "dog")
        assert data.mean == pytest.approx((np.mean([0, 1, 2, 100, 101, 102]) / 255,))
    assert verify(f"folder:{source}")[0].ok


def test_altered_folder_is_noticed(empty_home, tiny_folder):
    load(f"folder:{tiny_folder}")
    image = tiny_folder / "train" / "cat" / "0.png"
    image.unlink()
    assert len(load(f"folder:{tiny_folder}").x_train) == 5
    image.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"0\.png is not a readable image"):
        load(f"folder:{tiny_folder}")
    assert image.read_bytes() == b"no image"
    assert not verify(f"folder:{tiny_folder}")[0].ok


def test_file_that_may_not_be_read(empty_home, tiny_npz, monkeypatch):
    def refuse(path, algorithm):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(datasets, "checksum", refuse)
    with pytest.raises(DatasetError, match=r"cannot be read: .*Permission denied: .*tiny\.npz"):
        load(f"npz:{tiny_npz}")
    assert "Permission denied" in verify(f"npz:{tiny_npz}")[0].problem


def test_path_is_sought_here_then_in_the_data_roots(empty_home, tiny_npz, tmp_path, monkeypatch):
    lent = tmp_path / "lent"
    monkeypatch.setenv("HATLAB_DATA", str(lent))
    with pytest.raises(DatasetError) as error:
        load("npz:sets/tiny.npz")
    places = [root / "sets" / "tiny.npz" for root in (empty_home, lent, empty_home / "data")]
    for place in places:
        assert str(place) in str(error.value)
    for place in reversed(places):  # the first place wins
        place.parent.mkdir(parents=True)
        place.write_bytes(tiny_npz.read_bytes())
        assert datasets._locate("npz:sets/tiny.npz") == ("npz", place.resolve())
    assert load("npz:sets/tiny.npz").checksums.keys() == {"sets/tiny.npz"}


def test_npz_is_not_a_folder(empty_home, tiny_folder):
    with pytest.raises(DatasetError, match=r"needed is an \.npz file"):
        load(f"npz:{tiny_folder}")


@given(x=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=4, max_dims=4, max_side=5)))
def test_moments_are_numpys(x):
    mean, std = datasets._moments(x)
    np.testing.assert_allclose(mean, (x / 255).mean(axis=(0, 2, 3)), atol=1e-12)
    expected = (x / 255).std(axis=(0, 2, 3))
    np.testing.assert_allclose(std, np.where(expected < 1e-9, 1, expected), atol=1e-7)


def test_a_constant_channel_is_only_shifted():
    assert datasets._moments(np.full((3, 1, 2, 2), 51, np.uint8)) == ((0.2,), (1.0,))


# --- the real sets, where they are ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder", "title"), [("mnist", "MNIST", "MNIST"), ("fashion_mnist", "FashionMNIST", "Fashion-MNIST")]
)
def test_real_mnist_and_fashion(shared_data, name, folder, title):
    shared_data(f"{folder}/raw/train-images-idx3-ubyte.gz")
    data = load(name, download=False)
    check_contract(data)
    assert data.title == title
    assert data.x_train.shape == (60_000, 1, 28, 28) and data.x_test.shape == (10_000, 1, 28, 28)
    mean, std = datasets._moments(data.x_train)
    assert data.mean == pytest.approx(mean, abs=1e-4) and data.std == pytest.approx(std, abs=1e-4)
    assert (np.bincount(data.y_test) > 800).all()
    assert all(check.ok for check in verify(name))


def test_real_mnist_is_decoded_once(shared_data, monkeypatch):
    shared_data("MNIST/raw/train-images-idx3-ubyte.gz")
    first = load("mnist", download=False)

    def decode(*arguments):
        raise AssertionError("decoded again")

    monkeypatch.setattr(PublicSet, "decode", decode)
    again = load("mnist", download=False)
    assert np.array_equal(first.x_train, again.x_train) and first.checksums == again.checksums


def test_real_cifar10_subset(shared_data):
    shared_data("cifar10-subset/cifar10-subset.npz")
    data = load("npz:cifar10-subset/cifar10-subset.npz")
    check_contract(data)
    assert data.title == "CIFAR-10 (subset of 8,068)" and data.classes == CIFAR10
    assert data.x_train.shape == (8_068, 3, 32, 32) and data.x_test.shape == (1_017, 3, 32, 32)
    mean, std = datasets._moments(data.x_train)
    assert data.mean == pytest.approx(mean, abs=0.01) and data.std == pytest.approx(std, abs=0.01)


def test_real_cifar10_with_its_official_pixels(shared_data):
    shared_data("cifar10-exact/cifar10-exact.npz")
    data = load("npz:cifar10-exact/cifar10-exact.npz")
    check_contract(data)
    assert data.title == "CIFAR-10 (59,896 of 60,000 official pixels)" and data.classes == CIFAR10
    assert data.x_train.shape == (50_000, 3, 32, 32) and data.x_test.shape == (10_000, 3, 32, 32)
    assert (np.bincount(data.y_train) == 5_000).all() and (np.bincount(data.y_test) == 1_000).all()
    mean, std = datasets._moments(data.x_train[::10])
    assert data.mean == pytest.approx(mean, abs=0.01) and data.std == pytest.approx(std, abs=0.01)


def test_real_cifar100_in_its_binary_version(shared_data):
    shared_data("cifar-100-binary/train.bin")
    data = load("cifar100", download=False)
    check_contract(data)
    assert data.title == "CIFAR-100" and len(set(data.classes)) == 100 and list(data.classes) == sorted(data.classes)
    assert data.x_train.shape == (50_000, 3, 32, 32) and data.x_test.shape == (10_000, 3, 32, 32)
    assert (np.bincount(data.y_train) == 500).all() and (np.bincount(data.y_test) == 100).all()
    mean, std = datasets._moments(data.x_train[::10])
    assert data.mean == pytest.approx(mean, abs=0.02) and data.std == pytest.approx(std, abs=0.02)
    assert all(check.ok and check.expected == check.found for check in datasets.verify("cifar100"))


@pytest.mark.parametrize(
    ("folder", "title", "sizes", "classes"),
    [
        ("svhn-10k", "SVHN (10,000 test images)", (8_000, 2_000), 10),
        ("gtsrb-small", "GTSRB (3,920 of 39,209)", (3_920, 1_263), 43),
    ],
)
def test_real_parts_say_that_they_are_parts(shared_data, folder, title, sizes, classes):
    shared_data(f"{folder}/{folder}.npz")
    name = f"npz:{folder}/{folder}.npz"
    data = load(name)
    check_contract(data)
    assert (data.title, len(data.y_train), len(data.y_test), len(data.classes)) == (title, *sizes, classes)
    mean, std = datasets._moments(data.x_train)
    assert data.mean == pytest.approx(mean, abs=0.05) and data.std == pytest.approx(std, abs=0.05)
    (check,) = datasets.verify(name)
    assert check.ok and check.found == check.expected == data.checksums[f"{folder}/{folder}.npz"]
