import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from hatlab import batch_view
from hatlab.batch_view import Display, as_json, console, estimate, table
from hatlab.ledger import Entry, NotebookRun, Status
from hatlab.plans import Batch, Planned
from hatlab.progress import PROGRESS_FILE, FileProgress


def made(tmp_path, n=3):
    runs = tuple(
        NotebookRun("n.ipynb", "s", {"c": i / 4}, {"c": i / 4, "widths": [1, 2], "mode": "original"}, "0", {})
        for i in range(n)
    )
    return Batch("night", runs, tmp_path)


def planned(batch, *states):
    return [
        Planned(run, Status(state), "" if state == "done" else "new")
        for run, state in zip(batch.runs, states, strict=True)
    ]


def test_a_log_is_told_failures_at_once_and_counts_now_and_then(tmp_path, monkeypatch):
    batch, stream = made(tmp_path), io.StringIO()
    with Display(stream) as shown:
        shown.start(batch, planned(batch, "done", "queued", "queued"))
        shown.tick()
        shown.ended(batch.runs[1], Status("failed", reason="in cell [3]: ValueError: no\nway"))
        shown.ended(batch.runs[2], Status("done", seconds=30))
        monkeypatch.setattr(batch_view, "QUIET_SECONDS", -1)
        shown.tick()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "night: 1 of 3 done, 2 queued"
    assert lines[1] == f"{batch.runs[1].run_id} c=0.25: failed: in cell [3]: ValueError: no"
    assert lines[2].startswith("2 of 3 done, 1 failed")
    assert lines[3].startswith("night: 2 of 3 done, 1 failed; ") and len(lines) == 4
    assert "\x1b" not in stream.getvalue()


def test_many_failures_do_not_fill_the_log(tmp_path):
    batch, stream = made(tmp_path, 30), io.StringIO()
    with Display(stream) as shown:
        shown.start(batch, planned(batch, *["queued"] * 30))
        for run in batch.runs:
            shown.ended(run, Status("failed", reason="no"))
    assert stream.getvalue().count(": failed: no") == batch_view.MOST_TOLD
    assert stream.getvalue().count("hatlab status night has them all") == 1


def test_a_terminal_shows_what_runs_and_the_time_left(tmp_path, monkeypatch):
    batch = made(tmp_path)
    shown = Display(io.StringIO())
    shown.start(batch, planned(batch, "done", "queued", "queued"))
    shown.ended(batch.runs[0], Status("done", seconds=100))
    entry = batch.entry(batch.runs[1])
    entry.describe(batch.runs[1])
    started = (datetime.now(UTC) - timedelta(seconds=40.2)).isoformat()
    entry.write(Status("running", started=started, cell=2, n_cells=5))
    monkeypatch.setattr(batch_view, "QUIET_SECONDS", -1)
    shown.tick()
    text = shown._lines().plain
    assert text.splitlines() == [
        "1 of 3 done, 1 running, 1 queued, about 2 min 40 s left",
        f"  {batch.runs[1].run_id} c=0.25  cell 2/5  40 s",
    ]


def test_the_table_has_a_row_for_each_run_and_what_varies(tmp_path):
    batch = made(tmp_path)
    ids = [run.run_id for run in batch.runs]
    statuses = {
        ids[0]: Status("done", seconds=3.0, memory=2_000_000_000),
        ids[1]: Status(
            "running", started=(datetime.now(UTC) - timedelta(seconds=200.2)).isoformat(), cell=2, n_cells=5
        ),
        ids[2]: Status("killed", reason="[bold]its kernel died[/bold]\nand more"),
    }
    stream = io.StringIO()
    Console(file=stream, width=120).print(table(batch, statuses))
    lines = [re.sub(" +", " ", line).strip() for line in stream.getvalue().splitlines()]
    assert lines == [
        "run state c time memory cell",
        f"{ids[0]} done 0 3.0 s 2.00 GB",
        f"{ids[1]} running 0.25 3 min 20 s 2/5",
        f"{ids[2]} killed 0.5 [bold]its kernel died[/bold]",
        "night: 1 of 3 done, 1 running, 1 killed",
    ]


def test_json_holds_all_that_is_known(tmp_path):
    batch = made(tmp_path, 1)
    status = Status("failed", 2, "why", error={"cell": 3})
    content = json.loads(as_json(batch, {batch.runs[0].run_id: status}))
    assert content["counts"] == {"failed": 1} and content["batch"] == "night" and content["notebook"] == "n.ipynb"
    (run,) = content["runs"]
    assert run["parameters"] == batch.runs[0].values and run["error"] == {"cell": 3} and run["attempt"] == 2


def test_figures_of_reproduce_are_called_by_their_names(tmp_path):
    plain, stream = made(tmp_path), io.StringIO()
    runs = (plain.runs[0], replace(plain.runs[1], notebook="m.ipynb"))
    batch = Batch("reproduce-quick", runs, tmp_path, {runs[0].run_id: "curve", runs[1].run_id: "table"})
    assert batch.notebook == "n.ipynb, m.ipynb"
    with Display(stream) as shown:
        shown.start(batch, planned(batch, "queued", "queued"))
        shown.ended(runs[0], Status("done", seconds=30))
        assert shown._left() == ""  # the other takes as long as it takes
        shown.ended(runs[1], Status("failed", reason="in cell [3]: ValueError: no"))
    assert stream.getvalue().splitlines()[1] == "table: failed: in cell [3]: ValueError: no"
    statuses = {run.run_id: Status("done", seconds=3.0) for run in runs}
    stream = io.StringIO()
    Console(file=stream, width=120).print(table(batch, statuses))
    rows = [line.split() for line in stream.getvalue().splitlines()]
    assert rows[0] == ["run", "state", "figure", "time", "memory", "cell"]
    assert rows[1][:3] == [runs[0].run_id, "done", "curve"] and rows[2][2] == "table"
    found = json.loads(as_json(batch, statuses))["runs"]
    assert [(run["figure"], run["notebook"]) for run in found] == [("curve", "n.ipynb"), ("table", "m.ipynb")]


def test_a_terminal_shows_the_training_inside_a_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    batch = made(tmp_path, 1)
    (run,) = batch.runs
    with Display(io.StringIO()) as piped:
        piped.start(batch, planned(batch, "queued"))
        assert piped.environment(run) == {}
    with Display(Terminal()) as shown:
        shown.start(batch, planned(batch, "queued"))
        path = Path(shown.environment(run)[PROGRESS_FILE])
        batch.entry(run).describe(run)
        batch.entry(run).write(Status("running", started=datetime.now(UTC).isoformat(), cell=2, n_cells=5))
        monkeypatch.setattr(batch_view, "LIVE_SECONDS", -1)
        shown.tick()
        assert shown._lines().plain.splitlines()[1].endswith("  cell 2/5  0.0 s")
        told = FileProgress(path)
        told.sweep_started(3)
        told.run_started("a", "digits", 5, 40, 0)
        told.epoch_done("a", 0, 0, 0.9, 0.5)
        told.task_done("a", 0, 7, 0.9, 0.5)
        assert "  3 runs: 1 of 15 tasks, about " in shown._lines().plain
    assert not path.parent.exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_pipe_is_not_broken_into_lines(tmp_path):
    assert console(io.StringIO()).width == 240
    assert console(io.StringIO(), prose=True).width == 110


@pytest.mark.parametrize(("todo", "text"), [(0, "nothing to do"), (5, "5 to do; no run of n.ipynb has been timed yet")])
def test_without_earlier_runs_there_is_no_estimate(tmp_path, todo, text):
    assert estimate(made(tmp_path), todo, 2) == text


def test_the_estimate_is_of_earlier_runs_of_the_same_notebook(tmp_path):
    batch = made(tmp_path)
    for run, seconds in zip(batch.runs, (60, 120, 0), strict=True):
        entry = Entry(tmp_path, run.run_id)
        entry.describe(run)
        entry.write(Status("done" if seconds else "failed", seconds=seconds))
    other = replace(batch.runs[0], notebook="m.ipynb")
    Entry(tmp_path, other.run_id).describe(other)
    Entry(tmp_path, other.run_id).write(Status("done", seconds=10_000))
    told = estimate(batch, 5, 2)
    assert told == (
        "5 to do, about 4 min 30 s with 2 at a time (1 min 30 s each, the mean of 2 earlier runs of n.ipynb)"
    )


def test_what_is_stale_is_told_once_for_each_reason(tmp_path):
    batch, stream = made(tmp_path, 5), io.StringIO()
    why = ["stale: the notebook was changed"] * 3 + ["stale: a.csv is missing", "new"]
    looked = [Planned(run, Status("queued"), reason) for run, reason in zip(batch.runs, why, strict=True)]
    with Display(stream) as shown:
        shown.start(batch, looked)
    assert stream.getvalue().splitlines()[:2] == [
        f"{batch.runs[0].run_id} c=0 and 2 more: stale: the notebook was changed",
        f"{batch.runs[3].run_id} c=0.75: stale: a.csv is missing",
    ]
