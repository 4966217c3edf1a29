import ast
import json

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import yaml

from hatlab.paths import home
from hatlab.progress import Progress
from hatlab.provenance import checksum
from hatlab.reproduce import plan, reproduce

NOTEBOOKS = sorted((home() / "notebooks").glob("*.ipynb"))
PROFILES = yaml.safe_load((home() / "notebooks" / "figures.yaml").read_text(encoding="utf-8"))

pytestmark = pytest.mark.filterwarnings("ignore:.*IPython:DeprecationWarning")


def parameter_cells(notebook):
    return [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_is_annotated_and_commented_in_one_cell(path):
    (cell,) = parameter_cells(nbformat.read(path, as_version=4))
    lines = cell.source.splitlines()
    statements = ast.parse(cell.source).body
    assert len(lines) == len(statements)
    for line, statement in zip(lines, statements, strict=True):
        assert isinstance(statement, ast.AnnAssign) and statement.value is not None
        assert line.partition("  # ")[2]
    found = papermill.inspect_notebook(str(path))
    assert list(found) == [statement.target.id for statement in statements]
    assert all(parameter["help"] and parameter["inferred_type_name"] != "None" for parameter in found.values())


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_notebooks_that_take_its_parameters(profile):
    jobs = plan(profile, [], {})
    assert [job.figure for job in jobs] == list(PROFILES[profile])
    assert all(job.notebook.path in NOTEBOOKS for job in jobs)


def test_the_default_profile_is_the_notebook_as_it_stands():
    assert {job.figure: job.parameters for job in plan("quick", [], {})} == {"capacity_usage": {}}


@pytest.fixture(scope="module")
def capacity_usage(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    (folder,) = reproduce("smoke", results=results, progress=Progress())
    return folder


def test_capacity_usage_grows_by_task_and_falls_with_c(capacity_usage):
    capacity = pd.read_parquet(capacity_usage / "capacity.parquet")
    usage = capacity["weights_used"] / capacity["weights"]
    assert usage.between(0, 1).all()
    assert set(capacity["layer"]) == {"fc1", "fc2", "total"} and capacity["epoch"].min() == -1
    start = capacity.assign(usage=usage)[(capacity["task"] == 0) & (capacity["epoch"] == -1)]
    assert start.groupby("layer")["usage"].nunique().max() == 1  # c plays no part before the first step

    summary = pd.read_csv(capacity_usage / "summary.csv")
    by_c = summary.pivot(index="tasks_learnt", columns="c", values="usage")
    assert by_c.columns.is_monotonic_increasing and len(by_c) == 5
    assert np.all(by_c.diff(axis=1).iloc[:, 1:] < 0)  # a larger c uses less, after every task
    assert np.all(by_c.diff().iloc[1:] >= 0)  # what is taken stays taken
    assert summary["accuracy"].between(55, 100).all()


def test_capacity_usage_leaves_everything(capacity_usage):
    manifest = json.loads((capacity_usage / "manifest.json").read_text())
    names = {"capacity_usage.png", "capacity_usage.pdf", "02_capacity_usage.ipynb"}
    names |= {f"{table}.{ending}" for table in ("capacity", "summary") for ending in ("parquet", "csv")}
    assert set(manifest["artifacts"]) == names
    assert {path.name for path in capacity_usage.iterdir()} == names | {"manifest.json"}
    assert manifest["artifacts"] == {name: checksum(capacity_usage / name) for name in names}
    assert manifest["notebook"]["checksum"] == checksum(home() / "notebooks" / "02_capacity_usage.ipynb")
    assert manifest["parameters"] == PROFILES["smoke"]["capacity_usage"]["parameters"]
    assert [(run["config"]["c"], run["config"]["seed"]) for run in manifest["runs"]] == [(0, 0), (2.5, 0)]
    for run in manifest["runs"]:
        assert (capacity_usage.parent.parent / "runs" / run["run_id"] / "manifest.json").exists()
        assert run["sessions"][0]["device"]
    assert all(value.startswith("sha256:") for value in manifest["data"].values()) and manifest["data"]


def test_the_executed_copy_shows_the_figure_and_one_line_per_task(capacity_usage):
    notebook = nbformat.read(capacity_usage / "02_capacity_usage.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "stream" and output.name == "stderr" for output in outputs)
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert text.count("test accuracy") == 10 and text.replace("\n", "").isprintable()


def test_the_mnist_profile_runs_on_real_mnist(shared_data, tmp_path):
    """One run, one epoch a task, narrow: the path that the profile takes, not its numbers."""
    shared_data("MNIST/raw")
    small = {"cs": [0.75], "seeds": [0], "max_epochs": 1, "widths": [50, 50]}
    (folder,) = reproduce("mnist", parameters=small, results=tmp_path, progress=Progress())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {name.partition("/")[0] for name in manifest["data"]} == {"MNIST"}
    summary = pd.read_csv(folder / "summary.csv")
    assert list(summary["tasks_learnt"]) == [1, 2, 3, 4, 5]
    assert summary["usage"].is_monotonic_increasing
    assert summary["accuracy"].min() > 90
