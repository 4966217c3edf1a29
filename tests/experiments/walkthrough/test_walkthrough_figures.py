"""The pictures of the walkthrough: gates, masks, images, accuracies."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.experiments.forgetting.figures import accuracy_of_tasks
from hatlab.experiments.walkthrough import figures


@pytest.fixture(autouse=True)
def close_figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def numbers(axes):
    return np.array([float(text.get_text()) for text in axes.texts])


def test_gate_curves_are_sigmoids_and_name_the_chosen_unit():
    (axes,) = figures.gate_curves([1, 400], chosen=(3.0, 0.5)).axes
    flat, steep, curve, point = axes.lines
    for line, s in ((flat, 1), (steep, 400), (curve, 3)):
        e = line.get_xdata()
        np.testing.assert_allclose(line.get_ydata(), 1 / (1 + np.exp(-np.clip(s * e, -80, 80))), atol=1e-6)
    assert point.get_xdata() == [0.5] and point.get_ydata()[0] == pytest.approx(0.8176, abs=1e-4)
    assert axes.get_legend().get_texts()[-1].get_text() == "s = 3, e = 0.5: a = 0.818"


@pytest.mark.parametrize("wrong", [[], [1, 2, 3, 4]])
def test_slopes_that_cannot_be_told_apart_are_refused(wrong):
    with pytest.raises(ValueError, match="allowed are 1 to 3 slopes"):
        figures.gate_curves(wrong)


def test_an_epoch_begins_undecided_and_ends_decided():
    slope, masks = figures.annealed_masks([1.0, 0.1, -0.1], s_max=400, batches=50, schedule="paper").axes
    assert slope.lines[0].get_ydata()[[0, -1]] == pytest.approx([1 / 400, 400])
    first, last = (np.array([line.get_ydata()[k] for line in masks.lines]) for k in (0, -1))
    np.testing.assert_allclose(first, 0.5, atol=1e-3)
    np.testing.assert_allclose(last, [1, 1, 0], atol=1e-3)
    assert [text.get_text() for text in masks.get_legend().get_texts()] == ["+1", "+0.1", "-0.1"]
    with pytest.raises(ValueError, match="allowed are 1 to 6 embeddings"):
        figures.annealed_masks([])


unit = st.floats(0, 1).map(lambda x: round(x, 2))


@given(st.lists(unit, min_size=1, max_size=4), st.lists(unit, min_size=1, max_size=4))
@settings(deadline=None, max_examples=15)
def test_gradient_factors_are_one_minus_the_smaller_mask(front, behind):
    (axes,) = figures.gradient_factors(front, behind).axes
    right = [1 - min(a, b) for b in behind for a in front]
    np.testing.assert_allclose(numbers(axes), right, atol=0.006)
    plt.close("all")


def test_counted_units_show_what_the_regularizer_sums():
    (axes,) = figures.counted_units([1, 1, 0, 0], [1, 0, 1, 0.5]).axes
    p, m, free, taken, reused = numbers(axes).reshape(5, 4)
    np.testing.assert_allclose(free, 1 - p)
    np.testing.assert_allclose(taken, m * (1 - p))
    np.testing.assert_allclose(reused, m * p)
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names[3] == "m (1 − p): newly taken   sum 1.5"
    with pytest.raises(ValueError, match="p has 1 units and m has 2"):
        figures.counted_units([1], [1, 0])


@pytest.mark.parametrize("units", [1, 7, 200])
def test_every_unit_has_a_square_in_the_colour_of_its_kind(units):
    rng = np.random.default_rng(0)
    one, other = ({"fc1": rng.random(units), "fc2": rng.random(3)} for _ in range(2))
    figure = figures.mask_overlap(one, other, ("a", "b"))
    squares = figure.axes[0].collections[0].get_array().ravel()
    assert squares.count() == units  # the rest of the grid is masked
    kinds = np.concatenate([(one[k] > 0.5) + 2 * (other[k] > 0.5) for k in one])
    counts = [int(text.get_text().rpartition("(")[2][:-1]) for text in figure.legends[0].get_texts()]
    assert counts == np.bincount(kinds, minlength=4).tolist() and sum(counts) == units + 3


def test_images_have_a_label_from_every_line():
    figure = figures.labelled_images(np.zeros((3, 8, 8)), {"before": [0, 1, 0], "after": [2, 3, 3]})
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [["before", "after"], [], ["0", "2"], ["1", "3"], ["0", "3"]]
    with pytest.raises(ValueError, match="'before' has 2 labels for 3 images"):
        figures.labelled_images(np.zeros((3, 8, 8)), {"before": [0, 1]})


def test_a_task_has_a_line_from_where_it_was_learnt():
    rows = [
        {"run": f"{method}{seed}", "method": method, "after_task": t, "task": k, "accuracy": 1 - seed * (t - k) / 10}
        for method in ("sgd", "hat")
        for seed in range(2)
        for t in range(3)
        for k in range(t + 1)
    ]
    figure = accuracy_of_tasks(pd.DataFrame(rows), title="Digits")
    assert [axes.get_title() for axes in figure.axes] == ["sgd", "hat"]
    first, _, third = figure.axes[0].lines
    assert first.get_xdata().tolist() == [1, 2, 3] and third.get_xdata().tolist() == [3]
    np.testing.assert_allclose(first.get_ydata(), [100, 95, 90])  # the mean of two seeds
    assert figure.get_suptitle() == "Digits\nmean of 2 seeds"
    with_chance = accuracy_of_tasks(pd.DataFrame(rows), title="Digits", chance=50).axes[0]
    assert with_chance.get_ylim() == (45, 102) and "chance" in [line.get_label() for line in with_chance.lines]
    with pytest.raises(ValueError, match="empty"):
        accuracy_of_tasks(pd.DataFrame(rows)[:0])
