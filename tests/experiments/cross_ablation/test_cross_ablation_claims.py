"""Every word and number of the findings follows from a row of the table of differences."""

import math
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.experiments.cross_ablation.claims import conclusion, findings, reading, room, table
from hatlab.experiments.cross_ablation.tables import CONTRASTS, OUTCOMES

NUMBERS = re.compile(r"([+−]?\d+\.\d+) \[(−?\d+\.\d+), (−?\d+\.\d+)\]")
CLEAR = {"n": 10, "mean": 2.0, "low": 1.0, "high": 3.0, "p": 0.002, "p_holm": 0.02, "found": "yes"}
ALONE = CLEAR | {"p": 0.02, "p_holm": 0.2, "found": "alone"}
OPEN = {"n": 10, "mean": 0.5, "low": -0.3, "high": 1.2, "p": 0.3, "p_holm": 1.0, "found": "no"}
SAME = {"n": 10, "mean": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "p_holm": 1.0, "found": "no"}
FEW = {"n": 3, "mean": 0.5, "low": math.nan, "high": math.nan, "p": math.nan, "p_holm": math.nan, "found": "few"}
MISSING = FEW | {"n": 0, "mean": math.nan}
UNCORRECTED = "nominally significant, not after Holm's correction"
MAIN = ("cross - original at c/2", 0.25)


def less(row):
    return row | {"mean": -row["mean"], "low": -row["high"], "high": -row["low"]}


def differences(cs=(0.25, 0.75), default=OPEN, **main):
    """A table of differences; `main`: outcome -> a row of the main contrast for every c, or a list, one for each c."""
    rows = []
    for arm, reference in CONTRASTS:
        for k, c in enumerate(cs):
            for outcome in OUTCOMES:
                row = main.get(outcome, default) if reference == "half" else default
                row = row[k] if isinstance(row, list) else row
                rows.append({"arm": arm, "reference": reference, "c": c, "outcome": outcome, **row})
    return pd.DataFrame(rows)


def means(*accuracies):
    """A table of `tables.summary` with these mean accuracies."""
    return pd.DataFrame({"outcome": ["accuracy"] * len(accuracies), "mean": accuracies})


def test_accuracy_has_room_or_it_has_not():
    full = room(means(99.2, 99.5))
    assert (
        full
        == "Average accuracy lies between 99.2 and 99.5% over all arms and c: a cost or a gain has little room to show."
    )
    assert room(means(71.0, 99.5)) == "Average accuracy lies between 71.0 and 99.5% over all arms and c."


def test_all_sentences_have_their_part():
    found = table(differences(), means(71.0, 99.5), ["cross at its best"])
    assert found["part"].unique().tolist() == ["reading", "room", "conclusion", "at_best"]
    assert found["text"].iloc[-1] == "cross at its best"


def test_the_findings_have_a_row_for_each_contrast_and_c_and_a_column_for_each_outcome():
    found = findings(differences())
    assert found.shape == (len(CONTRASTS) * 2, len(OUTCOMES)) and list(found.columns) == list(OUTCOMES.values())
    assert set(found.index.get_level_values(0)) == {
        "cross - original at c/2", "cross - original", "reuse - original", "original - no regularizer",
    }  # fmt: skip
    assert (found == "no difference found, beyond 1.2 excluded, +0.5 [−0.3, 1.2]").all(axis=None)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize(
    ("row", "said"),
    [
        (CLEAR, "higher, +2.0 [1.0, 3.0]"),
        (less(CLEAR), "lower, −2.0 [−3.0, −1.0]"),
        (ALONE, f"{UNCORRECTED}, +2.0 [1.0, 3.0]"),
        (less(ALONE), f"{UNCORRECTED}, −2.0 [−3.0, −1.0]"),
        (less(OPEN), "no difference found, beyond 1.2 excluded, −0.5 [−1.2, 0.3]"),
        (SAME, "equal in every pair, 0.0 [0.0, 0.0]"),
        (FEW, "too few pairs, +0.5"),
        (MISSING, "cannot be compared"),
    ],
)
def test_each_kind_of_row_has_its_words(outcome, row, said):
    data = differences(**{outcome: row})
    assert findings(data).loc[MAIN, OUTCOMES[outcome]] == said
    (sentence,) = (text for text in conclusion(data)[:4] if text.startswith(OUTCOMES[outcome].capitalize()))
    word = said.partition(", ")[0]
    assert f"{word}" in sentence and ("higher" in sentence or "lower" in sentence) is (word[-2:] == "er")


def test_a_sentence_names_outcome_arms_n_and_every_c():
    said = conclusion(differences(capacity=[CLEAR, OPEN]))
    assert said[0] == (
        "Capacity usage, cross compared with original at c/2 (n = 10): c = 0.25: higher (+2.0 [1.0, 3.0]); "
        "c = 0.75: no difference found, beyond 1.2 excluded (+0.5 [−0.3, 1.2])."
    )
    assert len(said) == 5 and said[4].startswith(
        "Capacity usage, cross compared with original, both at c: c = 0.25: +0.5"
    )


def test_what_is_equal_at_every_c_is_said_once():
    said = conclusion(differences(forgetting=SAME))[3]
    assert said == "Forgetting, cross compared with original at c/2 (n = 10): equal in every pair, at every c."
    said = conclusion(differences(forgetting=[SAME, OPEN]))[3]
    assert "c = 0.25: equal in every pair (0.0 [0.0, 0.0]); c = 0.75: no difference found" in said


def test_few_pairs_have_means_only():
    said = table(differences(default=FEW), means(90.0, 95.0))["text"]
    assert not any("[" in text for text in said) and "Below 5 there is no test" in said[0]


def test_what_is_missing_is_named():
    assert "(n = 0 to 10)" in conclusion(differences(reused=[MISSING, OPEN]))[1]
    assert "nan" not in " ".join(table(differences(default=MISSING), means(90.0, 95.0))["text"])


def test_the_reading_says_when_no_difference_can_be_found():
    assert len(reading(differences())) == 2
    said = reading(differences(default=OPEN | {"n": 6}))
    assert said[2].startswith(
        "With 6 pairs the smallest corrected p value is 0.25, so no difference can be found; 9 pairs"
    )


def rounded(value, text):
    digits = len(text.partition(".")[2])
    return float(text.replace("−", "-")) == pytest.approx(round(value, digits), abs=10**-digits / 2)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(-99, 99), st.floats(0.001, 50), st.floats(0.001, 50)), min_size=8, max_size=8))
def test_every_number_is_the_tables(values):
    rows = []
    for mean, below, above in values:
        low, high = mean - below, mean + above
        found = "no" if low <= 0 <= high else "yes"
        rows.append(OPEN | {"mean": mean, "low": low, "high": high, "found": found})
    data = differences(**{name: [rows[2 * k], rows[2 * k + 1]] for k, name in enumerate(OUTCOMES)})
    main = data[data["reference"] == "half"]
    said = NUMBERS.findall(" ".join(conclusion(data)[:4]))
    assert len(said) == len(main)
    by_outcome = [row for name in OUTCOMES for row in main[main["outcome"] == name].itertuples()]
    for part, row in zip(said, by_outcome, strict=True):
        assert all(map(rounded, (row.mean, row.low, row.high), part))


def test_small_ends_that_are_not_0_do_not_look_like_0():
    row = CLEAR | {"mean": 2.0, "low": 0.04, "high": 3.9}
    assert findings(differences(capacity=row)).loc[MAIN, "capacity usage"] == "higher, +2.00 [0.04, 3.90]"
