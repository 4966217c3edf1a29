import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from dead_streams import KINDS, dying
from faults import HATLAB, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from notebooks_for_tests import TABLE, done_batch, walk, write

from hatlab.batches import batches
from hatlab.batches.ledger import Entry, NotebookRun, Status
from hatlab.batches.plans import Batch
from hatlab.cli.main import cli
from hatlab.support.files import write_json
from hatlab.support.provenance import checksum, now

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_an_evening_and_a_morning(tmp_path):
    """Dry run, batch, status, collect, as docs/batches.md tells it."""
    notebook, results = walk(tmp_path), ["--results", tmp_path / "out"]
    command = ["batch", notebook, "-p", "i=0..1,7", "--workers", 2, *results]
    dry = invoke(*command, "--dry-run")
    assert dry.exit_code == 0 and dry.output.count(" queued ") == 3 and dry.output.count("new") == 3
    assert "3 to do; no run of walk.ipynb has been timed yet" in dry.output
    assert not (tmp_path / "out").exists()

    done = invoke(*command)
    (name,) = batches.names(tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert f"{name}: 3 of 3 done; " in done.stderr and " at a time on this machine" in done.stderr
    assert done.stdout == f"hatlab status {name}    hatlab collect {name}\n"

    status = invoke("status", *results)
    assert status.exit_code == 0 and status.output.count(" done ") == 3 and f"{name}: 3 of 3 done" in status.output
    content = json.loads(invoke("status", name, "--json", *results).output)
    assert [run["parameters"] for run in content["runs"]] == [{"i": i} for i in (0, 1, 7)]

    collected = invoke("collect", *results)
    assert collected.exit_code == 0
    assert collected.output == f"{tmp_path / 'out' / 'batches' / name / 'walk.parquet'}  9 rows\n"

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
        (["-p", "i=1", "-p", "i=2"], "names i a second time; its values go together, as in seed=1,2"),
        (["--grid", "nowhere.yaml"], "nowhere.yaml"),
        (["--timeout", "-3"], "timeout = -3.0: allowed is a number of seconds above 0"),
        (["--memory", "lots"], "memory = 'lots': allowed are bytes from 10MB upwards"),
        (["--name", "../../etc"], "name = '../../etc': allowed are"),
        (["--resources", "GPU"], "'GPU' is not of the form name=value"),
        (["--resources", "GPU=x"], "'x' is no number"),
        (["--resources", "GPU=1", "--resources", "GPU=2"], "names GPU a second time; a worker has one amount of it"),
        (["--resources", "GPU=1"], "only workers of a scheduler have any; name it with --scheduler"),
        (["--scheduler", "nonsense"], "scheduler = 'nonsense': "),
    ],
)
def test_what_cannot_be_used_is_one_message_and_exit_code_2(tmp_path, arguments, message):
    done = invoke("batch", walk(tmp_path), *arguments, "--results", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("hatlab.batches.cluster.CONNECT_SECONDS", 1)
    done = invoke("batch", walk(tmp_path), "--scheduler", "tcp://127.0.0.1:9", "--results", tmp_path)
    assert done.exit_code == 1 and "no scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert [status.state for status in batches.find(tmp_path).statuses().values()] == ["queued"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_whose_output_goes_nowhere_comes_to_its_end(tmp_path, kind):
    """The first run fails, so there is something to tell when the stream is dead."""
    notebook = write(tmp_path / "n.ipynb", f"assert i\n{TABLE}", parameters="i: int = 0  # the run", place=True)
    arguments = ["batch", str(notebook), "-p", "i=0..1", "--workers", "1", "--results", str(tmp_path)]
    stream, others = dying(kind)
    process = subprocess.Popen([*HATLAB, *arguments], stdout=stream, stderr=stream, start_new_session=True, cwd=ROOT)
    os.close(stream)
    for other in others:
        assert os.read(other, 1)  # as `head` does, and a terminal that is closed after a while
        os.close(other)
    assert process.wait(timeout=300) == 1
    found = batches.find(tmp_path)
    assert [status.state for status in found.statuses().values()] == ["failed", "done"]


@pytest.mark.parametrize("command", ["status", "collect"])
def test_a_batch_that_is_not_there_is_named(tmp_path, command):
    done = invoke(command, "night", "--results", tmp_path)
    assert done.exit_code == 2 and "no batch in" in done.stderr


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """The results of a batch of two runs that are done and one that failed, written without kernels; its notebook."""
    results = tmp_path_factory.mktemp("night")
    notebook = write(tmp_path_factory.mktemp("books") / "n.ipynb", "pass", parameters="i: int = 0  # the run")
    runs = tuple(NotebookRun("n.ipynb", "s", {"i": i}, {"i": i}, "0", {}) for i in range(3))
    Batch("night", runs, results).save()
    for run in runs:
        entry = Entry(results, run.run_id)
        entry.describe(run)
        pd.DataFrame({"step": [0, 1]}).to_parquet(entry.folder / "walk.parquet")
        write_json(entry.manifest, {"artifacts": {"walk.parquet": checksum(entry.folder / "walk.parquet")}})
        ended = {"attempt": 1, "started": now(), "ended": now(), "heartbeat": now(), "seconds": 2.5}
        done = Status("done", manifest=checksum(entry.manifest), **ended)
        entry.write(done if run.values["i"] else Status("failed", reason="no", error={"cell": 3}, **ended))
    return results, notebook


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def damages(draw):
    """What is done to the bytes of a JSON file."""
    kind = draw(st.sampled_from(["cut", "flipped", "replaced", "a value", "a name", "nested"]))
    place, bit, new = draw(st.integers(0, 10**6)), draw(st.integers(0, 7)), draw(junk)

    def damage(content):
        if kind == "cut":
            return content[: place % len(content)]
        if kind == "flipped":
            at = place % len(content)
            return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
        if kind == "nested":
            return b"[" * 100_000
        whole = json.loads(content)
        if kind == "replaced":
            whole = new
        elif kind == "a value":
            inner, name = list(places(whole))[place % len(list(places(whole)))]
            inner[name] = new
        else:
            whole.pop(sorted(whole)[place % len(whole)])
        return json.dumps(whole).encode()

    return damage


def places(content):
    """All places of values in a JSON document."""
    for name in content if isinstance(content, dict) else range(len(content)):
        yield content, name
        if isinstance(content[name], dict | list):
            yield from places(content[name])


@pytest.mark.parametrize("name", ["batch.json", "status.json", "run.json", "manifest.json"])
@settings(deadline=None, max_examples=40)
@given(damage=damages())
def test_damaged_files_are_named_and_give_no_traceback(night, name, damage):
    original, notebook = night
    with tempfile.TemporaryDirectory() as folder:
        results = shutil.copytree(original, Path(folder) / "results")
        path = next(results.glob("batches/night/batch.json" if name == "batch.json" else f"notebooks/*/{name}"))
        content = damage(path.read_bytes())
        path.write_bytes(content)
        commands = ["status"], ["status", "--json"], ["collect"], ["batch", notebook, "--dry-run"]
        for command in commands:
            done = invoke(*command, "--results", results)
            assert done.exception is None or isinstance(done.exception, SystemExit), (command, done.output)
            assert done.exit_code in ((0,) if command[0] == "batch" else (1, 2))  # one run failed
            if done.exit_code == 2:
                assert str(path) in done.stderr and len(done.stderr.splitlines()) == 1
        if name == "status.json" and not isinstance(parsed(content), dict):
            assert "status.json cannot be read" in invoke("status", "--results", results).output


def parsed(content):
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def test_the_morning_after_a_night_with_failures(tmp_path):
    """Causes and cost in the table, how one run ended, a command that repeats it, an estimate for the next night."""
    code = f"print('begins')\nassert i > 1, f'run {{i}} is too small'\n{TABLE}"
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 0  # the run", place=True)
    results = ["--results", tmp_path / "out"]
    command = ["batch", notebook, "-p", "i=0..3", "--workers", 2, "--name", "night", *results]
    mail = f"{sys.executable} -c \"import sys; open({str(tmp_path / 'mail')!r}, 'w').write(sys.stdin.read())\""
    done = invoke(*command, "--notify-command", mail)
    assert done.exit_code == 1 and "hatlab: night ended: 2 of 4 done, 2 failed" in (tmp_path / "mail").read_text()
    said = invoke("status", *results).output
    assert "of CPU time, most memory " in said and "2 runs failed: cell 3, AssertionError: run 0 is too small" in said
    again = shlex.split(next(line for line in said.splitlines() if line.lstrip().startswith("hatlab batch ")))
    assert again[:2] == ["hatlab", "batch"] and "i=0" in again
    run_id = said.partition("; first: ")[2].split()[0]
    told = invoke("status", run_id, *results)
    assert told.exit_code == 0 and "i = 0" in told.output and "begins" in told.output and "cell  seconds" in told.output
    good = next(run for run in batches.find(tmp_path / "out", "night").runs if run.values["i"] == 3)
    told = invoke("status", good.run_id, *results)
    assert f"{good.run_id}\ndone\n" in told.output and told.output.rstrip().count("\n") == 6  # three cells
    repeated = invoke(*again[1:])
    assert repeated.exit_code == 1 and f"again-{run_id}: 0 of 1 done, 1 failed" in repeated.output

    dry = invoke(*command[:3], "i=0..3,7,8", *command[4:], "--dry-run").output.splitlines()
    assert dry[-1].startswith("4 to do, about ") and "by the most alike of 2 earlier runs of n.ipynb" in dry[-1]
    assert invoke(*command).exit_code == 1  # now there was something to expect
    assert invoke(*command, "--dry-run").output.splitlines()[-1].startswith("the last estimate was ")
    invoke("collect", *results)
    assert len(pd.read_parquet(tmp_path / "out" / "batches" / "night" / "cost_by_run.parquet")) == 4
    cells = pd.read_parquet(tmp_path / "out" / "batches" / "night" / "cost_by_cell.parquet")
    assert cells.groupby("run")["cell"].max().tolist() == [3, 3, 3, 3] and cells["cpu_seconds"].sum() > 0


def test_what_cannot_be_told_is_refused_before_anything_runs(tmp_path):
    notebook = walk(tmp_path)
    for option, told in (["--notify-command", "no-such-program"], "no program"), (["--stop-after", "-1"], "-1 is not"):
        refused = invoke("batch", notebook, *option, "--results", tmp_path / "out")
        assert refused.exit_code != 0 and told in refused.output and not (tmp_path / "out").exists()
