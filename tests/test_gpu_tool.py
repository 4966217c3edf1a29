"""tools/gpu.py, tried on the CPU: what it runs, how it stops, and how a second call goes on."""

import importlib.util
import json
import shutil
import subprocess
import time
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from hatlab.config import RunConfig
from hatlab.support.paths import home
from hatlab.training.runs import Tables

spec = importlib.util.spec_from_file_location("gpu", home() / "tools" / "gpu.py")
gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu)

TINY = """
paper:
  forgetting:
    notebook: 07_forgetting.ipynb
    parameters: {tuning_seeds: [100], widths: [20, 20], max_epochs: 2, others: {n_tasks: 2}}
  capacity_usage_gone:
    notebook: 02_capacity_usage.ipynb
    parameters: {dataset: "npz:gone.npz"}
  capacity_usage:
    notebook: 02_capacity_usage.ipynb
    parameters: {seeds: [0, 1], cs: [0, 2.5], s_maxs: [400], widths: [20, 20], max_epochs: 3, others: {n_tasks: 2}}
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Return a function that calls the tool over a tiny profile, its tests and benchmarks left out; and what it ran."""
    monkeypatch.setenv("HATLAB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HATLAB_DATA", str(tmp_path))
    (tmp_path / "figures.yaml").write_text(TINY)
    parts = []

    def once(self, part, *_):
        parts.append(part)
        self.content["parts"] = {name: {"ended": "well"} for name in parts}

    monkeypatch.setattr(gpu.Report, "once", once)

    def run(*arguments):
        return gpu.main(["--device", "cpu", "--figures", str(tmp_path / "figures.yaml"), *arguments])

    run.parts, run.folder = parts, tmp_path / "results" / "gpu" / "cpu"
    return run


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_all_is_made_that_fits_and_one_folder_has_it(call, capsys, tmp_path):
    assert call("--minutes", "9") == 0
    assert call.parts == ["tests", "gpu_sweep_80", "gpu_cnn_step"]
    said = capsys.readouterr().out
    assert "capacity_usage_gone: left out. dataset = 'npz:gone.npz': there is no such file" in said
    assert (
        said.index("capacity_usage: seed 0") < said.index("capacity_usage: seed 1") < said.index("forgetting: seed 100")
    )
    found = manifest(call.folder)
    assert found["figures"]["capacity_usage"] == {"runs": 6, "finished": 6}
    assert found["figures"]["capacity_usage_gone"]["finished"] == 0
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] and found["device"] == "cpu"
    runs = pd.read_csv(call.folder / "runs.csv")
    assert len(runs) == 6 + found["figures"]["forgetting"]["finished"]
    for run in runs["run"]:
        names = {path.name for path in (call.folder / "runs" / run).iterdir()}
        assert names == {"manifest.json", *(f"{table}.parquet" for table in Tables._fields)}


def test_the_end_of_the_time_is_a_clean_stop_and_a_second_call_goes_on(call, capsys, monkeypatch, tmp_path):
    """The clock counts how often it is read, once in an epoch: the time ends amidst the runs of seed 1."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    call("--minutes", str(30 / 60), "--only", "capacity_usage")
    assert "stopped; the same call goes on" in capsys.readouterr().out
    assert manifest(call.folder)["figures"] == {"capacity_usage": {"runs": 6, "finished": 3}}
    assert set(pd.read_csv(call.folder / "runs.csv")["seed"]) == {0}
    left = [path for path in (tmp_path / "results" / "runs").glob("*/manifest.json") if "running" in path.read_text()]
    assert len(left) == 3 and all((path.parent / "checkpoint.pt").exists() for path in left)
    monkeypatch.undo()
    monkeypatch.setenv("HATLAB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(gpu.Report, "once", lambda self, part, *_: self.content.setdefault("parts", {}))
    assert call("--minutes", "9", "--only", "capacity_usage") == 0
    found = manifest(call.folder)
    assert found["figures"] == {"capacity_usage": {"runs": 6, "finished": 6}} and len(found["calls"]) == 2
    for path in (tmp_path / "results" / "runs").glob("*/manifest.json"):
        sessions = json.loads(path.read_text())["sessions"]
        assert len(sessions) == (2 if path in left else 1)
        assert path not in left or sessions[1]["from_epoch"] + sessions[1]["from_task"] > 0


def test_what_came_back_in_the_folder_is_not_trained_again(call, capsys, tmp_path):
    call("--minutes", "9", "--only", "capacity_usage", "--seeds", "1")
    assert manifest(call.folder)["figures"] == {"capacity_usage": {"runs": 6, "finished": 3}}
    shutil.rmtree(tmp_path / "results" / "runs")
    call("--minutes", "9", "--only", "capacity_usage")
    assert manifest(call.folder)["figures"] == {"capacity_usage": {"runs": 6, "finished": 6}}
    assert capsys.readouterr().err.count("finished before, loaded") == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_cuda_nothing_begins(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HATLAB_RESULTS", str(tmp_path / "results"))
    assert gpu.main([]) == 2
    assert "finds no CUDA device here" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_profile_or_figure_that_is_not_there_is_named(call, capsys):
    assert call("--profile", "papers") == call("--only", "capacity") == 2
    said = capsys.readouterr().err
    assert "unknown profile 'papers' (known: paper)" in said and "unknown figure of profile paper 'capacity'" in said
    assert not call.folder.exists()


def test_the_runs_are_those_that_the_notebooks_train():
    figures = gpu.listed(home() / "notebooks" / "figures.yaml", "paper", None)
    assert list(figures)[:5] == [
        "capacity_usage", "capacity_usage_cifar", "capacity_usage_mnist", "cross_ablation", "cross_ablation_mnist",
    ]  # fmt: skip

    def runs(figure):
        return gpu.runs_of(home() / "notebooks" / figures[figure]["notebook"], figures[figure]["parameters"])

    base = RunConfig(dataset="mnist")
    assert runs("capacity_usage_mnist") == base.grid(c=[0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5], seed=range(10))
    ablation = runs("cross_ablation_mnist")
    assert len(ablation) == len(set(ablation)) == 130 and {run.mode for run in ablation} == {
        "original",
        "cross",
        "reuse",
    }
    assert len(runs("capacity_usage")) == 14 * 10  # nine c, and six s_max of which one is among them


@pytest.mark.parametrize(
    ("program", "ended"),
    [
        ("pass", "well"),
        ("raise SystemExit(3)", "with exit code 3"),
        ("import time; time.sleep(60)", "out of time after 2 s"),
    ],
)
def test_what_ended_well_over_the_same_code_is_not_done_again(tmp_path, monkeypatch, capsys, program, ended):
    # whatever the tests were started by may ignore Ctrl-C, which is inherited
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    (tmp_path / "part.py").write_text(f"{heeds}\nprint('begun', flush=True)\n{program}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    class UntilItHasBegun(subprocess.Popen):
        """The two seconds are over when the program has begun, however long that takes."""

        def wait(self, timeout=None):
            if timeout != 2:
                return super().wait(timeout)
            while "begun" not in (tmp_path / "out" / "part.txt").read_text():
                time.sleep(0.05)
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(gpu.subprocess, "Popen", UntilItHasBegun)
    report = gpu.Report(tmp_path / "out", "cpu")
    seconds = 2 if "out of time" in ended else 60
    report.once("part", ["part"], ["benchmarks"], seconds)
    assert manifest(tmp_path / "out")["parts"]["part"]["ended"] == ended
    again = gpu.Report(tmp_path / "out", "cpu")
    again.once("part", ["part"], ["benchmarks"], seconds)
    assert ("part: ended well before" in capsys.readouterr().out) is (ended == "well")
    assert "begun" in (tmp_path / "out" / "part.txt").read_text()
    if seconds == 2:  # it was asked first
        assert "KeyboardInterrupt" in (tmp_path / "out" / "part.txt").read_text()
    monkeypatch.setattr(gpu, "code_of", lambda sources: "other code")
    again.once("part", ["part"], ["benchmarks"], seconds)
    assert "ended well before" not in capsys.readouterr().out
