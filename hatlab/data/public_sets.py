"""MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, SVHN, GTSRB: files in torchvision's layout, with its URLs and checksums.

torchvision is imported only to download, decode or verify a set, because importing it takes seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import socket
import uuid
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from hatlab.data.formats import DatasetError, Images, read_cifar, read_idx, read_svhn, reading, zip_entries
from hatlab.data.image_folders import labelled, read_tree
from hatlab.data.named_sets import NamedSet
from hatlab.support import paths

__all__ = ["CIFAR_MEAN", "CIFAR_STD", "PUBLIC_SETS", "PublicSet", "read_gtsrb"]

PATIENCE = 20.0  # seconds that a server may be silent

# The authors' constants for CIFAR-10 and CIFAR-100 (hat/src/dataloaders/cifar.py)
CIFAR_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CIFAR_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)

# torchvision has these inside a method. Its training images are the 26,640 of the competition of 2011.
GTSRB_URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
GTSRB_MD5 = {
    "GTSRB-Training_fixed.zip": "513f3c79a4c5141765e10e952eaa2478",
    "GTSRB_Final_Test_Images.zip": "c7e4e6327067d32654124b0fe9e82185",
    "GTSRB_Final_Test_GT.zip": "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
}


@dataclass(frozen=True, kw_only=True)
class PublicSet(NamedSet):
    """A set that hatlab downloads, in torchvision's layout; `files` are the downloads.

    Attributes:
        torchvision: name of its class in `torchvision.datasets`.
        unpacked: what the downloaded archives hold: name -> place below a data root once unpacked. It is read where
            the archives are missing.
    """

    torchvision: str
    unpacked: Mapping[str, str] = field(default_factory=dict)

    @abstractmethod
    def _listed(self) -> Mapping[str, tuple[str, Sequence[str]]]:
        """Return what torchvision lists: for each file, packed and unpacked, its md5 and its URLs, best first."""

    def places(self) -> Sequence[Mapping[str, str]]:
        packed = {name: f"{self.folder}/{name}".lstrip("/") for name in self.files}
        return (packed, self.unpacked) if self.unpacked else (packed,)

    def expected(self) -> dict[str, str]:
        return {name: f"md5:{md5}" for name, (md5, _) in self._listed().items()}

    def _urls(self, name: str) -> Sequence[str]:
        return self._listed()[name][1]

    def _source(self) -> Any:
        return getattr(importlib.import_module("torchvision.datasets"), self.torchvision)

    def _get(self, missing: list[str], download: bool) -> dict[str, Path]:
        if not download:
            raise self._absent(missing, "nothing was downloaded")
        return {name: self._download(name, missing) for name in missing}

    def _download(self, name: str, missing: list[str]) -> Path:
        """Download to a temporary name first, so that an interrupted download never looks complete."""
        from torchvision.datasets.utils import download_url

        target = paths.cache_root() / self.folder / name
        temporary = target.with_name(f"{name}.{uuid.uuid4().hex}.part")
        reasons = []
        for url in self._urls(name):
            try:
                with _patience(PATIENCE):
                    md5 = self.expected()[name].removeprefix("md5:")
                    download_url(url, target.parent, filename=temporary.name, md5=md5)
                os.replace(temporary, target)
                return target
            except (OSError, RuntimeError, HTTPException) as error:  # RuntimeError: the checksum is wrong
                reasons.append(f"{url}: {error}")
            finally:
                temporary.unlink(missing_ok=True)
        raise self._absent(missing, "could not be downloaded: " + "; ".join(reasons))

    def _absent(self, missing: list[str], reason: str) -> DatasetError:
        roots = paths.data_roots()
        places = [str(root / self.folder) for root in roots]
        if self.unpacked:
            places += [f"{(root / next(iter(self.unpacked.values()))).parent} (unpacked)" for root in roots]
        where_from = ["Download on a machine with a network:", *(f"  {self._urls(name)[0]}" for name in missing)]
        return self._not_there(f" ({reason})", ", ".join(missing), places, where_from)


@dataclass(frozen=True, kw_only=True)
class IdxSet(PublicSet):
    """MNIST or Fashion-MNIST: four gzipped IDX files."""

    def _listed(self) -> Mapping[str, tuple[str, Sequence[str]]]:
        source = self._source()
        return {name: (md5, [mirror + name for mirror in source.mirrors]) for name, md5 in source.resources}

    def _read(self, files: Mapping[str, Path]) -> Images:
        source = self._source()
        x_train, y_train, x_test, y_test = (read_idx(files[name]) for name, _ in source.resources)
        classes = tuple(name.split(" - ")[0] for name in source.classes)  # MNIST's are "0 - zero"
        return Images(x_train[:, None], y_train.astype(int), x_test[:, None], y_test.astype(int), classes)


@dataclass(frozen=True, kw_only=True)
class CifarSet(PublicSet):
    """CIFAR-10 or CIFAR-100: batches of pickled arrays, in an archive or unpacked."""

    def _listed(self) -> Mapping[str, tuple[str, Sequence[str]]]:
        source = self._source()
        members = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        return {source.filename: (source.tgz_md5, [source.url]), **{name: (md5, []) for name, md5 in members}}

    def _read(self, files: Mapping[str, Path]) -> Images:
        source = self._source()
        train, test = ([name for name, _ in names] for names in (source.train_list, source.test_list))
        return read_cifar(files, train, test, source.meta["filename"])


@dataclass(frozen=True, kw_only=True)
class SvhnSet(PublicSet):
    """SVHN's digits cut out to 32x32: two `.mat` files."""

    def _listed(self) -> Mapping[str, tuple[str, Sequence[str]]]:
        return {name: (md5, [url]) for url, name, md5 in self._source().split_list.values() if name in self.files}

    def _read(self, files: Mapping[str, Path]) -> Images:
        train, test = (files[name] for name in self.files)
        return read_svhn(train, test)


@dataclass(frozen=True, kw_only=True)
class GtsrbSet(PublicSet):
    """Traffic signs in PPM images of many sizes, brought to 32x32: three zip files, or what they hold, unpacked."""

    def _listed(self) -> Mapping[str, tuple[str, Sequence[str]]]:
        return {name: (md5, [GTSRB_URL + name]) for name, md5 in GTSRB_MD5.items()}

    def _read(self, files: Mapping[str, Path]) -> Images:
        return read_gtsrb(*files.values())


def read_gtsrb(training: Path, test: Path, truth: Path) -> Images:
    """Return GTSRB, each image brought to 3x32x32.

    torchvision's class takes only unpacked images, and reports neither a test image without a class nor a class
    without images.

    Args:
        training: archive or folder with 00000/*.ppm to 00042/*.ppm.
        test: archive or folder with Images/*.ppm.
        truth: `GT-final_test.csv`, or a zip archive with it; it gives the class of each test image.

    Raises:
        DatasetError: damaged files; a test image without a class, or a class without images.
    """
    train = read_tree(training, "RGB", 32)
    tested = {name: image for (_, name), image in read_tree(test, "RGB", 32).items()}
    class_of = _gtsrb_truth(truth)
    if absent := sorted(class_of.keys() ^ tested.keys()):
        raise DatasetError(f"{absent[0]} is only in one of {test} and {truth}: every test image needs a class")
    names = [f"{label:05d}" for label in range(43)]
    for path, found in ((training, {name for name, _ in train}), (truth, set(class_of.values()))):
        if wrong := sorted(found ^ set(names)):
            raise DatasetError(f"{path}: needs all classes from {names[0]} to {names[-1]} and no other: {wrong[0]}")
    by_class = {(class_of[name], name): image for name, image in tested.items()}
    return Images(*labelled(train, names), *labelled(by_class, names), tuple(map(str, range(43))))


def _gtsrb_truth(path: Path) -> dict[str, str]:
    """Return file name -> class, as the folders of the training images are named."""
    import pandas as pd

    with reading(f"{path} does not list file names and classes"):
        if zipfile.is_zipfile(path):
            content = b"".join(
                read() for place, read in zip_entries(path) if read and place.name == "GT-final_test.csv"
            )
        else:
            content = path.read_bytes()
        types = {"Filename": str, "ClassId": int}
        table = pd.read_csv(io.BytesIO(content), sep=";", usecols=list(types), dtype=types)
    return {name: f"{label:05d}" for name, label in zip(table["Filename"], table["ClassId"], strict=True)}


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Limit how long a server may be silent: torchvision sets no limit, and a firewall that drops packets would hold a
    class for minutes.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _idx_files(*sizes: int) -> dict[str, int]:
    kinds = ("images-idx3", "labels-idx1")
    return dict(zip((f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in kinds), sizes, strict=True))


# Fashion-MNIST: the authors' .2190 and .3318 describe images padded to 32x32 with zeros; these describe the same
# images as they are (.2860 * (28/32)^2 = .2190), just as the authors' .1307 and .3081 describe unpadded MNIST.
PUBLIC_SETS = {
    item.name: item
    for item in (
        IdxSet(
            name="mnist",
            title="MNIST",
            torchvision="MNIST",
            folder="MNIST/raw",
            files=_idx_files(9_912_422, 28_881, 1_648_877, 4_542),
            mean=(0.1307,),
            std=(0.3081,),
        ),
        IdxSet(
            name="fashion_mnist",
            title="Fashion-MNIST",
            torchvision="FashionMNIST",
            folder="FashionMNIST/raw",
            files=_idx_files(26_421_880, 29_515, 4_422_102, 5_148),
            mean=(0.2860,),
            std=(0.3530,),
        ),
        CifarSet(
            name="cifar10",
            title="CIFAR-10",
            torchvision="CIFAR10",
            files={"cifar-10-python.tar.gz": 170_498_071},
            mean=CIFAR_MEAN,
            std=CIFAR_STD,
            unpacked={
                name: f"cifar-10-batches-py/{name}"
                for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta")
            },
        ),
        CifarSet(
            name="cifar100",
            title="CIFAR-100",
            torchvision="CIFAR100",
            files={"cifar-100-python.tar.gz": 169_001_437},
            mean=CIFAR_MEAN,
            std=CIFAR_STD,
            unpacked={name: f"cifar-100-python/{name}" for name in ("train", "test", "meta")},
        ),
        SvhnSet(
            name="svhn",
            title="SVHN",
            torchvision="SVHN",
            files={"train_32x32.mat": 182_040_794, "test_32x32.mat": 64_275_384},
            mean=(0.4377, 0.4438, 0.4728),
            std=(0.198, 0.201, 0.197),
        ),
        GtsrbSet(
            name="gtsrb",
            title="GTSRB",
            torchvision="GTSRB",
            folder="gtsrb",
            files=dict(zip(GTSRB_MD5, (187_490_228, 88_978_620, 99_620), strict=True)),
            mean=(0.3398, 0.3117, 0.3210),
            std=(0.2755, 0.2647, 0.2712),
            unpacked={
                "GTSRB/Training": "gtsrb/GTSRB/Training/",
                "GTSRB/Final_Test": "gtsrb/GTSRB/Final_Test/",
                "GT-final_test.csv": "gtsrb/GT-final_test.csv",
            },
        ),
    )
}
