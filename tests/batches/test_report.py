import io
import json
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from notebooks_for_tests import done_batch

from hatlab.batches import report
from hatlab.batches.collecting import Collected
from hatlab.batches.ledger import NotebookRun, Status
from hatlab.batches.plans import Batch
from hatlab.support.files import write_json
from hatlab.support.provenance import checksum

VERSIONS = {"hatlab": "0.1.0", "python": "3.12.1", "torch": "2.14.1"}
STARTED = "2026-11-24T20:00:0{}.000+00:00"


@pytest.fixture
def batch(tmp_path):
    """Four runs: two done, with different hatlabs behind them, one failed, one waiting."""
    runs = tuple(
        NotebookRun("n.ipynb", "sha256:" + "a" * 64, {"c": c}, {"c": c, "widths": [4, 4]}, f"0.1.0+{i // 2}", {})
        for i, c in enumerate((0.1, 0.5, 1.0, 2.0))
    )
    made = Batch("night", runs, tmp_path)
    for i, run in enumerate(runs[:3]):
        entry = made.entry(run)
        entry.describe(run)
        session = {"versions": {"hatlab": "0.0.9"}, "git": {"commit": "f" * 40}, "device": "cpu"}
        write_json(
            entry.manifest,
            {
                "artifacts": {},
                "notebook": {"name": "n.ipynb", "checksum": run.source},
                "versions": VERSIONS,
                "host": "box",
                "platform": {"system": "Linux", "machine": "x86_64"},
                "data": {"MNIST/a": "md5:0123456789"},
                "runs": [{"run_id": "x", "sessions": [session]}],
            },
        )
        state = "failed" if i == 1 else "done"
        entry.write(
            Status(
                state, 1, "in cell [3]: ValueError: no\nway" if i == 1 else "", started=STARTED.format(i),
                seconds=3.0 + i, host="box", memory=1_500_000_000, manifest=checksum(entry.manifest),
                error={"traceback": "Traceback:\nValueError: no\nway"} if i == 1 else {},
            )
        )  # fmt: skip
    yield made
    plt.close("all")


def test_runs_are_listed_with_state_and_parameters(batch):
    table = report.runs(batch)
    assert table["state"].tolist() == ["done", "failed", "done", "queued"]
    assert table["c"].tolist() == [0.1, 0.5, 1.0, 2.0] and "widths" not in table
    assert table["reason"].tolist() == ["", "in cell [3]: ValueError: no", "", ""]
    assert table["memory_gb"].tolist() == [1.5, 1.5, 1.5, 0.0] and table["started"].notna().sum() == 3


def test_a_parameter_with_the_name_of_a_column_is_kept_beside_it(tmp_path):
    values = [{"state": "solid", "run": 1}, {"state": "liquid", "run": 2}]
    table = report.runs(done_batch(tmp_path, values, [{}, {}]))
    assert table["state"].tolist() == ["done"] * 2 and table["parameter_state"].tolist() == ["solid", "liquid"]
    assert table["parameter_run"].tolist() == [1, 2] and next(iter(table)) == "run"


def test_figures_of_reproduce_are_called_by_their_names(batch):
    figures = {run.run_id: name for run, name in zip(batch.runs, "abcd", strict=True)}
    named = replace(batch, figures=figures)
    assert report.runs(named)["figure"].tolist() == list("abcd") and "c" not in report.runs(named)
    assert "(figure = b): failed: " in report.failures(named)
    curves = pd.concat([capacity("x", figure="a"), capacity("y", figure="b", c=1.0)], ignore_index=True)
    assert list(report.capacity_figures(Collected({"capacity": curves}, [], {}), named)) == [
        "capacity_usage_1",
        "capacity_usage_2",
    ]


def test_failures_are_told_with_their_tracebacks(batch):
    text = report.failures(batch)
    assert text.splitlines()[0].startswith("1 run failed: ValueError: no; first: ")
    assert text.splitlines()[3].endswith("(c = 0.5): failed: in cell [3]: ValueError: no")
    assert "    ValueError: no\n    way" in text and text.count(": failed: ") == 1


def test_a_batch_of_two_hatlabs_shows(batch):
    table = report.versions(batch).set_index("what")
    assert table.loc["hatlab"].to_numpy().tolist() == [["0.1.0+0", 1], ["0.1.0+1", 1]]
    assert table.loc["torch"].tolist() == ["2.14.1", 2] and table.loc["machine"].tolist() == ["box, Linux x86_64", 2]
    assert table.loc["trained by"].tolist() == ["0.0.9, ffffffffffff, cpu", 2]
    assert table.loc["data: MNIST/a"].tolist() == ["md5:0123456789", 2]


def test_the_timeline_has_a_bar_for_each_run_that_started(batch):
    figure = report.timeline(report.runs(batch))
    (axes,) = figure.axes
    bars = {(round(bar.get_x(), 3), round(bar.get_width(), 3)) for bar in axes.patches}
    assert bars == {(0.0, 3.0), (1.0, 4.0), (2.0, 5.0)}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["done (2)", "failed (1)"]
    assert axes.get_xlabel() == "Time since the first start (seconds)" and axes.get_ylabel() == "3 runs, by start"
    (text,) = report.timeline(report.runs(batch).iloc[3:]).axes[0].texts
    assert text.get_text() == "No run of the batch has started."


def capacity(run, **columns):
    rows = [
        {"run": run, "dataset": "digits", "c": 0.5, "mode": "original", "s_max": 400.0, "seed": 0, "task": 0,
         "epoch": epoch, "layer": layer, "weights": 10, "weights_used": 5 - epoch}
        for epoch in (-1, 0) for layer in ("fc1", "total")
    ]  # fmt: skip
    table = pd.DataFrame([{**row, **columns} for row in rows])
    table.insert(0, "notebook_run", run)
    return table


def test_curves_are_drawn_for_each_combination_of_what_varies_beside_c_and_seed(batch, tmp_path):
    assert report.capacity_figures(Collected({}, [], {}), batch) == {}
    both = pd.concat([capacity("a", c=0.5), capacity("b", c=1.0)], ignore_index=True)
    assert list(report.capacity_figures(Collected({"capacity": both}, [], {}), batch)) == ["capacity_usage"]

    runs = tuple(
        NotebookRun("n.ipynb", "s", {}, {"c": 0.5, "mode": mode, "widths": widths}, "0", {})
        for mode in ("original", "cross") for widths in ([4], [8])
    )  # fmt: skip
    parts = []
    for run in runs:
        part = capacity(run.run_id, mode=run.values["mode"])
        part.insert(1, "widths", json.dumps(run.values["widths"]))
        part.insert(1, "parameter_mode", run.values["mode"])
        parts.append(part)
    drawn = report.capacity_figures(
        Collected({"capacity": pd.concat(parts, ignore_index=True)}, [], {}), Batch("b", runs, tmp_path)
    )
    titles = [figure.axes[0].get_title(loc="left").splitlines()[0] for figure in drawn.values()]
    assert titles == [
        "mode = original, widths = [4]", "mode = original, widths = [8]",
        "mode = cross, widths = [4]", "mode = cross, widths = [8]",
    ]  # fmt: skip


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in [*axes.texts, axes.title, axes._left_title]]


def test_a_table_that_makes_no_curves_says_why_and_loses_nothing_else(batch, tmp_path):
    """A notebook's own table may have that name; and text in a parameter may look like mathematics."""
    own = pd.DataFrame({"notebook_run": ["a"], "c": [0.5], "litres": [3]})
    (figure,) = report.capacity_figures(Collected({"capacity": own}, [], {}), batch).values()
    assert "n.ipynb: no curves, for the table has no column 'dataset'." in texts(figure)
    runs = tuple(NotebookRun("n.ipynb", "s", {}, {"path": path}, "0", {}) for path in (r"$\frac{$", None))
    parts = [capacity(run.run_id).assign(path=run.values["path"]) for run in runs]
    both = Collected({"capacity": pd.concat(parts, ignore_index=True)}, [], {})
    drawn = report.capacity_figures(both, Batch("b", runs, tmp_path))
    assert len(drawn) == 2
    for figure in drawn.values():
        figure.savefig(io.BytesIO())
    mixed = pd.concat([capacity("a", mode="cross"), capacity("b")], ignore_index=True)
    (figure,) = report.capacity_figures(Collected({"capacity": mixed}, [], {}), batch).values()
    assert any("no curves. the capacity table mixes mode = cross, original" in text for text in texts(figure))
