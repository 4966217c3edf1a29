import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from hatlab.data.cache import cached
from hatlab.data.formats import Images
from hatlab.support import paths

SUMS = {"file": "md5:1"}


def images(value: int = 1) -> Images:
    x = np.full((2, 1, 3, 3), value, np.uint8)
    return Images(x, np.array([0, 1]), x, np.array([0, 1]), ("a", "b"))


def refuse() -> Images:
    raise AssertionError("decoded although there is an entry")


def entries(home: Path) -> list[Path]:
    return sorted((home / "data" / "cache").iterdir())


def test_second_load_comes_from_the_cache(empty_home):
    first = cached("set", SUMS, images)
    second = cached("set", SUMS, refuse)
    assert second.classes == first.classes == ("a", "b")
    for name in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype
    assert [path.suffix for path in entries(empty_home)] == [".npz"]


@pytest.mark.parametrize(("label", "sums"), [("set", {"file": "md5:2"}), ("other", SUMS)])
def test_other_source_is_another_entry(empty_home, label, sums):
    cached("set", SUMS, images)
    assert cached(label, sums, lambda: images(2)).x_train.max() == 2


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty"])
def test_damaged_entry_is_decoded_again_and_replaced(empty_home, harm, caplog):
    cached("set", SUMS, images)
    (entry,) = entries(empty_home)
    content = bytearray(entry.read_bytes())
    if harm == "flip":
        content[content.index(bytes([1] * 18))] ^= 64  # a pixel of x_train
    entry.write_bytes({"truncate": content[: len(content) // 2], "flip": content, "empty": b""}[harm])
    assert cached("set", SUMS, images).x_train.max() == 1
    assert "decoding again" in caplog.text
    assert cached("set", SUMS, refuse).x_train.max() == 1


def test_works_where_nothing_can_be_written(empty_home, caplog):
    (empty_home / "data").write_text("a file where the folder should be")
    assert cached("set", SUMS, images).x_train.max() == 1
    assert "the next run decodes again" in caplog.text


def test_full_disk_leaves_nothing_behind(empty_home, monkeypatch, caplog):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert cached("set", SUMS, images).x_train.max() == 1
    assert "No space left" in caplog.text
    assert entries(empty_home) == []


def fill(home: str, barrier) -> None:
    paths.home = lambda: Path(home)
    for round_ in range(20):
        barrier.wait()
        assert cached("set", {"file": f"md5:{round_}"}, lambda round_=round_: images(round_)).x_train.max() == round_


def test_two_processes_at_once(empty_home):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2, timeout=60)
    workers = [context.Process(target=fill, args=(str(empty_home), barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(entries(empty_home)) == 20
    shutil.rmtree(empty_home / "data")
