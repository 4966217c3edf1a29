"""What annealing does to the gradient of the embeddings, and compensation against it: Fig. 2."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hatlab.attention import compensated_gradient, gate, slopes
from hatlab.figures.style import WIDTH, styled

__all__ = ["cumulative_gradients", "gradient_annealing"]


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
        s_max, schedule: of the gate's slope, which goes up from 1/s_max, see `attention.slopes`.
        steps: of the epoch.
        cosh_clamp: as in `attention.compensated_gradient`.
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
    s = torch.from_numpy(slopes(schedule, s_max, steps, 1))[:, None]
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
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)


def _remainder(axes: Axes, gradients: pd.DataFrame) -> None:
    exact, authors = _curve(gradients, "exact"), _curve(gradients, "authors")
    axes.plot(exact["e"], 100 * authors["q"].to_numpy() / exact["q"].to_numpy(), color="black")
    axes.axvline(0, color="0.75", linewidth=0.7, zorder=0)
    for place, label in ((0.22, "inactive\nunits"), (0.78, "active\nunits")):
        axes.annotate(label, (place, 0.97), xycoords="axes fraction", ha="center", va="top")
    axes.set_yscale("log")
    axes.set_ylim(0.5, 130)
    axes.set_yticks([1, 10, 100], ["1", "10", "100"])
    axes.set_ylabel("Compensated gradient in float32\n(% of its exact value)")
