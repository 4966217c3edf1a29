"""Estimates by earlier runs of the like, how far off they were, and the tables of what runs cost."""

from dataclasses import replace

import pytest

from hatlab.batches import cost
from hatlab.batches.cost import Estimate, estimate
from hatlab.batches.ledger import Entry, NotebookRun, Status
from hatlab.batches.plans import Batch


def made(results, n=3, **values):
    runs = tuple(NotebookRun("n.ipynb", "s", {"c": k / 4}, {"c": k / 4, **values}, "0", {}) for k in range(n))
    return Batch("night", runs, results)


def wrote(results, run, seconds, state="done"):
    entry = Entry(results, run.run_id)
    entry.describe(run)
    entry.write(Status(state, seconds=seconds))


def test_without_earlier_runs_there_is_no_estimate(tmp_path):
    batch = made(tmp_path)
    assert str(estimate(batch, [], 2)) == "nothing to do"
    assert str(estimate(batch, batch.runs, 2)) == "3 to do; no run of n.ipynb has been timed yet"


def test_a_run_takes_as_long_as_those_that_are_most_like_it(tmp_path):
    batch = made(tmp_path, 4, size="large")
    for c, size, seconds in ((9, "large", 100), (8, "large", 140), (9, "small", 1)):
        wrote(tmp_path, NotebookRun("n.ipynb", "s", {}, {"c": c, "size": size}, "0", {}), seconds)
    wrote(tmp_path, replace(batch.runs[0], notebook="m.ipynb"), 10_000)
    wrote(tmp_path, NotebookRun("n.ipynb", "s", {}, {"c": 7, "size": "large"}, "0", {}), 7, "failed")
    told = estimate(batch, batch.runs, 2)
    assert (told.each, told.seconds, told.earlier) == (120, 240, 3)
    assert str(told) == (
        "4 to do, about 4 min 00 s with 2 at a time (2 min 00 s each, by the most alike of 3 earlier runs of n.ipynb)"
    )
    wrote(tmp_path, batch.runs[0], 600)  # the very run, made before
    assert estimate(batch, batch.runs[:1], 2).seconds == 600


@pytest.mark.parametrize(
    ("seconds", "took", "says"),
    [
        (120, 60, "the last estimate was 100% too long: 2 min 00 s for 4 runs, which took 1 min 00 s"),
        (60, 120, "the last estimate was 50% too short: 1 min 00 s for 4 runs, which took 2 min 00 s"),
        (60, 60.2, "the last estimate was right: 1 min 00 s for 4 runs, which took 1 min 00 s"),
        (None, 60, ""),
        (60, None, ""),
    ],
)
def test_how_far_off_an_estimate_was(seconds, took, says):
    assert Estimate("n.ipynb", 4, 2, seconds, seconds, 1, took).miss() == says


def test_the_last_estimate_is_the_batchs_own_or_else_the_latest_of_its_notebook(tmp_path):
    batch, other = made(tmp_path), replace(made(tmp_path), name="other")
    assert cost.last(batch) is None
    for folder, started, notebook in (
        (other, "2026-01-02", "n.ipynb"),
        (replace(other, name="third"), "2026-01-01", "n.ipynb"),
        (replace(other, name="m"), "2026-02-01", "m.ipynb"),
    ):
        folder.folder.mkdir(parents=True)
        cost.keep(folder, Estimate(notebook, 4, 2, 10.0, 5.0, 1, 20.0, started))
    assert cost.last(batch).started == "2026-01-02"
    batch.folder.mkdir()
    (batch.folder / cost.FILE).write_text("no estimate")
    assert cost.last(batch).started == "2026-01-02"
    cost.keep(batch, Estimate("n.ipynb", 4, 2, 10.0, 5.0, 1, 20.0, "2025-01-01"))
    assert cost.last(batch).started == "2025-01-01"


def test_tables_have_what_each_run_and_each_cell_cost(tmp_path):
    batch = made(tmp_path, 2)
    cells = [{"cell": 1, "source": "import x", "seconds": 1.5, "cpu": 1.25, "memory": 2 * 10**9}]
    statuses = {
        batch.runs[0].run_id: Status(
            "done", 1, seconds=2.0, cpu=1.25, memory=2 * 10**9, gpu_memory=10**9, energy=3000.0, cells=cells
        ),
        batch.runs[1].run_id: Status("failed", 1, seconds=1.0),
    }
    table = cost.by_run(batch, statuses)
    assert table.columns.tolist() == [
        "run",
        "c",
        "state",
        "seconds",
        "cpu_seconds",
        "memory_gb",
        "gpu_memory_gb",
        "energy_kj",
    ]
    assert table.iloc[0, 1:].tolist() == [0.0, "done", 2.0, 1.25, 2.0, 1.0, 3.0]
    assert table["gpu_memory_gb"].isna().tolist() == table["energy_kj"].isna().tolist() == [False, True]
    assert cost.by_cell(batch, statuses).to_dict("records") == [
        {
            "run": batch.runs[0].run_id,
            "c": 0.0,
            "cell": 1,
            "source": "import x",
            "seconds": 1.5,
            "cpu_seconds": 1.25,
            "memory_gb": 2.0,
        }
    ]
    assert (
        cost.totals(batch, statuses)
        == "3.0 s of kernels, 1.2 s of CPU time, most memory 2.00 GB, most GPU memory 1.00 GB"
    )
    assert cost.totals(batch, dict.fromkeys(statuses, Status("queued"))) == ""
    assert cost.by_cell(batch, dict.fromkeys(statuses, Status("queued"))).empty
