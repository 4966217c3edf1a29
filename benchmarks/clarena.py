"""CLArena in an environment of its own, asked for one epoch at a time; see `clarena_epoch.py`, which runs inside."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["VERSION", "CLArena", "NotInstalled", "installed"]

VERSION = "1.1.0"
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-clarena"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
COMPLETE = VENV / f".clarena-{VERSION}"  # written when the installation has ended well


class NotInstalled(RuntimeError):
    """CLArena cannot be used here; the message says why."""


def installed() -> bool:
    return COMPLETE.exists() and PYTHON.exists()


@functools.cache
def install() -> str:
    """Make the environment unless it is there: CLArena from PyPI, over hatlab's own pins of torch and the rest.

    Returns "", or why it cannot be made, which is tried once only.
    """
    if installed():
        return ""
    print(f"Installing CLArena {VERSION} into {VENV.name}, once.", file=sys.stderr)
    shutil.rmtree(VENV, ignore_errors=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "requirements.lock")]
    for command in ([sys.executable, "-m", "venv", str(VENV)], [*pip, f"clarena=={VERSION}"]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            return f"CLArena {VERSION} cannot be installed: {(done.stdout.splitlines() or ['no message'])[-1]}"
    COMPLETE.touch()
    return ""


class CLArena:
    """A running CLArena. It trains only between a question and its answer, and waits the rest of the time.

    Args:
        mnist: folder with MNIST in torchvision's layout.
        threads: of torch.
        usual: with validation, metrics, a logger and a progress bar; otherwise the training loop alone.
    """

    def __init__(self, mnist: Path, threads: int, usual: bool) -> None:
        if why := install():
            raise NotInstalled(why)
        script = Path(__file__).with_name("clarena_epoch.py")
        # -P: this folder has a module of CLArena's name
        command = [str(PYTHON), "-P", str(script), str(mnist), str(threads), *(["usual"] if usual else [])]
        # a file: a pipe that nobody reads would fill up and stop it
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, encoding="utf-8"
        )

    def task(self) -> float:
        """Begin the next task; return the seconds until its first step."""
        return float(self._ask("task")["setup"])

    def epoch(self) -> float:
        """Train one epoch of the task; return its seconds."""
        return float(self._ask("epoch")["epoch"])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def __enter__(self) -> CLArena:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, what: str) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(f"{what}\n")
            stdin.flush()
            return dict(json.loads(stdout.readline()))
        except (OSError, json.JSONDecodeError):
            self._process.kill()
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").strip().splitlines()
            raise NotInstalled(f"CLArena {VERSION} stopped: {said[-1] if said else 'without a message'}") from None
