"""Where a result came from: versions, git state, device, checksums of files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatlab._version import __version__

__all__ = ["checksum", "environment", "git_state", "library_version", "versions"]

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "pyarrow", "scikit-learn", "pydantic", "matplotlib")


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


def library_version() -> str:
    """Return hatlab's version and a checksum of its code as it lies on the disk now: "0.1.0+3fa9c1e2"."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        digest.update(path.relative_to(here).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{__version__}+{digest.hexdigest()[:8]}"


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


def environment() -> dict[str, Any]:
    """Return versions, git state and platform, as they go into a manifest."""
    return {
        "versions": versions(),
        "git": git_state(),
        "platform": {"system": platform.system(), "machine": platform.machine(), "python": sys.implementation.name},
    }
