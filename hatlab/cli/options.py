"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from hatlab.config import ConfigError
from hatlab.support.values import WHOLE_NUMBERS, read_yaml, values

__all__ = ["axes_of", "config_option", "device_option", "each_once", "parameter_option", "results_option"]


T = TypeVar("T")


def assignments(ctx: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, Any]:
    """Read name=value pairs; values are YAML, so lists and numbers look as they do in figures.yaml."""
    return {name: _value(given, text) for text in texts for name, given in [pair(text)]}


def axes_of(ctx: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, list[Any]]:
    """Read name=values pairs; values are a YAML list, or a..b for the whole numbers from a to b."""
    if not texts:
        raise click.UsageError("a sweep needs at least one --over NAME=VALUES, as in --over seed=0..9")
    return each_once(texts, _axis, "all its values belong into one list")


def _axis(given: str, text: str) -> list[Any]:
    try:
        found = values([given]) if WHOLE_NUMBERS.fullmatch(given) else _value(given, text)
    except ConfigError:
        found = []
    if not isinstance(found, list) or not found:
        raise click.BadParameter(
            f"'{text}' gives no values to vary; allowed are a list of one or more, as in 'c=[0.1, 0.75]', "
            f"and whole numbers from one to another that is not smaller, as in seed=0..9"
        )
    return found


def each_once(texts: Sequence[str], read: Callable[[str, str], T], twice: str) -> dict[str, T]:
    """Return name -> what `read` makes of the value in name=value; `twice` says what to do about a repeated name.

    Args:
        read: called with the value and the whole text.
    """
    found: dict[str, T] = {}
    for text in texts:
        name, given = pair(text)
        if name in found:
            raise click.BadParameter(f"'{text}' names {name} a second time; {twice}")
        found[name] = read(given, text)
    return found


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise click.BadParameter(f"'{text}' is not of the form name=value")
    return name.strip(), value


def _value(given: str, text: str) -> Any:
    try:
        return read_yaml(given)
    except ValueError as error:
        raise click.BadParameter(f"the value in '{text}' is not YAML: {error}") from None


parameter_option = click.option(
    "-p", "parameters", multiple=True, metavar="NAME=VALUE", callback=assignments, help="Set a parameter; repeatable."
)
config_option = click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="YAML file of parameters."
)
results_option = click.option(
    "--results", type=click.Path(file_okay=False, path_type=Path), help="Results folder.  [default: results/]"
)
device_option = click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda")
