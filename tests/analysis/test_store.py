"""A store of runs: what goes in comes out, nothing is trained, and a byte that changes is found."""

import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import hatlab
from hatlab.analysis import masks, store
from hatlab.cli.main import cli
from hatlab.config import ConfigError, RunConfig
from hatlab.support.provenance import checksum
from hatlab.training.records import RecordError

BASE = RunConfig(widths=(20, 15), max_epochs=2, n_tasks=2, batch_size=128)
CONFIGS = [*BASE.grid(c=[0.0, 2.5], seed=[0, 1]), BASE.replace(method="sgd", c=0)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return hatlab.sweep(CONFIGS, results=tmp_path_factory.mktemp("trained"))


@pytest.fixture
def packed(runs, tmp_path):
    path = tmp_path / "runs.zip"
    store.pack(runs, path, "runs of a test")
    return path


def test_runs_come_out_as_they_went_in_and_none_is_trained(runs, packed, tmp_path, monkeypatch):
    assert store.unpack(packed, tmp_path / "results") == (5, 0)
    monkeypatch.setenv("HATLAB_ONLY_FINISHED", "1")
    again = hatlab.sweep(CONFIGS, results=tmp_path / "results")
    for one, other in zip(runs, again, strict=True):
        for ours, theirs in zip(one.tables, other.tables, strict=True):
            pd.testing.assert_frame_equal(ours, theirs)
        assert other.manifest["sessions"] == one.manifest["sessions"] and other.manifest["store"] == "runs.zip"
    for one, other in zip(runs[:4], again[:4], strict=True):
        (chain, ours), (joined, theirs) = masks.task_masks(one), masks.task_masks(other)
        assert chain == joined
        for mask, same in zip(ours, theirs, strict=True):
            assert all(np.array_equal(mask[name], same[name]) for name in mask)
        assert not masks.has_network(other)
        with pytest.raises(RecordError, match="has no trained network any more"):
            masks.load_network(other)


def test_equal_runs_make_equal_bytes_also_from_a_store(runs, packed, tmp_path):
    store.unpack(packed, tmp_path / "results")
    again = hatlab.sweep(CONFIGS, results=tmp_path / "results")
    store.pack(runs[::-1], tmp_path / "other.zip", "runs of a test")
    assert (tmp_path / "other.zip").read_bytes() == packed.read_bytes()
    store.pack(again, tmp_path / "third.zip", "runs of a test")
    with zipfile.ZipFile(packed) as one, zipfile.ZipFile(tmp_path / "third.zip") as other:
        for name in set(one.namelist()) - {"runs.json", store.CRATE}:
            assert one.read(name) == other.read(name), name


def test_what_is_there_stays_and_what_was_stopped_too(runs, packed, tmp_path):
    results = tmp_path / "results"
    store.unpack(packed, results)
    folder = results / "runs" / runs[0].run_id
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text() + " ")
    before = checksum(folder / "manifest.json")
    assert store.unpack(packed, results) == (0, 5)
    assert checksum(folder / "manifest.json") == before


def test_masks_that_were_altered_are_refused(runs, packed, tmp_path):
    store.unpack(packed, tmp_path / "results")
    run = hatlab.run(CONFIGS[0], results=tmp_path / "results")
    (run.folder / masks.MASKS).write_bytes(b"altered")
    with pytest.raises(RecordError, match=r"masks\.npz is missing or was altered"):
        masks.task_masks(run)


def test_a_sweep_that_may_not_train_names_what_is_missing(packed, tmp_path, monkeypatch):
    store.unpack(packed, tmp_path / "results")
    monkeypatch.setenv("HATLAB_ONLY_FINISHED", "1")
    other = BASE.replace(seed=7)
    with pytest.raises(
        ConfigError, match=rf"1 of 2 runs are not finished in .*, {other.run_id} for one, and nothing is"
    ):
        hatlab.sweep([CONFIGS[0], other], results=tmp_path / "results")
    assert not (tmp_path / "results" / "runs" / other.run_id / "checkpoint.pt").exists()


def rewritten(path, change):
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update({"tasks.parquet": m["tasks.parquet"][:-1] + b"x"}), "tasks.parquet is missing, added or"),
        (lambda m: m.pop("capacity.parquet"), "capacity.parquet is missing"),
        (lambda m: m.update({"more.txt": b""}), r"more.txt is missing, added or altered; .* says None"),
        (lambda m: m.pop(store.CRATE), "is no store of runs: it has no ro-crate-metadata.json"),
    ],
)
def test_a_store_that_is_not_as_it_was_written_is_refused(packed, tmp_path, change, message):
    rewritten(packed, change)
    for use in (store.verify, lambda path: store.unpack(path, tmp_path / "results")):
        with pytest.raises(store.StoreError, match=message):
            use(packed)
    assert not (tmp_path / "results").exists()


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(store.StoreError, match="does not exist: a store of runs is wanted"):
        store.verify(tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(store.StoreError, match="is no store of runs, or is damaged"):
        store.verify(tmp_path / "text.zip")


def test_the_metadata_are_those_of_a_research_object(packed):
    with zipfile.ZipFile(packed) as file:
        crate, names = json.loads(file.read(store.CRATE)), file.namelist()
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert names[0] == store.CRATE and entities[store.CRATE]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    root = entities["./"]
    assert root["name"] == "hatlab: runs of a test" and root["description"].startswith("5 finished runs")
    assert {part["@id"] for part in root["hasPart"]} == set(names) - {store.CRATE} <= set(entities)
    assert len([name for name in names if name.startswith("masks/")]) == 4  # sgd has none


def test_the_command_verifies_and_unpacks(runs, packed, tmp_path):
    told = CliRunner().invoke(cli, ["store", "verify", str(packed)])
    assert told.exit_code == 0 and len(told.output.splitlines()) == 5 and "sgd  c=0  seed=0" in told.output
    told = CliRunner().invoke(cli, ["store", "unpack", str(packed), "--results", str(tmp_path / "out")])
    assert told.output == "5 runs unpacked, 0 were there already\n"
    packed.write_bytes(packed.read_bytes()[:-30])
    told = CliRunner().invoke(cli, ["store", "verify", str(packed)])
    assert told.exit_code != 0
