"""Images in folders, or in archives of them, which are never unpacked to disk.

`read_folder` reads train/<class>/* and test/<class>/*, images of one size. `read_tree` reads <class>/<image> and brings
every image to one size.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from hatlab.data.formats import READ_ERRORS, SPLITS, DatasetError, Images, channels_first
from hatlab.support.provenance import checksum

__all__ = ["class_sizes", "folder_checksum", "ignored", "read_folder", "read_tree", "tree_checksum"]

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm")  # other files, such as lists and licences, are passed over
Member = tuple[PurePosixPath, Callable[[], bytes]]  # where an image is, and what reads it while it is at hand
logger = logging.getLogger(__name__)


def read_folder(path: Path) -> Images:
    """Return the images of train/<class>/* and test/<class>/* in a folder or a tar archive, of whatever compression.

    The two folders may stand inside one top folder. Classes are numbered in the order of their sorted names, images
    within a class likewise. Greyscale gives C = 1; if any image is in colour, C = 3 and grey ones are repeated.

    Raises:
        DatasetError: damaged or foreign file, mixed sizes, an empty class, a class in one of train and test only,
            a link or an unsafe path in an archive.
    """
    images: dict[tuple[str, ...], np.ndarray] = {}
    classes: dict[str, set[str]] = {split: set() for split in SPLITS}
    for place, content in _archive_entries(path) if path.is_file() else _folder_entries(path):
        split, *inner = place.parts
        if inner:
            classes[split].add(inner[0])
        if content is None:
            continue
        if len(inner) != 2:
            raise DatasetError(f"{path}: {place} is not of the form {split}/<class>/<image>")
        images[place.parts] = image = _decode(content, f"{path}: {place}")
        first = next(iter(images))
        if image.shape[:2] != images[first].shape[:2]:
            sizes = ["x".join(map(str, shape[1::-1])) for shape in (images[first].shape, image.shape)]
            raise DatasetError(
                f"{path}: images differ in width x height: {'/'.join(first)} is {sizes[0]}, {place} is {sizes[1]}"
            )
    for split, other in (SPLITS, SPLITS[::-1]):
        if not classes[split]:
            raise DatasetError(f"{path}: no {split}/<class>/<image> in it, nor inside one top folder")
        if alone := sorted(classes[other] - classes[split]):
            raise DatasetError(f"{path}: class '{alone[0]}' is in {other}/ but not in {split}/")
        if empty := sorted(classes[split] - {place[1] for place in images if place[0] == split}):
            raise DatasetError(f"{path}: {split}/{empty[0]} holds no image")
    names = sorted(classes["train"])
    colour = any(image.ndim == 3 for image in images.values())

    def part(split: str) -> tuple[np.ndarray, np.ndarray]:
        places = sorted(place for place in images if place[0] == split)
        stack = [images[place] for place in places]
        if colour:
            stack = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in stack]
        label = {name: k for k, name in enumerate(names)}
        return channels_first(np.stack(stack)), np.array([label[place[1]] for place in places], dtype=np.int64)

    return Images(*part("train"), *part("test"), tuple(names))


def tree_checksum(path: Path) -> str:
    """Return "sha256:digest" of what stands below a folder's train/ and test/: every name and every byte."""
    tree = hashlib.sha256()
    for place, file in sorted(_folder_files(path)):
        if file is not None:
            tree.update(f"{place}\n{checksum(file, 'sha256')}\n".encode())
    return f"sha256:{tree.hexdigest()}"


def _decode(content: bytes, origin: str) -> np.ndarray:
    """Return (H, W) for grey and (H, W, 3) for colour. Alpha, 16 bits and CMYK have no faithful 8-bit form."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            allowed = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
            if image.mode not in allowed or "transparency" in image.info:
                raise DatasetError(f"{origin} is {image.mode} or transparent; allowed: opaque 8-bit grey or RGB")
            return np.asarray(image.convert(allowed[image.mode]))
    except DatasetError:
        raise
    except (*READ_ERRORS, SyntaxError, Image.DecompressionBombError) as error:  # PIL: a broken PNG is a SyntaxError
        raise DatasetError(f"{origin} is not a readable image: {error}; left in place") from error


def ignored(parts: Sequence[str]) -> bool:
    """Whether a path is of what file managers leave behind."""
    return any(part.startswith((".", "__MACOSX")) or part in ("Thumbs.db", "desktop.ini") for part in parts)


def _folder_files(path: Path) -> Iterator[tuple[PurePosixPath, Path | None]]:
    """Yield (train/<class>/..., file, or None for a folder) from the folder or the one folder in it that has them."""
    tops = [top for top in (path, *sorted(path.iterdir())) if any((top / split).is_dir() for split in SPLITS)]
    if path in tops:
        tops = [path]
    _check_tops(path, [top.name for top in tops])
    for split in SPLITS:
        for file in sorted((tops[0] / split).rglob("*")):
            place = PurePosixPath(file.relative_to(tops[0]).as_posix())
            if not ignored(place.parts):
                yield place, None if file.is_dir() else file


def _folder_entries(path: Path) -> Iterator[tuple[PurePosixPath, bytes | None]]:
    for place, file in _folder_files(path):
        yield place, None if file is None else file.read_bytes()


def _archive_entries(path: Path) -> Iterator[tuple[PurePosixPath, bytes | None]]:
    """Like `_folder_entries`. Members are read in memory, so none can be written outside of anything."""
    tops: set[str] = set()
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if ".." in parts or parts[:1] == ("/",):
                    raise DatasetError(f"{path}: member {member.name} points outside of the archive")
                depth = next((depth for depth in (0, 1) if parts[depth : depth + 1] and parts[depth] in SPLITS), None)
                if depth is None or ignored(parts):
                    continue
                if not (member.isreg() or member.isdir()):
                    raise DatasetError(f"{path}: member {member.name} is a link or device; allowed: files and folders")
                tops.add("/".join(parts[:depth]))
                stream = tar.extractfile(member)
                yield PurePosixPath(*parts[depth:]), None if stream is None else stream.read()
    except READ_ERRORS as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is not a readable tar archive: {error}; left in place") from error
    _check_tops(path, sorted(tops))


def _check_tops(path: Path, tops: Sequence[str]) -> None:
    if len(tops) != 1:
        found = f"several pairs, in {', '.join(tops)}" if tops else "none"
        raise DatasetError(f"{path}: needs one pair of train/<class>/* and test/<class>/*; found {found}")


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
                images[label, place.name] = _decode_resized(read(), mode, side, f"{path}: {place}")
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


def _decode_resized(content: bytes, mode: str, side: int, origin: str) -> np.ndarray:
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
