"""Write what a class gets: the walkthrough for students, solved, for graders, and as nbgrader and Otter-Grader read it.

    python tools/classroom.py [FOLDER] [--colab URL] [--students FILE --seed N]

Every notebook in notebooks/ that has exercises is written to FOLDER, by default results/classroom/. One source has it
all. A cell's tag says what it is: `exercise` is where the answer goes, `solution` an answer, `check` looks at it,
`needs-answers` computes with it, `teacher` is for neither version. With --students, a file with a name in each line,
each student gets a copy in FOLDER/students/ whose exercises 6 and 7 have numbers of its own, drawn from name and seed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import nbformat
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode

from hatlab.experiments.walkthrough import cases
from hatlab.experiments.walkthrough.grading import EXERCISES
from hatlab.support.files import atomic
from hatlab.support.paths import checkout, results_root

LEFT_OUT: Final = {"student": {"solution", "teacher"}, "solutions": {"exercise", "teacher"}}  # version -> tags left out
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # becomes part of a file's name
INSTALL: Final = """\
# Installs hatlab where it is missing, as on Colab; it may take a minute.
from importlib.util import find_spec

if find_spec("hatlab") is None:
    %pip install --quiet "hatlab[notebooks] @ git+{url}"
"""


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def version_of(notebook: NotebookNode, version: str) -> NotebookNode:
    """Return a copy of `notebook` as the `version` has it.

    In the students' version a check that fails, or what needs an answer, does not stop "Run All".
    """
    left_out = LEFT_OUT[version]
    kept, _ = TagRemovePreprocessor(remove_cell_tags=left_out).preprocess(nbformat.from_dict(notebook), {})
    for cell in kept.cells:
        if version == "student" and {"check", "needs-answers"} & tags(cell):
            cell.metadata["tags"] = [*cell.metadata["tags"], "raises-exception"]
    return kept


def for_colab(notebook: NotebookNode, url: str) -> NotebookNode:
    """Return a copy of `notebook` that begins by installing hatlab from the repository at `url`."""
    copy = nbformat.from_dict(notebook)
    copy.cells.insert(1, nbformat.v4.new_code_cell(INSTALL.format(url=url), id="install"))
    return copy


def questions(notebook: NotebookNode) -> list[tuple[str, int, int, int]]:
    """Return each exercise with the places of its cells: (name, exercise, solution, check)."""
    found = []
    for place, cell in enumerate(notebook.cells):
        names = [name for name in EXERCISES if f"exercise-{name}" in tags(cell)]
        if names:
            after = range(place + 1, len(notebook.cells))
            solution, check = (
                next(k for k in after if tag in tags(notebook.cells[k])) for tag in ("solution", "check")
            )
            found.append((names[0], place, solution, check))
    return found


# --- for graders ------------------------------------------------------------------------------------------------------


def for_graders(notebook: NotebookNode) -> NotebookNode:
    """Return the solved version with what an exercise counts, and the mistakes that its check names, after each."""
    copy = nbformat.from_dict(notebook)
    for number, (name, _, _, check) in reversed(list(enumerate(questions(copy), start=1))):
        told = f"**For graders: exercise {number} (`{name}`) counts one point, for a check that says Right.** "
        if name == EXERCISES[-1]:
            told += "The check compares every weight, embedding and mask with those of `hatlab.method.loop`."
        else:
            told += "No point, and told so:\n\n" + "".join(f"- {hint}\n" for hint in cases.hints(name))
        copy.cells.insert(check + 1, nbformat.v4.new_markdown_cell(told, id=f"graders-{name}"))
    return version_of(copy, "solutions")


def common_and_own(stub: str, solution: str) -> tuple[str, str, str]:
    """Return the lines that both begin with, and what is left of each."""
    ours, theirs = stub.splitlines(), solution.splitlines()
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same] == theirs[same] and not ours[0].startswith("def "):
        same += 1
    return "\n".join(ours[:same]), "\n".join(ours[same:]), "\n".join(theirs[same:])


def for_nbgrader(notebook: NotebookNode) -> NotebookNode:
    """Return the source version of nbgrader: an answer cell with its solution marked, and a locked check of one point.

    What a student is given to begin with stands there as a comment, since nbgrader has one stub for all cells.
    """

    def graded(cell: NotebookNode, name: str, check: bool) -> None:
        cell.metadata["nbgrader"] = {
            "grade_id": f"check-{name}" if check else name, "schema_version": 3, "task": False,
            "grade": check, "solution": not check, "locked": check,
        } | ({"points": 1} if check else {})  # fmt: skip

    copy = nbformat.from_dict(notebook)
    for name, exercise, solution, check in questions(copy):
        same, stub, solved = common_and_own(copy.cells[exercise].source, copy.cells[solution].source)
        begun = "".join(f"# {line}\n" for line in stub.splitlines())
        copy.cells[solution].source = f"{same}\n{begun}### BEGIN SOLUTION\n{solved}\n### END SOLUTION".lstrip("\n")
        graded(copy.cells[solution], name, check=False)
        graded(copy.cells[check], name, check=True)
    return version_of(copy, "solutions")


def for_otter(notebook: NotebookNode) -> NotebookNode:
    """Return what `otter assign` reads: each exercise as a question of one point, with its prompt and its check."""

    def raw(text: str) -> NotebookNode:
        return nbformat.v4.new_raw_cell(text, id=re.sub(r"[^a-z]+", "-", text.lower())[:60].strip("-"))

    copy = nbformat.from_dict(notebook)
    for name, exercise, solution, check in reversed(questions(copy)):
        stub, solved, checking = (copy.cells[place] for place in (exercise, solution, check))
        same, begun, answer = common_and_own(stub.source, solved.source)
        bound = [line.partition("(")[0].removeprefix("def ") for line in answer.splitlines() if line.startswith("def ")]
        names = bound or re.findall(r"^(\w+) = ", answer, re.MULTILINE)
        parts = [same, "# BEGIN SOLUTION NO PROMPT", answer, "# END SOLUTION"]
        solved.source = "\n".join([*parts, '""" # BEGIN PROMPT', begun, '""" # END PROMPT']).lstrip("\n")
        body = [same, *(line for line in checking.source.splitlines() if "import" not in line)]
        lines = ["import torch", "from hatlab.experiments.walkthrough import exercises", *filter(None, body)]
        checking.source = f"def check({', '.join(names)}):\n" + "\n".join(f"    {line}" for line in lines)
        copy.cells[exercise : check + 1] = [
            raw(f"# BEGIN QUESTION\nname: {name}\npoints: 1"), raw(f"# BEGIN SOLUTION\n# of {name}"), solved,
            raw(f"# END SOLUTION\n# of {name}"), raw(f"# BEGIN TESTS\n# of {name}"), checking,
            raw(f"# END TESTS\n# of {name}"), raw(f"# END QUESTION\n# of {name}"),
        ]  # fmt: skip
    copy.cells.insert(0, raw("# ASSIGNMENT CONFIG\nexport_cell: false\ntests:\n    ok_format: false"))
    return version_of(copy, "solutions")


# --- numbers for each student -----------------------------------------------------------------------------------------


def personal(notebook: NotebookNode, student: str, seed: int) -> NotebookNode:
    """Return a copy whose exercises 6 and 7 have the numbers of `student`, whom its metadata names."""
    new, common = cases.numbers_for(student, seed), cases.COMMON
    copy = nbformat.from_dict(notebook)
    copy.metadata["hatlab"] = {"student": student}
    free, used = new.p.count(0), new.p.count(1)
    taken = sum(m for m, p in zip(new.m, new.p, strict=True) if not p)
    reused = sum(new.m) - taken
    changes = {
        f"$c = {common.c}$": f"$c = {new.c}$",
        f"c={common.c})": f"c={new.c})",
        row("$p$", common.p): row("$p$", new.p),
        row("$m$", common.m): row("$m$", new.m),
        "p, m = torch.tensor([1.0, 1, 1, 0, 0, 0, 0]), torch.tensor([1.0, 1, 0, 1, 0, 0, 0])": (
            f"p, m = torch.tensor({list(map(float, new.p))}), torch.tensor({list(map(float, new.m))})"
        ),
        "original_costs = 3 * 1 / 4\ncross_costs = 3 * (1 / 4 + (1 - 2 / 3)) / 2": (
            f"original_costs = {new.c} * {taken} / {free}\n"
            f"cross_costs = {new.c} * ({taken} / {free} + (1 - {reused} / {used})) / 2"
        ),
        "read, reading = torch.tensor([0.9, 1.0, 0.0, 0.2, 1.0]), torch.tensor([1.0, 0.0, 0.7, 0.1, 0.0])": (
            f"read, reading = torch.tensor({list(map(float, new.read))}), torch.tensor({list(map(float, new.reading))})"
        ),
    }
    whole = "\n".join(cell.source for cell in copy.cells)
    if lost := [old for old in changes if old not in whole]:
        raise ValueError(f"the walkthrough has no longer what a student's numbers are put in the place of: {lost[0]!r}")
    for cell in copy.cells:
        for old, its in changes.items():
            cell.source = cell.source.replace(old, its)
    return copy


def row(name: str, values: Sequence[int]) -> str:
    """A row of exercise 6's table."""
    return f"| {name} | {' | '.join(map(str, values))} |"


def names_in(path: Path) -> list[str]:
    """Return the names in `path`, one in each line that is not empty.

    Raises:
        ValueError: none, one twice, or one that cannot be part of a file's name on every system.
    """
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path} has no names: one is wanted in each line")
    if wrong := [name for name in names if not NAME.fullmatch(name)]:
        raise ValueError(f"{path}: {wrong[0]!r} is no name for a file: letters, digits, '.', '_' and '-' are allowed")
    if twice := [name for k, name in enumerate(names) if name.lower() in {other.lower() for other in names[:k]}]:
        raise ValueError(f"{path} names {twice[0]!r} twice")
    return names


# --- files ------------------------------------------------------------------------------------------------------------


def write(folder: Path, colab: str | None = None, students: Sequence[str] = (), seed: int = 0) -> list[Path]:
    """Write all versions of every notebook that has exercises, and return where they are.

    Args:
        folder: made if missing; older versions in it are replaced.
        colab: address of a repository that Colab can reach; with it the students' version is written for Colab, too.
        students: who gets a copy with numbers of their own, drawn from `seed`.
    """
    written = []
    for path in sorted((checkout() / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if not any("exercise" in tags(cell) for cell in notebook.cells):
            continue
        versions: dict[str, Callable[[], NotebookNode]] = {
            "student": lambda it=notebook: version_of(it, "student"),
            "solutions": lambda it=notebook: version_of(it, "solutions"),
            "grader": lambda it=notebook: for_graders(it),
            "nbgrader": lambda it=notebook: for_nbgrader(it),
            "otter": lambda it=notebook: for_otter(it),
        }
        if colab:
            versions["colab"] = lambda it=notebook: for_colab(version_of(it, "student"), colab)
        contents = {folder / f"{path.stem}_{version}.ipynb": make() for version, make in versions.items()}
        for student in students:
            own = version_of(personal(notebook, student, seed), "student")
            contents[folder / "students" / f"{path.stem}_{student}.ipynb"] = own
        for target, content in contents.items():
            target.parent.mkdir(parents=True, exist_ok=True)
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
    parser = argparse.ArgumentParser(description="Write the notebooks of a class.")
    parser.add_argument("folder", nargs="?", type=Path, help="where to (default: results/classroom)")
    parser.add_argument("--colab", metavar="URL", type=address, help="repository to install from on Colab")
    parser.add_argument("--students", metavar="FILE", type=Path, help="a name in each line: a copy for each")
    parser.add_argument(
        "--seed", type=int, help="what each student's numbers are drawn from; class-report needs it, too"
    )
    options = parser.parse_args()
    if (options.students is None) != (options.seed is None):
        parser.error("--students and --seed are given together")
    try:
        students = names_in(options.students) if options.students else []
    except (OSError, ValueError) as error:
        parser.error(f"--students: {error}")
    for target in write(options.folder or results_root() / "classroom", options.colab, students, options.seed or 0):
        print(target)


if __name__ == "__main__":
    main()
