"""Data sets as uint8 arrays, from any format that hatlab reads. This module knows nothing of tasks."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hatlab.config import nearest
from hatlab.data import mixture
from hatlab.data.cache import cached
from hatlab.data.formats import DatasetError, Images, images_of, read_npz
from hatlab.data.image_folders import read_folder, tree_checksum
from hatlab.data.known_parts import KNOWN, arrays_checksum
from hatlab.data.named_sets import FileCheck, NamedSet, SetStatus
from hatlab.data.public_sets import PUBLIC_SETS
from hatlab.data.supplied_sets import SUPPLIED_SETS
from hatlab.support import paths
from hatlab.support.provenance import checksum

__all__ = [
    "Dataset",
    "DatasetError",
    "FileCheck",
    "SetStatus",
    "fetch",
    "load",
    "load_all",
    "split_names",
    "status",
    "verify",
]

NAMED: dict[str, NamedSet] = {**PUBLIC_SETS, **SUPPLIED_SETS}
LOCAL = {"npz": read_npz, "folder": read_folder}
ALLOWED = ["digits", *NAMED, *(f"{kind}:PATH" for kind in LOCAL)]

DIGITS_CHECKSUM = "sha256:87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
DIGITS_MEAN = (0.3052,)
DIGITS_STD = (0.3760,)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images of one data set.

    Attributes:
        name: as `load` takes it, e.g. "mnist", "npz:PATH" or "mixture:mnist".
        title: how results are labelled, e.g. "MNIST" or "SVHN (10,000 test images)".
        x_train, x_test: (N, C, H, W) uint8, C-contiguous; C is 1 (grey) or 3 (RGB).
        y_train, y_test: (N,) int64 in 0..len(classes)-1; each class has images in both.
        classes: name of each class.
        mean, std: (C,) each, of pixels scaled to [0, 1]: the authors' constants where they have some, else of the
            training images. `std` is never 0.
        checksums: source file (its place below a data root, or PATH) -> "md5:..." or "sha256:..." of what was read.
    """

    name: str
    title: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checksums: dict[str, str]


def load(name: str, *, download: bool = True) -> Dataset:
    """Return the data set called `name`: digits, one of the public or supplied sets, npz:PATH or folder:PATH.

    The prefix "mixture:" gives the set its form in the paper's mixture: 3x32x32, with the authors' constants.

    Files are looked for in `paths.data_roots()`, and a relative PATH in the current folder first. Missing files are
    downloaded with a progress bar unless `download` is false. Sources are hashed at every load, decoded images are
    cached.

    Raises:
        DatasetError: unknown name, missing, truncated, altered or unusable files.
    """
    with _named(name):
        return _in_mixture(name, download) if mixture.is_mixture(name) else _load(name, download)


def load_all(dataset: str, *, download: bool = True) -> tuple[Dataset, ...]:
    """Return the data sets that `RunConfig.dataset` names, in order.

    Raises:
        DatasetError: as `load` does. For a mixture one message names all missing sets, before anything is decoded.
            If one of them cannot be downloaded, none is.
    """
    if mixture.is_mixture(dataset):
        with _named(dataset):
            _complete(mixture.members(dataset), download)
    return tuple(load(name, download=download) for name in split_names(dataset))


def split_names(dataset: str) -> tuple[str, ...]:
    """Return the names of the data sets in `RunConfig.dataset`, as `load` takes them.

    A '+' separates two names only if a name follows it, so a PATH may hold one ("npz:c++/x.npz" is one name). A mixture
    gives "mixture:NAME" for each of its members.
    """
    if mixture.is_mixture(dataset):
        return tuple(f"mixture:{name}" for name in mixture.members(dataset))
    kinds = "|".join(f"{kind}:" for kind in (*LOCAL, "mixture"))
    return tuple(re.split(rf"\+(?={kinds}|\w+(?:\+|$))", dataset))


def fetch(name: str) -> list[Path]:
    """Download the missing files of a set, compare all its checksums, and return all its files.

    For a mixture, do so with each member.

    Raises:
        DatasetError: unknown name; a missing set that is not downloaded; no network; a truncated or altered file.
    """
    if mixture.is_mixture(name):
        return [file for member in mixture.members(name) for file in fetch(member)]
    if name == "digits":
        return []
    if name not in NAMED:
        raise DatasetError(f"dataset = '{name}' cannot be downloaded; allowed: {', '.join(PUBLIC_SETS)}")
    with _named(name):
        files = NAMED[name].fetch()
    bad = [check for check in verify(name) if not check.ok]
    if bad:
        raise DatasetError(f"dataset = '{name}': {bad[0].file}: {bad[0].problem}")
    return list(files.values())


def status() -> list[SetStatus]:
    """Return the state of every named set. Cheap: looks at names and sizes only."""
    digits = SetStatus("digits", "digits", "ready", "shipped with scikit-learn", 0)
    return [digits, *(item.status() for item in NAMED.values())]


def verify(name: str) -> list[FileCheck]:
    """Hash every source file of a set again, without the cache, and compare its checksum with the known one.

    Files without a known checksum are decoded instead. For a mixture, do so with each member.

    Raises:
        DatasetError: unknown name or PATH that does not exist.
    """
    if mixture.is_mixture(name):
        return [check for member in mixture.members(name) for check in verify(member)]
    if name in NAMED:
        with _named(name):
            return NAMED[name].verify()
    if name == "digits":
        return [FileCheck(file, True, found, DIGITS_CHECKSUM, "") for file, found in load(name).checksums.items()]
    with _named(name):
        kind, path = _locate(name)
    found = expected = problem = ""
    try:
        found = _sha256(path)
        if (arrays := arrays_checksum(LOCAL[kind](path))) in KNOWN:
            found = expected = arrays
    except (DatasetError, OSError) as error:
        problem = str(error)
    return [FileCheck(str(path), not problem, found, expected, problem)]


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the data set in every error of the block."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"dataset = '{name}': {error}") from error.__cause__
    except OSError as error:
        raise DatasetError(f"dataset = '{name}': cannot be read: {error}") from error


def _digits() -> Dataset:
    """Return 1,797 digits of 8x8 pixels. Grey value v in 0..16 is stored as x = round(255 v / 16).

    Every fifth image of each class, in scikit-learn's order, is a test image: 1,442 for training, 355 for testing.
    """
    from sklearn.datasets import load_digits

    grey, y = load_digits(return_X_y=True)
    grey = grey.astype(np.uint8)
    found = f"sha256:{hashlib.sha256(grey.tobytes() + y.astype(np.uint8).tobytes()).hexdigest()}"
    if found != DIGITS_CHECKSUM:
        raise DatasetError(f"scikit-learn's digits are not the known ones: expected {DIGITS_CHECKSUM}, found {found}")
    x = np.rint(grey * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    y = y.astype(np.int64)
    test = np.zeros(len(y), dtype=bool)
    for label in range(10):
        test[np.flatnonzero(y == label)[4::5]] = True
    images = Images(x[~test], y[~test], x[test], y[test], tuple("0123456789"))
    sources = {"scikit-learn digits": found}
    return Dataset(name="digits", title="digits", mean=DIGITS_MEAN, std=DIGITS_STD, checksums=sources, **vars(images))


def _load(name: str, download: bool) -> Dataset:
    if name == "digits":
        return _digits()
    return _from_named(NAMED[name], download) if name in NAMED else _local(name)


def _from_named(item: NamedSet, download: bool) -> Dataset:
    files = item.fetch(download=download)
    checksums = item.checksums(files)
    # An entry in the cache was made after the comparison in `decode`, and is found by these checksums alone
    images = cached(item.name, checksums, partial(item.decode, files, checksums))
    mean, std = (item.mean, item.std) if item.mean and item.std else _moments(images.x_train)
    sources = {f"{item.folder}/{file}".lstrip("/"): found for file, found in checksums.items()}
    title = item.titled(files, images)
    return Dataset(name=item.name, title=title, mean=mean, std=std, checksums=sources, **vars(images))


def _local(name: str) -> Dataset:
    kind, path = _locate(name)
    found = _sha256(path)
    images = cached(f"{kind}:{path.name}", {path.name: found}, partial(LOCAL[kind], path))
    title = re.sub(r"\.(npz|tar(\.\w+)?|tgz|txz|tbz2?)$", "", path.name)
    if (part := KNOWN.get(arrays := arrays_checksum(images))) is not None:
        title, (mean, std), found = part.title, part.constants, arrays
        images = dataclasses.replace(images, classes=part.classes or images.classes)
    else:
        mean, std = _moments(images.x_train)
    sources = {name.partition(":")[2]: found}
    return Dataset(name=name, title=title, mean=mean, std=std, checksums=sources, **vars(images))


def in_memory(label: str, arrays: Mapping[str, np.ndarray]) -> Dataset:
    """Return a data set of arrays that are called and shaped as in an `.npz`, under the name "arrays:LABEL-CHECKSUM".

    Raises:
        DatasetError: as `formats.read_npz` does.
    """
    needed = ("x_train", "y_train", "x_test", "y_test")
    if not isinstance(arrays, Mapping) or set(arrays) != set(needed):
        given = sorted(map(str, arrays)) if isinstance(arrays, Mapping) else type(arrays).__name__
        raise DatasetError(f"images = {given}: needed are arrays called {', '.join(needed)}")
    held = {name: np.ascontiguousarray(arrays[name]) for name in needed}
    found = hashlib.sha256()
    for name, array in held.items():
        found.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    name = f"arrays:{label}-{found.hexdigest()[:12]}"
    images = images_of(name, held)
    mean, std = _moments(images.x_train)
    sources = {name.partition(":")[2]: f"sha256:{found.hexdigest()}"}
    return Dataset(name=name, title=label, mean=mean, std=std, checksums=sources, **vars(images))


def _in_mixture(name: str, download: bool) -> Dataset:
    member, *others = mixture.members(name)
    if others:
        raise DatasetError("a mixture is several data sets, not one, and cannot be joined to others by '+'")
    mixture.check_member(member)
    data = _load(member, download)
    x_train, x_test = (mixture.to_shape(x, member) for x in (data.x_train, data.x_test))
    if x_train is data.x_train:
        mean, std = data.mean, data.std
    elif member in mixture.CONSTANTS:
        mean, std = ((value,) * 3 for value in mixture.CONSTANTS[member])
    else:
        mean, std = _moments(x_train)
    return dataclasses.replace(data, name=name, x_train=x_train, x_test=x_test, mean=mean, std=std)


def _complete(members: tuple[str, ...], download: bool) -> None:
    """Refuse a mixture that lacks members, after downloading them if that can complete it."""
    for member in members:
        mixture.check_member(member)
    missing = _missing(members, download=False)
    if download and missing and missing.keys() <= PUBLIC_SETS.keys():
        missing = _missing(tuple(missing), download=True)
    if missing:
        there = [member for member in members if member not in missing]
        rest = f"Those that are there make a mixture too:\n  mixture:{','.join(there)}" if there else "None is there."
        reasons = [f"{member}: {reason}" for member, reason in missing.items()]
        head = f"{len(missing)} of its {len(members)} data sets are missing: {', '.join(missing)}"
        raise DatasetError("\n\n".join([head, *reasons, rest]))


def _missing(members: tuple[str, ...], download: bool) -> dict[str, str]:
    """Return member -> reason, for each member that is missing."""
    missing = {}
    for member in members:
        try:
            if member in NAMED:
                NAMED[member].fetch(download=download)
            else:
                _locate(member)
        except DatasetError as error:
            missing[member] = str(error)
    return missing


def _sha256(path: Path) -> str:
    return tree_checksum(path) if path.is_dir() else checksum(path, "sha256")


def _candidates(path: str) -> list[Path]:
    """Return where a PATH is looked for: in the current folder, then in each data root."""
    given = Path(path).expanduser()
    return [given] if given.is_absolute() else [Path.cwd() / given, *(root / given for root in paths.data_roots())]


def _locate(name: str) -> tuple[str, Path]:
    kind, _, path = name.partition(":")
    if kind == "arrays":
        raise DatasetError("its images were arrays in memory: give them again, hatlab.run(..., images=..., label=...)")
    if kind not in LOCAL or not path:
        raise DatasetError(f"unknown data set{nearest(name, ALLOWED)} (known: {', '.join(ALLOWED)})")
    for candidate in _candidates(path):
        if candidate.is_file() or (kind == "folder" and candidate.is_dir()):
            return kind, candidate.resolve()
    wanted = "an .npz file" if kind == "npz" else "a folder or tar archive"
    looked = "".join(f"\n  {candidate}" for candidate in _candidates(path))
    raise DatasetError(f"there is no such file; needed is {wanted}; looked for it at:{looked}")


def _moments(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of (N, C, H, W) pixels scaled to [0, 1].

    They are computed from histograms: exact, and without a copy of all images in floating point.
    """
    grey = np.arange(256) / 255
    means, stds = [], []
    for channel in range(x.shape[1]):
        chunks = np.array_split(x[:, channel], len(x) // 1000 + 1)  # bincount copies its input to 64-bit integers
        share = sum(np.bincount(chunk.ravel(), minlength=256) for chunk in chunks) / x[:, channel].size
        means.append(float(share @ grey))
        stds.append(float(np.sqrt(share @ (grey - means[-1]) ** 2)) or 1.0)  # a constant channel cannot be scaled
    return tuple(means), tuple(stds)
