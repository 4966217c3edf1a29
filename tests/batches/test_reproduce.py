import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from hatlab.analysis.verdicts import Verdict
from hatlab.batches import batches
from hatlab.batches import reproduce as module
from hatlab.batches.reproduce import NotebookFailed, plan, reproduce
from hatlab.config import ConfigError
from hatlab.support import provenance
from hatlab.support.provenance import checksum

REPOSITORY = Path(__file__).resolve().parent.parent.parent

PARAMETERS = """\
cs: list[float] = [0.5]  # compressibilities
seeds: list[int] = [0]  # seeds
s_max: float = 400.0  # slope
name: str = "x"  # of the figure
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

VERDICTS = """\
from hatlab.analysis import verdicts
from hatlab.support import artifacts
found = verdicts.table([
    verdicts.number("Usage before the first step (section 4.4)", [24.9, 25.0, 25.1], verdicts.Printed(25.0, 1.0)),
    verdicts.check(f"Usage of {name} never falls", [True, name == "x"]),
])
artifacts.save(figure, runs=[], tables={"verdicts": found}, profile=profile, results=results)"""


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

    monkeypatch.setattr(module, "notebooks", lambda: folder)
    write("pass")
    return write


def names(folder):
    return {path.name for path in folder.iterdir()}


def attempts(results, name="reproduce-toy"):
    """Figure -> how often its notebook was started."""
    found = batches.find(results, name)
    return {found.figures[run.run_id]: found.entry(run).written().attempt for run in found.runs}


@pytest.mark.parametrize(
    ("profile", "only", "parameters", "message"),
    [
        ("toi", [], {}, r"unknown profile 'toi'; did you mean 'toy'\? \(known: toy\)"),
        ("toy", ["frist"], {}, r"unknown figure of profile toy 'frist'; did you mean 'first'\? \(known: first, sec"),
        ("toy", ["a", "first", "b"], {}, r"profile toy 'a' .*\n.*profile toy 'b' "),
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
)  # fmt: skip
def test_what_cannot_be_used_is_refused_before_a_kernel_starts(checkout, tmp_path, profile, only, parameters, message):
    with pytest.raises(ConfigError, match=message):
        plan(profile, only, parameters)
    with pytest.raises(ConfigError, match=message):
        reproduce(profile, only, parameters, results=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_any_figure_is_told_at_once(checkout, tmp_path):
    root = checkout("pass")
    figures = (
        "toy:\n  a: {notebook: toy.ipynb, parameters: {s_max: 0.5}}\n  b: {notebook: toy.ipynb, parameters: {cs: 3}}\n"
    )
    (root / "notebooks" / "figures.yaml").write_text(figures)
    with pytest.raises(ConfigError) as raised:
        reproduce("toy", results=tmp_path / "out")
    message = str(raised.value)
    assert (
        "s_max = 0.5: " in message and "cs = 3: " in message and "(2 runs were asked for, none was started)" in message
    )
    (root / "notebooks" / "figures.yaml").write_text("toy:\n  a: {notebook: toy.ipynb, parametres: {}}\n")
    with pytest.raises(ConfigError, match=r"toy, a: unknown entry 'parametres'; did you mean 'parameters'\?"):
        plan("toy", [], {})
    (root / "notebooks" / "figures.yaml").write_text("toy:\n  a: {again: true}\n")
    with pytest.raises(ConfigError, match=r"toy, a: no notebook is named"):
        plan("toy", [], {})
    with pytest.raises(ConfigError, match=r"workers = 0: allowed is a whole number from 1 to 1000"):
        (root / "notebooks" / "figures.yaml").write_text(FIGURES)
        reproduce("toy", results=tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()


def test_values_replace_those_of_the_profile(checkout):
    first, second = plan("toy", [], {"name": "z"})
    assert first.parameters == {"name": "z"}
    assert second.parameters == {"cs": [1, 2.5], "name": "z"}
    assert [job.figure for job in plan("toy", ["second"], {})] == ["second"]


def test_without_notebooks_the_error_says_where_they_were_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "notebooks", lambda: tmp_path)
    with pytest.raises(ConfigError) as raised:
        plan("quick", [], {})
    missing = tmp_path / "figures.yaml"
    assert str(raised.value) == f"{missing} does not exist: hatlab's checkout and wheel have it, this copy has not"


def test_the_kernel_is_this_python_and_its_outcome_lies_in_the_figures_folder(checkout, tmp_path, capsys, monkeypatch):
    root = checkout(
        "import os, sys\n"
        "import pandas as pd\n"
        "import hatlab\n"
        "from hatlab.support import artifacts\n"
        "facts = [sys.executable, os.getcwd(), hatlab.__file__, str(cs), name, results, profile]\n"
        "facts = pd.DataFrame({'fact': facts})\n"
        "folder = artifacts.save(figure, runs=[], tables={'facts': facts}, profile=profile, results=results)\n"
        "(folder / 'undeclared').touch()"
    )
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out {name}" / "toy" / "second"  # papermill must not fill in the braces
    folder.mkdir(parents=True)
    (folder / "of_an_earlier_outcome.png").touch()
    assert reproduce("toy", ["second"], results="out {name}") == [folder]
    facts = pd.read_csv(folder / "facts.csv")["fact"].tolist()
    assert facts[:2] == [sys.executable, str(tmp_path)]
    assert Path(facts[2]).parent == REPOSITORY / "hatlab"
    assert facts[3:] == ["[1.0, 2.5]", "y", str(tmp_path / "out {name}"), "notebooks"]

    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["profile"] == "toy" and manifest["figure"] == "second"
    assert manifest["parameters"] == {"cs": [1, 2.5], "name": "y", "s_max": 400.0, "seeds": [0], "others": {}}
    assert manifest["notebook"] == {"name": "toy.ipynb", "checksum": checksum(root / "notebooks" / "toy.ipynb")}
    assert manifest["artifacts"] == {
        name: checksum(folder / name) for name in ("toy.ipynb", "facts.csv", "facts.parquet")
    }
    assert names(folder) == {*manifest["artifacts"], "manifest.json"}
    assert manifest["hatlab"] == provenance.library_version()
    assert manifest["seconds"] > 0 and "python" in manifest["versions"] and "commit" in manifest["git"]
    nbformat.validate(nbformat.read(folder / "toy.ipynb", as_version=4))
    # a copy that is passed on does not name folders or hosts of this machine
    assert str(tmp_path) not in (folder / "toy.ipynb").read_text() + (folder / "manifest.json").read_text()
    assert "host" not in manifest
    assert re.search(r"^second: done in \d.+; in out \{name\}/toy/second$", capsys.readouterr().err, re.M)


def test_verdicts_are_printed_at_every_call_and_what_is_done_is_not_made_again(checkout, tmp_path, capsys):
    root = checkout(VERDICTS)
    folders = reproduce("toy", results=tmp_path, workers=2)
    assert folders == [tmp_path / "toy" / "first", tmp_path / "toy" / "second"]
    first = capsys.readouterr()
    counts = "number: 2 agrees, 0 differs, 0 undecided; check: 1 passes, 1 fails"
    assert first.out.splitlines()[-1] == f"{counts}; {tmp_path / 'toy' / 'verdicts.csv'}"
    assert max(map(len, first.out.splitlines()[:-1])) <= 110 and "\x1b" not in first.out
    lines = [" ".join(line.split()) for line in first.out.splitlines()]
    said = lines.index("first")
    assert lines[said + 1].startswith("Usage before the first step") and " 3 agrees the" in lines[said + 1]
    assert "Usage of y never falls (check) 50% 2 FAILS in 1 of 2 runs" in lines[lines.index("second") :]

    table = pd.read_csv(tmp_path / "toy" / "verdicts.csv")
    assert list(table) == ["figure", *Verdict._fields, "command", "seconds", "gigabytes"]
    assert table["command"].tolist() == [f"hatlab reproduce --profile toy --only {name}" for name in table["figure"]]
    assert (table["seconds"] == 0).all() and table["gigabytes"].between(0.01, 100).all()  # no runs, and a kernel
    assert table["figure"].tolist() == ["first"] * 2 + ["second"] * 2
    assert table["verdict"].tolist() == ["agrees", "passes", "agrees", "fails"]
    csv = (tmp_path / "toy" / "verdicts.csv").read_bytes()

    (folders[0] / "verdicts.csv").write_text("altered")
    (folders[1] / "manifest.json").unlink()
    assert reproduce("toy", results=tmp_path) == folders
    again = capsys.readouterr()
    assert again.out == first.out and (tmp_path / "toy" / "verdicts.csv").read_bytes() == csv
    assert "reproduce-toy: 2 of 2 done" in again.err and "first: done before; in " in again.err
    assert attempts(tmp_path) == {"first": 1, "second": 1}
    for folder in folders:  # whole again, from the run's own folder
        artifacts = json.loads((folder / "manifest.json").read_text())["artifacts"]
        assert {name: checksum(folder / name) for name in artifacts} == artifacts

    checkout(f"{VERDICTS}\n# changed")
    assert reproduce("toy", ["second"], results=tmp_path) == folders[1:]
    changed = capsys.readouterr()
    assert "second: stale: the notebook was changed" in changed.err
    version = provenance.library_version()
    assert changed.out.splitlines()[-2].startswith("not made in this call: first (of ")
    assert changed.out.splitlines()[-2].endswith(f", hatlab {version})") and counts in changed.out
    assert attempts(tmp_path) == {"second": 1}
    assert json.loads((folders[1] / "manifest.json").read_text())["notebook"]["checksum"] == checksum(
        root / "notebooks" / "toy.ipynb"
    )


def test_a_failing_notebook_is_named_and_kept_and_the_others_still_run(checkout, tmp_path, capsys):
    failing = "print('so far')\nif name == 'x':\n    raise ValueError('no good')\n"
    checkout(failing + VERDICTS)
    with pytest.raises(NotebookFailed) as raised:
        reproduce("toy", results=tmp_path)
    partial = tmp_path / "toy" / "first" / "toy.partial.ipynb"
    assert str(raised.value) == (
        "first: toy.ipynb failed in cell [3] (print('so far')): ValueError: no good\n"
        f"the notebook as far as it came: {partial}"
    )
    assert "so far" in partial.read_text() and names(partial.parent) == {partial.name}
    assert (tmp_path / "toy" / "second" / "toy.ipynb").exists()
    assert "number: 1 agrees, 0 differs, 0 undecided; check: 0 passes, 1 fails" in capsys.readouterr().out

    checkout(VERDICTS)
    first, _ = reproduce("toy", results=tmp_path)
    assert names(first) == {"toy.ipynb", "verdicts.csv", "verdicts.parquet", "manifest.json"}
    whole = {name: checksum(first / name) for name in names(first)}
    checkout(failing)
    with pytest.raises(NotebookFailed, match="no good"):
        reproduce("toy", ["first"], results=tmp_path)
    assert {name: checksum(first / name) for name in whole} == whole  # an earlier outcome stays, and is called so
    assert names(first) == {*whole, partial.name}
    assert "not made in this call: first (of " in capsys.readouterr().out


def test_a_kernel_that_dies_is_reported(checkout, tmp_path):
    checkout("import os\nos._exit(3)")
    with pytest.raises(
        NotebookFailed, match=r"first: toy.ipynb failed in cell \[3\] .*the kernel's process ended with exit code 3"
    ):
        reproduce("toy", ["first"], results=tmp_path)


def test_a_figure_may_be_made_at_each_call_and_two_may_be_made_by_one_run(checkout, tmp_path, capsys):
    root = checkout("pass")
    figures = (
        "toy:\n  a: {notebook: toy.ipynb, parameters: {name: y}}\n"
        "  b: {notebook: toy.ipynb, parameters: {name: y, seeds: [0]}}\n"
        "  c: {notebook: toy.ipynb, again: true}\n"
    )
    (root / "notebooks" / "figures.yaml").write_text(figures)
    for call in (1, 2):
        assert [folder.name for folder in reproduce("toy", results=tmp_path)] == ["a", "b", "c"]
        assert attempts(tmp_path) == {"a, b": 1, "c": call}
    assert checksum(tmp_path / "toy" / "a" / "toy.ipynb") == checksum(tmp_path / "toy" / "b" / "toy.ipynb")
    captured = capsys.readouterr()
    assert captured.out == "" and not (tmp_path / "toy" / "verdicts.csv").exists()  # none of them has a verdict


def test_a_table_of_verdicts_that_is_none_is_named(checkout, tmp_path):
    checkout(VERDICTS.replace('"verdicts": found', '"verdicts": found.drop(columns="why")'))
    with pytest.raises(NotebookFailed, match="first: its table of verdicts has no column why"):
        reproduce("toy", ["first"], results=tmp_path)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal on POSIX only")
@pytest.mark.parametrize(("sent", "stubborn"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_ctrl_c_stops_the_kernel_too_and_keeps_what_is_done(checkout, tmp_path, sent, stubborn):
    """Also when the kernel does not listen."""
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if stubborn else ""
    root = checkout(
        "import os, signal, time\n"
        f"{ignore}"
        "from pathlib import Path\n"
        "if name == 'x':\n"
        "    Path(results, 'pid').write_text(str(os.getpid()))\n"
        "while name == 'x':\n"
        "    time.sleep(0.05)"
    )
    script = (
        # a shell that runs the tests in the background has Ctrl-C ignored in all it starts
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys\nfrom pathlib import Path\n"
        "from hatlab.batches import reproduce, runner; from hatlab.cli import main as cli\n"
        f"reproduce.notebooks = lambda: Path({str(root / 'notebooks')!r})\n"
        f"runner.STOP_SECONDS = {1 if stubborn else 30}\n"
        "cli.main()"
    )
    arguments = ["reproduce", "--profile", "toy", "--workers", "2", "--results", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    pid_file, done = tmp_path / "pid", tmp_path / "toy" / "second" / "manifest.json"
    try:
        wait(lambda: pid_file.exists() and pid_file.read_text() and done.exists())
        process.send_signal(sent)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the same command again goes on" in errors and "Traceback" not in errors
    wait(lambda: not alive(int(pid_file.read_text())), seconds=10)
    assert not (tmp_path / "toy" / "first").exists()
    states = {run.values["name"]: status for run, status in _statuses(tmp_path)}
    assert states == {"x": "queued", "y": "done"}


def _statuses(results):
    found = batches.find(results, "reproduce-toy")
    return [(run, found.entry(run).status().state) for run in found.runs]
