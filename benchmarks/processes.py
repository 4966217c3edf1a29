"""The other way to use all cores: one process per core, each with one thread and a part of the runs.

`python -m benchmarks.processes CONFIG SEEDS...` is such a process: it trains one epoch of its runs for each line it
reads, side by side, and answers with a line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import hatlab
from benchmarks.ours import Epochs
from benchmarks.timing import threads
from hatlab.support.paths import home

__all__ = ["Processes"]


class Processes:
    """One process for each of `parts`, the seeds that it trains; they work while called, and wait otherwise."""

    def __init__(self, config: hatlab.RunConfig, parts: Sequence[Sequence[int]]) -> None:
        command = [sys.executable, "-m", "benchmarks.processes", config.to_json()]
        self._children = [
            subprocess.Popen(
                [*command, *map(str, seeds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=home()
            )
            for seeds in parts
        ]
        self._answers()

    def __call__(self) -> None:
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        self._answers()

    def _answers(self) -> None:
        for child in self._children:
            assert child.stdout is not None
            if not child.stdout.readline():
                raise RuntimeError(f"a process of the benchmark ended with exit code {child.wait()}")

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
            child.communicate()


def main(config: hatlab.RunConfig, seeds: Sequence[int]) -> None:
    with threads(1):
        epochs = Epochs(config.grid(seed=seeds))
        print("ready", flush=True)
        for _ in sys.stdin:
            epochs()
            print("done", flush=True)


if __name__ == "__main__":
    main(hatlab.RunConfig.parse(json.loads(sys.argv[1]), "the command line"), [int(seed) for seed in sys.argv[2:]])
