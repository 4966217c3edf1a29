"""One table of many: what is wrong with one loses no other, and no name or number becomes another."""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from notebooks_for_tests import done_batch

from hatlab.batches import collecting
from hatlab.batches.ledger import Status
from hatlab.support.files import write_json
from hatlab.support.provenance import checksum

WALK = pd.DataFrame({"step": [0, 1], "value": [1.5, 2.5]})


def gathered(results, values, tables):
    """Two or more runs, gathered, written, and read back."""
    batch = done_batch(results, values, tables)
    collected = collecting.gather(batch)
    again = {path.stem: pd.read_parquet(path) for path in collecting.write(batch, collected)}
    assert list(again) == list(collected.tables)
    return batch, collected, again


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.1, "auto"], ["0.1", "auto"]),
        ([2**70, 1], [str(2**70), "1"]),
        ([[1], 2.5], ["[1]", "2.5"]),
        ([True, "true"], ["true", "true"]),
    ],
)
def test_a_parameter_of_several_types_is_text(tmp_path, values, texts):
    _, collected, again = gathered(tmp_path, [{"lr": value} for value in values], [{"walk": WALK}] * 2)
    assert collected.whole and again["walk"]["lr"].tolist() == [texts[0]] * 2 + [texts[1]] * 2


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (["a"], [1.5], ["a", "1.5"]),
        ([1], [2.5], [1.0, 2.5]),
        ([2**60 + 1], [2.5], [str(2**60 + 1), "2.5"]),  # as floats they would be rounded
        ([2**60 + 1], None, [str(2**60 + 1), None]),
        ([2**60 + 1], [3], [2**60 + 1, 3]),
        (pd.array([2**63 + 1], dtype="uint64"), [-1], [str(2**63 + 1), "-1"]),
        ([True], [2.5], ["true", "2.5"]),
        (pd.Categorical(["a"]), pd.Categorical(["b"]), ["a", "b"]),
        (pd.Categorical(["a"]), [1], ["a", "1"]),
        (pd.to_datetime(["2026-11-24"]), ["a"], ["2026-11-24 00:00:00", "a"]),
        ([[1, 2]], ["a"], ["[1, 2]", "a"]),
    ],
)
def test_a_column_that_differs_between_runs_loses_nothing(tmp_path, one, other, wanted):
    tables = [{"t": pd.DataFrame({"a": one})}, {"t": pd.DataFrame({"b": [0]} if other is None else {"a": other})}]
    _, collected, again = gathered(tmp_path, [{"i": 0}, {"i": 1}], tables)
    assert collected.whole
    found = again["t"]["a"]
    assert found.astype(object).where(found.notna(), None).tolist() == wanted


def test_a_column_with_the_name_of_the_run_is_kept_beside_it(tmp_path):
    """As in the report of a batch, when the report itself is a run of a batch."""
    nested = WALK.assign(notebook_run="inner", table_notebook_run="innermost")
    batch, _, again = gathered(tmp_path, [{"i": 0}, {"i": 1}], [{"walk": nested}, {"walk": WALK}])
    table = again["walk"]
    assert list(table)[:4] == ["notebook_run", "i", "step", "value"]
    assert table["notebook_run"].tolist() == [run.run_id for run in batch.runs for _ in range(2)]
    assert table["table_table_notebook_run"].tolist()[:2] == ["inner"] * 2
    assert table["table_notebook_run"].tolist()[:2] == ["innermost"] * 2


def test_a_parameter_is_called_the_same_in_all_runs(tmp_path):
    """Only one of the tables has a column of its name."""
    tables = [{"t": pd.DataFrame({"value": [7]})}, {"t": pd.DataFrame({"other": [8]})}]
    _, _, again = gathered(tmp_path, [{"value": 1}, {"value": 2}], tables)
    assert again["t"]["parameter_value"].tolist() == [1, 2]
    assert again["t"]["value"].isna().tolist() == [False, True]


NAMES = st.sampled_from(
    ["a", "parameter_a", "parameter_parameter_a", "notebook_run", "table_notebook_run", "parameter_notebook_run"]
)


@settings(max_examples=25, deadline=None)
@given(st.sets(NAMES, min_size=1), st.sets(NAMES, min_size=1))
def test_whatever_the_names_every_parameter_and_every_column_has_one(tmp_path_factory, parameters, columns):
    values = [{name: f"run {i} {name}" for name in sorted(parameters)} for i in range(2)]
    tables = [{"t": pd.DataFrame({name: [f"column {i} {name}"] for name in sorted(columns)})} for i in range(2)]
    batch, collected, again = gathered(tmp_path_factory.mktemp("b"), values, tables)
    assert collected.whole
    for i, run in enumerate(batch.runs):
        row = again["t"].iloc[i].tolist()
        assert row[0] == run.run_id == again["t"]["notebook_run"][i]
        assert sorted(row[1:]) == sorted([*values[i].values(), *(tables[i]["t"].iloc[0])])


def test_a_table_that_cannot_be_gathered_is_named_and_loses_no_other(tmp_path):
    batch = done_batch(tmp_path, [{"i": 0}, {"i": 1}], [{"walk": WALK, "bad": WALK}, {"walk": WALK}])
    entry = batch.entry(batch.runs[0])
    (entry.folder / "bad.parquet").write_text("no Parquet, but what the manifest declares")
    declared = entry.artifacts() | {"bad.parquet": checksum(entry.folder / "bad.parquet")}
    write_json(entry.manifest, {"artifacts": declared})
    entry.write(Status("done", 1, manifest=checksum(entry.manifest)))
    collected = collecting.gather(batch)
    assert list(collected.tables) == ["walk"] and len(collected.tables["walk"]) == 4
    (problem,) = collected.problems
    assert problem.startswith(f"run {batch.runs[0].run_id}: table 'bad' cannot be read: ") and not collected.whole
    collecting.write(batch, collected)
    assert json.loads((batch.folder / "collected.json").read_text())["problems"] == [problem]


def test_tables_that_do_not_go_together_are_named_and_lose_no_other(tmp_path, monkeypatch):
    original = collecting.storable

    def refuse(table):
        if "step" in table:
            raise ValueError("column 'step' can be written neither as it is nor as text")
        return original(table)

    monkeypatch.setattr(collecting, "storable", refuse)
    tables = [{"walk": WALK, "t": WALK[["value"]]}] * 2
    _, collected, again = gathered(tmp_path, [{"i": 0}, {"i": 1}], tables)
    assert list(again) == ["t"]
    assert collected.problems == [
        "table 'walk' of 2 runs cannot be put together: column 'step' can be written neither as it is nor as text"
    ]


def test_runs_that_are_done_and_left_no_table_are_told(tmp_path):
    batch, collected, _ = gathered(tmp_path, [{"i": i} for i in range(3)], [{"walk": WALK}, {}, {}])
    bare = list(batch.runs[1:])
    assert collected.without == [run.run_id for run in bare] and not collected.whole
    assert collected.runs == [run.run_id for run in batch.runs]
    statuses = batch.statuses()
    assert collecting.left_no_table(batch, statuses) == bare
    statuses[bare[0].run_id] = Status("failed")
    assert collecting.left_no_table(batch, statuses) == bare[1:]
