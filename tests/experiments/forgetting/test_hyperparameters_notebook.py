"""04_hyperparameters, smaller than it stands: the grids, the reference that runs share, and what a flat gate costs."""

import json

import pandas as pd
import pytest
from test_notebooks import execute, n_images

SMALL = {"seeds": [0, 1], "widths": [60, 60], "max_epochs": 12, "s_maxs": [1, 50, 400], "cs": [0.25, 0.75]}

pytestmark = pytest.mark.filterwarnings("ignore:.*IPython:DeprecationWarning")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hyperparameters")
    executed = execute("04_hyperparameters.ipynb", folder, **SMALL)
    return executed, folder / "interactive" / "hyperparameters"


def test_each_value_has_its_seeds_and_a_flat_gate_forgets(outcome):
    _, folder = outcome
    ratios = pd.read_parquet(folder / "ratios.parquet")
    points = ratios.groupby(["s_max", "c"])["seed"].nunique()
    assert points.to_dict() == {(1, 0.75): 2, (50, 0.75): 2, (400, 0.75): 2, (400, 0.25): 2}
    means = ratios[ratios["c"] == 0.75].groupby("s_max")["ratio"].mean()
    assert means[1] < means[400] - 0.01  # masks far from 0 and 1 protect in part only


def test_all_runs_are_held_against_the_same_joint_training(outcome):
    _, folder = outcome
    runs = [run["config"] for run in json.loads((folder / "manifest.json").read_text())["runs"]]
    assert sum(config["method"] == "joint" for config in runs) == 2  # one for each seed
    assert len(runs) == 8 + 2


def test_the_text_names_the_extremes(outcome):
    executed, folder = outcome
    text = str(executed.cells)
    assert "Over s_max from 1 to 400, at c = 0.75, the ratio is highest at" in text and "lowest at 1," in text
    assert n_images(executed) == 1 and (folder / "hyperparameters.pdf").exists()
    assert set(pd.read_csv(folder / "verdicts.csv")["verdict"]) == {"estimated"}
