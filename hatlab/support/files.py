"""Files that appear whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hatlab.support.tables import storable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_json", "atomic", "remove_leftovers", "write_json", "write_table"]

TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{8}(\.[^.]+)?")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it there if the block ends well."""
    # not tempfile: it would make results that colleagues cannot read
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder that nobody else writes into."""
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(as_json(content) + "\n", encoding="utf-8")


def as_json(content: Mapping[str, Any]) -> str:
    """Return `content` as JSON that every reader takes: a number that is not finite is null."""
    return json.dumps(_finite(content), indent=1, sort_keys=True, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_table(folder: Path, name: str, table: pd.DataFrame) -> list[Path]:
    """Write what `storable` makes of `table` as `<name>.parquet` and `<name>.csv`, and return both paths.

    Raises:
        ValueError: as `storable` does; nothing is written.
    """
    table = storable(table)
    paths = [folder / f"{name}.parquet", folder / f"{name}.csv"]
    with atomic(paths[0]) as temporary:
        table.to_parquet(temporary, index=False)
    with atomic(paths[1]) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    return paths
