import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hatlab.analysis.metrics import mean_interval
from hatlab.experiments.precision.figures import active_units, precision_usage

ARMS = ["float32", "float64", "exact"]


@pytest.fixture(autouse=True)
def close_figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def simulated(seeds):
    rows = [
        (arm, seed, epoch, 50 - 10 * k * epoch + seed)
        for k, arm in enumerate(ARMS)
        for seed in seeds
        for epoch in (0, 1, 2)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "epoch", "active"])


def capacity(seeds=(0, 1), schedules=("authors", "paper")):
    rows = [
        (
            f"{schedule}-{arm}-{seed}",
            schedule,
            arm,
            "digits",
            0.75,
            "original",
            400.0,
            seed,
            task,
            epoch,
            "total",
            1000,
            used,
        )
        for schedule in schedules
        for k, arm in enumerate(ARMS)
        for seed in seeds
        for task in (0, 1)
        for epoch, used in ((-1, 600 + 100 * task), (0, 600 - 200 * k), (1, 500 - 200 * k + 10 * seed))
    ]
    names = "run schedule arm dataset c mode s_max seed task epoch layer weights weights_used"
    return pd.DataFrame(rows, columns=names.split())


def without_colour(line):
    return np.dot(plt.matplotlib.colors.to_rgb(line.get_color()), (0.2126, 0.7152, 0.0722)), line.get_linestyle()


def test_active_units_are_means_over_seeds_with_a_band():
    figure = active_units(simulated(range(5)), "4544 units")
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.lines] == ["float32", "float64", "exact\ncompensation"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [52, 42, 32])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], mean_interval([50, 51, 52, 53, 54])[1:])
    assert axes.get_title(loc="left") == "4544 units\nmean of 5 seeds, band: 95% t interval"
    assert axes.get_xlabel() == "Epoch of the first task" and axes.get_ylabel() == "Active units (%)"
    assert active_units(simulated([7])).axes[0].get_title(loc="left") == "seed 7"


def test_each_schedule_has_a_panel_and_each_arm_a_curve():
    figure = precision_usage(capacity(), "Split digits")
    assert [axes.get_title() for axes in figure.axes] == ["schedule: authors", "schedule: paper"]
    legend = figure.axes[-1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["float32", "float64", "exact\ncompensation"]
    looks = [without_colour(line) for line in legend.get_lines()]
    assert np.all(np.diff([shade for shade, _ in looks]) > 0.1) and [style for _, style in looks] == ["-", "--", "--"]
    ends = [line.get_ydata()[-1] for line in figure.axes[0].lines if line.get_label() in ("float32", "float64")]
    np.testing.assert_allclose(ends, [50.5, 30.5])
    heading = figure.get_suptitle()
    assert heading.startswith("Split digits\nc = 0.75, ") and heading.endswith(
        "mean of 2 seeds, band: smallest to largest"
    )
    assert "%" in figure.axes[0].get_ylabel() and figure.get_supxlabel().startswith("Task")


def test_one_schedule_is_one_panel_and_what_does_not_belong_together_is_refused():
    table = capacity(schedules=("paper",))
    assert len(precision_usage(table).axes) == 1
    with pytest.raises(ValueError, match="mixes s_max"):
        precision_usage(pd.concat([table, table.assign(s_max=25.0)]))
