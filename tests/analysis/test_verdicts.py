import io
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from hatlab.analysis import verdicts
from hatlab.analysis.metrics import Interval
from hatlab.analysis.verdicts import AGREES, DIFFERS, NOT_COMPARABLE, Verdict, check_property, compare, table

NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(NUMBERS, min_size=2, max_size=12), NUMBERS, st.floats(0, 10))
def test_a_number_agrees_when_the_papers_is_in_the_t_interval_give_or_take_its_rounding(values, paper, rounding):
    n, mean = len(values), np.mean(values)
    reach = stats.t.ppf(0.975, n - 1) * np.sqrt(np.sum((np.array(values) - mean) ** 2) / (n - 1) / n)
    found = compare("claim", values, paper, rounding=rounding)
    assert (found.n, found.paper, found.unit) == (n, paper, "%")
    np.testing.assert_allclose(
        [found.ours, found.low, found.high], [mean, mean - reach, mean + reach], rtol=1e-9, atol=1e-6
    )
    away = abs(paper - mean) - reach - rounding
    if abs(away) > 1e-6:  # closer than that, rounding decides
        assert found.verdict == (AGREES if away < 0 else DIFFERS)
    if found.verdict == DIFFERS:
        assert found.why.startswith("ours is higher" if mean > paper else "ours is lower")
    else:
        assert found.why == "the paper's value is within the interval"


def test_an_interval_of_another_kind_decides_in_place_of_students():
    values = [24.0, 26.0, 25.0]
    assert compare("claim", values, 27.0, rounding=0.1).verdict == AGREES
    narrow = compare("claim", values, 27.0, rounding=0.1, interval=Interval(25.0, 24.5, 25.5))
    assert narrow == Verdict("claim", "%", 27.0, 25.0, 24.5, 25.5, 3, DIFFERS, "ours is lower by 2%")


@pytest.mark.parametrize("values", [[25.0], [24.0, 26.0]])
def test_where_the_paper_gives_no_number_nothing_is_compared(values):
    found = compare("claim", values, math.nan, rounding=0.5)
    assert (found.verdict, found.why, found.ours) == (NOT_COMPARABLE, "the paper gives no number", 25.0)


def test_one_run_is_not_enough_and_how_far_it_is_away_is_told():
    found = compare("claim", [24.0], 25.0, rounding=0.5)
    assert (found.verdict, found.n) == (NOT_COMPARABLE, 1) and math.isnan(found.low) and math.isnan(found.high)
    assert found.why == "one run has no interval; it is -1% from the paper's"
    points = compare("claim", [24.0], 25.5, rounding=0.5, unit="points")
    assert points.why == "one run has no interval; it is -1.5 points from the paper's"
    with pytest.raises(ValueError, match="at least one is needed"):
        compare("claim", [], 25.0, rounding=0.5)


@given(st.lists(NUMBERS, min_size=1, max_size=5), NUMBERS)
def test_what_was_made_otherwise_is_not_comparable_whatever_the_numbers(values, paper):
    found = compare("claim", values, paper, rounding=0.5, not_comparable="digits, not MNIST")
    assert (found.verdict, found.why) == (NOT_COMPARABLE, "digits, not MNIST")
    assert found[:-2] == pytest.approx(compare("claim", values, paper, rounding=0.5)[:-2], nan_ok=True)


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_a_property_holds_when_every_run_has_it(seen):
    found = check_property("never falls", seen)
    assert found.verdict == (AGREES if all(seen) else DIFFERS)
    assert found.n == len(seen) and found.ours == pytest.approx(100 * np.mean(seen)) and found.paper == 100
    assert found.why == f"in {sum(seen)} of {len(seen)} runs" and math.isnan(found.low) and math.isnan(found.high)
    other = check_property("never falls", seen, not_comparable="digits")
    assert (other.verdict, other.why) == (NOT_COMPARABLE, f"{found.why}; digits")


def test_a_property_of_no_runs_is_refused():
    with pytest.raises(ValueError, match="'never falls' was to be checked on no runs: at least one is needed"):
        check_property("never falls", [])


@pytest.fixture
def several():
    found = table(
        [
            compare("Usage before the first step", [24.5, 25.0, 25.2], 25.0, rounding=0.5),
            check_property("Usage | never falls", [True, False]),
            compare("Forgetting (Table 1)", [-0.021, -0.02, -0.0195], -0.02, rounding=5e-4, unit=""),
            compare("Moved", [0.0, -0.0], 1.0, rounding=0.05, unit="percentage points", not_comparable="digits"),
            compare("Alone", [97.123456], math.nan, rounding=0.05),
        ]
    )
    found.insert(0, "figure", ["curve", "curve", "table", "table", "table"])
    return found


def test_a_table_has_the_fields_for_columns(several):
    assert list(several) == ["figure", *Verdict._fields]
    assert table([]).empty and list(table([])) == list(Verdict._fields)


def test_verdicts_are_counted(several):
    assert verdicts.summary(several) == "2 agree, 1 differs, 2 not comparable"
    twice = pd.concat([several.iloc[:2], several.iloc[1:2]])
    assert verdicts.summary(twice) == "1 agrees, 2 differ, 0 not comparable"


def test_markdown_has_a_row_for_each_verdict_with_as_many_digits_as_the_interval_allows(several):
    assert verdicts.as_markdown(several).splitlines() == [
        "| figure | claim | paper | ours [95% interval] | n | verdict | why |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| curve | Usage before the first step | 25% | 24.90% [24.00, 25.80] | 3 | agrees | "
        "the paper's value is within the interval |",
        r"| curve | Usage \| never falls | 100% | 50% | 2 | differs | in 1 of 2 runs |",
        "| table | Forgetting (Table 1) | -0.02 | -0.0202 [-0.0221, -0.0183] | 3 | agrees | "
        "the paper's value is within the interval |",
        "| table | Moved | 1 percentage points | 0.00 percentage points [0.00, 0.00] | 2 | not comparable | digits |",
        "| table | Alone |  | 97.12% | 1 | not comparable | the paper gives no number |",
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_for_a_terminal_fits_it_and_tells_verdicts_apart_without_colour(several, width):
    stream = io.StringIO()
    Console(file=stream, width=width).print(verdicts.as_rich(several, width))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width and "…" not in text and "\x1b" not in text
    for word, n in (("agrees", 2), ("DIFFERS", 1), ("not comparable", 2), ("curve", 1), ("digits", 1)):
        assert text.count(word) == n
    for whole in ("24.90%", "[24.00, 25.80]", "-0.0202", "[-0.0221, -0.0183]", "97.12%", "interval", "percentage"):
        assert whole in text
    assert ("24.90% [24.00, 25.80]" in text) == (width >= 100)
