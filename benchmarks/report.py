"""The table on the terminal, the JSON file, and the figure of the two curves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import Measured, Row

__all__ = ["HEADER", "line", "merge", "plot", "plot_closed", "read", "record", "unmeasured", "write"]

NOISE = 0.1  # cores: with more taken from them, torch's threads wait for each other many times as long as they work
HEADER = f"{'row':<22} {'ratio':>7}  {'95% interval':<16} {'runs':>4}  {'target':<19} {'met':<4}  what"
Record = dict[str, Any]


def record(row: Row, measured: Measured, **more: Any) -> Record:
    """Return a row as it stands in the file."""
    of = measured.ratio
    sides = [
        {"side": name, "median": _short(value), "unit": measured.unit}
        for name, value in zip(measured.sides, of.sides, strict=True)
    ]
    return {
        **_named(row),
        **{"ratio": _short(of.ratio), "low": _short(of.low), "high": _short(of.high), "runs": of.runs},
        **{"target": row.target, "met": row.met(of), "sides": sides},
        **measured.more,
        **more,
    }


def unmeasured(row: Row, why: str) -> Record:
    empty = {"ratio": None, "low": None, "high": None, "runs": 0, "target": row.target, "met": None}
    return {**_named(row), **empty, "why": why}


def _named(row: Row) -> Record:
    return {"name": row.name, "what": row.what, "command": f"python -m benchmarks --only {row.name}"}


def line(row: Record) -> str:
    """Return a row of the table."""
    if row["ratio"] is None:
        return f"{row['name']:<22} {'-':>7}  {'':<16} {'-':>4}  {row['target']:<19} {'-':<4}  {row['why']}"
    met = "yes" if row["met"] else "NO"
    numbers = f"{row['ratio']:>7.3g}  {row['low']:<7.3g} {row['high']:<7.3g}  {row['runs']:>4}"
    sides = " / ".join(f"{side['side']} {side['median']:.3g} {side['unit']}" for side in row["sides"])
    busy = row.get("cores_busy_with_other_work") or 0
    noise = f"; NOISY: other work used {busy:.2g} cores" if busy > NOISE else ""
    return f"{row['name']:<22} {numbers}  {row['target']:<19} {met:<4}  {sides}{noise}"


def merge(order: Iterable[str], old: Iterable[Record], new: Iterable[Record]) -> list[Record]:
    """Return the rows of both in this order, the new one where both have it, without names that are gone."""
    rows = {row["name"]: row for row in (*old, *new)}
    return [rows[name] for name in order if name in rows]


def read(path: Path) -> list[Record]:
    """Return the rows of an earlier file; none if there is no file."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def write(path: Path, machine: Mapping[str, Any], rows: list[Record]) -> None:
    """Replace the file as a whole: whoever stops the program finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def plot(path: Path, machine: Mapping[str, Any], rows: Iterable[Record]) -> None:
    """Draw the cost of one task and of one run against their number, for those rows that have a curve."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [row for row in rows if row.get("seconds")]
    if not curves:
        return
    figure = Figure(figsize=(4 * len(curves), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for row, axes in zip(curves, figure.subplots(1, len(curves), squeeze=False)[0], strict=True):
        counts = [int(count) for count in row["seconds"]]
        axes.plot(counts, [s / n for n, s in zip(counts, row["seconds"].values(), strict=True)], "o-")
        axes.set(xscale="log", xticks=counts, xlabel=f"{row['unit']}s", ylabel=f"seconds per {row['unit']}")
        axes.set_xticks([], minor=True)
        axes.set_xticklabels(map(str, counts))
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.set_title(f"{row['name']}: highest rise {row['ratio']:.2f}", fontsize="medium")
    figure.suptitle(f"{machine['cpu']}, {machine['cores']} cores", fontsize="small")
    figure.savefig(path, dpi=150, metadata={"Software": None})


def plot_closed(path: Path, machine: Mapping[str, Any], rows: Iterable[Record]) -> None:
    """Draw, by epoch, the share of multiplications that was taken and the ratio of times, for rows that have both."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.get("share_by_epoch") and row["sides"][1]["side"] == "computed"]
    if not shown:
        return
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(3.6 * across, 2.8 * down), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False, sharey=True).flat
    for row, axes in zip(shown, grid, strict=False):
        epochs = range(1, len(row["share_by_epoch"]) + 1)
        axes.plot(epochs, row["share_by_epoch"], label="multiplications taken, of all")
        axes.plot(epochs, row["ratio_by_epoch"], label="time, of that with closed units computed")
        for task in range(1, row["tasks"]):
            axes.axvline(task * row["epochs_a_task"] + 0.5, color="0.8", linewidth=0.8, zorder=0)
        axes.set(ylim=(0, 1.1), xlabel="epoch (lines: a new task)")
        axes.set_title(f"{row['name']}: {row['ratio']:.2f}", fontsize="medium")
    for axes in list(grid):
        axes.set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    figure.suptitle(f"{machine['cpu']}, {machine['cores']} cores", fontsize="small")
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _short(value: float) -> float:
    return float(f"{value:.4g}")
