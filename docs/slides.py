"""`python -m docs.slides`: the walkthrough as slides for a projector, into results/slides.

The slides are the committed executed notebook. What becomes of a cell, the start of a slide or nothing at all, is said
by its "Slide Type" in JupyterLab; the tag `slides-picture` shows a cell's output alone, `slides-code` its code alone.
Nothing is executed.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
from pathlib import Path
from typing import Final

import nbformat
import sphinx_revealjs
from latex2mathml.converter import convert
from nbconvert.exporters import SlidesExporter
from nbformat import NotebookNode
from traitlets.config import Config

from docs.committed import ROOT, CommittedFigure, committed_figures
from docs.notebooks import alternative_texts, saved_files
from hatlab.support.files import atomic
from hatlab.support.paths import results_root

__all__ = ["write"]

REVEAL: Final = Path(sphinx_revealjs.__file__).parent / "_static" / "revealjs"  # the package brings a copy along
THEME: Final = "serif"  # the one that fetches no font; _slides/slides.css has its own
USED: Final = ("LICENSE", "dist/reveal.css", "dist/reveal.js", f"dist/theme/{THEME}.css", "plugin/notes/notes.js")
FORMULA: Final = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)


def write(folder: Path) -> list[Path]:
    """Write the slides of every committed notebook that has any, reveal.js beside them; return the pages."""
    for name in USED:
        (folder / "reveal.js" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REVEAL / name, folder / "reveal.js" / name)
    written = []
    for figure in committed_figures():
        if not any("slideshow" in cell["metadata"] for cell in figure.cells):
            continue
        target = folder / f"{figure.notebook.stem}.slides.html"
        with atomic(target) as temporary:
            temporary.write_text(_page(figure), encoding="utf-8")
        written.append(target)
    return written


def _page(figure: CommittedFigure) -> str:
    notebook: NotebookNode = nbformat.read(figure.notebook, as_version=4)
    notebook.metadata.pop("widgets", None)  # nothing on a slide is connected to a kernel
    texts, files = alternative_texts(figure), saved_files(figure)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(_as_mathml, cell.source)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.metadata["image/png"] = {"alt": texts[number]}
                if number in files:  # the same, sharp enough for a projector
                    saved = (figure.folder / f"{files[number]}.png").read_bytes()
                    output.data["image/png"] = base64.b64encode(saved).decode()
    page, _ = SlidesExporter(config=_config()).from_notebook_node(notebook, {"metadata": {"name": figure.title}})
    return str(page)


def _config() -> Config:
    return Config(
        NbConvertBase={"display_data_priority": ["image/png", "text/html", "text/markdown", "text/plain"]},
        SlidesExporter={
            "template_name": "_slides",
            "extra_template_basedirs": [str(ROOT / "docs")],
            "reveal_url_prefix": "reveal.js",
            "reveal_theme": THEME,
            "reveal_width": "1280",
            "reveal_height": "800",
        },
        TagRemovePreprocessor={
            "enabled": True,
            "remove_cell_tags": {"injected-parameters"},  # what papermill writes in
            "remove_input_tags": {"slides-picture"},
            "remove_all_outputs_tags": {"slides-code"},
        },
    )


def _as_mathml(formula: re.Match[str]) -> str:
    display, inline = formula.groups()
    return str(convert(display, display="block") if display else convert(inline))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.slides", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the pages (default: results/slides)")
    for page in write(parser.parse_args().out or results_root() / "slides"):
        print(page)


if __name__ == "__main__":
    main()
