import ast
import json

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from notebooks_for_tests import done_batch, write

import hatlab
from hatlab.analysis import store
from hatlab.batches import batches
from hatlab.batches.kernels import Execution
from hatlab.batches.notebook import Notebook
from hatlab.batches.reproduce import NotebookFailed, plan, reproduce
from hatlab.config import RunConfig
from hatlab.support.paths import home
from hatlab.support.provenance import checksum, library_version

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
        assert set(cell.metadata) <= {"tags", "slideshow"}


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


def test_the_default_profile_is_the_notebooks_as_they_stand():
    jobs = plan("quick", [], {})
    assert all(job.portable and (job.parameters == {}) == (job.figure != "cross_ablation_tight") for job in jobs)
    assert {job.notebook.name[:2] for job in jobs} == {"01", "02", "03", "04", "05", "06", "07", "08"}


@pytest.fixture(scope="module")
def capacity_usage(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    (folder,) = reproduce("smoke", only=["capacity_usage"], results=results)
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
    figures = ("capacity_usage", "capacity_by_task", "capacity_by_layer", "remaining_capacity")  # one s_max is no sweep
    tables = ("capacity", "capacity_s_max", "summary", "summary_s_max", "task_capacity", "verdicts")
    names = {"02_capacity_usage.ipynb"} | {f"{figure}.{end}" for figure in figures for end in ("png", "pdf")}
    names |= {f"{table}.{end}" for table in tables for end in ("parquet", "csv")}
    assert set(manifest["artifacts"]) == names
    assert {path.name for path in capacity_usage.iterdir()} == names | {"manifest.json"}
    assert manifest["artifacts"] == {name: checksum(capacity_usage / name) for name in names}
    assert manifest["notebook"]["checksum"] == checksum(home() / "notebooks" / "02_capacity_usage.ipynb")
    assert PROFILES["smoke"]["capacity_usage"]["parameters"].items() <= manifest["parameters"].items()
    assert [(run["config"]["c"], run["config"]["seed"]) for run in manifest["runs"]] == [(0, 0), (2.5, 0)]
    for run in manifest["runs"]:
        assert (capacity_usage.parent.parent / "runs" / run["run_id"] / "manifest.json").exists()
        assert run["sessions"][0]["device"]
    assert all(value.startswith("sha256:") for value in manifest["data"].values()) and manifest["data"]


def test_a_figure_is_drawn_from_a_store_of_runs_without_training(capacity_usage, tmp_path):
    trained = capacity_usage.parent.parent
    manifest = json.loads((capacity_usage / "manifest.json").read_text())
    configs = [RunConfig(**run["config"]) for run in manifest["runs"]]
    store.pack(hatlab.sweep(configs, results=trained), tmp_path / "runs.zip", "smoke")
    (folder,) = reproduce("smoke", only=["capacity_usage"], results=tmp_path / "drawn", source=tmp_path / "runs.zip")
    for table in capacity_usage.glob("*.parquet"):
        assert (folder / table.name).read_bytes() == table.read_bytes(), table.name
    assert not list((tmp_path / "drawn" / "runs").glob("*/checkpoint.pt"))
    with pytest.raises(NotebookFailed, match="nothing is to be trained"):
        reproduce("smoke", parameters={"seeds": [1]}, results=tmp_path / "more", source=tmp_path / "runs.zip")


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
    (folder,) = reproduce("mnist", only=["capacity_usage"], parameters=small, results=tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {name.partition("/")[0] for name in manifest["data"]} == {"MNIST"}
    summary = pd.read_csv(folder / "summary.csv")
    assert list(summary["tasks_learnt"]) == [1, 2, 3, 4, 5]
    assert summary["usage"].is_monotonic_increasing
    assert summary["accuracy"].min() > 90


def execute(name, folder, **parameters):
    """Run a notebook of notebooks/ as it stands; return the folder of its outcome and its executed copy."""
    notebook, copy = Notebook.read(home() / "notebooks" / name), folder / name
    execution = Execution(notebook, copy, {"results": str(folder), **parameters}, str(folder))
    execution.start()
    execution.join()
    assert execution.failure is None, execution.failure.traceback
    return nbformat.read(copy, as_version=4)


def test_a_report_shows_a_small_example_where_there_is_no_batch(tmp_path):
    executed = execute("09_report.ipynb", tmp_path)
    folder = tmp_path / "interactive" / "report"
    runs = pd.read_csv(folder / "runs.csv")
    assert runs["state"].tolist() == ["done"] * 4
    assert list(zip(runs["c"], runs["seed"], strict=True)) == [(0.1, 0), (0.1, 1), (2.5, 0), (2.5, 1)]
    capacity = pd.read_parquet(folder / "capacity.parquet")
    assert set(capacity["notebook_run"]) == set(runs["run"])
    last = capacity[(capacity["layer"] == "total") & (capacity["task"] == 4)].groupby("c")["weights_used"].last()
    assert last[2.5] < 0.8 * last[0.1]  # a stronger regularizer leaves more of the network free
    assert {"timeline.png", "capacity_usage.png", "capacity_usage.pdf"} <= {path.name for path in folder.iterdir()}
    versions = pd.read_csv(folder / "versions.csv").set_index("what")
    assert versions.loc["hatlab", "value"] == library_version() and versions.loc["hatlab", "runs"] == 4
    text = "".join(
        output.text for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )  # fmt: skip
    assert n_images(executed) == 2  # both figures stand below their cells
    assert "4 of 4 runs of 10_your_own.ipynb are done" in text and "Nothing: no run failed." in text


def n_images(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_a_report_of_a_batch_with_failures_says_so(tmp_path):
    code = "if i == 1:\n    raise ValueError('no way')"
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 0  # the run")
    batches.batch(notebook, over={"i": [0, 1]}, results=tmp_path, workers=2, name="night")
    executed = execute("09_report.ipynb", tmp_path, batch="night")
    text = str(executed.cells)
    assert "night: 1 of 2 runs of n.ipynb are done" in text and "ValueError: no way" in text
    assert pd.read_csv(tmp_path / "interactive" / "report" / "runs.csv")["state"].tolist() == ["done", "failed"]


def test_two_batches_are_compared(tmp_path):
    for name, c in (("weak", 0.1), ("strong", 2.5)):
        frames = [pd.DataFrame({"epoch": [0, 1], "weights_used": [90, 80 - seed - 10 * c]}) for seed in range(5)]
        made = done_batch(
            tmp_path / name, [{"c": c, "seed": seed} for seed in range(5)], [{"capacity": f} for f in frames]
        )
        made.save()
    executed = execute("11_compare.ipynb", tmp_path, first=str(tmp_path / "weak"), second=str(tmp_path / "strong"))
    assert "5 pairs" in str(executed.cells) and n_images(executed) == 1
    folder = tmp_path / "interactive" / "compare"
    assert pd.read_csv(folder / "facts.csv").to_numpy().tolist() == [["parameter c", 0.1, 2.5]]
    (row,) = pd.read_csv(folder / "outcomes.csv").itertuples()
    assert (row.n, row.mean, row.low, row.high) == (5, -24, -24, -24) and (folder / "differences.png").is_file()


def test_the_pages_notebook_of_ones_own_is_the_one_that_is_tested():
    """Ten lines in two cells, as in notebooks/10_your_own.ipynb."""
    section = (home() / "docs" / "own_notebooks.md").read_text(encoding="utf-8")
    shown = [block.partition("```")[0].strip() for block in section.split("```python\n")[1:]]
    notebook = nbformat.read(home() / "notebooks" / "10_your_own.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert shown == code
    assert sum(bool(line.strip()) for source in code for line in source.splitlines()) == 10
