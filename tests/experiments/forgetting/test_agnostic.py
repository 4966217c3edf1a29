"""HAT without the task's name: against networks whose outputs are known, and a run that was trained."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import hatlab
from hatlab.analysis.metrics import average_accuracy
from hatlab.config import RunConfig
from hatlab.experiments.forgetting import agnostic, claims
from hatlab.support.progress import Progress
from hatlab.training.records import RecordError

SMALL = RunConfig(widths=(40, 40), dropout=(0, 0), batch_size=16, max_epochs=8, n_tasks=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return hatlab.sweep(SMALL.grid(seed=[0, 1]), results=folder, device="cpu", progress=Progress())


def constant_network(*biases):
    """A network whose heads answer with these logits, whatever the image."""
    network = hatlab.HATMLP((1, 2, 2), [len(bias) for bias in biases], (3,), dropout=(0, 0))
    for head, bias in zip(network.heads, biases, strict=True):
        torch.nn.init.zeros_(head.weight)
        head.bias.data = torch.tensor(bias)
    return network.eval()


def test_entropies_are_shares_of_the_largest_that_the_classes_allow():
    network = constant_network([0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [20.0, 0.0, 0.0])
    found, classes = agnostic.entropies(network, torch.zeros(5, 1, 2, 2), 400.0)
    assert found.shape == classes.shape == (5, 3)
    np.testing.assert_allclose(found, np.tile([1.0, 1.0, 0.0], (5, 1)), atol=1e-5)
    assert classes[:, 2].tolist() == [0] * 5
    p = torch.softmax(torch.tensor([1.0, 0.0]), 0).numpy()
    found, _ = agnostic.entropies(constant_network([1.0, 0.0]), torch.zeros(1, 1, 2, 2), 400.0)
    assert float(found) == pytest.approx(-(p * np.log(p)).sum() / math.log(2))


def test_with_the_task_given_it_is_the_accuracy_of_the_run(runs):
    accuracy, _ = agnostic.without_task(runs)
    for run in runs:
        of_run = accuracy[accuracy["seed"] == run.config.seed]
        assert of_run["given"].mean() == pytest.approx(100 * average_accuracy(run.accuracy))


def test_a_guess_is_right_only_where_the_task_is_found(runs):
    accuracy, confusion = agnostic.without_task(runs)
    assert len(accuracy) == 2 * 3 and len(confusion) == 2 * 3 * 3
    assert (accuracy["guessed"] <= accuracy[["given", "found"]].min(axis=1) + 1e-9).all()
    np.testing.assert_allclose(confusion.groupby(["seed", "task"])["share"].sum(), 100)
    found = confusion[confusion["task"] == confusion["chosen"]]["share"].to_numpy()
    np.testing.assert_allclose(found, accuracy["found"])
    assert accuracy["found"].mean() > 100 / 3


def test_the_sentence_follows_the_table():
    table = pd.DataFrame({"seed": [0, 0, 1, 1], "task": [1, 2, 1, 2], "given": [99.0, 97, 98, 98],
                          "guessed": [60.0, 50, 50, 40], "found": [70.0, 60, 60, 50]})  # fmt: skip
    said = claims.without_task(agnostic.over_seeds(table))
    assert said.startswith("With the task given HAT is right in 98.0% [98.0, 98.0] of the test images")
    assert "entropy of each task's output in 50.0% [" in said and said.endswith("found in 60.0% [-3.5, 123.5] (n = 2).")
    assert "60.0% (n = 1)" not in claims.without_task(agnostic.over_seeds(table[table["seed"] == 0])).replace(
        "65.0%", ""
    )


def test_a_run_without_masks_is_refused(tmp_path):
    run = hatlab.run(SMALL.replace(n_tasks=2, max_epochs=1), results=tmp_path, device="cpu", progress=Progress())
    (run.folder / "checkpoint.pt").unlink()
    with pytest.raises(RecordError, match="has no trained network any more"):
        agnostic.without_task([run])
