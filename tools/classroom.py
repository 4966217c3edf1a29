"""Write what a class gets: notebooks without solutions for students, and with solutions in place of exercises.

    python tools/classroom.py [FOLDER]     notebooks/ with exercises -> FOLDER, by default results/classroom/

One source has both. A cell's tag says what it is: `exercise` is where the answer goes, `solution` an answer, `check`
looks at it, `teacher` is for neither version.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import nbformat
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode

from hatlab.files import atomic
from hatlab.paths import home, results_root

VERSIONS: Final = {"student": {"solution", "teacher"}, "solutions": {"exercise", "teacher"}}  # version -> tags left out


def version_of(notebook: NotebookNode, version: str) -> NotebookNode:
    """Return a copy of `notebook` as the `version` has it.

    In the students' version a check that fails does not stop "Run All": what follows does not need the answer.
    """
    kept, _ = TagRemovePreprocessor(remove_cell_tags=VERSIONS[version]).preprocess(nbformat.from_dict(notebook), {})
    for cell in kept.cells:
        tags = cell.metadata.get("tags", [])
        if version == "student" and "check" in tags:
            cell.metadata["tags"] = [*tags, "raises-exception"]
    return kept


def write(folder: Path) -> list[Path]:
    """Write both versions of every notebook that has exercises, and return where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted((home() / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if not any("exercise" in cell.metadata.get("tags", []) for cell in notebook.cells):
            continue
        for version in VERSIONS:
            target = folder / f"{path.stem}_{version}.ipynb"
            with atomic(target) as temporary:
                temporary.write_text(nbformat.writes(version_of(notebook, version)), encoding="utf-8")
            written.append(target)
    return written


if __name__ == "__main__":
    for target in write(Path(sys.argv[1]) if len(sys.argv) > 1 else results_root() / "classroom"):
        print(target)
