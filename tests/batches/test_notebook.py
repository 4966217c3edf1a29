import json
import math

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatlab.batches.notebook import Notebook
from hatlab.config import ConfigError

PARAMETERS = """\
c: float = 0.75  # compressibility
seeds: list[int] = [0]  # seeds
mode: Literal["original", "cross"] = "original"  # of the regularizer
limit: int | None = None  # of something
others: dict = {}  # more fields
dataset: str = "digits"  # images
results: str = ""  # place"""


def write(path, source=PARAMETERS, *, cells=(), metadata=None):
    first = [nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})] if source is not None else []
    content = nbformat.v4.new_notebook(cells=[*first, *cells], metadata=metadata or {})
    nbformat.write(content, path)
    return path


@pytest.fixture
def notebook(tmp_path):
    return Notebook.read(write(tmp_path / "n.ipynb"))


def test_names_types_and_defaults_are_read_without_running_anything(notebook):
    assert list(notebook.parameters) == ["c", "seeds", "mode", "limit", "others", "dataset", "results"]
    assert notebook.parameters["limit"].kind == "int | None" and notebook.parameters["c"].default == 0.75
    assert notebook.check({"c": 1, "limit": 3}) == {
        "c": 1.0, "seeds": [0], "mode": "original", "limit": 3, "others": {}, "dataset": "digits",
    }  # fmt: skip


def test_all_that_is_wrong_is_said_at_once(notebook):
    with pytest.raises(ConfigError) as raised:
        notebook.check({"cc": 1, "seeds": [True], "mode": "crss", "results": "x", "c": -1.0})
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("unknown parameter of n.ipynb 'cc'; did you mean 'c'? (known: c, seeds, mode, limit")
    assert lines[1].startswith("seeds = [True]: Input should be a valid integer") and "list[int]" in lines[1]
    assert lines[2].startswith("mode = 'crss': Input should be 'original' or 'cross'")
    assert lines[3] == "'results' is set by the command; leave it out"
    assert lines[4].startswith("c = -1.0: Input should be greater than or equal to 0")


def test_a_list_named_for_a_field_makes_a_config_for_each_value(notebook):
    configs = notebook.configs(notebook.check({"seeds": [3, 4], "others": {"n_tasks": 2}}))
    assert [(config.seed, config.n_tasks, config.c) for config in configs] == [(3, 2, 0.75), (4, 2, 0.75)]
    with pytest.raises(ConfigError, match=r"others = \{'c': 1\}: c has a parameter of its own"):
        notebook.check({"others": {"c": 1}})
    with pytest.raises(ConfigError, match=r"unknown parameter 'n_taks'; did you mean 'n_tasks'"):
        notebook.check({"others": {"n_taks": 1}})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({1: 2}, "the key 1 is no text"),
        ({"a": (1, 2)}, "tuple is no plain data"),
        ({"a": ["\ud800"]}, "not valid Unicode"),
    ],
)
def test_what_is_no_plain_data_is_refused(tmp_path, value, problem):
    notebook = Notebook.read(write(tmp_path / "n.ipynb", "d: dict = {}"))
    with pytest.raises(ConfigError, match=problem):
        notebook.check({"d": value})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_plain_data_pass_as_they_are(value):
    cell = nbformat.v4.new_code_cell("d: Any = None", metadata={"tags": ["parameters"]})
    notebook = Notebook("n.ipynb", nbformat.writes(nbformat.v4.new_notebook(cells=[cell])))
    assert json.dumps(notebook.check({"d": value})["d"]) == json.dumps(value)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("c = 0.75", "'c = 0.75' is not of the form name: type = value"),
        ("c: float", "is not of the form"),
        ("import os", "'import os' is not of the form"),
        ("c: float = 0.5 * 2", "the default of c is not a plain value"),
        ("c: floot = 0.5", "floot is not a type that a parameter can have"),
        ("c: __import__('os').system('true') = 0", "is not a type that a parameter can have"),
        ("c: (lambda: 0) = 0", "is not a type that a parameter can have"),
        ("c: float = 0.75 %", "is not Python"),
        ("c: 'float' = 0.75", "'float' is not a type that a parameter can have"),
        ("c: list['int'] = []", "is not a type that a parameter can have"),
        ("c: list[9**9**9] = []", "list[9 ** 9 ** 9] is not a type that a parameter can have"),
        ("c: list[int, int] = []", "is not a type that a parameter can have"),
        ("c: Literal[2**3] = 8", "is not a type that a parameter can have"),
        ("c: Literal[()] = 8", "is not a type that a parameter can have"),
        ("c: int | 3 = 3", "is not a type that a parameter can have"),
        ("c: int.real = 3", "is not a type that a parameter can have"),
        ("c: Optional = 3", "is not a type that a parameter can have"),
        (f"c: {'list[' * 60}int{']' * 60} = []", "is not a type that a parameter can have"),
        (f"c: {'|'.join(['int'] * 5000)} = 3", "not"),
        ("c: int = 9**9**9", "the default of c is not a plain value"),
        (f"c: int = {'-' * 3000}1", "not"),
        (f"c: list = {'[' * 5000}{']' * 5000}", "is not Python"),
        (f"c: int = 0x{'f' * 5000}", "c = (int): a whole number of 20000 bits; allowed are 4096"),
        (f"c: str = '{'x' * 100_000}'", "has more than 100000 characters"),
        ("c: int = 'x'", "c = 'x': Input should be a valid integer (wanted: int)"),
        ("c: int = 0\0", "is not Python"),
    ],
)
def test_a_parameters_cell_that_is_none_is_refused(tmp_path, source, problem):
    with pytest.raises(ConfigError, match=r"parameters cell of .*n\.ipynb") as raised:
        Notebook.read(write(tmp_path / "n.ipynb", source))
    assert problem in str(raised.value)


def test_planning_runs_nothing_of_an_annotation(tmp_path):
    """Text in quotes was evaluated by whoever reads type hints."""
    made = tmp_path / "made"
    for kind in (f"open({str(made)!r}, 'w')", f"list[open({str(made)!r}, 'w')]"):
        for source in (f"c: {kind} = 0", f"c: {kind!r} = 0", f"c: list[{kind!r}] = []", f"c: Literal[{kind}] = 0"):
            with pytest.raises(ConfigError, match="is not a type that a parameter can have"):
                Notebook.read(write(tmp_path / "n.ipynb", source))
    assert not made.exists()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("float", [1, 0.5], ["x", None]),
        ("int | None", [1, None], [1.5]),
        ("Optional[int]", [1, None], ["x"]),
        ("None", [None], [1]),
        ("None | None", [None], [1]),
        ("Union[int, str]", [1, "x"], [1.5]),
        ("Union[int]", [1], ["x"]),
        ("list", [[1, "x"]], [1]),
        ("list[list[int] | None]", [[[1], None]], [[1]]),
        ("dict[str, list[float]]", [{"a": [1.0]}], [{"a": 1.0}]),
        ("Literal['a', 1, -1, True, None]", ["a", 1, -1, True, None], ["b", 2]),
        ("Any", [1, "x", None, [1]], []),
    ],
)
def test_types_are_made_of_plain_ones(tmp_path, kind, good, bad):
    notebook = Notebook.read(write(tmp_path / "n.ipynb", f"x: {kind} = {good[0]!r}"))
    for value in good:
        assert notebook.check({"x": value})["x"] == value
    for value in bad:
        with pytest.raises(ConfigError, match="x = "):
            notebook.check({"x": value})


def test_a_default_is_what_the_same_value_would_be_if_it_were_set(tmp_path):
    notebook = Notebook.read(write(tmp_path / "n.ipynb", "c: float = 1"))
    assert json.dumps(notebook.check({})) == json.dumps(notebook.check({"c": 1})) == '{"c": 1.0}'


def test_values_that_hold_themselves_or_are_huge_are_refused(tmp_path):
    notebook = Notebook.read(write(tmp_path / "n.ipynb", "x: Any = 0"))
    endless = []
    endless.append(endless)
    with pytest.raises(ConfigError, match="x: lists or mappings are too deep in each other, or hold themselves"):
        notebook.check({"x": endless})
    with pytest.raises(ConfigError, match=r"x = \(int\): a whole number of 30001 bits"):
        notebook.check({"x": 2**30000})


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("artifacts.save(figure, runs=[], profile=profile, results=results)", False),
        ("hatlab.support.artifacts.save(name=where(), runs=[], profile=profile)", False),
        ("artifacts.save(f'{figure}-2', runs=[], profile=profile)", False),
        ("artifacts.save(figure, **options)", False),
        ("other.save('toy')", False),
        ("artifacts.save('toy', runs=[], profile=profile, results=results)", True),
        ("if True:\n    path = hatlab.support.artifacts.save(name='toy', runs=[], profile=profile)", True),
        ("artifacts.save(figure, runs=[], profile='mine', results=results)", True),
        ("artifacts.save(figure, runs=[], results=results)", True),
    ],
)
def test_what_is_saved_outside_the_folder_of_the_run_is_found(tmp_path, code, wrong):
    notebook = Notebook.read(write(tmp_path / "n.ipynb", cells=[nbformat.v4.new_code_cell(code)]))
    found = notebook.misplaced()
    assert len(found) == wrong
    if wrong:
        assert found[0].startswith("in n.ipynb, cell 2: ") and "artifacts.save(figure, ..., profile=profile" in found[0]


def test_a_file_that_is_no_notebook_for_us_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"the notebook .*none.ipynb cannot be read: No such file"):
        Notebook.read(tmp_path / "none.ipynb")
    (tmp_path / "text.ipynb").write_text("hello")
    with pytest.raises(ConfigError, match=r"text.ipynb is not a notebook"):
        Notebook.read(tmp_path / "text.ipynb")
    two = [nbformat.v4.new_code_cell("a: int = 1", metadata={"tags": ["parameters"]})]
    with pytest.raises(ConfigError, match="has 2 cells tagged 'parameters'"):
        Notebook.read(write(tmp_path / "two.ipynb", cells=two))
    kernel = {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}
    with pytest.raises(ConfigError, match="is a notebook in R; allowed is Python"):
        Notebook.read(write(tmp_path / "r.ipynb", metadata=kernel))


def test_without_a_parameters_cell_there_are_no_parameters(tmp_path):
    notebook = Notebook.read(write(tmp_path / "n.ipynb", None))
    assert notebook.parameters == {} and notebook.check({}) == {}
    with pytest.raises(ConfigError, match=r"unknown parameter of n\.ipynb 'c'"):
        notebook.check({"c": 1})


def test_the_checksum_is_of_what_the_notebook_does(tmp_path):
    """A viewer that stores outputs, counts and metadata changes nothing; a changed cell does."""
    path = write(tmp_path / "n.ipynb", cells=[nbformat.v4.new_code_cell("print(c)")])
    first = Notebook.read(path)
    content = nbformat.read(path, as_version=4)
    content.metadata["language_info"] = {"name": "python", "version": "3.13"}
    content.cells[1].execution_count = 7
    content.cells[1].outputs = [nbformat.v4.new_output("stream", text="0.75")]
    nbformat.write(content, path)
    assert Notebook.read(path).checksum == first.checksum
    content.cells[1].source = "print(2 * c)"
    nbformat.write(content, path)
    assert Notebook.read(path).checksum != first.checksum


def test_nan_is_a_float(tmp_path):
    notebook = Notebook.read(write(tmp_path / "n.ipynb", "x: float = 0.0"))
    assert math.isnan(notebook.check({"x": math.nan})["x"])
