import io
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, Group

from hatlab.batches import view
from hatlab.batches.ledger import NotebookRun, Status
from hatlab.batches.plans import Batch, Planned
from hatlab.batches.view import Display, Watch, as_json, console, one_line, table
from hatlab.support.console import PROGRESS_FILE
from hatlab.support.progress import FileProgress
from hatlab.support.provenance import now


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
        monkeypatch.setattr(view, "QUIET_SECONDS", -1)
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
    assert stream.getvalue().count(": failed: no") == view.MOST_TOLD
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
    monkeypatch.setattr(view, "QUIET_SECONDS", -1)
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
        ids[0]: Status("done", seconds=3.0, cpu=2.5, memory=2_000_000_000),
        ids[1]: Status(
            "running", started=(datetime.now(UTC) - timedelta(seconds=200.2)).isoformat(), cell=2, n_cells=5
        ),
        ids[2]: Status("killed", reason="[bold]its kernel died[/bold]\nand more"),
    }
    stream = io.StringIO()
    Console(file=stream, width=120).print(table(batch, statuses))
    lines = [re.sub(" +", " ", line).strip() for line in stream.getvalue().splitlines()]
    assert lines == [
        "run state c time CPU memory cell",
        f"{ids[0]} done 0 3.0 s 2.5 s 2.00 GB",
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
    assert rows[0] == ["run", "state", "figure", "time", "CPU", "memory", "cell"]
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
        monkeypatch.setattr(view, "LIVE_SECONDS", -1)
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


NASTY = "\x1b[31mred\x1b[0m \x1b]0;title\x07[bold]x[/bold]\ttab \x08\x00\u202e\ud800 \u2028next"
SAFE = "red [bold]x[/bold] tab \\x08\\x00\\u202e\\ud800"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (NASTY, SAFE),
        ("", ""),
        ("\n \n first \r\nsecond", "first"),
        ("x" * 300, "x" * 300),
        ("x" * 301, "x" * 299 + "…"),
        ("größer ≥ 1", "größer ≥ 1"),
    ],
)
def test_one_line_of_a_text_is_safe_on_a_terminal(text, shown):
    assert one_line(text) == shown


@given(st.text(max_size=400), st.integers(1, 300))
def test_one_line_is_printable_and_not_too_long(text, most):
    line = one_line(text, most)
    assert len(line) <= most and line.isprintable()
    line.encode()


def test_control_characters_in_names_values_and_reasons_stay_out_of_the_terminal(tmp_path):
    runs = tuple(NotebookRun("n.ipynb", "s", {}, {"a\x1b[31m": f"{NASTY}{i}", "b": [NASTY]}, "0", {}) for i in range(2))
    batch, stream = Batch("night", runs, tmp_path), io.StringIO()
    with Display(stream) as shown:
        shown.start(batch, [Planned(run, Status("queued"), f"stale: {NASTY}") for run in runs])
        shown.ended(runs[0], Status("failed", reason=NASTY))
        shown.ended(runs[1], Status("failed", reason=NASTY))
    console(stream).print(table(batch, {run.run_id: Status("failed", reason=NASTY) for run in runs}))
    text = stream.getvalue()
    assert text.replace("\n", "").isprintable() and text.count(SAFE) == 5
    assert all(ord(character) < 0xD800 for character in text)


def test_of_an_error_message_of_any_size_a_line_is_shown(tmp_path):
    batch, stream = made(tmp_path, 1), io.StringIO()
    status = Status("failed", reason="in cell [3]: ValueError: " + "no " * 300_000)
    console(stream).print(table(batch, {batch.runs[0].run_id: status}))
    with Display(stream) as shown:
        shown.start(batch, planned(batch, "queued"))
        shown.ended(batch.runs[0], status)
    assert len(stream.getvalue()) < 1500 and stream.getvalue().count("in cell [3]: ValueError: no no") == 2


def test_what_a_done_run_has_to_say_is_told(tmp_path):
    batch, stream = made(tmp_path, 2), io.StringIO()
    said = [Status("done", seconds=1, reason="left no table"), Status("done", seconds=1)]
    statuses = {run.run_id: status for run, status in zip(batch.runs, said, strict=True)}
    with Display(stream) as shown:
        shown.start(batch, planned(batch, "queued", "queued"))
        for run in batch.runs:
            shown.ended(run, statuses[run.run_id])
    console(stream).print(table(batch, statuses))
    lines = stream.getvalue().splitlines()
    assert lines[1] == f"{batch.runs[0].run_id} c=0: done: left no table"
    assert lines[2].startswith("night: 2 of 2 done; ") and lines[4].endswith("  left no table")
    assert lines[5].split() == [batch.runs[1].run_id, "done", "0.25", "1.0", "s"]


def test_json_is_strict(tmp_path):
    values = {"c": math.nan, "more": [math.inf, {"less": -math.inf}], "text": NASTY}
    batch = Batch("night", (NotebookRun("n.ipynb", "s", {}, values, "0", {}),), tmp_path)
    text = as_json(
        batch, {batch.runs[0].run_id: Status("failed", seconds=math.nan, reason=NASTY, error={"x": math.inf})}
    )

    def refuse(constant):
        raise AssertionError(constant)

    (run,) = json.loads(text, parse_constant=refuse)["runs"]
    assert run["parameters"] == {"c": "NaN", "more": ["Infinity", {"less": "-Infinity"}], "text": NASTY}
    assert run["seconds"] == "NaN" and run["error"] == {"x": "Infinity"} and run["reason"] == NASTY


def test_a_table_for_a_screen_has_what_matters_first_and_the_sums(tmp_path):
    batch = made(tmp_path, 40)
    states = ["done"] * 20 + ["queued"] * 15 + ["failed"] * 3 + ["running"] * 2
    statuses = {
        run.run_id: Status(state, started=now(), reason="long " * 40)
        for run, state in zip(batch.runs, states, strict=True)
    }
    shown = table(batch, statuses, most=7)
    lines = shown.plain.splitlines()
    assert [line.split()[1] for line in lines[1:8]] == ["running"] * 2 + ["failed"] * 3 + ["queued"] * 2
    assert lines[8:] == ["and 33 more", "night: 20 of 40 done, 2 running, 15 queued, 3 failed"]
    stream = io.StringIO()
    Console(file=stream, width=60).print(Group(shown))  # as Live does
    assert len(stream.getvalue().splitlines()) == 10  # on a screen a line is a line
    assert [line.split()[1] for line in table(batch, statuses).plain.splitlines()[1:-1]] == states


@given(st.lists(st.text("ab\u4e2d\u0301", max_size=6), min_size=2, max_size=5, unique=True))
def test_columns_stand_below_each_other(texts):
    runs = tuple(NotebookRun("n.ipynb", "s", {}, {"a": text, "z": "#"}, str(i), {}) for i, text in enumerate(texts))
    batch = Batch("night", (*runs, replace(runs[0], values={"a": "", "z": "##"})), Path())
    lines = table(batch, {run.run_id: Status("queued") for run in batch.runs}).plain.splitlines()
    assert len({cell_len(line[: line.index("#")]) for line in lines[1:-1]}) == 1


class Disk:
    """Counts which runs are read of a batch whose statuses are said by hand."""

    def __init__(self, batch):
        self.states = {run.run_id: "queued" for run in batch.runs}
        self.read = []

    def __call__(self, entry):
        self.read.append(entry.run_id)
        return Status(self.states[entry.run_id])


def test_a_look_costs_as_much_as_runs_are_under_way(tmp_path):
    batch = made(tmp_path, 5000)
    ids, disk = [run.run_id for run in batch.runs], Disk(batch)
    watch = Watch(batch, {run_id: Status("queued") for run_id in ids})
    for first in range(0, 1000, 10):  # ten at a time, in order
        for place, run_id in enumerate(ids[: first + 10]):
            disk.states[run_id] = "running" if place >= first else "done"
        disk.read.clear()
        watch.look(disk, known=["done"])
        assert len(disk.read) <= 10 + 2 * view.LOOKS
        assert list(watch.running) == ids[first : first + 10]
    assert str(watch) == "990 of 5000 done, 10 running, 4000 queued"


def test_a_run_that_is_not_next_is_seen_when_it_is_its_turn(tmp_path):
    batch = made(tmp_path, 1000)
    ids, disk = [run.run_id for run in batch.runs], Disk(batch)
    watch = Watch(batch, {run_id: Status("queued") for run_id in ids})
    disk.states |= {ids[700]: "running", ids[999]: "failed"}
    for _ in range(1000 // view.LOOKS):
        watch.look(disk, known=["done"])
    assert str(watch) == "0 of 1000 done, 1 running, 998 queued, 1 failed" and list(watch.running) == [ids[700]]
    disk.states[ids[999]] = "running"  # it is tried again
    for _ in range(1 + 1000 // view.LOOKS):
        watch.look(disk, known=["done"])
    assert list(watch.running) == [ids[700], ids[999]]


def test_a_screen_has_room_for_some_of_the_running(tmp_path, monkeypatch):
    monkeypatch.setattr(view, "LIVE_SECONDS", -1)
    monkeypatch.setattr(view, "QUIET_SECONDS", -1)
    batch = made(tmp_path, 60)
    shown = Display(io.StringIO())
    shown.start(batch, planned(batch, *["queued"] * 60))
    for run in batch.runs:
        batch.entry(run).describe(run)
        batch.entry(run).write(Status("running", started=now()))
    for _ in range(2):
        shown.tick()
    lines = shown._lines().plain.splitlines()
    assert lines[0] == "0 of 60 done, 60 running" and len(lines) == shown.console.height - 1
    assert lines[-1] == f"  and {60 - (len(lines) - 2)} more"
