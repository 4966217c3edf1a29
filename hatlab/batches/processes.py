"""The processes of a run of a notebook, as the operating system knows them.

Two variables in their environment mark them: `paths.RUN` names the run, `GUARD` the process that watches over it. When
that process is gone, by whatever way, its guard ends all that carry its mark: `python -m hatlab.batches.processes MARK`
waits for the end of its standard input, which its parent holds open.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import psutil

__all__ = ["GUARD", "end_marked", "family", "guard", "marked", "memory"]

GUARD: Final = "HATLAB_NOTEBOOK_GUARD"

_guard: tuple[str, subprocess.Popen[bytes]] | None = None  # the mark, and who waits for the end of this process
_starting = threading.Lock()


def marked(name: str, value: str) -> list[psutil.Process]:
    """Return the processes of this machine whose environment has `name` = `value`, wherever in the tree they are."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(name) == value:
                found.append(process)
    return found


def end_marked(name: str, value: str) -> int:
    """Kill all processes whose environment has `name` = `value`, and return how many there were."""
    ended: set[int] = set()
    while found := marked(name, value):
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        ended |= {process.pid for process in found}
        time.sleep(0.05)  # not psutil.wait_procs: it would take a child's exit code from whoever started it
    return len(ended)


def guard() -> str:
    """Return the mark of what is to end with this process, and see that somebody waits for that."""
    global _guard
    with _starting:
        mark = _guard[0] if _guard else f"{os.getpid()}-{secrets.token_hex(8)}"
        if _guard is None or _guard[1].poll() is not None:
            package = str(Path(__file__).resolve().parent.parent.parent)
            paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
            # in a session of its own: what is sent to this process's group, as Ctrl-C is, does not reach it
            _guard = (
                mark,
                subprocess.Popen(
                    [sys.executable, "-m", "hatlab.batches.processes", mark],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": paths},
                ),
            )
            atexit.register(_release, _guard[1])
        return mark


def _release(process: subprocess.Popen[bytes]) -> None:
    """This process ends in its own time: wait until the guard has ended what is left."""
    assert process.stdin is not None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        process.stdin.close()
        process.wait(timeout=10)


def memory(pid: int) -> int:
    """Return how many bytes a process and those that it started hold; 0 if it is gone.

    A page that several of them share counts once, where the system can tell.
    """
    return sum(_held(one) for one in family(pid))


def _held(pid: int) -> int:
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        try:
            full: Any = process.memory_full_info()
            return int(getattr(full, "pss", full.uss))
        except (psutil.AccessDenied, AttributeError):  # another user's
            return int(process.memory_info().rss)
    return 0


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found, waiting = [], [pid]
    while waiting:
        found.append(one := waiting.pop())
        waiting += _children(one)
    return found


def _children(pid: int) -> list[int]:
    # Linux lists them. psutil reads about all processes of the machine for it, which takes long where there are many
    with contextlib.suppress(OSError, ValueError):
        if lists := list(Path(f"/proc/{pid}/task").glob("*/children")):
            return [int(child) for one in lists for child in one.read_text().split()]
    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def main() -> None:
    sys.stdin.buffer.read()
    end_marked(GUARD, sys.argv[1])


if __name__ == "__main__":
    main()
