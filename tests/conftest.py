"""Fixtures: small files of each format, and the real data sets where they are present."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from hatlab.data.public_sets import PUBLIC_SETS, PublicSet
from hatlab.support import paths
from hatlab.support.provenance import checksum

# The networks here are tiny: a second thread saves nothing, and on a busy machine waits for its turn at every step.
# Read when torch is first imported; kernels and child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Convolutions round differently with AVX-512, and after some steps at a slope of 400 a mask shows it. The recorded runs
# of the authors' implementation are repeated with AVX2's rounding. Read when the first convolution is made.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
# What starts the tests may ignore these (nohup, a shell's &), and what the tests start would inherit that.
for _name, _usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    _number = getattr(signal, _name, None)
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The web site, built once, in a process of its own: Sphinx imports much, and its warnings are its own affair."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base  # by all workers
    out = shared / "site" / "html"
    with FileLock(shared / "site.lock"):
        if not (shared / "site.built").exists():
            command = [sys.executable, "-m", "docs", "--out", str(out)]
            built = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
            assert built.returncode == 0, built.stdout + built.stderr
            (shared / "site.built").touch()
    return out


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The walkthrough's slides."""
    from docs.slides import write  # not above: the other tests need nothing of what it imports

    (path,) = write(tmp_path_factory.mktemp("slides"))
    return path


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a current folder of the test's own, without data and without HATLAB_DATA."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(paths, "home", lambda: home)
    monkeypatch.delenv("HATLAB_DATA", raising=False)
    monkeypatch.delenv("HATLAB_RESULTS", raising=False)
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Downloads fail; returns the list of URLs that were asked for."""
    import torchvision.datasets.utils

    asked: list[str] = []

    def refuse(url: str, *args: object, **kwargs: object) -> None:
        asked.append(url)
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", refuse)
    return asked


@pytest.fixture
def shared_data(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """shared_data("MNIST/raw") returns that path below a data root, or skips the test.

    Without HATLAB_DATA, a folder shared/data beside the checkout serves as one.
    """
    beside = paths.home().parent / "shared" / "data"
    if paths.data_roots() == [paths.cache_root()] and beside.is_dir():
        monkeypatch.setenv("HATLAB_DATA", str(beside))

    def find(path: str) -> Path:
        for root in paths.data_roots():
            if (root / path).exists():
                return root / path
        pytest.skip(
            f"{path} is in none of {', '.join(map(str, paths.data_roots()))}; point HATLAB_DATA at a folder with it"
        )

    return find


@pytest.fixture
def tiny_arrays() -> Arrays:
    """12 training and 8 test images of 5x6 grey pixels in 4 classes."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (12, 5, 6), dtype=np.uint8),
        "y_train": np.arange(12) % 4,
        "x_test": rng.integers(0, 256, (8, 5, 6), dtype=np.uint8),
        "y_test": np.arange(8) % 4,
    }


@pytest.fixture
def tiny_npz(tmp_path: Path, tiny_arrays: Arrays) -> Path:
    path = tmp_path / "tiny.npz"
    np.savez_compressed(path, **tiny_arrays)
    return path


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """train: 3, test: 2 grey PNGs of 4x4 pixels for each of cat and dog; the pixel value is known."""
    folder = tmp_path / "pets"
    for split, n in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for k in range(n):
                pixels = np.full((4, 4), 100 * label + k, np.uint8)
                (folder / split / name / f"{k}.png").write_bytes(png(pixels))
    return folder


def pack(folder: Path, archive: Path, mode: str = "w:xz", top: str = "") -> Path:
    """Write what is in `folder` to a tar archive, inside a folder `top` of it."""
    with tarfile.open(archive, mode) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=f"{top}{path.name}")
    return archive


def known_md5(monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
    """Make the md5 of small stand-in `files` the expected ones."""
    expected = {name: checksum(path, "md5") for name, path in files.items()}
    monkeypatch.setattr(PublicSet, "expected", lambda self: expected)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def tiny_mnist(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """30 training and 20 test images in MNIST's files below home/data."""
    rng = np.random.default_rng(1)
    folder = empty_home / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    files = {name: folder / name for name in PUBLIC_SETS["mnist"].files}
    for (name, path), n in zip(files.items(), (30, 30, 20, 20), strict=True):
        labels = np.arange(n, dtype=np.uint8) % 10
        write_idx(path, rng.integers(0, 256, (n, 28, 28), dtype=np.uint8) if "images" in name else labels)
    known_md5(monkeypatch, files)
    return files


def python2_batch(x: np.ndarray, labels: list[int], key: str) -> bytes:
    """Pickle {"data": x, key: labels} the way Python 2 and NumPy 1 wrote CIFAR's batches (protocol 2, byte strings)."""

    def text(value: bytes) -> bytes:
        return (
            b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + len(value).to_bytes(4, "little") + value
        )

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"  # numpy.dtype("u1", 0, 1)
    dtype += b"(K\x03" + text(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    shape = number(x.shape[0]) + number(x.shape[1]) + b"\x86"
    array += b"(K\x01" + shape + dtype + b"\x89" + text(x.tobytes()) + b"tb"
    numbers = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(key.encode()) + numbers + b"u."


def cifar_files(name: str) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Batches of 2 images for each class of CIFAR-10, or of 100 for CIFAR-100; pixels and labels in training order."""
    rng = np.random.default_rng(2)
    ten = name == "cifar10"
    train = [f"data_batch_{k}" for k in range(1, 6)] if ten else ["train"]
    n_classes = 10 if ten else 100
    batches, pixels, targets = {}, [], []
    for batch in [*train, "test_batch" if ten else "test"]:
        x = rng.integers(0, 256, (n_classes, 3072), dtype=np.uint8)
        y = rng.permutation(n_classes).tolist()
        batches[batch] = python2_batch(x, y, "labels" if ten else "fine_labels")
        if batch in train:
            pixels.append(x)
            targets.append(y)
    names = {"label_names" if ten else "fine_label_names": [f"class {k}" for k in range(n_classes)]}
    batches["batches.meta" if ten else "meta"] = pickle.dumps(names, protocol=2)
    return batches, np.concatenate(pixels), np.concatenate(targets)


def tar_of(members: dict[str, bytes], archive: Path, mode: str = "w:gz") -> Path:
    with tarfile.open(archive, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-dir",
        type=Path,
        default=Path(__file__).parent / "reference",
        help="folder of recorded runs (.npz) of the authors' implementation, replayed by test_reference.py",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each recorded run."""
    if "reference" in metafunc.fixturenames:
        folder: Path = metafunc.config.getoption("--reference-dir")
        files = sorted(folder.glob("*.npz"))
        if not files:
            raise pytest.UsageError(f"--reference-dir {folder}: no .npz files there")
        metafunc.parametrize("reference", files, ids=[path.stem for path in files])
