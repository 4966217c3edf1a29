import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.experiments.walkthrough.figures import cumulative_gradients, gradient_annealing
from hatlab.method.gate import s_schedule


@pytest.fixture(autouse=True)
def close_figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def bell(x):
    """Derivative of the sigmoid, without its overflow."""
    return 1 / (4 * np.cosh(np.clip(x / 2, -350, 350)) ** 2)


def curves(**how):
    table = cumulative_gradients(**how)
    return table.pivot(index="e", columns="curve", values="q")


@given(
    st.floats(1, 800), st.integers(1, 60), st.sampled_from(["authors", "paper"]), st.sampled_from([3, 25, 51]),
    st.floats(0.5, 6),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_curves_equal_their_formulas(s_max, steps, schedule, points, reach):
    q = curves(s_max=s_max, steps=steps, schedule=schedule, points=points, reach=reach)
    e = q.index.to_numpy(dtype=float)
    s = s_schedule(schedule, s_max, steps, 1)[:, None]
    close = {"rtol": 1e-4, "atol": 1e-4 * steps * s_max}
    np.testing.assert_allclose(q["s = 1"], steps * bell(e), **close)
    np.testing.assert_allclose(q["s = s_max"], steps * s_max * bell(s_max * e), **close)
    np.testing.assert_allclose(q["annealed"], (s * bell(s * e)).sum(0), **close)
    np.testing.assert_allclose(q["exact"], steps * s_max * bell(e), rtol=1e-4)


def test_compensation_gives_annealing_the_shape_of_a_gate_that_is_not_steep():
    table = cumulative_gradients()
    share = table.pivot(index="e", columns="curve", values="share")
    np.testing.assert_allclose(share["exact"], share["s = 1"], rtol=1e-4)
    # tall near 0, in between, and over the full range
    at = share.index.get_indexer([1.0], method="nearest")[0]
    assert share["s = s_max"].iloc[at] < 1e-12 < share["annealed"].iloc[at] < 1e-3 < 0.5 < share["exact"].iloc[at]
    assert share.max().eq(1).all()


def test_float32_keeps_the_gradient_of_inactive_units_longer():
    q = curves(steps=665)
    left = q["authors"] / q["exact"]
    e = left.index.to_numpy()
    # all of it while no mask rounds to 1 and |s e| is within the clamp, to the end of the epoch
    np.testing.assert_allclose(left[(e >= -0.12) & (e <= 0.03)], 1, rtol=1e-3)
    # later an active unit has what it gets until s e is about 17, an inactive one until it is -50
    for place in (0.25, 0.5, 1, 2):
        active, inactive = (left.iloc[np.abs(e - sign * place).argmin()] for sign in (1, -1))
        assert active == pytest.approx(17 / 400 / place, rel=0.12)
        assert inactive == pytest.approx(51 / 400 / place, rel=0.06)


def test_where_masks_round_to_one_in_the_whole_epoch_nothing_is_left():
    q = curves(s_max=400.0, steps=1, schedule="paper", points=5, reach=0.1)  # one step; s e is -40, -20, 0, 20, 40
    assert list(q["authors"] == 0) == [False, False, False, True, True]
    assert (q["exact"] > 0).all()


def test_the_figure_says_what_it_shows():
    figure = gradient_annealing(cumulative_gradients(points=61, steps=20))
    left, right = figure.axes
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert len(names) == 4 and names[3].endswith("= 400$")
    assert left.get_yscale() == right.get_yscale() == "log"
    assert left.get_xlim() == right.get_xlim() == (-6, 6)
    assert left.get_ylabel().endswith("(share of the curve's largest)")
    (line, _) = right.lines
    assert 0 < line.get_ydata().min() < 10 and line.get_ydata().max() == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"points": 1}, {"points": 50}, {"reach": 0.0}])
def test_what_makes_no_curve_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} = {value:g}.*allowed"):
        cumulative_gradients(**wrong)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule = 'linear'"):
        cumulative_gradients(schedule="linear")
