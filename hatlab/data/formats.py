"""Files of data sets as arrays: IDX (MNIST), CIFAR's batches, SVHN's `.mat`, `.npz`. Archives are read in memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hatlab.config import ConfigError

__all__ = [
    "READ_ERRORS",
    "SPLITS",
    "DatasetError",
    "Entry",
    "Images",
    "channels_first",
    "folder_entries",
    "read_cifar",
    "read_cifar100_binary",
    "read_idx",
    "read_npz",
    "read_svhn",
    "reading",
    "tar_entries",
    "zip_entries",
]

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


@contextlib.contextmanager
def reading(problem: str, *others: type[Exception], error_class: type[DatasetError] = DatasetError) -> Iterator[None]:
    """Raise `error_class` with `problem` and the reason if the block fails with one of READ_ERRORS or `others`."""
    errors: tuple[type[Exception], ...] = (*READ_ERRORS, *others)
    try:
        yield
    except DatasetError:
        raise
    except errors as error:
        raise error_class(f"{problem}: {error}; left in place") from error


# --- folders and archives -------------------------------------------------------------------------------------------

# A path in a folder or archive, and the function that reads the file there, or None for a folder. The function works
# until the next entry is asked for.
Entry = tuple[PurePosixPath, Callable[[], bytes] | None]


def folder_entries(path: Path) -> Iterator[Entry]:
    """Yield all files and folders below a folder, in sorted order."""
    for file in sorted(path.rglob("*")):
        yield PurePosixPath(file.relative_to(path).as_posix()), None if file.is_dir() else file.read_bytes


def zip_entries(path: Path) -> Iterator[Entry]:
    """Yield all files and folders of a zip archive, in its order."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            yield PurePosixPath(member.filename), None if member.is_dir() else partial(archive.read, member)


def tar_entries(path: Path) -> Iterator[Entry]:
    """Yield all files and folders of a tar archive of any compression, in its order. Reading a link is an error."""

    def read(member: tarfile.TarInfo) -> bytes:
        stream = archive.extractfile(member) if member.isreg() else None
        if stream is None:
            raise DatasetError(f"{path}: member {member.name} is a link or device; allowed: files and folders")
        return stream.read()

    with tarfile.open(path) as archive:
        for member in archive:
            yield PurePosixPath(member.name), None if member.isdir() else partial(read, member)


# --- MNIST's format -------------------------------------------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
    """Return the uint8 array of a gzipped IDX file: 4 bytes of which the last is the rank, 32-bit sizes, values.

    torchvision's reader takes only unpacked files, and hatlab unpacks nothing to disk.
    """
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


# --- CIFAR's format -------------------------------------------------------------------------------------------------


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays and plain containers and nothing else, so that a batch can never run code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "_reconstruct": np.empty(0).__reduce__()[0],
            "ndarray": np.ndarray,
            # Python 2 wrote the flags as 0 and 1, which NumPy 2.4 warns of
            "dtype": lambda kind, align, copy: np.dtype(kind, bool(align), bool(copy)),
            "encode": lambda text, encoding: text.encode(encoding),
        }
        if module.partition(".")[0] in ("numpy", "_codecs") and name in allowed:
            return allowed[name]
        raise DatasetError(f"a CIFAR batch asks for {module}.{name}, which is not part of an array")


def read_cifar(files: Mapping[str, Path], train: Sequence[str], test: Sequence[str], meta: str) -> Images:
    """Return CIFAR-10 or CIFAR-100 (fine labels) from its batches, or from the one archive that holds them.

    torchvision's class takes only unpacked batches, unpickles whatever they hold, and lets NumPy warn of their dtypes.

    Raises:
        DatasetError: a batch that holds anything but arrays and plain containers.
    """
    names = (*train, *test, meta)
    if meta in files:
        contents = {name: files[name].read_bytes() for name in names}
    else:
        (archive,) = files.values()
        contents = {place.name: read() for place, read in tar_entries(archive) if read and place.name in names}
    batches = {name: _ArraysOnly(io.BytesIO(contents[name]), encoding="latin1").load() for name in names}
    fine = "" if "label_names" in batches[meta] else "fine_"

    def part(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        x = np.concatenate([batches[name]["data"] for name in names]).reshape(-1, 3, 32, 32)
        return x, np.concatenate([batches[name][f"{fine}labels"] for name in names]).astype(np.int64)

    return Images(*part(train), *part(test), tuple(batches[meta][f"{fine}label_names"]))


def read_cifar100_binary(train: Path, test: Path, classes: tuple[str, ...]) -> Images:
    """Return CIFAR-100 (fine labels) from its binary version: per image the coarse label, the fine one, 3072 pixels."""

    def part(path: Path) -> tuple[np.ndarray, np.ndarray]:
        rows = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 2 + 3 * 32 * 32)
        return np.ascontiguousarray(rows[:, 2:]).reshape(-1, 3, 32, 32), rows[:, 1].astype(np.int64)

    return Images(*part(train), *part(test), classes)


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
    train, test = (arrays[f"x_{split}"].shape[1:] for split in SPLITS)
    if train != test:
        raise DatasetError(f"{path}: training images have shape {train}, test images {test}; must be equal")
    _check_labels(path, arrays["y_train"], arrays["y_test"])
    classes = tuple(map(str, range(int(arrays["y_train"].max()) + 1)))

    def part(split: str) -> tuple[np.ndarray, np.ndarray]:
        return channels_first(arrays[f"x_{split}"]), arrays[f"y_{split}"].astype(np.int64)

    return Images(*part("train"), *part("test"), classes)


def _npz_arrays(path: Path) -> dict[str, np.ndarray]:
    needed = [f"{kind}_{split}" for split in SPLITS for kind in "xy"]
    with reading(f"{path} is not a readable .npz"):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise DatasetError(f"{path} is damaged: the checksum of its member {damaged} is wrong; left in place")
        with np.load(path, allow_pickle=False) as file:
            if missing := [key for key in needed if key not in file.files]:
                raise DatasetError(
                    f"{path} lacks {', '.join(missing)}: needed are {', '.join(needed)}; it has {', '.join(file.files)}"
                )
            try:
                arrays = {key: file[key] for key in needed}
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                raise DatasetError(
                    f"{path} holds Python objects; allowed: plain arrays (objects are never read)"
                ) from error
    if foreign := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise DatasetError(f"{path}: {foreign[0]} is not an array; left in place")
    return arrays


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
