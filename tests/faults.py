"""Faults at random moments of a batch, and whether reruns come to what a batch without faults comes to.

    python tests/faults.py --faults 60 --out results/reference/faults

Each fault hits a batch of small notebooks in a results folder of its own; then the same command is called again until
all runs are done, three times at most. A fault is survived if every run is done exactly once, the collected table has
the bytes of one made without faults, and no process is left. tests/test_faults.py tries a few.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import nbformat
import pandas as pd
import psutil

from hatlab.support.files import write_json
from hatlab.support.paths import RUN
from hatlab.support.provenance import checksum, environment, git_state

ROOT = Path(__file__).resolve().parent.parent
N_RUNS = 6
DRAWS = 5  # of a moment, until the batch is not over yet
CALLS = 3  # reruns after the fault, at most
READ_ONLY_SECONDS = 3.0
FULL_SECONDS = (3.0, 15.0)  # less and more than a runner's patience
DISK = 60_000_000  # bytes of the disk that is filled
HATLAB = [sys.executable, "-m", "hatlab"]

PARAMETERS = """\
i: int = 0  # the run
results: str = ""  # where the outcome goes: results/profile/figure
profile: str = "interactive"  # see results
figure: str = "small"  # see results"""

# random numbers, a pause in which things can happen, a table
SMALL = """\
import time
import numpy as np
import pandas as pd
from hatlab.support import artifacts
numbers = np.random.default_rng(i).normal(size=1000)
time.sleep(0.5)
table = pd.DataFrame({"step": range(1000), "value": numbers.cumsum()})
artifacts.save(figure, runs=[], tables={"walk": table}, profile=profile, results=results)"""

# the same, but for an interrupt, which makes a shorter table of it
CATCHES = SMALL.replace(
    "time.sleep(0.5)", "try:\n    time.sleep(0.5)\nexcept KeyboardInterrupt:\n    numbers = numbers * 0"
)

# the same with a module that lies beside the notebook
HELPED = SMALL.replace("import time\n", "import time\nfrom helper import factor\n").replace(
    "size=1000)", "size=1000) * factor"
)
HELPER, CHANGED = "factor = 1\n", "factor = 2\n"

# the same with real training
TRAINING = """\
from hatlab import RunConfig, collect, run
from hatlab.support import artifacts
config = RunConfig(seed=i, widths=(20, 20), batch_size=32, max_epochs=4)
trained = run(config, results=results)
artifacts.save(
    figure, runs=[trained], tables={"walk": collect([trained]).capacity}, profile=profile, results=results
)"""


# what every Python of a batch begins with: a clock that is as many seconds off as a file beside it says
CLOCK = """\
import time
from pathlib import Path
clock, true = Path(__file__).with_name("clock"), time.time
time.time = lambda: true() + float(clock.read_text())"""


class CannotInject(RuntimeError):
    """This machine does not allow the fault."""


@dataclass
class Outcome:
    """One row of the table: what was done, when, and what came of it."""

    fault: str
    notebook: str
    moment: float  # seconds after the command was called; drawn, but later if there was nothing to hit
    hit: str  # what was hit; "" if the batch was over, and then it does not count
    first: str  # states after the first call
    reruns: int
    done: bool
    once: bool
    same_bytes: bool
    no_orphan: bool
    commit: str = ""

    @property
    def survived(self) -> bool:
        return self.done and self.once and self.same_bytes and self.no_orphan


def write_notebook(path: Path, code: str) -> Path:
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


class Lab:
    """A notebook, a results folder, and the commands about them."""

    def __init__(self, folder: Path, code: str, n_runs: int = N_RUNS, helper: str = HELPER) -> None:
        folder.mkdir(parents=True)
        self.n_runs = n_runs
        self.results = folder / "results"
        self.notebook = write_notebook(folder / "small.ipynb", code)
        self.helper = folder / "helper.py"
        if "helper" in code:
            self.helper.write_text(helper)
        self.log = folder / "log.txt"
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.clock = folder / "stepped" / "clock"  # seconds
        self.piped = False  # whether the command's output goes through a pipe that may close

    @contextlib.contextmanager
    def prepared(self, fault: str) -> Iterator[None]:
        """What a fault needs that is not there yet."""
        if fault == "clock stepped back":
            self.clock.parent.mkdir()
            self.clock.with_name("sitecustomize.py").write_text(CLOCK)
            write_json(self.clock, 0)
            self.environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(self.clock.parent)))
        self.piped = fault == "output closed"
        if fault != "disk full":
            yield
            return
        self.results.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.results)]
        if os.geteuid() != 0 or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
            raise CannotInject("no disk can be mounted here")
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(self.results)], check=True)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [
            *HATLAB,
            "batch",
            str(self.notebook),
            "-p",
            f"i=0..{self.n_runs - 1}",
            "--results",
            str(self.results),
        ]
        with self.log.open("ab") as log:
            output = subprocess.PIPE if self.piped else log
            return subprocess.Popen(
                [*command, *(options or ("--workers", "2"))],
                stdout=output,
                stderr=subprocess.STDOUT if self.piped else log,
                env=self.environment,
                cwd=self.notebook.parent,
            )

    def call(self, *options: str) -> int:
        """Call the command as somebody would whom nothing happens to."""
        self.piped = False
        return self.start(*options).wait(timeout=600)

    def ask(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        full = [*HATLAB, command, *options, "--results", str(self.results)]
        return subprocess.run(full, capture_output=True, text=True, cwd=self.notebook.parent)

    def states(self) -> list[str]:
        try:
            return [run["state"] for run in json.loads(self.ask("status", "--json").stdout)["runs"]]
        except ValueError:  # the fault came before there was a batch
            return []

    def table(self) -> Path:
        self.ask("collect")
        return next((self.results / "batches").glob("*/walk.parquet"))

    def kernels(self) -> list[psutil.Process]:
        """Processes that belong to a run below these results."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(RUN, "").startswith(str(self.results)):
                    found.append(process)
        return found

    def folders(self) -> list[Path]:
        return [path.parent for path in (self.results / "notebooks").glob("*/manifest.json")]


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody can write into the folder, or the folders in it, meanwhile; not even root."""
    root = os.geteuid() == 0
    lock, unlock = (
        (["chattr", "-R", "+i"], ["chattr", "-R", "-i"]) if root else (["chmod", "-R", "a-w"], ["chmod", "-R", "u+w"])
    )
    # files that vanish while chattr walks are no matter
    subprocess.run([*lock, str(folder)], stderr=subprocess.DEVNULL)
    try:
        with contextlib.suppress(OSError):
            (folder / "probe").touch()
            raise CannotInject(f"{lock[0]} does not make a folder read-only here")
        yield
    finally:
        subprocess.run([*unlock, str(folder)], stderr=subprocess.DEVNULL)


def kill_kernel(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    kernels = lab.kernels()
    if not kernels:
        return ""
    with contextlib.suppress(psutil.Error):
        rng.choice(kernels).kill()
    return "a kernel"


def kill_runner(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    if command.poll() is not None:
        return ""
    command.kill()
    return f"hatlab batch, with {len(lab.kernels())} kernels"


def make_read_only(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    folder = lab.results / "notebooks"
    if not folder.is_dir() or command.poll() is not None:
        return ""
    with read_only(folder):
        time.sleep(READ_ONLY_SECONDS)
    return f"results/notebooks, for {READ_ONLY_SECONDS:g} s"


def truncate_manifest(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    if not (folders := lab.folders()):
        return ""
    path = rng.choice(folders) / "manifest.json"
    with contextlib.suppress(OSError):
        os.truncate(path, rng.randrange(path.stat().st_size))
    return "the manifest of a run"


def delete_artifact(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    if not (folders := lab.folders()):
        return ""
    path = rng.choice(folders) / rng.choice(["walk.parquet", "walk.csv", "small.ipynb"])
    existed = path.exists()
    path.unlink(missing_ok=True)
    return path.name if existed else ""


def stop_kernel(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    if not (kernels := lab.kernels()):
        return ""
    with contextlib.suppress(psutil.Error):
        rng.choice(kernels).suspend()
    return "a kernel, with SIGSTOP"


def fill_disk(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    if command.poll() is not None or not (lab.results / "notebooks").is_dir():
        return ""
    filler, seconds = lab.results / "filler", rng.uniform(*FULL_SECONDS)
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    time.sleep(seconds)
    filler.unlink()
    return f"for {seconds:.0f} s"


def step_clock(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    if command.poll() is not None:
        return ""
    write_json(lab.clock, -3600)
    return "by an hour"


def flip_bit(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    """In any file of a run: its tables, its record, the checkpoints and weights of its training."""
    found = [*(lab.results / "notebooks").glob("*/*"), *(lab.results / "runs").rglob("*")]
    files = sorted(path for path in found if path.is_file() and path.suffix != ".lock" and path.stat().st_size)
    if not files:
        return ""
    path = rng.choice(files)
    try:
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    except (OSError, ValueError):  # it has just been replaced
        return ""
    return path.name


def interrupt_command(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    if command.poll() is not None or not lab.kernels():
        return ""
    command.terminate()
    return "the notebooks catch it"


def close_output(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    if command.poll() is not None:
        return ""
    command.stdout.close()
    return "standard output and error"


def change_helper(lab: Lab, command: subprocess.Popen[bytes], rng: random.Random) -> str:
    lab.helper.write_text(CHANGED)
    return lab.helper.name


WORKER = "worker killed"  # of a cluster, which the others do without
FAULTS: dict[str, Callable[[Lab, subprocess.Popen[bytes], random.Random], str]] = {
    "kernel killed": kill_kernel,
    "runner killed": kill_runner,
    "folder read-only": make_read_only,
    "manifest truncated": truncate_manifest,
    "artifact deleted": delete_artifact,
    "kernel stopped": stop_kernel,
    "disk full": fill_disk,
    "clock stepped back": step_clock,
    "bit flipped": flip_bit,
    "interrupt caught": interrupt_command,
    "output closed": close_output,
    "helper changed": change_helper,
}
OWN = {"interrupt caught": CATCHES, "helper changed": HELPED}  # faults that need a notebook of their own


@contextlib.contextmanager
def cluster(n_workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler and workers, each a process, on loopback; yields the scheduler's address and the workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        local = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        scheduler = subprocess.Popen([*_dask("scheduler"), *local, "--port", str(port)], **quiet)
        workers = [
            subprocess.Popen(
                [*_dask("worker"), address, *local, "--nthreads", "1", "--no-nanny", "--local-directory", scratch],
                **quiet,
            )
            for _ in range(n_workers)
        ]
        try:
            yield address, workers
        finally:
            for process in (*workers, scheduler):
                process.kill()
                process.wait()


def _dask(what: str) -> list[str]:
    return [sys.executable, "-m", f"distributed.cli.dask_{what}"]


@dataclass
class Expected:
    """A batch that nothing happens to: its collected table, and how long it takes."""

    table: bytes
    seconds: float
    n_runs: int


def reference(folder: Path, code: str, n_runs: int = N_RUNS) -> Expected:
    lab, begun = Lab(folder, code, n_runs, CHANGED), time.monotonic()
    assert lab.call() == 0, lab.log.read_text()
    seconds = time.monotonic() - begun
    return Expected(lab.table().read_bytes(), seconds, n_runs)


def try_fault(folder: Path, fault: str, notebook: str, code: str, expected: Expected, seed: int) -> Outcome:
    """Inject one fault, call again until all is done, and look at what came of it."""
    rng = random.Random(seed)
    lab = Lab(folder, code, expected.n_runs)
    moment = rng.uniform(0, 0.9 * expected.seconds)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lab.prepared(fault))
        options: tuple[str, ...] = ()
        if fault == WORKER:
            address, workers = stack.enter_context(cluster())
            options = ("--scheduler", address)
        command = lab.start(*options)
        begun = time.monotonic()
        time.sleep(moment)
        hit = ""
        while not hit and time.monotonic() - begun < 60:  # there may be nothing to hit yet
            if fault == WORKER:
                hit = "one of two workers" if lab.kernels() else ""
                if hit:
                    workers[rng.randrange(2)].send_signal(signal.SIGKILL)
            else:
                hit = FAULTS[fault](lab, command, rng)
            if not hit and command.poll() is not None:
                break
            time.sleep(0.05)
        moment = time.monotonic() - begun
        if command.stdout is not None and not command.stdout.closed:
            command.communicate(timeout=600)
        command.wait(timeout=600)
        states = lab.states()
        reruns, done = 0, bool(states) and set(states) == {"done"}
        again = fault == "helper changed"  # what was done before is right, by the helper of then
        while again or (not done and reruns < CALLS):
            again = False
            reruns += 1
            done = lab.call(*options) == 0
        table = lab.table() if done else None
        collected = pd.read_parquet(table) if table else pd.DataFrame({"notebook_run": [], "i": []})
        pairs = collected[["notebook_run", "i"]].drop_duplicates()
        time.sleep(1.5)  # a kernel whose watcher was killed notices within a second
        first = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "nothing planned"
        return Outcome(
            fault,
            notebook,
            round(moment, 1),
            hit,
            first,
            reruns,
            done,
            once=len(pairs) == expected.n_runs == pairs["i"].nunique(),
            same_bytes=table is not None and table.read_bytes() == expected.table,
            no_orphan=not lab.kernels(),
        )


def _table(rows: dict[int, Outcome]) -> pd.DataFrame:
    return pd.DataFrame(
        [{**asdict(row), "survived": row.survived} for row in rows.values()], index=pd.Index(rows, name="number")
    )


def _read(out: Path | None) -> dict[int, Outcome]:
    """The rows that an earlier call has written."""
    if out is None or not (out / "faults.csv").exists():
        return {}
    table = pd.read_csv(out / "faults.csv", index_col="number", keep_default_na=False).drop(columns="survived")
    return {int(number): Outcome(**row) for number, row in table.to_dict("index").items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = _read(options.out)
    with tempfile.TemporaryDirectory() as scratch:
        kinds, notebooks = [*FAULTS, WORKER], {"small": SMALL, "training": TRAINING, **OWN}
        expected = {name: reference(Path(scratch) / name, code) for name, code in notebooks.items()}
        for number in range(options.faults):
            fault = kinds[number % len(kinds)]
            notebook = fault if fault in OWN else "training" if number // len(kinds) % 5 in (1, 4) else "small"
            for draw in range(DRAWS):
                if number in rows and (rows[number].hit or not rows[number].survived):
                    break
                folder, seed = Path(scratch) / f"{number}-{draw}", (options.seed * DRAWS + draw) * 10_000 + number
                row = try_fault(folder, fault, notebook, notebooks[notebook], expected[notebook], seed)
                rows[number] = replace(row, commit=(git_state()["commit"] or "")[:12])
                print(number, "survived" if row.survived else "NOT SURVIVED", row, flush=True)
                if row.survived:
                    shutil.rmtree(folder)
                else:
                    print((folder / "log.txt").read_text(), flush=True)
                if options.out:
                    options.out.mkdir(parents=True, exist_ok=True)
                    _table(rows).to_csv(options.out / "faults.csv", index_label="number", lineterminator="\n")
    table = _table(rows)
    if options.out:
        command = f"python tests/faults.py --faults {options.faults} --seed {options.seed}"
        checks = {"faults.csv": checksum(options.out / "faults.csv")}
        write_json(options.out / "manifest.json", {"command": command, "artifacts": checks, **environment()})
    table["was_hit"] = table["hit"] != ""
    print(table.groupby("fault", sort=False)[["was_hit", "survived"]].sum().assign(tried=table.groupby("fault").size()))
    sys.exit(0 if table["survived"].all() else 1)


if __name__ == "__main__":
    main()
