import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from hatlab.batches import processes
from hatlab.batches.processes import GUARD, end_marked, guard, marked, memory
from hatlab.support.paths import RUN

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")


def wait(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_those_of_one_run_end_and_no_others(tmp_path):
    sleep = ["sleep", "300"]
    mine = subprocess.Popen(sleep, env={**os.environ, RUN: str(tmp_path / "a")})
    other = subprocess.Popen(sleep, env={**os.environ, RUN: str(tmp_path / "ab")})
    try:
        assert end_marked(RUN, str(tmp_path / "a")) == 1
        assert mine.wait(10) == -9 and other.poll() is None
    finally:
        mine.kill(), other.kill()
        mine.wait(), other.wait()


WATCHER = """\
import os, subprocess, sys, time
from hatlab.batches.processes import GUARD, guard
mark = guard()
subprocess.Popen(["sleep", "300"], env={**os.environ, GUARD: mark}, start_new_session=True)
print(mark, flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM, None])
def test_what_a_process_watches_over_ends_with_it_however_it_ends(end):
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCHER, "0" if end is None else "300"],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        mark = watcher.stdout.readline().strip()
        assert mark
        if end is not None:
            wait(lambda: len(marked(GUARD, mark)) == 1)  # a process that has just begun shows no environment yet
            os.killpg(watcher.pid, end)  # the guard is in no group that a terminal or a batch system knows
        watcher.communicate(timeout=60)
        wait(lambda: not marked(GUARD, mark))
    finally:
        watcher.kill()
        watcher.communicate()


def test_there_is_one_guard_and_another_if_it_is_killed():
    mark = guard()
    first = processes._guard[1]
    assert guard() == mark and processes._guard[1] is first
    first.kill()
    first.wait()
    assert guard() == mark and processes._guard[1].pid != first.pid


FAMILY = """\
import os, time
held = bytearray(os.urandom(1)) * 200_000_000
children = [os.fork() for _ in range(4) if os.getpid() == PARENT]
if os.getpid() == PARENT:
    print("ready", flush=True)
time.sleep(300)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell which pages are shared")
def test_pages_that_afamily_shares_count_once_and_no_stranger_is_looked_at(monkeypatch):
    code = FAMILY.replace("PARENT", "parent").replace("import os, time", "import os, time\nparent = os.getpid()")
    family = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert family.stdout.readline() == "ready\n"
        monkeypatch.setattr(psutil, "pids", lambda: pytest.fail("all processes of the machine were listed"))
        assert len(processes.family(family.pid)) == 5
        assert 200e6 < memory(family.pid) < 400e6
    finally:
        os.killpg(family.pid, signal.SIGKILL)
        family.communicate()
    assert memory(family.pid) == 0
