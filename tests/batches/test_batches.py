"""Batches on the cluster in this process; other clusters are in test_cluster.py."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from faults import HATLAB, ROOT, cluster
from notebooks_for_tests import TABLE, walk, write

import hatlab
from hatlab.batches import batches, checks, collecting, dependencies, plans, runner
from hatlab.batches.batches import batch, carry_out, find, plan
from hatlab.batches.cluster import Limits
from hatlab.batches.ledger import Entry, Status, entries
from hatlab.batches.notebook import Notebook
from hatlab.batches.notices import from_environment
from hatlab.batches.plans import runs_of
from hatlab.batches.processes import marked
from hatlab.config import ConfigError
from hatlab.support.paths import RUN

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")


@pytest.fixture(autouse=True)
def quiet(capsys):
    """What the display writes is looked at in test_view.py."""
    yield
    capsys.readouterr()


def states(found):
    return [status.state for status in found.statuses().values()]


def wait(condition, seconds=300):
    """Until it holds; how long that takes is the machine's affair."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def why(found):
    return [item.why for item in found.look()]


def test_a_batch_is_made_once(tmp_path):
    notebook = walk(tmp_path)
    first = batch(notebook, over={"i": range(2)}, results=tmp_path, workers=2)
    assert states(first) == ["done"] * 2 and first.done
    assert hatlab.batch is batch
    before = {run.run_id: first.entry(run).written() for run in first.runs}

    again = batch(notebook, over={"i": range(3)}, results=tmp_path, workers=2)
    assert [run.run_id for run in again.runs[:2]] == list(before)
    after = [again.entry(run).written() for run in again.runs]
    assert after[:2] == list(before.values()) and after[2].state == "done"
    assert find(tmp_path) == again and find(tmp_path, first.name) == first

    run = again.runs[2]
    manifest = json.loads(again.entry(run).manifest.read_text())
    assert manifest["parameters"] == {"i": 2} and manifest["run_id"] == run.run_id
    assert set(manifest["artifacts"]) == {"walk.parquet", "walk.csv", "walk.ipynb"}
    folder = {path.name for path in again.entry(run).folder.iterdir()}
    assert folder == {*manifest["artifacts"], "manifest.json", "run.json", "status.json"}
    assert (
        str(tmp_path) not in (again.entry(run).folder / "walk.ipynb").read_text() or Path.cwd() not in tmp_path.parents
    )


def test_what_is_missing_failed_or_stale_is_made_again_and_the_reason_is_given(tmp_path, monkeypatch):
    code = (
        f"from pathlib import Path\nif i == 2 and not Path('mended').exists():\n    raise ValueError('broken')\n{TABLE}"
    )
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 0  # the run", place=True)
    monkeypatch.chdir(tmp_path)
    first = batch(notebook, over={"i": range(3)}, results="out", workers=2)
    assert states(first) == ["done", "done", "failed"]
    assert 'results: str = "out"' not in (first.entry(first.runs[0]).folder / "n.ipynb").read_text()
    (first.entry(first.runs[0]).folder / "walk.csv").unlink()
    planned = plan(notebook, over={"i": range(4)}, results="out")
    assert why(planned) == [
        "stale: walk.csv is missing",
        "",
        "failed before: in cell [3] (from pathlib import Path): ValueError: broken",
        "new",
    ]
    (tmp_path / "mended").touch()
    again = batch(notebook, over={"i": range(4)}, results="out", workers=2)
    assert states(again) == ["done"] * 4
    assert [again.entry(run).written().attempt for run in again.runs] == [2, 1, 2, 1]

    write(notebook, f"{code}\n# changed", parameters="i: int = 0  # the run", place=True)
    changed = plan(notebook, over={"i": range(2)}, results="out")
    assert why(changed) == ["stale: the notebook was changed"] * 2
    monkeypatch.setattr(checks, "library_version", lambda: "9.9+0")
    assert "the notebook was changed; hatlab was 0.1.0+" in why(plan(notebook, over={"i": [0]}, results="out"))[0]


def test_other_images_make_a_run_stale(tmp_path, tiny_npz, tiny_arrays, monkeypatch):
    import numpy as np

    code = "from hatlab.support import artifacts\nartifacts.save(figure, runs=[], profile=profile, results=results)"
    cell = "dataset: str = 'digits'  # images\nvalidation: float = 0.4  # held out"
    notebook = write(tmp_path / "n.ipynb", code, parameters=cell, place=True)
    given = {"parameters": {"dataset": f"npz:{tiny_npz}"}, "results": tmp_path / "out"}
    first = batch(notebook, workers=1, **given)
    (data,) = first.runs[0].data.values()
    assert first.done and data.startswith("sha256:")
    np.savez_compressed(tiny_npz, **{**tiny_arrays, "x_train": 255 - tiny_arrays["x_train"]})
    assert why(plan(notebook, **given)) == [f"stale: other images: {next(iter(first.runs[0].data))}"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"parameters": {"ii": 1}}, r"unknown parameter of walk.ipynb 'ii'; did you mean 'i'"),
        ({"over": {"i": [0, "x", 1.5]}}, r"i = 'x': Input should be .*\ni = 1.5: .*\n\(3 runs were asked"),
        ({"parameters": {"results": "x"}}, "'results' is set by the command"),
        ({"over": {"i": []}}, r"i: \[\] is not a list of one or more values"),
        ({"name": "../up"}, r"name = '../up': allowed are up to 80 letters"),
        ({"name": "a/b"}, "name = 'a/b': allowed"),
        ({"name": ".hidden"}, "name = '.hidden': allowed"),
        ({"workers": 0}, "workers = 0: allowed is a whole number from 1 to 1000"),
        ({"retries": -1}, "retries = -1: allowed"),
        ({"timeout": 0}, "timeout = 0: allowed is a number of seconds above 0"),
        ({"memory": "4 potatoes"}, "memory = '4 potatoes': allowed are bytes from 10MB upwards, as in 4GB"),
        ({"resources": {"GPU": 1}}, "only workers of a scheduler have any"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "has workers of its own"),
        ({"grid": {"prod": {}}}, "unknown section 'prod'; did you mean 'product'"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_before_anything_is_written(tmp_path, arguments, problem):
    notebook = walk(tmp_path)
    with pytest.raises(ConfigError, match=problem):
        batch(notebook, results=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_bounds_are_those_of_a_run_for_all_runs_at_once(tmp_path):
    cell = "c: float = 0.75  # compressibility\ndataset: str = 'digits'  # images\nnetwork: str = 'mlp'  # net"
    notebook = write(tmp_path / "n.ipynb", "pass", parameters=cell)
    with pytest.raises(ConfigError) as raised:
        plan(notebook, over={"c": [0.1, -1.0, -2.0], "dataset": ["digits", "mnits"]}, parameters={"network": "cnn"})
    message = str(raised.value)
    assert message.count("c = -1.0: Input should be greater") == message.count("c = -2.0: ") == 1
    assert "dataset = 'mnits': unknown data set; did you mean 'mnist'?" in message
    assert "network = 'cnn', dataset = 'digits'" in message and "(6 runs were asked for, none was started)" in message


def test_a_notebook_of_a_batch_does_not_count_that_batch(tmp_path, monkeypatch):
    """Or a report of the batch that was planned last would be one of itself."""
    notebook = walk(tmp_path)
    for name in ("first", "last"):
        plan(notebook, parameters={"i": len(name)}, name=name, results=tmp_path).save()
        time.sleep(0.01)
    assert batches.names(tmp_path) == ["first", "last"] and find(tmp_path).name == "last"
    monkeypatch.setenv(RUN, str(find(tmp_path).entry(find(tmp_path).runs[0]).folder))
    assert batches.names(tmp_path) == ["first"] and find(tmp_path).name == "first"


def test_runs_of_several_notebooks_are_checked_carried_out_and_gathered_together(tmp_path):
    one = Notebook.read(walk(tmp_path))
    two = Notebook.read(write(tmp_path / "two.ipynb", TABLE, parameters="i: int = 3  # the run", place=True))
    with pytest.raises(ConfigError) as raised:
        runs_of([(one, {"i": "x"}), (one, {"i": "x"}), (two, {"j": 1})])
    assert str(raised.value).splitlines() == [
        "in the parameters of walk.ipynb: i = 'x': Input should be a valid integer (wanted: int)",
        "in the parameters of two.ipynb: unknown parameter of two.ipynb 'j' (known: i)",
        "(3 runs were asked for, none was started)",
    ]
    runs = tuple(runs_of([(one, {}), (two, {})]))
    planned = plans.Batch("both", runs, tmp_path, {runs[0].run_id: "a", runs[1].run_id: "b"})
    heard = []
    for _ in range(2):
        carry_out(
            planned, [one, two], batches.Limits(2), ended=lambda run, status: heard.append((run.notebook, status.state))
        )
    assert sorted(heard[:2]) == [("two.ipynb", "done"), ("walk.ipynb", "done")]
    assert heard[2:] == [("walk.ipynb", "done"), ("two.ipynb", "done")]  # were done before: told in order
    assert find(tmp_path) == planned and [planned.entry(run).written().attempt for run in runs] == [1, 1]
    table = collecting.gather(planned).tables["walk"]
    assert list(table)[:2] == ["notebook_run", "figure"]
    assert table.groupby("figure")["value"].sum().to_dict() == {"a": 0, "b": 18}


def test_images_that_are_missing_are_looked_for_and_told_of_once(tmp_path, empty_home, no_network):
    cell = "dataset: str = 'mnist'  # images\nc: float = 0.75  # compressibility"
    notebooks = [Notebook.read(write(tmp_path / f"{name}.ipynb", "pass", parameters=cell)) for name in "ab"]
    wanted = [(notebook, {"c": c}) for notebook in notebooks for c in (0.1, 0.5)]
    with pytest.raises(ConfigError) as raised:
        runs_of([*wanted, (notebooks[1], {"c": -1.0})])
    message = str(raised.value)
    assert message.startswith("in the parameters of a.ipynb, b.ipynb: dataset = 'mnist': MNIST is not there")
    assert message.count("is not there") == message.count("HATLAB_DATA") == 1
    assert "in the parameters of b.ipynb: c = -1.0: Input should be greater" in message
    assert message.endswith("(5 runs were asked for, none was started)")
    assert len(no_network) == len(set(no_network))


def test_a_name_is_given_or_made_and_stays_in_the_results(tmp_path):
    notebook = write(tmp_path / "übung 1.ipynb", "pass", parameters="i: int = 0  # the run")
    planned = plan(notebook, results=tmp_path)
    assert plans.NAME.fullmatch(planned.name) and planned.name.startswith("bung-1-")
    assert planned.name == plan(notebook, parameters={"i": 0}, results=tmp_path).name  # a default said aloud
    assert planned.name != plan(notebook, parameters={"i": 1}, results=tmp_path).name
    assert plan(notebook, name="tonight", results=tmp_path).folder == tmp_path / "batches" / "tonight"


MIXED = """\
import os, time
if what == "raise":
    raise ValueError("no")
if what == "exit":
    os._exit(1)
if what == "loop":
    while True:
        pass
if what == "memory":
    held = []
    while True:
        held.append(bytearray(b"x") * 20_000_000)
        time.sleep(0.02)
if what == "print":
    for _ in range(500):
        print("x" * 100_000)
if what == "liar":
    from pathlib import Path
    for path in Path(results, profile, figure).glob("status.json"):
        path.write_text('{"state": "done"}')
    1 / 0
if what == "forgets":
    from hatlab.support import artifacts
    folder = artifacts.save(figure, runs=[], tables={}, profile=profile, results=results)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"artifacts": {', '"artifacts": {"curve.png": "sha256:0"'))
"""


def test_each_ends_as_it_did_and_the_others_are_untouched(tmp_path):
    parameters = "what: str = 'fine'  # what happens"
    notebook = write(tmp_path / "n.ipynb", MIXED, "print('end')", parameters=parameters, place=True)
    kinds = ["raise", "exit", "memory", "print", "liar", "forgets", "fine"]
    found = batch(notebook, over={"what": kinds}, results=tmp_path, workers=2, memory="400MB")
    long = batch(notebook, parameters={"what": "loop"}, results=tmp_path, workers=1, timeout=8)
    runs = [*found.runs, *long.runs]
    status = {run.values["what"]: found.entry(run).status() for run in runs}
    assert {what: one.state for what, one in status.items()} == {
        "raise": "failed", "exit": "killed", "loop": "timed out", "memory": "killed", "print": "done", "liar": "failed",
        "forgets": "failed", "fine": "done",
    }  # fmt: skip
    assert status["raise"].error["traceback"].endswith("ValueError: no") and status["raise"].error["cell"] == 3
    assert status["exit"].reason.endswith("KernelDied: the kernel's process ended with exit code 1")
    assert re.fullmatch(r"in cell \[\d\] after 8 s", status["loop"].reason) and status["loop"].seconds > 8
    assert "GB of memory, and 0.40 GB are allowed" in status["memory"].reason
    assert status["memory"].memory > 400_000_000
    assert status["forgets"].reason == "curve.png, which the notebook declares, is missing or was altered"
    for run in runs:
        kept = {path.name for path in found.entry(run).folder.glob("*.ipynb")}
        whole = status[run.values["what"]].state == "done" or run.values["what"] == "forgets"
        assert kept == {"n.ipynb" if whole else "n.partial.ipynb"}
    printed = found.entry(found.runs[3]).folder / "n.ipynb"
    assert printed.stat().st_size < 12_000_000 and "the rest is left out" in printed.read_text()


def test_a_failed_run_is_tried_again(tmp_path):
    code = (
        "from pathlib import Path\n"
        "tries = Path(results) / f'tries-{i}'\n"
        "tries.write_text(tries.read_text() + 'x' if tries.exists() else 'x')\n"
        "assert len(tries.read_text()) > i"
    )
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 0  # failures", place=True)
    found = batch(notebook, over={"i": range(3)}, results=tmp_path, workers=2, retries=1)
    assert states(found) == ["done", "done", "failed"]
    assert [found.entry(run).written().attempt for run in found.runs] == [1, 2, 2]


def test_two_batches_at_once_share_the_work(tmp_path):
    """In two processes, on the same results: each run is made once, none is lost."""
    code = f"from pathlib import Path\nopen(Path(results) / 'made', 'a').write(f'{{i}}\\n')\n{TABLE}"
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 0  # the run", place=True)
    command = [*HATLAB, "batch", str(notebook), "-p", "i=0..3", "--workers", "2", "--results", str(tmp_path)]
    other = [*HATLAB, "batch", str(notebook), "-p", "i=2..5", "--workers", "2", "--results", str(tmp_path)]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    calls = [subprocess.Popen(one, **quiet) for one in (command, command, other)]
    told = [call.communicate(timeout=300)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0, 0], told
    assert sorted((tmp_path / "made").read_text().split()) == [str(i) for i in range(6)]
    tables = [collecting.gather(find(tmp_path, name)).tables["walk"] for name in batches.names(tmp_path)]
    assert sorted(tuple(sorted(set(table["i"]))) for table in tables) == [tuple(range(4)), tuple(range(2, 6))]


SLEEP = "import time\nfrom pathlib import Path\nPath(results, f'at-{i}').touch()\ntime.sleep(seconds)"


@pytest.mark.parametrize(
    ("sent", "stubborn"), [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)], ids=str
)
def test_ctrl_c_ends_kernels_keeps_what_is_done_and_queues_the_rest(tmp_path, sent, stubborn):
    ignore = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" if stubborn else ""
    parameters = "i: int = 0  # the run\nseconds: float = 0.0  # pause"
    notebook = write(tmp_path / "n.ipynb", ignore + SLEEP, parameters=parameters, place=True)
    (tmp_path / "grid.yaml").write_text("list: [{i: 0}, {i: 1, seconds: 300}, {i: 2, seconds: 300}, {i: 3}]")
    script = (
        # a shell that runs the tests in the background has Ctrl-C ignored in all it starts
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from hatlab.batches import runner; from hatlab.cli import main as cli\n"
        f"runner.STOP_SECONDS = {1 if stubborn else 30}\ncli.main()"
    )
    arguments = ["batch", str(notebook), "--grid", str(tmp_path / "grid.yaml"), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments, "--results", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    try:
        wait(lambda: all((tmp_path / f"at-{i}").exists() for i in (1, 2)) or process.poll() is not None)
        os.killpg(process.pid, sent)  # as a terminal does
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "stopping: kernels are interrupted" in errors and "Traceback" not in errors
    assert "1 of 4 done, 3 queued" in errors and "the same command again goes on" in errors
    found = find(tmp_path)
    assert states(found) == ["done", "queued", "queued", "queued"]
    for run in found.runs:
        assert runner.end_marked(RUN, str(found.entry(run).folder)) == 0
    assert not (tmp_path / "at-3").exists()
    assert why(found)[1:] == ["stopped; goes on where it was", "stopped; goes on where it was", "new"]


def test_a_kernel_of_a_runner_that_was_killed_is_ended_before_the_next_starts(tmp_path):
    notebook = walk(tmp_path)
    (run,) = plan(notebook, results=tmp_path).runs
    folder = Entry(tmp_path, run.run_id).folder
    orphan = subprocess.Popen(["sleep", "300"], env={**os.environ, RUN: str(folder)})
    try:
        assert batch(notebook, results=tmp_path, workers=1).done
        assert orphan.wait(10) == -9
    finally:
        orphan.kill()


def test_another_hatlab_than_the_batch_was_planned_with_makes_it_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(dependencies, "library_version", lambda: "0.0+changed")
    found = batch(walk(tmp_path), results=tmp_path, workers=1)
    (status,) = found.statuses().values()
    assert status.state == "queued" and " and is 0.0+changed on " in status.reason
    assert "start the batch again" in status.reason
    monkeypatch.undo()
    assert batch(walk(tmp_path), results=tmp_path, workers=1).done


def test_a_helper_that_changes_meanwhile_makes_runs_wait_the_one_under_way_too(tmp_path, monkeypatch):
    """The kernels of this notebook change what they have imported."""
    monkeypatch.chdir(tmp_path)
    helper = tmp_path / "helper.py"
    helper.write_text("x = 1\n")
    change = f"import helper, pathlib\npathlib.Path({str(helper)!r}).write_text('x = 2\\n')"
    notebook = write(tmp_path / "n.ipynb", f"{change}\n{TABLE}", parameters="i: int = 0  # the run", place=True)
    found = batch(notebook, over={"i": [1, 2]}, results=tmp_path, workers=1)
    assert states(found) == ["queued", "queued"]
    reasons = [status.reason for status in found.statuses().values()]
    assert all(reason.startswith("helper.py was changed on ") for reason in reasons), reasons
    assert [status.attempt for status in found.statuses().values()] == [1, 1]
    assert not list((tmp_path / "notebooks" / found.runs[1].run_id).glob("*.parquet"))
    again = batch(notebook, over={"i": [1, 2]}, results=tmp_path, workers=1)  # now the change changes nothing
    assert again.done and {run.run_id for run in again.runs}.isdisjoint(run.run_id for run in found.runs)


def test_a_folder_that_cannot_be_written_for_a_moment_costs_nothing(tmp_path, monkeypatch):
    written, lock = [], threading.Lock()
    write_status = Entry.write

    def sometimes(entry, status):
        with lock:
            written.append(status.state)
            if status.state == "done" and written.count("done") == 1:
                raise OSError("read-only")
        write_status(entry, status)

    monkeypatch.setattr(Entry, "write", sometimes)
    assert batch(walk(tmp_path), results=tmp_path, workers=1).done and written.count("done") == 2


def test_what_is_asked_for_but_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no batch in .*batches: hatlab batch makes one"):
        find(tmp_path)
    batch(walk(tmp_path), results=tmp_path, workers=1, name="tonight")
    with pytest.raises(ConfigError, match=r"unknown batch 'tonite'; did you mean 'tonight'\? \(known: tonight\)"):
        find(tmp_path, "tonite")
    (tmp_path / "batches" / "tonight" / "batch.json").write_text("{")
    with pytest.raises(ConfigError, match=r"batch.json cannot be read"):
        find(tmp_path)


def test_tables_are_gathered_with_what_tells_the_runs_apart(tmp_path):
    code = f"assert i != 2\nwidths = list(widths)\n{TABLE}"
    parameters = "i: int = 0  # the run\nwidths: list[int] = [1]  # units\nvalue: float = 0.5  # a column's name"
    notebook = write(tmp_path / "n.ipynb", code, parameters=parameters, place=True)
    grid = {"zip": {"i": [0, 1, 2], "widths": [[1], [2, 3], [4]], "value": [0.5, 1.5, 2.5]}}
    found = batch(notebook, grid, results=tmp_path, workers=2)
    collected = collecting.gather(found)
    assert list(collected.missing) == [found.runs[2].run_id]
    (path,) = collecting.write(found, collected)
    table = pd.read_parquet(path)
    assert list(table) == ["notebook_run", "i", "widths", "parameter_value", "step", "value"]
    assert table["widths"].unique().tolist() == ["[1]", "[2, 3]"] and len(table) == 6
    assert table.groupby("notebook_run")["i"].nunique().tolist() == [1, 1]
    contents = json.loads((found.folder / "collected.json").read_text())
    assert contents["runs"] == [run.run_id for run in found.runs[:2]] and list(contents["missing"].values()) == [
        "failed"
    ]


def test_runs_on_a_real_scheduler_survive_the_death_of_a_worker(tmp_path):
    """Scheduler and two workers are processes of their own; one is killed half-way."""
    code = f"import time\ntime.sleep(0.3)\n{TABLE}"
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 0  # the run", place=True)
    done = []

    def count():
        found = [entry.written() for entry in entries(tmp_path)]
        return sum(status is not None and status.state == "done" for status in found)

    with cluster() as (address, workers):
        thread = threading.Thread(
            target=lambda: done.append(batch(notebook, over={"i": range(12)}, results=tmp_path, scheduler=address))
        )
        thread.start()
        wait(lambda: count() >= 4)
        workers[0].kill()
        thread.join()
    (found,) = done
    assert states(found) == ["done"] * 12
    table = collecting.gather(found).tables["walk"]
    assert len(table) == 36 and table.groupby("i")["step"].apply(list).tolist() == [[0, 1, 2]] * 12
    attempts = sorted(found.entry(run).written().attempt for run in found.runs)
    assert attempts[:11] == [1] * 11 and attempts[11] in (1, 2)


# What ends a run, and what is then said of it

CAUGHT = """\
import time
from pathlib import Path
Path(results, "at").touch()
try:
    time.sleep(300)
except KeyboardInterrupt:
    pass
i = 15"""


@pytest.mark.parametrize("ended", ["timeout", "SIGTERM"])
def test_a_notebook_that_catches_its_interrupt_and_saves_what_it_has_is_not_done(tmp_path, ended):
    notebook = write(tmp_path / "n.ipynb", f"{CAUGHT}\n{TABLE}", parameters="i: int = 0  # the run", place=True)
    if ended == "timeout":
        assert states(batch(notebook, results=tmp_path, workers=1, timeout=6, retries=3)) == ["timed out"]
    else:
        command = [*HATLAB, "batch", str(notebook), "--results", str(tmp_path)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait(lambda: (tmp_path / "at").exists())
        process.terminate()
        assert process.wait(120) == 130
        assert states(find(tmp_path)) == ["queued"]
    (run,) = find(tmp_path).runs
    assert find(tmp_path).entry(run).written().attempt == 1  # no retry brings back what took too long
    assert not collecting.gather(find(tmp_path)).tables


def test_a_notebook_that_changes_its_folder_leaves_its_tables_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = f"%cd {tmp_path / 'elsewhere'}\n{TABLE}\nprint(results)"
    (tmp_path / "elsewhere").mkdir()
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 2  # the run", place=True)
    found = batch(notebook, results="out", workers=1)
    assert found.done and list((tmp_path / "elsewhere").iterdir()) == []
    assert collecting.gather(found).tables["walk"]["value"].tolist() == [2, 4, 6]
    copy = json.loads((found.entry(found.runs[0]).folder / "n.ipynb").read_text())
    assert copy["metadata"]["papermill"]["parameters"]["results"] == "out"
    assert 'results = "out"\n' in copy["cells"][1]["source"]
    assert str(tmp_path / "out") in copy["cells"][2]["outputs"][-1]["text"][0]


def test_a_clock_that_steps_back_costs_nothing(tmp_path):
    back = (
        "import json\nfrom pathlib import Path\nmanifest = Path(results, profile, figure, 'manifest.json')\n"
        "content = json.loads(manifest.read_text()) | {'written': '2001-01-01T00:00:00+00:00'}\n"
        "manifest.write_text(json.dumps(content))"
    )
    notebook = write(tmp_path / "n.ipynb", TABLE, back, parameters="i: int = 1  # the run", place=True)
    found = batch(notebook, results=tmp_path, workers=1)
    assert found.done and len(collecting.gather(found).tables["walk"]) == 3


def test_a_run_without_a_table_says_so(tmp_path):
    found = batch(write(tmp_path / "n.ipynb", "1 + 1"), results=tmp_path, workers=1)
    (status,) = found.statuses().values()
    assert (status.state, status.reason) == ("done", "left no figure and no table")


def test_a_stopped_kernel_is_ended(tmp_path, monkeypatch):
    class Silence(float):
        """Counts once the cell has begun: a busy machine may be silent before."""

        def __lt__(self, silent):
            return (tmp_path / "begun").exists() and float(self) < silent

    monkeypatch.setattr(runner, "SILENCE", Silence(3))
    code = f"import os, signal\nopen({str(tmp_path / 'begun')!r}, 'w').close()\nos.kill(os.getpid(), signal.SIGSTOP)"
    (status,) = batch(write(tmp_path / "n.ipynb", code), results=tmp_path, workers=1, retries=2).statuses().values()
    assert status.state == "killed" and status.attempt == 1
    assert status.reason.startswith("in cell [1]: its kernel gave no sign of life for ")


def test_a_notebook_that_deletes_its_folder_has_failed(tmp_path):
    code = "import shutil\nfrom pathlib import Path\nshutil.rmtree(Path(results, profile, figure))"
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 0  # the run", place=True)
    found = batch(notebook, results=tmp_path, workers=1)
    (status,) = found.statuses().values()
    assert (status.state, status.reason) == ("failed", "the notebook deleted the folder of its run")
    assert find(tmp_path).entry(found.runs[0]).read_run() == found.runs[0]


def test_a_status_that_cannot_be_written_is_told_as_the_disk_will_tell_it(tmp_path, monkeypatch):
    write_status, told = Entry.write, []
    monkeypatch.setattr(runner, "PATIENCE", 0.5)

    def full(entry, status):
        if status.state == "done":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_status(entry, status)

    monkeypatch.setattr(Entry, "write", full)
    planned = plan(walk(tmp_path), results=tmp_path)
    carry_out(
        planned, [Notebook.read(walk(tmp_path))], batches.Limits(1), ended=lambda run, status: told.append(status)
    )
    assert told[0].state == "killed" and "No space left on device); it would be: done" in told[0].reason
    assert states(planned) == ["killed"]


LEFT = "import subprocess, time\nfrom pathlib import Path\n" + (
    "child = subprocess.Popen(['sleep', '300'], start_new_session=True)\nPath(results, 'at').touch()\ntime.sleep(300)"
)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGHUP])
def test_nothing_goes_on_when_the_command_is_gone(tmp_path, sent):
    notebook = write(tmp_path / "n.ipynb", LEFT, parameters="i: int = 0  # the run", place=True)
    command = [*HATLAB, "batch", str(notebook), "--results", str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait(lambda: (tmp_path / "at").exists())
    (run,) = find(tmp_path).runs
    folder = str(find(tmp_path).entry(run).folder)
    assert len(marked(RUN, folder)) == 2
    os.killpg(process.pid, sent)
    process.wait(120)
    wait(lambda: not marked(RUN, folder))
    assert states(find(tmp_path)) == ["killed" if sent == signal.SIGKILL else "queued"]


def test_a_run_of_a_scheduler_ends_when_the_command_is_gone(tmp_path):
    notebook = write(tmp_path / "n.ipynb", LEFT, parameters="i: int = 0  # the run", place=True)
    with cluster(1) as (address, _):
        command = [*HATLAB, "batch", str(notebook), "--results", str(tmp_path), "--scheduler", address]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait(lambda: (tmp_path / "at").exists())
        process.kill()
        process.wait()
        wait(lambda: states(find(tmp_path)) == ["queued"])
        (run,) = find(tmp_path).runs
        wait(lambda: not marked(RUN, str(find(tmp_path).entry(run).folder)))


def test_a_fair_share_of_the_memory_is_that_of_one_run(tmp_path, monkeypatch):
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 8_000_000_000)
    limits = []
    monkeypatch.setattr("hatlab.batches.cluster.perform", lambda job: limits.append(job.memory) or Status("failed"))
    batch(walk(tmp_path), over={"i": range(2)}, results=tmp_path, workers=200)
    assert limits == [4_000_000_000] * 2


def test_a_notebook_travels_as_a_file_not_with_each_run(tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr("hatlab.batches.cluster.perform", lambda job: jobs.append(job) or Status("failed"))
    found = batch(walk(tmp_path), over={"i": range(3)}, results=tmp_path, workers=1)
    assert len({job.notebook for job in jobs}) == 1 and Notebook.read(jobs[0].notebook).checksum == found.runs[0].source


def test_a_copy_of_the_notebook_that_was_altered_is_not_run(tmp_path):
    planned, source = plan(walk(tmp_path), results=tmp_path), Notebook.read(walk(tmp_path))
    (copy,) = planned.save([source]).values()
    copy.write_text(Notebook.read(write(tmp_path / "other.ipynb", "1 / 0")).text)
    job = runner.Assignment(planned.runs[0], copy, tmp_path, tmp_path, "call")
    assert "was altered after the batch was planned" in runner.perform(job).reason


# --- the morning after ------------------------------------------------------------------------------------------------


def fails_below(folder, bound):
    code = f"assert i >= {bound}, f'run {{i}} cannot'\n{TABLE}"
    return write(folder / "n.ipynb", code, parameters="i: int = 0  # the run", place=True)


class Told:
    """Takes messages in the place of `Notices`."""

    def __init__(self):
        self.got = []

    def send(self, title, body):
        self.got.append((title, body))
        return []


@pytest.mark.parametrize(("stop_after", "ran"), [(None, 5), (3, 3), (0, 12)])
def test_like_failures_end_a_batch(tmp_path, stop_after, ran):
    notebook = fails_below(tmp_path, 99)
    done = batch(notebook, over={"i": list(range(12))}, results=tmp_path / "out", workers=1, stop_after=stop_after)
    states = [status.state for status in done.statuses().values()]
    # one more may have begun when it was known, and is interrupted
    assert states.count("failed") in (ran, ran + 1) and set(states) <= {"failed", "queued", "killed"}


def test_five_of_the_first_five_and_not_five_of_six(tmp_path):
    notebook = fails_below(tmp_path, 7)
    order = [7, *range(7), 8, 9]  # the first of all is done
    done = batch(notebook, over={"i": order}, results=tmp_path / "out", workers=1)
    assert [status.state for status in done.statuses().values()].count("failed") == 7 and not done.done


def test_one_message_when_a_batch_ends_with_what_became_of_it(tmp_path):
    notebook = fails_below(tmp_path, 2)
    source, told = Notebook.read(notebook), Told()
    planned = plan(source, over={"i": [0, 1, 2]}, results=tmp_path / "out", name="night")
    carry_out(planned, [source], Limits(workers=2), notices=told)
    ((title, body),) = told.got
    assert title == "hatlab: night ended: 1 of 3 done, 2 failed"
    assert "2 runs failed: cell 3, AssertionError: run " in body and "-p i=" in body
    carry_out(planned, [source], Limits(workers=2, stop_after=1), notices=told)
    assert told.got[1][0].startswith("hatlab: night stopped: 1 of 3 done")
    assert "stopped: 1 run ended by the same cause (cell 3: AssertionError: run " in told.got[1][1]


def test_a_batch_that_does_not_move_is_told_once_as_stalled(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "LOOK_SECONDS", 0.2)
    notebook = write(tmp_path / "n.ipynb", "import time\ntime.sleep(6)", parameters="i: int = 0  # the run", place=True)
    source, told = Notebook.read(notebook), Told()
    planned = plan(source, results=tmp_path / "out", name="night")
    carry_out(planned, [source], Limits(workers=1), notices=told, stall=1.5)
    assert [title.split(":")[1] for title, _ in told.got] == [" night stalled", " night ended"]


def test_a_message_that_cannot_be_sent_is_a_warning_and_what_is_secret_reaches_no_kernel(tmp_path, monkeypatch, capsys):
    code = f"import os\nassert 'HATLAB_NOTIFY' not in os.environ\n{TABLE}"
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 0  # the run", place=True)
    monkeypatch.setenv("HATLAB_NOTIFY", "json://hunter2")
    assert from_environment() == ["json://hunter2"]  # as the command does
    done = batch(
        notebook,
        results=tmp_path / "out",
        workers=1,
        notify_command=f"{sys.executable} -c 'import sys; sys.exit(4)' hunter2",
    )
    assert "warning: the message about the batch was not sent: " in (said := capsys.readouterr().err)
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert done.done and "hunter2" not in said and not any(b"hunter2" in content for content in written)


class Busy:
    """An execution whose kernel does not answer."""

    cell, pid, beating, cells = 2, None, False, ()


@pytest.mark.parametrize(("looked", "state"), [(1.0, "killed"), (150.0, None)])
def test_a_machine_that_was_suspended_kills_no_run(tmp_path, looked, state):
    """The last sign of life is 150 s old; that is silence where the runner looked a second ago, else it slept, too."""
    notebook = walk(tmp_path)
    planned = plan(notebook, results=tmp_path / "out")
    job = runner.Assignment(planned.runs[0], notebook, tmp_path / "out", tmp_path, "a call", timeout=100)
    watch = runner._Watch(job, planned.entry(planned.runs[0]), lambda: True)
    then = time.monotonic() - 150
    watch.heard, watch.clock, watch.awake = then, time.monotonic() - looked, time.monotonic() - looked
    assert watch._verdict(Busy())[0] == state
    assert watch.awake == pytest.approx(time.monotonic(), abs=1)
