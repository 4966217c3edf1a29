import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.analysis.metrics import mean_interval
from hatlab.experiments.capacity_usage import figures
from hatlab.experiments.capacity_usage.figures import capacity_usage, usage_curves
from hatlab.experiments.style import UNREGULARIZED

WEIGHTS = {"fc1": 200, "fc2": 800}


@pytest.fixture(autouse=True)
def close_figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def table(usage, cs=(0.0, 0.75), seeds=(0, 1, 2), lengths=(3, 5)):
    """A capacity table. `usage(c, seed, task, share of the task's epochs)` in [0, 1]; `lengths`: epochs per task."""
    rows = []
    for c in cs:
        for seed in seeds:
            for task, length in enumerate(lengths):
                for epoch in range(-1, length + seed):  # each seed stops at its own epoch
                    share = usage(c, seed, task, (epoch + 1) / (length + seed))
                    used = {name: round(share * n) for name, n in WEIGHTS.items()}
                    for layer, n in [*WEIGHTS.items(), ("total", sum(WEIGHTS.values()))]:
                        count = used.get(layer, sum(used.values()))
                        rows.append(
                            (f"run-{c}-{seed}", "digits", c, "original", 400.0, seed, task, epoch, layer, n, count)
                        )
    names = "run dataset c mode s_max seed task epoch layer weights weights_used"
    return pd.DataFrame(rows, columns=names.split())


def linear(c, seed, task, share):
    return 0.2 * (task + 1) + 0.1 * share + 0.01 * seed


def test_runs_of_different_lengths_share_an_axis():
    curves = usage_curves(table(linear), points=11)
    assert set(curves["n"]) == {3}
    one = curves[(curves["c"] == 0.75) & (curves["layer"] == "total")]
    expected = [100 * linear(0.75, 1, task, share) for task in (0, 1) for share in np.linspace(0, 1, 11)]
    np.testing.assert_allclose(one["usage"], expected, atol=0.2)  # counts are whole weights
    np.testing.assert_allclose(one["progress"], [*np.linspace(0, 1, 11), *np.linspace(1, 2, 11)])
    np.testing.assert_allclose(one["high"] - one["usage"], 1, atol=0.2)


def test_the_jump_at_a_switch_stands_at_one_place():
    curves = usage_curves(table(linear), points=11)
    at_switch = curves[(curves["progress"] == 1) & (curves["c"] == 0) & (curves["layer"] == "fc2")]
    assert list(at_switch["task"]) == [0, 1]
    np.testing.assert_allclose(at_switch["usage"], [31, 41], atol=0.2)


def test_the_band_is_a_t_interval_from_five_seeds_on():
    curves = usage_curves(table(linear, cs=(0.75,), seeds=range(5)), points=2)
    values = [100 * round(1000 * linear(0.75, seed, 0, 0)) / 1000 for seed in range(5)]
    first = curves[curves["layer"] == "total"].iloc[0]
    np.testing.assert_allclose([first["usage"], first["low"], first["high"]], mean_interval(values), atol=0.2)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.integers(1, 6))
def test_curves_stay_between_the_runs(levels, length):
    capacity = table(lambda c, seed, task, share: levels[seed], (0.5,), range(len(levels)), (length,))
    curves = usage_curves(capacity, points=5)
    shares = 100 * capacity["weights_used"] / capacity["weights"]
    assert shares.min() - 1e-9 <= curves["low"].min() <= curves["usage"].min() + 1e-9
    assert curves["usage"].max() - 1e-9 <= curves["high"].max() <= shares.max() + 1e-9


def test_the_figure_says_what_it_shows():
    figure = capacity_usage(table(linear, cs=(2.5, 0.0, 0.1)), "Split digits, MLP 10-80")
    total, *layers = figure.axes
    assert [text.get_text() for text in total.get_legend().get_texts()] == ["no regularizer", "c = 0.1", "c = 2.5"]
    assert total.get_title(loc="left").startswith("Split digits, MLP 10-80\n")
    assert "400; mean of 3 seeds, band: smallest to largest" in total.get_title(loc="left")
    assert "%" in total.get_ylabel() and total.get_xlabel().startswith("Task")
    assert [axes.get_title() for axes in layers] == ["fc1: 200 weights\n(20% of all)", "fc2: 800 weights\n(80% of all)"]
    for axes in figure.axes:
        assert axes.get_xlim() == (0, 2) and axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 100
        switches = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert [list(line.get_xdata()) for line in switches] == [[1, 1]]


def test_colours_go_from_dark_to_light_and_the_control_is_grey():
    figure = capacity_usage(table(linear, cs=(0.0, 0.1, 0.75, 2.5, 4.0)))
    control, *colors = [line.get_color() for line in figure.axes[0].get_legend().get_lines()]
    assert control == UNREGULARIZED
    luminance = [np.dot(color[:3], (0.2126, 0.7152, 0.0722)) for color in colors]
    assert np.all(np.diff(luminance) > 0.03)


def test_a_value_has_one_colour_in_all_figures():
    def colors(cs):
        legend = capacity_usage(table(linear, cs=cs)).axes[0].get_legend()
        names = [text.get_text() for text in legend.get_texts()]
        return dict(zip(names, [line.get_color() for line in legend.get_lines()], strict=True))

    few, many = colors((0.0, 0.75)), colors((0.0, 0.1, 0.75, 2.5, 4.0))
    assert few == {name: many[name] for name in few}


def test_one_seed_has_no_band_to_speak_of():
    figure = capacity_usage(table(linear, cs=(0.75,), seeds=(4,)))
    assert figure.axes[0].get_title(loc="left").endswith("400; seed 4")


def over_slopes(slopes=(25.0, 100.0, 400.0), seeds=(0, 1, 2)):
    """The same table, of runs that differ in s_max instead of c."""
    same = table(linear, cs=slopes, seeds=seeds)
    return same.assign(s_max=same["c"], c=0.75)


def test_curves_over_the_steepest_slope_are_those_over_c_with_the_names_exchanged():
    curves = usage_curves(over_slopes(), points=5, by="s_max")
    expected = usage_curves(table(linear, cs=(25.0, 100.0, 400.0)), points=5)
    pd.testing.assert_frame_equal(curves.rename(columns={"s_max": "c"}), expected)


def test_a_figure_over_the_steepest_slope_says_which_c_it_is_for():
    figure = capacity_usage(over_slopes(), "Split digits", by="s_max")
    legend = figure.axes[0].get_legend()
    assert legend.get_title().get_text() == "Steepest slope"
    assert [text.get_text().split("= ")[1] for text in legend.get_texts()] == ["25", "100", "400"]
    assert all("max" in text.get_text() for text in legend.get_texts())
    assert figure.axes[0].get_title(loc="left").startswith("Split digits\nc = 0.75; mean of 3 seeds")
    assert [line.get_linestyle() for line in legend.get_lines()] == ["-", "--", "--"]  # the last two of their own kinds


def test_curves_may_be_over_a_column_of_the_callers():
    both = pd.concat(
        [table(linear, cs=(0.75,)).assign(arm=arm, run=arm + table(linear, cs=(0.75,))["run"]) for arm in "ab"]
    )
    curves = usage_curves(both, points=3, by="arm")
    assert set(curves["arm"]) == {"a", "b"} and set(curves["n"]) == {3}
    with pytest.raises(ValueError, match=r"several runs with c = 0\.75 and seed 0: arun-0\.75-0, brun-0\.75-0"):
        usage_curves(both)
    with pytest.raises(ValueError, match="by = 'arm': allowed are c, s_max"):
        capacity_usage(both, by="arm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(c=np.where(t["seed"] == 0, 0.1, 2.5)), "mixes c = 0.1, 2.5"),
        (lambda t: pd.concat([t, t.assign(mode="cross")]), "mixes mode = original, cross"),
        (lambda t: pd.concat([t, t.assign(run="other" + t["run"])]), "several runs with s_max = 25 and seed 0"),
    ],
)
def test_what_curves_over_the_slope_cannot_mix(change, message):
    with pytest.raises(ValueError, match=message):
        usage_curves(change(over_slopes()), by="s_max")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[:0], "empty"),
        (lambda t: pd.concat([t, t.assign(mode="cross")]), "mixes mode = original, cross"),
        (lambda t: pd.concat([t, t.assign(s_max=800.0)]), "mixes s_max"),
        (lambda t: pd.concat([t, t.assign(run="other" + t["run"])]), "several runs with c = 0 and seed 0"),
        (lambda t: t[(t["task"] == 0) | (t["c"] == 0)], "different numbers of tasks"),
    ],
)
def test_tables_that_mean_nothing_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        capacity_usage(change(table(linear)))


def test_each_curve_has_its_value_where_it_ends_and_none_lies_on_another():
    curves = pd.DataFrame({"c": [0.1, 0.25, 4.0], "progress": 5.0, "usage": [50.0, 50.5, 10.0]})
    _, axes = plt.subplots()
    figures._name_ends(axes, curves, "c", {c: {"color": "black"} for c in curves["c"]})
    places = {text.get_text(): text.xy[1] for text in axes.texts}
    assert places == {"4": 10, "0.1": 50, "0.25": 50 + figures.LEAST_GAP}
