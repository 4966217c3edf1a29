"""Where a result came from: versions, git state, device, checksums of files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hatlab._version import __version__

__all__ = [
    "checksum", "environment", "git_state", "library_version", "now", "peak_memory", "releases", "tree_checksum",
    "versions",
]  # fmt: skip

PACKAGES: Final = ("torch", "torchvision", "numpy", "pandas", "pyarrow", "scikit-learn", "pydantic", "matplotlib")
# Those that compute: another release may give other numbers. What stores, draws or talks to people is not among them.
NUMERIC: Final = ("numpy", "pandas", "pillow", "scikit-learn", "scipy", "torch", "torchvision")


def now() -> str:
    """Return the moment, UTC, to the millisecond, in the form of ISO 8601."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """Return "<algorithm>:<hexadecimal digest>" of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


def versions() -> dict[str, str]:
    """Return the version of Python and of each package that a result depends on and that is installed."""
    found = {"hatlab": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def releases(further: Iterable[str] = ()) -> dict[str, str]:
    """Return package -> release of those that determine numbers, and of `further` ones, as far as they are installed.

    Python's is its minor version. Labels of a build, as in 2.11.0+cpu, are left out: the same release computes the
    same, up to what another machine does to the last bits.
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in sorted({*NUMERIC, *further}):
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def tree_checksum(folder: Path, suffix: str = "") -> str:
    """Return "sha256:<hexadecimal digest>" of the names and bytes of the files in a folder and below.

    What is hidden, as an editor's locks are, what Python caches, and what is no regular file plays no part.

    Args:
        folder: where to look.
        suffix: with what names have to end.
    """
    digest = hashlib.sha256()
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for path in (Path(root, name) for name in sorted(names) if name.endswith(suffix) and not name.startswith(".")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder).as_posix()}\0{checksum(path)}\0".encode())
    return f"sha256:{digest.hexdigest()}"


def library_version() -> str:
    """Return hatlab's version and a checksum of its code as it lies on the disk now: "0.1.0+3fa9c1e2"."""
    code = tree_checksum(Path(__file__).parent.parent, ".py").removeprefix("sha256:")
    return f"{__version__}+{code[:8]}"


def git_state() -> dict[str, Any]:
    """Return the commit the package was imported from and whether files differ from it; None where git cannot tell."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(("git", *arguments), cwd=here, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # an installed package may lie inside somebody else's repository
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"commit": None, "dirty": None}
    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def peak_memory() -> int:
    """Return the most memory that this process has held at once, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def environment() -> dict[str, Any]:
    """Return versions, git state and platform, as they go into a manifest."""
    return {
        "versions": versions(),
        "git": git_state(),
        "platform": {"system": platform.system(), "machine": platform.machine(), "python": sys.implementation.name},
    }
