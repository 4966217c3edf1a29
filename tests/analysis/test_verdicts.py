import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from hatlab.analysis import verdicts
from hatlab.analysis.verdicts import (
    AGREES,
    DIFFERS,
    ESTIMATED,
    FAILS,
    HOLDS,
    PASSES,
    UNDECIDED,
    Printed,
    Verdict,
    check,
    derived,
    most_runs,
    new,
    number,
    seeds_needed,
    statement,
    table,
)

VALUES = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=3, max_size=12)
WHOLE = Printed(25.0, 1.0)  # margin 2, rounding half


# --- numbers ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(VALUES, st.floats(-1e3, 1e3), st.sampled_from([0.01, 1.0, 100.0]), st.sampled_from([0.0, 5.0]))
def test_a_number_is_judged_by_the_interval_of_the_difference_and_the_margin(values, mean, digit, sd):
    n, ours = len(values), np.array(values)
    printed = Printed(mean, digit, sd, 10) if sd else Printed(mean, digit)
    if sd:  # Welch and Satterthwaite
        own, theirs = ours.var(ddof=1) / n, sd**2 / 10
        freedom = (own + theirs) ** 2 / (own**2 / (n - 1) + theirs**2 / 9)
        reach = stats.t.ppf(0.975, freedom) * np.sqrt(own + theirs)
    else:
        reach = stats.t.ppf(0.975, n - 1) * ours.std(ddof=1) / np.sqrt(n) + digit / 2
    away, margin = abs(ours.mean() - mean), 2 * digit
    found = number("claim", values, printed)
    assert (found.kind, found.n, found.paper, found.unit) == ("number", n, mean, "%")
    if min(abs(away + reach - margin), abs(away - reach), abs(away - margin)) > 1e-6:  # closer, rounding decides
        expected = AGREES if away + reach < margin else DIFFERS if away > max(reach, margin) else UNDECIDED
        assert found.verdict == expected


def test_the_interval_beside_a_printed_deviation_is_welchs():
    ours, spread = np.array([1.0, 2.0, 4.0]), np.array([-1.0, 1.0] * 5) / np.std([-1, 1] * 5, ddof=1)
    found = stats.ttest_ind(ours, 2.0 + 0.5 * spread, equal_var=False).confidence_interval()
    why = number("claim", ours, Printed(2.0, 0.01, sd=0.5, n=10)).why
    assert f"\N{PLUS-MINUS SIGN} {(found.high - found.low) / 2:.2g};" in why


def test_the_words_name_the_difference_the_margin_and_what_would_decide():
    agrees = number("claim", [24.9, 25.0, 25.1], WHOLE)
    assert (agrees.verdict, agrees.why) == (
        AGREES,
        "the difference is +0%, its interval within 2%, two of the paper's last digits",
    )
    differs = number("claim", [29.9, 30.0, 30.1], WHOLE, unit="points")
    assert (
        differs.verdict == DIFFERS and "is +5 points, its interval excludes 0, and it is beyond 2 points" in differs.why
    )
    wide = number("claim", [23.0, 25.0, 27.5], WHOLE, deviations=("max_epochs = 20, theirs 200", "one more"))
    assert wide.verdict == UNDECIDED and "about 14 seeds would decide" in wide.why
    assert wide.deviations == "max_epochs = 20, theirs 200; one more"


@pytest.mark.parametrize("values", [[25.0], [25.0, 25.0], [0.0, 0.0]])
def test_fewer_than_three_seeds_are_undecided(values):
    found = number("claim", values, WHOLE)
    assert found.verdict == UNDECIDED and found.why.endswith("3 seeds are needed at least")
    assert statement("claim", values, -100).verdict == UNDECIDED


def test_the_papers_own_uncertainty_can_leave_a_number_undecided_for_good():
    found = number("claim", [-0.02, -0.021, -0.019], Printed(-0.02, 0.01, sd=0.5, n=10), unit="")
    assert found.verdict == UNDECIDED and "1000 seeds would not decide" in found.why


@given(st.floats(-5, 5), st.floats(0.01, 5))
def test_as_many_seeds_as_are_said_to_be_needed_decide_and_one_fewer_does_not(away, sd):
    needed = seeds_needed(away, sd, WHOLE)
    if needed is None:
        return

    def verdict(n):
        values = np.array([-1.0, 1.0] * (n // 2) + [0.0] * (n % 2))
        return number("claim", 25.0 + away + sd * values / values.std(ddof=1), WHOLE).verdict

    assert verdict(needed) != UNDECIDED or needed > 500  # rounding
    assert needed == 3 or verdict(needed - 1) == UNDECIDED


def test_under_equality_few_differ_and_fewer_agree_the_fewer_seeds_there_are():
    """A simulation of the rule: 2000 experiments of each size whose mean is the paper's, as wide as half the margin."""
    rng, agree = np.random.default_rng(0), {}
    for n in (3, 5, 10, 20, 40):
        found = [number("claim", sample, WHOLE).verdict for sample in rng.normal(25.0, 1.0, (2000, n))]
        agree[n] = found.count(AGREES) / len(found)
        assert found.count(DIFFERS) / len(found) <= 0.05
    assert list(agree.values()) == sorted(agree.values())
    assert agree[3] < 0.4 and agree[40] > 0.95


# --- statements -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(VALUES, st.floats(-1e3, 1e3))
def test_a_statement_holds_or_fails_where_the_whole_interval_does(values, least):
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values) or 1e-300)
    found = statement("claim", values, least)
    assert (found.kind, math.isnan(found.paper)) == ("statement", True)
    if min(abs(low - least), abs(high - least)) > 1e-6:
        assert found.verdict == (HOLDS if low > least else FAILS if high < least else UNDECIDED)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_what_is_so_in_most_seeds_holds(seen):
    n, k = len(seen), sum(seen)
    exact = stats.binomtest(k, n).proportion_ci(0.95)
    found = most_runs("claim", seen)
    assert (found.ours, found.low, found.high) == pytest.approx((100 * k / n, 100 * exact.low, 100 * exact.high))
    assert found.verdict == (HOLDS if exact.low > 0.5 else FAILS if exact.high < 0.5 else UNDECIDED)


def test_six_seeds_are_the_fewest_that_show_a_majority():
    assert [most_runs("claim", [True] * n).verdict for n in (1, 5, 6)] == [UNDECIDED, UNDECIDED, HOLDS]
    assert most_runs("claim", [False] * 6).verdict == FAILS


# --- checks, and what is new ------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_a_check_passes_when_every_run_does_and_is_not_the_papers(seen):
    found = check("never falls", seen)
    assert found.verdict == (PASSES if all(seen) else FAILS)
    assert found.kind == "check" and math.isnan(found.paper) and found.why == f"in {sum(seen)} of {len(seen)} runs"


def test_a_derived_value_passes_unless_it_is_far_outside():
    assert derived("starts", [24.0, 25.5, 26.0, 24.8], 25.0).verdict == PASSES
    found = derived("starts", [39.9, 40.0, 40.1, 40.0], 25.0)
    assert (found.verdict, found.why) == (FAILS, "25% is derived")
    assert derived("starts", [40.0], 25.0).verdict == PASSES  # one seed has no interval


def test_what_is_new_is_estimated():
    found = new("claim", [1.0, 2.0], "the paper has none", unit="points")
    assert found[1:] == ("new", "points", pytest.approx(math.nan, nan_ok=True), 1.5, *found[5:7], 2, ESTIMATED,
                         "the paper has none", "")  # fmt: skip


@pytest.mark.parametrize("judge", [
    lambda values: number("claim", values, WHOLE), lambda values: statement("claim", values, 0.0),
    lambda values: derived("claim", values, 25.0), lambda values: new("claim", values, "why"),
])  # fmt: skip
def test_a_missing_value_is_an_error_that_names_it_and_so_is_none_at_all(judge):
    with pytest.raises(ValueError, match=r"'claim': value 2 of 3 is missing \(NaN\)"):
        judge([25.0, math.nan, 25.0])
    with pytest.raises(ValueError, match="'claim' was to be judged by no runs: at least one is needed"):
        judge([])


@pytest.mark.parametrize("judge", [check, most_runs])
def test_no_runs_are_refused(judge):
    with pytest.raises(ValueError, match="'claim' was to be judged by no runs"):
        judge("claim", [])


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def several():
    found = table(
        [
            derived("Usage before the first step", [24.5, 25.0, 25.2], 25.0),
            check("Usage | never falls", [True, False]),
            number(
                "Ratio (Table 1)", [-0.021, -0.02, -0.0195], Printed(-0.02, 0.01), unit="", deviations=["20 epochs"]
            ),
            new("Moved", [0.0, -0.0], "digits", unit="percentage points"),
            statement("Alone", [97.123456], 50.0),
        ]
    )
    found.insert(0, "figure", ["curve", "curve", "table", "table", "table"])
    return found


def test_a_table_has_the_fields_for_columns(several):
    assert list(several) == ["figure", *Verdict._fields]
    assert table([]).empty and list(table([])) == list(Verdict._fields)


def test_kinds_are_counted_apart(several):
    assert verdicts.summary(several) == (
        "number: 1 agrees, 0 differs, 0 undecided; statement: 0 holds, 0 fails, 1 undecided; check: 1 passes, 1 fails; "
        "new: 1 estimated"
    )
    assert verdicts.summary(several.iloc[:2]) == "check: 1 passes, 1 fails"


def test_markdown_has_a_row_for_each_verdict_with_as_many_digits_as_the_interval_allows(several):
    assert verdicts.as_markdown(several).splitlines() == [
        "| figure | kind | claim | paper | ours [95% interval] | n | verdict | why |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| curve | check | Usage before the first step |  | 24.90% [24.00, 25.80] | 3 | passes | 25% is derived |",
        r"| curve | check | Usage \| never falls |  | 50% | 2 | fails | in 1 of 2 runs |",
        "| table | number | Ratio (Table 1) | -0.02 | -0.0202 [-0.0221, -0.0183] | 3 | agrees | the difference is "
        "-0.000167, its interval within 0.02, two of the paper's last digits; deviations: 20 epochs |",
        "| table | new | Moved |  | 0.00 percentage points [0.00, 0.00] | 2 | estimated | digits |",
        "| table | statement | Alone |  | 97.12% | 1 | undecided | 3 seeds are needed at least |",
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_for_a_terminal_fits_it_and_tells_verdicts_apart_without_colour(several, width):
    stream = io.StringIO()
    Console(file=stream, width=width).print(verdicts.as_rich(several, width))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width and "…" not in text and "\x1b" not in text
    for word, n in (("agrees", 1), ("FAILS", 1), ("estimated", 1), ("curve", 1), ("digits", 2)):
        assert text.count(word) == n
    for whole in ("24.90%", "[24.00, 25.80]", "-0.0202", "[-0.0221, -0.0183]", "97.12%", "percentage", "(statement)"):
        assert whole in text
    assert ("24.90% [24.00, 25.80]" in text) == (width >= 100)


def test_a_table_is_read_back_from_csv_as_it_was(several, tmp_path):
    several.to_csv(tmp_path / "verdicts.csv", index=False)
    assert verdicts.as_markdown(verdicts.read(tmp_path / "verdicts.csv")) == verdicts.as_markdown(several)
    several[several["figure"] == "curve"].to_csv(tmp_path / "some.csv", index=False)  # without any deviation
    assert verdicts.as_markdown(verdicts.read(tmp_path / "some.csv")).count("\n") == 4
