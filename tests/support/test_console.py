import io
import json
import sys
import threading

import pytest
from test_progress import play

from hatlab.support.console import PROGRESS_FILE, ConsoleProgress, default_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_there_is_one_clean_line_per_task(monkeypatch):
    monkeypatch.setattr("hatlab.support.console.EPOCH_INTERVAL", 1000)  # on a slow machine too
    stream = io.StringIO()
    play(ConsoleProgress(stream))
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[:3] for line in lines] == [
        ["run 1/3", "digits c=0", "finished before, loaded"],
        ["run 2/3", "digits c=0.75", "resumed after task 1/3"],
        ["run 2/3", "digits c=0.75", "task 2/3"],
        ["no memory for 2 runs at once: halved"],
        ["run 3/3", "digits c=1.5", "task 1/3"],
        ["run 2/3", "digits c=0.75", "task 3/3"],
        ["run 3/3", "digits c=1.5", "task 2/3"],
        ["run 3/3", "digits c=1.5", "task 3/3"],
        ["3 runs done in 0.0 s (1 loaded)"],
    ]
    assert "  3 epochs  test accuracy 98.4%  capacity usage 45.6%" in lines[2]
    # many tasks end in one instant: the first tells the time left
    assert [number for number, line in enumerate(lines) if line.endswith(" left")] == [2]
    assert stream.getvalue().replace("\n", "").isprintable() and stream.getvalue().isascii()


def test_of_many_runs_only_the_count_is_told():
    stream = io.StringIO()
    progress = ConsoleProgress(stream)
    progress.sweep_started(30)
    for k in range(30):
        progress.run_started(f"r{k}", f"digits seed={k}", 0 if k < 3 else 5, 2, 0)
        if k < 3:
            progress.run_done(f"r{k}", loaded=True)
    for task in range(5):
        for k in range(3, 30):
            progress.task_done(f"r{k}", task, 2, 0.99, 0.5)
    for k in range(3, 30):
        progress.run_done(f"r{k}", loaded=False)
    lines = stream.getvalue().splitlines()
    assert 9 <= len(lines) <= 11 and lines[-1].startswith("30 runs done in ") and lines[-1].endswith("(3 loaded)")
    assert lines[0].startswith("14 of 135 tasks of 30 runs done")


def test_a_run_on_its_own_is_not_numbered_and_its_tasks_are_timed():
    stream = io.StringIO()
    progress = ConsoleProgress(stream)
    for run in ("c" * 12, "d" * 12):
        progress.run_started(run, "digits", 1, 40, 0)
        progress.task_done(run, 0, 7, 1.0, 0.5)
        progress.run_done(run, False)
    line = "digits  task 1/1  7 epochs  test accuracy 100.0%  capacity usage 50.0%  0.0 s"
    assert stream.getvalue().splitlines() == [line, line]


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_what_was_never_announced_is_shown_under_its_id(kind, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = kind()
    with ConsoleProgress(stream) as progress:
        progress.epoch_done("e" * 12, 0, 0, 0.9, 0.25)
        progress.task_done("e" * 12, 0, 1, 0.9, 0.25)
        progress.run_done("f" * 12, False)
    assert "e" * 12 in stream.getvalue()


def test_bars_tell_of_all_runs_and_of_the_one_heard_of_last(monkeypatch):
    progress = ConsoleProgress(Terminal(), live=True)
    rows = {task.description: task for task in progress._bars._rich.tasks}
    monkeypatch.setattr(progress._bars, "due", lambda: True)
    progress.sweep_started(3)
    for run in "ab":
        progress.run_started(run, f"digits c={run}", 2, 40, 0)
    progress.epoch_done("b", 0, 4, 0.9, 0.25)
    progress.task_done("a", 0, 5, 0.9, 0.25)
    progress.task_done("a", 1, 5, 0.9, 0.25)
    progress.run_done("a", False)
    progress.epoch_done("b", 0, 5, 0.9, 0.25)
    shown = {name: (row.completed, row.total) for name, row in rows.items() if row.visible}
    assert shown == {"runs": (1, 3), "tasks": (2, 6), "epochs": (6, 40)}
    assert rows["runs"].fields["info"].startswith("about ") and rows["tasks"].fields["info"] == "digits c=b  task 1/2"
    assert rows["epochs"].fields["info"] == "valid. accuracy 90.0%  capacity usage 25.0%"
    progress.close()
    progress.run_started("c", "digits c=c", 2, 40, 0)
    assert [name for name, row in rows.items() if row.visible] == ["tasks", "epochs"]
    progress.close()


def test_a_terminal_gets_bars_and_its_cursor_back(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = ConsoleProgress(stream)
    play(progress)
    text = stream.getvalue()
    assert "epochs" in text and "tasks" in text and "runs" in text and "\x1b[2K" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert not any(thread.name.startswith("_Refresh") for thread in threading.enumerate())


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    play(ConsoleProgress(stream))
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_display_that_fails_goes_quiet(error, kind, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = kind()

    def write(text):
        raise error

    stream.write = write
    play(ConsoleProgress(stream))


def test_default_goes_to_standard_error_and_to_the_file_named_in_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(PROGRESS_FILE, raising=False)
    play(default_progress())
    plain = capsys.readouterr()
    assert plain.out == "" and "3 runs done" in plain.err
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "events.jsonl"))
    play(default_progress())
    assert "3 runs done" in capsys.readouterr().err
    first = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[0])
    assert first == {"event": "sweep_started", "n_runs": 3}


def test_a_notebook_gets_its_lines_on_standard_output(monkeypatch, capsys):
    class Shell:
        kernel = object()

    class IPython:
        get_ipython = Shell

    monkeypatch.delenv(PROGRESS_FILE, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", IPython)
    play(default_progress())
    captured = capsys.readouterr()
    assert captured.err == "" and "3 runs done" in captured.out
