"""Train the runs that the playground shows, and write their tables into results/reference/playground/.

    python tools/playground.py

Small networks on scikit-learn's digits, every combination of `GRID`; c = 0 has no mode. It takes a few minutes.
"""

from __future__ import annotations

import tempfile
from typing import Final

import numpy as np
import pandas as pd

import hatlab
from hatlab.support import files, provenance
from hatlab.support.paths import checkout

GRID: Final = {
    "widths": [(12, 12), (40, 40)],
    "s_max": [1.0, 50.0, 400.0],
    "c": [0.0, 0.1, 0.375, 0.75, 1.25, 2.5],
    "mode": ["original", "cross"],
    "seed": [0, 1, 2],
}
BASE: Final = hatlab.RunConfig(dataset="digits", dropout=(0.0, 0.0), batch_size=16, max_epochs=40)
KEPT: Final = (0, 1, 2, 4, 6, 9, 12, 16, 20, 25, 30, 35)  # epochs whose masks are kept, and each task's last
FOLDER: Final = checkout() / "results" / "reference" / "playground"


class Watch(hatlab.Callback):
    """Keeps the mask of the task after each epoch, as whole numbers from 0 to 255: (run, task, epoch, mask)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, np.ndarray]] = []

    def after_epoch(self, config: hatlab.RunConfig, network: hatlab.HATNetwork, task: int, epoch: int) -> None:
        mask = network.mask(task, config.s_max).detach().numpy()
        self.seen.append((config.run_id, task, epoch, np.rint(255 * mask).astype(np.uint8)))


def configs() -> list[hatlab.RunConfig]:
    """Return the configuration of every run."""
    return [config for config in BASE.grid(**GRID) if config.c or config.mode == GRID["mode"][0]]


def masks(watch: Watch) -> pd.DataFrame:
    """Return a row for each run, kept epoch and unit: its mask in 255ths, units counted over both layers."""
    frames, seen = [], sorted(watch.seen, key=lambda kept: kept[:3])
    for k, (run, task, epoch, mask) in enumerate(seen):
        if epoch in KEPT or k + 1 == len(seen) or seen[k + 1][:2] != (run, task):
            frames.append(
                pd.DataFrame({"run": run, "task": task, "epoch": epoch, "unit": range(len(mask)), "mask": mask})
            )
    whole = pd.concat(frames, ignore_index=True)
    return whole.astype({"run": "category", "task": "uint8", "epoch": "uint8", "unit": "uint8"})


def main() -> None:
    """Do what the module's text says."""
    watch, asked = Watch(), configs()
    with tempfile.TemporaryDirectory() as folder:
        runs = hatlab.collect(hatlab.sweep(asked, results=folder, device="cpu", callbacks=[watch]))
    total = runs.capacity[(runs.capacity["layer"] == "total") & (runs.capacity["epoch"] >= 0)]
    tables = {
        "masks": masks(watch),
        "capacity": total[["run", "task", "epoch", "weights", "weights_used"]],
        "epochs": runs.epochs[["run", "task", "epoch", "valid_accuracy"]],
        "accuracy": runs.accuracy[["run", "after_task", "task", "accuracy"]],
        "tasks": runs.tasks[["run", "task", "name"]],
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_parquet(FOLDER / f"{name}.parquet", index=False, compression="zstd")
    rows = [{"run": config.run_id} | {name: getattr(config, name) for name in GRID} for config in asked]
    pd.DataFrame(rows).assign(widths=lambda table: table["widths"].map(lambda w: "-".join(map(str, w)))).to_csv(
        FOLDER / "runs.csv", index=False
    )
    stated = {
        "command": "python tools/playground.py",
        "git": provenance.git_state(),
        "hatlab": provenance.library_version(),
    }
    files.write_json(FOLDER / "manifest.json", stated | {"environment": provenance.environment()})
    print(f"{len(asked)} runs in {FOLDER}: {sum(p.stat().st_size for p in FOLDER.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
