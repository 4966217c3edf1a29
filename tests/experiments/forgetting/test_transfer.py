"""Each task beside a network that has it alone: which runs, and the metrics against their formulas."""

import numpy as np
import pandas as pd
import pytest

from hatlab.config import RunConfig
from hatlab.data.datasets import load
from hatlab.data.tasks import make_sequence
from hatlab.experiments.forgetting import transfer
from hatlab.training.runs import Run, Tables

BASE = RunConfig(widths=(10,), n_tasks=3, classes_per_task=2)
# a task, and after it: 10 points of the first are lost at once, and 5 of the second at the end
LEARNT = [[0.9], [0.8, 0.7], [0.8, 0.65, 0.6]]


def made_run(config, matrix):
    rows = [(t, k, matrix[t][k]) for t in range(len(matrix)) for k in range(t + 1)]
    accuracy = pd.DataFrame(rows, columns=["after_task", "task", "accuracy"])
    return Run(config, None, {}, Tables(*[pd.DataFrame()], accuracy, *[pd.DataFrame()] * 2))


def test_each_task_of_each_order_is_trained_alone_on_the_same_images():
    found = transfer.alone(BASE, [0, 5])
    assert list(found) == [0, 5]
    for seed, configs in found.items():
        tasks = make_sequence(BASE.replace(seed=seed)).tasks
        for config, task in zip(configs, tasks, strict=True):
            assert (config.method, config.c, config.seed, config.widths) == ("sgd", 0, seed, (10,))
            (single,) = make_sequence(config).tasks
            assert single.classes == task.classes
            np.testing.assert_array_equal(single.test, task.test)
    assert [c.class_groups for c in found[0]] != [c.class_groups for c in found[5]]


def test_classes_of_joined_sets_are_counted_on(tmp_path):
    digits = load("digits")
    for name in ("first", "second"):
        arrays = {
            "x_train": digits.x_train[:, 0],
            "y_train": digits.y_train,
            "x_test": digits.x_test[:, 0],
            "y_test": digits.y_test,
        }
        np.savez(tmp_path / f"{name}.npz", **arrays)
    joined = BASE.replace(
        dataset=f"npz:{tmp_path}/first.npz+npz:{tmp_path}/second.npz", classes_per_task=5, n_tasks=None
    )
    configs = transfer.alone(joined, [0])[0]
    expected = [(task.dataset, task.classes) for task in make_sequence(joined).tasks]
    singles = [make_sequence(config).tasks for config in configs]
    assert [(one.dataset, one.classes) for (one,) in singles] == expected and len(expected) == 4


@pytest.mark.parametrize("base", [BASE.replace(sequence="permuted"), RunConfig(dataset="mixture:digits")])
def test_tasks_that_no_config_names_have_no_runs_alone(base):
    assert transfer.alone(base, [0]) == {}
    table = transfer.transfer([made_run(base, LEARNT)], {}, [])
    assert table[["intransigence", "forward_transfer"]].isna().all(axis=None) and table["forgetting"].item() > 0
    assert "forward transfer not measured (n = 1)" in transfer.statements(transfer.over_seeds(table))[0]


def test_the_metrics_are_their_formulas():
    of_tasks = transfer.alone(BASE, [0])
    reached = (0.95, 0.9, 0.85)
    single = [made_run(config, [[value]]) for config, value in zip(of_tasks[0], reached, strict=True)]
    row = transfer.transfer([made_run(BASE, LEARNT)], of_tasks, single[::-1]).iloc[0]
    assert row["forgetting"] == pytest.approx(100 * np.mean([0.9 - 0.8, 0.7 - 0.65]))
    assert row["intransigence"] == pytest.approx(100 * np.mean([0.05, 0.2, 0.25]))
    assert row["forward_transfer"] == pytest.approx(-100 * np.mean([0.2, 0.25]))
    assert row["learning_accuracy"] == pytest.approx(100 * np.mean([0.9, 0.7, 0.6]))


def test_sentences_follow_the_table():
    rows = [{"run": f"{k}", "method": "hat", "seed": k, **dict.fromkeys(transfer.METRICS, float(k))} for k in range(3)]
    table = pd.DataFrame(rows)
    (said,) = transfer.statements(transfer.over_seeds(table))
    assert said.startswith("HAT: forgetting 1.00 points [-1.48, 3.48], intransigence 1.00 points [")
    (other,) = transfer.statements(transfer.over_seeds(table.assign(forgetting=0.0)))
    assert other.startswith("HAT: forgetting 0.00 points [0.00, 0.00], intransigence 1.00 points [")
    (one,) = transfer.statements(transfer.over_seeds(table.head(1)))
    assert one == "HAT: forgetting 0.00 points, intransigence 0.00 points, forward transfer 0.00 points (n = 1)."
