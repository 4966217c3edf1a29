"""Values as people type them: YAML, read without running anything, and strictly."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, Final

import yaml

from hatlab.config import MOST_RUNS, ConfigError, repeated

__all__ = ["WHOLE_NUMBERS", "read_yaml", "value", "values"]

WHOLE_NUMBERS: Final = re.compile(r"\s*([+-]?\d{1,1000})\s*\.\.\s*([+-]?\d{1,1000})\s*")
SCIENTIFIC: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
DIGITS: Final = re.compile(r"[+-]?\d+")
MOST_NODES: Final = 1_000_000  # values, lists and mappings in a document, those that an alias repeats counted again


class _Strict(yaml.SafeLoader):
    """Builds plain data only. Takes a key that stands twice for the mistake that it is, 1e-4 for a number, and 010 for
    ten, where YAML 1.1 sees text and eight."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        merged = "tag:yaml.org,2002:merge"  # <<: *name, whose keys may be set anew
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merged]
        if twice := repeated(keys):
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        return int(node.value, 10) if DIGITS.fullmatch(node.value) else self.construct_yaml_int(node)


_Strict.add_implicit_resolver("tag:yaml.org,2002:float", SCIENTIFIC, list("+-.0123456789"))
_Strict.add_constructor("tag:yaml.org,2002:int", _Strict.construct_whole_number)


def read_yaml(text: str) -> Any:
    """Return the content of a YAML document, as plain data.

    Raises:
        ValueError: it is no YAML, a key stands twice in one mapping, or aliases make it endless or huge.
    """
    loader = _Strict(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_NODES:
            raise ValueError(f"with what its aliases repeat it holds more than {MOST_NODES} values")
        return loader.construct_document(node)
    except (yaml.YAMLError, TypeError) as error:  # TypeError: a list as a key
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a document holds once its aliases are followed, long text counted by length; nothing is
    made of it."""
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value) // 100
    if id(node) not in known:
        known[id(node)] = -1  # under way
        parts = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    if known[id(node)] < 0:
        raise ValueError(f"an alias names what it stands in{node.start_mark}")
    return known[id(node)]


def value(text: str) -> Any:
    """Return the one value that `text` stands for.

    Raises:
        ConfigError: it is not YAML.
    """
    try:
        return read_yaml(text)
    except ValueError as error:  # of a date that is none, too
        raise ConfigError(f"'{text}' is not YAML: {error}") from None


def values(given: str | list[Any]) -> list[Any]:
    """Return the values of "0.1,0.75,2.5", of "0..9", or of a list that may hold such ranges.

    "0..9" are the whole numbers from 0 to 9. A list in brackets is one value: "[400, 400],[100, 100]" are two.

    Raises:
        ConfigError: it is not YAML, is empty, a range ends before it starts, or there are more than `MOST_RUNS`.
    """
    items = value(f"[{given}]") if isinstance(given, str) else given
    found: list[Any] = []
    for item in items:
        ends = WHOLE_NUMBERS.fullmatch(item) if isinstance(item, str) else None
        first, last = (int(ends[1]), int(ends[2])) if ends else (0, 0)
        if first > last:
            raise ConfigError(
                f"the range {item.strip()} is empty: allowed are whole numbers from one to one not smaller"
            )
        if len(found) + last - first + 1 > MOST_RUNS:
            raise ConfigError(f"with {item!r} there are more than {MOST_RUNS} values; allowed are so many")
        found += range(first, last + 1) if ends else [item]
    if not found:
        raise ConfigError(f"{given!r} holds no value")
    return found
