"""The pages of the reference: one a module, in the order in which modules know each other."""

from __future__ import annotations

import inspect
from importlib import import_module

__all__ = ["MODULES", "contents", "page"]

MODULES = {
    "From a config to a run": (
        "config", "datasets", "tasks", "attention", "regularizer", "networks", "protection", "training", "records",
        "runs",
    ),
    "From runs to figures": (
        "capacity", "masks", "metrics", "comparisons", "summary", "task_capacity", "ablation", "findings", "forgetting",
        "reuse", "compression", "shrinking", "precision", "verdicts", "figures", "artifacts",
    ),
    "Many notebooks": ("grids", "batches", "reproduce"),
}  # fmt: skip


def page(module: str) -> str:
    """Return the page of a module as reStructuredText: its docstring, and what its `__all__` names."""
    title = f"hatlab.{module}"
    return f"{title}\n{'=' * len(title)}\n\n.. automodule:: {title}\n   :members:\n"


def contents() -> str:
    """Return the list of modules as Markdown, each with the first paragraph of its docstring."""
    text = ""
    for heading, modules in MODULES.items():
        text += f"## {heading}\n\n| module | is about |\n| --- | --- |\n"
        for module in modules:
            says = (inspect.getdoc(import_module(f"hatlab.{module}")) or "").partition("\n\n")[0].replace("\n", " ")
            text += f"| [{module}](hatlab.{module}.rst) | {says} |\n"
        entries = "".join(f"hatlab.{module}\n" for module in modules)
        text += f"\n```{{toctree}}\n:hidden:\n\n{entries}```\n\n"
    return text
