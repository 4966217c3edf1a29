import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from hatlab import reproduce as module
from hatlab.config import ConfigError
from hatlab.progress import Progress
from hatlab.provenance import checksum
from hatlab.reproduce import NotebookFailed, plan, reproduce

REPOSITORY = Path(__file__).resolve().parent.parent

PARAMETERS = """\
cs: list[float] = [0.5]  # compressibilities
seeds: list[int] = [0]  # seeds
s_max: float = 400.0  # slope
name: str = "x"  # of the file to write
others: dict = {}  # more fields
results: str = ""  # results
profile: str = "interactive"  # profile
figure: str = "toy"  # figure"""

FIGURES = """\
toy:
  first:
    notebook: toy.ipynb
  second:
    notebook: toy.ipynb
    parameters: {cs: [1, 2.5], name: y}
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one notebook; the returned function sets its code cell."""
    folder = tmp_path / "checkout" / "notebooks"
    folder.mkdir(parents=True)
    (folder / "figures.yaml").write_text(FIGURES)

    def write(code):
        cells = [
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(code),
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "toy.ipynb")
        return folder.parent

    monkeypatch.setattr(module, "home", lambda: folder.parent)
    write("pass")
    return write


@pytest.mark.parametrize(
    ("profile", "only", "parameters", "message"),
    [
        ("toi", [], {}, r"unknown profile 'toi'; did you mean 'toy'\? \(known: toy\)"),
        ("toy", ["frist"], {}, r"unknown figure of profile toy 'frist'; did you mean 'first'\?"),
        ("toy", [], {"smax": 1.0}, r"unknown parameter of toy.ipynb 'smax'; did you mean 's_max'\?"),
        ("toy", [], {"cs": 1.0}, r"cs = 1.0: Input should be a valid list \(wanted: list\[float\]\)"),
        ("toy", [], {"seeds": [True]}, r"seeds = \[True\]: Input should be a valid integer"),
        ("toy", [], {"seeds": []}, r"in the parameters of toy\.ipynb: seed: \[\] is not a list of one or more values"),
        ("toy", [], {"seeds": [0, 0]}, r"seed: 0 is named twice"),
        ("toy", [], {"others": {"seed": 3}}, r"others = \{'seed': 3\}: seed has a parameter of its own"),
        ("toy", [], {"cs": [0.1, -1]}, r"c = -1.0: Input should be greater than or equal to 0"),
        ("toy", [], {"s_max": 0.5}, r"s_max = 0.5: Input should be greater than or equal to 1"),
        ("toy", [], {"others": {"modee": "cross"}}, r"unknown parameter 'modee'; did you mean 'mode'\?"),
        ("toy", [], {"results": "elsewhere"}, r"'results' is set by the command"),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_kernel_starts(checkout, profile, only, parameters, message):
    with pytest.raises(ConfigError, match=message):
        plan(profile, only, parameters)


def test_values_replace_those_of_the_profile(checkout):
    first, second = plan("toy", [], {"name": "z"})
    assert first.parameters == {"name": "z"}
    assert second.parameters == {"cs": [1, 2.5], "name": "z"}
    assert [job.figure for job in plan("toy", ["second"], {})] == ["second"]


def test_without_notebooks_the_error_says_where_they_were_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "home", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"figures.yaml does not exist: run this in a checkout"):
        plan("quick", [], {})


def test_the_kernel_is_this_python_here_and_tells_its_progress(checkout, tmp_path, capsys, monkeypatch):
    root = checkout(
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from hatlab.progress import default_progress\n"
        "import hatlab\n"
        "default_progress().sweep_started(17)\n"
        "facts = [sys.executable, os.getcwd(), hatlab.__file__, cs, name, results, profile, figure]\n"
        "Path(results, profile, figure, name).write_text(json.dumps(facts))"
    )
    heard = []
    progress = Progress()
    monkeypatch.setattr(progress, "sweep_started", lambda n_runs: heard.append(n_runs))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out {name}" / "toy" / "second"  # papermill must not fill in the braces
    assert reproduce("toy", ["second"], results="out {name}", progress=progress) == [folder]
    facts = json.loads((folder / "y").read_text())
    assert facts[:2] == [sys.executable, str(tmp_path)]
    assert Path(facts[2]).parent == REPOSITORY / "hatlab"
    assert facts[3:] == [[1, 2.5], "y", "out {name}", "toy", "second"]
    assert heard == [17]

    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["profile"] == "toy" and manifest["figure"] == "second"
    assert manifest["parameters"] == {"cs": [1, 2.5], "name": "y"}
    assert manifest["notebook"] == {"name": "toy.ipynb", "checksum": checksum(root / "notebooks" / "toy.ipynb")}
    assert manifest["artifacts"] == {"toy.ipynb": checksum(folder / "toy.ipynb")}
    assert manifest["seconds"] > 0 and "python" in manifest["versions"] and "commit" in manifest["git"]
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "toy.ipynb", "y"]
    out = capsys.readouterr().out
    assert str(Path("out {name}", "toy", "second", "toy.ipynb")) in out
    nbformat.validate(nbformat.read(folder / "toy.ipynb", as_version=4))


def test_a_failing_notebook_is_named_and_kept_and_the_others_still_run(checkout, tmp_path):
    checkout("print('so far')\nif name == 'x':\n    raise ValueError('no good')")
    with pytest.raises(NotebookFailed) as raised:
        reproduce("toy", results=tmp_path, progress=Progress())
    message = str(raised.value)
    partial = tmp_path / "toy" / "first" / "toy.partial.ipynb"
    assert "toy.ipynb failed in cell [3] (print('so far')): ValueError: no good" in message
    assert str(partial) in message and "so far" in partial.read_text()
    assert not (partial.parent / "toy.ipynb").exists()
    assert (tmp_path / "toy" / "second" / "toy.ipynb").exists()


def test_a_kernel_that_dies_is_reported(checkout, tmp_path):
    checkout("import os\nos._exit(3)")
    with pytest.raises(
        NotebookFailed, match=r"toy.ipynb failed in cell \[3\] .*the kernel's process ended with exit code 3"
    ):
        reproduce("toy", ["first"], results=tmp_path, progress=Progress())


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal on POSIX only")
@pytest.mark.parametrize("stubborn", [False, True])
def test_ctrl_c_stops_the_kernel_too(checkout, tmp_path, stubborn):
    """Also when the kernel does not listen."""
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if stubborn else ""
    root = checkout(
        "import os, signal, time\n"
        f"{ignore}"
        "from pathlib import Path\n"
        "Path(results, 'pid').write_text(str(os.getpid()))\n"
        "while True:\n"
        "    time.sleep(0.05)"
    )
    script = (
        # a shell that runs the tests in the background has Ctrl-C ignored in all it starts
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys\nfrom pathlib import Path\n"
        "from hatlab import cli, reproduce\n"
        f"reproduce.home = lambda: Path({str(root)!r})\nreproduce.STOP_SECONDS = {1 if stubborn else 30}\n"
        "cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "reproduce", "--profile", "toy", "--results", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    pid_file = tmp_path / "pid"
    try:
        wait(lambda: pid_file.exists() and pid_file.read_text())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the same command again goes on" in errors and "Traceback" not in errors
    wait(lambda: not alive(int(pid_file.read_text())), seconds=10)
    assert (tmp_path / "toy" / "first" / "toy.partial.ipynb").exists()
    assert not (tmp_path / "toy" / "second").exists()
