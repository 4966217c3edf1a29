"""Local files that are known by their arrays: CIFAR-10 and parts of public sets, and what results call them.

The checksum is of the arrays, since two releases of NumPy or zlib pack the same arrays into other bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np

from hatlab.data.formats import Images
from hatlab.data.public_sets import PUBLIC_SETS

__all__ = ["KNOWN", "KnownPart", "arrays_checksum"]

CIFAR10_CLASSES: Final = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip


@dataclass(frozen=True)
class KnownPart:
    """A file's title in every result, the public set whose constants it has, and its classes (None: their numbers)."""

    title: str
    of: str
    classes: tuple[str, ...] | None = None

    @property
    def constants(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return (mean, std), those of the whole set."""
        whole = PUBLIC_SETS[self.of]
        assert whole.mean is not None and whole.std is not None
        return whole.mean, whole.std


KNOWN: Final = {
    f"sha256:{digest}": part
    for digest, part in {
        "63b8abd852d76079f2a9dc3622b804a95d440a479584f2ea070db019f806cb92": KnownPart(
            "CIFAR-10 (59,896 of 60,000 official pixels)", "cifar10", CIFAR10_CLASSES
        ),
        "edfd3e68d1438cf3a0fa996e53211bd86743830fb6d084ed8ac089cc7755c3dc": KnownPart(
            "CIFAR-10 (subset of 8,068)", "cifar10", CIFAR10_CLASSES
        ),
        "175ba4f23c2ab0a673dab2f3e9169d14f7e3da69b318fec38701d97994f012c7": KnownPart(
            "SVHN (10,000 test images)", "svhn"
        ),
        "2b01424fc33ff0ddd2b32457d908a441420b59dc6b56f9f8c7e777880d2ff1c0": KnownPart(
            "GTSRB (3,920 of 39,209)", "gtsrb"
        ),
    }.items()
}


def arrays_checksum(images: Images) -> str:
    """Return "sha256:<hexadecimal digest>" of names, types, shapes and bytes of the four arrays."""
    digest = hashlib.sha256()
    for name in ("x_train", "y_train", "x_test", "y_test"):
        array = getattr(images, name)
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"
