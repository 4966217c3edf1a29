"""Files that are known by their arrays: however they are packed, and not when a byte is another."""

import numpy as np
import pytest

from hatlab.data import known_parts
from hatlab.data.datasets import load, verify
from hatlab.data.formats import read_npz
from hatlab.data.known_parts import KnownPart, arrays_checksum


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A file of ten images, which is known."""
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), "y_train": np.arange(6) % 2,
        "x_test": rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8), "y_test": np.arange(4) % 2,
    }  # fmt: skip
    np.savez(tmp_path / "part.npz", **arrays)
    digest = arrays_checksum(read_npz(tmp_path / "part.npz"))
    monkeypatch.setitem(known_parts.KNOWN, digest, KnownPart("SVHN (ten images)", "svhn", ("even", "odd")))
    return arrays, digest


def test_the_same_arrays_are_known_however_they_are_packed(known, tmp_path):
    arrays, digest = known
    np.savez_compressed(tmp_path / "packed.npz", more=np.zeros(3), **arrays)
    for name in ("part", "packed"):
        data = load(f"npz:{tmp_path / name}.npz")
        assert (data.title, data.classes) == ("SVHN (ten images)", ("even", "odd"))
        assert (data.mean, data.std) == ((0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197))
        assert list(data.checksums.values()) == [digest]
        (check,) = verify(f"npz:{tmp_path / name}.npz")
        assert check.ok and check.found == check.expected == digest


def test_one_other_pixel_or_label_and_it_is_not(known, tmp_path):
    arrays, digest = known
    for name in arrays:
        other = {**arrays, name: arrays[name].copy()}
        other[name].flat[0] ^= 1
        np.savez(tmp_path / "other.npz", **other)
        data = load(f"npz:{tmp_path / 'other.npz'}")
        assert data.title == "other" and digest not in data.checksums.values()
        (check,) = verify(f"npz:{tmp_path / 'other.npz'}")
        assert check.ok and check.expected == ""
