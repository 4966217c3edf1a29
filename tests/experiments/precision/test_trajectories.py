"""Embeddings while the first task is learnt: one start for all arms, and what float32 does to open units."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from hatlab.config import RunConfig
from hatlab.experiments.precision.figures import embeddings as draw
from hatlab.experiments.precision.tables import ARMS
from hatlab.experiments.precision.trajectories import UNITS, embeddings


@pytest.fixture(scope="module")
def table():
    return embeddings(RunConfig(widths=(80, 20), batch_size=16), epochs=2)


def of(table, arm):
    return table[table["arm"] == arm].pivot(index="epoch", columns="unit", values="e").to_numpy()


def test_all_arms_start_alike_and_go_apart(table):
    starts = [of(table, arm)[0] for arm in ARMS]
    assert all(np.array_equal(start, starts[0]) for start in starts) and len(starts[0]) == UNITS
    assert len({of(table, arm)[-1].tobytes() for arm in ARMS}) == len(ARMS)
    assert table["epoch"].min() == 0 and table["epoch"].max() == 2


def test_open_units_stand_still_late_in_an_epoch_in_float32_only(table):
    """Steps of the second half of the first epoch, of units that are well open."""
    moves = {}
    for arm in ARMS:
        e = of(table, arm)
        steps = (len(e) - 1) // 2
        late = e[steps // 2 : steps + 1]
        open_ = late.min(axis=0) > 0.15
        assert open_.sum() >= 5
        moves[arm] = np.abs(np.diff(late[:, open_], axis=0)).max()
    assert moves["float32"] == 0 and moves["exact"] > 0


def test_nothing_of_torchs_generator_is_used_up():

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    embeddings(RunConfig(widths=(20,), dropout=(0.2, 0.5), batch_size=256), epochs=1)
    assert torch.equal(torch.rand(1), expected)


def test_units_that_end_open_are_dark_and_counted(table):
    plt.switch_backend("agg")
    figure = draw(table, "Split digits")
    for axes, arm in zip(figure.axes, ARMS, strict=True):
        last = of(table, arm)[-1]
        dark = [line for line in axes.lines if line.get_color() == "#440154"]
        assert len(dark) == (last > 0).sum() and f"{len(dark)} of {UNITS} open" in axes.get_title()
    assert figure.get_suptitle().startswith("Split digits\n")
    plt.close("all")
