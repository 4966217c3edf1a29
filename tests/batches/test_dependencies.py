"""What a notebook depends on, found by reading."""

import os
from dataclasses import replace

import pytest
from notebooks_for_tests import write

from hatlab.batches.dependencies import as_of_now, changes, dependencies, named
from hatlab.batches.ledger import NotebookRun
from hatlab.batches.notebook import Notebook
from hatlab.config import ConfigError
from hatlab.support.provenance import checksum, library_version, releases


@pytest.fixture
def put(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def put(name, text=""):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return put


def files(tmp_path, *cells):
    found, _ = dependencies(Notebook.read(write(tmp_path / "n.ipynb", *cells)), tmp_path)
    assert found == {name: checksum(tmp_path / name) for name in found}
    return list(found)


def test_modules_are_followed_from_import_to_import(tmp_path, put):
    put("helper.py", "import other\nfrom lab import deep\n")
    put("other.py", "import json, numpy\ndef f():\n    import late\n")
    put("late.py", "import helper")  # in a circle
    put("lab/__init__.py", "from . import core")
    put("lab/core.py", "from .sub.x import y\nfrom .. import nothing")
    put("lab/sub/__init__.py")
    put("lab/sub/x.py", "from ..aside import z")
    put("lab/aside.py")
    put("lab/deep.py")
    put("lab/unused.py")
    put("alone.py")
    assert files(tmp_path, "import helper as h") == [
        "helper.py", "lab/__init__.py", "lab/aside.py", "lab/core.py", "lab/deep.py", "lab/sub/__init__.py",
        "lab/sub/x.py", "late.py", "other.py",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("import a.b.c", ["a/b/c.py"]),  # folders without __init__.py
        ("from a.b import c", ["a/b/c.py"]),
        ("from a.b.c import whatever", ["a/b/c.py"]),
        ("if True:\n    try:\n        import helper\n    except ImportError: pass", ["helper.py"]),
        ("import importlib\nimportlib.import_module('helper')", ["helper.py"]),
        ("%matplotlib inline\nimport helper\n!ls", ["helper.py"]),
        ("%%time\nimport helper", ["helper.py"]),
        ("%run script.py --fast", ["beside.py", "script.py"]),
        ("%run script", ["beside.py", "script.py"]),
        ("%load_ext helper", ["helper.py"]),
        ("import sys\nsys.path.insert(0, 'src')\nimport inside", ["src/inside.py"]),
        ("%cd src\nimport inside", ["src/inside.py"]),
        ("import broken", ["broken.py"]),
        ("import os.path, json, numpy, hatlab.training.runs, _socket, nonexistent", []),
        ("name = 'helper'\n__import__(name)", []),
        ("this is no Python", []),
        ("%%bash\nimport helper of cats", []),
    ],
)
def test_what_a_cell_imports_or_runs(tmp_path, put, cell, expected):
    put("a/b/c.py")
    put("helper.py")
    put("script.py", "import beside")
    put("beside.py")
    put("src/inside.py")
    put("broken.py", "def f(:")
    assert files(tmp_path, cell) == expected


def test_what_a_notebook_writes_itself_is_no_input(tmp_path, put):
    put("made.py", "of the last time")
    assert files(tmp_path, "%%writefile made.py\nx = 1", "import made") == []


def test_a_notebooks_own_folder_is_looked_through_too(tmp_path, put):
    put("near/helper.py")
    notebook = Notebook.read(write(tmp_path / "near" / "n.ipynb", "import helper"))
    assert list(dependencies(notebook, tmp_path)[0]) == ["near/helper.py"]
    put("helper.py")  # a kernel finds this one first
    assert list(dependencies(notebook, tmp_path)[0]) == ["helper.py"]


def test_modules_on_pythons_path_count_and_nothing_is_imported(tmp_path, put, monkeypatch):
    path = put("lib/helper.py", "raise SystemExit('imported')")
    put("here/n.txt")
    monkeypatch.syspath_prepend(path.parent)
    notebook = Notebook.read(write(tmp_path / "here" / "n.ipynb", "import helper"))
    assert dependencies(notebook, tmp_path / "here")[0] == {"../lib/helper.py": checksum(path)}


def test_packages_are_those_that_compute_and_those_that_are_imported(tmp_path, put):
    put("helper.py", "import yaml, networkx_that_is_not_there")
    _, packages = dependencies(
        Notebook.read(write(tmp_path / "n.ipynb", "import helper, click, sklearn.svm")), tmp_path
    )
    assert packages == releases(["click", "PyYAML"])


def test_files_and_folders_can_be_named(tmp_path, put):
    put("data/a.csv", "1")
    put("data/.hidden", "2")
    put("weights.bin", "3")
    first = named(["data", tmp_path / "weights.bin"], tmp_path, tmp_path / "results")
    assert list(first) == ["data", "weights.bin"] and first["weights.bin"] == checksum(tmp_path / "weights.bin")
    put("data/.hidden", "other")
    assert named(["./data/", "weights.bin"], tmp_path, tmp_path / "results") == first
    put("data/a.csv", "2")
    assert named(["data"], tmp_path, tmp_path / "results")["data"] != first["data"]


def test_what_cannot_be_an_input_is_said_at_once(tmp_path, put):
    with pytest.raises(ConfigError) as raised:
        named(["nowhere.csv", "."], tmp_path, tmp_path / "results")
    assert str(raised.value).splitlines() == [
        f"inputs = 'nowhere.csv': there is no such file or folder in {tmp_path}",
        "inputs = '.': the results folder lies in it, and changes with each run",
    ]


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_a_pipe_is_no_input(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="inputs = 'pipe': there is no such file or folder"):
        named(["pipe"], tmp_path, tmp_path / "results")


def test_a_run_can_be_held_against_this_moment(tmp_path, put):
    put("helper.py", "x = 1")
    put("data/a.csv", "1")
    inputs = {"helper.py": checksum(tmp_path / "helper.py"), **named(["data"], tmp_path, tmp_path / "results")}
    run = NotebookRun("n.ipynb", "s", {}, {}, library_version(), {}, inputs, releases(["click"]))
    assert as_of_now(run, tmp_path) == run and as_of_now(run, tmp_path).run_id == run.run_id
    put("helper.py", "x = 2")
    (tmp_path / "data" / "a.csv").unlink()
    assert changes(run, as_of_now(run, tmp_path)) == ["data was changed", "helper.py was changed"]
    (tmp_path / "helper.py").unlink()
    assert changes(run, as_of_now(run, tmp_path))[1] == "helper.py is gone"


def test_every_difference_is_told():
    before = NotebookRun("n.ipynb", "s", {}, {}, "1", {"a": "1"}, {"h.py": "1", "old.py": "1"}, {"numpy": "2.1"})
    after = replace(
        before, source="t", hatlab="2", data={"a": "2"}, inputs={"h.py": "2", "new.py": "1"}, packages={"numpy": "2.2"}
    )
    assert changes(before, after) == [
        "the notebook was changed", "hatlab was 1 and is 2", "h.py was changed", "new.py is new", "old.py is gone",
        "numpy was 2.1 and is 2.2", "other images: a",
    ]  # fmt: skip
    assert changes(before, before) == []
