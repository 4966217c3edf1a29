"""The types that a notebook's parameter can have, built from its annotation. Nothing of the annotation is evaluated."""

from __future__ import annotations

import ast
from typing import Any, Final, Literal, Union

__all__ = ["ALLOWED", "type_of"]

PLAIN: Final[dict[str, Any]] = {kind.__name__: kind for kind in (bool, int, float, str, list, dict)} | {"Any": Any}
ALLOWED: Final = f"{', '.join(PLAIN)}, as in list[float], int | None or Literal['a', 'b']"
DEEPEST: Final = 20  # types within types


def type_of(node: ast.expr, depth: int = 0) -> Any:
    """Return the type that an annotation names.

    Args:
        node: a plain type's name, `None`, `X | Y`, or list, dict, Optional, Union or Literal with what belongs into
            their brackets.
        depth: how many types it stands in.

    Raises:
        ValueError: anything else stands there, text in quotes and calls among it.
    """
    if depth > DEEPEST:
        raise ValueError("types within types within types")
    match node:
        case ast.Name(id=name) if name in PLAIN:
            return PLAIN[name]
        case ast.Constant(value=None):
            return None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[type_of(left, depth + 1), type_of(right, depth + 1)]  # noqa: UP007  two Nones have no |
        case ast.Subscript(value=ast.Name(id=name), slice=inside):
            items = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            if name == "Literal" and items:
                return Literal[tuple(map(_constant, items))]
            return _of(name, [type_of(item, depth + 1) for item in items])
    raise ValueError("not a plain type")


def _of(name: str, items: list[Any]) -> Any:
    match name, items:
        case "list", [item]:
            return list[item]  # type: ignore[valid-type]
        case "dict", [key, value]:
            return dict[key, value]  # type: ignore[valid-type]
        case "Optional", [item]:
            return Union[item, None]  # noqa: UP007
        case "Union", [_, *_]:
            return Union[tuple(items)]  # noqa: UP007
    raise ValueError(f"{name} with {len(items)} types in brackets")


def _constant(node: ast.expr) -> Any:
    value = ast.literal_eval(node)
    if not (value is None or isinstance(value, bool | int | str)):
        raise ValueError("a literal is text, a whole number, true, false or none")
    return value
