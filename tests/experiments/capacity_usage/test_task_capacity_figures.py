import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hatlab.experiments.capacity_usage.figures import remaining_capacity, task_shares

WEIGHTS = {"fc1": 1200, "fc2": 40_000, "total": 41_200}


@pytest.fixture(autouse=True)
def close_figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def table(cs=(0.0, 0.75, 2.5), seeds=(0, 1, 2), n_tasks=3, layers=WEIGHTS):
    """After task t: 10 t % used, of which 4 (t - 1) % reused and 10 % new; a seed adds one point to what is new."""
    rows = []
    for c in cs:
        for seed in seeds:
            for layer in layers:
                for task in range(1, n_tasks + 1):
                    held, reused, new = 10.0 * (task - 1), 4.0 * (task - 1), 10.0 + seed
                    shares = (held + new, reused, held - reused, new, 100 - held, 100 - held - 0.1 * (task - 1))
                    rows.append((f"{c}-{seed}", c, 400.0, seed, task, layer, WEIGHTS[layer], *shares))
    names = "run c s_max seed task layer weights used reused not_reused new free adahat"
    return pd.DataFrame(rows, columns=names.split())


def heights(axes):
    return {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}


def test_bars_stand_on_each_other_and_are_means_over_seeds():
    figure = task_shares(table(layers=["total"]), title="Split digits, MLP 12-40")
    assert [axes.get_title() for axes in figure.axes] == ["no regularizer", "c = 0.75", "c = 2.5"]
    for axes in figure.axes:
        found = heights(axes)
        np.testing.assert_allclose(found["reused by the task"], [0, 4, 8])
        np.testing.assert_allclose(found["held by earlier tasks, not reused"], [0, 6, 12])
        np.testing.assert_allclose(found["new"], [11, 11, 11])
        tops = [bar.get_y() + bar.get_height() for bar in axes.containers[-1]]
        np.testing.assert_allclose(tops, [11, 21, 31])
        assert axes.get_xlabel() == "Task"
    assert "%" in figure.axes[0].get_ylabel()
    heading = figure.get_suptitle()
    assert heading.startswith("Split digits, MLP 12-40\n") and heading.endswith("= 400; mean of 3 seeds")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(heights(figure.axes[0]))


def test_kinds_are_told_apart_without_colours():
    bars = task_shares(table(layers=["total"])).axes[0].containers
    shades = [np.dot(kind[0].get_facecolor()[:3], (0.2126, 0.7152, 0.0722)) for kind in bars]
    assert min(abs(a - b) for k, a in enumerate(shades) for b in shades[:k]) > 0.2
    assert [bool(kind[0].get_hatch()) for kind in bars] == [False, True, False]


def test_layers_stand_beside_all_of_them():
    figure = task_shares(table(cs=(0.75,)), "layer")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["all layers\n(41.2k weights)", "fc1\n(1.2k weights)", "fc2\n(40k weights)"]
    assert figure.get_suptitle().startswith("c = 0.75, ")


def test_many_panels_take_two_rows():
    figure = task_shares(table(cs=(0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5), layers=["total"]))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 7 and len({axes.get_subplotspec().rowspan.start for axes in shown}) == 2


def test_what_remains_for_adahat_and_how_it_differs_from_what_is_free():
    figure = remaining_capacity(table(layers=["total"]), "Split digits")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["no regularizer", "c = 0.75", "c = 2.5"]
    assert len({line.get_marker() for line in lines.values()}) == 3
    for line in axes.lines:
        np.testing.assert_allclose(line.get_ydata(), [100, 89.9, 79.8])
        assert list(line.get_xdata()) == [1, 2, 3]
    assert "(%)" in axes.get_ylabel() and axes.get_ylim()[1] >= 100
    heading = figure.get_suptitle()
    assert "400; mean of 3 seeds, band: smallest to largest\nat most 0.20 points from the free weights" in heading
    assert "one seed each" in remaining_capacity(table(seeds=(4,), layers=["total"])).get_suptitle()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda t: task_shares(t), "mixes layer = fc1, fc2, total: select one"),
        (lambda t: task_shares(t, "layer"), r"mixes c = 0\.0, 0\.75, 2\.5"),
        (lambda t: task_shares(pd.concat([t, t.assign(s_max=25.0)]).query("layer == 'fc1'")), "mixes s_max"),
        (lambda t: task_shares(t, "seed"), "panels = 'seed': allowed are c, layer"),
        (lambda t: task_shares(t.iloc[:0]), "empty"),
        (lambda t: remaining_capacity(t), "mixes layer"),
        (lambda t: remaining_capacity(t.iloc[:0]), "empty"),
    ],
)
def test_what_cannot_be_averaged_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(table())
