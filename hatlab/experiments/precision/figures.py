"""What the precision of the gate changes: how fast the regularizer closes units, and the capacity curve."""

from __future__ import annotations

from typing import Any, Final

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from hatlab.experiments.capacity_usage.figures import draw, usage_curves
from hatlab.experiments.style import BESIDE, WIDTH, band, headline, seeds_with_band, spread, styled, titled

__all__ = ["active_units", "embeddings", "precision_usage"]

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


def embeddings(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw the embeddings of units while a task is learnt, a panel for each arm: dark where the unit ends open.

    Args:
        table: what `hatlab.experiments.precision.trajectories.embeddings` returns.
        title: what was trained on what.
    """
    with styled():
        arms = list(table["arm"].unique())
        figure, panels = plt.subplots(1, len(arms), figsize=(WIDTH, 2.9), sharey=True, layout="constrained")
        for axes, arm in zip(panels, arms, strict=True):
            e = table[table["arm"] == arm].pivot(index="epoch", columns="unit", values="e")
            for unit in e:
                is_open = e[unit].iloc[-1] > 0
                look = {"color": "#440154", "zorder": 2} if is_open else {"color": "0.7", "zorder": 1}
                axes.plot(e.index, e[unit], linewidth=0.6, **look)
            axes.axhline(0, color="black", linewidth=0.7)
            axes.set_title(f"{LOOKS[arm]['label']}: {(e.iloc[-1] > 0).sum()} of {e.shape[1]} open".replace("\n", " "))
            axes.set_xlim(0, e.index[-1])
            axes.set_xlabel("Epoch of the first task")
        panels[0].set_ylabel("Embedding $e$")
        headline(figure, title, "units of the first layer; dark: open at the end (e > 0)")
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
