"""Images in train/<class>/* and test/<class>/*: a folder, or a tar archive of one, which is never unpacked to disk."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from hatlab.formats import READ_ERRORS, SPLITS, DatasetError, Images, channels_first
from hatlab.provenance import checksum

__all__ = ["ignored", "read_folder", "tree_checksum"]


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
