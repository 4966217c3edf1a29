"""What is built of a checkout, installed elsewhere: every command works, from any folder and without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from hatlab.support.provenance import checksum

ROOT = Path(__file__).parent.parent
SOURCES = (
    "hatlab", "notebooks", "tests/support", "docs/package.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml",
    "setup.py",
)  # fmt: skip
COMMAND = """\
import sys, hatlab
assert hatlab.__file__.startswith(sys.argv.pop(1)), hatlab.__file__
from hatlab.cli.main import main
main()
"""
TINY = ("-p", "widths=[10, 10]", "-p", "max_epochs=1", "--device", "cpu")
OWN = """\
import hatlab
import pandas as pd
from hatlab.support import artifacts
where = pd.DataFrame({"seed": [seed], "hatlab": [hatlab.__file__]})
artifacts.save(figure, runs=[], tables={"where": where}, profile=profile, results=results)"""
PARAMETERS = """\
seed: int = 0
results: str = ""
profile: str = "interactive"
figure: str = "own\""""


def uv(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "uv", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source distribution, and the wheel made from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, source / name)
    isolated = ("--no-build-isolation", "--offline", "--no-cache", "--python", sys.executable)
    uv("build", *isolated, "--out-dir", str(out), str(source))
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package; what it depends on is there already."""
    target = tmp_path_factory.mktemp("target")
    (wheel,) = built.glob("*.whl")
    alone = ("--no-deps", "--offline", "--no-cache", "--python", sys.executable)
    uv("pip", "install", *alone, "--target", str(target), str(wheel))
    return target


def hatlab(installed: Path, cwd: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HATLAB_")}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, str(installed), *arguments],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(installed), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def files(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)}


def test_wheel_has_every_module_and_the_notebooks_of_the_checkout(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    notebooks = {path.name: path.read_bytes() for path in (ROOT / "notebooks").glob("*.ipynb")}
    notebooks["figures.yaml"] = (ROOT / "notebooks" / "figures.yaml").read_bytes()
    with zipfile.ZipFile(wheel) as content:
        names = {name for name in content.namelist() if ".dist-info/" not in name}
        held = {name: content.read(f"hatlab/notebooks/{name}") for name in notebooks}
    assert names == {"hatlab/py.typed"} | files(ROOT, "hatlab/**/*.py") | {f"hatlab/notebooks/{n}" for n in notebooks}
    assert held == notebooks


def test_source_distribution_has_what_a_wheel_is_made_of_and_no_tests(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert {"setup.py", "notebooks/figures.yaml", "hatlab/config.py"} <= names
    assert not {name for name in names if name.startswith("tests") or name == "README.md"}


def test_run_and_sweep_write_below_the_current_folder(installed: Path, tmp_path: Path) -> None:
    run = hatlab(installed, tmp_path, "run", *TINY)
    assert run.returncode == 0, run.stderr
    sweep = hatlab(installed, tmp_path, "sweep", *TINY, "--over", "seed=0..1")
    assert sweep.returncode == 0, sweep.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    manifests = sorted((tmp_path / "results" / "runs").glob("*/manifest.json"))
    assert len(manifests) == 2  # the sweep has loaded one
    for path in manifests:
        (session,) = json.loads(path.read_text(encoding="utf-8"))["sessions"]
        assert session["git"] == {"commit": None, "dirty": None}


def test_batch_runs_a_notebook_of_ones_own(installed: Path, tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(OWN)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "own.ipynb")
    done = hatlab(installed, tmp_path, "batch", "own.ipynb", "-p", "seed=3")
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = (tmp_path / "results" / "notebooks").glob("*/where.parquet")
    (where,) = pd.read_parquet(table).itertuples(index=False)
    assert where.seed == 3 and where.hatlab.startswith(str(installed))
    assert hatlab(installed, tmp_path, "status").returncode == 0


def test_reproduce_runs_the_notebooks_in_the_package(installed: Path, tmp_path: Path) -> None:
    current, results = tmp_path / "current", tmp_path / "elsewhere"
    current.mkdir()
    figure = ("--profile", "quick", "--only", "weight_reuse", "-p", "seeds=[0]", "-p", "others={n_tasks: 2}")
    done = hatlab(installed, current, "reproduce", *figure, *TINY, HATLAB_RESULTS=str(results))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(current.iterdir())
    folder = results / "quick" / "weight_reuse"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["artifacts"].keys() >= {"05_weight_reuse.ipynb", "verdicts.csv"}
    assert manifest["notebook"]["checksum"] == checksum(ROOT / "notebooks" / "05_weight_reuse.ipynb")


def test_a_figure_that_is_not_listed_is_refused(installed: Path, tmp_path: Path) -> None:
    done = hatlab(installed, tmp_path, "reproduce", "--profile", "quick", "--only", "capacity_usag")
    assert done.returncode == 2
    assert "did you mean 'capacity_usage'?" in done.stderr
    assert not list(tmp_path.iterdir())
