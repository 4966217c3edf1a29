"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100: files in torchvision's layout, with its URLs and checksums.

torchvision is asked only where something must be downloaded or decoded: importing it takes seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from hatlab import paths
from hatlab.formats import DatasetError, Images, read_cifar, read_idx
from hatlab.provenance import checksum

__all__ = ["CIFAR_MEAN", "CIFAR_STD", "PUBLIC_SETS", "PublicSet"]

PATIENCE = 20.0  # seconds that a server may be silent

# The authors' constants for CIFAR-10 and CIFAR-100 (hat/src/dataloaders/cifar.py)
CIFAR_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CIFAR_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)


@dataclass(frozen=True)
class PublicSet:
    """One set as torchvision lays it out.

    Attributes:
        torchvision: name of its class in `torchvision.datasets`.
        folder: where `files` stand below a data root.
        files: name and size in bytes of each file to download.
        unpacked: the alternative to an archive: where its members stand below a data root once unpacked.
        mean, std: per channel, of pixels scaled to [0, 1].
    """

    name: str
    title: str
    torchvision: str
    folder: str
    files: Mapping[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    unpacked: tuple[str, ...] = ()

    def find(self) -> dict[str, Path | None]:
        """Return where each file is: in the first data root that has it, or None."""
        roots = paths.data_roots()
        found = {name: _first(root / self.folder / name for root in roots) for name in self.files}
        if self.unpacked and None in found.values():
            for root in roots:
                members = [root / member for member in self.unpacked]
                if all(member.is_file() for member in members):
                    return {member.name: member for member in members}
        return found

    def fetch(self, *, download: bool = True) -> dict[str, Path]:
        """Return where each file is, after downloading those that are nowhere.

        Raises:
            DatasetError: with where each file was looked for, what to download and where to put it.
        """
        found = self.find()
        missing = [name for name, path in found.items() if path is None]
        if missing and not download:
            raise DatasetError(self._how_to_get(missing, "downloads are off"))
        for name in missing:
            found[name] = self._download(name, missing)
        return {name: path for name, path in found.items() if path is not None}

    def checksums(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Return the md5 of each file."""
        return {name: checksum(path, "md5") for name, path in files.items()}

    def expected(self) -> dict[str, str]:
        """Return the md5 that torchvision lists for each file, packed and unpacked."""
        source = self._source()
        if self.unpacked:
            members = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
            listed = dict([(source.filename, source.tgz_md5), *members])
        else:
            listed = dict(source.resources)
        return {name: f"md5:{md5}" for name, md5 in listed.items()}

    def decode(self, files: Mapping[str, Path], checksums: Mapping[str, str]) -> Images:
        """Return the images, once `checksums` of `files` are seen to be torchvision's.

        Raises:
            DatasetError: naming the file, the checksum expected and the one found. The file is left in place.
        """
        expected = self.expected()
        for name, found in checksums.items():
            if found != expected[name]:
                raise DatasetError(
                    f"{files[name]} is truncated or altered: expected {expected[name]}, found {found} "
                    f"({files[name].stat().st_size:,} bytes). It was left in place: delete or replace it"
                )
        source = self._source()
        if self.unpacked:
            train, test = ([name for name, _ in names] for names in (source.train_list, source.test_list))
            return read_cifar(files, train, test, source.meta["filename"])
        x_train, y_train, x_test, y_test = (read_idx(files[name]) for name, _ in source.resources)
        classes = tuple(name.split(" - ")[0] for name in source.classes)  # MNIST's are "0 - zero"
        return Images(x_train[:, None], y_train.astype(int), x_test[:, None], y_test.astype(int), classes)

    def _source(self) -> Any:
        return getattr(importlib.import_module("torchvision.datasets"), self.torchvision)

    def _urls(self, name: str) -> list[str]:
        source = self._source()
        return [source.url] if self.unpacked else [mirror + name for mirror in source.mirrors]

    def _download(self, name: str, missing: list[str]) -> Path:
        """Download to a name of its own first: an interrupted download never looks like a file."""
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
        raise DatasetError(self._how_to_get(missing, "could not be downloaded: " + "; ".join(reasons)))

    def _how_to_get(self, missing: list[str], reason: str) -> str:
        looked = [f"  {root / self.folder}" for root in paths.data_roots()]
        if self.unpacked:
            looked += [f"  {(root / self.unpacked[0]).parent} (unpacked)" for root in paths.data_roots()]
        urls = [f"  {self._urls(name)[0]}" for name in missing]
        below = f" in {self.folder} below it" if self.folder else ""
        return "\n".join(
            [
                f"{self.title} is not there ({reason}).",
                f"Looked for {', '.join(missing)} in:",
                *looked,
                "Download on a machine with a network:",
                *urls,
                f"and put the files into {paths.cache_root() / self.folder},",
                f"or point the environment variable HATLAB_DATA at a folder that has them{below}.",
            ]
        )


def _first(candidates: Iterator[Path]) -> Path | None:
    return next((path for path in candidates if path.is_file()), None)


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """torchvision sets no time limit, and a firewall that drops packets would hold a class for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _idx_files(train_images: int, train_labels: int, test_images: int, test_labels: int) -> dict[str, int]:
    return {
        "train-images-idx3-ubyte.gz": train_images,
        "train-labels-idx1-ubyte.gz": train_labels,
        "t10k-images-idx3-ubyte.gz": test_images,
        "t10k-labels-idx1-ubyte.gz": test_labels,
    }


# Fashion-MNIST: the authors' .2190 and .3318 describe images padded to 32x32 with zeros; these describe the same
# images as they are (.2860 * (28/32)^2 = .2190), just as the authors' .1307 and .3081 describe unpadded MNIST.
PUBLIC_SETS = {
    item.name: item
    for item in (
        PublicSet(
            name="mnist",
            title="MNIST",
            torchvision="MNIST",
            folder="MNIST/raw",
            files=_idx_files(9_912_422, 28_881, 1_648_877, 4_542),
            mean=(0.1307,),
            std=(0.3081,),
        ),
        PublicSet(
            name="fashion_mnist",
            title="Fashion-MNIST",
            torchvision="FashionMNIST",
            folder="FashionMNIST/raw",
            files=_idx_files(26_421_880, 29_515, 4_422_102, 5_148),
            mean=(0.2860,),
            std=(0.3530,),
        ),
        PublicSet(
            name="cifar10",
            title="CIFAR-10",
            torchvision="CIFAR10",
            folder="",
            files={"cifar-10-python.tar.gz": 170_498_071},
            mean=CIFAR_MEAN,
            std=CIFAR_STD,
            unpacked=tuple(
                f"cifar-10-batches-py/{name}"
                for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta")
            ),
        ),
        PublicSet(
            name="cifar100",
            title="CIFAR-100",
            torchvision="CIFAR100",
            folder="",
            files={"cifar-100-python.tar.gz": 169_001_437},
            mean=CIFAR_MEAN,
            std=CIFAR_STD,
            unpacked=tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta")),
        ),
    )
}
