"""Returned notebooks: solved, half solved, empty, forged, endless, greedy, broken, of another version, no notebook."""

import json
import runpy

import nbformat
import pandas as pd
import pytest
from click.testing import CliRunner

from hatlab.cli.main import cli
from hatlab.experiments.walkthrough import grading
from hatlab.experiments.walkthrough.grading import EXERCISES
from hatlab.support.paths import home

TOOL = runpy.run_path(str(home() / "tools" / "classroom.py"), run_name="classroom")
SOURCE = nbformat.read(home() / "notebooks" / "01_walkthrough.ipynb", as_version=4)
SOLUTIONS = dict(
    zip(EXERCISES, [c.source for c in SOURCE.cells if "solution" in c.metadata.get("tags", [])], strict=True)
)


def returned(path, changed=None, right_in=(), drop=()):
    """Write a student's notebook, solved but for what is `changed`; the checks of `right_in` say Right in it."""
    notebook = TOOL["version_of"](SOURCE, "student")
    answers, last = {**SOLUTIONS, **(changed or {})}, ""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "exercise" in tags:
            last = next(name for name in EXERCISES if f"exercise-{name}" in tags)
            cell.source = answers[last]
        if "check" in tags and last in right_in:
            cell.source = "print('Right: of course')"
            cell.outputs = [nbformat.v4.new_output("stream", text="Right: of course\n")]
    names = {f"exercise-{name}" for name in drop}
    notebook.cells = [cell for cell in notebook.cells if not names & set(cell.metadata.get("tags", []))]
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("returned")
    dots = dict.fromkeys(EXERCISES, "pass")
    returned(folder / "ada.ipynb", right_in=EXERCISES)
    returned(folder / "ben.ipynb", {"gate": "def my_gate(e, s):\n    return s * torch.sigmoid(e)"})
    returned(folder / "cem.ipynb", {"gate": "def my_gate(e, s):\n    return s * torch.sigmoid(e)", "weights": "x ="})
    returned(folder / "dee.ipynb", dots)
    returned(folder / "eva.ipynb", {"weights": "weights_in_use = 5"}, right_in=["weights"])
    returned(folder / "fay.ipynb", {"factor": "while True:\n    pass"})
    returned(folder / "gus.ipynb", {"slope": "big = torch.ones(10**11)"})
    returned(folder / "hal.ipynb", drop=["training", "weights"])
    forged = "from hatlab.experiments.walkthrough import exercises\nexercises.check_costs = lambda *a, **k: None\n"
    returned(folder / "ida.ipynb", {"costs": forged + "original_costs = cross_costs = 0"})
    returned(folder / "jan.ipynb", {"slope": "import os\nos._exit(0)"})
    (folder / "kim.ipynb").write_text("not a notebook")
    return folder


@pytest.fixture(scope="module")
def graded(folder):
    return grading.grade(sorted(folder.glob("*.ipynb")), timeout=15, gigabytes=2)


def said(graded, student):
    return graded[graded["student"] == student].set_index("exercise")["said"].to_dict()


def test_solutions_have_all_points(graded):
    assert set(said(graded, "ada").values()) == {"right"}
    table = grading.points(graded)
    assert table.loc["ada", "sum"] == len(EXERCISES) and table.loc["ada", "remark"] == ""


def test_a_mistake_is_named_and_costs_what_depends_on_it(graded):
    found = said(graded, "ben")
    assert found["gate"].startswith("The slope s stands outside") and found["slope"] == "right"
    assert found["training"] != "right"  # the loop calls the gate
    assert "SyntaxError" in said(graded, "cem")["weights"]


def test_what_is_empty_endless_or_greedy_keeps_what_came_before(graded):
    assert set(said(graded, "dee").values()) == {"not answered"} and not grading.points(graded).loc["dee", "sum"]
    fay = said(graded, "fay")
    assert (fay["compensation"], fay["factor"], fay["costs"]) == ("right", "did not end", "not reached")
    gus = said(graded, "gus")
    assert gus["gate"] == "right" and gus["slope"].startswith("ends in an error") and gus["factor"] == "right"
    jan = said(graded, "jan")
    assert (jan["gate"], jan["slope"], jan["factor"]) == ("right", "ended the process", "not reached")


def test_forged_checks_count_for_nothing_and_are_told(graded):
    remarks = graded.groupby("student")["remark"].first()
    assert said(graded, "eva")["weights"].startswith("Units are counted")
    assert "says Right at weights, and it is not: forged?" in remarks["eva"]
    assert said(graded, "ida")["costs"] != "right"


def test_another_version_and_no_notebook_are_told(graded):
    remarks = graded.groupby("student")["remark"].first()
    assert remarks["hal"] == "lacks weights, training: of another version?"
    assert said(graded, "hal")["training"] == "no cell for it" and said(graded, "hal")["costs"] == "right"
    assert remarks["kim"].startswith("kim.ipynb is no notebook: ")


def test_how_many_were_told_what(graded):
    table = grading.misconceptions(graded)
    row = table[table["said"].str.startswith("The slope s stands outside")].iloc[0]
    assert (row["exercise"], row["students"]) == ("gate", 2)
    assert list(table["exercise"].unique()) == [name for name in EXERCISES if name in set(table["exercise"])]


def test_the_command_prints_and_writes_the_tables(folder, monkeypatch, graded):
    monkeypatch.setattr(grading, "grade", lambda paths, timeout, memory, seed: graded)
    told = CliRunner().invoke(cli, ["class-report", str(folder)])
    assert told.exit_code == 0 and "2 of 11, gate: The slope s stands outside" in " ".join(told.output.split())
    points = pd.read_csv(folder / "class-report" / "points.csv").set_index("student")
    assert points.loc["ada", "sum"] == 8 and set(points.index) == {path.stem for path in folder.glob("*.ipynb")}


def test_a_folder_without_notebooks_is_told(tmp_path):
    told = CliRunner().invoke(cli, ["class-report", str(tmp_path)])
    assert told.exit_code == 1 and "has no file that ends in .ipynb" in told.output


def test_the_students_version_has_every_exercise_by_name(tmp_path):
    returned(tmp_path / "one.ipynb")
    found, claimed, student = grading.read(tmp_path / "one.ipynb")
    assert tuple(found) == EXERCISES and claimed == [] and student == ""
    assert json.loads((tmp_path / "one.ipynb").read_text())["nbformat"] == 4


@pytest.fixture(scope="module")
def own_numbers(tmp_path_factory):
    """Three students with numbers of their own: solved; with ben's answers; and the common copy."""
    folder = tmp_path_factory.mktemp("own")
    own = {name: TOOL["personal"](SOURCE, name, 7) for name in ("ada", "ben")}
    for file, name, answers in ("ada", "ada", "ada"), ("ben", "ben", "ada"), ("ben2", "ben", "ben"):
        notebook, last = TOOL["version_of"](own[name], "student"), ""
        solved = [cell.source for cell in own[answers].cells if "solution" in cell.metadata.get("tags", [])]
        for cell in notebook.cells:
            if "exercise" in cell.metadata.get("tags", []):
                last = next(name for name in EXERCISES if f"exercise-{name}" in cell.metadata.tags)
                cell.source = solved[EXERCISES.index(last)]
        nbformat.write(notebook, folder / f"{file}.ipynb")
    returned(folder / "cem.ipynb")
    return folder


def test_each_is_graded_with_the_numbers_of_their_own(own_numbers):
    graded = grading.grade(sorted(own_numbers.glob("*.ipynb")), seed=7)
    table = grading.points(graded)
    assert table["sum"].to_dict() == {"ada": 8, "ben": 8 - 2, "ben2": 8, "cem": 8}
    assert said(graded, "ben")["costs"] != "right" and said(graded, "ben")["weights"] != "right"
    assert table.loc["ben", "remark"] == "has the numbers of ben, as has ben2.ipynb: copied?"
    assert table.loc["cem", "remark"] == "has no student's name: graded with everybody's numbers"


def test_numbers_of_ones_own_need_their_seed(own_numbers):
    told = CliRunner().invoke(cli, ["class-report", str(own_numbers)])
    assert told.exit_code == 1 and "ada.ipynb asks about numbers drawn for 'ada'" in told.output
    assert "--seed" in told.output and not (own_numbers / "class-report").exists()
