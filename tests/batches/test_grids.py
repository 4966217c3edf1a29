import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatlab.batches.grids import expand, read
from hatlab.config import ConfigError
from hatlab.support.paths import home
from hatlab.support.values import read_yaml


def grid(text):
    return expand(read_yaml(text))


def test_a_product_varies_the_last_fastest():
    assert grid("product: {c: [1, 2], seed: 0..1}") == [
        {"c": 1, "seed": 0},
        {"c": 1, "seed": 1},
        {"c": 2, "seed": 0},
        {"c": 2, "seed": 1},
    ]


def test_a_zip_goes_side_by_side_and_a_list_is_spelled_out():
    assert grid("zip: {a: [1, 1], b: [x, y]}") == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}]
    assert grid("list: [{a: 1}, {b: 2}]") == [{"a": 1}, {"b": 2}]


def test_all_sections_are_combined():
    points = grid("parameters: {e: 9}\nproduct: {a: [1, 2]}\nzip: {b: [3, 4], c: [5, 6]}\nlist: [{d: 7}, {d: 8}]")
    assert len(points) == 8 and len({tuple(sorted(point.items())) for point in points}) == 8
    assert points[0] == {"e": 9, "d": 7, "b": 3, "c": 5, "a": 1}
    assert {(point["b"], point["c"]) for point in points} == {(3, 5), (4, 6)}


def test_blocks_follow_each_other_and_share_what_is_given_beside_them():
    points = expand([{"list": [{"c": 0}]}, {"product": {"c": [1, 2]}}], {"max_epochs": 5}, {"seed": range(2)})
    assert [(point["c"], point["seed"]) for point in points] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(point["max_epochs"] == 5 for point in points)


def test_nothing_is_one_run():
    assert expand(None) == [{}]
    assert expand(None, {"a": 1}) == [{"a": 1}]


@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(), min_size=1, max_size=4, unique=True), min_size=1),
    st.integers(1, 3),
)
def test_the_number_of_runs_is_the_product_of_the_numbers_of_values(axes, n):
    zipped = {"x": list(range(n)), "y": list(range(n))}
    points = expand({"product": axes, "zip": zipped})
    count = n
    for axis in axes.values():
        count *= len(axis)
    assert len(points) == count
    assert all(set(point) == {*axes, "x", "y"} and point["x"] == point["y"] for point in points)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "is an empty list"),
        ("3", r"3 is not a mapping with parameters, product, zip, list"),
        ("prodcut: {a: [1]}", r"unknown section 'prodcut'; did you mean 'product'\?"),
        ("product: [a]", r"product of the grid: \['a'\] is not a mapping of parameter names"),
        ("product: {1: [2]}", "is not a mapping of parameter names"),
        ("product: {a: 3}", "a: 3 is not a list of one or more values"),
        ("product: {a: []}", r"a: \[\] is not a list of one or more values"),
        ("product: {a: [1, 2, 1]}", "a: 1 is named twice"),
        ("product: {a: 3..1}", "the range 3..1 is empty"),
        ("zip: {a: [1, 2], b: [1]}", "a has 2, b has 1; allowed is the same number of values"),
        ("list: []", r"list = \[\] is not a list of one or more runs"),
        ("list: [3]", "3 is not a mapping of parameter names"),
        ("parameters: {a: 1}\nproduct: {a: [1, 2]}", "a is set by parameters of the grid and by product of the grid"),
        ("[{product: {a: [1]}}, {zip: {b: 2}}]", "the grid, block 2: b: 2 is not a list"),
        ("product: {a: 0..999999999}", "a: with '0..999999999' there are more than 100000 values"),
        ("product: {a: 1..1000, b: 1..1000, c: 1..1000}", "the grid makes 1000000000 runs; allowed are 100000 in a"),
        ("zip: {a: 1..9999}\nproduct: {b: 1..9999}", "the grid makes 99980001 runs"),
        ("[{product: {a: 1..99999}}, {product: {b: 1..2}}]", "the grid, block 2 makes 2 runs; allowed are 100000"),
    ],
)
def test_what_is_no_grid_is_refused(content, problem):
    with pytest.raises(ConfigError, match=problem):
        grid(content)


def test_a_parameter_of_the_command_is_not_set_by_the_file_too():
    with pytest.raises(ConfigError, match=r"c is set by -p and by product of g\.yaml; allowed is one of the two"):
        expand({"product": {"c": [1]}}, {"c": 2}, source="g.yaml")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"the grid file .*none.yaml cannot be read: No such file"):
        read(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("product: {c: [1], c: [2]}")
    with pytest.raises(ConfigError, match=r"bad.yaml is not YAML: 'c' stands twice"):
        read(tmp_path / "bad.yaml")


def test_the_grid_of_the_pages_is_one():
    text = (home() / "docs" / "batches.md").read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    points = grid(text)
    assert len(points) == 2 * 3 * 10 * 2 and len({repr(sorted(point.items())) for point in points}) == 120
    assert all(point["max_epochs"] == 40 for point in points)
    assert {(point["dataset"], point["s_max"]) for point in points} == {("mnist", 400), ("fashion_mnist", 200)}
