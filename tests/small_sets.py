"""The paper's eight data sets with a few images each, in the forms in which people have them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import cifar_files, png, tar_of, write_idx
from PIL import Image
from scipy.io import savemat

from hatlab.data.public_sets import PUBLIC_SETS, PublicSet
from hatlab.support.provenance import checksum

LETTERS = "ABCDEFGHIJ"
# The orders that the authors' code gives for its eight data sets, by seed
ORDERS = {
    0: [6, 2, 1, 7, 3, 0, 5, 4],
    1: [7, 2, 1, 6, 0, 4, 3, 5],
    2: [4, 1, 6, 2, 3, 7, 5, 0],
    3: [5, 7, 4, 6, 3, 1, 0, 2],
    4: [4, 7, 3, 0, 1, 5, 6, 2],
    5: [7, 2, 4, 1, 0, 5, 6, 3],
    6: [0, 5, 6, 7, 4, 3, 1, 2],
    7: [2, 5, 0, 6, 3, 1, 4, 7],
    8: [7, 0, 2, 6, 5, 1, 4, 3],
    9: [7, 1, 2, 3, 0, 5, 4, 6],
}


def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of public sets that are there now are the expected ones; unpacked folders have no known checksum."""
    known = {}
    for name, item in PUBLIC_SETS.items():
        there = {file: path for file, path in item.find().items() if path is not None and path.is_file()}
        known[name] = {file: checksum(path, "md5") for file, path in there.items()}
    monkeypatch.setattr(PublicSet, "expected", lambda self: known[self.name])


def write_idx_set(folder: Path, n_train: int, n_test: int) -> None:
    """MNIST's four files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    for split, n in (("train", n_train), ("t10k", n_test)):
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", np.arange(n, dtype=np.uint8) % 10)


def write_cifar(root: Path, name: str) -> None:
    """CIFAR's archive."""
    batches, _, _ = cifar_files(name)
    (archive,) = PUBLIC_SETS[name].files
    tar_of({f"folder/{member}": content for member, content in batches.items()}, root / archive)


def write_svhn(root: Path) -> dict[str, np.ndarray]:
    """SVHN's two files, with labels 1..10; returns the images as they should be read."""
    rng, images = np.random.default_rng(4), {}
    for split, n in (("train", 30), ("test", 20)):
        x = rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        savemat(root / f"{split}_32x32.mat", {"X": x, "y": (np.arange(n, dtype=np.uint8) % 10 + 1)[:, None]})
        images[split] = np.stack([x[..., k].transpose(2, 0, 1) for k in range(n)])
    return images


def ppm(colour: tuple[int, int, int], size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "ppm")
    return file.getvalue()


def gtsrb_files() -> tuple[dict[str, bytes], dict[str, bytes], str]:
    """Two training images for each of the 43 classes, one for testing; class k is of colour (k, 100, 200)."""
    train, test, rows = {}, {}, ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for k in range(43):
        for n in range(2):
            train[f"GTSRB/Training/{k:05d}/00000_{n:05d}.ppm"] = ppm((k, 100, 200), (20 + k, 30 + n))
        train[f"GTSRB/Training/{k:05d}/GT-{k:05d}.csv"] = b"Filename;Width\n"
        name = f"{42 - k:05d}.ppm"
        test[f"GTSRB/Final_Test/Images/{name}"] = ppm((k, 100, 200), (50, 40 + k))
        rows.append(f"{name};50;{40 + k};1;1;9;9;{k}")
    return train, test, "\n".join(rows) + "\n"


def write_gtsrb(root: Path, *, packed: bool = True) -> Path:
    """GTSRB's zip files, or what torchvision unpacks them to."""
    folder = root / "gtsrb"
    train, test, truth = gtsrb_files()
    contents = dict(zip(PUBLIC_SETS["gtsrb"].files, (train, test, {"GT-final_test.csv": truth.encode()}), strict=True))
    for archive, members in contents.items():
        if packed:
            folder.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(folder / archive, "w") as file:
                for name, content in members.items():
                    file.writestr(name, content)
        else:
            put(folder, members)
    return folder


def put(folder: Path, members: dict[str, bytes]) -> Path:
    """Write files below a folder."""
    for name, content in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def letters(per_class: int = 20) -> dict[str, bytes]:
    """notMNIST's files: every pixel of image k of letter l is 20 l + k. One file more, of letter B, is no image."""
    images = {
        f"{letter}/{k:02d}.png": png(np.full((28, 28), 20 * number + k % 20, np.uint8))
        for number, letter in enumerate(LETTERS)
        for k in range(per_class)
    }
    return {**images, "B/RGVtb2.png": b""}


def write_letters(root: Path, *, packed: bool = True) -> Path:
    """notMNIST_small, in an archive or unpacked."""
    members = {f"notMNIST_small/{name}": content for name, content in letters().items()}
    return tar_of(members, root / "notMNIST_small.tar.gz") if packed else put(root, members) / "notMNIST_small"


def write_letters_idx(root: Path, n: int = 400) -> Path:
    """The pair of IDX files that a part of notMNIST is given in."""
    folder = root / "notmnist-10k"
    folder.mkdir(parents=True)
    x = np.random.default_rng(5).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    write_idx(folder / "t10k-images-idx3-ubyte.gz", x)
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.arange(n, dtype=np.uint8) % 10)
    return folder


def faces(images_of: dict[str, int]) -> dict[str, bytes]:
    """Person -> number of images: PNG of many sizes, red above and blue below."""
    members = {}
    for number, (person, n) in enumerate(images_of.items()):
        for k in range(n):
            pixels = np.zeros((40 + 2 * k, 30 + number, 3), np.uint8)
            pixels[: 20 + k, :, 0] = 255
            pixels[20 + k :, :, 2] = 255
            members[f"{person}/{person}_{k:03d}.png"] = png(pixels)
    return members


def write_all(root: Path) -> None:
    """All eight sets."""
    root.mkdir(parents=True, exist_ok=True)
    write_idx_set(root / "MNIST" / "raw", 40, 20)
    write_idx_set(root / "FashionMNIST" / "raw", 60, 20)
    for name in ("cifar10", "cifar100"):
        write_cifar(root, name)
    write_svhn(root)
    write_gtsrb(root)
    put(root / "facescrub", faces({"Ada": 40, "Bob": 40, "Cy": 40}))
    write_letters(root)
