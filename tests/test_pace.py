import pytest

from hatlab.pace import Pace, format_seconds


def test_time_left_is_a_bound_first_and_then_the_mean_of_finished_tasks():
    now = 0.0
    pace = Pace(lambda: now)
    pace.start_sweep(2)
    pace.start_run("x", n_tasks=2, max_epochs=10, tasks_done=0)
    assert pace.left() == ""
    for epoch in range(3):
        now += 2
        pace.end_epoch(epoch)
    assert pace.left() == "at most 1 min 14 s left"  # 37 of 40 epochs at 2 s
    now += 4
    pace.end_task(0)  # 10 s
    assert pace.left() == "about 30 s left"
    now += 4
    assert pace.left() == "about 26 s left"
    now += 26  # the second task takes longer than the first
    assert pace.left() == "about 20 s left"
    pace.end_task(1)  # 30 s
    assert pace.left() == "about 40 s left"
    pace.start_run("y", n_tasks=2, max_epochs=10, tasks_done=2)
    assert pace.left() == ""


def test_what_is_left_of_a_resumed_task_is_no_measure():
    now = 0.0
    pace = Pace(lambda: now)
    pace.start_run("x", n_tasks=3, max_epochs=10, tasks_done=0)
    pace.end_epoch(9)
    now = 1.0
    pace.end_task(0)
    assert pace.left() == ""
    now = 21.0
    pace.end_task(1)
    assert pace.left() == "about 20 s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_read_well(seconds, text):
    assert format_seconds(seconds) == text
