import json
import os
import socket
import subprocess
import sys
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatlab.batches.ledger import LOST, Entry, NotebookRun, Status, entries
from hatlab.support.files import write_json
from hatlab.support.provenance import checksum, now

RUN = NotebookRun("n.ipynb", "sha256:1", {"c": 0.5}, {"c": 0.5, "seed": 0}, "0.1.0+0", {"MNIST/a": "md5:1"})


def done(tmp_path, run=RUN):
    """A run with everything in place."""
    entry = Entry(tmp_path, run.run_id)
    entry.describe(run)
    artifacts = {}
    for name in ("a.parquet", "n.ipynb"):
        (entry.folder / name).write_text(name)
        artifacts[name] = checksum(entry.folder / name)
    write_json(entry.manifest, {"artifacts": artifacts})
    entry.write(Status("done", 1, seconds=2.5, manifest=checksum(entry.manifest)))
    return entry


def test_the_id_is_of_all_that_the_outcome_depends_on():
    others = [
        replace(RUN, notebook="m.ipynb"),
        replace(RUN, source="sha256:2"),
        replace(RUN, values={"c": 0.5, "seed": 1}),
        replace(RUN, hatlab="0.1.0+1"),
        replace(RUN, data={"MNIST/a": "md5:2"}),
    ]
    assert len({run.run_id for run in [RUN, *others]}) == 6
    same = replace(RUN, given={}, values={"seed": 0, "c": 0.5})  # what was set by hand, and the order, play no part
    assert same.run_id == RUN.run_id and len(RUN.run_id) == 12


def test_what_was_written_is_read_back(tmp_path):
    entry = done(tmp_path)
    assert entry.read_run() == RUN
    assert entry.status() == entry.written() == Status("done", 1, seconds=2.5, manifest=checksum(entry.manifest))
    assert set(entry.artifacts()) == {"a.parquet", "n.ipynb"}
    assert [found.run_id for found in entries(tmp_path)] == [RUN.run_id]


def test_a_run_nobody_has_heard_of_is_queued(tmp_path):
    entry = Entry(tmp_path, RUN.run_id)
    assert entry.status() == Status("queued") and entry.written() is None and entry.read_run() is None
    assert entry.artifacts() == {} and entries(tmp_path) == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("a.parquet", lambda p: p.unlink(), "a.parquet is missing"),
        ("n.ipynb", lambda p: p.write_text("other"), "n.ipynb was altered"),
        ("manifest.json", lambda p: p.unlink(), "manifest.json is missing"),
        ("manifest.json", lambda p: p.write_text('{"artifacts": {}}'), "manifest.json was altered"),
        ("manifest.json", lambda p: p.write_bytes(p.read_bytes()[:20]), "manifest.json was altered"),
        ("status.json", lambda p: p.write_text("{"), "status.json cannot be read"),
        ("status.json", lambda p: p.write_text("[]"), "status.json cannot be read"),
    ],
)
def test_a_done_run_with_a_damaged_outcome_is_stale(tmp_path, name, damage, reason):
    entry = done(tmp_path)
    damage(entry.folder / name)
    assert (entry.status().state, entry.status().reason) == ("stale", reason)


def test_a_done_run_can_be_had_made_again_but_not_while_somebody_is_at_it(tmp_path):
    entry = done(tmp_path)
    with Entry(tmp_path, RUN.run_id).lock():
        entry.forget()
    assert entry.status().state == "done"
    entry.forget()
    assert entry.status() == Status("queued", 1, "it is made at each call")
    entry.write(Status("failed", reason="x"))
    entry.forget()
    assert entry.status().reason == "x"


def running(tmp_path, **fields):
    """A run whose status says that it is running."""
    entry = Entry(tmp_path, RUN.run_id)
    entry.describe(RUN)
    status = Status("running", 1, heartbeat=now(), host=socket.gethostname(), pid=os.getpid())
    entry.write(replace(status, **fields))
    return entry


def ago(seconds):
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


def test_a_run_is_running_while_its_lock_is_held_whatever_its_process_is_called(tmp_path):
    """In another namespace of processes, a process that runs has a number that nobody here has."""
    entry = running(tmp_path, pid=2**22 + 1)
    with Entry(tmp_path, RUN.run_id).lock():
        assert entry.status() == entry.written()
        entry.write(replace(entry.written(), heartbeat=ago(LOST + 5)))
        assert entry.status().state == "running" and entry.status().reason.startswith("no sign of life for 6")
    assert (entry.status().state, entry.status().reason) == ("killed", "whoever ran it was killed, or could not write")


def test_a_lock_of_another_machine_is_given_time_to_be_seen(tmp_path):
    assert running(tmp_path, host="elsewhere").status().state == "running"
    assert running(tmp_path, host="elsewhere", heartbeat=ago(LOST + 5)).status().state == "killed"


def test_a_run_that_ends_while_it_is_looked_at_is_not_killed(tmp_path, monkeypatch):
    entry, ended = running(tmp_path), done(tmp_path / "other").written()

    def end(self, status, silent):
        done(tmp_path)
        return False

    monkeypatch.setattr(Entry, "_held", end)
    assert entry.status() == ended


def test_a_folder_that_can_only_be_read_is_looked_at_all_the_same(tmp_path, monkeypatch):
    entry = running(tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError("not yours")

    monkeypatch.setattr("hatlab.batches.ledger.FileLock", refuse)
    assert entry.status().state == "running"
    entry.write(replace(entry.written(), heartbeat=ago(LOST + 5)))
    assert entry.status().state == "killed"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = [item.name for kind in (Status, NotebookRun) for item in fields(kind)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=20) | st.dictionaries(st.sampled_from(NAMES), plain).map(json.dumps) | plain.map(json.dumps))
def test_whatever_the_files_hold_a_run_has_a_status(tmp_path, text):
    entry = Entry(tmp_path, RUN.run_id)
    entry.folder.mkdir(parents=True, exist_ok=True)
    for name in ("status.json", "run.json", "manifest.json"):
        (entry.folder / name).write_text(text)
    status = entry.status()
    assert isinstance(status, Status) and isinstance(status.elapsed, float) and isinstance(status.error, dict)
    assert entry.read_run() is None or isinstance(entry.read_run(), NotebookRun)
    assert isinstance(entry.artifacts(), dict)


def test_the_lock_keeps_others_out_until_its_holder_is_gone(tmp_path):
    entry = Entry(tmp_path, RUN.run_id)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom hatlab.batches.ledger import Entry\n"
        "with Entry(Path(sys.argv[1]), sys.argv[2]).lock():\n    print('held', flush=True)\n    time.sleep(300)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path, RUN.run_id], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with entry.lock(wait=0) as held:
            assert not held
    finally:
        holder.kill()
        holder.communicate()
    with entry.lock(wait=60) as held:
        assert held


def test_a_status_of_another_version_is_read_as_far_as_it_is_known(tmp_path):
    entry = Entry(tmp_path, RUN.run_id)
    entry.describe(RUN)
    (entry.folder / "status.json").write_text(json.dumps({"state": "failed", "reason": "x", "mood": "bad"}))
    assert entry.status() == Status("failed", reason="x")
