"""Images with what a network says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from hatlab.figures.style import WIDTH, styled

__all__ = ["labelled_images"]


def labelled_images(images: Any, labels: Mapping[str, Sequence[Any]]) -> Figure:
    """Draw images in a row, and below each of them a line for every entry of `labels`.

    Args:
        images: (n, height, width), bright is ink.
        labels: name of a line -> the n labels on it.

    Raises:
        ValueError: a line that has not as many labels as there are images.
    """
    pictures = np.asarray(images)
    for name, line in labels.items():
        if len(line) != len(pictures):
            raise ValueError(f"'{name}' has {len(line)} labels for {len(pictures)} images")
    with styled():
        size = (WIDTH, 0.6 + 0.2 * len(labels))
        figure, panels = plt.subplots(1, len(pictures) + 2, figsize=size, squeeze=False)
        figure.subplots_adjust(left=0, right=1, top=1, bottom=0.2 * len(labels) / size[1], wspace=0.15)
        for k, axes in enumerate(panels[0]):
            axes.set_axis_off()
            # the names' place, too, so that lines align
            axes.set_box_aspect(pictures.shape[1] / pictures.shape[2])
            if k >= 2:
                axes.imshow(pictures[k - 2], cmap="gray_r")
            for row, (name, line) in enumerate(labels.items()):
                text, place, side = (str(line[k - 2]), 0.5, "center") if k >= 2 else (name, 0.0, "left")
                if k != 1:
                    axes.annotate(
                        text, (place, 0), (0, -11 - 14 * row), xycoords="axes fraction", textcoords="offset points",
                        ha=side, va="center", annotation_clip=False,
                    )  # fmt: skip
    return figure
