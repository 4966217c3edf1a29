"""Images on the device: held once as uint8, gathered and normalised batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hatlab.data.datasets import Dataset
from hatlab.data.tasks import TaskSequence

__all__ = ["Images", "Split", "TaskData"]


def _put(array: np.ndarray, device: torch.device) -> Tensor:
    """On a CPU the tensor is the array, unless that is read-only (a memory map), which torch has no notion of."""
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


@dataclass(frozen=True, eq=False)
class Images:
    """All images of one or more data sets, for all runs that use them.

    Attributes:
        train, test: (N, C, H, W) uint8, of all data sets, one after the other. On a CPU, of one set, they are the
            arrays of that set and no copy.
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
        scales, shifts = [], []
        for data in datasets:
            mean, std = (torch.tensor(values, device=device).reshape(-1, 1, 1) for values in (data.mean, data.std))
            scales.append(1 / (255 * std))
            shifts.append(mean / std)
        train, test = (
            _put(parts[0] if len(parts) == 1 else np.concatenate(parts), device)
            for parts in ([data.x_train for data in datasets], [data.x_test for data in datasets])
        )
        return cls(train, test, tuple(map(tuple, first)), tuple(scales), tuple(shifts))

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
        """Return normalised images (len(rows), C, H, W) float32 and labels, for positions `rows` in the split."""
        x = self.images[self.index[rows]].to(torch.float32).mul_(self.scale).sub_(self.shift)
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

        device = images.device
        tasks = []
        for task in sequence.tasks:
            data, (first_train, first_test) = sequence.datasets[task.dataset], images.first[task.dataset]
            scale, shift = images.scale[task.dataset], images.shift[task.dataset]
            order = _put(task.pixels, device) if task.pixels is not None else None
            splits = (
                Split(
                    held,
                    _put(first + index if first else index, device),
                    _put(task.labels_of(y[index]), device),
                    scale,
                    shift,
                    order,
                )
                for held, first, y, index in (
                    (images.train, first_train, data.y_train, task.train),
                    (images.train, first_train, data.y_train, task.valid),
                    (images.test, first_test, data.y_test, task.test),
                )
            )
            tasks.append(cls(*splits))
        return tasks
