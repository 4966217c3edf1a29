"""A night in small: many notebooks on two workers, with what goes wrong at night; what is known the morning after.

    python tests/night.py --out results/reference/night

Of 120 runs 20 fail in three ways, 3 hang until their time is over, and one fills the disk; all processes are suspended
for two minutes. The night before had the same runs without faults. Then: the message that was received, the causes, the
comparison of both nights, and exports read back with each tracker's library, where that is installed. At last the same
command once more, without the faults, after which all runs have to be done and equal. Needs Apprise; the disk is a
small tmpfs where this user may mount one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import nbformat
import psutil

from hatlab.batches import batches, causes, compare
from hatlab.support.files import write_json
from hatlab.support.provenance import environment

HATLAB = [sys.executable, "-m", "hatlab"]
DISK = 150_000_000  # bytes
FAULTS = {"missing": 8, "memory": 7, "assertion": 5, "hang": 3, "disk": 1}
TIMEOUT = 25

PARAMETERS = """\
i: int = 0  # the run
results: str = ""  # where the outcome goes: results/profile/figure
profile: str = "interactive"  # see results
figure: str = "small"  # see results"""
BEGIN = """\
import json, time
from pathlib import Path
import numpy as np
import pandas as pd
fault = json.loads(Path("faults.json").read_text()).get(str(i), "")
numbers = np.random.default_rng(i).normal(size=200)"""
WORK = """\
print("run", i, "works")
time.sleep(0.5)
if fault == "missing":
    open(f"images-{i}.npz")
if fault == "memory":
    raise MemoryError(f"tried to allocate {i}.50 GiB")
while fault == "hang":
    time.sleep(1)
if fault == "disk":
    place = Path(results) / f"large-{i}"
    try:
        with place.open("wb") as large:
            while True:
                large.write(bytes(10_000_000))
    finally:
        time.sleep(4)  # the others find no room meanwhile
        place.unlink()"""
END = """\
from hatlab.support import artifacts
assert fault != "assertion", "the loss is not finite"
table = pd.DataFrame({"epoch": range(200), "loss": numbers.cumsum()})
artifacts.save(figure, runs=[], tables={"walk": table}, profile=profile, results=results)"""


def notebook(folder: Path) -> Path:
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(code) for code in (BEGIN, WORK, END)]
    path = folder / "night.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def suspend(command: subprocess.Popen[bytes], seconds: float) -> int:
    """Stop the command and all that it started, the guard in its own session too, and let them go on afterwards."""
    family = [psutil.Process(command.pid), *psutil.Process(command.pid).children(recursive=True)]
    for what in (signal.SIGSTOP, signal.SIGCONT):
        for process in family:
            if process.is_running():
                process.send_signal(what)
        if what == signal.SIGSTOP:
            time.sleep(seconds)
    return len(family)


def one_night(folder: Path, faults: dict[int, str], n: int, asleep: float, address: str) -> tuple[Path, float]:
    """Run the batch in a folder of its own; return its results folder and the seconds it took."""
    path = notebook(folder)
    (folder / "faults.json").write_text(json.dumps(faults))
    begun = time.monotonic()
    options = ["-p", f"i=0..{n - 1}", "--workers", "2", "--timeout", str(TIMEOUT), "--name", "night"]
    sends = f"{sys.executable} -c \"import sys; open('mail', 'w').write(sys.stdin.read())\""
    with (folder / "log").open("wb") as log:
        command = subprocess.Popen(
            [*HATLAB, "batch", path.name, *options, "--results", "out", "--notify-command", sends],
            cwd=folder, env={**os.environ, "HATLAB_NOTIFY": address}, stderr=log, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    if asleep:
        time.sleep(min(30, n / 2))
        suspend(command, asleep)
    command.wait()
    return folder / "out", time.monotonic() - begun


def plain(text: str, folder: Path) -> str:
    """Text without what is of this machine."""
    text = text.replace(str(folder), "FOLDER").replace(socket.gethostname(), "HOST").replace(sys.executable, "python")
    return re.sub(r"(?<![\w.])/(?:tmp|home|root|work)/\S*", "PATH", text)


def read_back(kind: str, out: Path, run_id: str) -> int | str:
    """Return how many values of `walk/loss` of a run the tracker's library reads; or why none."""
    code = {
        "csv": "import pandas as pd; t = pd.read_csv(out + '/series.csv'); print(len(t[t.run == run]))",
        "tensorboard": (
            "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator as E; "
            "e = E(out + '/' + run); e.Reload(); print(len(e.Scalars('walk/loss')))"
        ),
        "mlflow": (
            "import mlflow; c = mlflow.MlflowClient('sqlite:///' + out + '/mlflow.db'); "
            "x = [e.experiment_id for e in c.search_experiments() if e.name == 'night']; "
            "r = [r for r in c.search_runs(x, max_results=500) if r.info.run_name == run][0]; "
            "print(len(c.get_metric_history(r.info.run_id, 'walk/loss')))"
        ),
        "trackio": (
            "import trackio; from trackio.sqlite_storage import SQLiteStorage as S; "
            "r = [r for r in trackio.Api().runs('night') if r.name == run][0]; "
            "print(sum('walk/loss' in row for row in S.get_logs('night', r.name, run_id=r.id)))"
        ),
    }[kind]  # fmt: skip
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"out, run = {str(out)!r}, {run_id!r}\n{code}"],
        env={**os.environ, "TRACKIO_DIR": str(out)}, capture_output=True, text=True,
    )  # fmt: skip
    return int(told.stdout.split()[-1]) if told.returncode == 0 else told.stderr.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for night.json and the message; none: only print")
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--asleep", type=float, default=120.0, help="seconds for which all is suspended")
    options = parser.parse_args()
    draw = random.Random(0)
    kinds = [kind for kind, n in FAULTS.items() for _ in range(n)][: options.runs // 2]
    faults = dict(zip(draw.sample(range(options.runs), len(kinds)), kinds, strict=True))
    received: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(HTTPServer(("127.0.0.1", 0), Receiver))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        address = f"json://127.0.0.1:{server.server_port}/hunter2hunter2"
        folders = {name: top / name for name in ("before", "night")}
        mounted = {}
        for name, folder in folders.items():
            folder.mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
            mounted[name] = subprocess.run(mount, capture_output=True).returncode == 0
            if mounted[name]:
                stack.callback(subprocess.run, ["umount", "-l", str(folder)])
        if not mounted["night"]:
            faults = {i: kind for i, kind in faults.items() if kind != "disk"}
        before, took_before = one_night(folders["before"], {}, options.runs, 0, address)
        night, took = one_night(folders["night"], faults, options.runs, options.asleep, address)
        found = batches.find(night, "night")
        statuses = found.statuses()
        told = compare.compare(compare.side(str(before)), compare.side(str(night)))
        exports = {}
        for kind in ("csv", "tensorboard", "trackio", "mlflow"):
            out = top / kind
            command = [*HATLAB, "export", "night", "--to", kind, "--out", str(out), "--results", str(night)]
            done = subprocess.run(command, capture_output=True, text=True)
            (first, *_) = [run for run in found.runs if statuses[run.run_id].state == "done"]
            said = (done.stdout or done.stderr).strip().splitlines()[-1]
            exports[kind] = {
                "said": plain(said, top),
                "read": read_back(kind, out, first.run_id) if out.exists() else "no",
            }
        beside = [
            run.run_id
            for run in found.runs
            if run.values["i"] not in faults and statuses[run.run_id].state != "done"
            and "No space left" not in statuses[run.run_id].reason
        ]  # fmt: skip
        last_words = subprocess.run(
            [*HATLAB, "status", found.runs[min(faults)].run_id, "--results", str(night)], capture_output=True, text=True
        ).stdout
        one_night(folders["night"], {}, options.runs, 0, address)  # what is done is kept
        rerun = dict(Counter(status.state for status in found.statuses().values()))
        same = compare.compare(compare.side(str(before)), compare.side(str(night))).same
        written = b"".join(p.read_bytes() for f in folders.values() for p in f.rglob("*") if p.is_file())
        outcome = {
            "runs": options.runs,
            "faults": dict(Counter(faults.values())),
            "asleep_seconds": options.asleep,
            "disk": f"tmpfs of {DISK / 1e6:.0f} MB" if mounted["night"] else "none could be mounted",
            "seconds": {"before": round(took_before, 1), "night": round(took, 1)},
            "states": dict(Counter(status.state for status in statuses.values())),
            "not_done_without_a_fault_or_a_full_disk": beside,
            "states_after_a_rerun_without_faults": rerun,
            "equal_to_the_night_before_after_the_rerun": same,
            "messages": [[plain(one["title"], top), plain(one["message"], top)] for one in received],
            "mail_is_the_message": (folders["night"] / "mail").read_text().split("\n", 2)[0] == received[-1]["title"],
            "secret_in_files_or_messages": b"hunter2hunter2" in written or "hunter2hunter2" in json.dumps(received),
            "causes": [plain(str(cause), top) for cause in causes.causes(found, statuses)],
            "compare": plain(str(told), top).splitlines(),
            "exports": exports,
            "post_mortem": plain(last_words, top).splitlines(),
            "environment": environment(),
        }
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / "night.json", outcome)
    print(json.dumps(outcome, indent=1))
    fine = not beside and same and rerun == {"done": options.runs} and not outcome["secret_in_files_or_messages"]
    if not fine:
        raise SystemExit("not as expected")


if __name__ == "__main__":
    main()
