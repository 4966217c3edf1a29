"""The gate as a picture: the mask against its embedding, and what annealing makes of it in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from hatlab.attention import gate, slopes
from hatlab.figures.style import WIDTH, styled

__all__ = ["annealed_masks", "gate_curves"]

REACH: Final = 6.0  # of the embeddings: where training clamps them
DASHES: Final[tuple[Any, ...]] = ((0, (1, 1)), (0, (4, 1.5)), "-")


def gate_curves(s: Sequence[float], chosen: tuple[float, float] | None = None) -> Figure:
    """Draw the mask a = sigmoid(s e) against the embedding e, one curve for each slope.

    Args:
        s: at most three slopes, from flat to steep.
        chosen: (s, e) of a unit whose curve and place on it are drawn, too.

    Raises:
        ValueError: more slopes than can be told apart in print, or none.
    """
    if not 1 <= len(s) <= len(DASHES):
        raise ValueError(f"s = {list(s)}: allowed are 1 to {len(DASHES)} slopes")
    e = torch.linspace(-REACH, REACH, 1201)
    with styled():
        figure, axes = plt.subplots(figsize=(WIDTH / 1.5, 2.6), layout="constrained")
        for slope, dashes, shade in zip(s, DASHES, ("0.65", "0.5", "0.35"), strict=False):
            axes.plot(e, gate(e, slope), color=shade, linestyle=dashes, label=f"s = {slope:g}")
        if chosen is not None:
            slope, place = chosen
            mask = float(gate(torch.tensor(place), slope))
            axes.plot(e, gate(e, slope), color="#31688e", linewidth=2)
            label = f"s = {slope:g}, e = {place:g}: a = {mask:.3f}"
            axes.plot(place, mask, "o", color="#31688e", markersize=7, label=label)
        axes.set(xlim=(-REACH, REACH), ylim=(-0.03, 1.03), xlabel="Embedding e", ylabel="Mask a = σ(s e)")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def annealed_masks(e: Sequence[float], s_max: float = 400.0, batches: int = 100, schedule: str = "authors") -> Figure:
    """Draw an epoch: the slope s of every batch (eq. 3), and the masks of units whose embeddings stand still.

    Args:
        e: embeddings, at most six.
        s_max, schedule: see `attention.slopes`.
        batches: of the epoch.

    Raises:
        ValueError: more embeddings than can be told apart, or none; an unknown schedule.
    """
    if not 1 <= len(e) <= 6:
        raise ValueError(f"e = {list(e)}: allowed are 1 to 6 embeddings")
    s = slopes(schedule, s_max, batches, 1)
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.5), layout="constrained")
        x = np.arange(1, batches + 1)
        left.plot(x, s, color="black")
        left.set_ylabel("Slope s")
        masks = gate(torch.tensor(e, dtype=torch.float32), torch.from_numpy(s)[:, None]).numpy()  # (batches, units)
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(e)))
        for k, (value, mask) in enumerate(zip(e, masks.T, strict=True)):
            right.plot(x, mask, color=colors[k], linestyle=DASHES[k % len(DASHES)], label=f"{value:+g}")
        right.set_ylim(-0.03, 1.03)
        right.set_ylabel("Mask a")
        right.legend(title="Embedding e", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        for axes in (left, right):
            axes.set_xlabel("Batch of the epoch")
    return figure
