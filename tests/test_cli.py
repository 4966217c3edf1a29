import subprocess
import sys

import pytest
from click.testing import CliRunner

from hatlab import __version__, runs
from hatlab import reproduce as reproduce_module
from hatlab.cli import cli
from hatlab.config import RunConfig
from hatlab.reproduce import NotebookFailed

TINY = ["-p", "widths=[8, 8]", "-p", "max_epochs=1", "-p", "n_tasks=2", "-p", "dropout=[0, 0]"]


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_help_needs_no_torch():
    code = (
        "import sys; from hatlab.cli import cli; cli(['--help'], standalone_mode=False); print('torch' in sys.modules)"
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
    def fail(*_):
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


def test_reproduce_hands_its_options_on(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(reproduce_module, "reproduce", lambda *arguments: given.append(arguments))
    options = ["--only", "a", "--only", "b", "-p", "cs=[0, 1e-1]", "--device", "cpu", "--results", tmp_path]
    assert invoke("reproduce", "--profile", "mnist", *options).exit_code == 0
    assert invoke("reproduce").exit_code == 0
    assert given == [
        ("mnist", ("a", "b"), {"cs": [0, 0.1], "device": "cpu"}, tmp_path),
        ("quick", (), {}, None),
    ]


def test_data_sets_can_be_looked_at(empty_home):
    lines = invoke("data", "status").stdout.splitlines()
    assert lines[0].split()[:2] == ["digits", "ready"]
    assert any(line.startswith("mnist ") and "missing" in line for line in lines)
    assert invoke("data", "verify", "digits").exit_code == 0
    missing = invoke("data", "verify", "mnist")
    assert missing.exit_code == 1 and "missing" in missing.stdout
    assert "needs no download" in invoke("data", "fetch", "digits").stdout
