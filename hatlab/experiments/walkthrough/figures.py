"""Figures of the walkthrough: gates and their annealing, the gradient of embeddings, masks, and labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from hatlab.experiments.style import GUIDE, WIDTH, styled
from hatlab.method.gate import compensated_gradient, gate, s_schedule

__all__ = [
    "annealed_masks",
    "counted_units",
    "cumulative_gradients",
    "gate_curves",
    "gradient_annealing",
    "gradient_factors",
    "labelled_images",
    "mask_overlap",
]

REACH: Final = 6.0  # of the embeddings: where training clamps them
DASHES: Final[tuple[Any, ...]] = ((0, (1, 1)), (0, (4, 1.5)), "-")

CELL: Final = 0.36  # inches
SHADES: Final = sns.light_palette("#31688e", as_cmap=True)
# from light to dark, so that they are told apart in grey, too
OVERLAP: Final = {"neither": "#f2f2f2", "first": "#a8db34", "second": "#35a08b", "both": "#3b2a6e"}


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
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def annealed_masks(e: Sequence[float], s_max: float = 400.0, batches: int = 100, schedule: str = "authors") -> Figure:
    """Draw an epoch: the slope s of every batch (eq. 3), and the masks of units whose embeddings stand still.

    Args:
        e: embeddings, at most six.
        s_max, schedule: see `gate.s_schedule`.
        batches: of the epoch.

    Raises:
        ValueError: more embeddings than can be told apart, or none; an unknown schedule.
    """
    if not 1 <= len(e) <= 6:
        raise ValueError(f"e = {list(e)}: allowed are 1 to 6 embeddings")
    s = s_schedule(schedule, s_max, batches, 1)
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
        right.legend(title="Embedding e", loc="center left", bbox_to_anchor=(1, 0.5))
        for axes in (left, right):
            axes.set_xlabel("Batch of the epoch")
    return figure


def cumulative_gradients(
    s_max: float = 400.0,
    steps: int = 500,
    schedule: str = "authors",
    cosh_clamp: float = 50.0,
    points: int = 1201,
    reach: float = 6.0,
) -> pd.DataFrame:
    """Return the gradient that an embedding sums up over an epoch (section 2.5), for embeddings that stand still.

    The gradient of the mask is taken as 1 in every step, so q(e) is the sum over the steps of what a unit with the
    embedding e gets, in float32 as in training.

    Args:
        s_max, schedule: of the gate's slope, which goes up from 1/s_max, see `gate.s_schedule`.
        steps: of the epoch.
        cosh_clamp: as in `gate.compensated_gradient`.
        points: values of e, evenly spaced in [-reach, reach]; an odd number, so that 0 is among them.
        reach: largest |e|; 6 is where training clamps it.

    Returns:
        One row per curve and point: `curve`, `e`, `q`, and `share`: q over the largest q of the curve. The curves are
        "s = 1" and "s = s_max", a slope that stands still; "annealed", the slope of each step; "authors", annealed and
        compensated as the authors do it; "exact", annealed and compensated by the analytic form.

    Raises:
        ValueError: no steps, points that are not odd or fewer than 3, a reach that is not positive, or an unknown
            schedule.
    """
    if steps < 1 or points < 3 or points % 2 == 0 or reach <= 0:
        raise ValueError(
            f"steps = {steps}, points = {points}, reach = {reach:g}: allowed are steps of at least 1, an odd number of "
            "points from 3 on, and a reach above 0"
        )
    e = torch.from_numpy(np.linspace(-reach, reach, points)).to(torch.float32)
    s = torch.from_numpy(s_schedule(schedule, s_max, steps, 1))[:, None]
    curves = {
        "s = 1": steps * _derivative(e, torch.ones(1, 1)),
        "s = s_max": steps * _derivative(e, torch.full((1, 1), float(s_max))),
        "annealed": _derivative(e, s),
    }
    for form in ("authors", "exact"):
        each = e.expand(steps, points)
        mask = gate(each, s)
        gradient = compensated_gradient(torch.ones_like(mask), mask, each, s, s_max, form, cosh_clamp)
        curves[form] = gradient.sum(0, dtype=torch.float64)
    frames = []
    for curve, q in curves.items():
        values = q.numpy().astype(np.float64)
        frames.append(pd.DataFrame({"curve": curve, "e": e.numpy(), "q": values, "share": values / values.max()}))
    return pd.concat(frames, ignore_index=True)


def _derivative(e: Tensor, s: Tensor) -> Tensor:
    """Sum over the slopes (steps, 1) of the mask's derivative by e, as autograd has it; (points,) float64."""
    each = e.expand(len(s), len(e)).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gate(each, s).sum(), each)
    return gradient.sum(0, dtype=torch.float64)


def gradient_annealing(gradients: pd.DataFrame, s_max: float = 400.0) -> Figure:
    """Draw the paper's Fig. 2: the gradient that an embedding e sums up over an epoch, against e.

    Left: each curve over its largest value; the axis is logarithmic, for at a slope of 400 there is hardly a gradient
    beyond |e| = 0.05. Right: what float32 leaves of the compensated gradient. An inactive unit (e < 0) has all of it
    until |s e| reaches the clamp inside cosh, an active one (e > 0) only until its mask rounds to 1.

    Args:
        gradients: what `cumulative_gradients` returns.
        s_max: that it was given.
    """
    with styled():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(WIDTH, 2.9), layout="constrained", gridspec_kw={"width_ratios": [1.5, 1]}
        )
        _shapes(left, gradients, s_max)
        _remainder(right, gradients)
        for axes in (left, right):
            axes.set_xlim(gradients["e"].min(), gradients["e"].max())
            axes.set_xlabel("Embedding $e$")
    return figure


def _curve(gradients: pd.DataFrame, name: str) -> pd.DataFrame:
    return gradients[gradients["curve"] == name]


def _shapes(axes: Axes, gradients: pd.DataFrame, s_max: float) -> None:
    middle, light = plt.get_cmap("viridis")([0.45, 0.8])
    for name, label, style in (
        ("s = 1", "$s = 1$", {"color": "0.75", "linewidth": 5}),
        ("exact", "annealed, compensated", {"color": "black", "linestyle": (0, (4, 2))}),
        ("annealed", "annealed, not compensated", {"color": middle}),
        ("s = s_max", f"$s = s_\\mathrm{{max}} = {s_max:g}$", {"color": light, "linestyle": (0, (1, 1))}),
    ):
        curve = _curve(gradients, name)
        axes.plot(curve["e"], curve["share"].where(curve["share"] > 0), label=label, **style)
    axes.set_yscale("log")
    axes.set_ylim(1e-7, 2)
    axes.set_ylabel("Gradient of an epoch, $q$\n(share of the curve's largest)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def _remainder(axes: Axes, gradients: pd.DataFrame) -> None:
    exact, authors = _curve(gradients, "exact"), _curve(gradients, "authors")
    axes.plot(exact["e"], 100 * authors["q"].to_numpy() / exact["q"].to_numpy(), color="black")
    axes.axvline(0, **GUIDE)
    for place, label in ((0.22, "inactive\nunits"), (0.78, "active\nunits")):
        axes.annotate(label, (place, 0.97), xycoords="axes fraction", ha="center", va="top")
    axes.set_yscale("log")
    axes.set_ylim(0.5, 130)
    axes.set_yticks([1, 10, 100], ["1", "10", "100"])
    axes.set_ylabel("Compensated gradient in float32\n(% of its exact value)")


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


def _grid(axes: Any, values: np.ndarray, **how: Any) -> None:
    look: dict[str, Any] = {"cmap": SHADES, "vmin": 0, "vmax": 1, "cbar": False, "square": True, "linewidths": 1.5}
    sns.heatmap(values, ax=axes, annot=True, fmt="g", annot_kws={"fontsize": 7.5}, **{**look, **how})
    axes.tick_params(length=0)


def gradient_factors(a: Sequence[float], b: Sequence[float]) -> Figure:
    """Draw what the gradient of every weight between two layers is multiplied by: 1 - min(b_i, a_j) (eq. 2).

    Args:
        a: cumulative mask of the layer that is read, (columns,).
        b: the same of the layer that reads it, (rows,).
    """
    columns, rows = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    factors = 1 - np.minimum.outer(rows, columns)
    with styled():
        size = (1.6 + CELL * len(columns), 1.1 + CELL * len(rows))
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        _grid(axes, factors.round(2))
        axes.set_xticklabels([f"{value:g}" for value in columns])
        axes.set_yticklabels([f"{value:g}" for value in rows], rotation=0)
        axes.set_xlabel("Cumulative mask of the unit j that is read")
        axes.set_ylabel("Cumulative mask of the unit i that reads")
        axes.set_title("The weight's gradient is multiplied by", loc="left")
    return figure


def counted_units(p: Sequence[float], m: Sequence[float]) -> Figure:
    """Draw two masks over the same units, and the products that the regularizer sums (section 2.6).

    Args:
        p: cumulative mask of the tasks before, (units,).
        m: mask of the current task, (units,).

    Raises:
        ValueError: masks of different lengths.
    """
    if len(p) != len(m):
        raise ValueError(f"p has {len(p)} units and m has {len(m)}: both are masks over the same units")
    before, now = np.asarray(p, dtype=float), np.asarray(m, dtype=float)
    table = {
        "p: used by earlier tasks": before,
        "m: wanted by this task": now,
        "1 − p: free": 1 - before,
        "m (1 − p): newly taken": now * (1 - before),
        "m p: reused": now * before,
    }
    with styled():
        figure, axes = plt.subplots(figsize=(3.6 + CELL * len(before), 0.5 + CELL * len(table)), layout="constrained")
        _grid(axes, np.stack(list(table.values())).round(2))
        axes.set_yticklabels([f"{name}   sum {values.sum():g}" for name, values in table.items()], rotation=0)
        axes.set_xticklabels([f"unit {k}" for k in range(1, len(before) + 1)], rotation=45)
    return figure


def mask_overlap(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], names: tuple[str, str], threshold: float = 0.5
) -> Figure:
    """Draw the units of every layer as squares: in the mask of one task, of the other, of both, or of neither.

    Args:
        first, second: layer name -> (units,), the masks of two tasks.
        names: of the two tasks.
        threshold: above it a unit is in a mask.
    """
    colors = ListedColormap(list(OVERLAP.values()))
    with styled():
        figure, panels = plt.subplots(
            1, len(first), figsize=(WIDTH, 0.9 + WIDTH / len(first) / 2), squeeze=False, layout="constrained"
        )
        counts = np.zeros(4, dtype=int)
        for axes, (layer, mask) in zip(panels.flat, first.items(), strict=True):
            kinds = (mask > threshold) + 2 * (second[layer] > threshold)
            counts += np.bincount(kinds, minlength=4)
            rows = -(-len(kinds) // max(1, round((2 * len(kinds)) ** 0.5)))
            cells = np.full(rows * -(-len(kinds) // rows), np.nan)
            cells[: len(kinds)] = kinds
            axes.pcolormesh(
                np.ma.masked_invalid(cells.reshape(rows, -1)), cmap=colors, vmin=-0.5, vmax=3.5, edgecolors="white"
            )
            axes.set(aspect="equal", xticks=[], yticks=[], title=f"{layer}: {len(kinds)} units")
            axes.invert_yaxis()
            axes.spines[:].set_visible(False)
        labels = ("neither", f"only {names[0]}", f"only {names[1]}", "both")
        figure.legend(
            [Patch(color=color) for color in OVERLAP.values()],
            [f"{label} ({count})" for label, count in zip(labels, counts, strict=True)],
            loc="outside lower center", ncols=4,
        )  # fmt: skip
    return figure
