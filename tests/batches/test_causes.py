"""Failures by cause: what differs in numbers alone is one, and the command that is told repeats one of its runs."""

import shlex

from hypothesis import given
from hypothesis import strategies as st

from hatlab.batches.causes import _typed, alike, causes, lines, repeat
from hatlab.batches.ledger import NotebookRun, Status
from hatlab.batches.plans import Batch
from hatlab.support.values import values


def failed(cell, error, message, state="failed"):
    return Status(
        state, 1, f"in cell [{cell}] (x): {error}: {message}", error={"cell": cell, "error": error, "message": message}
    )


def made(tmp_path, statuses):
    runs = tuple(
        NotebookRun(
            "n.ipynb", f"sha256:{'ab' * 32}", {"c": k / 4, "mode": "cross"}, {"c": k / 4, "mode": "cross"}, "0", {}
        )
        for k in range(len(statuses))
    )
    batch = Batch("night", runs, tmp_path)
    return batch, {run.run_id: status for run, status in zip(runs, statuses, strict=True)}


def test_like_failures_are_one_cause_and_the_most_frequent_comes_first(tmp_path):
    batch, statuses = made(
        tmp_path,
        [
            failed(2, "ValueError", "no such file"),
            failed(4, "OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB at 0x7f01\nmore"),
            failed(4, "OutOfMemoryError", "CUDA out of memory. Tried to allocate 12.50 GiB at 0x7fab\nless"),
            Status("done", 1),
            failed(5, "OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB at 0x7f01"),
            Status("timed out", 1, "in cell [4] after 10 s", cell=4),
            Status("queued"),
            Status("killed", 1, "whoever ran it was killed, or could not write"),
        ],
    )
    found = causes(batch, statuses)
    assert [(len(cause.runs), cause.state, cause.cell, cause.error) for cause in found] == [
        (2, "failed", 4, "OutOfMemoryError"),
        (1, "failed", 2, "ValueError"),
        (1, "failed", 5, "OutOfMemoryError"),
        (1, "timed out", 4, ""),
        (1, "killed", 0, ""),
    ]
    first, command, *_ = lines(batch, found)
    assert first == (
        f"2 runs failed: cell 4, OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB at 0x7f01"
        f"; first: {batch.runs[1].run_id} (c=0.25)"
    )
    assert command.strip() == repeat(batch, batch.runs[1])


def test_other_cells_states_and_notebooks_are_other_causes():
    run = NotebookRun("n.ipynb", "s", {}, {}, "0", {})
    same = failed(3, "ValueError", "3 of 7")
    others = [
        failed(4, "ValueError", "3 of 7"),
        failed(3, "TypeError", "3 of 7"),
        failed(3, "ValueError", "3 out of 7"),
        failed(3, "ValueError", "3 of 7", "killed"),
    ]
    assert alike(run, same) == alike(run, failed(3, "ValueError", "30 of 71"))
    assert all(alike(run, same) != alike(run, other) for other in others)
    assert alike(run, same) != alike(NotebookRun("m.ipynb", "s", {}, {}, "0", {}), same)


def test_the_command_names_the_copy_the_parameters_and_the_results(tmp_path, monkeypatch):
    batch, _ = made(tmp_path / "out", [Status("queued")])
    monkeypatch.chdir(tmp_path)
    words = shlex.split(repeat(batch, batch.runs[0]))
    assert words[:3] == ["hatlab", "batch", "out/batches/night/notebooks/abababababab.ipynb"]
    assert words[3:] == [
        "-p",
        "c=0.0",
        "-p",
        "mode=cross",
        "--name",
        f"again-{batch.runs[0].run_id}",
        "--results",
        "out",
    ]


def test_a_figure_is_repeated_by_reproduce(tmp_path):
    run = NotebookRun("n.ipynb", "s", {}, {}, "0", {})
    batch = Batch("reproduce-quick", (run,), tmp_path, {run.run_id: "capacity_usage, other"})
    assert repeat(batch, run).startswith("hatlab reproduce --profile quick --only capacity_usage --results ")


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=2)
    ),
    max_leaves=5,
)


@given(plain)
def test_a_parameter_is_typed_so_that_the_same_is_read(value):
    if isinstance(value, str) and ".." in value:
        return  # whole numbers from one to another, which a notebook's text cannot be on the command line
    assert values(_typed(value)) == [value]
