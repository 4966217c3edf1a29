"""Precision of the gate: float32, float64 and exact compensation, with the authors' and the paper's schedule.

The compensated gradient of an embedding (eq. 4) is a product of a derivative a (1 - a) that vanishes for large s |e|
and a ratio of cosh that grows as fast. In float32 the mask a rounds to 1 where s e > 17: the product is 0, and an
active unit, e > 0, has no gradient for the rest of the epoch, neither from the task nor from the regularizer. Inactive
units keep theirs, because floats near 0 are dense. In float64 the same happens at s e > 37; the analytic form,
"exact", has no such edge. So how fast the regularizer closes units depends on the precision.

`simulate` shows it without any images; `plan` and what follows, on runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd
import torch

from hatlab.analysis import comparisons, metrics, summary
from hatlab.config import ConfigError, RunConfig
from hatlab.method.gate import compensated_gradient, gate, s_schedule
from hatlab.method.regularizer import affine
from hatlab.training.runs import Run, collect

__all__ = ["ARMS", "OUTCOMES", "capacity", "differences", "outcomes", "over_seeds", "pairs", "plan", "simulate"]

ARMS: Final[dict[str, dict[str, Any]]] = {
    "float32": {"gate_precision": "float32", "compensation": "authors"},
    "float64": {"gate_precision": "float64", "compensation": "authors"},
    "exact": {"gate_precision": "float32", "compensation": "exact"},
}
OUTCOMES: Final = ("usage", "accuracy")  # in %
CONTRAST: Final = ["arm", "schedule", "reference_arm", "reference_schedule"]


def simulate(
    seeds: Sequence[int] = range(5),
    units: int = 4544,
    c: float = 0.75,
    s_max: float = 400.0,
    schedule: str = "authors",
    learning_rate: float = 0.05,
    images: int = 42_500,
    batch_size: int = 64,
    epochs: int = 40,
) -> pd.DataFrame:
    """Train embeddings in the first task with the regularizer alone, each arm from the same start.

    The defaults are the authors' network of three convolutions and two layers on CIFAR-10: 4544 units, 665 steps an
    epoch. The cross-entropy, which would hold on to some units, is left out.

    Args:
        seeds: of e ~ N(0, 1), clamped as in training; one draw each.
        units: gated units of all layers.
        c: compressibility, above 0.
        s_max, schedule, learning_rate, batch_size: as in `RunConfig`.
        images: of the training set.
        epochs: at the same learning rate.

    Returns:
        One row per arm, seed and epoch (0: before the first step): `active`, the share of units with e > 0, in %.

    Raises:
        ConfigError: a value that a run would refuse, or a c of 0.
        ValueError: no seeds, units, images or epochs.
    """
    config = RunConfig(c=c, s_max=s_max, schedule=schedule, learning_rate=learning_rate, batch_size=batch_size)
    if not c > 0:
        raise ConfigError("c = 0 in the simulation of the regularizer: allowed are numbers above 0")
    for name, value in {"seeds": len(seeds), "units": units, "images": images, "epochs": epochs}.items():
        if value < 1:
            raise ValueError(f"the simulation was asked for {value} {name}: at least 1 is needed")
    draws = [torch.randn(units, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    start = torch.stack(draws).clamp_(-config.embedding_clamp, config.embedding_clamp)
    frames = []
    for arm, fields in ARMS.items():
        active = _train(
            start, config.replace(**fields), s_schedule(schedule, s_max, images, batch_size).tolist(), epochs
        )
        for row, seed in enumerate(seeds):
            shares = [100 * count / units for count in active[:, row].tolist()]
            frames.append(pd.DataFrame({"arm": arm, "seed": seed, "epoch": range(epochs + 1), "active": shares}))
    return pd.concat(frames, ignore_index=True)


@torch.inference_mode()
def _train(start: torch.Tensor, config: RunConfig, s: Sequence[float], epochs: int) -> torch.Tensor:
    """Active units before the first and after each epoch, (epochs + 1, seeds); `start`: (seeds, units)."""
    seeds, units = start.shape
    e = start.to(getattr(torch, config.gate_precision)).flatten()
    of_seed = torch.arange(seeds).repeat_interleave(units)
    counts = [torch.bincount(of_seed[e > 0], minlength=seeds)]
    for _ in range(epochs):
        # the regularizer only ever lowers an embedding: a unit that is off stays off, and need not be trained
        on = e > 0
        e, of_seed = e[on], of_seed[on]
        # the units of a seed share c R of an empty cumulative mask, and nothing else
        pull = affine(torch.zeros(units, dtype=e.dtype), "original", config.c, 0)[0][:1].expand_as(e)
        for slope in s:
            mask = gate(e, slope)
            gradient = compensated_gradient(pull, mask, e, slope, config.s_max, config.compensation, config.cosh_clamp)
            e.sub_(gradient, alpha=config.learning_rate).clamp_(-config.embedding_clamp, config.embedding_clamp)
        counts.append(torch.bincount(of_seed[e > 0], minlength=seeds))
    return torch.stack(counts)


def plan(base: RunConfig, schedules: Sequence[str], seeds: Sequence[int]) -> list[RunConfig]:
    """Return the runs of every arm, schedule and seed.

    Args:
        base: everything else.
        schedules: "authors", "paper", or both.
        seeds: a pair of every two arms for each.

    Raises:
        ConfigError: a base that is no HAT or sets the precision itself; a schedule or seed that is unknown, named
            twice, or none at all.
    """
    if base.method != "hat":
        raise ConfigError(f"method = {base.method!r}: allowed is 'hat', for no other method has gates")
    if base.gate_precision != "float32" or base.compensation != "authors":
        raise ConfigError(
            f"gate_precision = {base.gate_precision!r} and compensation = {base.compensation!r} for the runs of all "
            f"arms: leave both out, for they are what the arms differ in"
        )
    presets = base.grid(schedule=list(schedules))
    return [
        config
        for preset in presets
        for fields in ARMS.values()
        for config in preset.replace(**fields).grid(seed=list(seeds))
    ]


def _arm(config: RunConfig) -> str:
    return next(arm for arm, fields in ARMS.items() if all(getattr(config, k) == v for k, v in fields.items()))


def capacity(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the rows of the whole network in the capacity table of `runs`, with `schedule` and `arm` behind `run`."""
    table = collect(runs).capacity.query("layer == 'total'").reset_index(drop=True)
    schedules = {run.run_id: run.config.schedule for run in runs}
    arms = {run.run_id: _arm(run.config) for run in runs}
    table.insert(1, "schedule", table["run"].map(schedules))
    table.insert(2, "arm", table["run"].map(arms))
    return table


def outcomes(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run, after its last task: `schedule`, `arm`, `seed`, `run`; in % `usage` of the trunk's
    weights by the cumulative mask, and `accuracy`, averaged over the tasks.
    """
    table = summary.by_run(runs, ["schedule", "seed"])
    table.insert(1, "arm", [_arm(run.config) for run in runs])
    return table[["schedule", "arm", "seed", "run", *OUTCOMES]]


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per schedule and arm, with means and 95% t intervals over seeds.

    Columns: `schedule`, `arm`, `seeds`, and each of `OUTCOMES` with its `_low` and `_high`.

    Args:
        table: what `outcomes` returns.
    """
    return metrics.over_seeds(table, ["schedule", "arm"], OUTCOMES)


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the differences between runs of one seed, in percentage points: each arm minus float32 at the same
    schedule, and in each arm the other schedules minus the first.

    Columns: `arm`, `schedule`, `reference_arm`, `reference_schedule`, `outcome`, `seed`, `difference`.

    Args:
        table: what `outcomes` returns.
    """
    values = {key: same.set_index("seed") for key, same in table.groupby(["arm", "schedule"], sort=False)}
    schedules = list(table["schedule"].unique())
    contrasts = [((arm, each), ("float32", each)) for each in schedules for arm in ARMS if arm != "float32"]
    contrasts += [((arm, each), (arm, schedules[0])) for each in schedules[1:] for arm in ARMS]
    frames = []
    for one, other in contrasts:
        difference = values[one][list(OUTCOMES)] - values[other][list(OUTCOMES)]
        key = dict(zip(CONTRAST, (*one, *other), strict=True))
        long = difference.reset_index().melt("seed", var_name="outcome", value_name="difference")
        frames.append(long.assign(**key)[[*CONTRAST, "outcome", "seed", "difference"]])
    return pd.concat(frames, ignore_index=True)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return what the pairs say, see `comparisons.differences`: one row per contrast (`arm`, `schedule`,
    `reference_arm`, `reference_schedule`) and `outcome`. Corrected for all comparisons of an outcome.

    Args:
        table: what `pairs` returns.
    """
    return comparisons.differences(table, [*CONTRAST, "outcome"], ["outcome"])
