"""A run's folder: whole files, honest manifests, clear refusals."""

import errno
import json
import os
import random
import signal
import threading

import pandas as pd
import pytest
import torch

from hatlab.config import RunConfig
from hatlab.support.files import atomic
from hatlab.training.records import DamagedCheckpoint, Record, RecordError

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


def test_a_checkpoint_cannot_run_code(tmp_path):
    record = Record(CONFIG, tmp_path)
    record.prepare()
    record.save_checkpoint({"f": os.system})
    with pytest.raises(RecordError, match=r"(?s)checkpoint\.pt cannot be read.*delete it to start the run again"):
        record.load_checkpoint()


STATE = {"network": {"w": torch.arange(40.0), "b": torch.ones(3)}, "task": 1, "rows": [(0, 0.5, "fc1")]}


def saved(tmp_path):
    record = Record(CONFIG, tmp_path)
    record.prepare()
    record.save_checkpoint(STATE)
    return record


def test_no_bit_of_a_checkpoint_can_be_flipped_unnoticed(tmp_path):
    """All eight of each of 250 bytes: of its numbers, its names, its tables of contents, and the checksum itself.

    By torch.load alone, 187 of these 2000 give other numbers, and 600 an error.
    """
    record = saved(tmp_path)
    content = record.checkpoint.read_bytes()
    for position in random.Random(2018).sample(range(len(content)), 250):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            record.checkpoint.write_bytes(flipped)
            with pytest.raises(DamagedCheckpoint, match=r"checkpoint\.pt (was damaged|does not end with a checksum)"):
                record.load_checkpoint()
    record.checkpoint.write_bytes(content)
    found = record.load_checkpoint()
    assert torch.equal(found["network"]["w"], STATE["network"]["w"]) and found["rows"] == STATE["rows"]


@pytest.mark.parametrize("end", [0, 1, 20, 300, -1])
def test_a_checkpoint_that_was_cut_short_is_told(tmp_path, end):
    record = saved(tmp_path)
    record.checkpoint.write_bytes(record.checkpoint.read_bytes()[:end])
    with pytest.raises(DamagedCheckpoint, match="does not end with a checksum"):
        record.load_checkpoint()


def test_a_checkpoint_is_read_by_torch_alone_and_equal_states_have_equal_bytes(tmp_path):
    first, second = saved(tmp_path / "a"), saved(tmp_path / "b")
    assert torch.equal(torch.load(first.checkpoint, weights_only=True)["network"]["w"], STATE["network"]["w"])
    assert first.checkpoint.read_bytes() == second.checkpoint.read_bytes()


def test_the_checkpoint_of_a_finished_run_of_an_earlier_version_is_read(tmp_path):
    """It has no checksum of its own; the manifest has one."""
    record = finished(tmp_path)
    torch.save(STATE, record.checkpoint)
    assert Record(CONFIG, tmp_path).load_checkpoint()["task"] == 1


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("limit", [0, 1, 1000, 10_000, 70_000])
def test_a_disk_that_is_full_keeps_the_checkpoint_before(tmp_path, limit):
    """Wherever the writing fails: in the middle of a file, the operating system takes no more."""
    import resource

    record = saved(tmp_path)
    before = record.checkpoint.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError) as raised:
            record.save_checkpoint({**STATE, "more": torch.zeros(20_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.errno == errno.EFBIG
    assert record.checkpoint.read_bytes() == before and record.load_checkpoint()["task"] == 1
    assert list(record.folder.iterdir()) == [record.checkpoint]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_called_so(tmp_path, monkeypatch):
    record = saved(tmp_path)
    before = record.checkpoint.read_bytes()
    opened = type(record.checkpoint).open
    monkeypatch.setattr(type(record.checkpoint), "open", lambda self, mode: opened("/dev/full", mode))
    with pytest.raises(OSError, match="No space left on device"):
        record.save_checkpoint({**STATE, "more": torch.zeros(20_000)})
    monkeypatch.undo()
    assert record.checkpoint.read_bytes() == before


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
