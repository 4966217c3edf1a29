"""01_walkthrough.ipynb and what tools/classroom.py makes of it: a version for students, and one with solutions."""

import inspect
import os
import re
import runpy
import sys
import tomllib

import nbformat
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from test_notebooks import execute, n_images

from hatlab.experiments.walkthrough import cases, exercises
from hatlab.experiments.walkthrough.exercises import NotYet
from hatlab.experiments.walkthrough.grading import EXERCISES
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
    kinds = ("student", "solutions", "grader", "nbgrader", "otter")
    assert [path.name for path in written] == [f"01_walkthrough_{kind}.ipynb" for kind in kinds]
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
    assert sorted(capsys.readouterr().out.split()) == [str(path) for path in sorted(tmp_path.iterdir())]


def test_graders_read_every_hint_and_every_solution(versions):
    notebook = nbformat.read(versions["grader"], as_version=4)
    told = [cell.source for cell in notebook.cells if cell.source.startswith("**For graders: exercise ")]
    assert len(told) == 8 and tags(versions["grader"]).count("solution") == 8
    for name, text in zip(EXERCISES[:-1], told, strict=False):
        assert f"(`{name}`) counts one point" in text and all(f"- {hint}\n" in text for hint in cases.hints(name))
    assert "hatlab.method.loop" in told[-1]


def test_nbgrader_has_a_solution_and_a_locked_point_for_each_exercise(versions):
    cells = nbformat.read(versions["nbgrader"], as_version=4).cells
    marked = [cell for cell in cells if "nbgrader" in cell.metadata]
    answers, checks = marked[::2], marked[1::2]
    assert [cell.metadata.nbgrader.grade_id for cell in answers] == list(EXERCISES)
    for answer, check in zip(answers, checks, strict=True):
        assert answer.metadata.nbgrader.solution and not answer.metadata.nbgrader.grade
        assert check.metadata.nbgrader.grade and check.metadata.nbgrader.locked and check.metadata.nbgrader.points == 1
        left = re.sub(r"### BEGIN SOLUTION.*### END SOLUTION", "", answer.source, flags=re.DOTALL)
        assert "..." in left and "check_" in check.source


def test_otter_has_a_question_a_prompt_and_a_check_that_can_fail_for_each_exercise(versions):
    cells = nbformat.read(versions["otter"], as_version=4).cells
    assert cells[0].source.startswith("# ASSIGNMENT CONFIG") and "ok_format: false" in cells[0].source
    begins = [k for k, cell in enumerate(cells) if cell.cell_type == "raw" and "# BEGIN QUESTION" in cell.source]
    names: dict[str, object] = {"torch": torch, "nn": torch.nn}
    for name, k in zip(EXERCISES, begins, strict=True):
        assert f"name: {name}\npoints: 1" in cells[k].source
        raw = [cell.source.splitlines()[0] for cell in cells[k : k + 8] if cell.cell_type == "raw"]
        assert raw == [
            f"# {edge}"
            for edge in ("BEGIN QUESTION", "BEGIN SOLUTION", "END SOLUTION", "BEGIN TESTS", "END TESTS", "END QUESTION")
        ]
        solved, check = cells[k + 2].source, cells[k + 5].source
        assert solved.index("# END SOLUTION") < solved.index("...") < solved.index("# END PROMPT")
        if name == "training":
            continue  # as the others, and takes seconds
        exec(solved, names)
        exec(check, names)
        asked = inspect.signature(names["check"]).parameters
        names["check"](*(names[argument] for argument in asked))
        with pytest.raises(NotYet):
            names["check"](*(... for _ in asked))


@given(name=st.from_regex(TOOL["NAME"], fullmatch=True), seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_numbers_of_a_student_are_always_the_same_and_tell_mistakes_apart(name, seed):
    numbers = cases.numbers_for(name, seed)
    assert numbers == cases.numbers_for(name, seed) and len(numbers.p) == len(numbers.m) == 7
    p, m, read, reading = (torch.tensor(v, dtype=torch.float64) for v in (numbers.p, numbers.m, *numbers[3:]))
    asked = [cases.of_costs(mode, p, m, numbers.c) for mode in ("original", "cross")]
    for case in [*asked, cases.of_weights(read, reading, cases.N_INPUTS)]:
        answers = [round(float(value), 6) for value in (case.right, *case.mistakes.values())]
        assert len(set(answers)) == len(answers) and 0 not in answers


def test_students_have_other_numbers():
    everybody = [cases.numbers_for(f"student{k}", 1) for k in range(30)]
    costs = {(sum(n.p), sum(n.m), n.c) for n in everybody}
    assert len(set(everybody)) == 30 and len(costs) > 20 and cases.numbers_for("student0", 2) not in everybody


def test_a_students_own_copy_asks_and_solves_with_the_same_numbers():
    source = nbformat.read(home() / "notebooks" / "01_walkthrough.ipynb", as_version=4)
    own, numbers = TOOL["personal"](source, "ada", 7), cases.numbers_for("ada", 7)
    assert own.metadata.hatlab == {"student": "ada"} and own.cells != source.cells
    text = "\n".join(cell.source for cell in own.cells)
    for name, values in ("$p$", numbers.p), ("$m$", numbers.m):
        assert f"| {name} | {' | '.join(map(str, values))} |" in text
    names: dict[str, object] = {"torch": torch, "exercises": exercises}
    for cell in own.cells:  # the solutions pass the checks, all of them in the copy
        kind = cell.metadata.get("tags", [])
        if ("solution" in kind or "check" in kind) and ("costs" in cell.source or "weights_in_use" in cell.source):
            exec(cell.source, names)
    assert names["original_costs"] != 0.75 or names["cross_costs"] != 0.875 or names["weights_in_use"] != 198


def test_an_older_walkthrough_has_no_place_for_a_students_numbers():
    source = nbformat.read(home() / "notebooks" / "01_walkthrough.ipynb", as_version=4)
    source.cells = source.cells[:40]
    with pytest.raises(ValueError, match="no longer what a student's numbers are put in the place of"):
        TOOL["personal"](source, "ada", 7)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no names"),
        ("ada\n../ben", "'../ben' is no name for a file"),
        ("ada\nben\nAda\n", "names 'Ada' twice"),
        (None, "No such file"),
    ],
)
def test_a_list_of_students_that_cannot_be_used_is_refused(tmp_path, monkeypatch, capsys, text, told):
    if text is not None:
        (tmp_path / "names").write_text(text)
    monkeypatch.setattr(
        sys, "argv", ["classroom.py", str(tmp_path / "out"), "--students", str(tmp_path / "names"), "--seed", "1"]
    )
    with pytest.raises(SystemExit, match="2"):
        TOOL["main"]()
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_students_without_a_seed_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["classroom.py", "--students", "names"])
    with pytest.raises(SystemExit, match="2"):
        TOOL["main"]()
    assert "--students and --seed are given together" in capsys.readouterr().err


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
