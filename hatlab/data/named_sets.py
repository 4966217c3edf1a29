"""The base of data sets that have a name and files: it finds, hashes, compares and decodes the files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hatlab.data.formats import DatasetError, Images
from hatlab.data.image_folders import folder_checksum
from hatlab.support import paths
from hatlab.support.provenance import checksum

__all__ = ["FileCheck", "Form", "NamedSet", "SetStatus"]


@dataclass(frozen=True)
class SetStatus:
    """Whether a named set could be loaded now, judged by the presence and size of its files.

    Attributes:
        state: "ready"; "missing" (some file is nowhere); "damaged" (a file has the wrong size).
        where: the folders of its files, or the folder that they would be put in.
        size: bytes of its files; of those to be downloaded where the set is missing.
    """

    name: str
    title: str
    state: Literal["ready", "missing", "damaged"]
    where: str
    size: int


@dataclass(frozen=True)
class FileCheck:
    """What `verify` found: `found` and `expected` are checksums; `expected` is "" where none is known."""

    file: str
    ok: bool
    found: str
    expected: str
    problem: str


@dataclass(frozen=True)
class Form:
    """One form of the files of a set.

    Attributes:
        files: the name of each file and its place below a data root; a place that ends in "/" is a folder. All of them
            are needed.
        read: returns the Images of the paths of these files, in their order.
        title: what results call the set in this form; "{images}" and "{classes}" stand for their numbers.
    """

    files: Mapping[str, str]
    read: Callable[..., Images]
    title: str


@dataclass(frozen=True, kw_only=True)
class NamedSet(ABC):
    """A set of images that has a name and files.

    Attributes:
        title: what results call it, whatever its form.
        folder: the folder of its files, relative to a data root; names of files are relative to `folder`.
        files: size in bytes of each file whose size is known.
        forms: the forms that are read. The first one that is complete is taken.
        mean, std: per channel, of pixels scaled to [0, 1]; None: those of the training images.
    """

    name: str
    title: str
    folder: str = ""
    files: Mapping[str, int] = field(default_factory=dict)
    forms: tuple[Form, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @abstractmethod
    def _get(self, missing: list[str], download: bool) -> dict[str, Path]:
        """Return where the missing files of the first form are once they are downloaded, or raise DatasetError."""

    def expected(self) -> dict[str, str]:
        """Return the known checksums, of files in any form in which the set may be there."""
        return {}

    def titled(self, files: Mapping[str, Path], images: Images) -> str:
        """Return what results call the set in the form that `files` are in."""
        n = len(images.y_train) + len(images.y_test)
        return self._form(files).title.format(images=f"{n:,}", classes=len(images.classes))

    def _form(self, files: Mapping[str, Path]) -> Form:
        return next(form for form in self.forms if form.files.keys() == files.keys())

    def _read(self, files: Mapping[str, Path]) -> Images:
        form = self._form(files)
        return form.read(*(files[name] for name in form.files))

    def find(self) -> dict[str, Path | None]:
        """Return where each file (or folder) of the set is, or None for a missing one.

        The first form that is complete is taken, else the first form. Each file is taken from the first data root that
        has it.
        """
        forms = [{name: _first(place) for name, place in form.files.items()} for form in self.forms]
        return next((form for form in forms if None not in form.values()), forms[0])

    def fetch(self, *, download: bool = True) -> dict[str, Path]:
        """Return where each file is. Missing files are downloaded if `download` and if hatlab can.

        Raises:
            DatasetError: with where each file was looked for, where to get it and where to put it.
        """
        found = self.find()
        missing = [name for name, path in found.items() if path is None]
        got = self._get(missing, download) if missing else {}
        return {name: path or got[name] for name, path in found.items()}

    def checksums(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Return the md5 of each file, and the sha256 of the images in each folder."""
        return {name: _checksum(path) for name, path in files.items()}

    def decode(self, files: Mapping[str, Path], checksums: Mapping[str, str]) -> Images:
        """Compare `checksums` of `files` with the expected ones, then return the images.

        Raises:
            DatasetError: naming the file, the checksum expected and the one found. The file is left in place.
        """
        expected = self.expected()
        for name, found in checksums.items():
            if found != expected.get(name, found):
                raise DatasetError(
                    f"{files[name]} is truncated or altered: expected {expected[name]}, found {found} "
                    f"({files[name].stat().st_size:,} bytes). It was left in place: delete or replace it"
                )
        return self._read(files)

    def status(self) -> SetStatus:
        """Return the state of the set. Cheap: looks at names and sizes only."""
        found = self.find()
        there = _present(found)
        if missing := [name for name in found if name not in there]:
            size = sum(self.files.get(name, 0) for name in missing)
            return SetStatus(self.name, self.title, "missing", str(paths.cache_root() / self.folder), size)
        sizes = {name: path.stat().st_size for name, path in there.items() if path.is_file()}
        damaged = any(size != self.files.get(name, size) for name, size in sizes.items())
        folders = ", ".join(dict.fromkeys(str(path.parent) for path in there.values()))
        return SetStatus(self.name, self.title, "damaged" if damaged else "ready", folders, sum(sizes.values()))

    def verify(self) -> list[FileCheck]:
        """Hash every file again and compare. If a file has no known checksum, try to decode the files."""
        found_at, expected, checks = self.find(), self.expected(), []
        for name, path in found_at.items():
            found = _checksum(path) if path else ""
            altered = "" if found == expected.get(name, found) else "truncated or altered"
            problem = altered if path else "missing"
            checks.append(FileCheck(str(path or name), not problem, found, expected.get(name, ""), problem))
        if all(check.ok for check in checks) and not found_at.keys() <= expected.keys():
            try:
                self._read(_present(found_at))
            except (DatasetError, OSError) as error:
                checks = [FileCheck(check.file, False, check.found, check.expected, str(error)) for check in checks]
        return checks

    def _not_there(self, reason: str, wanted: str, places: Sequence[str], where_from: Sequence[str]) -> DatasetError:
        """Return the error of a set that is not there: where it was looked for, where to get it, where to put it."""
        below = f" in {self.folder} below it" if self.folder else ""
        lines = [
            f"{self.title} is not there{reason}.",
            f"Looked for {wanted} in:",
            *(f"  {place}" for place in places),
            *where_from,
            f"and put the files into {paths.cache_root() / self.folder},",
            f"or point the environment variable HATLAB_DATA at a folder that has them{below}.",
        ]
        return DatasetError("\n".join(lines))


def _first(place: str) -> Path | None:
    candidates = [root / place for root in paths.data_roots()]
    return next((path for path in candidates if (path.is_dir() if place.endswith("/") else path.is_file())), None)


def _present(found: Mapping[str, Path | None]) -> dict[str, Path]:
    return {name: path for name, path in found.items() if path is not None}


def _checksum(path: Path) -> str:
    return folder_checksum(path) if path.is_dir() else checksum(path, "md5")
