import io
import math
import re
import threading
import time
from functools import partial

import pytest

from hatlab.support.console import ConsoleProgress
from hatlab.support.progress import EVENTS, Eta, FileProgress, Progress, Replay, Shared, format_seconds


def play(progress: Progress, epochs: int = 3) -> None:
    """A sweep of three runs: one loaded, one resumed after its first task of three, one beside it from its start on."""
    progress.sweep_started(3)
    progress.run_started("a" * 12, "digits c=0", 0, 40, 0)
    progress.run_done("a" * 12, True)
    progress.run_started("b" * 12, "digits c=0.75", 3, 40, 1)
    progress.run_started("c" * 12, "digits c=1.5", 3, 40, 0)
    for run, task in (("b", 1), ("c", 0), ("b", 2), ("c", 1), ("c", 2)):
        for epoch in range(epochs):
            for other in "bc" if (run, task) == ("b", 1) else run:
                progress.epoch_done(other * 12, task if other == run else 0, epoch, 0.9, 0.25)
        progress.task_done(run * 12, task, epochs, 0.984, 0.456)
        if task == 2:
            progress.run_done(run * 12, False)
        if (run, task) == ("b", 1):
            progress.note("no memory for 2 runs at once: halved")
    progress.close()


class Recorder(Progress):
    """Keeps what it is told."""

    def __init__(self):
        self.events = []
        for name in EVENTS:
            setattr(self, name, partial(self.keep, name))

    def keep(self, name, *args, **kwargs):
        self.events.append((name, *args, *kwargs.values()))

    def without_epochs(self):
        return [event for event in self.events if event[0] != "epoch_done"]


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
    replay = Replay(path, seen)
    while not done.is_set():
        replay.go_on()
        time.sleep(0.01)
    writer.join()
    replay.go_on()
    assert seen.without_epochs() == expected.without_epochs()
    for run, task in (("b", 1), ("c", 0)):  # the first of each run
        assert ("epoch_done", run * 12, task, 0, 0.9, 0.25) in seen.events


def test_half_written_lines_are_left_for_later(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "sweep_started", "n_runs": 2}\n{"event": "run_d')
    seen = Recorder()
    replay = Replay(path, seen)
    replay.go_on()
    assert seen.events == [("sweep_started", 2)]
    with path.open("ab") as file:
        file.write(b'one", "run_id": "a", "loaded": true}\n')
    replay.go_on()
    assert seen.events == [("sweep_started", 2), ("run_done", "a", True)]


def test_lines_that_are_no_events_are_passed_over(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text(
        '{"event": "note", "te{"event": "note", "text": "after a full disk"}\n'
        '{"event": "close"}\n{"event": "__init__"}\n{"event": "note", "text": "halved"}\n'
    )
    seen = Recorder()
    Replay(path, seen).go_on()
    assert seen.events == [("note", "halved")]


def test_epochs_in_the_file_are_thinned(tmp_path):
    progress = FileProgress(tmp_path / "events.jsonl")
    console = ConsoleProgress(io.StringIO())
    for shown in (progress, console):
        for run in range(80):
            shown.run_started(f"{run}", "digits", 1, 10_000, 0)
    for epoch in range(125):
        for run in range(80):
            progress.epoch_done(f"{run}", 0, epoch, 0.5, 0.5)
            console.epoch_done(f"{run}", 0, epoch, 0.5, 0.5)
    assert 160 <= len((tmp_path / "events.jsonl").read_text().splitlines()) < 260  # 80 runs and 80 first epochs


def test_every_run_of_a_group_has_its_turn_in_the_file(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("hatlab.support.progress.time.monotonic", lambda: now)
    path, seen = tmp_path / "events.jsonl", Recorder()
    progress = FileProgress(path)
    for run in "abcd":
        progress.run_started(run, "digits", 1, 1000, 0)
    for epoch in range(1000):  # 100 s
        now += 0.1
        for run in "abcd":
            progress.epoch_done(run, 0, epoch, 0.5, 0.5)
    monkeypatch.undo()
    Replay(path, seen).go_on()
    epochs = [event[1] for event in seen.events if event[0] == "epoch_done"]
    assert len(epochs) < 2000
    assert min(epochs.count(run) for run in "abcd") >= 190


def test_a_file_that_cannot_be_written_goes_quiet(tmp_path):
    play(FileProgress(tmp_path / "no such folder" / "events.jsonl"))


def test_a_shared_display_is_told_of_one_event_at_a_time_from_all_threads():
    class Slow(Recorder):
        inside = most = 0

        def keep(self, name, *args):
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.001)
            super().keep(name, *args)
            self.inside -= 1

    slow, other = Slow(), Recorder()
    shared = Shared(slow, other)
    threads = [threading.Thread(target=play, args=(shared,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    once = Recorder()
    play(once)
    assert slow.most == 1
    assert sorted(map(str, slow.events)) == sorted(map(str, other.events)) == sorted(map(str, once.events * 4))


def test_values_are_passed_on_in_order_however_they_are_given():
    seen = Recorder()
    Shared(seen).task_done(usage=0.5, run_id="a", accuracy=0.9, epochs=3, task=0)
    assert seen.events == [("task_done", "a", 0, 3, 0.9, 0.5)]


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def eta_of(n_runs, clock):
    eta = Eta(clock)
    eta.sweep_started(n_runs)
    return eta


def epoch(eta, run, epoch):
    eta.epoch_done(run, 0, epoch, 0.9, 0.5)


def task(eta, run, task, epochs):
    """Return the seconds that it took."""
    eta.task_done(run, task, epochs, 0.9, 0.5)
    return eta.run(run).seconds


def test_time_left_is_a_bound_first_and_then_told_from_finished_tasks(clock):
    eta = eta_of(2, clock)
    eta.run_started("x", "x", n_tasks=2, max_epochs=10, tasks_done=0)
    assert eta.left() == ""
    for n in range(5):
        clock.now += 2
        epoch(eta, "x", n)
    assert eta.left() == "at most 1 min 10 s left"  # 35 of 40 epochs at 2 s; the second run has as many tasks
    assert task(eta, "x", 0, 5) == 10
    assert eta.left() == "about 30 s left"  # three tasks
    for n in range(8):  # the second task takes longer than the first
        clock.now += 2
        epoch(eta, "x", n)
    assert eta.left() == "about 20 s left"
    assert task(eta, "x", 1, 8) == 16
    assert eta.left() == "about 26 s left"  # 2 tasks of 6.5 epochs
    eta.run_done("x", loaded=False)
    assert eta.run("x").seconds == 26
    eta.run_started("y", "y", n_tasks=2, max_epochs=10, tasks_done=0)
    assert eta.left() == "about 26 s left"
    for n in range(2):
        task(eta, "y", n, 6)
    eta.run_done("y", loaded=False)
    assert eta.left() == "" and eta.runs_done == 2 and eta.tasks_done == eta.n_tasks == 4


def group(eta, n, n_tasks=2):
    for run in range(n):
        eta.run_started(str(run), f"seed={run}", n_tasks, 100, 0)


def test_time_left_of_a_group_is_right_from_the_first_of_its_runs_on(clock):
    eta = eta_of(8, clock)
    group(eta, 8)
    clock.now = 4.0
    for run in range(8):
        epoch(eta, str(run), 0)
        # 8 x 2 x 100 epochs, 8 of which take 4 s, whether or not the others have told of theirs yet
        assert eta.left() == f"at most {format_seconds(4 * (1600 - run - 1) / 8)} left"
    for n in range(1, 10):
        clock.now += 4
        for run in range(8):
            epoch(eta, str(run), n)
    task(eta, "3", 0, 10)
    assert eta.left() == "about 40 s left"  # the others are expected to be as far
    for run in (0, 1, 2, 4, 5, 6, 7):
        task(eta, str(run), 0, 10)
    assert eta.left() == "about 40 s left"


def test_runs_that_wait_for_memory_or_for_their_turn_do_not_count_as_at_work(clock):
    eta = eta_of(8, clock)
    group(eta, 8)
    for n in range(50):
        clock.now += 1
        for run in range(2):
            epoch(eta, str(run), n)
    assert eta.left() == f"at most {format_seconds((1600 - 100) / 2)} left"


def test_only_what_was_done_here_counts_of_resumed_and_loaded_runs(clock):
    eta = eta_of(4, clock)
    eta.run_started("loaded", "x", n_tasks=0, max_epochs=100, tasks_done=0)
    eta.run_done("loaded", loaded=True)
    eta.run_started("resumed", "x", n_tasks=4, max_epochs=100, tasks_done=2)
    assert (eta.runs_done, eta.tasks_done, eta.n_tasks) == (1, 2, 12)
    for n in (18, 19):
        clock.now += 1
        epoch(eta, "resumed", n)
    assert eta.left() == f"at most {format_seconds(80 + 900)} left"
    task(eta, "resumed", 2, 20)
    assert eta.left() == f"about {format_seconds(9 * 20)} left"


def test_a_task_resumed_after_its_last_epoch_is_no_measure_of_speed(clock):
    eta = eta_of(1, clock)
    eta.run_started("x", "x", n_tasks=3, max_epochs=10, tasks_done=0)
    clock.now = 1.0
    task(eta, "x", 0, 10)
    assert eta.left() == ""


def test_a_run_begun_again_keeps_its_number(clock):
    eta = eta_of(2, clock)
    group(eta, 2)
    eta.run_started("0", "x", 2, 100, 1)
    eta.run_started("unexpected", "x", 2, 100, 0)
    assert eta.run("0").number == 1 and eta.run("unexpected").number == eta.n_runs == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "?"),
        (math.nan, "?"),
        (math.inf, "?"),
        (10**12, "?"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_read_well(seconds, text):
    assert format_seconds(seconds) == text


def test_the_summary_is_of_the_sweep_that_is_under_way(tmp_path):
    path = tmp_path / "events.jsonl"
    eta = Eta()
    replay = Replay(path, eta)

    def summary():
        replay.go_on()
        return eta.summary()

    assert summary() == ""  # nothing has been told yet
    told = FileProgress(path)
    told.sweep_started(3)
    told.run_started("a", "digits c=0", 5, 40, 0)
    told.run_done("a", loaded=True)
    told.run_started("b", "digits c=1", 5, 40, 2)
    told.epoch_done("b", 2, 0, 0.9, 0.5)
    assert re.fullmatch(r"3 runs: 7 of 15 tasks, at most .* left", summary())
    told.task_done("b", 2, 1, 0.9, 0.5)
    assert re.fullmatch(r"3 runs: 8 of 15 tasks, about .* left", summary())
    for run in "bc":
        told.run_started(run, "digits", 5, 40, 0)
        told.run_done(run, loaded=False)
    assert summary() == ""  # the notebook does something else
    told.sweep_started(1)
    told.run_started("d", "digits", 5, 40, 0)
    assert summary() == "1 run: 0 of 5 tasks"
