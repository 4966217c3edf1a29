"""Files to arrays: IDX (MNIST), CIFAR's batches, SVHN's `.mat`, `.npz`. Nothing is unpacked to disk."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hatlab.config import ConfigError

__all__ = ["SPLITS", "DatasetError", "Images", "channels_first", "read_cifar", "read_idx", "read_npz", "read_svhn"]

SPLITS = ("train", "test")
READ_ERRORS = (OSError, ValueError, EOFError, zlib.error, LZMAError, tarfile.TarError, zipfile.BadZipFile)


class DatasetError(ConfigError):
    """Data that are missing, damaged or not in the form asked for. No file was changed, nothing was trained."""


@dataclass(frozen=True, eq=False)
class Images:
    """What a source holds: images (N, C, H, W) uint8, labels (N,) int64, and a name per class."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]


def channels_first(x: np.ndarray) -> np.ndarray:
    """Return (N, H, W) or (N, H, W, C) as C-contiguous (N, C, H, W)."""
    return np.ascontiguousarray(x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2))


# --- MNIST's format -------------------------------------------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
    """Return the uint8 array of a gzipped IDX file: 4 bytes of which the last is the rank, 32-bit sizes, values."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


# --- CIFAR's format -------------------------------------------------------------------------------------------------


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays and plain containers and nothing else, so that a batch can never run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):  # Python 2 wrote the flags as 0 and 1, which NumPy 2.4 warns of
            return lambda kind, align, copy: np.dtype(kind, bool(align), bool(copy))
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise DatasetError(f"a CIFAR batch asks for {module}.{name}, which is not part of an array")


def read_cifar(files: Mapping[str, Path], train: Sequence[str], test: Sequence[str], meta: str) -> Images:
    """Return CIFAR-10 or CIFAR-100 (fine labels) from its batches, or from the one archive that holds them.

    The batches are pickles: call this only after their checksums were compared.
    """
    contents = {name: path.read_bytes() for name, path in files.items()}
    if meta not in contents:
        (archive,) = files.values()
        with tarfile.open(archive) as tar:
            members = {PurePosixPath(member.name).name: member for member in tar if member.isreg()}
            for name in (*train, *test, meta):
                stream = tar.extractfile(members[name])
                assert stream is not None  # a regular file
                contents[name] = stream.read()

    def batch(name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = _ArraysOnly(io.BytesIO(contents[name]), encoding="latin1").load()
        return loaded

    def part(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        batches = [batch(name) for name in names]
        x = np.concatenate([b["data"] for b in batches]).reshape(-1, 3, 32, 32)
        y = np.concatenate([b["labels"] if "labels" in b else b["fine_labels"] for b in batches])
        return x, y.astype(np.int64)

    names = batch(meta)
    return Images(
        *part(train), *part(test), tuple(names["label_names"] if "label_names" in names else names["fine_label_names"])
    )


# --- SVHN's format --------------------------------------------------------------------------------------------------


def read_svhn(train: Path, test: Path) -> Images:
    """Return SVHN from its two `.mat` files: X (32, 32, 3, N) and y (N, 1), where label 10 stands for the digit 0."""
    from scipy.io import loadmat

    def part(path: Path) -> tuple[np.ndarray, np.ndarray]:
        arrays = loadmat(path)
        return np.ascontiguousarray(arrays["X"].transpose(3, 2, 0, 1)), arrays["y"].ravel().astype(np.int64) % 10

    return Images(*part(train), *part(test), tuple("0123456789"))


# --- npz ------------------------------------------------------------------------------------------------------------


def read_npz(path: Path) -> Images:
    """Return the images of an `.npz` with x_train, y_train, x_test, y_test; other keys are ignored.

    Images are uint8 (N, H, W) or (N, H, W, C) with C of 1 or 3; labels are integers (N,) in 0..K-1. Classes are
    named by their label.

    Raises:
        DatasetError: damaged file, missing key, wrong dtype or shape, a class without training or test images.
    """
    return images_of(path, _npz_arrays(path))


def images_of(path: Path | str, arrays: Mapping[str, np.ndarray]) -> Images:
    """Return the images in arrays that are called as in an `.npz`; errors are those of `read_npz`."""
    for split in SPLITS:
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.dtype != np.uint8:
            raise DatasetError(f"{path}: x_{split} has dtype {x.dtype}; allowed: uint8 (0..255)")
        if not (x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))) or 0 in x.shape:
            raise DatasetError(
                f"{path}: x_{split} has shape {x.shape}; allowed: (N, H, W) or (N, H, W, C), none empty, C 1 or 3"
            )
        if y.dtype.kind not in "iu":
            raise DatasetError(f"{path}: y_{split} has dtype {y.dtype}; allowed: any integer")
        if y.shape != x.shape[:1]:
            raise DatasetError(
                f"{path}: y_{split} has shape {y.shape}, but x_{split} holds {len(x)} images; needed: ({len(x)},)"
            )
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        shapes = [arrays[f"x_{split}"].shape[1:] for split in SPLITS]
        raise DatasetError(f"{path}: training images have shape {shapes[0]}, test images {shapes[1]}; must be equal")
    _check_labels(path, arrays["y_train"], arrays["y_test"])
    classes = tuple(str(label) for label in range(int(arrays["y_train"].max()) + 1))
    return Images(
        channels_first(arrays["x_train"]),
        arrays["y_train"].astype(np.int64),
        channels_first(arrays["x_test"]),
        arrays["y_test"].astype(np.int64),
        classes,
    )


def _npz_arrays(path: Path) -> dict[str, np.ndarray]:
    needed = [f"{kind}_{split}" for split in SPLITS for kind in "xy"]
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise DatasetError(f"{path} is damaged: the checksum of its member {damaged} is wrong; left in place")
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in needed if key not in file.files]
            if missing:
                raise DatasetError(
                    f"{path} lacks {', '.join(missing)}: needed are {', '.join(needed)}; it has {', '.join(file.files)}"
                )
            arrays = {key: file[key] for key in needed}
        if foreign := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise DatasetError(f"{path}: {foreign[0]} is not an array; left in place")
        return arrays
    except DatasetError:
        raise
    except READ_ERRORS as error:
        if "allow_pickle" in str(error):
            raise DatasetError(
                f"{path} holds Python objects; allowed: plain arrays (objects are never read)"
            ) from error
        raise DatasetError(f"{path} is not a readable .npz: {error}; left in place") from error


def _check_labels(path: Path | str, y_train: np.ndarray, y_test: np.ndarray) -> None:
    """Labels must be 0..K-1, each with training and test images."""
    train, test = set(y_train.tolist()), set(y_test.tolist())
    if min(train | test) < 0:
        raise DatasetError(f"{path}: label {min(train | test)} is negative; labels must be 0..K-1")
    if test - train:
        raise DatasetError(f"{path}: label {min(test - train)} is in y_test but not in y_train")
    if train - test:
        raise DatasetError(f"{path}: label {min(train - test)} is in y_train but not in y_test")
    if max(train) >= len(train):
        gap = next(label for label in range(len(train)) if label not in train)
        raise DatasetError(f"{path}: labels reach {max(train)} but {gap} has no image; labels must be 0..K-1, no gaps")
