import math

import pytest

from hatlab.support.pace import Pace, format_seconds


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_time_left_is_a_bound_first_and_then_told_from_finished_tasks(clock):
    pace = Pace(2, clock)
    pace.start_run("x", "x", n_tasks=2, max_epochs=10, tasks_done=0)
    assert pace.left() == ""
    for epoch in range(5):
        clock.now += 2
        pace.end_epoch("x", epoch)
    assert pace.left() == "at most 1 min 10 s left"  # 35 of 40 epochs at 2 s; the second run has as many tasks
    assert pace.end_task("x", 0, 5)[1] == 10
    assert pace.left() == "about 30 s left"  # three tasks
    for epoch in range(8):  # the second task takes longer than the first
        clock.now += 2
        pace.end_epoch("x", epoch)
    assert pace.left() == "about 20 s left"
    assert pace.end_task("x", 1, 8)[1] == 16
    assert pace.left() == "about 26 s left"  # 2 tasks of 6.5 epochs
    assert pace.end_run("x", loaded=False)[1] == 26
    pace.start_run("y", "y", n_tasks=2, max_epochs=10, tasks_done=0)
    assert pace.left() == "about 26 s left"
    for task in range(2):
        pace.end_task("y", task, 6)
    pace.end_run("y", loaded=False)
    assert pace.left() == "" and pace.runs_done == 2 and pace.tasks_done == pace.n_tasks == 4


def group(pace, n, n_tasks=2):
    for run in range(n):
        pace.start_run(str(run), f"seed={run}", n_tasks, 100, 0)


def test_time_left_of_a_group_is_right_from_the_first_of_its_runs_on(clock):
    pace = Pace(8, clock)
    group(pace, 8)
    clock.now = 4.0
    for run in range(8):
        pace.end_epoch(str(run), 0)
        # 8 x 2 x 100 epochs, 8 of which take 4 s, whether or not the others have told of theirs yet
        assert pace.left() == f"at most {format_seconds(4 * (1600 - run - 1) / 8)} left"
    for epoch in range(1, 10):
        clock.now += 4
        for run in range(8):
            pace.end_epoch(str(run), epoch)
    pace.end_task("3", 0, 10)
    assert pace.left() == "about 40 s left"  # the others are expected to be as far
    for run in (0, 1, 2, 4, 5, 6, 7):
        pace.end_task(str(run), 0, 10)
    assert pace.left() == "about 40 s left"


def test_runs_that_wait_for_memory_or_for_their_turn_do_not_count_as_at_work(clock):
    pace = Pace(8, clock)
    group(pace, 8)
    for epoch in range(50):
        clock.now += 1
        for run in range(2):
            pace.end_epoch(str(run), epoch)
    assert pace.left() == f"at most {format_seconds((1600 - 100) / 2)} left"


def test_only_what_was_done_here_counts_of_resumed_and_loaded_runs(clock):
    pace = Pace(4, clock)
    pace.start_run("loaded", "x", n_tasks=0, max_epochs=100, tasks_done=0)
    pace.end_run("loaded", loaded=True)
    pace.start_run("resumed", "x", n_tasks=4, max_epochs=100, tasks_done=2)
    assert (pace.runs_done, pace.tasks_done, pace.n_tasks) == (1, 2, 12)
    for epoch in (18, 19):
        clock.now += 1
        pace.end_epoch("resumed", epoch)
    assert pace.left() == f"at most {format_seconds(80 + 900)} left"
    pace.end_task("resumed", 2, 20)
    assert pace.left() == f"about {format_seconds(9 * 20)} left"


def test_a_task_resumed_after_its_last_epoch_is_no_measure_of_speed(clock):
    pace = Pace(1, clock)
    pace.start_run("x", "x", n_tasks=3, max_epochs=10, tasks_done=0)
    clock.now = 1.0
    pace.end_task("x", 0, 10)
    assert pace.left() == ""


def test_a_run_begun_again_keeps_its_number(clock):
    pace = Pace(2, clock)
    group(pace, 2)
    assert pace.start_run("0", "x", 2, 100, 1).number == 1
    assert pace.start_run("unexpected", "x", 2, 100, 0).number == pace.n_runs == 3


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
