"""What the precision of the gate changes: how fast the regularizer closes units, and the capacity curve."""

from __future__ import annotations

from typing import Any, Final

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from hatlab.experiments.capacity_usage.figures import draw, usage_curves
from hatlab.experiments.style import BESIDE, WIDTH, band, headline, seeds_with_band, spread, styled, titled

__all__ = ["active_units", "precision_usage"]

# told apart by shade and by dashes, so in grey print, too
LOOKS: Final[dict[str, dict[str, Any]]] = {
    "float32": {"label": "float32", "color": "#440154", "linestyle": "-"},
    "float64": {"label": "float64", "color": "#21908d", "linestyle": (0, (4, 1.3))},
    "exact": {"label": "exact\ncompensation", "color": "#5dc863", "linestyle": (0, (1, 0.8))},
}
LEGEND: Final[dict[str, Any]] = {"title": "Gate and gradient", "handlelength": 2.6, **BESIDE}


def active_units(simulated: pd.DataFrame, title: str = "") -> Figure:
    """Draw how many units the regularizer alone leaves open.

    Args:
        simulated: what `hatlab.experiments.precision.tables.simulate` returns.
        title: what was simulated; the number of seeds, and what the band is, are added.
    """
    with styled():
        figure, axes = plt.subplots(figsize=(WIDTH, 2.9), layout="constrained")
        for arm, look in LOOKS.items():
            rows = simulated[simulated["arm"] == arm].pivot(index="seed", columns="epoch", values="active")
            band(axes, rows.columns, spread(rows.to_numpy()), **look)
        axes.set_xlim(0, simulated["epoch"].max())
        axes.set_ylim(0, None)
        axes.set_xlabel("Epoch of the first task")
        axes.set_ylabel("Active units (%)")
        axes.legend(**LEGEND)
        seeds = seeds_with_band([simulated["seed"].nunique()], f"seed {simulated['seed'].iloc[0]}")
        axes.set_title(titled(title, seeds), loc="left")
    return figure


def precision_usage(capacity: pd.DataFrame, title: str = "") -> Figure:
    """Draw capacity usage as Fig. 5 does, of the whole network, one panel per schedule and one curve per arm.

    Args:
        capacity: what `hatlab.experiments.precision.tables.capacity` returns; one data set, c, mode and s_max, any
            seeds.
        title: what was trained on what; c, s_max and the number of seeds are added.

    Raises:
        ValueError: as `usage_curves`.
    """
    schedules = list(capacity["schedule"].unique())
    curves = {name: usage_curves(capacity[capacity["schedule"] == name], by="arm") for name in schedules}
    with styled():
        figure, panels = plt.subplots(
            1, len(schedules), figsize=(WIDTH, 3.1), sharey=True, squeeze=False, layout="constrained"
        )
        for axes, (schedule, of_arms) in zip(panels[0], curves.items(), strict=True):
            draw(axes, of_arms, "arm", LOOKS, ticks=12 // len(schedules))
            axes.set_title(f"schedule: {schedule}")
        panels[0, 0].set_ylabel("Capacity usage (% of weights)")
        figure.supxlabel("Task (each stretched from before its first step to its last epoch)")
        panels[0, -1].legend(**LEGEND)
        c, s_max = capacity[["c", "s_max"]].iloc[0]
        seeds = seeds_with_band(pd.concat(curves.values())["n"])
        headline(figure, title, f"c = {c:g}, $s_\\mathrm{{max}}$ = {s_max:g}; {seeds}")
    return figure
