"""Write what a class gets: notebooks without solutions for students, and with solutions in place of exercises.

    python tools/classroom.py [FOLDER] [--colab URL]

Every notebook in notebooks/ that has exercises is written to FOLDER, by default results/classroom/. One source has it
all. A cell's tag says what it is: `exercise` is where the answer goes, `solution` an answer, `check` looks at it,
`needs-answers` computes with it, `teacher` is for neither version.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import nbformat
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode

from hatlab.support.files import atomic
from hatlab.support.paths import checkout, results_root

VERSIONS: Final = {"student": {"solution", "teacher"}, "solutions": {"exercise", "teacher"}}  # version -> tags left out
INSTALL: Final = """\
# Installs hatlab where it is missing, as on Colab; it may take a minute.
from importlib.util import find_spec

if find_spec("hatlab") is None:
    %pip install --quiet "hatlab[notebooks] @ git+{url}"
"""


def version_of(notebook: NotebookNode, version: str) -> NotebookNode:
    """Return a copy of `notebook` as the `version` has it.

    In the students' version a check that fails, or what needs an answer, does not stop "Run All".
    """
    kept, _ = TagRemovePreprocessor(remove_cell_tags=VERSIONS[version]).preprocess(nbformat.from_dict(notebook), {})
    for cell in kept.cells:
        tags = cell.metadata.get("tags", [])
        if version == "student" and {"check", "needs-answers"} & set(tags):
            cell.metadata["tags"] = [*tags, "raises-exception"]
    return kept


def for_colab(notebook: NotebookNode, url: str) -> NotebookNode:
    """Return a copy of `notebook` that begins by installing hatlab from the repository at `url`."""
    copy = nbformat.from_dict(notebook)
    copy.cells.insert(1, nbformat.v4.new_code_cell(INSTALL.format(url=url), id="install"))
    return copy


def write(folder: Path, colab: str | None = None) -> list[Path]:
    """Write all versions of every notebook that has exercises, and return where they are.

    Args:
        folder: made if missing; older versions in it are replaced.
        colab: address of a repository that Colab can reach; with it the students' version is written for Colab, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted((checkout() / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if not any("exercise" in cell.metadata.get("tags", []) for cell in notebook.cells):
            continue
        versions = {version: version_of(notebook, version) for version in VERSIONS}
        if colab:
            versions["colab"] = for_colab(versions["student"], colab)
        for version, content in versions.items():
            target = folder / f"{path.stem}_{version}.ipynb"
            with atomic(target) as temporary:
                temporary.write_text(nbformat.writes(content), encoding="utf-8")
            written.append(target)
    return written


def address(url: str) -> str:
    """Return `url` if it is one that pip can install from on another machine.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    if not url.startswith("https://") or any(character in url for character in " \t\"'\\{}$"):
        raise argparse.ArgumentTypeError(f"{url!r}: needed is the https:// address of a repository with hatlab")
    return url


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the students' and the solved notebooks of a class.")
    parser.add_argument("folder", nargs="?", type=Path, help="where to (default: results/classroom)")
    parser.add_argument("--colab", metavar="URL", type=address, help="repository to install from on Colab")
    options = parser.parse_args()
    for target in write(options.folder or results_root() / "classroom", options.colab):
        print(target)


if __name__ == "__main__":
    main()
