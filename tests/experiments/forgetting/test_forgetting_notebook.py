"""07_forgetting, smaller than it stands: HAT keeps what SGD forgets, and the text says what the table says."""

import json

import pandas as pd
import pytest
from test_notebooks import execute, n_images

SMALL = {
    "seeds": [0, 1], "widths": [60, 60], "max_epochs": 12,
    "cs": [0.75], "s_maxs": [100, 400], "ewc_lambdas": [500, 50000], "tuning_seeds": [100, 101],
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:.*IPython:DeprecationWarning")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forgetting")
    executed = execute("07_forgetting.ipynb", folder, **SMALL)
    return executed, folder / "interactive" / "forgetting"


def test_hat_forgets_least(outcome):
    _, folder = outcome
    ratios = pd.read_parquet(folder / "ratios.parquet")
    assert len(ratios) == 4 * 2 * 5  # methods, seeds, tasks
    first = ratios[ratios["tasks_learnt"] == 1].set_index("method")["ratio"]
    assert first.drop("hat").abs().max() < 0.03  # one task alone is what joint training has, too
    last = ratios[ratios["tasks_learnt"] == 5].groupby("method")["ratio"].mean()
    assert last["hat"] == last.max() and last["hat"] > -0.03
    assert last["sgd"] < last["hat"] - 0.05
    assert ratios["ratio"].between(-1, 0.2).all()


def test_the_text_and_the_verdicts_are_the_tables(outcome):
    executed, folder = outcome
    summary = pd.read_csv(folder / "summary.csv")
    hat = summary[(summary["method"] == "hat") & (summary["tasks_learnt"] == 5)].iloc[0]
    assert f"HAT has a forgetting ratio of {hat['ratio']:.3f} [" in str(executed.cells)
    verdicts = pd.read_csv(folder / "verdicts.csv").set_index("claim")
    (claim,) = (claim for claim in verdicts.index if claim.startswith("HAT forgets no more than SGD (Table 1)"))
    assert verdicts.loc[claim, "kind"] == "statement"
    beside = verdicts.loc["HAT: ratio after 2 tasks (Table 1)"]
    assert pd.isna(beside["paper"]) and beside["verdict"] == "estimated"
    assert n_images(executed) == 3 and (folder / "forgetting.pdf").exists()


def test_the_runs_have_what_was_chosen_on_other_seeds(outcome):
    _, folder = outcome
    tuning = pd.read_parquet(folder / "tuning.parquet")
    assert len(tuning) == 4 and tuning.groupby("method")["chosen"].sum().tolist() == [1, 1]
    for _, same in tuning.groupby("method"):
        assert same.loc[same["chosen"], "accuracy"].item() == same["accuracy"].max()
    chosen = tuning[tuning["chosen"]].set_index("method")
    ratios = pd.read_parquet(folder / "ratios.parquet")
    assert set(ratios.loc[ratios["method"] == "hat", "s_max"]) == {chosen.loc["hat", "s_max"]}
    configs = [run["config"] for run in json.loads((folder / "manifest.json").read_text())["runs"]]
    ewc = {config["ewc_lambda"] for config in configs if config["method"] == "ewc" and config["seed"] < 100}
    assert ewc == {chosen.loc["ewc", "ewc_lambda"]}


def test_the_task_is_guessed_too(outcome):
    executed, folder = outcome
    accuracy = pd.read_parquet(folder / "without_task.parquet")
    assert len(accuracy) == 2 * 5 and (accuracy["guessed"] <= accuracy["given"]).all()
    assert "The task is found in" in str(executed.cells)
