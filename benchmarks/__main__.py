"""Measure the rows of the table: `python -m benchmarks`, or `make bench`."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report
from benchmarks.images import Images
from benchmarks.machine import describe, other_work, slug
from benchmarks.report import Record
from benchmarks.table import ROWS, NotMeasured, Row, Setting
from hatlab.support.paths import home
from hatlab.support.provenance import git_state

for part in ("single", "closed", "sweep", "batch", "gpu"):  # in the table's order
    importlib.import_module(f"benchmarks.rows_{part}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory of hatlab as ratios.")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=ROWS, help="measure these, keep the file's others")
    parser.add_argument("--list", action="store_true", help="name the rows and do nothing else")
    parser.add_argument("--quick", action="store_true", help="fewer, shorter runs; not into results/reference/")
    parser.add_argument("--output", type=Path, help="folder of the JSON file and figure")
    options = parser.parse_args(arguments)
    if options.list:
        for row in ROWS.values():
            print(f"{row.name:<22} {row.target:<19} {row.what}")
        return 0
    folder = options.output or home() / "results" / ("benchmarks" if options.quick else "reference/benchmarks")
    machine = describe()
    path = folder / f"{slug(machine)}.json"
    print(", ".join(f"{name} {value}" for name, value in machine.items() if value is not None))
    print(report.HEADER, flush=True)
    old, new = report.read(path), []
    with tempfile.TemporaryDirectory() as made:
        setting = Setting(Images(Path(made)), options.quick)
        try:
            for name in options.only or ROWS:
                new.append(measure(ROWS[name], setting))
                print(report.line(new[-1]), flush=True)
                report.write(path, machine, report.merge(ROWS, old, new))
        except KeyboardInterrupt:
            print("Stopped: what was measured is kept.", file=sys.stderr)
    rows = report.merge(ROWS, old, new)
    report.plot(path.with_suffix(".png"), machine, rows)
    report.plot_closed(path.with_name(f"{path.stem}-closed.png"), machine, rows)
    print(f"written to {path}")
    return 130 if len(new) < len(options.only or ROWS) else 0


def measure(row: Row, setting: Setting) -> Record:
    """Measure one row; add when, at which commit, and how busy others kept the machine meanwhile."""
    begun, others = time.perf_counter(), other_work()
    try:
        measured = row.measure(setting)
    except NotMeasured as error:
        return report.unmeasured(row, str(error))
    took, now = time.perf_counter() - begun, other_work()
    busy = None if others is None or now is None else round(max(0.0, now - others) / took, 2)
    more = {"minutes": round(took / 60, 2), "cores_busy_with_other_work": busy, "quick": setting.quick}
    return report.record(row, measured, **more, commit=git_state()["commit"])


if __name__ == "__main__":
    sys.exit(main())
