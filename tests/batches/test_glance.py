import re

from hatlab.batches.snapshot import Glance
from hatlab.support.progress import FileProgress


def test_a_glance_says_where_the_sweep_stands_that_is_under_way(tmp_path):
    path = tmp_path / "events.jsonl"
    glance = Glance(path)
    assert glance.text() == ""  # nothing has been told yet
    told = FileProgress(path)
    told.sweep_started(3)
    told.run_started("a", "digits c=0", 5, 40, 0)
    told.run_done("a", loaded=True)
    told.run_started("b", "digits c=1", 5, 40, 2)
    told.epoch_done("b", 2, 0, 0.9, 0.5)
    assert re.fullmatch(r"3 runs: 7 of 15 tasks, at most .* left", glance.text())
    told.task_done("b", 2, 1, 0.9, 0.5)
    assert re.fullmatch(r"3 runs: 8 of 15 tasks, about .* left", glance.text())
    for run in "bc":
        told.run_started(run, "digits", 5, 40, 0)
        told.run_done(run, loaded=False)
    assert glance.text() == ""  # the notebook does something else
    told.sweep_started(1)
    told.run_started("d", "digits", 5, 40, 0)
    assert glance.text() == "1 run: 0 of 5 tasks"
