"""A notebook as something that takes parameters: their names, types and defaults stand in its cell tagged `parameters`.

Values are compared with the cell's annotations and, where a parameter is named for a field of `RunConfig`, with the
field's bounds, before a kernel starts. Nothing in a notebook is run for that, its annotations included.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Union

from pydantic import TypeAdapter, ValidationError

from hatlab.config import ConfigError, RunConfig, nearest

__all__ = ["PLACE", "SAVE", "Notebook", "Parameter", "parsed", "without_magics"]

# What a notebook is told about where its outcome goes; users say it with options of the command.
PLACE: Final = ("results", "profile", "figure")
SAVE: Final = f"artifacts.save(figure, ..., profile=profile, results=results), with {', '.join(PLACE)} as parameters"
SAVING: Final = ("artifacts.save", "hatlab.support.artifacts.save")
LONGEST: Final = 100_000  # characters of a cell of parameters
LARGEST: Final = 4096  # bits of a whole number
PLAIN: Final[dict[str, Any]] = {kind.__name__: kind for kind in (bool, int, float, str, list, dict)} | {"Any": Any}
ALLOWED: Final = f"{', '.join(PLAIN)}, as in list[float], int | None or Literal['a', 'b']"
DEEPEST: Final = 20  # types within types


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
            if why := _not_plain(value):
                raise ValueError(f"{self.name} = {_short(value)}: {why}")
            return self.adapter.validate_python(value, strict=True)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise ValueError(f"{self.name} = {_short(value)}: {problem['msg']} (wanted: {self.kind})") from None
        except RecursionError:
            raise ValueError(f"{self.name}: lists or mappings are too deep in each other, or hold themselves") from None


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
        except ImportError as error:
            raise ConfigError(f"notebooks need {error.name}, which is missing: install hatlab's dependencies") from None
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
        if len(tagged[0]) > LONGEST:
            raise ConfigError(f"the parameters cell of {self.path} has more than {LONGEST} characters")
        try:
            statements = parsed(tagged[0]).body
        except ValueError as error:
            raise ConfigError(f"the parameters cell of {self.path} is not Python: {error}") from None
        return {parameter.name: parameter for parameter in map(self._parameter, statements)}

    def _parameter(self, line: ast.stmt) -> Parameter:
        where = f"in the parameters cell of {self.path}: '{_unparsed(line)}'"
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None):
            raise ConfigError(f"{where} is not of the form name: type = value, as in c: float = 0.75")
        name, kind = line.target.id, _unparsed(line.annotation)
        try:
            default = ast.literal_eval(line.value)
        except (ValueError, TypeError, RecursionError):
            raise ConfigError(f"{where}: the default of {name} is not a plain value") from None
        try:
            adapter = TypeAdapter(_type_of(line.annotation))
        except ValueError:
            raise ConfigError(
                f"{where}: {kind} is not a type that a parameter can have; allowed are {ALLOWED}"
            ) from None
        try:
            default = Parameter(name, kind, None, adapter).check(default)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
        return Parameter(name, kind, default, adapter)

    @cached_property
    def code(self) -> list[tuple[int, ast.Module]]:
        """Each code cell that is not empty: the number that stands in brackets beside it when the notebook has been run
        from top to bottom, and its syntax tree. A cell that is no Python is left out."""
        sources = [cell["source"] for cell in self.cells if cell["cell_type"] == "code" and cell["source"].strip()]
        trees = []
        for number, source in enumerate(sources, start=1):
            with contextlib.suppress(ValueError, SyntaxError):
                trees.append((number, parsed(without_magics(source))))
        return trees

    def misplaced(self) -> list[str]:
        """Say which calls of `artifacts.save` put what they save outside the folder of the run of a batch."""
        found = []
        for number, tree in self.code:
            for call in ast.walk(tree):
                if isinstance(call, ast.Call) and _unparsed(call.func) in SAVING:
                    given = {word.arg: word.value for word in call.keywords}
                    given |= {"name": call.args[0]} if call.args else {}
                    fixed = [name for name in ("name", "profile") if isinstance(given.get(name), ast.Constant)]
                    if fixed or ("profile" not in given and None not in given):
                        found.append(
                            f"in {self.name}, cell {number}: {_unparsed(call)} does not save in the folder of its run; "
                            f"allowed is {SAVE}"
                        )
        return found

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


def _type_of(node: ast.expr, depth: int = 0) -> Any:
    """Return the type that an annotation names, built without evaluating any of it.

    Raises:
        ValueError: it is none of `ALLOWED`, such as text in quotes or a call, or more than `DEEPEST` types deep.
    """
    if depth > DEEPEST:
        raise ValueError("types within types within types")
    match node:
        case ast.Name(id=name) if name in PLAIN:
            return PLAIN[name]
        case ast.Constant(value=None):
            return None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type_of(left, depth + 1), _type_of(right, depth + 1)]  # noqa: UP007  two Nones have no |
        case ast.Subscript(value=ast.Name(id=name), slice=inside):
            items = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            if name == "Literal" and items:
                return Literal[tuple(map(_constant, items))]
            types = tuple(_type_of(item, depth + 1) for item in items)
            match name, len(types):
                case "list", 1:
                    return list[types]  # type: ignore[valid-type]
                case "dict", 2:
                    return dict[types]  # type: ignore[valid-type, misc]
                case "Optional", 1:
                    return Union[types[0], None]  # noqa: UP007
                case "Union", n if n:
                    return Union[types]  # noqa: UP007
    raise ValueError("not a plain type")


def _constant(node: ast.expr) -> Any:
    value = ast.literal_eval(node)
    if not (value is None or isinstance(value, bool | int | str)):
        raise ValueError("a literal is text, a whole number, true, false or none")
    return value


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
    if isinstance(value, int) and value.bit_length() > LARGEST:
        return f"a whole number of {value.bit_length()} bits; allowed are {LARGEST}"
    if value is None or isinstance(value, bool | int | float):
        return ""
    return f"{type(value).__name__} is no plain data; allowed are numbers, text, true, false, null, lists and mappings"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # of a whole number with thousands of digits
        text = f"({type(value).__name__})"
    return text if len(text) <= 200 else f"{text[:200]}…"


def _unparsed(node: ast.AST) -> str:
    try:
        text = ast.unparse(node)
    except (ValueError, RecursionError):
        text = type(node).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


def without_magics(source: str) -> str:
    """Return a cell's source as Python: a magic is the call that IPython makes of it.

    Raises:
        SyntaxError: it is a magic that nothing can be made of.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    code: str = TransformerManager().transform_cell(source)
    return code


def parsed(source: str | bytes) -> ast.Module:
    """Return the syntax tree of Python's source; nothing of it is run.

    Raises:
        ValueError: it is no Python, or nested too deeply.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of backslashes in the text of others
            return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(str(error)) from None
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deeply") from None
