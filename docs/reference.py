"""The pages of the reference: one a module, package by package, in the order in which they know each other."""

from __future__ import annotations

import inspect
from importlib import import_module

__all__ = ["MODULES", "contents", "page"]

MODULES = {
    "The config": ("config",),
    "The method": (
        "method.gate",
        "method.regularizer",
        "method.protection",
        "method.networks",
        "method.updates",
        "method.loop",
        "method.capacity",
    ),
    "Data and tasks": (
        "data.datasets",
        "data.tasks",
    ),
    "Training": (
        "training.trainer",
        "training.runs",
        "training.custom",
        "training.records",
    ),
    "Analysis": (
        "analysis.metrics",
        "analysis.comparisons",
        "analysis.verdicts",
        "analysis.masks",
        "analysis.store",
        "analysis.summary",
    ),
    "Experiments": (
        "experiments.capacity_usage.tables",
        "experiments.capacity_usage.claims",
        "experiments.capacity_usage.figures",
        "experiments.cross_ablation.tables",
        "experiments.cross_ablation.claims",
        "experiments.cross_ablation.figures",
        "experiments.forgetting.tables",
        "experiments.forgetting.transfer",
        "experiments.forgetting.claims",
        "experiments.forgetting.figures",
        "experiments.weight_reuse.tables",
        "experiments.weight_reuse.claims",
        "experiments.weight_reuse.figures",
        "experiments.compression.tables",
        "experiments.compression.claims",
        "experiments.compression.figures",
        "experiments.compression.pruning",
        "experiments.precision.tables",
        "experiments.precision.trajectories",
        "experiments.precision.claims",
        "experiments.precision.figures",
        "experiments.walkthrough.figures",
        "experiments.walkthrough.grading",
    ),
    "Many notebooks": (
        "batches.grids",
        "batches.batches",
        "batches.reproduce",
        "batches.verify",
        "batches.compare",
        "batches.export",
    ),
    "Support": ("support.artifacts",),
}


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
