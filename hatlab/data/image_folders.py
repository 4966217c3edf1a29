"""Images in folders, or in archives of them, which are never unpacked to disk.

`read_folder` reads train/<class>/* and test/<class>/*, images of one size. `read_tree` reads <class>/<image> and brings
every image to one size.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from hatlab.data.formats import (
    SPLITS,
    DatasetError,
    Images,
    channels_first,
    folder_entries,
    reading,
    tar_entries,
    zip_entries,
)

__all__ = ["class_sizes", "folder_checksum", "ignored", "labelled", "read_folder", "read_tree", "tree_checksum"]

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm")  # other files, such as lists and licences, are passed over
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # alpha, 16 bits and CMYK have no faithful 8-bit form
logger = logging.getLogger(__name__)


class _DamagedImage(DatasetError):
    """An image that cannot be decoded, in an archive that can be read."""


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
    for place, content in _split_entries(path):
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
    if any(image.ndim == 3 for image in images.values()):
        images = {place: image if image.ndim == 3 else np.dstack([image] * 3) for place, image in images.items()}
    names = tuple(sorted(classes["train"]))
    train, test = (
        labelled({(place[1], place[2]): images[place] for place in sorted(images) if place[0] == split}, names)
        for split in SPLITS
    )
    return Images(*train, *test, names)


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
    with reading(f"{path} cannot be read"):
        for place, read in _members(path):
            label = place.parent.name
            if keep is not None and label not in keep:
                continue
            try:
                images[label, place.name] = _decode(read(), f"{path}: {place}", mode, side)
            except _DamagedImage:
                if not skip_damaged:
                    raise
                damaged.append(str(place))
    if damaged:
        logger.warning("%s: %d images cannot be read and are left out: %s", path, len(damaged), ", ".join(damaged))
    if not images:
        raise DatasetError(f"{path}: no <class>/<image> in it; images end in {', '.join(ENDINGS)}")
    return dict(sorted(images.items()))


def labelled(images: Mapping[tuple[str, str], np.ndarray], classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (class, image) -> pixels as images (N, C, H, W) uint8 and labels (N,) int64, indices into `classes`."""
    labels = {name: label for label, name in enumerate(classes)}
    x = channels_first(np.stack(list(images.values())))
    return x, np.array([labels[name] for name, _ in images], dtype=np.int64)


def class_sizes(path: Path) -> Counter[str]:
    """Return how many images each class of a folder or archive has, without decoding any.

    Raises:
        DatasetError: damaged archive, classes in several places.
    """
    with reading(f"{path} cannot be read"):
        return Counter(place.parent.name for place, _ in _members(path))


def tree_checksum(path: Path) -> str:
    """Return "sha256:digest" of what stands below a folder's train/ and test/: every name and every byte."""
    contents = ((place, content) for place, content in _split_entries(path) if content is not None)
    return _checksum(sorted((place, _sha256(content)) for place, content in contents))


def folder_checksum(path: Path) -> str:
    """Return "sha256:digest" of a folder's images: every name and every byte."""
    return _checksum(sorted((place.as_posix(), _sha256(read())) for place, read in _members(path)))


def ignored(parts: Sequence[str]) -> bool:
    """Return whether file managers leave such a path behind."""
    return any(part.startswith((".", "__MACOSX")) or part in ("Thumbs.db", "desktop.ini") for part in parts)


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _checksum(files: Iterable[tuple[object, str]]) -> str:
    return _sha256("".join(f"{place}\n{found}\n" for place, found in files).encode())


def _decode(content: bytes, origin: str, mode: str | None = None, side: int | None = None) -> np.ndarray:
    """Return (H, W) for grey and (H, W, 3) for colour: as the image is, if it has such a form, or in `mode`."""
    from PIL import Image

    errors = (SyntaxError, Image.DecompressionBombError)  # PIL: a broken PNG is a SyntaxError
    with (
        reading(f"{origin} is not a readable image", *errors, error_class=_DamagedImage),
        Image.open(io.BytesIO(content)) as image,
    ):
        if mode is None and (image.mode not in MODES or "transparency" in image.info):
            raise DatasetError(f"{origin} is {image.mode} or transparent; allowed: opaque 8-bit grey or RGB")
        converted = image.convert(mode or MODES[image.mode])
        return np.asarray(converted.resize((side, side), Image.Resampling.BILINEAR) if side else converted)


def _split_entries(path: Path) -> Iterator[tuple[PurePosixPath, bytes | None]]:
    """Yield (train/<class>/..., content, or None for a folder) of a folder or tar archive, or of one folder in it."""
    if path.is_dir():
        tops = [top for top in (path, *sorted(path.iterdir())) if any((top / split).is_dir() for split in SPLITS)]
        if path in tops:
            tops = [path]
        _check_tops(path, [top.name for top in tops])
        for split in SPLITS:
            for inner, read in folder_entries(tops[0] / split):
                if not ignored(inner.parts):
                    yield split / inner, read and read()
        return
    found: set[str] = set()
    with reading(f"{path} is not a readable tar archive"):
        for place, read in tar_entries(path):
            parts = place.parts
            if ".." in parts or place.is_absolute():
                raise DatasetError(f"{path}: member {place} points outside of the archive")
            depth = next((depth for depth in (0, 1) if parts[depth : depth + 1] and parts[depth] in SPLITS), None)
            if depth is not None and not ignored(parts):
                found.add("/".join(parts[:depth]))
                yield PurePosixPath(*parts[depth:]), read and read()
    _check_tops(path, sorted(found))


def _check_tops(path: Path, tops: Sequence[str]) -> None:
    if len(tops) != 1:
        found = f"several pairs, in {', '.join(tops)}" if tops else "none"
        raise DatasetError(f"{path}: needs one pair of train/<class>/* and test/<class>/*; found {found}")


def _members(path: Path) -> Iterator[tuple[PurePosixPath, Callable[[], bytes]]]:
    """Yield the images of a folder or archive in the order in which they are found."""
    entries = folder_entries if path.is_dir() else zip_entries if zipfile.is_zipfile(path) else tar_entries
    above: set[str] = set()
    for place, read in entries(path):
        if read is None or place.suffix.lower() not in ENDINGS or ignored(place.parts):
            continue
        if len(place.parts) < 2:
            raise DatasetError(f"{path}: {place} is not of the form <class>/<image>")
        above.add(place.parent.parent.as_posix())
        if len(above) > 1:
            raise DatasetError(f"{path}: needs all of <class>/<image> in one folder; found them in {sorted(above)}")
        yield place, read
