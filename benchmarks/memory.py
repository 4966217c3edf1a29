"""Peak memory of one sweep, in a process that does nothing else: `python -m benchmarks.memory CONFIG RUNS`.

Prints {"peak", "data", "parameters", "activations"} in bytes. `peak` is the highest resident size during the sweep
minus the size before it, after a tiny sweep has loaded all libraries. `data` are the images, one byte a pixel and
channel; `parameters` those of `RUNS` networks, four bytes each.

`activations` is what the backward pass of one step of all runs side by side needs at least, by shape. For n images
of i values and layers of w units: n x (2 i + 5 x sum of w) x 4 bytes a run. That is the image and its dropped-out copy;
of each layer its values before ReLU, after it, its dropout factors, after dropout, and after the gate.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import hatlab
from benchmarks.ours import sweep
from hatlab.data.datasets import load
from hatlab.training.runs import trainers

__all__ = ["activations"]


def activations(inputs: int, units: int, batch_size: int, runs: int) -> int:
    """Return the bytes of the module's formula."""
    return 4 * runs * batch_size * (2 * inputs + 5 * units)


def _resident(which: str) -> int:
    """Bytes of this process: "VmRSS", now, or "VmHWM", the peak."""
    try:
        found = re.search(rf"^{which}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise SystemExit("peak memory is read from Linux's /proc, which is not here")
    return int(found[1]) * 1024


def main(config: hatlab.RunConfig, runs: int) -> dict[str, float]:
    tiny = hatlab.RunConfig(widths=(8,), max_epochs=1, n_tasks=2)
    sweep(tiny.grid(seed=[0, 1]))
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    sweep(config.grid(seed=range(runs)))
    peak = _resident("VmHWM") - before
    run, data = trainers([config])[0], load(config.dataset)
    inputs, units = math.prod(run.sequence.input_shape), sum(run.network.units.values())
    return {
        "peak": peak,
        "data": data.x_train.nbytes + data.x_test.nbytes,
        "parameters": 4 * runs * sum(p.numel() for p in run.network.parameters()),
        "activations": activations(inputs, units, config.batch_size, runs),
    }


if __name__ == "__main__":
    print(json.dumps(main(hatlab.RunConfig.parse(json.loads(sys.argv[1]), "the command line"), int(sys.argv[2]))))
