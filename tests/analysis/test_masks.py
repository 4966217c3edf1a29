import numpy as np
import pytest
import scipy
import torch

import hatlab
from hatlab.analysis.masks import load_network, task_masks
from hatlab.config import RunConfig
from hatlab.data.loading import Images, TaskData
from hatlab.data.tasks import make_sequence
from hatlab.method.capacity import weights_used
from hatlab.support.progress import Progress
from hatlab.training.jobs import check_network
from hatlab.training.records import RecordError
from hatlab.training.trainer import evaluate

SMALL = RunConfig(widths=(30, 20), batch_size=32, max_epochs=3, n_tasks=3)
QUIET = Progress()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hatlab.run(SMALL, results=tmp_path_factory.mktemp("results"), device="cpu", progress=QUIET)


def test_masks_are_those_with_which_the_run_kept_its_books(run):
    """A task's embedding is not touched later: the masks read at the end make up the cumulative mask of each task."""
    chain, masks = task_masks(run)
    assert chain == check_network(run.config, make_sequence(run.config)).gated_layers
    assert len(masks) == 3 and all(m.dtype == np.float32 for mask in masks for m in mask.values())
    for after, row in run.tasks.iterrows():
        joined = {name: np.max([mask[name] for mask in masks[: after + 1]], axis=0) for name in masks[0]}
        assert weights_used(chain, joined) == row["weights_used"]


def test_the_network_is_the_one_that_was_tested(run):
    sequence = make_sequence(run.config)
    network = load_network(run, sequence)
    assert not network.training
    data = TaskData.of(sequence, Images.of(sequence.datasets, torch.device("cpu")))
    last = run.accuracy[run.accuracy["after_task"] == 2].set_index("task")
    _, masks = task_masks(run)
    for task, split in enumerate(data):
        loss, accuracy = evaluate(network, task, split.test, run.config.s_max)
        assert accuracy == last.loc[task, "accuracy"]
        assert loss == pytest.approx(last.loc[task, "loss"], rel=1e-5)
        for name, mask in network.split(network.mask(task, run.config.s_max)).items():
            np.testing.assert_array_equal(mask.detach(), masks[task][name])


def test_the_chain_of_a_cnn_is_read_off_its_weights(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8), np.arange(16) % 4
    np.savez(tmp_path / "tiny.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    config = RunConfig(dataset=f"npz:{tmp_path / 'tiny.npz'}", network="cnn", max_epochs=1)
    run = hatlab.run(config, results=tmp_path, device="cpu", progress=QUIET)
    chain, (first, _) = task_masks(run)
    assert chain == load_network(run).gated_layers
    assert sum(link.weights for link in chain) == 6_499_328  # the paper's network
    assert {name: len(mask) for name, mask in first.items()} == {
        "c1": 64,
        "c2": 128,
        "c3": 256,
        "fc1": 2048,
        "fc2": 2048,
    }


def test_masks_are_worked_out_in_the_precision_of_the_embeddings(tmp_path):
    config = SMALL.replace(gate_precision="float64", n_tasks=1, max_epochs=1)
    run = hatlab.run(config, results=tmp_path, device="cpu", progress=QUIET)
    e = torch.load(run.folder / "checkpoint.pt", weights_only=True)["network"]["gates"][0]
    assert e.dtype == torch.float64
    _, (mask,) = task_masks(run)
    expected = scipy.special.expit(400 * e.numpy()).astype(np.float32)
    np.testing.assert_allclose(np.concatenate(list(mask.values())), expected, rtol=1e-6)
    assert load_network(run).gates.dtype == torch.float64


def test_without_a_checkpoint_it_says_what_to_do(tmp_path):
    run = hatlab.run(SMALL.replace(n_tasks=1, max_epochs=1), results=tmp_path, device="cpu", progress=QUIET)
    checkpoint = run.folder / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(RecordError, match="was altered"):
        task_masks(run)
    checkpoint.unlink()
    for read in (task_masks, load_network):
        with pytest.raises(RecordError, match=r"checkpoint\.pt does not exist.*give another results folder"):
            read(run)


def test_a_network_without_gates_has_no_masks(tmp_path):
    config = SMALL.replace(method="sgd", c=0, n_tasks=1, max_epochs=1)
    run = hatlab.run(config, results=tmp_path, device="cpu", progress=QUIET)
    with pytest.raises(ValueError, match="method = 'sgd', which has no masks"):
        task_masks(run)
    assert not load_network(run).gated
