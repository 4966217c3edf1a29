import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hatlab.analysis import metrics
from hatlab.analysis.metrics import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    forgetting_ratio,
    mean_interval,
)


def accuracies(*rows):
    """An accuracy table from rows of a triangle: tests after task 0, after task 1, ..."""
    return pd.DataFrame(
        [(after, task, value) for after, row in enumerate(rows) for task, value in enumerate(row)],
        columns=["after_task", "task", "accuracy"],
    )


THREE_TASKS = accuracies([0.9], [0.8, 0.7], [0.6, 0.75, 0.5])


def test_the_accuracy_matrix_has_a_row_per_test_and_nan_for_tasks_to_come():
    matrix = accuracy_matrix(THREE_TASKS.sample(frac=1, random_state=0))
    nan = math.nan
    np.testing.assert_array_equal(matrix, [[0.9, nan, nan], [0.8, 0.7, nan], [0.6, 0.75, 0.5]])
    assert matrix.index.tolist() == matrix.columns.tolist() == [0, 1, 2]
    assert (matrix.index.name, matrix.columns.name) == ("after_task", "task")


def test_average_accuracy_is_the_mean_of_the_last_row():
    assert average_accuracy(THREE_TASKS) == pytest.approx((0.6 + 0.75 + 0.5) / 3)


def test_backward_transfer_is_the_mean_change_of_all_tasks_but_the_last():
    assert backward_transfer(THREE_TASKS) == pytest.approx(((0.6 - 0.9) + (0.75 - 0.7)) / 2)


def test_backward_transfer_is_0_where_nothing_changes():
    assert backward_transfer(accuracies([0.9], [0.9, 0.8])) == 0


def test_a_single_task_has_an_average_and_no_transfer():
    one = accuracies([0.9])
    assert average_accuracy(one) == 0.9
    assert math.isnan(backward_transfer(one))


@pytest.mark.parametrize("metric", [accuracy_matrix, average_accuracy, backward_transfer])
def test_a_table_of_several_runs_is_refused(metric):
    with pytest.raises(ValueError, match=r"the accuracy table holds several runs: .* column 'run'"):
        metric(pd.concat([THREE_TASKS.assign(run="a"), THREE_TASKS.assign(run="b")]))


def test_the_forgetting_ratio_is_0_for_joint_and_minus_1_for_random_accuracy():
    random, joint = np.array([0.1, 0.5]), np.array([0.9, 0.8])
    np.testing.assert_allclose(forgetting_ratio(joint, random, joint), [0, 0])
    np.testing.assert_allclose(forgetting_ratio(random, random, joint), [-1, -1])


def test_the_forgetting_ratio_of_a_task_with_nothing_to_learn_or_nothing_learnt_is_nan():
    """One class, where chance is right; joint training below chance, at it, and 4 and 6 points above."""
    random = np.array([1.0, 0.5, 0.5, 0.5, 0.5])
    joint = np.array([1.0, 0.4, 0.5, 0.54, 0.56])
    assert np.isnan(forgetting_ratio(np.full(5, 0.5), random, joint)).tolist() == [True, True, True, True, False]


def test_the_forgetting_ratio_is_linear_between_its_limits():
    np.testing.assert_allclose(
        forgetting_ratio(np.array([0.5, 0.95]), np.array([0.1, 0.5]), np.array([0.9, 0.8])), [-0.5, 0.5]
    )


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("values", [[0.9, 0.95], [0.97, 0.98, 0.99], list(np.linspace(0, 1, 10) ** 2)])
def test_the_interval_is_students(values, confidence):
    mean, low, high = mean_interval(values, confidence)
    expected = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert mean == pytest.approx(np.mean(values))


def test_the_default_interval_covers_95_percent():
    # three values, two degrees of freedom: t = 4.303, and the standard error is 1 / sqrt(3)
    assert mean_interval([1, 2, 3]) == pytest.approx((2, 2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)), abs=1e-3)


def test_no_values_have_no_mean():
    with pytest.raises(ValueError, match="a mean of no values"):
        mean_interval([])


def test_several_places_at_once_equal_each_place_alone():
    values = np.random.default_rng(0).random((4, 3))
    alone = [mean_interval(values[:, k]) for k in range(3)]
    np.testing.assert_allclose(mean_interval(values), np.transpose(alone))


@pytest.mark.parametrize("value", [0.9, [0.9, 0.7]], ids=["number", "places"])
def test_one_value_has_no_interval(value):
    mean, low, high = mean_interval([value])
    np.testing.assert_array_equal(mean, value)
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_over_seeds_holds_apart_what_it_is_told_to():
    table = pd.DataFrame({"c": [1.0, 1.0, None, 1.0], "seed": [0, 1, 0, 2], "x": [1.0, 2.0, 7.0, 6.0]})
    found = metrics.over_seeds(table, ["c"], ["x"])
    assert found.columns.tolist() == ["c", "seeds", "x", "x_low", "x_high"]
    assert found["seeds"].tolist() == [3, 1] and found["x"].tolist() == [3, 7]
    assert (found["x_low"][0], found["x_high"][0]) == metrics.mean_interval([1, 2, 6])[1:]
    assert np.isnan(found["c"][1]) and np.isnan(found["x_low"][1])
    assert metrics.over_seeds(table, [], ["x"])["x"].tolist() == [4]


# --- what is forgotten, and what was never learnt ---------------------------------------------------------------------


def test_forgetting_starts_from_the_best_accuracy_and_backward_transfer_from_the_first():
    table = accuracies([0.8], [0.9, 0.7], [0.6, 0.75, 0.5])
    assert metrics.forgetting(table) == pytest.approx(((0.9 - 0.6) + (0.7 - 0.75)) / 2)
    assert backward_transfer(table) == pytest.approx(((0.6 - 0.8) + (0.75 - 0.7)) / 2)


def test_learning_and_average_incremental_accuracy():
    assert metrics.learning_accuracy(THREE_TASKS) == pytest.approx((0.9 + 0.7 + 0.5) / 3)
    steps = [0.9, (0.8 + 0.7) / 2, (0.6 + 0.75 + 0.5) / 3]
    assert metrics.average_incremental_accuracy(THREE_TASKS) == pytest.approx(np.mean(steps))


def test_what_is_never_learnt_is_intransigence_and_no_forgetting():
    rigid = accuracies([0.9], [0.9, 0.7], [0.9, 0.7, 0.5])
    alone = np.array([0.9, 0.9, 0.9])
    assert metrics.forgetting(rigid) == 0
    assert metrics.intransigence(rigid, alone) == pytest.approx(0.2)
    assert metrics.forward_transfer(rigid, alone) == pytest.approx(-0.3)


def test_what_is_lost_is_forgetting_and_no_intransigence():
    plastic = accuracies([0.9], [0.6, 0.9], [0.5, 0.6, 0.9])
    alone = np.array([0.9, 0.9, 0.9])
    assert metrics.forgetting(plastic) == pytest.approx((0.4 + 0.3) / 2)
    assert metrics.intransigence(plastic, alone) == metrics.forward_transfer(plastic, alone) == 0


def test_one_task_is_neither_forgotten_nor_helped():
    one = accuracies([0.9])
    assert math.isnan(metrics.forgetting(one)) and math.isnan(metrics.forward_transfer(one, np.array([0.8])))
    assert metrics.intransigence(one, np.array([0.8])) == pytest.approx(-0.1)


@given(st.integers(2, 6).flatmap(lambda n: st.lists(st.floats(0, 1), min_size=n * n, max_size=n * n)))
def test_forgetting_is_never_below_minus_backward_transfer(values):
    n = math.isqrt(len(values))
    table = accuracies(*(values[k * n : k * n + k + 1] for k in range(n)))
    assert metrics.forgetting(table) >= -backward_transfer(table) - 1e-12
