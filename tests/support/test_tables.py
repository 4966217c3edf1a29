"""Nothing of a table is lost on its way to Parquet and back."""

import json
import math
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatlab.support.files import write_table
from hatlab.support.tables import as_text, storable


def read_back(table, folder):
    paths = write_table(folder, "t", table)
    return pd.read_parquet(paths[0])


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.1, "auto", None], ["0.1", "auto", None]),
        ([2**70, 1], [str(2**70), "1"]),
        ([True, 1], ["true", "1"]),
        ([[1, "a"], 2], ['[1, "a"]', "2"]),
        ([{"a": 1}, {"b": 2}], ['{"a": 1}', '{"b": 2}']),  # Parquet would give both a and b
        ([{}, {}], ["{}", "{}"]),
        (pd.Series([2**60 + 1, None], dtype=object), [str(2**60 + 1), None]),  # with a gap they would be read as floats
        (pd.Series([2**60 + 1, 0.5], dtype=object), [str(2**60 + 1), "0.5"]),
        ([PurePosixPath("a/b")], ["a/b"]),
        ([np.eye(2)], ["[[1.0, 0.0], [0.0, 1.0]]"]),
        ([1j], ["1j"]),
        (pd.cut([1, 2, 3], 2), ["(0.998, 2.0]", "(0.998, 2.0]", "(2.0, 3.0]"]),
        (pd.Categorical(["a", 1]), ["a", "1"]),
    ],
)
def test_a_column_of_no_one_type_becomes_text(tmp_path, values, texts):
    table = pd.DataFrame({"sound": range(len(texts)), "odd": values})
    again = read_back(table, tmp_path)
    assert again["odd"].astype(object).where(again["odd"].notna(), None).tolist() == texts
    assert again["sound"].tolist() == list(range(len(texts)))
    assert table["odd"].tolist() == list(values)  # the caller's own is as it was


@pytest.mark.parametrize(
    "values",
    [
        [1, 2], [0.5, math.nan], ["a", None], [True, None], [2**63, 1], [2**60 + 1, 2], [[1, 2], [3]], [b"a"],
        pd.to_datetime(["2026-11-24"], utc=True), pd.Categorical(["a", "b", "a"]), pd.array([1, None], dtype="Int64"),
        pd.period_range("2026", "2027", freq="Y"), [None, None], [],
    ],
)  # fmt: skip
def test_a_column_of_one_type_is_written_as_it_is(values):
    table = pd.DataFrame({"a": values})
    pd.testing.assert_frame_equal(storable(table), table)


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=3)
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(PLAIN, st.lists(st.integers(0, 5), max_size=2)), min_size=1, max_size=5))
def test_what_is_read_is_what_was_written_or_its_text(tmp_path_factory, values):
    again = read_back(pd.DataFrame({"a": pd.Series(values, dtype=object)}), tmp_path_factory.mktemp("t"))["a"]
    for value, found in zip(values, again, strict=True):
        found = found.tolist() if isinstance(found, np.ndarray) else found
        if value is None:
            assert found is None or found != found
        elif found != value:
            assert found == as_text(value)


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (pd.DataFrame({"v": [1.0, 2.0]}, index=pd.Index([3, 4], name="c")), ["c", "v"]),
        (pd.DataFrame({"c": [1, 2], "m": ["a", "b"], "v": [1, 2]}).groupby(["c", "m"]).mean(), ["c", "m", "v"]),
        (pd.DataFrame({"v": [1.0, 2.0]}).describe(), ["index", "v"]),
        (pd.DataFrame({"index": [1.0, 2.0]}).describe(), ["level_0", "index"]),
        (pd.DataFrame({"v": [1, 2, 3]})[1:], ["v"]),  # a count of rows
        (pd.DataFrame(columns=["v"]), ["v"]),
    ],
)
def test_an_index_that_says_something_is_kept(tmp_path, table, columns):
    again = read_back(table, tmp_path)
    assert list(again) == columns and len(again) == len(table)
    assert list(pd.read_csv(tmp_path / "t.csv")) == columns
    if len(columns) > table.shape[1]:
        assert again[columns[0]].tolist() == table.index.get_level_values(0).tolist()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "column 'a' stands twice"),
        (pd.DataFrame([[1, 2]], columns=[1, "1"]), "column '1' stands twice"),
        (pd.DataFrame({"c": [1, 2]}).set_index("c", drop=False), "column 'c' stands twice"),
        (pd.DataFrame({"a": pd.Series([1, "\ud800"], dtype=object)}), "column 'a' can be written neither"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, table, message):
    with pytest.raises(ValueError, match=message):
        write_table(tmp_path, "t", table)
    assert not list(tmp_path.iterdir())


def test_text_of_a_value_is_json_where_json_has_it():
    for value in (1, 0.1, True, [1, "a"], {"a": None}):
        assert json.loads(as_text(value)) == value
    assert as_text("true") == "true" and as_text({(1, 2): 3}) == "{(1, 2): 3}" and as_text(np.float32(0.5)) == "0.5"
