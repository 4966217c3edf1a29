"""`python -m docs.playground`: one page in which a reader moves through recorded runs, into results/playground.

The page holds everything that it needs: the tables that tools/playground.py recorded, and the style and script in
_playground. It asks no host for anything, so it opens by double click, too.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pandas as pd

from docs.committed import ROOT
from hatlab.support.files import atomic
from hatlab.support.paths import results_root

__all__ = ["RECORDED", "as_markdown", "data", "page", "presets", "write"]

PARTS: Final = ROOT / "docs" / "_playground"
RECORDED: Final = ROOT / "results" / "reference" / "playground"
SOURCE: Final = (
    "Recorded with hatlab {version} by <code>tools/playground.py</code>: scikit-learn's digits (1797 images of 8 x 8), "
    "two layers, no dropout, batches of 16, at most 40 epochs a task with the early stopping of the authors' code. "
    "Masks are shown to 1/255, for 12 or 13 epochs of each task."
)


def page() -> str:
    """Return the page, as HTML."""
    text = (PARTS / "page.html").read_text(encoding="utf-8")
    manifest = json.loads((RECORDED / "manifest.json").read_text(encoding="utf-8"))
    for name, part in {
        "style": (PARTS / "style.css").read_text(encoding="utf-8"),
        "script": (PARTS / "script.js").read_text(encoding="utf-8"),
        "source": SOURCE.format(version=manifest["hatlab"]),
        "data": json.dumps(data(), separators=(",", ":")).replace("<", "\\u003c"),
    }.items():
        text = text.replace("{{" + name + "}}", part)
    return text


def data() -> dict[str, Any]:
    """Return what the script reads: the runs by their settings, which values each setting has, the presets."""
    runs = pd.read_csv(RECORDED / "runs.csv", dtype=str)
    runs = runs.assign(c=runs["c"].map(_short), s_max=runs["s_max"].map(_short))
    choices = {name: list(runs[name].unique()) for name in ("c", "mode", "s_max", "widths", "seed")}
    tables = {
        name: dict(list(pd.read_parquet(RECORDED / f"{name}.parquet").groupby("run", observed=True)))
        for name in ("masks", "capacity", "epochs", "accuracy", "tasks")
    }
    recorded = {}
    for row in runs.itertuples():
        of = {name: parts[row.run] for name, parts in tables.items()}
        key = "|".join((row.widths, row.s_max, row.c, row.mode, row.seed))
        recorded[key] = _run(**of)
    return {
        "choices": choices,
        "with": ["none", *(f"{mode},{c}" for mode in choices["mode"] for c in choices["c"] if c != "0")],
        "weights": {
            widths: int(tables["capacity"][group["run"].iloc[0]]["weights"].iloc[0])
            for widths, group in runs.groupby("widths")
        },
        "runs": recorded,
        "presets": presets(),
    }


def presets() -> list[dict[str, Any]]:
    """Return the experiments that the page offers: name, settings that differ from the first's, what it says."""
    return list(json.loads((PARTS / "presets.json").read_text(encoding="utf-8")))


def as_markdown() -> str:
    """Return the experiments as a list for a page of the site, each with its link and its question."""
    return "".join(
        f'- <a href="playground/playground.html#{urlencode(preset["settings"] or {"c": "0.375"}, safe=",")}">'
        f"{preset['name']}</a>: {preset['question']}\n"
        for preset in presets()
    )


def _run(
    masks: pd.DataFrame, capacity: pd.DataFrame, epochs: pd.DataFrame, accuracy: pd.DataFrame, tasks: pd.DataFrame
) -> dict[str, Any]:
    """Return one run: a frame for each epoch whose masks were kept, and the accuracies after each task."""
    frames = masks[["task", "epoch"]].drop_duplicates().astype("int64")
    at = frames.merge(capacity, on=["task", "epoch"]).merge(epochs, on=["task", "epoch"])
    after = accuracy.pivot_table(index="after_task", columns="task", values="accuracy")
    return {
        "frames": frames.to_numpy().tolist(),
        "masks": base64.b64encode(masks["mask"].to_numpy().tobytes()).decode(),
        "used": at["weights_used"].tolist(),
        "valid": at["valid_accuracy"].round(6).tolist(),
        "after": [row.dropna().round(6).tolist() for _, row in after.iterrows()],
        "names": tasks.sort_values("task")["name"].tolist(),
    }


def _short(value: str) -> str:
    return f"{float(value):g}"


def write(folder: Path) -> Path:
    """Write the page into `folder`, and return where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "playground.html"
    with atomic(target) as temporary:
        temporary.write_text(page(), encoding="utf-8")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.playground", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the page (default: results/playground)")
    print(write(parser.parse_args().out or results_root() / "playground"))


if __name__ == "__main__":
    main()
