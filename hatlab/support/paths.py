"""Where files are found and put. Two environment variables move them: HATLAB_DATA and HATLAB_RESULTS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["RUN", "cache_root", "data_roots", "home", "results_root"]

RUN: Final = "HATLAB_NOTEBOOK_RUN"  # names the run in the environment of its kernel and of all that the kernel starts


def home() -> Path:
    """Return the checkout that the package was imported from, or the current folder if it was installed."""
    checkout = Path(__file__).resolve().parent.parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def cache_root() -> Path:
    """Return the folder that downloads and decoded data are written to: `home()/data`."""
    return home() / "data"


def data_roots() -> list[Path]:
    """Return the folders that data are looked for in, in this order: $HATLAB_DATA if set, then `cache_root()`.

    $HATLAB_DATA may be read-only: nothing is ever written there.
    """
    given = os.environ.get("HATLAB_DATA")
    roots = [Path(given).expanduser()] if given else []
    return [*roots, cache_root()]


def results_root() -> Path:
    """Return the folder that runs are recorded in: $HATLAB_RESULTS, or `home()/results`."""
    given = os.environ.get("HATLAB_RESULTS")
    return Path(given).expanduser() if given else home() / "results"
