import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hatlab.analysis.metrics import over_seeds
from hatlab.analysis.paper import TABLE_1
from hatlab.experiments.forgetting import figures


@pytest.fixture(autouse=True)
def close_figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def ratios(methods=("hat", "sgd"), tasks=3, seeds=5):
    rows = [
        (name, t, seed, -0.1 * t * (k + 1) + 0.01 * (seed - (seeds - 1) / 2))
        for k, name in enumerate(methods)
        for t in range(1, tasks + 1)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["method", "tasks_learnt", "seed", "ratio"])


def test_means_and_intervals_are_those_of_the_table():
    table = ratios()
    ours, _ = figures.forgetting(table, "Split digits").axes
    hat, sgd = (container for container in ours.containers)
    np.testing.assert_allclose(hat.lines[0].get_ydata(orig=False), [-0.1, -0.2, -0.3])
    np.testing.assert_allclose(sgd.lines[0].get_ydata(orig=False), [-0.2, -0.4, -0.6])
    segments = hat.lines[2][0].get_segments()
    ends = np.array([segment[:, 1] for segment in segments], dtype=float)
    means = over_seeds(table[table["method"] == "hat"], ["tasks_learnt"], ["ratio"])
    np.testing.assert_allclose(ends, means[["ratio_low", "ratio_high"]])
    dots = [line for line in ours.lines if line.get_marker() == "."]
    np.testing.assert_allclose(np.concatenate([line.get_ydata() for line in dots]), table["ratio"])
    assert ours.get_title(loc="left") == "Split digits\nmean of 5 seeds, 95% t interval; dots: single seeds"
    assert [text.get_text() for text in ours.get_legend().get_texts()] == ["HAT", "SGD"]


def test_the_papers_table_stands_beside_it():
    _, paper = figures.forgetting(ratios()).axes
    assert [label.get_text() for label in paper.get_yticklabels()] == TABLE_1["method"].tolist()
    np.testing.assert_allclose([bar.get_width() for bar in paper.patches], TABLE_1["rho_8"])
    assert not any(len(line.get_xdata()) for line in paper.lines)  # ours are of other data, and after fewer tasks


def test_one_seed_has_no_interval():
    ours, _ = figures.forgetting(ratios(seeds=1)).axes
    assert ours.get_title(loc="left") == "one seed"
    segment = ours.containers[0].lines[2][0].get_segments()[0]
    assert segment[0, 1] == segment[1, 1]


def test_fig_4_has_a_line_over_each_parameter():
    rows = [(0.75, s) for s in (25.0, 100.0, 400.0)] + [(c, 400.0) for c in (0.1, 4.0)]
    table = pd.concat(
        [pd.DataFrame(rows, columns=["c", "s_max"]).assign(seed=seed) for seed in range(3)], ignore_index=True
    )
    table["ratio"] = -table["c"] / 10 - 1 / table["s_max"] + 0.01 * (table["seed"] - 1)
    slope, strength = figures.hyperparameters(table, 0.75, 400.0, "Split digits").axes
    assert slope.containers[0].lines[0].get_xdata(orig=False).tolist() == [25, 100, 400]
    assert strength.containers[0].lines[0].get_xdata(orig=False).tolist() == [0.1, 0.75, 4]
    np.testing.assert_allclose(strength.containers[0].lines[0].get_ydata(orig=False)[1], -0.0775)
    assert (slope.get_title(loc="left"), strength.get_title(loc="left")) == ("c = 0.75", "$s_\\mathrm{max}$ = 400")


def test_accuracy_with_and_without_the_task_and_what_is_taken_for_what():
    rows = [(seed, task, 90.0, 50.0 + seed, 60.0) for seed in range(3) for task in (1, 2)]
    accuracy = pd.DataFrame(rows, columns=["seed", "task", "given", "guessed", "found"])
    pairs = [(seed, i, j, 60.0 if i == j else 40.0) for seed in range(3) for i in (1, 2) for j in (1, 2)]
    confusion = pd.DataFrame(pairs, columns=["seed", "task", "chosen", "share"])
    left, right, *_ = figures.without_task(accuracy, confusion, "Split digits").axes
    given, guessed = left.containers
    np.testing.assert_allclose(given.lines[0].get_ydata(orig=False), [90, 90])
    np.testing.assert_allclose(guessed.lines[0].get_ydata(orig=False), [51, 51])
    cells = {(round(t.xy[1] - 0.5), round(t.xy[0] - 0.5)): t.get_text() for t in right.texts}
    assert cells == {(0, 0): "60", (0, 1): "40", (1, 0): "40", (1, 1): "60"}


def test_what_was_tried_and_what_was_chosen():
    rows = [("hat", c, s, 5000.0, 3, 90.0 + c, 89.0 + c, 91.0 + c, (c, s) == (2.5, 400.0))
            for c in (0.25, 2.5) for s in (100.0, 400.0)]  # fmt: skip
    rows += [("ewc", 0.0, 400.0, value, 3, 80.0, 79.0, 81.0, value == 5.0) for value in (5.0, 500.0)]
    columns = ["method", "c", "s_max", "ewc_lambda", "seeds", "accuracy", "accuracy_low", "accuracy_high", "chosen"]
    hat, ewc = figures.tuning(pd.DataFrame(rows, columns=columns), "Split digits").axes
    assert [text.get_text() for text in hat.get_legend().get_texts()] == [
        r"$s_\mathrm{max}$ = 100", r"$s_\mathrm{max}$ = 400",
    ]  # fmt: skip
    filled = [
        line.get_xydata().tolist() for line in hat.lines if line.get_linestyle() == "None" and len(line.get_xdata())
    ]
    assert [2.5, 92.5] in [point for points in filled for point in points]
    assert [text.get_text() for text in ewc.get_xticklabels()] == ["5", "500"]
