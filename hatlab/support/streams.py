"""Streams whose failures reach nobody: a closed pipe, a terminal that is gone, a full disk.

What is shown matters less than what is done, so text that cannot be written is dropped and the work goes on. The next
text is tried again: a disk does not stay full.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO

__all__ = ["Tolerant", "guard_standard_streams", "tell_lost_output"]


class Tolerant(io.TextIOBase):
    """Writes to any text stream and drops what it does not take. None, Python's for a closed one, takes nothing."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                # one character that the encoding lacks does not cost the line
                self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
                self._stream.flush()
        return len(text)


class _Raw(io.FileIO):
    """A file descriptor that takes all that is written to it; `problem` is the last that was in the way."""

    problem: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                written = super().write(rest)
                if written is None:  # whoever shares it has set it not to block
                    select.select((), (self,), ())
                else:
                    rest = rest[written:]
        except OSError as error:
            self.problem = error
        return size


def guard_standard_streams() -> None:
    """Have nothing fail that this process writes to standard output and standard error, its end included.

    For a command: `sys.stdout` and `sys.stderr` are replaced where they are what the process was started with.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would be taken for the stream
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        buffer = getattr(old, "buffer", None)
        buffered = isinstance(buffer, io.BufferedWriter)  # not with python -u
        raw = buffer.raw if isinstance(buffer, io.BufferedWriter) else buffer
        if old is not None and not (isinstance(raw, io.FileIO) and raw.fileno() == number):
            continue  # a test's, or Windows' console
        new = _Raw(number, "w", closefd=False)
        errors = getattr(old, "errors", "strict")
        text = io.TextIOWrapper(
            io.BufferedWriter(new) if buffered else new,
            encoding=getattr(old, "encoding", "utf-8"),
            errors="backslashreplace" if errors == "strict" else errors,
            line_buffering=getattr(old, "line_buffering", True),
            write_through=not buffered,
        )
        setattr(sys, name, text)


def tell_lost_output() -> None:
    """Say on standard error if standard output could not be written. A reader who has gone, as `head` does, knows."""
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if isinstance(raw, _Raw):
        sys.stdout.flush()
        if raw.problem is not None and raw.problem.errno != errno.EPIPE:
            print(f"part of the output is lost: standard output: {raw.problem.strerror}", file=sys.stderr)
