import numpy as np
import pandas as pd
import pytest

from hatlab.analysis.metrics import mean_interval
from hatlab.analysis.summary import by_compressibility, by_run, by_task, describe, over_seeds
from hatlab.config import RunConfig
from hatlab.training.runs import Run, Tables

NONE = pd.DataFrame()


def tables(c, seed):
    """Two tasks; accuracy and usage that tell c, seed and task apart."""
    name, base = f"{c}-{seed}", 0.5 + 0.01 * seed
    tasks = [(name, c, 0, "digits 0,1", 5, 200, 40 + seed), (name, c, 1, "digits 2,3", 6, 200, 80 + seed)]
    accuracy = [(name, c, 0, 0, base), (name, c, 1, 0, base - 0.1), (name, c, 1, 1, base + 0.3)]
    return Tables(
        NONE,
        pd.DataFrame(accuracy, columns=["run", "c", "after_task", "task", "accuracy"]),
        NONE,
        pd.DataFrame(tasks, columns=["run", "c", "task", "name", "epochs", "weights", "weights_used"]),
    )


def run(tmp_path, **values):
    return Run(RunConfig(**values), tmp_path, {"title": "MNIST"}, tables(0.75, 0))


def test_one_run_by_task(tmp_path):
    table = by_task(run(tmp_path))
    assert list(table["task"]) == [1, 2] and list(table["name"]) == ["digits 0,1", "digits 2,3"]
    np.testing.assert_allclose(table["accuracy"], [50, 80])
    np.testing.assert_allclose(table["accuracy_at_end"], [40, 80])
    np.testing.assert_allclose(table["usage"], [20, 40])


def test_many_runs_by_compressibility():
    parts = [tables(c, seed) for c in (0.75, 0.1) for seed in (0, 1, 2)]
    together = Tables(NONE, pd.concat([p.accuracy for p in parts]), NONE, pd.concat([p.tasks for p in parts]))
    table = by_compressibility(together)
    assert table[["c", "tasks_learnt", "seeds"]].to_numpy().tolist() == [
        [0.1, 1, 3],
        [0.1, 2, 3],
        [0.75, 1, 3],
        [0.75, 2, 3],
    ]
    last = table.iloc[-1]
    np.testing.assert_allclose(last[["usage", "usage_low", "usage_high"]].astype(float), mean_interval([40, 40.5, 41]))
    np.testing.assert_allclose(
        last[["accuracy", "accuracy_low", "accuracy_high"]].astype(float), mean_interval([60, 61, 62])
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"widths": [400, 300]}, "Split MNIST (2 tasks), MLP 400-300"),
        ({"network": "cnn", "sequence": "permuted"}, "Permuted MNIST (2 tasks), CNN"),
        ({"network": "cnn", "dataset": "mixture"}, "Mixture of 2 data sets (2 tasks), CNN"),
    ],
)
def test_titles_say_what_was_trained_on_what(tmp_path, values, text):
    assert describe(run(tmp_path, **values)) == text


def of_sweep(tmp_path, **values):
    config = RunConfig(**values)
    return Run(config, tmp_path, {}, tables(config.c, config.seed))


def test_one_row_per_run_of_a_sweep(tmp_path):
    runs = [of_sweep(tmp_path, c=c, seed=seed) for c in (2.5, 0.1) for seed in (0, 2)]
    table = by_run(runs, ["c", "seed"])
    assert list(table.columns) == ["c", "seed", "run", "accuracy", "usage", "backward_transfer"]
    assert table[["c", "seed"]].to_numpy().tolist() == [[2.5, 0], [2.5, 2], [0.1, 0], [0.1, 2]]
    assert list(table["run"]) == [run.run_id for run in runs]
    np.testing.assert_allclose(table["accuracy"], [60, 62, 60, 62])  # of 40 and 80, of 42 and 82
    np.testing.assert_allclose(table["usage"], [40, 41, 40, 41])
    np.testing.assert_allclose(table["backward_transfer"], -10)


def test_a_single_task_transfers_nothing(tmp_path):
    both = tables(0.75, 0)
    first = Tables(NONE, both.accuracy.query("after_task == 0"), NONE, both.tasks.query("task == 0"))
    table = by_run([Run(RunConfig(), tmp_path, {}, first)], [])
    assert list(table.columns) == ["run", "accuracy", "usage", "backward_transfer"]
    np.testing.assert_allclose(table.loc[0, ["accuracy", "usage"]].astype(float), [50, 20])
    assert np.isnan(table.loc[0, "backward_transfer"])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("c", [2.5, 0.1]),
        ("widths", [(100, 100), (400,)]),
        ("n_tasks", [3, None]),
        ("validation", ["train", 0.15]),
        ("classes_per_task", [5, (2, 5)]),
    ],
)
def test_means_over_seeds_of_whatever_else_varies(tmp_path, name, values):
    runs = [of_sweep(tmp_path, **{"seed": seed, name: value}) for seed in (0, 1, 4) for value in values]
    table = over_seeds(by_run(runs, ["seed", name]))
    assert list(table[name]) == values and list(table["seeds"]) == [3, 3]
    for row in range(2):
        for column, of_seeds in (
            ("accuracy", [60, 61, 64]),
            ("usage", [40, 40.5, 42]),
            ("backward_transfer", [-10, -10, -10]),
        ):
            found = table.loc[row, [column, f"{column}_low", f"{column}_high"]].astype(float)
            np.testing.assert_allclose(found, mean_interval(of_seeds))


def test_means_over_seeds_alone_are_one_row(tmp_path):
    table = over_seeds(by_run([of_sweep(tmp_path, seed=seed) for seed in (0, 2)], ["seed"]))
    assert len(table) == 1 and table.columns[0] == "seeds" and table.loc[0, "accuracy"] == pytest.approx(61)
