"""Two batches or folders side by side: pairs, differences that were put in and no others, facts and verdicts."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from notebooks_for_tests import done_batch

from hatlab.batches import compare
from hatlab.batches.ledger import Status
from hatlab.cli.main import cli
from hatlab.config import ConfigError
from hatlab.support.files import write_json, write_table
from hatlab.support.paths import home
from hatlab.support.provenance import checksum


def night(folder, shift=0.0, seeds=range(6), **values):
    """A batch of runs with a table of accuracies, `shift` above those of another."""
    grid = [{"c": c, "seed": seed, **values} for c in (0.1, 0.75) for seed in seeds]
    tables = []
    for given_ in grid:
        rng = np.random.default_rng(given_["seed"])
        accuracy = 0.9 + 0.01 * rng.normal(size=6) + np.repeat([0, 0, shift], 2)
        frame = pd.DataFrame(
            {"after_task": [0, 0, 1, 1, 2, 2], "task": [0, 1] * 3, "accuracy": accuracy, "units": 40, "c": given_["c"]}
        )
        tables.append({"accuracy": frame})
    return done_batch(folder, grid, tables)


def test_a_batch_and_itself_are_the_same(tmp_path):
    night(tmp_path)
    found = compare.compare(compare.side("night", tmp_path), compare.side(str(tmp_path / "batches" / "night")))
    assert found.same and found.pairs == 12 and found.equal == ["accuracy.accuracy", "accuracy.units"]
    assert found.facts.empty and "that differ: 0" in str(found)


def test_a_shift_of_the_last_task_is_found_with_its_interval(tmp_path):
    night(tmp_path / "a"), night(tmp_path / "b", 0.02)
    found = compare.compare(compare.side(str(tmp_path / "a")), compare.side(str(tmp_path / "b")))
    (row,) = found.outcomes.itertuples()
    assert (row.table, row.outcome, row.n, row.says) == ("accuracy", "accuracy", 12, "higher")
    assert row.mean == pytest.approx(0.02) and row.second - row.first == pytest.approx(0.02) and not found.same
    assert found.equal == ["accuracy.units"] and "second higher" in str(found)


@given(shift=st.sampled_from([-0.5, 0.0, 0.25]), n=st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_exchanging_the_sides_turns_the_sign(tmp_path_factory, shift, n):
    folder = tmp_path_factory.mktemp("nights")
    night(folder / "a", seeds=range(n)), night(folder / "b", shift, seeds=range(n))
    a, b = compare.side(str(folder / "a")), compare.side(str(folder / "b"))
    there, back = compare.compare(a, b), compare.compare(b, a)
    assert there.same == back.same == (shift == 0)
    np.testing.assert_allclose(there.outcomes["mean"].astype(float), -back.outcomes["mean"].astype(float))


def test_a_parameter_that_stands_in_a_table_is_no_outcome(tmp_path):
    night(tmp_path)
    found = compare.compare(compare.side("night", tmp_path), compare.side("night", tmp_path))
    assert found.equal == ["accuracy.accuracy", "accuracy.units"]


def test_what_tells_the_sides_apart_is_no_obstacle_and_is_told(tmp_path):
    night(tmp_path / "a", mode="original"), night(tmp_path / "b", 0.01, mode="cross")
    found = compare.compare(compare.side(str(tmp_path / "a")), compare.side(str(tmp_path / "b")))
    assert found.pairs == 12 and found.facts.to_numpy().tolist() == [["parameter mode", '"original"', '"cross"']]


def test_runs_without_a_pair_and_runs_that_are_not_done_are_counted(tmp_path):
    a, b = night(tmp_path / "a", seeds=range(6)), night(tmp_path / "b", seeds=range(4))
    b.entry(b.runs[0]).write(Status("failed"))
    found = compare.compare(compare.side(str(tmp_path / "a")), compare.side(str(tmp_path / "b")))
    assert (found.pairs, found.alone, found.same) == (7, (5, 0), False) and len(a.runs) == 12
    assert ["runs that are not done", "0", "1"] in found.facts.to_numpy().tolist()


def test_versions_code_and_data_that_differ_are_told(tmp_path):
    for name, torch in (("a", "2.14.1"), ("b", "2.15.0")):
        batch = night(tmp_path / name)
        for run in batch.runs:
            entry = batch.entry(run)
            manifest = json.loads(entry.manifest.read_text())
            write_json(
                entry.manifest,
                manifest | {"versions": {"torch": torch}, "data": {"MNIST": "md5:1"}, "git": {"commit": "f" * 40}},
            )
            entry.write(Status("done", 1, manifest=checksum(entry.manifest)))
    found = compare.compare(compare.side(str(tmp_path / "a")), compare.side(str(tmp_path / "b")))
    assert found.facts.to_numpy().tolist() == [["version of torch", "2.14.1", "2.15.0"]] and found.same


def figures(folder, verdict="agrees", value=1.0):
    paths = (
        write_table(folder / "curve", "summary", pd.DataFrame({"usage": [value]}))
        if (folder / "curve").mkdir(parents=True) is None
        else []
    )
    write_json(folder / "curve" / "manifest.json", {"artifacts": {path.name: checksum(path) for path in paths}})
    pd.DataFrame({"figure": ["curve", "curve"], "claim": ["x", "y"], "verdict": [verdict, "holds"]}).to_csv(
        folder / "verdicts.csv", index=False
    )
    return str(folder)


def test_folders_of_figures_are_compared_by_verdicts_too(tmp_path):
    found = compare.compare(
        compare.side(figures(tmp_path / "a")), compare.side(figures(tmp_path / "b", "differs", 2.0))
    )
    assert found.verdicts.to_numpy().tolist() == [["curve", "x", "agrees", "differs"]] and not found.same
    assert "verdict changed, curve: x: agrees -> differs" in str(found)
    (row,) = found.outcomes.itertuples()
    assert row.mean == 1 and row.says == "too few pairs"


def test_what_one_side_alone_has_counts_unless_it_is_asked_for_the_common(tmp_path):
    a, b = figures(tmp_path / "a"), figures(tmp_path / "b")
    (tmp_path / "b" / "other").mkdir()
    write_json(tmp_path / "b" / "other" / "manifest.json", {"artifacts": {}})
    pd.read_csv(tmp_path / "a" / "verdicts.csv").iloc[:1].to_csv(tmp_path / "a" / "verdicts.csv", index=False)
    assert CliRunner().invoke(cli, ["compare", a, b]).exit_code == 1
    assert CliRunner().invoke(cli, ["compare", a, b, "--common"]).exit_code == 0


def test_what_is_committed_equals_itself():
    folder = str(home() / "results" / "reference" / "quick")
    found = compare.compare(compare.side(folder), compare.side(folder))
    assert found.same and found.pairs >= 8 and len(found.equal) > 50


def test_what_cannot_be_compared_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"'nowhere' is no batch \(known: none\)"):
        compare.side("nowhere", tmp_path)
    batch = night(tmp_path)
    for run in batch.runs:
        batch.entry(run).write(Status("failed"))
    with pytest.raises(ConfigError, match="night: nothing is done"):
        compare.compare(compare.side("night", tmp_path), compare.side("night", tmp_path))


def test_the_exit_status_says_whether_something_differs(tmp_path):
    night(tmp_path / "a"), night(tmp_path / "b", 0.02)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert CliRunner().invoke(cli, ["compare", a, a]).exit_code == 0
    told = CliRunner().invoke(cli, ["compare", a, b])
    assert told.exit_code == 1 and "12 pairs" in told.output and "second higher" in told.output
