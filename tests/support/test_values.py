import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatlab.config import MOST_RUNS, ConfigError
from hatlab.support.values import read_yaml, values

# ten of each is ten of the one before: 10^12 values from 12 lines
LAUGHS = "a: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]" for i in range(1, 13))
MERGES = "a: &a0 {x: 1}\n" + "\n".join(f"a{i}: &a{i} {{<<: [{f'*a{i - 1}, ' * 10}]}}" for i in range(1, 13))
TOO_MANY = [
    ("0..999999999", "with '0..999999999' there are more than 100000 values"),
    ("1..99999, 1..2", "with '1..2' there are more than 100000 values"),
    (f"0..{'9' * 500}", "there are more than 100000 values"),
]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1e-4", 1e-4),
        ("-1.5E+3", -1500.0),
        ("010", 10),
        ("0x1f", 31),
        ("1_000", 1000),
        ("'1e5'", "1e5"),
        ("npz:a/b.npz", "npz:a/b.npz"),
        ("e5", "e5"),
        ("[1e3, x]", [1000.0, "x"]),
        ("{n_tasks: 3}", {"n_tasks": 3}),
        ("", None),
    ],
)
def test_yaml_is_read_as_people_mean_it(text, meant):
    found = read_yaml(text)
    assert found == meant and type(found) is type(meant)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_prints_is_read_back(number):
    assert read_yaml(repr(number)) == number
    assert read_yaml(f"{number:e}") == float(f"{number:e}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", "'a' stands twice"),
        ("{b: {c: 1, c: 1}}", "'c' stands twice"),
        ("!!python/object/apply:os.system ['echo']", "could not determine a constructor"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ("[1", "expected ',' or ']'"),
        ("? [a]\n: 1", "unhashable"),
        ("2018-13-45", "month must be in"),
        ("&a [*a]", "an alias names what it stands in"),
        ("a: &a {b: {c: *a}}", "an alias names what it stands in"),
        (LAUGHS, "with what its aliases repeat it holds more than 1000000 values"),
        (MERGES, "with what its aliases repeat it holds more than 1000000 values"),
        (f"a: &a {'x' * 1_000_000}\nb: [{'*a, ' * 200}]", "it holds more than 1000000 values"),
        ("[" * 2000, "nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
    ],
)
def test_yaml_that_is_unsafe_ambiguous_or_none_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        read_yaml(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("0.75", [0.75]),
        ("0.1,0.75, 2.5", [0.1, 0.75, 2.5]),
        ("0..3", [0, 1, 2, 3]),
        ("-2..-1,7", [-2, -1, 7]),
        ("5..5", [5]),
        ("[400, 400],[100]", [[400, 400], [100]]),
        ("[0, 0.5]", [[0, 0.5]]),
        ("mnist,npz:a.npz", ["mnist", "npz:a.npz"]),
        ("'a,b'", ["a,b"]),
        ("null", [None]),
        (f"1..{MOST_RUNS}", list(range(1, MOST_RUNS + 1))),
    ],
)
def test_values_are_separated_by_commas_outside_brackets(text, meant):
    assert values(text) == meant


@pytest.mark.parametrize(
    ("text", "problem"), [("", "no value"), ("3..1", "3..1 is empty"), ("a]", "is not YAML"), *TOO_MANY]
)
def test_what_gives_no_values_is_refused(text, problem):
    with pytest.raises(ConfigError, match=problem):
        values(text)


@given(st.lists(st.integers() | st.floats(allow_nan=False).filter(math.isfinite), min_size=1))
def test_numbers_survive_the_way_through_the_shell(numbers):
    assert values(",".join(map(repr, numbers))) == numbers


def test_a_mapping_may_be_merged_and_its_keys_set_anew():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}"
    assert read_yaml(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}
    with pytest.raises(ValueError, match="'y' stands twice"):
        read_yaml("a: &a {x: 1}\nb: {<<: *a, y: 3, y: 4}")
