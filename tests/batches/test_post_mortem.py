"""What is kept of a failed run: frames with shapes and short values, nothing secret, output and cost."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from notebooks_for_tests import write

from hatlab.batches import batches, post_mortem
from hatlab.batches.ledger import Entry

SECRET = "hunter2hunter2"


class Loud:
    """Says its secret to whoever asks."""

    def __repr__(self):
        raise AssertionError("nobody asks")


def inner(weights, password, n):
    table = pd.DataFrame({"a": [1, 2]})
    text, address = "short", f"https://user:{SECRET}@host"  # noqa: F841
    long, loud, from_outside = "x y " * 100, Loud(), f"bearer {SECRET}"  # noqa: F841
    numbers, half = [0] * 1000, np.float32(0.5)  # noqa: F841
    assert n < 0, len(table)


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setenv("SOME_API_TOKEN", SECRET)
    try:
        inner(torch.zeros(3, 4), SECRET, 10**3)
    except AssertionError as error:
        monkeypatch.setattr(sys, "last_value", error, raising=False)
    return post_mortem.frames()


def test_values_are_described_by_shape_and_type_and_short_ones_shown(told):
    for line in (
        "weights = torch.Tensor shape (3, 4) torch.float32 cpu",
        "table = pandas.DataFrame shape (2, 1)",
        "text = 'short'",
        "n = 1000",
        "numbers = list of 1000",
        f"loud = {__name__}.Loud",
    ):
        assert f"\n    {line}" in told.replace("pandas.core.frame.DataFrame", "pandas.DataFrame"), told
    assert "long = str of 400 characters: 'x y" in told and "inner, test_post_mortem.py, line " in told


def test_nothing_secret_is_told(told):
    assert SECRET not in told
    assert "password = (not shown)" in told and "address = str of" in told and "from_outside = str of" in told


def test_without_an_error_there_are_no_frames(monkeypatch):
    monkeypatch.delattr(sys, "last_value", raising=False)
    assert post_mortem.frames() == ""


@given(
    st.sampled_from(
        [
            "password",
            "db_passwd",
            "API_KEY",
            "apikey",
            "my_token",
            "client_secret",
            "key",
            "ssh_key",
            "auth_header",
            "cookie",
        ]
    )
)
def test_names_that_sound_like_secrets(name):
    assert post_mortem._described(name, "x", set()) == post_mortem.HIDDEN


@pytest.mark.parametrize("name", ["keys_seen", "monkey", "author", "value", "c", "keyword"])
def test_names_that_do_not(name):
    assert post_mortem._described(name, 3, set()) == "3"


def test_a_failed_run_leaves_a_post_mortem_and_one_that_works_takes_it_away(tmp_path):
    code = [
        "import torch\nfrom pathlib import Path\nprint('a line of output')",
        "def step(batch, token='hun' + 'ter2'):\n    print('step', batch.shape)\n    return batch @ batch\n"
        "if not Path('fixed').exists():\n    step(torch.zeros(2, 3))",
    ]
    notebook = write(tmp_path / "n.ipynb", *code, parameters="i: int = 0  # the run", place=True)
    done = batches.batch(notebook, results=tmp_path / "out", workers=1)
    (run,) = done.runs
    entry = Entry(tmp_path / "out", run.run_id)
    text = (entry.folder / post_mortem.FILE).read_text()
    for part in (
        run.run_id,
        "RuntimeError",
        "Traceback",
        "batch = torch.Tensor shape (2, 3) torch.float32 cpu",
        "token = (not shown)",
        "step torch.Size([2, 3])",
        "step, cell, line",
    ):
        assert part in text, text
    assert "hunter2" not in text.partition("Values in its frames")[2]
    status = entry.status()
    assert (
        [cell["cell"] for cell in status.cells] == [1, 2, 3, 4]
        and status.cells[2]["cpu"] > 0.1
        and "frames" not in status.error
    )
    assert status.cpu == pytest.approx(sum(cell["cpu"] for cell in status.cells), abs=0.02) and status.cpu > 0.1
    assert text.count("\n") > 10 and "import torch" in text.partition("CPU s")[2]
