import io
import pickle

import numpy as np
import pytest
from conftest import cifar_files, tar_of, write_idx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_sets import write_svhn

from hatlab.data.formats import DatasetError, read_cifar, read_idx, read_npz, read_svhn
from hatlab.support.provenance import checksum


@given(array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)))
def test_idx_round_trip(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("idx") / "file.gz"
    write_idx(path, array)
    np.testing.assert_array_equal(read_idx(path), array)


def test_checksum(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert checksum(path, "md5") == "md5:900150983cd24fb0d6963f7d28e17f72"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar_as_python_2_wrote_it(tmp_path, name, packed):
    batches, x, y = cifar_files(name)
    *train, test, meta = batches
    if packed:
        archive = tar_of({f"folder/{member}": content for member, content in batches.items()}, tmp_path / "x.tar.gz")
        files = {"x.tar.gz": archive}
    else:
        files = {member: tmp_path / member for member in batches}
        for member, content in batches.items():
            files[member].write_bytes(content)
    images = read_cifar(files, train, [test], meta)
    np.testing.assert_array_equal(images.x_train, x.reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(images.y_train, y)
    assert images.x_train.dtype == np.uint8 and images.y_train.dtype == np.int64
    assert images.x_train.flags.c_contiguous
    n_classes = {"cifar10": 10, "cifar100": 100}[name]
    assert images.classes == tuple(f"class {k}" for k in range(n_classes))
    assert images.x_test.shape == (n_classes, 3, 32, 32)


def test_cifar_batches_of_today_are_read_too(tmp_path):
    x = np.zeros((2, 3072), np.uint8)
    for member, content in {"t": {"data": x, "labels": [0, 1]}, "m": {"label_names": ["a", "b"]}}.items():
        (tmp_path / member).write_bytes(pickle.dumps(content, protocol=2))
    images = read_cifar({member: tmp_path / member for member in "tm"}, ["t"], ["t"], "m")
    np.testing.assert_array_equal(images.x_train, x.reshape(2, 3, 32, 32))


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_a_batch_never_runs_code(tmp_path, capsys):
    for member in "tm":
        (tmp_path / member).write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(DatasetError, match="print"):
        read_cifar({member: tmp_path / member for member in "tm"}, ["t"], ["t"], "m")
    assert capsys.readouterr().out == ""


def test_svhn(tmp_path):
    expected = write_svhn(tmp_path)
    images = read_svhn(tmp_path / "train_32x32.mat", tmp_path / "test_32x32.mat")
    np.testing.assert_array_equal(images.x_train, expected["train"])
    np.testing.assert_array_equal(images.x_test, expected["test"])
    np.testing.assert_array_equal(images.y_test, [*range(1, 10), 0] * 2)  # 10 is the digit 0
    assert images.x_train.dtype == np.uint8 and images.y_train.dtype == np.int64
    assert images.x_train.flags.c_contiguous and images.classes == tuple("0123456789")


def test_npz(tiny_npz, tiny_arrays):
    images = read_npz(tiny_npz)
    np.testing.assert_array_equal(images.x_train[:, 0], tiny_arrays["x_train"])
    np.testing.assert_array_equal(images.y_test, tiny_arrays["y_test"])
    assert images.classes == ("0", "1", "2", "3")
    assert images.y_train.dtype == np.int64


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3])),
    labels=st.sampled_from([np.uint8, np.int8, np.int32, np.uint64]),
)
def test_npz_channels_come_first(tmp_path_factory, shape, labels):
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    y = np.arange(len(x)).astype(labels)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    images = read_npz(path)
    np.testing.assert_array_equal(images.x_train.transpose(0, 2, 3, 1), x)
    np.testing.assert_array_equal(images.y_train, y)
    assert images.x_train.flags.c_contiguous


def spoil(arrays, **changes):
    """`None` takes a key away."""
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


X = np.zeros((12, 5, 6), np.uint8)
Y = np.arange(12) % 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": None}, ["lacks x_train", "y_train, x_test, y_test"]),  # labels without images
        ({"y_test": None, "x_test": None}, ["lacks x_test, y_test"]),
        ({"x_train": X.astype(np.float32)}, ["x_train has dtype float32", "uint8"]),
        ({"x_train": X.astype(np.int64)}, ["x_train has dtype int64"]),
        ({"x_train": X.reshape(12, 30)}, ["x_train has shape (12, 30)", "(N, H, W)"]),
        ({"x_train": np.zeros((12, 3, 5, 6), np.uint8)}, ["(12, 3, 5, 6)", "C 1 or 3"]),
        ({"x_train": X[:0], "y_train": Y[:0]}, ["x_train has shape (0, 5, 6)", "none empty"]),
        ({"y_train": Y.astype(float)}, ["y_train has dtype float64", "integer"]),
        ({"y_train": Y[:11]}, ["y_train has shape (11,)", "12 images"]),
        ({"y_train": Y[:, None]}, ["y_train has shape (12, 1)", "(12,)"]),
        ({"x_test": np.zeros((8, 5, 5), np.uint8)}, ["(5, 6)", "(5, 5)"]),
        ({"y_train": Y - 1}, ["label -1 is negative"]),
        ({"y_train": Y % 3}, ["label 3 is in y_test but not in y_train"]),
        ({"y_test": np.arange(8) % 3}, ["label 3 is in y_train but not in y_test"]),
        ({"y_train": Y + Y // 2, "y_test": Y[:8] + Y[:8] // 2}, ["reach 4 but 2 has no image"]),
        ({"y_train": Y.astype(object)}, ["Python objects", "never read"]),
    ],
)
def test_unusable_npz(tmp_path, tiny_arrays, changes, words):
    path = tmp_path / "bad.npz"
    np.savez(path, **spoil(tiny_arrays, **changes))
    with pytest.raises(DatasetError) as error:
        read_npz(path)
    assert str(error.value).count(str(path)) == 1  # one error, not one within another
    for word in [str(path), *words]:
        assert word in str(error.value)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("harm", ["truncated", "altered", "empty", "text", "npy", "not arrays"])
def test_damaged_npz(tiny_npz, harm, tmp_path):
    content = bytearray(tiny_npz.read_bytes())
    content[120] ^= 255  # in the compressed x_train
    harmed = {
        "truncated": tiny_npz.read_bytes()[:-100],
        "altered": bytes(content),
        "empty": b"",
        "text": b"hello",
        "npy": npy(X),
    }
    if harm == "not arrays":
        import zipfile

        with zipfile.ZipFile(tiny_npz, "w") as archive:
            for key in ("x_train", "y_train", "x_test", "y_test"):
                archive.writestr(f"{key}.npy", b"no array")
    else:
        tiny_npz.write_bytes(harmed[harm])
    before = tiny_npz.read_bytes()
    with pytest.raises(DatasetError, match=r"damaged|not a readable .npz|is not an array") as error:
        read_npz(tiny_npz)
    assert str(tiny_npz) in str(error.value)
    assert tiny_npz.read_bytes() == before
