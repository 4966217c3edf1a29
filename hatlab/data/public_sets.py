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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

from hatlab.data.formats import (
    SPLITS,
    DatasetError,
    Images,
    read_cifar,
    read_cifar100_binary,
    read_idx,
    read_svhn,
    reading,
    zip_entries,
)
from hatlab.data.image_folders import labelled, read_tree
from hatlab.data.named_sets import Form, NamedSet
from hatlab.support import paths

__all__ = ["CIFAR_MEAN", "CIFAR_STD", "PUBLIC_SETS", "PublicSet", "read_gtsrb"]

Listed = Mapping[str, tuple[str, Sequence[str]]]  # file -> md5, URLs of which the first is tried first
PATIENCE = 20.0  # seconds that a server may be silent

# The authors' constants for CIFAR-10 and CIFAR-100 (hat/src/dataloaders/cifar.py)
CIFAR_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CIFAR_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)
# The fine labels, in their order: the binary version has its names in a file of its own, which may not be there.
CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""

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
        listed: returns, from that class, the md5 and the URLs of each file. Unpacked files have no URL.
    """

    torchvision: str
    listed: Callable[[Any], Listed]

    def expected(self) -> dict[str, str]:
        return {name: f"md5:{md5}" for name, (md5, _) in self.listed(self._source()).items()}

    def _urls(self, name: str) -> Sequence[str]:
        return self.listed(self._source())[name][1]

    def _source(self) -> Any:
        return _torchvision(self.torchvision)

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
        for unpacked in self.forms[1:]:
            places += [f"{(root / next(iter(unpacked.files.values()))).parent} (unpacked)" for root in roots]
        where_from = ["Download on a machine with a network:", *(f"  {self._urls(name)[0]}" for name in missing)]
        return self._not_there(f" ({reason})", ", ".join(missing), places, where_from)


def _torchvision(name: str) -> Any:
    return getattr(importlib.import_module("torchvision.datasets"), name)


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


# --- the sets -------------------------------------------------------------------------------------------------------


def _public(
    files: Mapping[str, int],
    read: Callable[..., Images],
    *,
    title: str,
    folder: str = "",
    unpacked: Mapping[str, str] | None = None,
    further: Sequence[Form] = (),
    **fields: Any,
) -> PublicSet:
    """Return the set of these downloads. `unpacked` is read in their place: what they hold, by place below a root; and
    so are `further` forms.
    """
    packed = {name: f"{folder}/{name}".lstrip("/") for name in files}
    forms = (*(Form(places, read, title) for places in (packed, unpacked) if places), *further)
    return PublicSet(files=files, title=title, folder=folder, forms=forms, **fields)


def _idx_set(torchvision: str, sizes: Sequence[int], **fields: Any) -> PublicSet:
    """Return MNIST or Fashion-MNIST: four gzipped IDX files."""
    kinds = ("images-idx3", "labels-idx1")
    names = [f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in kinds]

    def listed(source: Any) -> Listed:
        return {name: (md5, [mirror + name for mirror in source.mirrors]) for name, md5 in source.resources}

    def read(*files: Path) -> Images:
        x_train, y_train, x_test, y_test = map(read_idx, files)
        classes = tuple(name.split(" - ")[0] for name in _torchvision(torchvision).classes)  # MNIST's are "0 - zero"
        return Images(x_train[:, None], y_train.astype(int), x_test[:, None], y_test.astype(int), classes)

    sized = dict(zip(names, sizes, strict=True))
    return _public(sized, read, torchvision=torchvision, folder=f"{torchvision}/raw", listed=listed, **fields)


def _cifar_set(
    archive: str, size: int, folder: str, members: Sequence[str], binary: Mapping[str, str] | None = None, **fields: Any
) -> PublicSet:
    """Return CIFAR-10 or CIFAR-100: batches of pickled arrays, in an archive or unpacked; the last holds the names.

    `binary`: md5 of the two files of CIFAR-100's binary version, by place below a root, if it is read, too.
    """
    *train, test, meta = members
    in_binary = {place: place for place in binary or ()}

    def listed(source: Any) -> Listed:
        inner = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        inner += (binary or {}).items()
        return {source.filename: (source.tgz_md5, [source.url]), **{name: (md5, []) for name, md5 in inner}}

    def read(*files: Path) -> Images:
        names = members if len(files) > 1 else [archive]
        return read_cifar(dict(zip(names, files, strict=True)), train, [test], meta)

    unpacked = {name: f"{folder}/{name}" for name in members}
    further = (Form(in_binary, partial(read_cifar100_binary, classes=tuple(CIFAR100_NAMES.split())), fields["title"]),)
    fields = {"mean": CIFAR_MEAN, "std": CIFAR_STD, "further": further if binary else (), **fields}
    return _public({archive: size}, read, unpacked=unpacked, listed=listed, **fields)


# Fashion-MNIST: the authors' .2190 and .3318 describe images padded to 32x32 with zeros; these describe the same
# images as they are (.2860 * (28/32)^2 = .2190), just as the authors' .1307 and .3081 describe unpadded MNIST.
PUBLIC_SETS = {
    item.name: item
    for item in (
        _idx_set(
            "MNIST", (9_912_422, 28_881, 1_648_877, 4_542), name="mnist", title="MNIST", mean=(0.1307,), std=(0.3081,)
        ),
        _idx_set(
            "FashionMNIST",
            (26_421_880, 29_515, 4_422_102, 5_148),
            name="fashion_mnist",
            title="Fashion-MNIST",
            mean=(0.2860,),
            std=(0.3530,),
        ),
        _cifar_set(
            "cifar-10-python.tar.gz",
            170_498_071,
            "cifar-10-batches-py",
            [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"],
            name="cifar10",
            title="CIFAR-10",
            torchvision="CIFAR10",
        ),
        _cifar_set(
            "cifar-100-python.tar.gz",
            169_001_437,
            "cifar-100-python",
            ["train", "test", "meta"],
            binary={
                "cifar-100-binary/train.bin": "6172c7755cfe09b2fe270c85cebc1b15",
                "cifar-100-binary/test.bin": "4499cfba6c016c1be1438163640a0898",
            },
            name="cifar100",
            title="CIFAR-100",
            torchvision="CIFAR100",
        ),
        _public(
            {"train_32x32.mat": 182_040_794, "test_32x32.mat": 64_275_384},
            read_svhn,
            name="svhn",
            title="SVHN",
            torchvision="SVHN",
            listed=lambda source: {
                name: (md5, [url]) for split in SPLITS for url, name, md5 in [source.split_list[split]]
            },
            mean=(0.4377, 0.4438, 0.4728),
            std=(0.198, 0.201, 0.197),
        ),
        _public(
            dict(zip(GTSRB_MD5, (187_490_228, 88_978_620, 99_620), strict=True)),
            read_gtsrb,
            name="gtsrb",
            title="GTSRB",
            torchvision="GTSRB",
            folder="gtsrb",
            listed=lambda _: {name: (md5, [GTSRB_URL + name]) for name, md5 in GTSRB_MD5.items()},
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
