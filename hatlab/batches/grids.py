"""Grids: from a few lists of values to the parameters of each run. Nothing here knows what the parameters mean.

A grid is a mapping, or a list of mappings whose runs are put one after the other:

    parameters: {max_epochs: 40}          # the same in every run
    product:                              # every combination, the last one varying fastest
      c: [0.1, 0.75, 2.5]
      seed: 0..9                          # the whole numbers from 0 to 9
    zip:                                  # side by side: first with first, second with second
      dataset: [mnist, fashion_mnist]
      max_epochs: [40, 60]
    list:                                 # spelled out
      - {c: 0.5, seed: 3}

All four may be left out; where several are given, each of one is combined with each of the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hatlab.config import MOST_RUNS, ConfigError, nearest, repeated
from hatlab.support.values import read_yaml, values

__all__ = ["Point", "expand", "read"]

Point = dict[str, Any]  # the parameters of one run: name -> value
SECTIONS: Final = ("parameters", "product", "zip", "list")


def read(path: Path) -> Any:
    """Return the content of a grid file.

    Raises:
        ConfigError: it cannot be read, or is not YAML.
    """
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the grid file {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None


def expand(
    grid: Any,
    parameters: Mapping[str, Any] | None = None,
    over: Mapping[str, Sequence[Any]] | None = None,
    source: str = "the grid",
) -> list[Point]:
    """Return the points of a grid, in order.

    Args:
        grid: see above; None for one without anything of its own.
        parameters: values that hold for all runs, beside those of the grid.
        over: name -> values, combined with all of the grid.
        source: what messages call the grid.

    Raises:
        ConfigError: an unknown section, a parameter that is set in two places, values that are no list, none at all,
            named twice, or in a zip of different number; more than `MOST_RUNS` points.
    """
    blocks = grid if isinstance(grid, list | tuple) else [grid if grid is not None else {}]
    if not blocks:
        raise ConfigError(f"{source} is an empty list: it makes no run")
    points: list[Point] = []
    for number, block in enumerate(blocks, start=1):
        where = source if len(blocks) == 1 else f"{source}, block {number}"
        points += _block(block, dict(parameters or {}), dict(over or {}), where, MOST_RUNS - len(points))
    return points


def _block(block: Any, parameters: Point, over: dict[str, Sequence[Any]], where: str, most: int) -> list[Point]:
    _mapping(block, where, "with " + ", ".join(SECTIONS))
    for name in block:
        if name not in SECTIONS:
            raise ConfigError(f"in {where}: unknown section '{name}'{nearest(str(name), list(SECTIONS))} "
                              f"(known: {', '.join(SECTIONS)})")  # fmt: skip
    fixed, product, zipped = (
        _mapping(block[name], f"{name} of {where}", "of parameter names") if block.get(name) is not None else {}
        for name in SECTIONS[:3]
    )
    listed = block.get("list")
    if listed is not None and not (isinstance(listed, list | tuple) and listed):
        raise ConfigError(f"in {where}: list = {listed!r} is not a list of one or more runs")
    spelled = [_mapping(run, f"list of {where}", "of parameter names") for run in listed or [{}]]
    product = {name: _axis(name, given, where) for name, given in product.items()}
    zipped = {name: _axis(name, given, where, repeats=True) for name, given in zipped.items()}
    if len({len(axis) for axis in zipped.values()}) > 1:
        counts = ", ".join(f"{name} has {len(axis)}" for name, axis in zipped.items())
        raise ConfigError(f"in zip of {where}: {counts}; allowed is the same number of values for each")
    over = {name: _axis(name, given, "-p") for name, given in over.items()}
    places = {"parameters": fixed, "product": product, "zip": zipped, "list": {k: 0 for run in spelled for k in run}}
    _disjoint({"-p": {**parameters, **over}, **{f"{name} of {where}": names for name, names in places.items()}})
    steps = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)] or [{}]
    axes = {**product, **over}
    if (n := len(spelled) * len(steps) * math.prod(map(len, axes.values()))) > most:
        raise ConfigError(f"{where} makes {n} runs; allowed are {MOST_RUNS} in a batch")
    combinations = [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
    return [
        {**parameters, **fixed, **run, **step, **combination}
        for run in spelled
        for step in steps
        for combination in combinations
    ]


def _mapping(content: Any, what: str, of: str) -> dict[str, Any]:
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ConfigError(f"{what}: {content!r} is not a mapping {of}")
    return dict(content)


def _axis(name: str, given: Any, where: str, repeats: bool = False) -> list[Any]:
    if isinstance(given, str):
        given = [given]  # 0..9, or the one value that it is
    if not isinstance(given, list | tuple | range) or not given:
        raise ConfigError(
            f"in {where}: {name}: {given!r} is not a list of one or more values, nor a range such as 0..9"
        )
    try:
        axis = values(list(given))
    except ConfigError as error:
        raise ConfigError(f"in {where}: {name}: {error}") from None
    if not repeats and (twice := repeated(axis)):
        raise ConfigError(f"in {where}: {name}: {twice[0]!r} is named twice; each value makes a run once")
    return axis


def _disjoint(places: Mapping[str, Mapping[str, Any]]) -> None:
    seen: dict[str, str] = {}
    for place, names in places.items():
        for name in names:
            if name in seen:
                raise ConfigError(f"{name} is set by {seen[name]} and by {place}; allowed is one of the two")
            seen[name] = place
