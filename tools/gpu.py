"""What a GPU can add, in the minutes that there are: `make gpu MINUTES=30`, or `python tools/gpu.py --minutes 30`.

First the tests on CUDA, then the benchmarks' rows for a GPU, and for the rest of the time the runs of the profile
`paper`, capacity usage and the ablation first, one seed after the other. All is written as it is finished to

    results/gpu/<device>/   manifest.json   device, versions, what was done when, how it ended
                            tests.txt       what pytest said
                            benchmarks/     the rows
                            runs/, runs.csv the finished runs' tables, and one line for each

which is the folder to send back: a results folder of its own, over which the notebooks can be run elsewhere. A second
call goes on: what has passed with the same code is not done again, and runs are taken up where they were.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch

import hatlab
from hatlab.analysis import summary
from hatlab.batches.notebook import Notebook
from hatlab.config import ConfigError, RunConfig
from hatlab.data.datasets import DatasetError
from hatlab.support.console import ConsoleProgress
from hatlab.support.files import atomic, write_json
from hatlab.support.paths import checkout, results_root
from hatlab.support.provenance import environment
from hatlab.support.values import read_yaml
from hatlab.training.records import Record
from hatlab.training.runs import Run, Tables, sweep
from hatlab.training.trainer import TrainingDiverged

# Shares of the time at whose end tests and benchmarks have to be through.
TESTS, BENCHMARKS = 0.3, 0.6
ROWS: Final = ("gpu_sweep_80", "gpu_cnn_step")
PATIENCE: Final = 10  # seconds that an interrupted program may take to end
QUICK: Final = 20  # minutes; with less, rows are measured with fewer runs
PARAMETERS: Final = ("dataset", "network", "widths", "method", "c", "mode", "s_max", "seed")
FIRST: Final = ("capacity_usage", "cross_ablation")  # figures whose names begin so


class Planned(Exception):
    """A notebook has asked for its runs."""


class Deadline(ConsoleProgress):
    """After the deadline the next epoch that ends is a Ctrl-C, from which runs are resumed."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self.end = end

    def epoch_done(self, *arguments: Any) -> None:
        super().epoch_done(*arguments)
        if time.monotonic() > self.end:
            raise KeyboardInterrupt


class Report:
    """The folder that is sent back."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.path = folder, folder / "manifest.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.content = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        name = torch.cuda.get_device_name() if device.startswith("cuda") else device
        self.content |= {"device": name, "cuda": torch.version.cuda, **environment()}
        self.content.setdefault("calls", []).append({"started": now(), "command": ["tools/gpu.py", *sys.argv[1:]]})
        self.write()

    def write(self) -> None:
        write_json(self.path, self.content)

    def once(self, part: str, command: Sequence[str], sources: Iterable[str], seconds: float) -> None:
        """Run `command` unless it has ended well over the same files; its output goes to `<part>.txt`."""
        code, done = code_of(sources), self.content.setdefault("parts", {})
        if (before := done.get(part, {})).get("code") == code and before["ended"] == "well":
            print(f"{part}: ended well before", flush=True)
            return
        print(f"{part}: {' '.join(command)}", flush=True)
        begun = time.monotonic()
        with (self.folder / f"{part}.txt").open("w", encoding="utf-8") as output:
            program = [sys.executable, "-m", *command]
            with subprocess.Popen(program, stdout=output, stderr=output, cwd=checkout()) as process:
                try:
                    returned = process.wait(max(1, seconds))
                    ended = "well" if returned == 0 else f"with exit code {returned}"
                except subprocess.TimeoutExpired:
                    ended = f"out of time after {seconds:.0f} s"
                    stop(process)
                except BaseException:
                    stop(process)
                    raise
        took = round(time.monotonic() - begun, 1)
        done[part] = {"command": list(command), "code": code, "ended": ended, "when": now(), "seconds": took}
        self.write()
        tail = (self.folder / f"{part}.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        print(*tail, f"{part}: ended {ended} in {took} s", sep="\n", flush=True)

    def give_back(self, configs: Sequence[RunConfig], results: Path) -> None:
        """Take over what an earlier call finished, where the results folder has not got it."""
        for config in configs:
            kept, there = self.folder / "runs" / config.run_id, results / "runs" / config.run_id
            if (kept / "manifest.json").exists() and not Record(config, results).finished:
                shutil.copytree(kept, there, dirs_exist_ok=True)

    def take(self, plans: Mapping[str, Sequence[RunConfig]], results: Path) -> None:
        """Copy the finished runs, without checkpoints and CSV files, and write how far each figure is."""
        found: dict[str, Run] = {}
        counts = {}
        for figure, configs in plans.items():
            finished = [record for config in configs if (record := Record(config, results)).finished]
            counts[figure] = {"runs": len(configs), "finished": len(finished)}
            for record in finished:
                run_id = record.config.run_id
                if run_id not in found:
                    tables = Tables(**record.load_tables(list(Tables._fields)))
                    found[run_id] = Run(record.config, record.folder, record.manifest, tables)
                    target = self.folder / "runs" / run_id
                    if not (target / "manifest.json").exists():  # which says that the others are there
                        first = shutil.ignore_patterns("checkpoint.pt", "*.csv", "manifest.json")
                        shutil.copytree(record.folder, target, ignore=first, dirs_exist_ok=True)
                        shutil.copy(record.folder / "manifest.json", target)
        self.content["figures"] = counts
        if found:
            table = summary.by_run(list(found.values()), PARAMETERS)
            with atomic(self.folder / "runs.csv") as temporary:
                table.to_csv(temporary, index=False, lineterminator="\n")
        self.write()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/gpu.py", description="Tests, benchmarks and runs on a GPU.")
    parser.add_argument("--minutes", type=float, default=30, help="after which all ends; 10 are worth it")
    parser.add_argument("--out", type=Path, help="where the device's folder is made; results/gpu if not given")
    parser.add_argument("--device", default="cuda", help="cpu to try it")
    parser.add_argument("--figures", type=Path, default=checkout() / "notebooks" / "figures.yaml", help="the profiles")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--only", nargs="+", metavar="FIGURE", help="these figures of the profile, in this order")
    parser.add_argument("--seeds", type=int, help="at most so many of each figure's seeds")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no CUDA device here: nothing was done", file=sys.stderr)
        return 2
    try:
        figures = listed(options.figures, options.profile, options.only)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    results, plans = results_root(), dict[str, list[RunConfig]]()
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    report = Report((options.out or results / "gpu") / re.sub(r"[^a-z0-9]+", "-", name.lower()), options.device)
    try:
        left = end - time.monotonic()
        test = ["pytest", "tests/gpu", "-v", "-W", "default", "-p", "no:cacheprovider", "--tb=short"]
        report.once("tests", test, ["hatlab", "tests/gpu"], TESTS * left)
        quick = ["--quick"] if options.minutes < QUICK else []
        for row in ROWS:
            row_left = min(BENCHMARKS * left, end - time.monotonic() - (1 - BENCHMARKS) * left)
            # from there, for the folder is sent on, and with it what it says
            output = os.path.relpath(report.folder / "benchmarks", checkout())
            command = ["benchmarks", "--only", row, *quick, "--output", output]
            report.once(row, command, ["hatlab", "benchmarks"], row_left)
        train(figures, plans, report, results, options, end)
    except KeyboardInterrupt:
        print("stopped; the same call goes on", flush=True)
    finally:
        report.take(plans, results)
        report.content["calls"][-1]["ended"] = now()
        report.write()
    for figure, counts in report.content["figures"].items():
        print(f"{figure}: {counts['finished']} of {counts['runs']} runs finished")
    wrong = {part: done["ended"] for part, done in report.content["parts"].items() if done["ended"] != "well"}
    print(*(f"{part}: ended {how}" for part, how in wrong.items()), f"all in {report.folder}", sep="\n")
    return 1 if wrong else 0


def listed(path: Path, profile: str, only: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Return figure -> what figures.yaml says of it, in the order in which they are made."""
    profiles = read_yaml(path.read_text(encoding="utf-8"))
    if profile not in profiles:
        raise ConfigError(f"unknown profile '{profile}' (known: {', '.join(profiles)})")
    figures = profiles[profile]
    if unknown := [figure for figure in only or () if figure not in figures]:
        raise ConfigError(f"unknown figure of profile {profile} '{unknown[0]}' (known: {', '.join(figures)})")
    order = only or sorted(figures, key=lambda figure: [not figure.startswith(first) for first in FIRST])
    return {figure: figures[figure] for figure in order}


def runs_of(path: Path, given: Mapping[str, Any]) -> list[RunConfig]:
    """Return the configs that a notebook hands to its first `sweep`: its cells are run until then, without Jupyter."""
    notebook = Notebook(path, path.read_text(encoding="utf-8"))
    scope = {name: parameter.default for name, parameter in notebook.parameters.items()} | notebook.check(given)

    def catch(configs: Sequence[RunConfig], **_: Any) -> None:
        raise Planned(list(configs))

    display = types.ModuleType("IPython.display")
    display.Markdown = display.display = str  # type: ignore[attr-defined]
    shown = {"IPython": types.ModuleType("IPython"), "IPython.display": display}
    with mock.patch.object(hatlab, "sweep", catch), mock.patch.dict(sys.modules, shown):
        try:
            for cell in notebook.cells:
                if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
                    exec(cell["source"], scope)
        except Planned as planned:
            configs: list[RunConfig] = planned.args[0]
            return configs
    raise ConfigError(f"{path} trains nothing")


def train(
    figures: Mapping[str, Mapping[str, Any]],
    plans: dict[str, list[RunConfig]],
    report: Report,
    results: Path,
    options: argparse.Namespace,
    end: float,
) -> None:
    """Train until the end, the runs of one seed of a figure side by side; `plans` takes each figure's runs.

    Raises:
        KeyboardInterrupt: at the end of the time.
    """
    for figure, entry in figures.items():
        try:
            configs = runs_of(checkout() / "notebooks" / entry["notebook"], entry.get("parameters") or {})
            plans[figure] = configs
            report.give_back(configs, results)
            for seed in sorted({config.seed for config in configs})[: options.seeds]:
                if time.monotonic() > end:
                    raise KeyboardInterrupt
                print(f"{figure}: seed {seed}", flush=True)
                try:
                    same = [config for config in configs if config.seed == seed]
                    sweep(same, results=results, device=options.device, progress=Deadline(end))
                except TrainingDiverged as error:
                    print(f"{figure}: {error}", flush=True)
                report.take(plans, results)
        except DatasetError as error:
            print(f"{figure}: left out. {error}", flush=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a program, so that it tells what it found until then; kill it if that takes long."""
    if os.name == "posix":
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    process.kill()


def code_of(sources: Iterable[str]) -> str:
    """Return a checksum of the Python files in these folders of the checkout."""
    digest = hashlib.sha256()
    for path in sorted(path for source in sources for path in (checkout() / source).rglob("*.py")):
        digest.update(path.relative_to(checkout()).as_posix().encode() + b"\0" + path.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
