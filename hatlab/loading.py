"""Images on the device: held once as uint8, gathered and normalised batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hatlab.tasks import TaskSequence

__all__ = ["Split", "TaskData"]


@dataclass(frozen=True, eq=False)
class Split:
    """One task's training, validation or test images.

    Attributes:
        images: (N, C, H, W) uint8, the whole data set, shared by all splits of it.
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
    def of(cls, sequence: TaskSequence, device: torch.device) -> list[TaskData]:
        """Put all data sets of `sequence` on `device`, once, and return its tasks in order."""

        def put(array: np.ndarray) -> Tensor:
            # a memory-mapped cache is read-only, which torch has no notion of
            return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)

        held = []
        for data in sequence.datasets:
            mean, std = (torch.tensor(values, device=device).reshape(-1, 1, 1) for values in (data.mean, data.std))
            held.append((put(data.x_train), put(data.x_test), 1 / (255 * std), mean / std))
        tasks = []
        for task in sequence.tasks:
            data, (x_train, x_test, scale, shift) = sequence.datasets[task.dataset], held[task.dataset]
            pixels = put(task.pixels) if task.pixels is not None else None
            splits = (
                Split(images, put(index), put(task.labels_of(y[index])), scale, shift, pixels)
                for images, y, index in (
                    (x_train, data.y_train, task.train),
                    (x_train, data.y_train, task.valid),
                    (x_test, data.y_test, task.test),
                )
            )
            tasks.append(cls(*splits))
        return tasks
