"""What hatlab is compared with: plain PyTorch, as a competent person would write it for the same network without HAT.

Dropout, pooling and sizes are those of hatlab's networks; images, labels and batch size those of its task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["bare_epoch", "cnn", "loader", "loader_epoch", "mlp", "sgd"]

BATCH = 64


def mlp(inputs: int, widths: Sequence[int], classes: int) -> nn.Sequential:
    """Return `HATMLP` without its gates."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Dropout(0.2)]
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(0.5)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def cnn(classes: int) -> nn.Sequential:
    """Return `HATCNN` for 3 x 32 x 32 without its gates."""
    layers: list[nn.Module] = []
    for inputs, filters, kernel, p in ((3, 64, 4, 0.2), (64, 128, 3, 0.2), (128, 256, 2, 0.5)):
        layers += [nn.Conv2d(inputs, filters, kernel), nn.ReLU(), nn.Dropout(p), nn.MaxPool2d(2)]
    layers.append(nn.Flatten())
    for inputs in (1024, 2048):
        layers += [nn.Linear(inputs, 2048), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(2048, classes))


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.05)


def bare_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """One epoch over images that are in memory, as normalised float32."""
    _train(model, optimizer, ((x[rows], y[rows]) for rows in torch.randperm(len(x)).split(BATCH)))


def loader(root: Path, classes: Sequence[int], n: int, workers: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Return torchvision's MNIST below `root`, the first `n` images of two classes, through a DataLoader."""
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    mnist = datasets.MNIST(str(root), train=True, transform=transform, target_transform=list(classes).index)
    rows = torch.isin(mnist.targets, torch.tensor(classes)).nonzero().flatten()[:n]
    task = torch.utils.data.Subset(mnist, rows.tolist())
    return torch.utils.data.DataLoader(task, batch_size=BATCH, shuffle=True, num_workers=workers)


def loader_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    _train(model, optimizer, batches)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
