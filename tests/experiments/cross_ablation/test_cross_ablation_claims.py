import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.experiments.cross_ablation.claims import WORDS, conclusion, reading, statements, table
from hatlab.experiments.cross_ablation.tables import CONTRASTS, OUTCOMES

NUMBERS = re.compile(r"([+−]?\d+\.\d+) points \[(−?\d+\.\d+), (−?\d+\.\d+)\]")
CLEAR = {"n": 10, "mean": 2.0, "low": 1.0, "high": 3.0, "p": 0.002, "p_holm": 0.02, "found": "yes"}
ALONE = CLEAR | {"p": 0.02, "p_holm": 0.2, "found": "alone"}
OPEN = {"n": 10, "mean": 0.5, "low": -0.3, "high": 1.2, "p": 0.3, "p_holm": 1.0, "found": "no"}
SAME = {"n": 10, "mean": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "p_holm": 1.0, "found": "no"}
FEW = {"n": 3, "mean": 0.5, "low": math.nan, "high": math.nan, "p": math.nan, "p_holm": math.nan, "found": "few"}
MISSING = FEW | {"n": 0, "mean": math.nan}


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


def test_there_is_a_statement_for_each_contrast_and_c():
    said = statements(differences())
    assert len(said) == len(CONTRASTS) * 2
    assert said[1].startswith("At c = 0.75, cross against original at c/2 = 0.375 (n = 10): ")
    assert [text.partition(" (n")[0].partition(", ")[2] for text in said[2::2]] == [
        "cross against original", "reuse against original", "original against no regularizer",
    ]  # fmt: skip


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_other_sign_has_the_other_words(outcome):
    more, fewer = (statements(differences(**{outcome: row}))[0] for row in (CLEAR, less(CLEAR)))
    assert f"it {WORDS[outcome].more} (+2.0 points [1.0, 3.0])." in more
    assert f"it {WORDS[outcome].less} (−2.0 points [−3.0, −1.0])." in fewer
    assert WORDS[outcome].less not in more and WORDS[outcome].more not in fewer


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_interval_over_0_says_that_no_difference_was_found(outcome):
    for row in (OPEN, less(OPEN)):
        text = statements(differences(**{outcome: row}))[0]
        assert "no difference was found in capacity usage" in text and OUTCOMES[outcome] in text
        assert not any(word in text for words in WORDS.values() for word in (words.more, words.less))


def test_what_stands_alone_only_says_so():
    text = statements(differences(accuracy=ALONE, forgetting=CLEAR))[0]
    assert (
        "it forgets more (+2.0 points [1.0, 3.0]). Taken alone, but not as one of so many comparisons, it is more"
        in text
    )


def test_pairs_that_are_the_same_are_no_interval():
    text = statements(differences(forgetting=SAME, accuracy=SAME))[0]
    assert text.endswith("Average accuracy and forgetting are the same in every pair.") and "0.0 points" not in text


def test_few_pairs_have_means_only():
    said = table(differences(default=FEW))["text"]
    assert not any("[" in text for text in said)
    assert "(n = 3): the mean difference is +0.5 points in capacity usage, " in said[1]
    assert "below 5 no intervals" in said[0] and said.iloc[-1].startswith("With fewer than 5 pairs there is nothing")


def test_what_is_missing_is_named():
    text = statements(differences(reused=MISSING))[0]
    assert "(n = 0 to 10)" in text and text.endswith("Share reused cannot be compared.")
    assert "nan" not in " ".join(table(differences(default=MISSING))["text"])


def rounded(value, text):
    digits = len(text.partition(".")[2])
    return float(text.replace("−", "-")) == pytest.approx(round(value, digits), abs=10**-digits / 2)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(-99, 99), st.floats(0.001, 50), st.floats(0.001, 50)), min_size=8, max_size=8))
def test_every_number_in_every_sentence_is_the_tables(values):
    """In the order of the table, the main contrast first."""
    rows = []
    for mean, below, above in values:
        low, high = mean - below, mean + above
        found = "no" if low <= 0 <= high else "yes"
        rows.append(OPEN | {"mean": mean, "low": low, "high": high, "found": found})
    data = differences(**{name: [rows[2 * k], rows[2 * k + 1]] for k, name in enumerate(OUTCOMES)})
    main = data[data["reference"] == "half"]
    for c, text in zip((0.25, 0.75), statements(data), strict=False):
        same = main[main["c"] == c]
        assert len(NUMBERS.findall(text)) == len(same)
        for part in NUMBERS.findall(text):
            bounds = zip(same["mean"], same["low"], same["high"], strict=True)
            assert any(all(map(rounded, row, part)) for row in bounds), (part, same)
    said = NUMBERS.findall(" ".join(conclusion(data)[:4]))
    assert len(said) == len(main)
    for part in said:
        assert any(all(map(rounded, row, part)) for row in zip(main["mean"], main["low"], main["high"], strict=True))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_outcome_reads_as_sentences(data):
    kinds = st.sampled_from([CLEAR, less(CLEAR), ALONE, less(ALONE), OPEN, SAME, FEW, MISSING])
    cs = data.draw(st.sampled_from([(0.75,), (0.25, 0.75), (0.25, 0.75, 2.5)]))
    main = {name: data.draw(st.lists(kinds, min_size=len(cs), max_size=len(cs))) for name in OUTCOMES}
    for text in table(differences(cs, **main))["text"]:
        assert text[0].isupper() and text.endswith(".") and "nan" not in text and "  " not in text
        assert not re.search(r"(^|[.:;,(] )(and|or)\b|\(\)|: *\.|[,;:.]{2}", text)
        assert ("at every c" not in text and "at any c" not in text) or len(cs) > 1


def test_small_ends_that_are_not_0_do_not_look_like_0():
    row = CLEAR | {"mean": 2.0, "low": 0.04, "high": 3.9}
    assert "(+2.00 points [0.04, 3.90])" in statements(differences(capacity=row))[0]


def test_changed_data_change_the_sentences_about_them_and_no_others():
    up, down = differences(reused=CLEAR, capacity=CLEAR), differences(reused=CLEAR, capacity=less(CLEAR))
    changed = [a != b for a, b in zip(conclusion(up), conclusion(down), strict=True)]
    assert changed == [True, False, False, False, True, False, True, True]


def test_the_sum_names_aim_gain_and_cost():
    said = conclusion(differences(reused=CLEAR, capacity=[CLEAR, OPEN], forgetting=less(CLEAR)))
    assert said[5:] == [
        "In sum, beyond what half a c does, cross reuses more of what earlier tasks hold at every c.",
        "The gain: it forgets less at every c.",
        "The cost: it leaves the network fuller at c = 0.25.",
    ]
    assert said[0] == (
        "Capacity usage (n = 10): cross leaves the network fuller than original at c/2: +2.0 points [1.0, 3.0] at "
        "c = 0.25; no difference was found: +0.5 points [−0.3, 1.2] at c = 0.75."
    )


def test_a_difference_that_turns_with_c_is_a_gain_here_and_a_cost_there():
    said = conclusion(differences(capacity=[CLEAR, less(CLEAR)]))
    assert "cross leaves the network fuller than original at c/2: +2.0 points [1.0, 3.0] at c = 0.25; cross" in said[0]
    assert "The gain: it leaves the network emptier at c = 0.75." in said
    assert "The cost: it leaves the network fuller at c = 0.25." in said


def test_nothing_found_is_said_plainly():
    said = conclusion(differences(default=OPEN))
    assert said[0].startswith("Capacity usage (n = 10): no difference was found at any c: +0.5 points [−0.3, 1.2] at c")
    assert said[5:] == [
        "In sum, beyond what half a c does, cross was not found to change how much of what earlier tasks hold is "
        "reused.",
        "Neither a gain nor a cost was found in capacity usage, average accuracy or forgetting.",
    ]


def test_what_replacing_original_comes_to_is_split():
    data = differences(cs=(0.75,), capacity=less(ALONE))
    data.loc[(data["arm"] == "cross") & (data["reference"] == "original"), ["mean", "low", "high"]] = 13.7, 12.4, 15.8
    assert (
        "cross changes capacity usage by +13.7 points [12.4, 15.8] at c = 0.75 (the reuse term's part: −2.0 points "
        "[−3.0, −1.0]); the rest is what half a c does." in conclusion(data)[4]
    )


def test_the_reading_counts_intervals_and_comparisons():
    said = reading(differences(cs=(0.25, 0.75, 2.5)))
    assert len(said) == 2
    assert (
        "There are 48 intervals" in said[0] and "for the 12 comparisons of the same two arms, is below 0.05" in said[1]
    )
    few = differences()
    few.loc[few["outcome"] == "reused", list(MISSING)] = list(MISSING.values())
    assert "There are 24 intervals" in reading(few)[0] and "for the 6 comparisons" in reading(few)[1]


def test_pairs_too_few_to_find_anything_are_said_to_be():
    row = ALONE | {"n": 5}
    data = differences(cs=(0.25, 0.75, 2.5), default=row)
    text = reading(data)[-1]
    assert text.startswith("With 5 pairs the smallest p value that the test can give is 0.0625, and 0.75 after")
    assert text.endswith("9 pairs are the fewest.")
    said = conclusion(data)
    assert said[5] == text and not any(word in " ".join(said) for word in ("In sum", "gain", "The cost"))
    assert said[6].startswith(
        "Taken alone, but not as one of so many comparisons, cross leaves the network fuller at every"
    )


def test_the_table_has_all_parts_in_order():
    data = differences()
    found = table(data)
    assert list(found["text"]) == [*reading(data), *statements(data), *conclusion(data)]
    assert list(dict.fromkeys(found["part"])) == ["reading", "statements", "conclusion"]
    assert np.all(found.groupby("part").size() > 1)
