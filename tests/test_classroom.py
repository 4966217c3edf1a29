"""tools/classroom.py: one source, a version for students and one with solutions."""

import runpy

import nbformat
import pytest
from nbclient import NotebookClient
from test_notebook_01 import SMALL, printed

from hatlab.paths import home

TOOL = runpy.run_path(str(home() / "tools" / "classroom.py"), run_name="classroom")

pytestmark = pytest.mark.filterwarnings("ignore:.*IPython:DeprecationWarning")


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classroom")
    written = TOOL["write"](folder)
    assert [path.name for path in written] == ["01_walkthrough_student.ipynb", "01_walkthrough_solutions.ipynb"]
    return {path.stem.rpartition("_")[2]: path for path in written}


def tags(path):
    return [tag for cell in nbformat.read(path, as_version=4).cells for tag in cell.metadata.get("tags", [])]


def test_each_version_has_what_it_should(versions):
    source = tags(home() / "notebooks" / "01_walkthrough.ipynb")
    n = source.count("exercise")
    assert n == source.count("solution") == source.count("check") == 5
    student, solutions = tags(versions["student"]), tags(versions["solutions"])
    assert student.count("exercise") == student.count("raises-exception") == n and "solution" not in student
    assert solutions.count("solution") == n and "exercise" not in solutions and "raises-exception" not in solutions
    assert "teacher" not in student + solutions and student.count("parameters") == solutions.count("parameters") == 1


def run(path, folder):
    """As "Run All" does: it goes on after a cell that may raise."""
    notebook = nbformat.read(path, as_version=4)
    place = next(k for k, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    values = {"results": str(folder), **SMALL}
    setting = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(setting))
    return NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


def test_solutions_pass_and_the_student_version_fails_only_at_the_exercises(versions, tmp_path):
    solved = run(versions["solutions"], tmp_path)
    assert printed(solved).count("Right: ") == 6
    open_ = run(versions["student"], tmp_path)  # the same results folder: what is trained is loaded
    failed = [cell for cell in open_.cells if any(output.output_type == "error" for output in cell.get("outputs", []))]
    assert len(failed) == 5 and all("check" in cell.metadata.tags for cell in failed)
    errors = [output for cell in failed for output in cell.outputs if output.output_type == "error"]
    assert {error.ename for error in errors} == {"NotYet"}
    assert all("\n".join(error.traceback).startswith("Not yet. ") for error in errors)
    assert "Right: " not in printed(open_)
