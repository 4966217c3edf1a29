"""05_weight_reuse.ipynb, smaller than it stands: what later tasks reuse, and what chance would give."""

import numpy as np
import pandas as pd
import pytest
from test_notebooks import execute, n_images

from hatlab.analysis.metrics import mean_interval

pytestmark = pytest.mark.filterwarnings("ignore:.*IPython:DeprecationWarning")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    small = {"seeds": [0, 1], "widths": [80, 80], "max_epochs": 8}
    return execute("05_weight_reuse.ipynb", folder, **small), folder / "interactive" / "weight_reuse"


def test_later_tasks_reuse_more_than_independent_masks_would(executed):
    _, folder = executed
    pairs = pd.read_parquet(folder / "pairs.parquet")
    assert len(pairs) == 2 * 10 and pairs["reused"].between(0, 100).all()
    np.testing.assert_allclose(pairs["beyond_chance"], pairs["reused"] / pairs["expected"])
    assert pairs.groupby("seed")["beyond_chance"].mean().min() > 1.1
    summary = pd.read_csv(folder / "summary.csv")
    first = pairs[(pairs["task"] == 0) & (pairs["later"] == 1)]
    found = summary.loc[0, ["reused", "reused_low", "reused_high"]].to_numpy(float)
    np.testing.assert_allclose(found, mean_interval(first["reused"].tolist()))


def test_the_text_and_the_verdicts_say_what_the_table_says(executed):
    notebook, folder = executed
    share, times = pd.read_csv(folder / "verdicts.csv").itertuples()
    assert (share.n, share.verdict, times.verdict) == (2, "estimated", "estimated")
    printed = "".join(
        output.text for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
        if output.output_type == "stream"
    )  # fmt: skip
    assert f"A later task uses {share.ours:.0f}% (95% interval" in printed
    assert f"{times.ours:.2f} times (" in printed
    assert n_images(notebook) == 5
    names = {path.name for path in folder.iterdir()}
    assert {
        f"{name}.{end}"
        for name in ("weight_reuse", "weight_reuse_one_seed", "reuse_by_layer")
        for end in ("png", "pdf")
    } <= names


def test_each_layer_is_compared_with_untouched_gates_and_with_no_regularizer(executed):
    notebook, folder = executed
    layers = pd.read_csv(folder / "layers.csv").set_index(["arm", "layer"])
    assert set(layers.index.get_level_values("arm")) == {"c = 0", "original", "cross"}
    assert layers.loc["c = 0", "untouched"].tolist() == [50, 25]
    assert (layers.loc["c = 0", "reused"] - layers.loc["c = 0", "untouched"]).abs().max() < 15
    assert (layers.loc["cross", "reused"] > layers.loc["original", "reused"]).all()
    differences = pd.read_csv(folder / "differences.csv")
    assert set(differences["found"]) == {"few"} and len(differences) == 4
    assert "fc2: untouched gates would reuse 25%; c = 0: " in str(notebook.cells)
