"""Numbers that the paper prints (Serra et al., ICML 2018), for figures and verdicts. Nothing is computed here."""

from __future__ import annotations

from typing import Final

import pandas as pd

from hatlab.config import RunConfig

__all__ = ["COMPRESSION", "METHODS", "PAPER_SEEDS", "SIZES", "TABLE_1", "accuracy", "deviations", "forgetting"]

PAPER_SEEDS: Final = 10

# Table 1: mean and standard deviation, over ten runs, of the forgetting ratio after two and after eight tasks of the
# mixture; from the one that forgets most to the one that forgets least.
TABLE_1: Final = pd.DataFrame(
    [
        ("LFL", -0.73, 0.29, -0.92, 0.08),
        ("LWF", -0.14, 0.13, -0.80, 0.06),
        ("SGD", -0.20, 0.08, -0.66, 0.03),
        ("IMM-mode", -0.11, 0.08, -0.49, 0.05),
        ("SGD-F", -0.20, 0.15, -0.44, 0.06),
        ("IMM-mean", -0.12, 0.10, -0.42, 0.04),
        ("EWC", -0.08, 0.06, -0.25, 0.03),
        ("PathNet", -0.09, 0.16, -0.17, 0.23),
        ("PNN", -0.11, 0.10, -0.11, 0.01),
        ("HAT", -0.02, 0.03, -0.06, 0.01),
    ],
    columns=["method", "rho_2", "std_2", "rho_8", "std_8"],
)

# Compressed to this share of the original size, in % (with Fig. 7)
COMPRESSION: Final = {"MNIST": 1.0, "CIFAR-100": 21.0}

# Training images of the mixture's sets, validation included
SIZES: Final = {
    "cifar10": 50_000, "cifar100": 50_000, "mnist": 60_000, "svhn": 73_257, "fashion_mnist": 60_000, "gtsrb": 39_209,
    "facescrub": 20_600, "notmnist": 16_853,
}  # fmt: skip

# RunConfig.method -> the paper's name for it
METHODS: Final = {"sgd": "SGD", "sgd_frozen": "SGD-F", "ewc": "EWC", "hat": "HAT"}


def forgetting(method: str, tasks: int) -> tuple[float, float] | None:
    """Return mean and standard deviation that Table 1 has for a method after so many tasks; None where it has none."""
    row = TABLE_1[TABLE_1["method"] == method]
    if row.empty or tasks not in (2, 8):
        return None
    return float(row[f"rho_{tasks}"].iloc[0]), float(row[f"std_{tasks}"].iloc[0])


def accuracy(config: RunConfig) -> tuple[str, float] | None:
    """Return the average accuracy after the last task, in %, that the text has for HAT on a sequence, and its name.

    None where it has none. The network is not compared: the text does not say which one made these numbers.
    """
    if config.dataset != "mnist" or config.method != "hat" or config.class_groups is not None:
        return None
    if config.sequence == "permuted" and config.n_tasks in (None, 10):
        return "permuted MNIST, ten tasks", 98.6
    if config.sequence == "split" and config.classes_per_task == 5 and config.n_tasks in (None, 2):
        return "split MNIST, two tasks of five digits", 99.0
    return None


PROTOCOL: Final = (
    "widths", "dropout", "validation", "batch_size", "max_epochs", "learning_rate", "lr_patience", "lr_factor",
    "lr_min", "grad_clip", "schedule", "compensation", "gate_precision", "embedding_init",
)  # fmt: skip


def deviations(config: RunConfig) -> list[str]:
    """Return in what a run on MNIST differs from the authors' protocol: "max_epochs = 20, theirs 200"."""
    authors = RunConfig(dataset="mnist", validation="train")
    pairs = [(name, getattr(config, name), getattr(authors, name)) for name in PROTOCOL]
    return [f"{name} = {ours}, theirs {theirs}" for name, ours, theirs in pairs if ours != theirs]
