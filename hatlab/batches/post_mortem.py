"""What is kept of a run that did not come to its end: the frames of the error with their values, output, cost by cell.

`frames` runs in the kernel, after the error. It describes values and does not show them whole: shapes and types,
numbers, short text; of a name that sounds like a secret, and of a value that stands in the environment under such a
name, nothing. No method of a value is called but of those types that are known here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import Any, Final

__all__ = ["FILE", "frames", "text"]

FILE: Final = "post_mortem.txt"
MOST_FRAMES, MOST_NAMES, MOST_TEXT, MOST_LINES = 12, 25, 60, 20
SECRET: Final = re.compile(
    r"passw|secret|token|credential|api_?key|private|auth(?!or)|cookie|(^|_)(key|pwd|pat)($|_)", re.IGNORECASE
)
IN_TEXT: Final = re.compile(
    r"://[^/\s]*:[^/\s]*@|[A-Za-z0-9+/_-]{32,}"
)  # a password in an address, or what looks like a key
HIDDEN: Final = "(not shown)"


def frames() -> str:
    """Return the frames of the last error in this process, outermost first, each with the values of its names."""
    error = getattr(sys, "last_value", None)
    found: list[FrameType] = []
    lines: list[int] = []
    step: TracebackType | None = error.__traceback__ if isinstance(error, BaseException) else None
    while step is not None:
        found.append(step.tb_frame)
        lines.append(step.tb_lineno)
        step = step.tb_next
    told = []
    secrets = {value for name, value in os.environ.items() if SECRET.search(name) and len(value) > 3}
    chosen = [
        (f, n) for f, n in zip(found, lines, strict=True) if f.f_code.co_name not in ("run_code", "run_ast_nodes")
    ]
    for frame, line in chosen[-MOST_FRAMES:]:
        code = frame.f_code
        place = (
            "cell"
            if "ipykernel" in code.co_filename or code.co_filename.startswith("<")
            else Path(code.co_filename).name
        )
        told.append(f"{code.co_name if code.co_name != '<module>' else 'the cell'}, {place}, line {line}")
        names = [n for n in dict.fromkeys((*code.co_varnames, *code.co_names)) if n in frame.f_locals]
        for name in [n for n in names if _is_told(n, frame.f_locals[n])][:MOST_NAMES]:
            told.append(f"    {name} = {_described(name, frame.f_locals[name], secrets)}")
    return "\n".join(told)


def _is_told(name: str, value: Any) -> bool:
    return not name.startswith("_") and not isinstance(value, ModuleType | FunctionType | type)


def _described(name: str, value: Any, secrets: set[str]) -> str:
    if SECRET.search(name):
        return HIDDEN
    kind = type(value)
    if value is None or kind in (bool, float, complex):
        return repr(value)
    if kind is int:
        return repr(value) if value.bit_length() < 200 else f"int of {value.bit_length()} bits"
    if kind is str:
        if any(secret in value for secret in secrets) or IN_TEXT.search(value):
            return f"str of {len(value)} characters {HIDDEN}"
        return repr(value) if len(value) <= MOST_TEXT else f"str of {len(value)} characters: {value[:MOST_TEXT]!r}…"
    if kind in (list, tuple, set, frozenset, dict, bytes):
        return f"{kind.__name__} of {len(value)}"
    if (named := f"{kind.__module__}.{kind.__qualname__}").startswith(("torch.", "numpy.", "pandas.")):
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        parts = (
            f"shape {tuple(shape)}" if shape is not None else "",
            str(dtype or ""),
            str(getattr(value, "device", "")),
        )
        return " ".join(filter(None, (named, *parts)))
    return named


def text(
    run: str, reason: str, traceback: str, told: str, output: Sequence[str], cells: Sequence[Mapping[str, Any]]
) -> str:
    """Return the post-mortem of a run, as people read it.

    Args:
        run: the run's id and what tells it from others.
        reason: why it ended.
        traceback: as the cell shows it; "" if there is none.
        told: what `frames` returned in the kernel; "" if it was gone.
        output: the last cell's output, by line.
        cells: as in `Status.cells`.
    """
    parts = [run, reason, ""]
    if traceback:
        parts += ["Traceback", *(f"    {line}" for line in traceback.splitlines()), ""]
    if told:
        parts += ["Values in its frames", *(f"    {line}" for line in told.splitlines()), ""]
    if output:
        parts += ["Last lines of output", *(f"    {line}" for line in output[-MOST_LINES:]), ""]
    parts += ["cell  seconds  CPU s  most memory"]
    parts += [
        f"{c['cell']:4}  {c['seconds']:7.1f}  {c['cpu']:5.1f}  {c['memory'] / 1e9:8.2f} GB  {c['source']}"
        for c in cells
    ]
    return "\n".join(parts) + "\n"
