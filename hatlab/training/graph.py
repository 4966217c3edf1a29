"""A step of several runs as a CUDA graph: recorded once, replayed as a whole."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["StepGraph"]


@functools.cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps a workspace, 32 MB on some GPUs, for every stream that it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class StepGraph:
    """A step of all runs of a group.

    Args:
        take: takes a step with the inputs it is given, and returns its losses, (R, 2). It reads and writes tensors
            that stay where they are.
        inputs: name -> the shape and type of a step's input. Recording takes steps with inputs of zeros, and s of one.
        device: a CUDA device.
    """

    def __init__(
        self, take: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor], device: torch.device
    ) -> None:
        self.inputs = {name: torch.zeros_like(values) for name, values in inputs.items()}
        self.inputs["s"].fill_(1)
        self.device = device
        with torch.cuda.device(device):
            aside = _capture_stream(torch.cuda.current_device())
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):  # the warm-up that libraries ask for
                    take(self.inputs)
            torch.cuda.current_stream().wait_stream(aside)
            gc.collect()  # an older graph must not be given up in the midst of this one
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=aside):
                self.losses = take(self.inputs)

    def replay(self, values: Mapping[str, Tensor]) -> Tensor:
        """Take a step with these inputs; the result is overwritten by the next."""
        for name, value in values.items():
            self.inputs[name].copy_(value)
        with torch.cuda.device(self.device):
            self.graph.replay()
        return self.losses
