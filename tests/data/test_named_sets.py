from dataclasses import dataclass

import numpy as np
import pytest
from small_sets import trust, write_all

from hatlab.data import named_sets
from hatlab.data.datasets import NAMED, status
from hatlab.data.formats import DatasetError, Images
from hatlab.data.named_sets import Form, NamedSet

SUM = "md5:900150983cd24fb0d6963f7d28e17f72"  # of "abc"


@dataclass(frozen=True, kw_only=True)
class Toy(NamedSet):
    """One file, whose bytes are its labels; "x" is no label."""

    known: str = ""

    def _get(self, missing, download):
        raise DatasetError(f"{missing} cannot be had")

    def expected(self):
        return {"toy": self.known} if self.known else {}


def read_toy(path):
    y = np.frombuffer(path.read_bytes(), np.uint8)
    if (y == ord("x")).any():
        raise DatasetError(f"{path} holds an x")
    return Images(y, y, y, y, ("a",))


def toy(tmp_path, content=b"abc", known="", size=None):
    place = tmp_path / "toy"
    if content is not None:
        place.write_bytes(content)
    files = {} if size is None else {"toy": size}
    forms = (Form({"toy": str(place)}, read_toy, "Toy"),)
    return Toy(name="toy", title="Toy", files=files, forms=forms, mean=None, std=None, known=known)


def test_what_cannot_be_had_is_not_fetched(tmp_path):
    with pytest.raises(DatasetError, match=r"toy.* cannot be had"):
        toy(tmp_path, None).fetch()


def test_a_file_is_compared_before_it_is_decoded(tmp_path):
    item = toy(tmp_path, b"abx", known=SUM)
    files = item.fetch()
    with pytest.raises(DatasetError, match=rf"truncated or altered: expected {SUM}, found md5:.* \(3 bytes\)"):
        item.decode(files, item.checksums(files))
    assert toy(tmp_path, b"abc", known=SUM).checksums(files) == {"toy": SUM}
    assert item.decode(files, item.checksums(files)).y_test.tobytes() == b"abc"


@pytest.mark.parametrize(
    ("content", "known", "ok", "problem"),
    [
        (b"abc", SUM, True, ""),
        (b"abd", SUM, False, "truncated or altered"),
        (b"abd", "", True, ""),
        (b"abx", "", False, "holds an x"),
        (None, "", False, "missing"),
        (None, SUM, False, "missing"),
    ],
)
def test_what_has_no_known_checksum_is_decoded(tmp_path, content, known, ok, problem):
    (check,) = toy(tmp_path, content, known).verify()
    assert (check.ok, check.expected) == (ok, known) and problem in check.problem and bool(check.problem) is not ok
    assert check.found.startswith("md5:" if content else "")


@pytest.mark.parametrize(
    ("content", "size", "state", "shown"),
    [(b"abc", 3, "ready", 3), (b"abc", None, "ready", 3), (b"ab", 3, "damaged", 2), (None, 3, "missing", 3)],
)
def test_state_is_judged_by_presence_and_size(tmp_path, monkeypatch, content, size, state, shown):
    monkeypatch.setattr(named_sets, "checksum", None)
    found = toy(tmp_path, content, size=size).status()
    assert (found.state, found.size) == (state, shown)
    assert found.where == str(tmp_path) or state == "missing"


def test_the_papers_eight_sets_are_all_there(empty_home, monkeypatch):
    write_all(empty_home / "data")
    trust(monkeypatch)
    assert [item.name for item in status()] == ["digits", *NAMED]
    assert {item.name: item.state for item in status()}["facescrub"] == "ready"
    assert all(check.ok for item in NAMED.values() for check in item.verify())
