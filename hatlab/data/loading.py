"""Images on the device: stored once as uint8, gathered and normalised batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hatlab.data.datasets import Dataset
from hatlab.data.tasks import Task, TaskSequence

__all__ = ["Images", "Split", "TaskData"]


def _put(array: np.ndarray, device: torch.device) -> Tensor:
    """Return `array` as a tensor on `device`. On a CPU they share memory, unless the array is read-only (a memory map),
    which torch does not support.
    """
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


@dataclass(frozen=True, eq=False)
class Images:
    """All images of one or more data sets, for all runs that use them.

    Attributes:
        train, test: (N, C, H, W) uint8, of all data sets, one after the other. On a CPU, those of a single set share
            the memory of its arrays.
        first: for each data set, where its images begin in `train` and in `test`.
        scale, shift: for each data set (C, 1, 1): a normalised pixel is byte * scale - shift.
    """

    train: Tensor
    test: Tensor
    first: tuple[tuple[int, int], ...]
    scale: tuple[Tensor, ...]
    shift: tuple[Tensor, ...]

    @classmethod
    def of(cls, datasets: Sequence[Dataset], device: torch.device) -> Images:
        """Put the images of `datasets`, which are of one shape, on `device`."""
        lengths = [(len(data.x_train), len(data.x_test)) for data in datasets]
        first = np.cumsum([(0, 0), *lengths[:-1]], 0).tolist()
        mean, std = (
            [torch.tensor(values, device=device).reshape(-1, 1, 1) for values in constants]
            for constants in ([data.mean for data in datasets], [data.std for data in datasets])
        )
        train, test = (
            _put(parts[0] if len(parts) == 1 else np.concatenate(parts), device)
            for parts in ([data.x_train for data in datasets], [data.x_test for data in datasets])
        )
        scale, shift = tuple(1 / (255 * s) for s in std), tuple(m / s for m, s in zip(mean, std, strict=True))
        return cls(train, test, tuple(map(tuple, first)), scale, shift)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.train.device


@dataclass(frozen=True, eq=False)
class Split:
    """One task's training, validation or test images.

    Attributes:
        images: (N, C, H, W) uint8, shared by all tasks.
        index: (n,) which of them belong to the split.
        labels: (n,) in 0 .. classes of the task - 1.
        scale, shift: (C, 1, 1): a normalised pixel is byte * scale - shift.
        pixels: (C H W,) order in which the flattened image is read, or None.
    """

    images: Tensor
    index: Tensor
    labels: Tensor
    scale: Tensor
    shift: Tensor
    pixels: Tensor | None

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised images (len(rows), C, H, W), as precise as `scale`, and labels, for `rows` in the split."""
        x = self.images[self.index[rows]].to(self.scale.dtype).mul_(self.scale).sub_(self.shift)
        if self.pixels is not None:
            x = x.flatten(1)[:, self.pixels].reshape(x.shape)
        return x, self.labels[rows]


@dataclass(frozen=True, eq=False)
class TaskData:
    """One task on the device."""

    train: Split
    valid: Split
    test: Split

    @classmethod
    def of(cls, sequence: TaskSequence, images: Images) -> list[TaskData]:
        """Return the tasks of `sequence` in order, over `images`, which are those of its data sets."""
        return [cls(*_splits(task, sequence.datasets[task.dataset], images)) for task in sequence.tasks]


def _splits(task: Task, data: Dataset, images: Images) -> Iterator[Split]:
    (first_train, first_test), device = images.first[task.dataset], images.device
    scale, shift = images.scale[task.dataset], images.shift[task.dataset]
    pixels = None if task.pixels is None else _put(task.pixels, device)
    for stored, first, y, index in (
        (images.train, first_train, data.y_train, task.train),
        (images.train, first_train, data.y_train, task.valid),
        (images.test, first_test, data.y_test, task.test),
    ):
        labels = _put(task.labels_of(y[index]), device)
        yield Split(stored, _put(first + index if first else index, device), labels, scale, shift, pixels)
