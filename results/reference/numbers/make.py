"""Trains, or loads, the runs behind the README's numbers, and writes this folder.

    python results/reference/numbers/make.py

Stopped, it goes on where it was. HATLAB_DATA must name a folder with MNIST and cifar10-subset/cifar10-subset.npz, or
MNIST is downloaded and the last experiment refused.
"""

import shutil
import sys
from pathlib import Path

import hatlab
from hatlab.analysis import summary
from hatlab.training.records import write_table

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
EXPERIMENTS = {
    # the paper's split MNIST, 0-4 and then 5-9, with its network
    "mnist_two_tasks": hatlab.RunConfig(dataset="mnist", classes_per_task=5, task_order="fixed", max_epochs=40),
    "mnist_five_tasks": hatlab.RunConfig(dataset="mnist", widths=(400, 400), max_epochs=40),
    "cifar10_subset_cnn": hatlab.RunConfig(
        dataset="npz:cifar10-subset/cifar10-subset.npz", network="cnn", task_order="fixed", max_epochs=45
    ),
}

for name in sys.argv[1:] or EXPERIMENTS:
    runs = hatlab.sweep([EXPERIMENTS[name].replace(seed=seed) for seed in SEEDS])
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    tables = hatlab.collect(runs)
    write_table(folder, "summary", summary.by_compressibility(tables))
    for table in ("accuracy", "tasks"):
        write_table(folder, table, getattr(tables, table))
    for run in runs:
        shutil.copyfile(run.folder / "manifest.json", folder / f"manifest-{run.run_id}.json")
    print(name)
    print(summary.by_compressibility(tables).round(1).to_string(index=False))
