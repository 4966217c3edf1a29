"""What a batch came to: its runs, what failed and why, what it was made with, and when.

All is taken from the disk, and checked (`Batch.statuses`): a report of a batch that is still running is true, too.
"""

from __future__ import annotations

import json
from typing import Any, Final

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from hatlab.batches import causes, cost
from hatlab.batches.collecting import Collected
from hatlab.batches.compare import Compared
from hatlab.batches.ledger import NotebookRun
from hatlab.batches.plans import Batch
from hatlab.experiments.capacity_usage.figures import capacity_usage
from hatlab.experiments.style import styled
from hatlab.support.tables import scalar

__all__ = ["capacity_figures", "differences", "failures", "runs", "timeline", "versions"]

# differ in shade and in hatching, so that they can be told apart in grey print
LOOKS: Final[dict[str, dict[str, Any]]] = {
    "done": {"color": "#31688e"},
    "failed": {"color": "#fde725", "hatch": "////"},
    "killed": {"color": "#b5b5b5", "hatch": "xxxx"},
    "timed out": {"color": "#e8e8e8", "hatch": "...."},
    "stale": {"color": "#90d743", "hatch": "----"},
    "running": {"color": "#ffffff"},
}


def runs(batch: Batch) -> pd.DataFrame:
    """Return one row per run: `run`, the parameters that vary, `state`, `reason`, `attempt`, `seconds`, `cpu_seconds`,
    `memory_gb` (most that was seen), `host`, `started`, `ended`. A parameter with one of these names is called
    `parameter_<name>`."""
    statuses = batch.statuses()
    rows = []
    for run in batch.runs:
        status = statuses[run.run_id]
        columns = {
            "run": run.run_id,
            "state": status.state,
            "reason": status.reason.partition("\n")[0],
            "attempt": status.attempt,
            "seconds": status.seconds,
            "cpu_seconds": status.cpu,
            "memory_gb": round(status.memory / 1e9, 2),
            "host": status.host,
            "started": status.started or None,
            "ended": status.ended or None,
        }
        rows.append(cost.telling(batch, run, list(columns)) | columns)
    table = pd.DataFrame(rows)
    for column in ("started", "ended"):
        table[column] = pd.to_datetime(table[column], utc=True)
    return table


def failures(batch: Batch) -> str:
    """Return what went wrong, as text: by cause, with a command that repeats one run of it; below, for each run that
    did not end well, its parameters, reason and traceback. "" where all is well."""
    statuses = batch.statuses()
    parts = causes.lines(batch, causes.causes(batch, statuses))
    parts += [""] if parts else []
    for run in batch.runs:
        status = statuses[run.run_id]
        if status.state in ("done", "queued", "running"):
            continue
        values = ", ".join(f"{name} = {scalar(value)}" for name, value in batch.telling(run).items())
        parts.append(f"{run.run_id} ({values}): {status.state}: {status.reason}")
        if traceback := status.error.get("traceback"):
            parts.append("\n".join(f"    {line}" for line in traceback.splitlines()))
    return "\n".join(parts)


def versions(batch: Batch) -> pd.DataFrame:
    """Return with what the runs that are done were made: one row per `what` and `value`, with the number of `runs`.

    More than one row of one `what` says that the batch is not of one piece. "trained by" is the version of hatlab in
    the training runs that a notebook used, some of which may be older.
    """
    found: dict[tuple[str, str], set[str]] = {}

    def note(run: NotebookRun, what: str, value: Any) -> None:
        found.setdefault((what, str(value)), set()).add(run.run_id)

    for run in batch.runs:
        entry = batch.entry(run)
        if entry.status().state != "done":
            continue
        manifest = json.loads(entry.manifest.read_text(encoding="utf-8"))
        note(run, "notebook", manifest["notebook"]["checksum"][:19])
        note(run, "hatlab", run.hatlab)
        for name, value in manifest["versions"].items():
            if name != "hatlab":
                note(run, name, value)
        note(run, "machine", f"{manifest['host']}, {manifest['platform']['system']} {manifest['platform']['machine']}")
        for name, value in manifest.get("data", {}).items():
            note(run, f"data: {name}", value[:19])
        for trained in manifest.get("runs", []):
            for session in trained["sessions"]:
                commit = (session.get("git", {}).get("commit") or "no commit")[:12]
                note(run, "trained by", f"{session['versions']['hatlab']}, {commit}, {session['device']}")
    rows = [{"what": what, "value": value, "runs": len(ids)} for (what, value), ids in found.items()]
    return pd.DataFrame(rows, columns=["what", "value", "runs"])


def timeline(table: pd.DataFrame) -> Figure:
    """Draw when each run was under way: a bar for each, in the order in which they started.

    Args:
        table: what `runs` returns.
    """
    begun = table.dropna(subset=["started"]).sort_values("started", ignore_index=True)
    if begun.empty:
        return _words("No run of the batch has started.")
    first = begun["started"].min()
    start = (begun["started"] - first).dt.total_seconds()
    unit, size = _unit(float((start + begun["seconds"]).max()))
    with styled():
        figure, axes = plt.subplots(figsize=(7.1, min(7.0, 1.2 + 0.09 * max(len(begun), 8))), layout="constrained")
        for state, look in LOOKS.items():
            chosen = begun["state"] == state
            if chosen.any():
                axes.barh(
                    begun.index[chosen],
                    begun.loc[chosen, "seconds"] / size,
                    left=start[chosen] / size,
                    height=0.8,
                    edgecolor="0.25",
                    linewidth=0.4,
                    label=f"{state} ({chosen.sum()})",
                    **look,
                )
        axes.invert_yaxis()
        axes.set_yticks([])
        axes.set_ylabel(f"{len(begun)} runs, by start")
        axes.set_xlabel(f"Time since the first start ({unit})")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def differences(compared: Compared) -> Figure:
    """Draw each outcome that differs between two sides: second minus first in percent of the first's mean, with its
    95% interval; outcomes whose mean is 0 on the first side have no percentage, and are left out."""
    rows = compared.outcomes[compared.outcomes["first"] != 0]
    if rows.empty:
        return _words("No outcome differs in a pair, or none that has a percentage.")
    share = 100 / rows["first"].astype(float).abs()
    low, mean, high = (rows[name].astype(float) * share for name in ("low", "mean", "high"))
    with styled():
        figure, axes = plt.subplots(figsize=(7.1, 1.0 + 0.28 * len(rows)), layout="constrained")
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.hlines(range(len(rows)), low, high, color="0.3")
        axes.plot(mean, range(len(rows)), "o", markersize=4, color="#31688e")
        labels = [f"{row.table}.{row.outcome} (n = {row.n})" for row in rows.itertuples()]
        axes.set_yticks(range(len(rows)), labels, parse_math=False)
        axes.invert_yaxis()
        axes.set_xlabel("Second minus first (% of the first's mean)")
    return figure


def capacity_figures(collected: Collected, batch: Batch) -> dict[str, Figure]:
    """Draw the capacity curves of a batch whose notebook leaves a table `capacity`: name -> figure, one for each
    combination of the parameters that vary, but for c and seed, which a figure holds all of.

    Empty where there is no such table. Where its rows make no curves, the figure says why.
    """
    table = collected.tables.get("capacity")
    if table is None:
        return {}
    names = [
        column
        for name in batch.varied
        if name not in ("c", "seed")
        for column in (f"parameter_{name}", name)
        if column in table
    ]
    names = list(dict.fromkeys(name for name in names if f"parameter_{name}" not in table))
    if not names:
        return {"capacity_usage": _curves(table, batch.notebook)}
    drawn = {}
    for number, (values, same) in enumerate(table.groupby(names, sort=False, dropna=False), start=1):
        title = ", ".join(f"{n.removeprefix('parameter_')} = {v}" for n, v in zip(names, values, strict=True))
        drawn[f"capacity_usage_{number}"] = _curves(same, title)
    return drawn


def _curves(table: pd.DataFrame, title: str) -> Figure:
    try:
        return capacity_usage(table, title.replace("$", r"\$"))
    except KeyError as error:
        return _words(f"{title}: no curves, for the table has no column {error}.")
    except ValueError as error:
        return _words(f"{title}: no curves. {error}")


def _words(text: str) -> Figure:
    with styled():
        figure, axes = plt.subplots(figsize=(7.1, 0.6), layout="constrained")
        axes.set_axis_off()
        axes.text(0, 0.5, text, parse_math=False, wrap=True)
    return figure


def _unit(seconds: float) -> tuple[str, int]:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return unit, size
    return "seconds", 1
