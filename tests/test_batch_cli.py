import json
import os

import pandas as pd
import pytest
from click.testing import CliRunner
from notebooks_for_tests import TABLE, done_batch, walk, write

from hatlab import batches
from hatlab.cli import cli
from hatlab.ledger import Entry

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_an_evening_and_a_morning(tmp_path):
    """Dry run, batch, status, collect, as the README tells it."""
    notebook, results = walk(tmp_path), ["--results", tmp_path / "out"]
    command = ["batch", notebook, "-p", "i=0..2,7", "--workers", 2, *results]
    dry = invoke(*command, "--dry-run")
    assert dry.exit_code == 0 and dry.output.count(" queued ") == 4 and dry.output.count("new") == 4
    assert "4 to do; no run of walk.ipynb has been timed yet" in dry.output
    assert not (tmp_path / "out").exists()

    done = invoke(*command)
    (name,) = batches.names(tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert f"{name}: 4 of 4 done; " in done.stderr and "Dask's dashboard: http://127.0.0.1:" in done.stderr
    assert done.stdout == f"hatlab status {name}    hatlab collect {name}\n"

    status = invoke("status", *results)
    assert status.exit_code == 0 and status.output.count(" done ") == 4 and f"{name}: 4 of 4 done" in status.output
    content = json.loads(invoke("status", name, "--json", *results).output)
    assert [run["parameters"] for run in content["runs"]] == [{"i": i} for i in (0, 1, 2, 7)]

    collected = invoke("collect", *results)
    assert collected.exit_code == 0
    assert collected.output == f"{tmp_path / 'out' / 'batches' / name / 'walk.parquet'}  12 rows\n"

    again = invoke(*command, "--dry-run")
    assert again.output.rstrip().endswith("nothing to do")


def test_the_exit_status_is_0_only_if_all_are_done(tmp_path):
    notebook = write(tmp_path / "n.ipynb", f"assert i\n{TABLE}", parameters="i: int = 0  # the run", place=True)
    results = ["--results", tmp_path]
    done = invoke("batch", notebook, "-p", "i=0,1", "--workers", 2, *results)
    assert done.exit_code == 1 and "failed: in cell [3] (assert i): AssertionError" in done.stderr
    assert invoke("status", *results).exit_code == 1
    collected = invoke("collect", *results)
    assert collected.exit_code == 1 and "1 of 2 runs are missing: they are not done" in collected.stderr
    assert "3 rows" in collected.stdout

    good = invoke("batch", notebook, "-p", "i=1", "--workers", 1, "--name", "good", *results)
    assert good.exit_code == 0 and "good: 1 of 1 done" in good.stderr
    assert invoke("status", "good", *results).exit_code == 0
    (run,) = batches.find(tmp_path, "good").runs
    (Entry(tmp_path, run.run_id).folder / "walk.csv").write_text("altered")
    damaged = invoke("status", "good", *results)
    assert damaged.exit_code == 1 and "stale" in damaged.output and "walk.csv was altered" in damaged.output


def test_collect_says_which_runs_left_no_table_and_where_it_looked(tmp_path):
    """As the runs of a notebook do that ignores `results` and `figure`."""
    walked = {"walk": pd.DataFrame({"step": [0]})}
    batch = done_batch(tmp_path, [{"i": i} for i in range(3)], [walked, {}, {}])
    some = invoke("collect", "--results", tmp_path)
    assert some.exit_code == 1 and "walk.parquet  1 rows" in some.stdout
    ids = ", ".join(run.run_id for run in batch.runs[1:])
    text = f"2 of 3 runs are done, but left no table in their folders in {tmp_path / 'notebooks'}: {ids}. A table gets"
    assert text in some.stderr and "not done" not in some.stderr
    none = invoke("collect", "--results", done_batch(tmp_path / "none", [{"i": 0}], [{}]).results)
    assert none.exit_code == 1 and not none.stdout and "1 of 1 runs are done, but left no table" in none.stderr


def test_a_grid_file_and_options_together(tmp_path):
    notebook = write(
        tmp_path / "n.ipynb", "pass", parameters="a: int = 0  # one\nb: str = ''  # two\nc: float = 0  # three"
    )
    (tmp_path / "g.yaml").write_text("- product: {a: 1..2}\n- list: [{a: 5, b: x}]\n")
    dry = invoke("batch", notebook, "--grid", tmp_path / "g.yaml", "-p", "c=1e-3,2", "--dry-run", "--results", tmp_path)
    assert dry.exit_code == 0, dry.output
    rows = [line.split()[2:4] for line in dry.output.splitlines() if " queued " in line]
    assert len(rows) == 6 and [row[0] for row in rows] == ["1", "1", "2", "2", "5", "5"]
    assert "0.001" in dry.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "ii=1"], "unknown parameter of walk.ipynb 'ii'; did you mean 'i'? (known: i)"),
        (["-p", "i=a,1"], "i = 'a': Input should be a valid integer"),
        (["-p", "i=[1, 2]"], "i = [1, 2]: Input should be a valid integer"),
        (["-p", "i=3..1"], "'i=3..1': the range 3..1 is empty"),
        (["-p", "i="], "'i=': '' holds no value"),
        (["-p", "i=[1"], "'i=[1': '[[1]' is not YAML"),
        (["-p", "i=1", "-p", "i=2"], "names i a second time; its values go together: i=1,2"),
        (["--grid", "nowhere.yaml"], "nowhere.yaml"),
        (["--timeout", "-3"], "timeout = -3.0: allowed is a number of seconds above 0"),
        (["--memory", "lots"], "memory = 'lots': allowed is a number of bytes above 0"),
        (["--name", "../../etc"], "name = '../../etc': allowed are"),
        (["--resources", "GPU"], "'GPU' is not of the form name=value"),
        (["--resources", "GPU=x"], "'x' is no number"),
        (["--resources", "GPU=1"], "only workers of a scheduler have any; name it with --scheduler"),
        (["--scheduler", "nonsense"], "scheduler = 'nonsense': "),
        (["--dashboard", "nonsense:99999"], "dashboard = 'nonsense:99999': "),
    ],
)
def test_what_cannot_be_used_is_one_message_and_exit_code_2(tmp_path, arguments, message):
    done = invoke("batch", walk(tmp_path), *arguments, "--results", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("hatlab.cluster.CONNECT_SECONDS", 1)
    done = invoke("batch", walk(tmp_path), "--scheduler", "tcp://127.0.0.1:9", "--results", tmp_path)
    assert done.exit_code == 1 and "no scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert [status.state for status in batches.find(tmp_path).statuses().values()] == ["queued"]


@pytest.mark.parametrize("command", ["status", "collect"])
def test_a_batch_that_is_not_there_is_named(tmp_path, command):
    done = invoke(command, "night", "--results", tmp_path)
    assert done.exit_code == 2 and "no batch in" in done.stderr
