import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hatlab.experiments.compression.figures import compression_curve


@pytest.fixture(autouse=True)
def close_figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def tables(cs=(1.5,), seeds=(0, 1, 2), epochs=5):
    points, results = [], []
    for c in cs:
        for seed in seeds:
            run = f"run-{c}-{seed}"
            for epoch in range(epochs):
                points.append((run, c, seed, epoch, 60 / 2**epoch + seed, 90 + epoch + 0.1 * seed))
            results.append((run, c, seed, *points[-1][-2:], 95.0 + seed))
    return (
        pd.DataFrame(points, columns=["run", "c", "seed", "epoch", "share", "accuracy"]),
        pd.DataFrame(results, columns=["run", "c", "seed", "share", "accuracy", "sgd_accuracy"]),
    )


def labels(figure):
    return [text.get_text() for text in figure.axes[1].get_legend().get_texts()]


def dots(axes):
    """Positions of all dots (and no rings): (n, 2)."""
    found = [line for line in axes.lines if line.get_marker() in "osDPXvh" and line.get_markersize() == 3]
    return np.concatenate([line.get_xydata() for line in found])


def test_every_epoch_has_a_dot_in_both_panels():
    points, results = tables()
    figure = compression_curve(points, results, 1.0)
    for axes in figure.axes:
        drawn = dots(axes)
        expected = points[["share", "accuracy"]].to_numpy()
        np.testing.assert_allclose(drawn[np.lexsort(drawn.T)], expected[np.lexsort(expected.T)])
        assert axes.get_xscale() == "log"


def test_sgd_stands_at_a_hundred_percent_with_its_range():
    points, results = tables()
    axes = compression_curve(points, results, 1.0).axes[1]
    (container,) = axes.containers
    (triangle, _, (bar,)) = container.lines
    assert triangle.get_marker() == "^" and triangle.get_xydata().tolist() == [[100, 96]]
    assert bar.get_segments()[0].tolist() == [[100, 95], [100, 97]]
    low, high = axes.get_ylim()
    assert low < 95 and high > 97


def test_the_model_that_is_kept_is_ringed():
    points, results = tables()
    axes = compression_curve(points, results, 1.0).axes[0]
    rings = [line.get_xydata()[0] for line in axes.lines if line.get_markerfacecolor() == "none"]
    np.testing.assert_allclose(rings, results[["share", "accuracy"]])


def test_seeds_or_compressibilities_have_a_colour_and_a_marker():
    assert labels(compression_curve(*tables(), 1.0)) == ["seed 0", "seed 1", "seed 2", "SGD, no masks"]
    assert labels(compression_curve(*tables(cs=(0.75, 1.5)), 1.0)) == ["c = 0.75", "c = 1.5", "SGD, no masks"]
    many = compression_curve(*tables(seeds=range(10)), 1.0)
    assert labels(many) == ["c = 1.5", "SGD, no masks"]  # ten colours would tell nobody anything
    by_seed = compression_curve(*tables(), 1.0).axes[1]
    lines = by_seed.get_legend_handles_labels()[0][:3]
    assert len({line.get_marker() for line in lines}) == 3
    luminance = [np.dot(line.get_color()[:3], (0.2126, 0.7152, 0.0722)) for line in lines]
    assert np.all(np.diff(luminance) > 0.1)


def test_the_heading_states_n_and_what_a_dot_is():
    heading = compression_curve(*tables(), 1.0, "Split digits (1 task)").axes[0].get_title(loc="left")
    assert heading.startswith("Split digits (1 task)\nc = 1.5; 3 seeds; a dot for every epoch")
    assert compression_curve(*tables(seeds=(4,)), 1.0).axes[0].get_title(loc="left").startswith("c = 1.5; seed 4;")


def test_the_left_axis_is_whole_and_the_right_one_says_that_it_is_cut():
    left, right = compression_curve(*tables(), 1.0).axes
    assert left.get_ylim() == (0, 102) and "axis cut" in right.get_ylabel()


def test_an_epoch_without_weights_is_left_out():
    points, results = tables(seeds=(0,))
    points.loc[4, "share"] = 0.0
    assert len(dots(compression_curve(points, results, 1.0).axes[0])) == 4


def test_an_empty_table_is_refused():
    points, results = tables()
    with pytest.raises(ValueError, match="no points"):
        compression_curve(points.iloc[:0], results, 1.0)
