import io
import json
import sys
import threading
import time
from functools import partial

import pytest

from hatlab.progress import (
    PROGRESS_FILE,
    ConsoleProgress,
    FileProgress,
    Progress,
    default_progress,
    follow,
)


def play(progress: Progress, epochs: int = 3) -> None:
    """A sweep of two runs: one loaded, one resumed after its first task of three."""
    progress.sweep_started(2)
    progress.run_started("a" * 12, "digits c=0", 0, 40, 0)
    progress.run_done(True)
    progress.run_started("b" * 12, "digits c=0.75", 3, 40, 1)
    for task in (1, 2):
        for epoch in range(epochs):
            progress.epoch_done(task, epoch, 0.9, 0.25)
        progress.task_done(task, epochs, 0.984, 0.456)
    progress.run_done(False)
    progress.close()


class Recorder(Progress):
    """Keeps what it is told."""

    def __init__(self):
        self.events = []
        for name in ("sweep_started", "run_started", "epoch_done", "task_done", "run_done"):
            setattr(self, name, partial(self.keep, name))

    def keep(self, name, *args, **kwargs):
        self.events.append((name, *args, *kwargs.values()))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_there_is_one_clean_line_per_task():
    stream = io.StringIO()
    play(ConsoleProgress(stream))
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[:3] for line in lines] == [
        ["run 1/2", "digits c=0", "finished before, loaded"],
        ["run 2/2", "digits c=0.75", "resumed after task 1/3"],
        ["run 2/2", "digits c=0.75", "task 2/3"],
        ["run 2/2", "digits c=0.75", "task 3/3"],
        ["2 runs done in 0.0 s (1 loaded)"],
    ]
    assert "3 epochs  test accuracy 98.4%  capacity usage 45.6%" in lines[2]
    assert lines[2].endswith(" left") and "left" not in lines[3]
    assert stream.getvalue().replace("\n", "").isprintable() and stream.getvalue().isascii()


def test_a_run_on_its_own_is_not_numbered():
    stream = io.StringIO()
    progress = ConsoleProgress(stream)
    for _ in range(2):
        progress.run_started("c" * 12, "digits", 1, 40, 0)
        progress.task_done(0, 7, 1.0, 0.5)
        progress.run_done(False)
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == ["digits", "digits"]


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


def test_events_are_replayed_by_another_process(tmp_path):
    path = tmp_path / "events.jsonl"
    expected, seen, done = Recorder(), Recorder(), threading.Event()
    play(expected, epochs=1)

    def write():
        time.sleep(0.05)  # the file is not there when the reader starts
        progress = FileProgress(path)
        play(progress, epochs=1)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    follow(path, seen, until=done.is_set, interval=0.01)
    writer.join()
    thinned = [event for event in expected.events if event[0] != "epoch_done"]
    assert [event for event in seen.events if event[0] != "epoch_done"] == thinned
    assert ("epoch_done", 1, 0, 0.9, 0.25) in seen.events


def test_half_written_lines_are_left_for_later(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "sweep_started", "n_runs": 2}\n{"event": "run_d')
    seen, turns = Recorder(), iter([False, True])

    def until():
        turn = next(turns)
        if turn:
            with path.open("ab") as file:
                file.write(b'one", "loaded": true}\n')
        return turn

    follow(path, seen, until, interval=0)
    assert seen.events == [("sweep_started", 2), ("run_done", True)]


def test_epochs_in_the_file_are_thinned_and_cost_next_to_nothing(tmp_path):
    progress = FileProgress(tmp_path / "events.jsonl")
    console = ConsoleProgress(io.StringIO())
    console.run_started("d" * 12, "digits", 1, 10_000, 0)
    started = time.perf_counter()
    for epoch in range(10_000):
        progress.epoch_done(0, epoch, 0.5, 0.5)
        console.epoch_done(0, epoch, 0.5, 0.5)
    assert time.perf_counter() - started < 2  # 0.2 ms an epoch, on a slow machine
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) < 100


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_display_that_fails_goes_quiet(error, kind, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = kind()

    def write(text):
        raise error

    stream.write = write
    play(ConsoleProgress(stream))


def test_a_file_that_cannot_be_written_goes_quiet(tmp_path):
    play(FileProgress(tmp_path / "no such folder" / "events.jsonl"))


def test_default_goes_to_standard_error_and_to_the_file_named_in_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(PROGRESS_FILE, raising=False)
    play(default_progress())
    plain = capsys.readouterr()
    assert plain.out == "" and "2 runs done" in plain.err
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "events.jsonl"))
    play(default_progress())
    assert "2 runs done" in capsys.readouterr().err
    first = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[0])
    assert first == {"event": "sweep_started", "n_runs": 2}


def test_a_notebook_gets_its_lines_on_standard_output(monkeypatch, capsys):
    class Shell:
        kernel = object()

    class IPython:
        get_ipython = Shell

    monkeypatch.delenv(PROGRESS_FILE, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", IPython)
    play(default_progress())
    captured = capsys.readouterr()
    assert captured.err == "" and "2 runs done" in captured.out
