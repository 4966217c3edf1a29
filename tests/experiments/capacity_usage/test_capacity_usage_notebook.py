"""02_capacity_usage.ipynb, smaller than it stands: curves over c and s_max, capacity by task, and the verdicts."""

import nbformat
import numpy as np
import pandas as pd
import pytest
from test_notebooks import execute, n_images

from hatlab.support.paths import home

pytestmark = pytest.mark.filterwarnings("ignore:.*IPython:DeprecationWarning")

SMALL = {
    "cs": [0, 2.5],
    "seeds": [0, 1],
    "s_maxs": [25, 400],
    "c": 2.5,
    "widths": [60, 60],
    "max_epochs": 6,
    "others": {"n_tasks": 3},
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return execute("02_capacity_usage.ipynb", folder, **SMALL), folder / "interactive" / "capacity_usage"


def test_figures_are_below_their_cells_and_in_the_folder(executed):
    notebook, folder = executed
    assert n_images(notebook) == 5
    figures = ["capacity_usage", "capacity_usage_s_max", "capacity_by_task", "capacity_by_layer", "remaining_capacity"]
    tables = ["capacity", "capacity_s_max", "summary", "summary_s_max", "task_capacity", "verdicts"]
    names = {f"{name}.{ending}" for name in figures for ending in ("png", "pdf")}
    names |= {f"{name}.{ending}" for name in tables for ending in ("parquet", "csv")}
    assert {path.name for path in folder.iterdir()} == names | {"manifest.json"}


def test_runs_that_both_figures_need_are_trained_once(executed):
    _, folder = executed
    over_c, over_s_max = (pd.read_parquet(folder / f"{name}.parquet") for name in ("capacity", "capacity_s_max"))
    assert set(over_c["c"]) == {0, 2.5} and set(over_c["s_max"]) == {400}
    assert set(over_s_max["s_max"]) == {25, 400} and set(over_s_max["c"]) == {2.5}
    assert len(set(over_c["run"]) & set(over_s_max["run"])) == 2
    trained = {path.name for path in (folder.parent.parent / "runs").iterdir() if not path.name.startswith(".")}
    assert trained == set(over_c["run"]) | set(over_s_max["run"]) and len(trained) == 6


def test_masks_start_alike_at_every_slope_and_a_gentle_one_prunes_less(executed):
    _, folder = executed
    capacity = pd.read_parquet(folder / "capacity_s_max.parquet")
    start = capacity[(capacity["task"] == 0) & (capacity["epoch"] == -1)]
    assert start.groupby("seed")["weights_used"].nunique().max() == 1
    by_slope = pd.read_csv(folder / "summary_s_max.csv").set_index("s_max")
    assert by_slope.loc[25, "usage"] > by_slope.loc[400, "usage"] and list(by_slope["seeds"]) == [2, 2]


def test_each_task_reuses_and_adds_what_makes_the_curve(executed):
    _, folder = executed
    table = pd.read_parquet(folder / "task_capacity.parquet")
    np.testing.assert_allclose(table["used"], table["reused"] + table["not_reused"] + table["new"], atol=1e-9)
    total = table[table["layer"] == "total"]
    first, later = total[total["task"] == 1], total[total["task"] > 1]
    assert (first["reused"] == 0).all() and (first["adahat"] == 100).all()
    assert (later["reused"] > 0).all() and (later["new"] > 0).all()
    summary = pd.read_csv(folder / "summary.csv")
    np.testing.assert_allclose(total["used"], summary.sort_values(["c", "tasks_learnt"])["usage"])
    # what the cumulative mask does not use is left for the next task, and AdaHAT's capacity is close to it
    for _, same in total.groupby("c"):
        np.testing.assert_allclose(same["free"].iloc[1:], 100 - same["used"].iloc[:-1])
    assert (later["adahat"] - later["free"]).abs().between(1e-3, 2).all()


def test_the_figures_properties_are_found(executed):
    notebook, folder = executed
    verdicts = pd.read_csv(folder / "verdicts.csv")
    assert verdicts["paper"].isna().all() and verdicts["n"].tolist() == [2, 2, 6, 6, 2]
    assert verdicts["verdict"].tolist() == ["passes"] * 4 + ["undecided"]  # two seeds decide nothing
    assert (verdicts["ours"].iloc[:2] - [25, 50]).abs().max() < 10
    printed = "".join(
        output.text for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
        if output.output_type == "stream"
    )  # fmt: skip
    assert "AdaHAT's capacity minus the share of free weights: between" in printed
    assert "4 runs, each before 2 tasks" in printed


def test_the_default_has_a_curve_at_the_papers_slope_that_both_figures_share():
    cells = nbformat.read(home() / "notebooks" / "02_capacity_usage.ipynb", as_version=4).cells
    values: dict = {}
    exec(next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), values)
    assert values["s_max"] in values["s_maxs"] and values["c"] in values["cs"]
