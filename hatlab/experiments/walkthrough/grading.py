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
from typing import Any, Final, NamedTuple

import pandas as pd

from hatlab.experiments.walkthrough import cases

__all__ = ["EXERCISES", "Answers", "Returned", "grade", "misconceptions", "points", "read"]

# the second tag of an exercise's cell, in the order of the walkthrough
EXERCISES: Final = ("gate", "slope", "compensation", "factor", "regularizer", "costs", "weights", "training")
STARTING: Final = 300.0  # seconds in which PyTorch has to be imported
RIGHT, MISSING, UNSOLVED, ENDLESS, LATER = "right", "no cell for it", "not answered", "did not end", "not reached"
Answers = dict[str, str]


class Returned(NamedTuple):
    """What is taken from a returned notebook.

    Attributes:
        answers: exercise -> source of its cell.
        claimed: the exercises whose check says "Right" in the notebook's outputs.
        student: whose numbers the exercises ask about; "" for those of everybody.
    """

    answers: Answers
    claimed: list[str]
    student: str


def read(path: Path) -> Returned:
    """Read a returned notebook.

    Raises:
        ValueError: the file is no notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        found, claimed, last = {}, [], ""
        for cell in notebook["cells"]:
            tags = cell.get("metadata", {}).get("tags", [])
            names = [name for name in EXERCISES if f"exercise-{name}" in tags]
            if names and "exercise" in tags:
                last = names[0]
                found[last] = "".join(cell["source"])
            elif "check" in tags and last:
                said = "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))
                claimed += [last] if "Right: " in said else []
        student = str(notebook.get("metadata", {}).get("hatlab", {}).get("student", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is no notebook: {type(error).__name__}: {error}") from None
    return Returned(found, claimed, student)


def grade(
    paths: Sequence[Path], timeout: float = 60.0, gigabytes: float = 4.0, seed: int | None = None
) -> pd.DataFrame:
    """Return one row per notebook and exercise: `student` (the file's name), `exercise`, `points` (1 or 0), `said`
    ("right", the hint, or why there is none) and `remark` (about the notebook).

    Args:
        paths: returned notebooks.
        timeout: seconds for all exercises of a notebook, once PyTorch is imported.
        gigabytes: of memory; on Windows there is no bound.
        seed: the one with which each student's own numbers were drawn; None if all have the same.

    Raises:
        ValueError: before any answer is run: a notebook has a student's own numbers, and there is no seed.
    """
    returned, faults = dict[Path, Returned](), dict[Path, str]()
    for path in paths:
        try:
            returned[path] = read(path)
        except ValueError as error:
            faults[path] = str(error)
    owners = {path: it.student for path, it in returned.items() if it.student}
    if seed is None and owners:
        path, student = next(iter(owners.items()))
        raise ValueError(
            f"{path.name} asks about numbers drawn for {student!r}: the seed they were drawn with is needed"
        )
    rows = []
    for path in paths:
        said, remarks = dict.fromkeys(EXERCISES, MISSING), []
        if path in faults:
            remarks.append(faults[path])
        else:
            found, claimed, student = returned[path]
            if not found:
                remarks.append("has no exercise of this version of the walkthrough")
            elif len(found) < len(EXERCISES):
                remarks.append(f"lacks {', '.join(n for n in EXERCISES if n not in found)}: of another version?")
            if seed is not None and not student:
                remarks.append("has no student's name: graded with everybody's numbers")
            if twins := [other.name for other, name in owners.items() if name == student and other != path]:
                remarks.append(f"has the numbers of {student}, as has {', '.join(twins)}: copied?")
            numbers = cases.COMMON if seed is None or not student else cases.numbers_for(student, seed)
            said |= _graded(found, numbers, timeout, gigabytes)
            if forged := [name for name in claimed if said[name] != RIGHT]:
                remarks.append(f"says Right at {', '.join(forged)}, and it is not: forged?")
        remark = "; ".join(remarks)
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


def _graded(found: Answers, numbers: cases.Numbers, timeout: float, gigabytes: float) -> dict[str, str]:
    """Run the answers in a process of their own, and return what is said of each."""
    with tempfile.TemporaryDirectory() as folder:
        given, told = Path(folder, "answers.json"), Path(folder, "told.json")
        given.write_text(json.dumps({"answers": found, "numbers": numbers}), encoding="utf-8")
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


def _checks(numbers: cases.Numbers) -> dict[str, Callable[[Mapping[str, Any]], None]]:
    import torch

    from hatlab.experiments.walkthrough import exercises

    p, m, read, reading = (torch.tensor(v) for v in (numbers.p, numbers.m, numbers.read, numbers.reading))
    c = numbers.c

    # the functions as they are now: an answer may put others into the module
    check_costs, check_weights = exercises.check_costs, exercises.check_weights_in_use

    def costs(names: Mapping[str, Any]) -> None:
        check_costs("original", names.get("original_costs", ...), p, m, c)
        check_costs("cross", names.get("cross_costs", ...), p, m, c)

    def function(check: Callable[[Any], None], name: str) -> Callable[[Mapping[str, Any]], None]:
        return lambda names: check(names.get(name, ...))

    return {
        "gate": function(exercises.check_gate, "my_gate"),
        "slope": function(exercises.check_slopes, "my_slope"),
        "compensation": function(exercises.check_compensation, "my_compensation"),
        "factor": function(exercises.check_gradient_factor, "my_factor"),
        "regularizer": function(exercises.check_regularizer, "my_regularizer"),
        "costs": costs,
        "weights": lambda names: check_weights(names.get("weights_in_use", ...), read, reading, cases.N_INPUTS),
        "training": function(exercises.check_training, "learn"),
    }


def _run(given: Path, told: Path, gigabytes: float) -> None:
    """In the process of one notebook: put each answer to its check, and write what is said after each."""
    import torch
    from torch import nn

    from hatlab.experiments.walkthrough.exercises import NotYet

    asked = json.loads(given.read_text(encoding="utf-8"))
    found, numbers = asked["answers"], cases.Numbers(*asked["numbers"])
    checks, dumps, replace = _checks(numbers), json.dumps, os.replace  # before any code of a student's
    partial = told.with_suffix(".part")
    partial.write_text("{}", encoding="utf-8")
    replace(partial, told)  # the time is counted from here on
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
