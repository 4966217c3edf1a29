"""Images for the rows: real ones where there are some, else random ones of the same size."""

from __future__ import annotations

import struct
from functools import cached_property
from pathlib import Path

import numpy as np

from hatlab.data.datasets import DatasetError, load

__all__ = ["CIFAR", "Images"]

CIFAR = "npz:cifar10-subset/cifar10-subset.npz"


class Images:
    """Data sets by the name that `RunConfig.dataset` takes; `folder` is for those made here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def mnist(self) -> str:
        return self._real("mnist") or self._made("random-28x28", 60_000, 10_000, (28, 28))

    @cached_property
    def cifar(self) -> str:
        return self._real(CIFAR) or self._made("random-32x32", 8_000, 1_000, (32, 32, 3))

    @cached_property
    def part_of_mnist(self) -> str:
        """A quarter of it, for rows that repeat whole sweeps many times."""
        data = load(self.mnist)
        arrays = {"x_train": data.x_train[:15_000, 0], "y_train": data.y_train[:15_000]}
        return self._save(
            f"quarter-of-{data.title}", **arrays, x_test=data.x_test[:2_500, 0], y_test=data.y_test[:2_500]
        )

    @cached_property
    def title(self) -> str:
        """How numbers on `mnist` are labelled; random images are called so."""
        return load(self.mnist).title

    @cached_property
    def cifar_title(self) -> str:
        return load(self.cifar).title

    @cached_property
    def part_title(self) -> str:
        return load(self.part_of_mnist).title

    @cached_property
    def torchvision_root(self) -> Path:
        """A folder in which torchvision finds MNIST, unpacked as it wants it and nothing to download."""
        data, root = load(self.mnist), self.folder / "torchvision"
        raw = root / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for split, x, y in (("train", data.x_train, data.y_train), ("t10k", data.x_test, data.y_test)):
            _write_idx(raw / f"{split}-images-idx3-ubyte", x[:, 0])
            _write_idx(raw / f"{split}-labels-idx1-ubyte", y.astype(np.uint8))
        return root

    def _real(self, name: str) -> str | None:
        try:
            load(name, download=False)
        except DatasetError:
            return None
        return name

    def _made(self, name: str, n_train: int, n_test: int, shape: tuple[int, ...]) -> str:
        rng = np.random.default_rng(0)
        arrays = {}
        for split, n in (("train", n_train), ("test", n_test)):
            arrays[f"x_{split}"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
            arrays[f"y_{split}"] = np.arange(n, dtype=np.int64) % 10
        return self._save(name, **arrays)

    def _save(self, name: str, **arrays: np.ndarray) -> str:
        path = self.folder / f"{name}.npz"
        np.savez(path, **arrays)
        return f"npz:{path}"


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + np.ascontiguousarray(array).tobytes())
