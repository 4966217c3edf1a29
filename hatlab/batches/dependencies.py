"""What a notebook's outcome depends on beside its cells and parameters: modules of one's own, files, packages.

Modules and packages are found by reading the `import` statements of the cells, of the modules that they import, and so
on; nothing is imported for it. What is imported or read under a computed name cannot be seen: the user names it, as
`--inputs`. Files are called by their paths from the kernel's current folder.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import re
import shlex
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Final

from hatlab.batches.ledger import NotebookRun
from hatlab.batches.notebook import Notebook, parsed, without_magics
from hatlab.config import ConfigError
from hatlab.support.provenance import checksum, library_version, releases, tree_checksum

__all__ = ["as_of_now", "changes", "dependencies", "named"]

HERE: Final = Path(__file__).parent.parent
INSTALLED: Final = {"site-packages", "dist-packages"}
LIBRARY: Final = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
EXTEND: Final = ("sys.path.append", "sys.path.insert", "os.chdir")  # calls that change where modules are found
LINE_MAGIC, CELL_MAGIC = "get_ipython().run_line_magic", "get_ipython().run_cell_magic"
BY_NAME: Final = ("importlib.import_module", "import_module", "__import__")


def dependencies(notebook: Notebook, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the local modules that a notebook imports, file -> checksum, and the packages, name -> release.

    Local is what a kernel finds outside the standard library and the installed packages, hatlab excepted.

    Args:
        notebook: what to read.
        folder: the kernel's current folder.
    """
    imports = _Imports(notebook, folder)
    files = {_called(path, folder): checksum(path) for path in imports.files - imports.written}
    return dict(sorted(files.items())), releases(filter(None, map(_distribution, imports.packages)))


def named(inputs: Iterable[Path | str], folder: Path, results: Path) -> dict[str, str]:
    """Return path -> checksum of the files and folders that a user names as inputs; a folder is one entry.

    Args:
        inputs: paths from `folder`, or absolute ones.
        folder: the kernel's current folder.
        results: the results folder, which no input may hold: it changes with every run.

    Raises:
        ConfigError: naming all that cannot be an input.
    """
    found, problems = {}, []
    for given in inputs:
        path = folder / Path(given).expanduser()
        try:
            if not (path.is_file() or path.is_dir()):
                problems.append(f"inputs = '{given}': there is no such file or folder in {folder}")
            elif results.resolve().is_relative_to(path.resolve()):
                problems.append(f"inputs = '{given}': the results folder lies in it, and changes with each run")
            else:
                found[_called(path, folder)] = _checksum(path)
        except OSError as error:
            problems.append(f"inputs = '{given}' cannot be read: {error.strerror or error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def as_of_now(run: NotebookRun, folder: Path) -> NotebookRun:
    """Return the run as it would be planned with the hatlab, the inputs and the packages of this moment and machine.

    Args:
        run: as it was planned.
        folder: the kernel's current folder, from which the paths of its inputs go.
    """
    inputs = {}
    for name in run.inputs:
        try:
            inputs[name] = _checksum(folder / name)
        except OSError:
            continue
    return replace(run, hatlab=library_version(), inputs=inputs, packages=releases(run.packages))


def changes(before: NotebookRun, after: NotebookRun) -> list[str]:
    """Say what of that on which the outcome depends differs between two runs with the same parameters."""
    found = ["the notebook was changed"] if before.source != after.source else []
    if before.hatlab != after.hatlab:
        found.append(f"hatlab was {before.hatlab} and is {after.hatlab}")
    for name in _differing(before.inputs, after.inputs):
        how = "is new" if name not in before.inputs else "is gone" if name not in after.inputs else "was changed"
        found.append(f"{name} {how}")
    for name in _differing(before.packages, after.packages):
        was, now = (run.packages.get(name, "not used") for run in (before, after))
        found.append(f"{name} was {was} and is {now}")
    if files := _differing(before.data, after.data):
        found.append(f"other images: {', '.join(files)}")
    return found


def _differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _called(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return path.as_posix()


def _checksum(path: Path) -> str:
    return tree_checksum(path) if path.is_dir() else checksum(path)


class _Imports:
    """What the code of a notebook imports, and what that imports.

    Attributes:
        files: of local modules and scripts.
        written: those that a cell writes (`%%writefile`).
        packages: names of installed packages, as they are imported.
    """

    def __init__(self, notebook: Notebook, folder: Path) -> None:
        importlib.invalidate_caches()
        self.folder = folder
        self.path = [str(folder), str(HERE.parent), *sys.path, str(notebook.path.absolute().parent)]
        self.files: set[Path] = set()
        self.written: set[Path] = set()
        self.packages: set[str] = set()
        self.inside: dict[str, Sequence[str] | None] = {}  # module -> where its submodules are, None: it is no package
        self.todo: list[tuple[ast.AST, str]] = [(tree, "") for _, tree in notebook.code]  # and in which package it is
        for tree, _ in self.todo:
            self._extend(tree)
        while self.todo:
            tree, package = self.todo.pop()
            for node in ast.walk(tree):
                self._read(node, package)

    def _extend(self, tree: ast.AST) -> None:
        """Look where the notebook says: `sys.path.insert(0, "../lib")`, `%cd lib`."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name, added = ast.unparse(node.func), ""
                if name in EXTEND:
                    added = _text(node, -1)
                elif name == LINE_MAGIC and _text(node, 0) == "cd":
                    added = _text(node, 1)
                if added:
                    self.path.insert(1, str(self.folder / added))

    def _read(self, node: ast.AST, package: str) -> None:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    self._module(alias.name)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join(filter(None, [*above, module or ""]))
                for name in (base, *(f"{base}.{alias.name}" for alias in names)) if base else ():
                    self._module(name)
            case ast.Call():
                self._call(node, ast.unparse(node.func))

    def _call(self, call: ast.Call, name: str) -> None:
        first = _text(call, 0)
        if name in BY_NAME and first:
            self._module(first)
        elif name == CELL_MAGIC:
            if first in ("writefile", "file"):
                self.written |= {self.folder / word for word in _words(_text(call, 1))}
            elif body := _text(call, 2):
                with contextlib.suppress(ValueError, SyntaxError):
                    self.todo.append((parsed(without_magics(body)), ""))
        elif name == LINE_MAGIC:
            words = [word for word in _words(_text(call, 1)) if not word.startswith("-")]
            if first == "run" and words:
                self._script(self.folder / words[0])
            elif first == "load_ext" and words:
                self._module(words[0])

    def _script(self, path: Path) -> None:
        """Read what `%run` runs."""
        path = path if path.is_file() else path.with_name(f"{path.name}.py")
        if not path.is_file() or path in self.files:
            return
        self.files.add(path)
        self.path.insert(1, str(path.parent))
        if path.suffix == ".ipynb":
            with contextlib.suppress(ConfigError):
                self.todo += [(tree, "") for _, tree in Notebook.read(path).code]
        else:
            self._source(path, "")

    def _source(self, path: Path, package: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.todo.append((parsed(path.read_bytes()), package))

    def _module(self, name: str) -> None:
        """Take up a module by its absolute name, and the packages that it is in."""
        if name in self.inside:
            return
        self.inside[name] = None
        above, _, last = name.rpartition(".")
        where: Sequence[str] | None = self.path
        if above:
            self._module(above)
            where = self.inside[above]
        if not where or (spec := _find(name, where) if above else self._top(name)) is None:
            return
        package = spec.submodule_search_locations is not None
        if spec.origin is None:  # a folder without __init__.py
            self.inside[name] = [path for folder in where if os.path.isdir(path := os.path.join(folder, last))]
        elif package:
            self.inside[name] = list(spec.submodule_search_locations or ())
        if spec.origin and (file := Path(spec.origin)).is_file():
            self.files.add(file)
            if file.suffix == ".py":
                self._source(file, name if package else above)

    def _top(self, name: str) -> ModuleSpec | None:
        """Return where a kernel finds a module that is in no package, if that is a local one."""
        if name in sys.builtin_module_names:
            return None
        spec = _find(name, self.path)
        for finder in sys.meta_path:  # of packages that are installed so that they can be edited
            if spec is None and finder is not PathFinder:
                with contextlib.suppress(Exception):
                    spec = finder.find_spec(name, None)
        if spec is None:
            return None
        places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
        paths = [Path(place) for place in places if place]
        if any(INSTALLED & set(path.parts) for path in paths):
            self.packages.add(name)
            return None
        library = any(path.is_relative_to(folder) for path in paths for folder in LIBRARY)
        return None if library or any(path.is_relative_to(HERE) for path in paths) else spec


def _find(name: str, where: Sequence[str]) -> ModuleSpec | None:
    try:
        return PathFinder.find_spec(name, where)
    except KeyError:  # a folder without __init__.py in another such, which Python looks up among what was imported
        return ModuleSpec(name, None, is_package=True)


def _text(call: ast.Call, position: int) -> str:
    """Return an argument that is text and stands there as such, or ""."""
    try:
        value = ast.literal_eval(call.args[position])
    except (IndexError, ValueError, TypeError):
        return ""
    return value if isinstance(value, str) else ""


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return []


@functools.cache
def _distribution(name: str) -> str | None:
    """Return the name under which a package is installed that is imported as `name`."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # importlib's own table of all packages takes seconds
        has = re.compile(rf"^{re.escape(name)}(/|\.py,)", re.MULTILINE)
        owners = (found for found in importlib.metadata.distributions() if has.search(found.read_text("RECORD") or ""))
        owner = next(owners, None)
        return None if owner is None else owner.name
    return name.lower()
