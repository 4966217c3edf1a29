import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hatlab.experiments.cross_ablation import figures, tables
from hatlab.experiments.cross_ablation.figures import cross_ablation, cross_differences
from hatlab.experiments.cross_ablation.tables import ARMS, OUTCOMES


@pytest.fixture(autouse=True)
def close_figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def outcomes_of(seeds=range(6), cs=(0.25, 2.5), forgets=True):
    """cross is 3 points above half in capacity, and either way in the rest; only the last seed forgets, if any."""
    rows = []
    for place, arm in enumerate(ARMS):
        for c in cs if arm != "none" else [0.0]:
            for seed in seeds:
                noise = np.random.default_rng((place, round(100 * c), seed)).normal(size=2)
                capacity = 60 + seed + 3 * (arm == "cross") - 10 * (arm == "original")
                forgotten = float(seed == max(seeds) and forgets)
                rows.append((arm, c, seed, "run", capacity, *(50 + noise), forgotten))
    return pd.DataFrame(rows, columns=["arm", "c", "seed", "run", *OUTCOMES])


def arms_of(outcomes, title="Split digits (5 tasks), MLP 100-100"):
    return cross_ablation(outcomes, tables.summary(outcomes), title)


def differences_of(outcomes, title="Split digits (5 tasks), MLP 100-100"):
    pairs = tables.pairs(outcomes)
    return cross_differences(pairs, tables.differences(pairs), title)


def means(axes):
    """(x, y) of the markers that have intervals, and the intervals' ends."""
    points, ends = [], []
    for container in axes.containers:
        line, _, bars = container
        points += zip(line.get_xdata(), line.get_ydata(), strict=True)
        ends += [tuple(segment[:, 1]) for segment in bars[0].get_segments()]
    return points, ends


def test_every_arm_stands_at_its_c_with_its_mean_and_interval():
    outcomes = outcomes_of()
    summary = tables.summary(outcomes)
    panels = arms_of(outcomes).axes
    assert len(panels) == len(OUTCOMES)
    for axes, outcome in zip(panels, OUTCOMES, strict=True):
        points, ends = means(axes)
        rows = pd.concat([summary[(summary["arm"] == arm) & (summary["outcome"] == outcome)] for arm in ARMS])
        assert [round(x) for x, _ in points] == [[0.0, 0.25, 2.5].index(c) for c in rows["c"]]
        np.testing.assert_allclose([y for _, y in points], rows["mean"])
        np.testing.assert_allclose(ends, rows[["low", "high"]])
        assert len({x for x, _ in points}) == len(points)  # none behind another
    for axes in panels:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.25", "2.5"]


def test_single_seeds_are_dots_beside_each_other():
    axes = arms_of(outcomes_of()).axes[3]  # forgetting: most values are 0
    dots = [line for line in axes.lines if line.get_marker() == "."]
    x = np.concatenate([line.get_xdata() for line in dots])
    assert len(x) == 6 * 9 and len(np.unique(x.round(6))) == len(x)


def test_an_outcome_that_is_0_everywhere_has_no_panel_and_is_said():
    outcomes = outcomes_of(forgets=False)
    for figure, where in ((arms_of(outcomes), "run"), (differences_of(outcomes), "pair")):
        assert f"; forgetting: 0 in every {where}" in figure.get_suptitle()
    *panels, place = arms_of(outcomes).axes
    assert len(panels) == 3 and not place.axison and len(place.get_legend().get_texts()) == len(ARMS)
    figure = differences_of(outcomes_of())  # in some runs, but in no difference
    assert len(figure.axes) == 3 and "forgetting: 0 in every pair" in figure.get_suptitle()


def test_the_figure_says_what_it_shows():
    figure = arms_of(outcomes_of())
    heading = figure.get_suptitle()
    assert heading.startswith("Split digits (5 tasks), MLP 100-100\n")
    assert "means over 6 seeds, bars: 95% interval" in heading
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [name for name, *_ in ARMS.values()]
    assert all("(%" in axes.get_ylabel() or "(points)" in axes.get_ylabel() for axes in figure.axes)
    assert [axes.get_xlabel() for axes in figure.axes] == ["Compressibility c"] * 4
    assert [axes.get_ylim() for axes in figure.axes[:2]] == [(0, 102)] * 2 and "axis cut" in figure.axes[2].get_ylabel()


def test_arms_are_told_apart_without_colour():
    lines = [container[0] for container in arms_of(outcomes_of()).axes[0].containers]
    assert len({line.get_marker() for line in lines}) == len(ARMS)


def test_one_seed_has_no_bars_and_says_so():
    figure = arms_of(outcomes_of(seeds=[2]))
    assert "one seed" in figure.get_suptitle() and "bars" not in figure.get_suptitle()
    assert all(low == high for axes in figure.axes for low, high in means(axes)[1])
    assert len(figure.axes) == len(OUTCOMES)
    assert differences_of(outcomes_of(seeds=[2]), "").get_suptitle().startswith("one seed\n")


def test_differences_are_cross_minus_the_control_with_a_zero_line():
    outcomes = outcomes_of()
    table = tables.differences(tables.pairs(outcomes)).query("arm == 'cross' and reference == 'half'")
    figure = differences_of(outcomes)
    assert [axes.get_title() for axes in figure.axes] == [
        "Capacity usage", "Share reused", "Average accuracy",
    ]  # fmt: skip
    assert "original at c/2\n(percentage points)" in figure.axes[0].get_ylabel()
    for axes, outcome in zip(figure.axes, list(OUTCOMES)[:3], strict=True):
        rows = table[table["outcome"] == outcome]
        points, ends = means(axes)
        assert sorted(y for _, y in points) == pytest.approx(sorted(rows["mean"]))
        np.testing.assert_allclose(sorted(ends), sorted(rows[["low", "high"]].itertuples(index=False, name=None)))
        assert [0, 0] in [list(line.get_ydata()) for line in axes.lines]
        low, high = axes.get_ylim()
        assert low <= 0 <= high


def test_a_filled_marker_is_a_difference_that_was_found():
    outcomes = outcomes_of(seeds=range(10), cs=(0.75,))
    found = tables.differences(tables.pairs(outcomes)).query("arm == 'cross' and reference == 'half'")
    filled = []
    for axes in differences_of(outcomes).axes:
        lines = [container[0] for container in axes.containers if len(container[0].get_xdata())]
        filled += [line.get_markerfacecolor() != "white" for line in lines]
    assert filled == list(found["found"] == "yes")[:3] and filled[0] and not filled[2]


def test_what_could_not_be_measured_leaves_its_panel_empty():
    outcomes = outcomes_of(seeds=range(10)).assign(reused=math.nan)
    for figure in (arms_of(outcomes), differences_of(outcomes)):
        figure.canvas.draw()
        for axes, empty in ((figure.axes[0], False), (figure.axes[1], True)):
            means_of = [np.asarray(container[0].get_ydata(), dtype=float) for container in axes.containers]
            assert (np.isnan(np.concatenate(means_of)) == empty).all()


def test_empty_tables_are_refused():
    outcomes = outcomes_of()
    with pytest.raises(ValueError, match="outcomes is empty"):
        cross_ablation(outcomes.iloc[:0], tables.summary(outcomes))
    with pytest.raises(ValueError, match="pairs is empty"):
        cross_differences(tables.pairs(outcomes).iloc[:0], pd.DataFrame())


# --- each mode at its own best c --------------------------------------------------------------------------------------

CHOSEN = {"none": ("none", 0.0), "original": ("half", 2.5), "cross": ("cross", 0.25), "reuse": ("reuse", 0.25)}


def test_the_plane_has_a_point_for_each_arm_and_c():
    outcomes = outcomes_of()
    figure = figures.plane(outcomes, "Split digits")
    (axes,) = figure.axes
    names = [name for name, *_ in ARMS.values()]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names
    for container, arm in zip(axes.containers, ARMS, strict=True):
        means = outcomes[outcomes["arm"] == arm].groupby("c")[["capacity", "accuracy"]].mean()
        np.testing.assert_allclose(container[0].get_xydata(), means.to_numpy())
    assert [text.get_text().strip() for text in axes.texts] == ["c = 2.5"] * (len(ARMS) - 1)


def test_curves_are_those_of_the_chosen_c():
    rows = [
        (arm, c, seed, task, 90 - task - seed, 100 - 10 * task, 10.0 * task, np.nan if task == 1 else 40.0 + seed)
        for arm in ARMS
        for c in ([0.0] if arm == "none" else [0.25, 2.5])
        for seed in range(3)
        for task in (1, 2, 3)
    ]
    table = pd.DataFrame(rows, columns=["arm", "c", "seed", "task", "newest", "free", "usage", "reused"])
    table.loc[(table["arm"] == "half") & (table["c"] == 2.5), "newest"] -= 5
    figure = figures.task_curves(table, CHOSEN, "Permuted digits")
    left, middle, right = figure.axes
    original = left.lines[1]
    np.testing.assert_allclose(original.get_xydata(), [[1, 83], [2, 82], [3, 81]])
    np.testing.assert_allclose(middle.lines[1].get_xdata(), [90, 80, 70])
    assert middle.xaxis_inverted() and np.isnan(right.lines[1].get_ydata()[0])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["no regularizer", "original, c = 1.25", "cross, c = 0.25", "reuse, c = 0.25"]
