"""Units of runs copied out of their group and back."""

import pytest
import torch

from hatlab.training import trainer as training
from hatlab.training.engine import ReplicaGroup
from hatlab.training.parts import Part
from tests.training.test_engine import QUIET, images_of_size, small_cnn, trainers_of
from tests.training.test_open_units import BASE


def a_part(whole, rows):
    """Some units of each layer of these runs."""
    random = torch.Generator().manual_seed(0)
    units = [
        torch.stack([torch.randperm(n, generator=random)[: n // 2].sort().values for _ in rows])
        for n in whole.network.units.values()
    ]
    return Part(whole, rows, units)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_what_is_copied_in_and_back_is_as_it_was(tmp_path, monkeypatch, network):
    """Runs with something to protect: weights, masks of gradients, embeddings, dropout's position."""
    monkeypatch.setattr(training, "HATCNN", small_cnn)
    base = BASE if network == "mlp" else BASE.replace(dataset=f"npz:{images_of_size(tmp_path, 28, 4)}", network="cnn")
    trainers = trainers_of(base.replace(max_epochs=1).grid(seed=range(3)))
    group = ReplicaGroup(trainers)
    group.train(lambda trainer: None, QUIET, epochs=1)  # through the first task
    group.train_epoch()
    whole = group._state.whole

    def values():
        return [tensor.clone() for tensor in (*whole.state.parameters.values(), whole.state.e, whole.position)]

    before, part = values(), a_part(whole, [0, 2])
    part.copy_back()
    assert all(torch.equal(a, b) for a, b in zip(before, values(), strict=True))
    for tensor in (*part.layout.state.parameters.values(), part.layout.state.e, part.layout.position):
        tensor.add_(1)
    part.copy_back()
    after = values()
    assert all(torch.equal(a[1], b[1]) for a, b in zip(before, after, strict=True))  # another's run
    for a, b, held in zip(before, after, part.layout.state.parameters.values(), strict=False):
        assert int((a != b).sum()) == held.numel()
