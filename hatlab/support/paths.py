"""Where files are found and put. Two environment variables move them: HATLAB_DATA and HATLAB_RESULTS.

hatlab runs from a checkout, of which it is a folder (an editable install, too), or installed from a wheel, which holds
a copy of the checkout's notebooks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from hatlab.config import ConfigError

__all__ = ["ONLY_FINISHED", "RUN", "cache_root", "checkout", "data_roots", "home", "notebooks", "results_root"]

RUN: Final = "HATLAB_NOTEBOOK_RUN"  # names the run in the environment of its kernel and of all that the kernel starts
ONLY_FINISHED: Final = "HATLAB_ONLY_FINISHED"  # set: a sweep loads runs, and trains none
PACKAGE: Final = Path(__file__).resolve().parent.parent


def checkout() -> Path:
    """Return the checkout that the package was imported from.

    Raises:
        ConfigError: it was imported from elsewhere.
    """
    if not _is_in_checkout():
        raise ConfigError(
            f"this needs a checkout of hatlab, and hatlab was imported from {PACKAGE}, which is not in one: "
            "install the checkout with pip install --editable"
        )
    return PACKAGE.parent


def home() -> Path:
    """Return the checkout that the package was imported from, or the current folder if it was installed."""
    return PACKAGE.parent if _is_in_checkout() else Path.cwd()


def notebooks() -> Path:
    """Return the folder of hatlab's own notebooks and of `figures.yaml`: the checkout's, or the copy in the wheel."""
    return (PACKAGE.parent if _is_in_checkout() else PACKAGE) / "notebooks"


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


def _is_in_checkout() -> bool:
    # some packages put a pyproject.toml beside what is installed; only the wheel has notebooks in the package
    return (PACKAGE.parent / "pyproject.toml").is_file() and not (PACKAGE / "notebooks").is_dir()
