"""Files appear whole or not at all."""

import json
import os
import stat

import pandas as pd
import pytest

from hatlab.support.files import atomic, remove_leftovers, write_json, write_table

TABLE = pd.DataFrame({"run": ["a", "a"], "value": [1.5, float("nan")]})


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_process_leaves_is_removed_and_nothing_else(tmp_path):
    left = []
    for name in ("t.parquet", "a.b.csv", "noending"):
        with atomic(tmp_path / name) as temporary:
            temporary.write_text("half")
            left.append(temporary)
    for temporary in left:
        temporary.write_text("half")
    kept = {"t.parquet", "a.b.csv", "noending", ".hidden", ".lock.json"}
    for name in kept:
        (tmp_path / name).write_text("whole")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_results_can_be_read_by_those_whom_the_umask_lets(tmp_path):
    old = os.umask(0o022)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644


def test_json_is_what_every_reader_takes(tmp_path):
    """JSON has no word for NaN; what Python writes for it, other readers refuse."""

    def refuse(word):
        raise AssertionError(word)

    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (-float("inf"), "NaN")}})
    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert content == {"a": None, "b": [1.5, None], "c": {"d": [None, "NaN"]}}


def test_equal_tables_have_equal_bytes(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_table(tmp_path / name, "t", TABLE.copy())
    for ending in ("parquet", "csv"):
        assert (tmp_path / f"first/t.{ending}").read_bytes() == (tmp_path / f"second/t.{ending}").read_bytes()
