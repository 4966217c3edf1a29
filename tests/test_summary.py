import numpy as np
import pandas as pd
import pytest

from hatlab.config import RunConfig
from hatlab.metrics import mean_interval
from hatlab.runs import Run, Tables
from hatlab.summary import by_compressibility, by_task, describe

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
    ],
)
def test_titles_say_what_was_trained_on_what(tmp_path, values, text):
    assert describe(run(tmp_path, **values)) == text
