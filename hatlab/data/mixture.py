"""The paper's mixture: each task is a whole data set, and all images are 3x32x32."""

from __future__ import annotations

import re

import numpy as np

from hatlab.config import nearest
from hatlab.data.formats import DatasetError

__all__ = ["CONSTANTS", "MEMBERS", "check_member", "is_mixture", "members", "to_shape"]

# Section 4 of the paper, in the order of the authors' code (hat/src/dataloaders/mixture.py)
MEMBERS = ("cifar10", "cifar100", "mnist", "svhn", "fashion_mnist", "gtsrb", "facescrub", "notmnist")
SHAPE = (3, 32, 32)
PREFIX = "mixture:"

# The authors' mean and standard deviation of the grey sets at 32x32. Other sets keep their own constants.
CONSTANTS = {"mnist": (0.1, 0.2752), "fashion_mnist": (0.2190, 0.3318), "notmnist": (0.4254, 0.4501)}


def is_mixture(dataset: str) -> bool:
    """Return whether `dataset`, the field of `RunConfig` or the name of a set, names a mixture or a member of one."""
    return dataset == PREFIX[:-1] or dataset.startswith(PREFIX)


def members(dataset: str) -> tuple[str, ...]:
    """Return the names of the sets in a mixture: all eight, or those after "mixture:".

    A ',' separates two names only if a name follows it, so a PATH may hold one ("npz:a,b.npz" is one name).
    """
    if dataset == PREFIX[:-1]:
        return MEMBERS
    return tuple(re.split(r",(?=npz:|folder:|\w+(?:,|$))", dataset.removeprefix(PREFIX)))


def check_member(name: str) -> None:
    """Refuse a data set that cannot be a member of a mixture.

    Raises:
        DatasetError: for such a set; the message lists the sets that can.
    """
    allowed = [*MEMBERS, "npz:PATH", "folder:PATH"]
    if name not in MEMBERS and not name.startswith(("npz:", "folder:")):
        raise DatasetError(
            f"'{name}' cannot be part of a mixture{nearest(name, allowed)} (allowed, separated by ',': "
            f"{', '.join(allowed)})"
        )


def to_shape(x: np.ndarray, name: str) -> np.ndarray:
    """Return images (N, C, H, W) of the set `name` as (N, 3, 32, 32), all uint8.

    28x28 gets 2 zeros on each side; notMNIST is resized instead, as the authors did. Grey gives three equal channels.

    Raises:
        DatasetError: images that are neither 28x28 nor 32x32.
    """
    if x.shape[1:] == SHAPE:
        return x
    height, width = x.shape[2:]
    if (height, width) not in ((28, 28), (32, 32)):
        raise DatasetError(f"'{name}' has images of {width}x{height}; allowed in a mixture: 28x28 or 32x32")
    if name == "notmnist":
        x = _resized(x)
    edge = (32 - x.shape[2]) // 2
    framed = np.zeros((len(x), *SHAPE), np.uint8)
    framed[:, :, edge : 32 - edge, edge : 32 - edge] = x
    return framed


def _resized(x: np.ndarray) -> np.ndarray:
    from PIL import Image

    size, kind = (32, 32), Image.Resampling.LANCZOS  # the authors' "antialias"
    return np.stack([np.asarray(Image.fromarray(image[0]).resize(size, kind)) for image in x])[:, None]
