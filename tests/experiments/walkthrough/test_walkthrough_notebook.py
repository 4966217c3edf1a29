"""01_walkthrough.ipynb and what tools/classroom.py makes of it: a version for students, and one with solutions."""

import os
import runpy
import sys
import tomllib

import nbformat
import pandas as pd
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from test_notebooks import execute, n_images

from hatlab.support.paths import home

pytestmark = pytest.mark.filterwarnings("ignore:.*IPython:DeprecationWarning")

NAME = "01_walkthrough.ipynb"
TOOL = runpy.run_path(str(home() / "tools" / "classroom.py"), run_name="classroom")
SMALL = {"seeds": [0], "cs": [0, 0.75, 2.5], "widths": [100, 100], "max_epochs": 25}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return execute(NAME, folder, **SMALL), folder


def printed(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_it_shows_what_its_text_says(executed):
    notebook, folder = executed
    text = printed(notebook)
    first, second = "0 and 1: 100% right after they were learnt", "0 and 1: 0% after 2 and 3 were learnt"
    assert text.index(first) < text.index(second)  # in two cells, so that one can be asked for the second
    assert "most that was lost on a task after it was learnt: 0.0 points" in text
    accuracy = pd.read_parquet(folder / "interactive" / "walkthrough" / "accuracy.parquet")
    last = accuracy[accuracy["after_task"] == 4].groupby("method")["accuracy"].mean()
    assert last.filter(like="HAT").item() > last.filter(like="SGD").item()  # lines bend down, or are level
    hat = accuracy[accuracy["method"].str.startswith("HAT")].groupby(["run", "task"])["accuracy"]
    assert (hat.max() - hat.min()).max() < 0.03
    assert text.count("authors: tensor([99.0066, 99.9975, 99.9975,  0.0000])") == 1  # an open unit gets nothing
    assert "original: c R = 0.1875\ncross: c R = 0.2812" in text  # 0.75 / 4, 0.75 * 3 / 8


def test_its_solutions_are_right_and_its_pictures_are_there(executed):
    notebook, folder = executed
    assert printed(notebook).count("Right: ") == 9
    assert n_images(notebook) == 12
    names = {path.stem for path in (folder / "interactive" / "walkthrough").glob("*.png")}
    assert len(names) == 8 and {path.suffix for path in (folder / "interactive" / "walkthrough").iterdir()} >= {".pdf"}


def test_sliders_have_a_picture_for_where_there_is_no_kernel(executed):
    notebook, _ = executed
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    sliders = [data for data in outputs if "application/vnd.jupyter.widget-view+json" in data]
    assert len(sliders) == 3 and all("image/png" in data for data in sliders)


def test_every_symbol_is_introduced_before_it_is_used_in_code_or_text():
    """The order of first mentions follows the order of sections."""
    source = nbformat.read(home() / "notebooks" / NAME, as_version=4)
    text = "\n".join(cell.source for cell in source.cells if cell.cell_type == "markdown")
    order = [
        r"*embedding* $e$",
        r"*slope* $s$",
        r"*annealed*",
        "*cumulative mask*",
        "*regularizer*",
        "*compressibility* $c$",
    ]
    places = [text.index(name) for name in order]
    assert places == sorted(places)
    assert "$c\\," not in text[: text.index(r"*compressibility* $c$") - 60] and "$e" not in text[: places[0]]


# --- the versions for a class -----------------------------------------------------------------------------------------


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
    assert n == source.count("solution") == source.count("check") == 8
    student, solutions = tags(versions["student"]), tags(versions["solutions"])
    assert student.count("exercise") + 1 == student.count("raises-exception") == n + 1  # what needs the answers, too
    assert "solution" not in student
    assert solutions.count("solution") == n and "exercise" not in solutions and "raises-exception" not in solutions
    assert "teacher" not in student + solutions and student.count("parameters") == solutions.count("parameters") == 1


def test_the_version_for_colab_is_the_students_and_installs_hatlab_first(tmp_path, versions):
    url = "https://host.example/name/hatlab"
    *_, colab = TOOL["write"](tmp_path, url)
    student, notebook = nbformat.read(versions["student"], as_version=4), nbformat.read(colab, as_version=4)
    assert notebook.cells[:1] + notebook.cells[2:] == student.cells
    source = notebook.cells[1].source
    compile(TransformerManager().transform_cell(source), "cell", "exec")
    requirement = Requirement(source.split('"')[-2])
    assert (requirement.name, requirement.extras, requirement.url) == ("hatlab", {"notebooks"}, f"git+{url}")
    kernel = {"get_ipython": lambda: pytest.fail("hatlab is there, and is installed again")}
    exec(TransformerManager().transform_cell(source), kernel)


@pytest.mark.parametrize("url", ["", "name/hatlab", "file:///somewhere", 'https://host.example/"; rm -r x'])
def test_what_colab_cannot_install_from_is_refused(url, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["classroom.py", "--colab", url])
    with pytest.raises(SystemExit, match="2"):
        TOOL["main"]()
    refusal = capsys.readouterr().err
    assert repr(url) in refusal and "https://" in refusal


def test_the_tool_says_what_it_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["classroom.py", str(tmp_path)])
    TOOL["main"]()
    assert capsys.readouterr().out.split() == [str(path) for path in sorted(tmp_path.iterdir(), reverse=True)]


def test_binder_installs_what_is_pinned_and_writes_the_versions():
    """The image is built elsewhere; what it is told has to name files that are here."""
    lines = (home() / ".binder" / "postBuild").read_text(encoding="utf-8")
    assert os.access(home() / ".binder" / "postBuild", os.X_OK)
    for name in ("requirements.lock", "tools/classroom.py"):
        assert name in lines and (home() / name).is_file()
    python = (home() / ".binder" / "runtime.txt").read_text(encoding="utf-8").strip().removeprefix("python-")
    project = tomllib.loads((home() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert SpecifierSet(project["requires-python"]).contains(f"{python}.0")
    assert "notebooks" in project["optional-dependencies"]


def run(path, folder):
    """As "Run All" does: it goes on after a cell that may raise."""
    notebook = nbformat.read(path, as_version=4)
    place = next(k for k, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    values = {"results": str(folder), **SMALL}
    setting = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(setting))
    return NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


def test_solutions_pass_and_the_student_version_fails_only_at_the_exercises(versions, executed):
    solved = run(versions["solutions"], executed[1])
    assert printed(solved).count("Right: ") == 9
    open_ = run(versions["student"], executed[1])
    failed = [cell for cell in open_.cells if any(output.output_type == "error" for output in cell.get("outputs", []))]
    *checks, loop = failed
    assert len(checks) == 8 and all("check" in cell.metadata.tags for cell in checks)
    assert "needs-answers" in loop.metadata.tags
    errors = [output for cell in checks for output in cell.outputs if output.output_type == "error"]
    assert {error.ename for error in errors} == {"NotYet"}
    assert all("\n".join(error.traceback).startswith("Not yet. ") for error in errors)
    assert "Right: " not in printed(open_)
