"""A notebook as something that takes parameters: their names, types and defaults stand in its cell tagged `parameters`.

Values are held against the cell's annotations and, where a parameter is named for a field of `RunConfig`, against the
field's bounds, before a kernel starts. Nothing in a notebook is run for that.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Optional, Union

from pydantic import TypeAdapter, ValidationError

from hatlab.config import ConfigError, RunConfig, nearest

__all__ = ["PLACE", "Notebook", "Parameter"]

# What a notebook is told about where its outcome goes; users say it with options of the command.
PLACE: Final = ("results", "profile", "figure")
TYPES: Final[dict[str, Any]] = {
    kind.__name__: kind for kind in (bool, int, float, str, list, dict)
} | {"Any": Any, "Literal": Literal, "Optional": Optional, "Union": Union}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One line of the cell: `name: kind = default  # meaning`."""

    name: str
    kind: str
    default: Any
    adapter: TypeAdapter[Any]

    def check(self, value: Any) -> Any:
        """Return `value` as the kernel will see it: of the annotated type.

        Raises:
            ValueError: it is of another type, or no plain data.
        """
        try:
            checked = self.adapter.validate_python(value, strict=True)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise ValueError(f"{self.name} = {_short(value)}: {problem['msg']} (wanted: {self.kind})") from None
        if why := _not_plain(checked):
            raise ValueError(f"{self.name} = {_short(value)}: {why}")
        return checked


@dataclass(frozen=True)
class Notebook:
    """A notebook file as it was when it was read.

    Attributes:
        path: where it was read from.
        text: the file, JSON of nbformat 4.
    """

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path | str) -> Notebook:
        """Read and check a notebook.

        Raises:
            ConfigError: there is none, or its parameters cell is not as it should be.
        """
        try:
            import distributed  # noqa: F401
            import nbformat
            import papermill  # noqa: F401
        except ImportError:
            raise ConfigError("notebooks need papermill, ipykernel and Dask: pip install 'hatlab[notebooks]'") from None
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            content = nbformat.reads(text, as_version=4)
        except OSError as error:
            raise ConfigError(f"the notebook {path} cannot be read: {error.strerror or error}") from None
        except Exception as error:  # nbformat has many ways to dislike a file
            raise ConfigError(f"{path} is not a notebook: {str(error) or type(error).__name__}") from None
        language = content.metadata.get("kernelspec", {}).get("language", "python")
        if language != "python":
            raise ConfigError(f"{path} is a notebook in {language}; allowed is Python, of which each run gets a kernel")
        notebook = cls(path, nbformat.writes(content))
        notebook.parameters  # noqa: B018  says now what is wrong with the cell
        return notebook

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def stem(self) -> str:
        return self.path.stem

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        content: dict[str, Any] = json.loads(self.text)
        return [{**cell, "source": "".join(cell["source"])} for cell in content["cells"]]

    @cached_property
    def checksum(self) -> str:
        """Of what a run depends on, the cells' sources and tags: outputs and a viewer's metadata play no part."""
        parts = [[cell["cell_type"], cell["source"], cell["metadata"].get("tags", [])] for cell in self.cells]
        return f"sha256:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Name -> parameter, those about places among them; empty where no cell is tagged.

        Raises:
            ConfigError: two cells are tagged, or one has a line that is not `name: type = plain value`.
        """
        tagged = [cell["source"] for cell in self.cells if "parameters" in cell["metadata"].get("tags", [])]
        if not tagged:
            return {}
        if len(tagged) > 1:
            raise ConfigError(f"{self.path} has {len(tagged)} cells tagged 'parameters'; allowed is one")
        try:
            statements = ast.parse(tagged[0]).body
        except SyntaxError as error:
            raise ConfigError(f"the parameters cell of {self.path} is not Python: {error}") from None
        return {parameter.name: parameter for parameter in map(self._parameter, statements)}

    def _parameter(self, line: ast.stmt) -> Parameter:
        where = f"in the parameters cell of {self.path}: '{ast.unparse(line)}'"
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None):
            raise ConfigError(f"{where} is not of the form name: type = value, as in c: float = 0.75")
        name, kind = line.target.id, ast.unparse(line.annotation)
        try:
            default = ast.literal_eval(line.value)
        except ValueError:
            raise ConfigError(f"{where}: the default of {name} is not a plain value") from None
        try:
            # names of plain types only, subscripted or joined by |: nothing that can be called
            if any(isinstance(node, ast.Call | ast.Attribute | ast.Lambda) for node in ast.walk(line.annotation)):
                raise NameError
            adapter = TypeAdapter(eval(kind, {"__builtins__": {}}, TYPES))
        except Exception:
            raise ConfigError(
                f"{where}: {kind} is not a type that a parameter can have; allowed are {', '.join(TYPES)}, "
                f"as in list[float], int | None or Literal['a', 'b']"
            ) from None
        return Parameter(name, kind, default, adapter)

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all parameters but those about places, as the kernel will see them: `given`, and the defaults.

        Raises:
            ConfigError: naming every parameter at once that is unknown, ill-typed, or refused by `RunConfig`.
        """
        known = [name for name in self.parameters if name not in PLACE]
        values = {name: self.parameters[name].default for name in known}
        problems = []
        for name, value in given.items():
            if name in PLACE:
                problems.append(f"'{name}' is set by the command; leave it out")
            elif name not in values:
                problems.append(
                    f"unknown parameter of {self.name} '{name}'{nearest(name, known)} (known: {', '.join(known)})"
                )
            else:
                try:
                    values[name] = self.parameters[name].check(value)
                except ValueError as error:
                    problems.append(str(error))
        try:
            self.configs(values)
        except ConfigError as error:
            problems.append(str(error))
        if problems:
            raise ConfigError("\n".join(problems))
        return values

    def configs(self, values: Mapping[str, Any]) -> list[RunConfig]:
        """Return the configs that the notebook's parameters describe, checked: `values` as `check` returns them.

        A parameter with the name of a field of `RunConfig` sets it; a list named for a field with an s, as cs and
        seeds are, makes a config for each of its values; `others` sets any other field.

        Raises:
            ConfigError: a value that a run would refuse.
        """
        fields = {name: value for name, value in values.items() if name in RunConfig.model_fields}
        axes = {
            name.removesuffix("s"): value
            for name, value in values.items()
            if name not in fields and name.removesuffix("s") in RunConfig.model_fields and isinstance(value, list)
        }
        others = _others(values)
        if shadowed := [name for name in others if name in (*fields, *axes)]:
            raise ConfigError(f"others = {others}: {shadowed[0]} has a parameter of its own")
        return RunConfig(**{**fields, **others}).grid(**axes)

    def names_data(self, values: Mapping[str, Any]) -> bool:
        """Whether the parameters say which images are used."""
        return "dataset" in values or "dataset" in _others(values)


def _others(values: Mapping[str, Any]) -> dict[str, Any]:
    others = values.get("others")
    return others if isinstance(others, dict) else {}


def _not_plain(value: Any) -> str:
    """Say why a value cannot be handed over as data, or return ""."""
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            return f"the key {wrong[0]!r} is no text"
        return next(filter(None, map(_not_plain, (*value, *value.values()))), "")
    if isinstance(value, list):
        return next(filter(None, map(_not_plain, value)), "")
    if isinstance(value, str):
        return "" if value.isascii() or value == value.encode(errors="ignore").decode() else "not valid Unicode"
    if value is None or isinstance(value, bool | int | float):
        return ""
    return f"{type(value).__name__} is no plain data; allowed are numbers, text, true, false, null, lists and mappings"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
