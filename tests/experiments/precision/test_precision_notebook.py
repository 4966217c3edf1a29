"""08_precision.ipynb, smaller than it stands: the capacity curve depends on the precision of the gate."""

import numpy as np
import pandas as pd
import pytest
from test_notebooks import execute, n_images

pytestmark = pytest.mark.filterwarnings("ignore:.*IPython:DeprecationWarning")

SMALL = {"seeds": [0, 1], "widths": [80, 80], "max_epochs": 8, "others": {"n_tasks": 3}}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return execute("08_precision.ipynb", folder, **SMALL), folder / "interactive" / "precision"


def test_a_more_precise_gradient_closes_more_units(executed):
    _, folder = executed
    alone = pd.read_parquet(folder / "simulated.parquet")
    last = alone[alone["epoch"] == 40].pivot(index="seed", columns="arm", values="active")
    assert (last["float32"] > last["float64"]).all() and (last["float64"] > last["exact"]).all()
    assert last["float32"].between(8, 12).all() and (last["exact"] < 0.1).all()

    ends = pd.read_parquet(folder / "outcomes.parquet").pivot(index=["schedule", "seed"], columns="arm", values="usage")
    assert len(ends) == 4
    assert (ends["float32"] > ends["float64"]).all() and (ends["float64"] > ends["exact"]).all()


def test_all_arms_and_schedules_of_a_seed_start_alike(executed):
    _, folder = executed
    curves = pd.read_parquet(folder / "curves.parquet")
    assert curves.groupby("run")["arm"].nunique().max() == 1 and curves["run"].nunique() == 12
    start = curves[(curves["task"] == 0) & (curves["epoch"] == -1)]
    assert len(start) == 12 and start.groupby("seed")["weights_used"].nunique().max() == 1


def test_differences_are_of_pairs_and_the_text_is_computed_from_them(executed):
    notebook, folder = executed
    outcomes = pd.read_csv(folder / "outcomes.csv").set_index(["schedule", "arm", "seed"])["usage"].sort_index()
    differences = pd.read_csv(folder / "differences.csv")
    first = differences.iloc[0]
    assert (first["arm"], first["schedule"], first["reference_arm"], first["n"]) == ("float64", "authors", "float32", 2)
    expected = (outcomes["authors", "float64"] - outcomes["authors", "float32"]).mean()
    np.testing.assert_allclose(first["mean"], expected)
    printed = "".join(
        output.text for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
        if output.output_type == "stream"
    )  # fmt: skip
    assert f"usage at the end: too few pairs ({expected:+.1f} [".replace("-", "−") in printed
    assert printed.count("n = 2 seeds.") == 7


def test_there_is_nothing_in_the_paper_beside_it(executed):
    notebook, folder = executed
    verdicts = pd.read_csv(folder / "verdicts.csv")
    assert set(verdicts["verdict"]) == {"estimated"} and verdicts["paper"].isna().all() and len(verdicts) == 5
    assert n_images(notebook) == 3
    figures = {f"{name}.{ending}" for name in ("active_units", "precision_usage") for ending in ("png", "pdf")}
    assert figures <= {path.name for path in folder.iterdir()}
