"""Streams that take nothing: for what happens to a command when its output goes nowhere."""

from __future__ import annotations

import os

import pytest

KINDS = [
    "pipe",
    pytest.param("full disk", marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")),
    "terminal",
]


def dying(kind: str) -> tuple[int, list[int]]:
    """Return a descriptor to write to, and those that have to be closed for it to take nothing."""
    if kind == "full disk":
        return os.open("/dev/full", os.O_WRONLY), []
    reader, writer = os.pipe() if kind == "pipe" else os.openpty()
    return writer, [reader]
