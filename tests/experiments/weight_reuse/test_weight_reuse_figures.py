import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hatlab.experiments.weight_reuse import tables
from hatlab.experiments.weight_reuse.figures import held, layers, units, weight_reuse


@pytest.fixture(autouse=True)
def close_figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def table(n_tasks=4, n=3, names=True, share=lambda i, j: 10 * i + j, chance=10.0):
    rows = []
    for i in range(n_tasks):
        for j in range(i + 1, n_tasks):
            own, later = (f"digits {k}" if names else "" for k in (i, j))
            rows.append((i, j, own, later, n, share(i, j), share(i, j) / chance))
    return pd.DataFrame(rows, columns=["task", "later", "task_name", "later_name", "n", "reused", "beyond_chance"])


def numbers(axes):
    """(row, column) -> the number in the cell."""
    return {(int(t.xy[1]), int(t.xy[0])): t.get_text() for t in axes.texts}


def test_every_pair_has_its_number_and_nothing_else_has_one():
    left, right, *_ = weight_reuse(table()).axes
    expected = {(i, j - 1): 10 * i + j for i in range(4) for j in range(i + 1, 4)}  # columns begin with the second task
    assert numbers(left) == {cell: f"{value:.0f}" for cell, value in expected.items()}
    assert numbers(right) == {cell: f"{value / 10:.1f}" for cell, value in expected.items()}
    (mesh,) = left.collections
    values = mesh.get_array().reshape(3, 3)
    assert {(i, j) for i, j in np.ndindex(3, 3) if not values.mask[i, j]} == set(expected)


def test_the_first_task_stands_on_top_and_all_are_named():
    left = weight_reuse(table()).axes[0]
    bottom, top = left.get_ylim()
    assert bottom > top
    assert [t.get_text() for t in left.get_yticklabels()] == [
        f"digits {k}  {k + 1}" for k in range(3)
    ]  # nothing follows the last
    assert left.get_xlabel() == "Later task that uses them too\n(the last: digits 3  4)"
    assert [t.get_text() for t in left.get_xticklabels()] == ["2", "3", "4"]


def test_places_stand_alone_where_seeds_have_other_tasks_there():
    left = weight_reuse(table(names=False), "Split digits").axes[0]
    assert [t.get_text() for t in left.get_yticklabels()] == ["1", "2", "3"]
    assert left.get_title(loc="left") == "Split digits\nmean of 3 seeds, each with tasks in its own order"


def test_the_heading_states_the_number_of_seeds():
    assert weight_reuse(table(n=1), "Split digits, seed 0").axes[0].get_title(loc="left") == "Split digits, seed 0"
    some = table(n=5)
    some.loc[2, "n"] = 4
    assert weight_reuse(some).axes[0].get_title(loc="left") == "mean of 4 to 5 seeds"


def test_a_task_without_weights_has_empty_cells():
    left, right, *_ = weight_reuse(table(share=lambda i, j: math.nan if i == 1 else 50.0)).axes
    assert {row for row, _ in numbers(left)} == {row for row, _ in numbers(right)} == {0, 2}


def test_colours_are_fixed_and_numbers_readable_on_them():
    left, _, bar, ratio_bar = weight_reuse(table(share=lambda i, j: 100.0 if i else 0.0)).axes
    assert bar.get_ylim() == (0, 100) and bar.get_ylabel() == "Weights reused (%)"
    assert ratio_bar.get_ylim() == (0, 10)
    mesh = left.collections[0]
    for text in left.texts:
        value = float(text.get_text())
        paper = np.dot(mesh.cmap(mesh.norm(value))[:3], (0.2126, 0.7152, 0.0722))
        ink = {"white": 1.0, "black": 0.0}[text.get_color()]
        assert abs(paper - ink) > 0.5
    # in grey: dark is much
    luminance = [np.dot(mesh.cmap(mesh.norm(v))[:3], (0.2126, 0.7152, 0.0722)) for v in (0, 25, 50, 75, 100)]
    assert np.all(np.diff(luminance) < -0.1)


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="empty"):
        weight_reuse(table().iloc[:0])


def test_layers_stand_beside_untouched_gates():
    rows = [
        (arm, seed, layer, value + seed, expected)
        for arm, value in {"c = 0": 40.0, "original": 50.0, "cross": 90.0}.items()
        for layer, expected in {"fc1": 50.0, "fc2": 25.0}.items()
        for seed in range(3)
    ]
    found = pd.DataFrame(rows, columns=["arm", "seed", "layer", "reused", "untouched"])
    (axes,) = layers(found, tables.layer_means(found), title="Split digits, c = 0.75").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["fc1", "fc2"]
    assert [line.get_segments()[0][0, 1] for line in axes.collections[:1]] == [50.0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["untouched gates", "c = 0", "original", "cross"]
    assert axes.get_title(loc="left") == "Split digits, c = 0.75\nmean of 3 seeds"
    one = found[found["seed"] == 0]
    assert layers(one, tables.layer_means(one)).axes  # no interval, no error


def test_units_are_coloured_by_the_task_that_used_them_first():
    masks = [{"fc1": np.array([0.0, 1.0, 1.0, 0.0])}, {"fc1": np.array([1.0, 1.0, 0.0, 0.0])}]
    (axes,) = units(masks, "Split digits").axes
    picture = axes.images[0].get_array()
    assert picture.shape == (2, 4, 4)
    white = (picture[..., :3] == 1).all(-1)
    np.testing.assert_array_equal(white, [[False, False, True, True], [False, True, False, True]])
    assert (picture[0, 0] == picture[1, 0]).all() and (picture[1, 2] != picture[0, 0]).any()


def test_what_is_protected_stands_above_what_is_used():
    rows = [("run", seed, task, 20.0 * task, 15.0 * task, 5.0 * task) for seed in range(3) for task in (1, 2, 3)]
    (axes,) = held(pd.DataFrame(rows, columns=["run", "seed", "task", "held", "used", "idle"]), "Split digits").axes
    protected, used = axes.containers
    np.testing.assert_allclose(protected.lines[0].get_ydata(orig=False), [20, 40, 60])
    np.testing.assert_allclose(used.lines[0].get_ydata(orig=False), [15, 30, 45])
    assert "protected, and used by no task" in [text.get_text() for text in axes.get_legend().get_texts()]
