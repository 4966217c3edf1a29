"""Runs for trackers: what each tracker's own library reads back is what the runs left."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from click.testing import CliRunner
from notebooks_for_tests import done_batch

from hatlab.batches import export
from hatlab.batches.ledger import Status
from hatlab.cli.main import cli
from hatlab.config import ConfigError
from hatlab.support.paths import home

CURVE = [0.5, 0.75, 0.875]


@pytest.fixture
def batch(tmp_path):
    values = [{"c": c, "widths": [4, 4], "mode": "cross"} for c in (0.1, 0.75)]
    tables = [
        {
            "capacity": pd.DataFrame(
                {
                    "epoch": [0, 1, 2] * 2,
                    "layer": ["fc1"] * 3 + ["total"] * 3,
                    "usage": [v + k for v in (0.0, c) for k in CURVE],
                }
            ),
            "summary": pd.DataFrame({"accuracy": [90.0 + c]}),
        }
        for c in (0.25, 0.5)
    ]
    return done_batch(tmp_path / "results", values, tables)


def test_series_and_last_values(batch):
    first, second = export.runs(batch)
    assert first.parameters == {"c": 0.1, "widths": "[4, 4]", "mode": "cross"}
    assert first.series == {"capacity/usage/fc1": CURVE, "capacity/usage/total": [0.25 + k for k in CURVE]}
    assert second.last == {"capacity.usage": 0.5 + CURVE[-1], "summary.accuracy": 90.5}


def test_csv_is_read_back(batch, tmp_path):
    assert export.export(batch, "csv", tmp_path / "out") == 2
    runs, series = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("runs", "series"))
    assert runs["c"].tolist() == [0.1, 0.75] and runs["summary.accuracy"].tolist() == [90.25, 90.5]
    one = series[(series["run"] == batch.runs[1].run_id) & (series["series"] == "capacity/usage/total")]
    assert one["value"].tolist() == [0.5 + k for k in CURVE] and one["step"].tolist() == [0, 1, 2]


@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_tensorboard_is_read_back(batch, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    export.export(batch, "tensorboard", tmp_path / "out")
    for run, c in zip(batch.runs, (0.25, 0.5), strict=True):
        events = accumulator.EventAccumulator(str(tmp_path / "out" / run.run_id))
        events.Reload()
        assert [event.value for event in events.Scalars("capacity/usage/total")] == [c + k for k in CURVE]
        assert events.Scalars("summary.accuracy")[-1].value == 90 + c


@pytest.mark.filterwarnings("ignore")
def test_mlflow_is_read_back(batch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    export.export(batch, "mlflow", tmp_path / "out")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "night"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {run.run_id for run in batch.runs}
    run = runs[batch.runs[0].run_id]
    assert run.data.params == {"c": "0.1", "widths": "[4, 4]", "mode": "cross"} and run.info.status == "FINISHED"
    assert run.data.metrics["summary.accuracy"] == 90.25
    history = client.get_metric_history(run.info.run_id, "capacity/usage/total")
    assert [metric.value for metric in history] == [0.25 + k for k in CURVE]


READ_TRACKIO = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
name, told = "capacity/usage/total", {}
for run in trackio.Api().runs("night"):
    rows = SQLiteStorage.get_logs("night", run.name, run_id=run.id)
    told[run.name] = [run.config["c"], [row[name] for row in rows if name in row]]
print(json.dumps(told))
"""


def test_trackio_is_read_back(batch, tmp_path):
    pytest.importorskip("trackio")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "hatlab",
        "export",
        "--to",
        "trackio",
        "--out",
        str(out),
        "--results",
        str(batch.results),
    ]
    subprocess.run(command, check=True, cwd=home())
    read = [sys.executable, "-c", READ_TRACKIO]
    told = subprocess.run(read, check=True, env={**os.environ, "TRACKIO_DIR": str(out)}, capture_output=True, text=True)
    runs = json.loads(told.stdout.splitlines()[-1])
    assert runs == {
        run.run_id: [values["c"], [c + k for k in CURVE]]
        for run, values, c in zip(batch.runs, [run.values for run in batch.runs], (0.25, 0.5), strict=True)
    }


def test_a_run_that_is_not_done_is_left_out_and_told(batch, tmp_path):
    batch.entry(batch.runs[0]).write(Status("failed"))
    told = CliRunner().invoke(
        cli, ["export", "--to", "csv", "--out", str(tmp_path / "out"), "--results", str(batch.results)]
    )
    assert told.exit_code == 1 and "1 of 2 runs written to" in told.output and "1 are not done" in told.output


def test_a_folder_that_holds_something_and_a_library_that_is_missing_are_refused(batch, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        export.export(batch, "csv", tmp_path / "out")
    monkeypatch.setitem(export.KINDS, "mlflow", ("no_such_library", export._mlflow))
    with pytest.raises(ConfigError, match=r"hatlab\[mlflow\]"):
        export.export(batch, "mlflow", tmp_path / "new")
    with pytest.raises(ConfigError, match="allowed are csv"):
        export.export(batch, "excel", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_names_of_metrics_are_those_that_mlflow_takes():
    assert export._plain("capacity/usage/fc1") == "capacity/usage/fc1" and export._plain("a(b)=c%") == "a_b__c_"
