import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import hatlab
from hatlab import __version__
from hatlab.analysis.metrics import mean_interval
from hatlab.batches import reproduce as reproduce_module
from hatlab.batches.reproduce import NotebookFailed
from hatlab.cli.main import cli
from hatlab.config import RunConfig
from hatlab.support.progress import Progress
from hatlab.training import runs

TINY = ["-p", "widths=[8, 8]", "-p", "max_epochs=1", "-p", "n_tasks=2", "-p", "dropout=[0, 0]"]


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_help_needs_no_torch():
    code = (
        "import sys; from hatlab.cli.main import cli; cli(['--help'], standalone_mode=False); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n") and "reproduce" in done.stdout and done.stderr == ""


def test_the_version_is_told():
    assert invoke("--version").output == f"hatlab, version {__version__}\n"


def test_every_parameter_is_listed_with_its_default():
    output = invoke("parameters").output
    for name, field in RunConfig.model_fields.items():
        line = next(line for line in output.splitlines() if line.split()[0] == name)
        assert field.description in line
    assert "widths            [2000, 2000]" in output and "n_tasks           null" in output
    assert "original | cross | reuse" in output


def test_a_run_from_file_and_options(tmp_path):
    (tmp_path / "config.yaml").write_text("c: 0.3\nseed: 7\nlr_min: 1e-3\n")
    arguments = ["run", "--config", tmp_path / "config.yaml", "-p", "c=0.5", *TINY, "--results", tmp_path]
    first = invoke(*arguments)
    assert first.exit_code == 0, first.output
    assert "Split digits (2 tasks), MLP 8-8, c = 0.5, seed 7" in first.stdout
    for part in ("accuracy_at_end", "average accuracy", "backward transfer", "capacity usage"):
        assert part in first.stdout
    config = RunConfig(c=0.5, seed=7, lr_min=1e-3, widths=(8, 8), max_epochs=1, n_tasks=2, dropout=(0, 0))
    assert first.stdout.splitlines()[-1] == f"saved in {tmp_path / 'runs' / config.run_id}"
    assert (tmp_path / "runs" / config.run_id / "manifest.json").exists()
    assert "task 2/2" in first.stderr
    again = invoke(*arguments)
    assert again.stdout == first.stdout and "loaded" in again.stderr and "task 2/2" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-p", "sed=1"], "unknown parameter 'sed'; did you mean 'seed'?"),
        (["run", "-p", "c=-1"], "c = -1: Input should be greater than or equal to 0"),
        (["run", "-p", "c=much"], "c = 'much'"),
        (["run", "-p", "momentum=0.9"], "moves a weight whose gradient is zero"),
        (["run", "-p", "c"], "'c' is not of the form name=value"),
        (["run", "-p", "c=[1"], "is not YAML"),
        (["run", "-p", "dataset=2018-13-45"], "is not YAML"),
        (["run", "-p", "dataset=mnits"], "mnits"),
        (["run", "--device", "gpu0"], "device = 'gpu0'"),
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["reproduce", "--profile", "quik"], "unknown profile 'quik'; did you mean 'quick'?"),
        (["reproduce", "--profile", "smoke", "-p", "widhts=[3]"], "did you mean 'widths'?"),
        (["data", "fetch", "mnits"], "mnits"),
        (["data", "verify", "mnits"], "mnits"),
    ],
)
def test_what_cannot_be_used_is_one_message_and_exit_code_2(tmp_path, arguments, message):
    where = ["--results", tmp_path] if arguments[0] != "data" else []
    done = invoke(*arguments, *where)
    assert done.exit_code == 2
    assert message in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1\n", "holds no parameters"), ("a: [1\n", "is not YAML"), ("sed: 1\n", "did you mean 'seed'")],
)
def test_a_config_file_that_cannot_be_used_is_named(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    done = invoke("run", "--config", path)
    assert done.exit_code == 2 and message in done.stderr and str(path) in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (NotebookFailed("a.ipynb failed in cell [2]"), 1, "error: a.ipynb failed in cell [2]"),
        (PermissionError(13, "Permission denied", "results"), 1, "error: [Errno 13] Permission denied: 'results'"),
        (KeyboardInterrupt(), 130, "stopped; the same command again goes on where this one was"),
    ],
)
def test_failures_are_one_message(monkeypatch, error, code, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(reproduce_module, "reproduce", fail)
    done = invoke("reproduce")
    assert done.exit_code == code
    assert done.stderr.strip() == message


def test_a_defect_keeps_its_traceback(monkeypatch):
    def fail(*_, **__):
        raise KeyError("defect")

    monkeypatch.setattr(runs, "run", fail)
    done = invoke("run")
    assert done.exit_code == 1 and isinstance(done.exception, KeyError)


# --- sweeps ---------------------------------------------------------------------------------------------------------

SMALL = ["-p", "widths=[20, 20]", "-p", "max_epochs=1", "-p", "n_tasks=2"]


def test_a_sweep_prints_its_runs_and_their_means_over_seeds(tmp_path):
    arguments = ["sweep", *SMALL, "--over", "c=[0.75, 1e-1]", "--over", "seed=3..4", "--results", tmp_path]
    first = invoke(*arguments)
    assert first.exit_code == 0, first.output

    configs = RunConfig(widths=(20, 20), max_epochs=1, n_tasks=2).grid(c=[0.75, 0.1], seed=[3, 4])
    tables = hatlab.collect(hatlab.sweep(configs, results=tmp_path, progress=Progress()))
    rows, numbers = [], {}
    for config in configs:
        matrix = tables.accuracy.query("run == @config.run_id").pivot(index="after_task", columns="task")["accuracy"]
        last = tables.tasks.query("run == @config.run_id and task == 1").iloc[0]
        accuracy, usage = 100 * matrix.loc[1].mean(), 100 * last["weights_used"] / last["weights"]
        transfer = 100 * (matrix.loc[1, 0] - matrix.loc[0, 0])
        numbers.setdefault(config.c, []).append((accuracy, usage, transfer))
        parameters = [f"{config.c:g}", str(config.seed), config.run_id]
        rows.append([*parameters, f"{accuracy:.1f}", f"{usage:.1f}", f"{transfer:.1f}"])
    means = []
    for c, values in numbers.items():
        mean, low, high = mean_interval(np.array(values))
        cells = [f"{m:.1f} [{a:.1f}, {b:.1f}]" for m, a, b in zip(mean, low, high, strict=True)]
        means.append(f"{c:g} 2 {' '.join(cells)}".split())

    lines = first.stdout.splitlines()
    units = "in %, backward_transfer in percentage points"
    assert lines[0] == f"Split digits (2 tasks), MLP 20-20: after the last task, {units}"
    assert lines[1].split() == ["c", "seed", "run", "accuracy", "usage", "backward_transfer"]
    assert [line.split() for line in lines[2:6]] == rows
    assert lines[6:8] == ["", f"mean over seeds [95% t interval], {units}"]
    assert lines[8].split() == ["c", "seeds", "accuracy", "usage", "backward_transfer"]
    assert [line.split() for line in lines[9:11]] == means
    assert lines[11:] == [f"saved in {tmp_path / 'runs'}"]

    again = invoke(*arguments)
    assert again.stdout == first.stdout
    assert again.stderr.count("loaded") >= 4 and "task 2/2" not in again.stderr


def test_a_sweep_without_seeds_and_transfer_has_one_table(tmp_path):
    axes = ["--over", "widths=[[8, 8], [12]]", "--over", "class_groups=[null, [[1, 2]]]"]
    options = ["-p", "max_epochs=1", "-p", "n_tasks=1", "--replicas", "1", "--results", tmp_path]
    done = invoke("sweep", *axes, *options)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "4 runs: after the last task, in %"
    assert lines[1].split() == ["widths", "class_groups", "run", "accuracy", "usage"]
    configs = RunConfig(max_epochs=1, n_tasks=1).grid(widths=[[8, 8], [12]], class_groups=[None, [[1, 2]]])
    texts = ["[8,8]null", "[8,8][[1,2]]", "[12]null", "[12][[1,2]]"]
    for line, config, text in zip(lines[2:6], configs, texts, strict=True):
        assert line.replace(" ", "").startswith(text + config.run_id)
    assert lines[6:] == [f"saved in {tmp_path / 'runs'}"]


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ([], {"results": None, "device": "auto", "replicas": None}),
        (["--device", "cpu", "--replicas", "3"], {"results": None, "device": "cpu", "replicas": 3}),
    ],
)
def test_a_sweep_hands_its_configs_and_options_on(monkeypatch, tmp_path, options, given):
    """And -p and --over go over the file. Ctrl-C is what ends it here."""
    calls = []

    def stopped(configs, **options):
        calls.append((configs, options))
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "sweep", stopped)
    (tmp_path / "config.yaml").write_text("c: 0.3\nseed: 7\nlr_min: 1e-3\n")
    axes = ["--over", "seed= 0 .. 2 ", "--over", "dataset=[digits, mnist]", "--over", "s_max=400..400"]
    done = invoke("sweep", "--config", tmp_path / "config.yaml", "-p", "c=0.5", *axes, *options)
    assert done.exit_code == 130
    assert done.stderr.strip() == "stopped; the same command again goes on where this one was"
    base = RunConfig(c=0.5, lr_min=1e-3)
    expected = [base.replace(seed=seed, dataset=dataset) for seed in range(3) for dataset in ("digits", "mnist")]
    assert calls == [(expected, given)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a sweep needs at least one --over NAME=VALUES, as in --over seed=0..9"),
        (["--over", "c"], "Invalid value for '--over': 'c' is not of the form name=value"),
        (["--over", "=[1]"], "Invalid value for '--over': '=[1]' is not of the form name=value"),
        (["--over", "c=[1"], "Invalid value for '--over': the value in 'c=[1' is not YAML"),
        (["--over", "seed=5..3"], "Invalid value for '--over': 'seed=5..3' gives no values to vary; allowed are"),
        (["--over", "c=0.5..2"], "'c=0.5..2' gives no values to vary; allowed are a list of one or more"),
        (["--over", "c=0.5"], "'c=0.5' gives no values to vary; allowed are a list of one or more"),
        (["--over", "c=[]"], "'c=[]' gives no values to vary; allowed are a list of one or more"),
        (["--over", "c=[1]", "--over", "c=[2]"], "Invalid value for '--over': 'c=[2]' names c a second time"),
        (["-p", "c=0.5", "--over", "c=[1, 2]"], "in --over: c is to be varied, and -p sets it to 0.5 for all runs"),
        (["--over", "c=[1, 1.0]"], "in --over: c: 1.0 is named twice"),
        (["--over", "sede=0..3"], "in --over: unknown parameter 'sede'; did you mean 'seed'?"),
        (["--over", "c=[1, -1]"], "in --over: c = -1: Input should be greater than or equal to 0"),
        (["--over", "seed=-1..1"], "in --over: seed = -1: Input should be greater than or equal to 0"),
        (["--over", "widths=[400, 400]"], "in --over: widths: 400 is named twice"),
        (["--over", "widths=[400, 300]"], "in --over: widths = 400: Input should be a valid list"),
        (["-p", "sed=1", "--over", "c=[1]"], "in -p: unknown parameter 'sed'; did you mean 'seed'?"),
        (["--over", "c=[1]", "--replicas", "0"], "Invalid value for '--replicas': 0 is not in the range"),
        (["--over", "dataset=[digits, mnits]"], "mnits"),
        (["--over", "c=[1]", "--device", "gpu0"], "device = 'gpu0'"),
    ],
)
def test_a_sweep_that_cannot_be_run_is_refused_before_it_starts(tmp_path, arguments, message):
    done = invoke("sweep", *arguments, "--results", tmp_path)
    assert done.exit_code == 2, done.output
    assert message in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
    assert "task 1" not in done.stderr and not list(tmp_path.rglob("checkpoint*"))


def test_reproduce_hands_its_options_on(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(reproduce_module, "reproduce", lambda *arguments, **named: given.append((*arguments, named)))
    options = ["--only", "a", "--only", "b", "-p", "cs=[0, 1e-1]", "--device", "cpu", "--results", tmp_path]
    assert invoke("reproduce", "--profile", "mnist", *options, "--workers", "3").exit_code == 0
    assert invoke("reproduce", "--from", "reference").exit_code == 0
    assert given == [
        ("mnist", ("a", "b"), {"cs": [0, 0.1], "device": "cpu"}, tmp_path, 3, {"source": None}),
        ("quick", (), {}, None, None, {"source": "reference"}),
    ]


def test_data_sets_can_be_looked_at(empty_home):
    lines = invoke("data", "status").stdout.splitlines()
    assert lines[0].split()[:2] == ["digits", "ready"]
    assert any(line.startswith("mnist ") and "missing" in line for line in lines)
    assert invoke("data", "verify", "digits").exit_code == 0
    missing = invoke("data", "verify", "mnist")
    assert missing.exit_code == 1 and "missing" in missing.stdout
    assert "needs no download" in invoke("data", "fetch", "digits").stdout
