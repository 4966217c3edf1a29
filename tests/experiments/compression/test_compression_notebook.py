"""06_compression.ipynb, smaller than it stands: the network shrinks at SGD's accuracy, and can be cut out exactly."""

import numpy as np
import pandas as pd
import pytest
from test_notebooks import execute, n_images

pytestmark = pytest.mark.filterwarnings("ignore:.*IPython:DeprecationWarning")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    small = {"seeds": [0, 1], "widths": [80, 80], "max_epochs": 40}
    return execute("06_compression.ipynb", folder, **small), folder / "interactive" / "compression"


def test_the_network_shrinks_without_losing_accuracy(executed):
    _, folder = executed
    points = pd.read_parquet(folder / "points.parquet")
    assert list(points.columns) == ["run", "c", "seed", "epoch", "share", "accuracy"]
    for _, run in points.groupby("run"):
        assert list(run["epoch"]) == list(range(len(run)))
        assert run["share"].iloc[-1] < 0.5 * run["share"].iloc[0]
    summary = pd.read_csv(folder / "summary.csv")
    assert list(summary["seed"]) == [0, 1]
    assert (summary["share"] < 30).all() and summary["sgd_test_accuracy"].gt(94).all()
    assert (summary["test_accuracy"] > summary["sgd_test_accuracy"] - 3).all()


def test_the_cut_networks_say_what_the_masked_ones_say(executed):
    _, folder = executed
    compressed, summary = (pd.read_csv(folder / f"{name}.csv") for name in ("compressed", "summary"))
    exact, half = (compressed[compressed["threshold"] == threshold] for threshold in (1e-8, 0.5))
    assert (exact["same_predictions"] == exact["images"]).all() and (exact["images"] == 355).all()
    assert (exact["largest_difference"] <= 1e-5 * exact["largest_logit"]).all()
    np.testing.assert_allclose(100 * exact["accuracy"], summary["test_accuracy"])
    np.testing.assert_allclose(half["share"], summary["share"])  # counted as the curve counts


def test_the_text_and_the_verdicts_say_what_the_tables_say(executed):
    notebook, folder = executed
    summary = pd.read_csv(folder / "summary.csv")
    printed = "".join(
        output.text for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
        if output.output_type == "stream"
    )  # fmt: skip
    assert f"the models that are kept use {summary['share'].mean():.2f}%" in printed
    assert "710 of 710 predictions are the same" in printed and "(head): Linear" in printed
    verdicts = pd.read_csv(folder / "verdicts.csv")
    assert set(verdicts["verdict"]) == {"estimated"} and verdicts["why"].str.contains("MLP 80-80").all()
    assert n_images(notebook) == 1
    assert {"compression.png", "compression.pdf"} <= {path.name for path in folder.iterdir()}
