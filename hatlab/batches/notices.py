"""One message when a batch ends, stops or stalls: to a command, and to addresses that Apprise knows.

Addresses and the command may hold passwords: they are in no message, warning, manifest or kernel's environment. A
message that cannot be sent is a warning, and changes nothing else.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import socket
import subprocess
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hatlab.batches import causes
from hatlab.batches.ledger import Status
from hatlab.batches.plans import Batch
from hatlab.batches.view import one_line, summary
from hatlab.config import ConfigError
from hatlab.support.progress import format_seconds

__all__ = ["VARIABLE", "Notices", "from_environment", "message"]

VARIABLE: Final = "HATLAB_NOTIFY"  # addresses with spaces between them, which a command line would show to others
PATIENCE: Final = 60.0  # seconds for a command
MOST_CAUSES: Final = 10


class Notices:
    """Who is told, and how. Nothing is sent where neither is given.

    Args:
        command: a program with its arguments, as a shell splits them; it gets the message on its standard input.
        addresses: Apprise's URLs, such as mailto://, ntfy:// or json://.

    Raises:
        ConfigError: no such program; an address of a kind that Apprise does not know; Apprise is not installed.
    """

    def __init__(self, command: str | None = None, addresses: Sequence[str] = ()) -> None:
        self._command, self._apprise = self._words(command), self._known(addresses) if addresses else None

    def __bool__(self) -> bool:
        return bool(self._command or self._apprise)

    def __repr__(self) -> str:
        return f"Notices({'a command' if self._command else ''}{', addresses' if self._apprise else ''})"

    @staticmethod
    def _words(command: str | None) -> list[str]:
        try:
            words = shlex.split(command) if command is not None else []
        except ValueError as error:
            raise ConfigError(f"--notify-command: {error}") from None
        if command is not None and not words:
            raise ConfigError("--notify-command is empty: a program is wanted, as in 'mail -s hatlab me@example.org'")
        if words and shutil.which(words[0]) is None:
            raise ConfigError(f"--notify-command: there is no program {words[0]!r} on PATH")
        return words

    @staticmethod
    def _known(addresses: Sequence[str]) -> Any:
        try:
            with warnings.catch_warnings(action="ignore"):  # of what it imports that Python is to drop
                import apprise
        except ImportError:
            raise ConfigError("--notify needs Apprise: pip install 'hatlab[notify]'") from None
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it writes addresses into the log
        found = apprise.Apprise()
        for address in addresses:
            if not found.add(address):
                kind = address.partition("://")[0] if "://" in address else "without ://"
                raise ConfigError(
                    f"--notify: an address ({one_line(kind, 20)}) that Apprise does not know, or not whole"
                )
        return found

    def send(self, title: str, body: str) -> list[str]:
        """Send a message, and return what went wrong, for people; nothing is raised."""
        problems = []
        if self._command:
            try:
                done = subprocess.run(
                    self._command,
                    input=f"{title}\n\n{body}\n",
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                    errors="replace",
                )
                if done.returncode:
                    problems.append(f"{Path(self._command[0]).name} ended with exit code {done.returncode}")
            except (OSError, subprocess.SubprocessError) as error:
                problems.append(f"{Path(self._command[0]).name}: {type(error).__name__}")
        if self._apprise:
            try:
                told = self._apprise.notify(title=title, body=body)
            except Exception as error:  # of libraries that Apprise calls
                problems.append(f"Apprise: {type(error).__name__}")
            else:
                if not told:
                    problems.append("an address of --notify did not take the message")
        return [f"the message about the batch was not sent: {problem}" for problem in problems]


def from_environment() -> list[str]:
    """Return the addresses of `VARIABLE`, and take it out of the environment, which kernels inherit."""
    return os.environ.pop(VARIABLE, "").split()


def message(batch: Batch, statuses: Mapping[str, Status], seconds: float, how: str) -> tuple[str, str]:
    """Return title and text: what became of the batch, the causes of what went wrong, and where to look.

    Args:
        seconds: that this call has taken.
        how: "ended", "stopped" or "stalled", and why.
    """
    counts = summary(Counter(status.state for status in statuses.values()), len(batch.runs))
    found = causes.causes(batch, statuses)
    lines = [f"{batch.name} {how} after {format_seconds(seconds)} on {socket.gethostname()}: {counts}", ""]
    lines += causes.lines(batch, found[:MOST_CAUSES])
    if len(found) > MOST_CAUSES:
        lines.append(f"and {len(found) - MOST_CAUSES} causes more")
    lines += ["", f"hatlab status {batch.name}; hatlab collect {batch.name}", f"results folder: {batch.results}"]
    return f"hatlab: {batch.name} {how.partition(':')[0]}: {counts}", "\n".join(lines)
