import functools
import inspect
import os
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import cifar_files, known_md5, tar_of
from small_sets import gtsrb_files, ppm, put, trust, write_gtsrb, write_svhn

from hatlab.data import datasets, named_sets, public_sets
from hatlab.data.datasets import DatasetError, fetch, load, status, verify
from hatlab.data.known_parts import KNOWN
from hatlab.data.public_sets import PUBLIC_SETS, read_gtsrb
from hatlab.support import paths


def state_of(name):
    return next(item for item in status() if item.name == name)


@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_files_are_torchvisions(name):
    from torchvision import datasets as torchvision_sets

    item = PUBLIC_SETS[name]
    expected = item.expected()
    source = getattr(torchvision_sets, item.torchvision)
    if name == "gtsrb":
        written = inspect.getsource(source)
        assert all(f"{{base_url}}{file}" in written for file in item.files)
        assert all(f'"{md5.removeprefix("md5:")}"' in written for md5 in expected.values())
        assert f'"{public_sets.GTSRB_URL}"' in written
        assert list(item.files) == list(expected)
    elif name == "svhn":
        listed = {file: f"md5:{md5}" for split in ("train", "test") for _, file, md5 in [source.split_list[split]]}
        assert list(item.files) == list(listed) and expected == listed
    elif name.startswith("cifar"):
        listed = [file for file, _ in (*source.train_list, *source.test_list)]
        places = {file: f"{source.base_folder}/{file}" for file in (*listed, source.meta["filename"])}
        assert item.forms[1].files == places
        assert list(item.files) == [source.filename]
        assert expected[source.filename] == f"md5:{source.tgz_md5}"
    else:
        assert list(item.files) == [file for file, _ in source.resources]
        assert item.folder == f"{source.__name__}/raw"
        assert expected == {file: f"md5:{md5}" for file, md5 in source.resources}
    for file in item.files:
        assert all(url.startswith("http") and url.endswith(file) for url in item._urls(file))


def test_readme_lists_every_file_with_size_and_checksum():
    readme = (paths.home() / "data" / "README.md").read_text()
    for item in PUBLIC_SETS.values():
        expected = item.expected()
        for file, size in item.files.items():
            md5 = expected[file].removeprefix("md5:")
            assert re.search(rf"{re.escape(file)}` \| {size:,} \| `{md5}`", readme), file
        assert item.title in readme
    for known in (datasets.DIGITS_CHECKSUM, *KNOWN):
        assert known.removeprefix("sha256:") in readme


def test_no_network_and_no_files(empty_home, no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("HATLAB_DATA", str(tmp_path / "lent"))
    with pytest.raises(DatasetError) as error:
        load("mnist")
    message = str(error.value)
    assert "dataset = 'mnist'" in message and "no route to host" in message
    for root in (tmp_path / "lent", empty_home / "data"):
        assert str(root / "MNIST" / "raw") in message
    for file in PUBLIC_SETS["mnist"].files:
        assert f"/mnist/{file}" in message
    assert "HATLAB_DATA" in message
    assert len(no_network) == 2  # both mirrors were tried
    assert not [path for path in empty_home.rglob("*") if path.is_file()]


def test_downloads_can_be_switched_off(empty_home, no_network):
    with pytest.raises(DatasetError, match="nothing was downloaded") as error:
        load("cifar100", download=False)
    assert "cifar-100-python.tar.gz" in str(error.value) and "(unpacked)" in str(error.value)
    assert no_network == []


def serve(monkeypatch, source: Path, harm=lambda content: content):
    """Downloads copy the file of the same name from `source`."""
    import torchvision.datasets.utils as utils

    asked = []

    def copy(url, root, filename, md5):
        asked.append(url)
        target = Path(root) / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(harm((source / url.rsplit("/", 1)[1]).read_bytes()))
        if not utils.check_integrity(target, md5):
            raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(utils, "download_url", copy)
    return asked


@pytest.fixture
def server(tiny_mnist, tmp_path):
    """The files of `tiny_mnist`, no longer in home but to be downloaded."""
    source = tiny_mnist["train-images-idx3-ubyte.gz"].parent
    return source.rename(tmp_path / "server")


def test_first_use_downloads(server, empty_home, monkeypatch):
    asked = serve(monkeypatch, server)
    assert state_of("mnist").state == "missing"
    assert state_of("mnist").size == sum(PUBLIC_SETS["mnist"].files.values())
    assert load("mnist").x_train.shape == (30, 1, 28, 28)
    assert len(asked) == 4
    assert fetch("mnist") == list(PUBLIC_SETS["mnist"].fetch().values())
    assert len(asked) == 4
    folder = empty_home / "data" / "MNIST" / "raw"
    assert {path.name for path in folder.iterdir()} == set(PUBLIC_SETS["mnist"].files)


def test_download_over_http_shows_progress(server, empty_home, monkeypatch, capfd):
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(server))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{httpd.server_port}"
            monkeypatch.setattr(public_sets.PublicSet, "_urls", lambda self, name: [f"{address}/{name}"])
            assert load("mnist").x_train.shape == (30, 1, 28, 28)
        finally:
            httpd.shutdown()
            thread.join()
    assert "100%" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_only_what_is_missing_is_downloaded(server, empty_home, tmp_path, monkeypatch, name):
    lent = tmp_path / "lent" / "MNIST" / "raw"
    lent.mkdir(parents=True)
    (server / name).rename(lent / name)
    monkeypatch.setenv("HATLAB_DATA", str(tmp_path / "lent"))
    asked = serve(monkeypatch, server)
    data = load("mnist")
    assert data.x_train.shape == (30, 1, 28, 28) and data.y_test.shape == (20,)
    assert list(data.checksums) == [f"MNIST/raw/{file}" for file in PUBLIC_SETS["mnist"].files]
    assert len(asked) == 3 and not any(url.endswith(name) for url in asked)
    assert [path.name for path in lent.iterdir()] == [name]


def test_damaged_download_leaves_no_file(server, empty_home, monkeypatch):
    serve(monkeypatch, server, harm=lambda content: content[:-1])
    with pytest.raises(DatasetError, match=r"could not be downloaded: http.*corrupted"):
        fetch("mnist")
    assert not [path for path in empty_home.rglob("*") if path.is_file()]


def test_time_limit_of_a_download_is_lifted_afterwards():
    import socket

    before = socket.getdefaulttimeout()
    with public_sets._patience(3.0):
        assert socket.getdefaulttimeout() == 3.0
    assert socket.getdefaulttimeout() == before


def test_mnist(tiny_mnist):
    data = load("mnist")
    assert data.title == "MNIST" and data.classes == tuple("0123456789")
    assert data.x_train.shape == (30, 1, 28, 28) and data.x_test.shape == (20, 1, 28, 28)
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int64
    np.testing.assert_array_equal(data.y_test, np.arange(20) % 10)
    assert (data.mean, data.std) == ((0.1307,), (0.3081,))
    assert data.checksums == {f"MNIST/raw/{k}": v for k, v in PUBLIC_SETS["mnist"].checksums(tiny_mnist).items()}


def test_from_the_cache_torchvision_is_not_asked(tiny_mnist, monkeypatch):
    first = load("mnist")
    monkeypatch.delattr(public_sets.PublicSet, "_source")
    np.testing.assert_array_equal(load("mnist").x_train, first.x_train)


@pytest.mark.parametrize("harm", ["truncated", "altered", "empty"])
@pytest.mark.parametrize("cached_before", [True, False])
def test_truncated_or_altered_file(tiny_mnist, no_network, harm, cached_before):
    if cached_before:
        load("mnist")
    path = tiny_mnist["t10k-images-idx3-ubyte.gz"]
    time = path.stat()
    content = path.read_bytes()
    good = PUBLIC_SETS["mnist"].expected()[path.name]
    changed = {"truncated": content[:-7], "altered": content[:-1] + b"x", "empty": b""}[harm]
    path.write_bytes(changed)
    os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))  # no date gives it away
    with pytest.raises(DatasetError) as error:
        load("mnist")
    bad = PUBLIC_SETS["mnist"].checksums({"it": path})["it"]
    for word in ("dataset = 'mnist'", str(path), f"expected {good}", f"found {bad}", "left in place"):
        assert word in str(error.value)
    assert path.read_bytes() == changed
    assert no_network == []
    checks = verify("mnist")
    assert [check.ok for check in checks] == [True, True, False, True]
    assert (checks[2].file, checks[2].problem) == (str(path), "truncated or altered")
    with pytest.raises(DatasetError, match="truncated or altered"):
        fetch("mnist")


def test_verify_names_missing_files(empty_home):
    assert [check.problem for check in verify("fashion_mnist")] == ["missing"] * 4


def test_read_only_data_without_any_cache(tiny_mnist, empty_home, tmp_path, monkeypatch):
    lent = (empty_home / "data").rename(tmp_path / "lent")
    (empty_home / "data").write_text("no folder can be made here")
    monkeypatch.setenv("HATLAB_DATA", str(lent))
    before = sorted(lent.rglob("*"))
    assert load("mnist").x_train.shape == (30, 1, 28, 28)
    assert sorted(lent.rglob("*")) == before


@pytest.mark.parametrize(("name", "title"), [("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar(empty_home, tmp_path, monkeypatch, no_network, name, title, packed):
    lent = tmp_path / "lent"
    item = PUBLIC_SETS[name]
    folder = lent / Path(next(iter(item.forms[1].files.values()))).parent
    folder.mkdir(parents=True)
    batches, x, y = cifar_files(name)
    files = {member: folder / member for member in batches}
    if packed:
        (archive,) = item.files
        members = {f"{folder.name}/{member}": content for member, content in batches.items()}
        files = {archive: tar_of(members, lent / archive)}
    else:
        for member, content in batches.items():
            files[member].write_bytes(content)
    known_md5(monkeypatch, files)
    monkeypatch.setenv("HATLAB_DATA", str(lent))
    for _ in ("decoded", "cached"):
        data = load(name)
        assert data.title == title and len(data.classes) == {"cifar10": 10, "cifar100": 100}[name]
        np.testing.assert_array_equal(data.x_train, x.reshape(-1, 3, 32, 32))
        np.testing.assert_array_equal(data.y_train, y)
        assert data.mean == pytest.approx((0.4914, 0.4824, 0.4467), abs=1e-4)
        assert data.std == pytest.approx((0.2471, 0.2435, 0.2616), abs=1e-4)
    assert state_of(name).where == str(lent if packed else folder)
    assert no_network == []
    some = next(iter(files.values()))
    some.write_bytes(some.read_bytes()[:-1])
    with pytest.raises(DatasetError, match="truncated or altered"):
        load(name)


def test_svhn(empty_home, monkeypatch, no_network):
    (empty_home / "data").mkdir()
    images = write_svhn(empty_home / "data")
    trust(monkeypatch)
    for _ in ("decoded", "cached"):
        data = load("svhn")
        assert data.title == "SVHN" and data.classes == tuple("0123456789")
        np.testing.assert_array_equal(data.x_train, images["train"])
        np.testing.assert_array_equal(data.x_test, images["test"])
        np.testing.assert_array_equal(data.y_train, np.arange(1, 31) % 10)  # label 10 is the digit 0
        assert data.mean == (0.4377, 0.4438, 0.4728) and data.std == (0.198, 0.201, 0.197)
        assert list(data.checksums) == ["train_32x32.mat", "test_32x32.mat"]
    path = empty_home / "data" / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DatasetError, match=r"train_32x32\.mat is truncated or altered: expected md5:"):
        load("svhn")


@pytest.mark.parametrize("packed", [True, False])
def test_gtsrb(empty_home, monkeypatch, no_network, packed):
    folder = write_gtsrb(empty_home / "data", packed=packed)
    trust(monkeypatch)
    for _ in ("decoded", "cached"):
        data = load("gtsrb")
        assert data.title == "GTSRB" and len(data.classes) == 43
        assert data.x_train.shape == (86, 3, 32, 32) and data.x_test.shape == (43, 3, 32, 32)
        np.testing.assert_array_equal(data.x_train[:, 0, 0, 0], data.y_train)
        np.testing.assert_array_equal(data.x_test[:, 0, 0, 0], data.y_test)
        assert data.mean == (0.3398, 0.3117, 0.3210) and data.std == (0.2755, 0.2647, 0.2712)
    item = PUBLIC_SETS["gtsrb"]
    assert list(data.checksums) == [f"gtsrb/{file}" for file in item.forms[0 if packed else 1].files]
    checks = verify("gtsrb")
    assert [check.ok for check in checks] == [True] * 3 and state_of("gtsrb").where.startswith(str(folder))
    if packed:
        path = folder / "GTSRB_Final_Test_Images.zip"
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(DatasetError, match=r"Test_Images\.zip is truncated or altered"):
            load("gtsrb")
    else:  # torchvision lists no sums of what it unpacks: a broken file is noticed when it is decoded
        path = folder / "GTSRB" / "Training" / "00003" / "00000_00001.ppm"
        path.write_bytes(b"P6 2")
        with pytest.raises(DatasetError, match=r"dataset = 'gtsrb'.*00003/00000_00001\.ppm is not a readable image"):
            load("gtsrb")
        assert not any(check.ok for check in verify("gtsrb"))


def test_archives_come_before_what_they_hold(empty_home):
    write_gtsrb(empty_home / "data", packed=False)
    assert list(PUBLIC_SETS["gtsrb"].find()) == ["GTSRB/Training", "GTSRB/Final_Test", "GT-final_test.csv"]
    write_gtsrb(empty_home / "data")
    assert list(PUBLIC_SETS["gtsrb"].find()) == list(PUBLIC_SETS["gtsrb"].files)


@pytest.mark.parametrize("name", ["svhn", "gtsrb"])
def test_what_is_missing_of_new_sets_is_named(empty_home, no_network, name):
    with pytest.raises(DatasetError, match="no route to host") as error:
        fetch(name)
    item = PUBLIC_SETS[name]
    for word in (*item.files, str(empty_home / "data" / item.folder), *(item._urls(file)[0] for file in item.files)):
        assert word in str(error.value)
    assert state_of(name).state == "missing" and state_of(name).size == sum(item.files.values())
    assert [check.problem for check in verify(name)] == ["missing"] * len(item.files)


def test_status_is_cheap_and_sees_wrong_sizes(tiny_mnist, monkeypatch):
    monkeypatch.setattr(named_sets, "checksum", None)
    monkeypatch.delattr(public_sets.PublicSet, "_source")
    states = {item.name: item.state for item in status()}
    assert states == {
        "digits": "ready",
        "mnist": "damaged",  # tiny files
        "fashion_mnist": "missing",
        "cifar10": "missing",
        "cifar100": "missing",
        "svhn": "missing",
        "gtsrb": "missing",
        "facescrub": "missing",
        "notmnist": "missing",
    }
    assert state_of("mnist").size == sum(path.stat().st_size for path in tiny_mnist.values())


# --- the files of GTSRB -----------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path):
    folder = write_gtsrb(tmp_path, packed=False)
    return folder / "GTSRB" / "Training", folder / "GTSRB" / "Final_Test", folder / "GT-final_test.csv"


@pytest.mark.parametrize("packed", [True, False])
def test_signs_of_many_sizes_become_32x32(tmp_path, parts, packed):
    if packed:
        folder = write_gtsrb(tmp_path)
        names = ("GTSRB-Training_fixed.zip", "GTSRB_Final_Test_Images.zip", "GTSRB_Final_Test_GT.zip")
        parts = [folder / name for name in names]
    images = read_gtsrb(*parts)
    assert images.x_train.shape == (86, 3, 32, 32) and images.x_test.shape == (43, 3, 32, 32)
    assert images.x_train.flags.c_contiguous and images.x_train.dtype == np.uint8
    np.testing.assert_array_equal(images.y_train, np.repeat(np.arange(43), 2))
    np.testing.assert_array_equal(images.y_test, np.arange(43)[::-1])  # by file name; the list gives the classes
    for x, y in ((images.x_train, images.y_train), (images.x_test, images.y_test)):
        for image, label in zip(x, y, strict=True):
            np.testing.assert_array_equal(image, np.broadcast_to([[[label]], [[100]], [[200]]], (3, 32, 32)))
    assert images.classes == tuple(map(str, range(43)))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (
            {"GTSRB/Final_Test/Images/99999.ppm": ppm((0, 0, 0), (9, 9))},
            ["99999.ppm is only in one of", "GT-final_test"],
        ),
        ({"GTSRB/Training/00043/0.ppm": ppm((0, 0, 0), (9, 9))}, ["Training", "00000 to 00042 and no other: 00043"]),
        ({"GTSRB/Training/stop/0.ppm": ppm((0, 0, 0), (9, 9))}, ["Training", "00000 to 00042 and no other: stop"]),
        ({"GT-final_test.csv": b"Filename,ClassId\n0.ppm,3\n"}, ["GT-final_test.csv does not list"]),
        ({"GT-final_test.csv": b"Filename;ClassId\n0.ppm\n"}, ["GT-final_test.csv does not list"]),
        ({"GT-final_test.csv": b"\xff\xfe"}, ["GT-final_test.csv does not list"]),
        (
            {"GT-final_test.csv": gtsrb_files()[2].replace(";7\n", ";8\n").encode()},
            ["GT-final_test", "00000 to 00042 and no other: 00007"],
        ),
        ({"GTSRB/Training/00007/0.ppm": b"P6 3"}, ["00007/0.ppm is not a readable image"]),
    ],
)
def test_unusable_files_of_gtsrb(tmp_path, parts, harm, words):
    put(tmp_path / "gtsrb", harm)
    with pytest.raises(DatasetError) as error:
        read_gtsrb(*parts)
    for word in words:
        assert word in str(error.value)
