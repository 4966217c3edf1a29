"""What a batch is to make, planned without starting anything; the runs that are done are made up."""

import pytest
from click.testing import CliRunner
from notebooks_for_tests import TABLE, walk, write

from hatlab.batches import checks
from hatlab.batches.ledger import Status
from hatlab.batches.plans import find, plan
from hatlab.cli.main import cli
from hatlab.config import ConfigError
from hatlab.support import provenance
from hatlab.support.files import write_json
from hatlab.support.provenance import checksum, now


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(planned):
    """Leave what runs leave that are done."""
    planned.save()
    for run in planned.runs:
        entry = planned.entry(run)
        entry.describe(run)
        write_json(entry.manifest, {"artifacts": {}})
        entry.write(Status("done", 1, ended=now(), seconds=1.0, manifest=checksum(entry.manifest)))
    return planned


def why(planned):
    return [item.why for item in planned.look()]


def importing(tmp_path):
    (tmp_path / "helper.py").write_text("x = 1\n")
    return write(tmp_path / "n.ipynb", f"import helper\n{TABLE}", parameters="i: int = 0  # the run", place=True)


def test_a_helper_module_that_was_changed_makes_the_runs_stale(tmp_path):
    notebook = importing(tmp_path)
    made(plan(notebook, over={"i": [1, 2]}, results="out"))
    assert why(plan(notebook, over={"i": [1, 2, 3]}, results="out")) == ["", "", "new"]
    (tmp_path / "helper.py").write_text("x = 2\n")
    assert why(plan(notebook, over={"i": [1, 2]}, results="out")) == ["stale: helper.py was changed"] * 2
    (tmp_path / "helper.py").write_text("x = 1\n")
    assert why(plan(notebook, over={"i": [1, 2]}, results="out")) == ["", ""]
    (tmp_path / "helper.py").write_text("import second\nx = 1\n")
    (tmp_path / "second.py").write_text("")
    told = ["stale: helper.py was changed; second.py is new"] * 2
    assert why(plan(notebook, over={"i": [1, 2]}, results="out")) == told


def test_an_input_that_was_changed_makes_the_runs_stale(tmp_path):
    notebook, given = walk(tmp_path), {"results": "out", "inputs": ["data", "table.csv"]}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("1")
    (tmp_path / "table.csv").write_text("1")
    made(plan(notebook, **given))
    assert why(plan(notebook, **given)) == [""]
    (tmp_path / "data" / "b.csv").write_text("1")
    assert why(plan(notebook, **given)) == ["stale: data was changed"]
    (tmp_path / "data" / "b.csv").unlink()
    assert why(plan(notebook, **given)) == [""]
    assert why(plan(notebook, results="out")) == ["stale: data is gone; table.csv is gone"]
    with pytest.raises(ConfigError, match=r"inputs = 'dta': there is no such file or folder"):
        plan(notebook, results="out", inputs=["dta"])


def test_another_release_of_a_package_makes_the_runs_stale(tmp_path, monkeypatch):
    notebook = walk(tmp_path)
    made(plan(notebook, results="out"))
    found = provenance.importlib.metadata.version

    def other(name):
        return {"numpy": "9.9"}.get(name) or found(name)

    monkeypatch.setattr("importlib.metadata.version", other)
    assert why(plan(notebook, results="out")) == [f"stale: numpy was {found('numpy')} and is 9.9"]


def test_runs_of_an_earlier_hatlab_that_knew_of_no_inputs_are_stale(tmp_path, monkeypatch):
    notebook = walk(tmp_path)
    monkeypatch.setattr(checks, "library_version", lambda: "0.0+old")
    monkeypatch.setattr(checks, "dependencies", lambda *_: ({}, {}))
    old = made(plan(notebook, results="out", name="x"))
    path = old.entry(old.runs[0]).folder / "run.json"
    content = {k: v for k, v in old.entry(old.runs[0]).read_run().__dict__.items() if k not in ("inputs", "packages")}
    write_json(path, content)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (reason,) = why(plan(notebook, results="out"))
    assert reason.startswith("stale: hatlab was 0.0+old and is ")


def test_a_name_is_not_taken_over_by_other_runs(tmp_path):
    notebook = walk(tmp_path)
    first = made(plan(notebook, over={"i": range(3)}, results="out", name="x"))
    with pytest.raises(ConfigError) as raised:
        plan(notebook, over={"i": range(1, 3)}, results="out", name="x")
    assert str(raised.value) == (
        "name = 'x' belongs to a batch of walk.ipynb with runs that are not among these 2 of walk.ipynb: 1 of 3, the "
        "first with {'i': 0}; take another --name, or ask for those runs, too (what is done is kept)"
    )
    with pytest.raises(
        ConfigError, match=r"name = 'x' belongs to a batch of walk.ipynb .* these 3 of other.ipynb: 3 of 3"
    ):
        plan(write(tmp_path / "other.ipynb", TABLE, parameters="i: int = 0", place=True), over={"i": range(3)},
             results="out", name="x")  # fmt: skip
    dry = CliRunner().invoke(cli, ["batch", str(notebook), "-p", "i=7", "--name", "x", "--results", "out", "--dry-run"])
    assert dry.exit_code == 2 and "name = 'x' belongs to a batch" in dry.stderr
    assert find("out", "x") == first
    assert len(plan(notebook, over={"i": range(5)}, results="out", name="x").runs) == 5  # it may grow
    (tmp_path / "out" / "batches" / "x" / "batch.json").write_text("{")
    assert len(plan(notebook, over={"i": [9]}, results="out", name="x").runs) == 1  # of what nobody can read


def test_a_name_stays_with_the_batch_when_its_notebook_changes(tmp_path):
    notebook = walk(tmp_path)
    made(plan(notebook, over={"i": range(2)}, results="out", name="x"))
    more = "i: int = 0  # the run\nk: int = 1  # another parameter"
    write(notebook, f"{TABLE}\n# changed", parameters=more, place=True)
    assert len(plan(notebook, over={"i": range(2)}, results="out", name="x").runs) == 2
    walk(tmp_path)
    plan(notebook, results="out", name="y").save()
    assert plan(notebook, parameters={"i": 0}, results="out", name="y").name == "y"  # a default said aloud


def test_runs_whose_outcomes_would_not_be_told_apart_are_warned_of(tmp_path):
    notebook = write(tmp_path / "n.ipynb", "open('table.csv', 'w')", parameters="i: int = 0  # the run")
    assert plan(notebook, results="out").warnings == ()
    (warning,) = plan(notebook, over={"i": [1, 2]}, results="out").warnings
    assert warning.startswith("n.ipynb has no parameter figure and no profile: what its 2 runs save lands outside")
    dry = CliRunner().invoke(cli, ["batch", str(notebook), "-p", "i=1,2", "--results", "out", "--dry-run"])
    assert dry.exit_code == 0 and f"warning: {warning}" in dry.stderr
    assert plan(walk(tmp_path), over={"i": [1, 2]}, results="out").warnings == ()


def test_a_notebook_that_saves_elsewhere_than_its_run_is_refused(tmp_path):
    code = TABLE.replace("save(figure", "save('walk'")
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 0  # the run", place=True)
    with pytest.raises(
        ConfigError, match=r"in n.ipynb, cell 2: artifacts.save\('walk', .* does not save in the folder"
    ):
        plan(notebook, over={"i": [1, 2]}, results="out")


def test_of_many_problems_the_first_are_told(tmp_path):
    with pytest.raises(ConfigError) as raised:
        plan(walk(tmp_path), over={"i": [f"x{k}" for k in range(50)]}, results="out")
    lines = str(raised.value).splitlines()
    assert len(lines) == 22 and lines[-2:] == ["and 30 more problems", "(50 runs were asked for, none was started)"]


def test_a_dry_run_of_thousands_shows_the_first_and_counts_the_others(tmp_path):
    notebook = walk(tmp_path)
    made(plan(notebook, parameters={"i": 600}, results="out"))
    command = ["batch", str(notebook), "-p", "i=0..999", "--results", "out", "--dry-run", "--workers", "2"]
    dry = CliRunner().invoke(cli, command)
    assert dry.exit_code == 0 and dry.output.count(" queued ") == 500
    assert "1 of 1000 done, 999 queued\nthe first 500 are shown; the other 500: 499 new, 1 done\n" in dry.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "1e400"], "memory = '1e400': allowed are bytes"),
        (["--timeout", "nan"], "timeout = nan: allowed is a number of seconds"),
        (["--timeout", "inf"], "timeout = inf: allowed is a number of seconds"),
        (["--workers", "1000000"], "workers = 1000000: allowed is a whole number from 1 to 1000"),
        (["--resources", "GPU=nan", "--scheduler", "tcp://127.0.0.1:9"], "resources = GPU=nan: allowed"),
        (["-p", "i=0..999999999"], "there are more than 100000 values"),
        (["--inputs", "nowhere"], "inputs = 'nowhere': there is no such file or folder"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_cannot_be_used_is_refused_in_a_dry_run_too(tmp_path, arguments, message, dry):
    command = ["batch", walk(tmp_path), *arguments, "--results", tmp_path / "out", *(["--dry-run"] if dry else [])]
    done = CliRunner().invoke(cli, [str(word) for word in command])
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
