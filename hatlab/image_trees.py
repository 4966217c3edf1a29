"""Images in <class>/<image>, brought to one size: a folder, a tar or a zip archive, never unpacked to disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from hatlab.formats import READ_ERRORS, DatasetError
from hatlab.image_folders import ignored

__all__ = ["class_sizes", "folder_checksum", "read_tree"]

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm")  # other files, such as lists and licences, are passed over
Member = tuple[PurePosixPath, Callable[[], bytes]]  # where an image is, and what reads it while it is at hand
logger = logging.getLogger(__name__)


def read_tree(
    path: Path, mode: str, side: int, *, keep: Collection[str] | None = None, skip_damaged: bool = False
) -> dict[tuple[str, str], np.ndarray]:
    """Return (class, image) -> pixels for all images, in sorted order.

    Args:
        path: a folder or archive with <class>/<image>, possibly inside other folders, but all at one depth.
        mode: "L" gives (side, side) uint8, "RGB" (side, side, 3).
        side: width and height that each image is brought to, whatever its own (bilinear, over all pixels beneath).
        keep: names of the classes to read; None: all.
        skip_damaged: leave out images that cannot be decoded, and log how many.

    Raises:
        DatasetError: damaged archive or image, a link in an archive, classes in several places, no image at all.
    """
    images: dict[tuple[str, str], np.ndarray] = {}
    damaged: list[str] = []
    with _readable(path):
        for place, read in _members(path):
            label = place.parent.name
            if keep is not None and label not in keep:
                continue
            try:
                images[label, place.name] = _decode(read(), mode, side, f"{path}: {place}")
            except _DamagedImage as error:
                if not skip_damaged:
                    raise DatasetError(str(error)) from error.__cause__
                damaged.append(str(place))
    if damaged:
        logger.warning("%s: %d images cannot be read and are left out: %s", path, len(damaged), ", ".join(damaged))
    if not images:
        raise DatasetError(f"{path}: no <class>/<image> in it; images end in {', '.join(ENDINGS)}")
    return dict(sorted(images.items()))


def class_sizes(path: Path) -> Counter[str]:
    """Return how many images each class of a folder or archive has, without decoding any."""
    with _readable(path):
        return Counter(place.parent.name for place, _ in _members(path))


def folder_checksum(path: Path) -> str:
    """Return "sha256:digest" of a folder's images: every name and every byte."""
    sums = sorted((place.as_posix(), hashlib.sha256(read()).hexdigest()) for place, read in _members(path))
    tree = "".join(f"{place}\nsha256:{found}\n" for place, found in sums)
    return f"sha256:{hashlib.sha256(tree.encode()).hexdigest()}"


class _DamagedImage(Exception):
    """An image that cannot be decoded, in an archive that can be read."""


def _decode(content: bytes, mode: str, side: int, origin: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert(mode).resize((side, side), Image.Resampling.BILINEAR))
    except (*READ_ERRORS, SyntaxError, Image.DecompressionBombError) as error:  # PIL: a broken PNG is a SyntaxError
        raise _DamagedImage(f"{origin} is not a readable image: {error}; left in place") from error


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except DatasetError:
        raise
    except READ_ERRORS as error:
        raise DatasetError(f"{path} cannot be read: {error}; left in place") from error


def _members(path: Path) -> Iterator[Member]:
    """Yield the images of a folder or archive in the order in which they are found."""
    found = _of_folder if path.is_dir() else _of_zip if zipfile.is_zipfile(path) else _of_tar
    above: set[str] = set()
    for place, read in found(path):
        if place.suffix.lower() not in ENDINGS or ignored(place.parts):
            continue
        if len(place.parts) < 2:
            raise DatasetError(f"{path}: {place} is not of the form <class>/<image>")
        above.add(place.parent.parent.as_posix())
        if len(above) > 1:
            raise DatasetError(f"{path}: needs all of <class>/<image> in one folder; found them in {sorted(above)}")
        yield place, read


def _of_folder(path: Path) -> Iterator[Member]:
    for file in path.rglob("*"):
        if file.is_file():
            yield PurePosixPath(file.relative_to(path).as_posix()), file.read_bytes


def _of_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield PurePosixPath(member.filename), partial(archive.read, member)


def _of_tar(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for member in archive:
            if not member.isdir():
                yield PurePosixPath(member.name), partial(_tar_content, path, archive, member)


def _tar_content(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member) if member.isreg() else None
    if stream is None:
        raise DatasetError(f"{path}: member {member.name} is a link or device; allowed: files and folders")
    return stream.read()
