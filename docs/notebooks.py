"""An executed notebook as a page: nothing is run; every figure gets an alternative text, every file a link."""

from __future__ import annotations

import ast
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import Any

from docs.committed import ROOT, CommittedFigure
from docs.links import Links
from hatlab import experiments

__all__ = ["alternative_texts", "in_capitals", "page", "pictures_in_words", "saved_files"]


def page(figure: CommittedFigure, links: Links) -> str:
    """Return the notebook as JSON, with links of the site, a title that names the profile, and its files at the end."""
    notebook = json.loads(figure.notebook.read_text(encoding="utf-8"))
    texts = alternative_texts(figure)
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            cell["source"] = links.rewrite("".join(cell["source"]), ROOT / "notebooks", figure.profile)
        elif number in texts:
            cell["metadata"].setdefault("mystnb", {})["image"] = {"alt": texts[number]}
    first, *rest = notebook["cells"]
    title, _, prose = "".join(first["source"]).partition("\n")
    first["source"] = f"{title} · {figure.label}\n\n{_origin(figure)}\n{prose}"
    notebook["cells"] = [
        first,
        *rest,
        {"id": "files", "cell_type": "markdown", "metadata": {}, "source": _files(figure, links)},
    ]
    return json.dumps(notebook)


def alternative_texts(figure: CommittedFigure) -> dict[int, str]:
    """Return number of a cell with pictures -> what they show: said by the function that drew them, or the heading."""
    heading, files, words = figure.title, saved_files(figure), pictures_in_words(figure)
    texts: dict[int, str] = {}
    for number, cell in enumerate(figure.cells):
        if cell["cell_type"] == "markdown":
            heading = _last_heading("".join(cell["source"])) or heading
        elif any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            texts[number] = words.get(files.get(number, ""), "") or f"{figure.title}: {heading}"
    return texts


def saved_files(figure: CommittedFigure) -> dict[int, str]:
    """Return number of a cell -> file name without ending of the figure that it drew, its last that was saved."""
    saved, found = _saved(figure), {}
    for number, cell in enumerate(figure.cells):
        if cell["cell_type"] == "code":
            for variable in _drawn_in("".join(cell["source"])):
                if variable in saved:
                    found[number] = saved[variable]
    return found


def pictures_in_words(figure: CommittedFigure) -> dict[str, str]:
    """Return file name without ending -> what the saved figure shows, for those that a function of hatlab draws."""
    drawn = {variable: function for cell in _code(figure) for variable, function in _drawn_in(cell).items()}
    return {file: _in_words(file, drawn[variable]) for variable, file in _saved(figure).items() if variable in drawn}


def _code(figure: CommittedFigure) -> list[str]:
    return ["".join(cell["source"]) for cell in figure.cells if cell["cell_type"] == "code"]


def _nodes(source: str) -> Iterator[ast.AST]:
    """Return the syntax tree of a cell, flat; nothing of a cell that is not plain Python, such as one with a magic."""
    try:
        return ast.walk(ast.parse(source))
    except SyntaxError:
        return iter(())


def _saved(figure: CommittedFigure) -> dict[str, str]:
    """Return variable -> file name without ending, from `figures={"file": variable}`, `drawn = {"file": variable}`, and
    `drawn["file"] = figures.function(...)`, where the file's name stands for the variable.
    """
    found: dict[str, str] = {}
    for node in (node for source in _code(figure) for node in _nodes(source)):
        if (isinstance(node, ast.keyword) and node.arg == "figures") or isinstance(node, ast.Assign):
            if isinstance(node.value, ast.Dict):
                pairs = zip(node.value.keys, node.value.values, strict=True)
                found |= {v.id: k.value for k, v in pairs if isinstance(k, ast.Constant) and isinstance(v, ast.Name)}
            elif isinstance(node, ast.Assign) and (name := _name_of(node.targets[0])):
                found |= {name: name} if isinstance(node.targets[0], ast.Subscript) else {}
    return found


def _name_of(target: ast.expr) -> str:
    """Return the name in `name = ...` and in `drawn["name"] = ...`, or ""."""
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        return str(target.slice.value)
    return target.id if isinstance(target, ast.Name) else ""


def _drawn_in(source: str) -> dict[str, str]:
    """Return variable -> function, from `variable = figures.function(...)` or `variable = function(...)`."""
    found: dict[str, str] = {}
    for node in _nodes(source):
        if isinstance(node, ast.Assign) and _name_of(node.targets[0]) and isinstance(node.value, ast.Call):
            called = node.value.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in _drawing_functions():
                found[_name_of(node.targets[0])] = name
    return found


@cache
def _drawing_functions() -> dict[str, Callable[..., Any]]:
    """Name -> function, of all experiments' figures."""
    names = [m.name for m in pkgutil.walk_packages(experiments.__path__, f"{experiments.__name__}.")]
    modules = [import_module(name) for name in names if name.endswith("figures")]
    return {name: getattr(module, name) for module in modules for name in module.__all__}


def _in_words(file: str, function: str) -> str:
    """What a figure shows is said once, by the first line of its function: "Draw what is left of the network"."""
    line = (inspect.getdoc(_drawing_functions()[function]) or "").partition("\n")[0]
    return f"{in_capitals(file)}: {re.sub('^Draw,? ', '', line)}"


def in_capitals(name: str) -> str:
    """Return "Capacity by layer" for "capacity_by_layer"; s_max keeps its name."""
    return name[:1].upper() + name[1:].replace("_", " ").replace("s max", "s_max")


def _last_heading(source: str) -> str:
    headings = re.findall(r"^#+ +(.+)$", source, re.MULTILINE)
    return str(headings[-1]).replace("`", "").replace("$", "") if headings else ""


def _origin(figure: CommittedFigure) -> str:
    command = f"hatlab reproduce --profile {figure.profile} --only {figure.name}"
    return f"*The executed notebook as it is committed, made by* `{command}`. *[Its files](#files-of-this-figure).*\n"


def _files(figure: CommittedFigure, links: Links) -> str:
    manifest: dict[str, Any] = figure.manifest
    lines = "".join(f"- [{path.name}](path:{links.copy(path)})\n" for path in figure.files)
    return f"## Files of this figure\n\nMade with hatlab {manifest['hatlab']}; `manifest.json` has the rest.\n\n{lines}"
