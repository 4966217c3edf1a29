"""A run's folder: whole files, honest manifests, clear refusals."""

import json
import os
import threading

import pandas as pd
import pytest
import torch

from hatlab.config import RunConfig
from hatlab.files import atomic
from hatlab.records import Record, RecordError

CONFIG = RunConfig(seed=7)
TABLE = pd.DataFrame({"run": ["a", "a"], "value": [1.5, float("nan")]})


def finished(tmp_path):
    record = Record(CONFIG, tmp_path)
    record.verify_data({"x": "md5:1"})
    record.prepare()
    record.started({"device": "cpu"}, title="digits")
    record.save_checkpoint({"weights": torch.ones(2)})
    record.finish({"capacity": TABLE}, 1.0)
    return record


def test_a_finished_record_is_read_back(tmp_path):
    folder = finished(tmp_path).folder
    record = Record(CONFIG, tmp_path)
    assert record.finished
    assert folder == tmp_path / "runs" / CONFIG.run_id
    pd.testing.assert_frame_equal(record.load_tables(["capacity"])["capacity"], TABLE)
    assert record.load_checkpoint()["weights"].tolist() == [1.0, 1.0]
    assert sorted(p.name for p in folder.iterdir()) == [
        "capacity.csv", "capacity.parquet", "checkpoint.pt", "manifest.json",
    ]  # fmt: skip


def test_who_goes_on_removes_what_a_killed_process_left(tmp_path):
    record = Record(CONFIG, tmp_path)
    record.prepare()
    with atomic(record.folder / "capacity.csv") as temporary:
        temporary.write_text("half")
    temporary.write_text("half")  # as after kill -9
    (record.folder / "capacity.csv").unlink()
    record.started({"device": "cpu"})
    assert [path.name for path in record.folder.iterdir()] == ["manifest.json"]


def test_a_new_record_has_nothing_and_leaves_nothing(tmp_path):
    record = Record(CONFIG, tmp_path)
    assert not record.finished
    assert record.load_checkpoint() is None
    assert list(tmp_path.iterdir()) == []


def test_a_results_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(RecordError, match=r"results.*cannot be written"):
        Record(CONFIG, tmp_path / "results").prepare()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_results_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RecordError, match="cannot be written"):
            Record(CONFIG, tmp_path).prepare()
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_another_config_made_is_refused(tmp_path):
    path = finished(tmp_path).folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["c"] = 2.5
    path.write_text(json.dumps(manifest))
    with pytest.raises(RecordError, match=r"manifest\.json belongs to another config: c is 2\.5 there and 0\.75 here"):
        Record(CONFIG, tmp_path)
    assert json.loads(path.read_text()) == manifest


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_manifest_that_is_none_is_refused(tmp_path, text):
    path = finished(tmp_path).folder / "manifest.json"
    path.write_text(text)
    with pytest.raises(RecordError, match="is not a manifest of hatlab"):
        Record(CONFIG, tmp_path)


def test_other_images_than_those_the_run_was_started_with_are_refused(tmp_path):
    finished(tmp_path)
    with pytest.raises(RecordError, match=r"made from other images.*md5:1.*md5:2"):
        Record(CONFIG, tmp_path).verify_data({"x": "md5:2"})


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1])])
def test_a_table_that_is_missing_or_altered_is_refused(tmp_path, damage):
    damage(finished(tmp_path).folder / "capacity.parquet")
    with pytest.raises(RecordError, match=r"capacity\.parquet is missing or was altered"):
        Record(CONFIG, tmp_path).load_tables(["capacity"])


def test_a_checkpoint_cannot_run_code_and_a_broken_one_is_named(tmp_path):
    record = Record(CONFIG, tmp_path)
    record.prepare()
    torch.save({"f": os.system}, record.checkpoint)
    with pytest.raises(RecordError, match=r"checkpoint\.pt cannot be read"):
        record.load_checkpoint()
    record.checkpoint.write_bytes(b"")
    with pytest.raises(RecordError, match="delete it to start the run again"):
        record.load_checkpoint()


def test_a_run_is_held_by_one_process_at_a_time_and_read_anew(tmp_path):
    """The second waits, and finds what the first has made of it."""
    first, second = Record(CONFIG, tmp_path), Record(CONFIG, tmp_path)
    second.verify_data({"x": "md5:1"})
    told, got = [], threading.Event()

    def wait():
        with second.lock(lambda: None, told.append):
            assert second.finished
            got.set()

    with first.lock(lambda: None, told.append):
        waiting = threading.Thread(target=wait)
        waiting.start()
        finished(tmp_path)
        assert not got.wait(0.5)
    waiting.join(10)
    assert got.is_set()
    assert told == [f"run {CONFIG.run_id} is being trained by another process: waiting for it"]


def test_waiting_for_a_run_can_be_ended(tmp_path):
    class Enough(Exception):
        pass

    def stop():
        raise Enough

    with Record(CONFIG, tmp_path).lock(lambda: None, lambda text: None):
        second = Record(CONFIG, tmp_path)
        with pytest.raises(Enough), second.lock(stop, lambda text: None):
            pass
