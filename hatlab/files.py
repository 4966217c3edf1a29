"""Files that appear whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["atomic", "remove_leftovers", "write_json", "write_table"]

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
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_table(folder: Path, name: str, table: pd.DataFrame) -> list[Path]:
    """Write `table` as `<name>.parquet` and `<name>.csv`, atomically, and return both paths."""
    paths = [folder / f"{name}.parquet", folder / f"{name}.csv"]
    with atomic(paths[0]) as temporary:
        table.to_parquet(temporary, index=False)
    with atomic(paths[1]) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    return paths
