"""Grade returned copies of the walkthrough: points per exercise, with the mistake named.

Only the cells for answers are taken from a returned notebook, and put to hatlab's own checks: what a student has made
of a check counts for nothing. Each notebook is run in a process of its own, for a bounded time and with bounded
memory; what was graded before one that does not end is kept. It is no sandbox: run it where students' code may run.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

__all__ = ["EXERCISES", "Answers", "answers", "grade", "misconceptions", "points"]

# the second tag of an exercise's cell, in the order of the walkthrough
EXERCISES: Final = ("gate", "slope", "compensation", "factor", "regularizer", "costs", "weights", "training")
STARTING: Final = 300.0  # seconds in which PyTorch has to be imported
RIGHT, MISSING, UNSOLVED, ENDLESS, LATER = "right", "no cell for it", "not answered", "did not end", "not reached"
Answers = dict[str, str]


def answers(path: Path) -> tuple[Answers, list[str]]:
    """Return exercise -> source of its cell, and the exercises whose check says "Right" in the notebook's outputs.

    Raises:
        ValueError: the file is no notebook.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found, claimed, last = {}, [], ""
        for cell in cells:
            tags = cell.get("metadata", {}).get("tags", [])
            names = [name for name in EXERCISES if f"exercise-{name}" in tags]
            if names and "exercise" in tags:
                last = names[0]
                found[last] = "".join(cell["source"])
            elif "check" in tags and last:
                said = "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))
                claimed += [last] if "Right: " in said else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is no notebook: {type(error).__name__}: {error}") from None
    return found, claimed


def grade(paths: Sequence[Path], timeout: float = 60.0, gigabytes: float = 4.0) -> pd.DataFrame:
    """Return one row per notebook and exercise: `student` (the file's name), `exercise`, `points` (1 or 0), `said`
    ("right", the hint, or why there is none) and `remark` (about the notebook).

    Args:
        paths: returned notebooks.
        timeout: seconds for all exercises of a notebook, once PyTorch is imported.
        gigabytes: of memory; on Windows there is no bound.
    """
    rows = []
    for path in paths:
        said = dict.fromkeys(EXERCISES, MISSING)
        remark, claimed = "", list[str]()
        try:
            found, claimed = answers(path)
            if not found:
                remark = "has no exercise of this version of the walkthrough"
            elif len(found) < len(EXERCISES):
                remark = f"lacks {', '.join(name for name in EXERCISES if name not in found)}: of another version?"
            said |= _graded(found, timeout, gigabytes)
        except ValueError as error:
            remark = str(error)
        if forged := [name for name in claimed if said[name] != RIGHT]:
            remark = f"{remark}; says Right at {', '.join(forged)}, and it is not: forged?".removeprefix("; ")
        rows += [(path.stem, name, int(said[name] == RIGHT), said[name], remark) for name in EXERCISES]
    return pd.DataFrame(rows, columns=["student", "exercise", "points", "said", "remark"])


def points(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per student: points of each exercise, their `sum`, and the `remark`."""
    wide = table.pivot(index="student", columns="exercise", values="points")[list(EXERCISES)]
    return wide.assign(sum=wide.sum(axis=1), remark=table.groupby("student")["remark"].first())


def misconceptions(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many students were told what: a row per `exercise` and hint, the most frequent first."""
    told = table[~table["said"].isin([RIGHT, MISSING, UNSOLVED, LATER])]
    counts = told.groupby(["exercise", "said"], sort=False).size().rename("students").reset_index()
    order = counts["exercise"].map(EXERCISES.index)
    return counts.assign(order=order).sort_values(["order", "students"], ascending=[True, False]).drop(columns="order")


def _graded(found: Answers, timeout: float, gigabytes: float) -> dict[str, str]:
    """Run the answers in a process of their own, and return what is said of each."""
    with tempfile.TemporaryDirectory() as folder:
        given, told = Path(folder, "answers.json"), Path(folder, "told.json")
        given.write_text(json.dumps(found), encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(given), str(told), str(gigabytes)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            begun = time.monotonic()
            while process.poll() is None and not told.exists() and time.monotonic() < begun + STARTING:
                time.sleep(0.05)
            process.wait(timeout)
            ended = "ended the process"
        except subprocess.TimeoutExpired:
            ended = ENDLESS
        finally:
            _kill(process)
        said: dict[str, str] = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}
    left = [name for name in EXERCISES if name in found and name not in said]
    return said | {name: LATER if k else ended for k, name in enumerate(left)}


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, 9)  # and what it has started
        else:
            process.kill()
    process.wait()


def _checks() -> dict[str, Callable[[Mapping[str, Any]], None]]:
    import torch

    from hatlab.experiments.walkthrough import exercises

    p, m = torch.tensor([1.0, 1, 1, 0, 0, 0, 0]), torch.tensor([1.0, 1, 0, 1, 0, 0, 0])
    read, reading = torch.tensor([0.9, 1.0, 0.0, 0.2, 1.0]), torch.tensor([1.0, 0.0, 0.7, 0.1, 0.0])

    # the functions as they are now: an answer may put others into the module
    check_costs, check_weights = exercises.check_costs, exercises.check_weights_in_use

    def costs(names: Mapping[str, Any]) -> None:
        check_costs("original", names.get("original_costs", ...), p, m, 3)
        check_costs("cross", names.get("cross_costs", ...), p, m, 3)

    def function(check: Callable[[Any], None], name: str) -> Callable[[Mapping[str, Any]], None]:
        return lambda names: check(names.get(name, ...))

    return {
        "gate": function(exercises.check_gate, "my_gate"),
        "slope": function(exercises.check_slopes, "my_slope"),
        "compensation": function(exercises.check_compensation, "my_compensation"),
        "factor": function(exercises.check_gradient_factor, "my_factor"),
        "regularizer": function(exercises.check_regularizer, "my_regularizer"),
        "costs": costs,
        "weights": lambda names: check_weights(names.get("weights_in_use", ...), read, reading, 64),
        "training": function(exercises.check_training, "learn"),
    }


def _run(given: Path, told: Path, gigabytes: float) -> None:
    """In the process of one notebook: put each answer to its check, and write what is said after each."""
    import torch
    from torch import nn

    from hatlab.experiments.walkthrough.exercises import NotYet

    checks, dumps, replace = _checks(), json.dumps, os.replace  # before any code of a student's
    partial = told.with_suffix(".part")
    partial.write_text("{}", encoding="utf-8")
    replace(partial, told)  # the time is counted from here on
    found = json.loads(given.read_text(encoding="utf-8"))
    with contextlib.suppress(ImportError):
        import resource

        most = int(gigabytes * 1e9) + 8_000_000_000  # torch's libraries take address space that is never touched
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    names: dict[str, Any] = {"torch": torch, "nn": nn, "__builtins__": builtins}
    said: dict[str, str] = {}
    for name in EXERCISES:
        if name not in found:
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(found[name], f"the answer to {name}", "exec"), names)
                checks[name](names)
            said[name] = RIGHT
        except NotYet as hint:
            said[name] = UNSOLVED if "replace the dots" in str(hint) else str(hint)
        except MemoryError:
            said[name] = f"ends in an error: more than {gigabytes:g} GB of memory"
        except BaseException as error:
            said[name] = f"ends in an error: {type(error).__name__}: {error}"[:300]
        partial.write_text(dumps(said), encoding="utf-8")
        replace(partial, told)


if __name__ == "__main__":
    _run(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
