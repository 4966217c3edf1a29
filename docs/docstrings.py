"""Docstrings as they are written: an indented block is shown as it stands, a config's fields as a list."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from sphinx.application import Sphinx

__all__ = ["as_rst", "setup"]

SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:")
BAR = re.compile(r"(`[^`]*`)|\|")
NAMED = re.compile(r"    (\w+): ")


def as_rst(lines: list[str]) -> list[str]:
    """Return a docstring as reStructuredText.

    Indented blocks before its first section are literal, |e| is not the name of a substitution, and of what is returned
    the first words up to a colon are not a type, but several named values are a list.
    """
    marked: list[str] = []
    literal, section = False, ""
    for index, line in enumerate(lines):
        section = line if line in SECTIONS else section
        indented = line.startswith("    ") and not section
        if indented and not literal and not lines[index - 1].strip():
            marked += ["::", ""]
            literal = True
        elif line and not indented:
            literal = False
        if not literal and not line.startswith(("|", "+")):  # tables have bars of their own
            line = BAR.sub(_escaped, line)
        if section == "Returns:":
            line = NAMED.sub(r"    -   ``\1``: ", line)
        marked.append(line)
        if line == "Returns:":
            marked.append("    :")
    return marked


def _escaped(bar: re.Match[str]) -> str:
    return bar[1] or "\\|"


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)
    if what == "class" and issubclass(obj, BaseModel):
        lines += ["", "**Fields**", "", *_fields(obj)]


def _signature(app: Sphinx, what: str, name: str, obj: Any, *args: Any) -> tuple[str, str] | None:
    """The fields of a config are listed below it, more legibly."""
    return ("(**fields)", "") if what == "class" and issubclass(obj, BaseModel) else None


def _fields(model: type[BaseModel]) -> list[str]:
    lines = []
    for name, field in model.model_fields.items():
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        bounds = " and ".join(filter(None, map(_bound, field.metadata)))
        allowed = " | ".join(map(repr, choices)) or bounds
        lines += [f"``{name}`` = ``{field.default!r}``" + (f"  (``{allowed}``)" if allowed else "")]
        lines += [f"    {BAR.sub(_escaped, field.description or '')}", ""]
    return lines


def _bound(item: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return " ".join(f"{sign} {getattr(item, key):g}" for key, sign in signs.items() if hasattr(item, key))


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """The fields of a named tuple stand in its signature; their docstrings are "alias for field number 0"."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _process, priority=400)  # before napoleon, which makes fields of sections
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
