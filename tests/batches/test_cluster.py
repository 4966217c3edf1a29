"""What runs may take, and who works on them: threads, workers with resources on loopback and under a batch system."""

import json
import math
import os
import stat
import subprocess
import sys
import time
from itertools import pairwise

import psutil
import pytest
from distributed import Client
from faults import ROOT, _dask, cluster
from hypothesis import given
from hypothesis import strategies as st
from notebooks_for_tests import write

from hatlab.batches.batches import batch
from hatlab.batches.cluster import LEAST_MEMORY, LONGEST, MOST_MEMORY, Limits, Scheduler, Threads
from hatlab.batches.ledger import NotebookRun
from hatlab.batches.runner import Assignment, _Watch
from hatlab.config import ConfigError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")


def test_nothing_listens_while_threads_make_the_runs(tmp_path, monkeypatch):
    def listening():
        return {c.laddr for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"}

    seen, before = [], listening()
    beat = _Watch._beat
    monkeypatch.setattr(_Watch, "_beat", lambda watch, execution: (seen.append(listening()), beat(watch, execution)))
    assert batch(write(tmp_path / "n.ipynb", "1"), results=tmp_path, workers=2).done
    assert seen and all(found == before for found in seen)


def test_kernels_share_the_cores_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr("dask.system.CPU_COUNT", 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Threads(2).environment == {"OMP_NUM_THREADS": "4"}
    assert Threads(16).environment == {"OMP_NUM_THREADS": "1"}
    assert Scheduler("tcp://elsewhere:1").environment == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert Threads(2).environment == {}


def test_two_notebooks_at_once_have_a_core_each_on_two_cores(tmp_path, monkeypatch):
    """What the libraries in the kernels make of OMP_NUM_THREADS: torch, and those that NumPy and SciPy bring."""
    code = (
        "import json\nfrom pathlib import Path\nimport scipy.linalg\nimport torch\nimport threadpoolctl\n"
        "pools = {pool['filepath']: pool['num_threads'] for pool in threadpoolctl.threadpool_info()}\n"
        "Path(results, f'threads-{i}').write_text(json.dumps([torch.get_num_threads(), *pools.values()]))"
    )
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 0  # the run", place=True)
    monkeypatch.setattr("dask.system.CPU_COUNT", 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # for the tests it is 1
    assert batch(notebook, over={"i": [0, 1]}, results=tmp_path, workers=2).done
    for i in range(2):
        threads = json.loads((tmp_path / f"threads-{i}").read_text())
        assert len(threads) > 1 and set(threads) == {1}


def test_one_run_for_each_gpu_of_a_box(tmp_path):
    """The recipe of docs/cluster.md, with the number of a GPU in the environment of each worker and no GPU."""
    code = (
        "import os, time\nfrom pathlib import Path\n"
        "Path(results, f'gpu-{i}').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\ntime.sleep(0.3)"
    )
    notebook = write(tmp_path / "n.ipynb", code, parameters="i: int = 0  # the run", place=True)
    with cluster(0) as (address, _):
        workers = [
            subprocess.Popen(
                [*_dask("worker"), address, "--nthreads", "4", "--resources", "GPU=1", "--no-nanny", "--host",
                 "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--local-directory", tmp_path / gpu],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for gpu in ("0", "1")
        ]  # fmt: skip
        try:
            with Client(address, timeout=300) as client:  # or one worker could have made all before the other is there
                client.wait_for_workers(2)
            found = batch(notebook, over={"i": range(4)}, results=tmp_path, scheduler=address, resources={"GPU": 1})
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert found.done
    on = {i: (tmp_path / f"gpu-{i}").read_text() for i in range(4)}
    assert set(on.values()) == {"0", "1"}
    statuses = {run.values["i"]: found.entry(run).written() for run in found.runs}
    for gpu in ("0", "1"):
        turns = sorted((statuses[i].started, statuses[i].ended) for i in on if on[i] == gpu)
        assert all(ended <= started for (_, ended), (started, _) in pairwise(turns))


SBATCH = """\
#!/bin/sh
# a batch system of one machine: it starts a copy of the script, which is deleted at once, and names a job
cp "$1" "{folder}/job-$$.sh"
SLURM_JOB_ID=$$ setsid sh "{folder}/job-$$.sh" > "{folder}/job-$$.log" 2>&1 &
echo "Submitted batch job $!"
"""


def test_a_batch_system_starts_the_workers(tmp_path, monkeypatch):
    """A smaller recipe of docs/cluster.md for Slurm, as far as it goes without Slurm: sbatch starts the script."""
    from dask_jobqueue import SLURMCluster

    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH.format(folder=tmp_path)), ("scancel", "#!/bin/sh\nkill -- -$1\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755 | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = write(tmp_path / "n.ipynb", "pass", parameters="i: int = 0  # the run")
    with SLURMCluster(
        cores=1, processes=1, memory="2GB", walltime="00:10:00", job_script_prologue=["export OMP_NUM_THREADS=1"],
        scheduler_options={"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
        local_directory=str(tmp_path), log_directory=str(tmp_path), python=sys.executable,
    ) as made:  # fmt: skip
        made.scale(jobs=2)
        found = batch(notebook, over={"i": range(2)}, results=tmp_path / "out", scheduler=made.scheduler_address)
        assert found.done
        script = next(tmp_path.glob("job-*.sh")).read_text()
        assert "#SBATCH --cpus-per-task=1" in script and "#SBATCH -t 00:10:00" in script
        assert {found.entry(run).written().pid for run in found.runs}.isdisjoint({os.getpid()})
        made.scale(0)
        time.sleep(1)


def test_an_assignment_travels_without_its_parts_being_code():
    import pickle

    run = NotebookRun("n.ipynb", "s", {"x": "__import__('os')"}, {"x": "__import__('os')"}, "0", {})
    job = Assignment(run, ROOT / "n.ipynb", ROOT, ROOT, "call")
    assert pickle.loads(pickle.dumps(job)) == job


HERE = "tcp://127.0.0.1:1"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"workers": 0}, "workers = 0: allowed is a whole number from 1 to 1000"),
        ({"workers": 10**9}, "workers = 1000000000: allowed is a whole number from 1 to 1000"),
        ({"workers": True}, "workers = True: allowed"),
        ({"workers": 1.5}, "workers = 1.5: allowed"),
        ({"retries": -1}, "retries = -1: allowed is a whole number from 0 to 1000"),
        ({"timeout": 0}, "timeout = 0: allowed is a number of seconds above 0"),
        ({"timeout": -3.0}, "timeout = -3.0: allowed"),
        ({"timeout": math.nan}, "timeout = nan: allowed"),
        ({"timeout": math.inf}, "timeout = inf: allowed"),
        ({"timeout": "60"}, "timeout = '60': allowed"),
        ({"memory": "1e400"}, "memory = '1e400': allowed are bytes from 10MB upwards"),
        ({"memory": "nan"}, "memory = 'nan': allowed"),
        ({"memory": "-4GB"}, "memory = '-4GB': allowed"),
        ({"memory": "4"}, "memory = '4': allowed"),  # four bytes
        ({"memory": "lots"}, "memory = 'lots': allowed"),
        ({"memory": ""}, "memory = '': allowed"),
        ({"memory": math.nan}, "memory = nan: allowed"),
        ({"memory": True}, "memory = True: allowed"),
        ({"resources": {"GPU": math.nan}, "scheduler": HERE}, "resources = GPU=nan: allowed is a number above 0"),
        ({"resources": {"GPU": math.inf}, "scheduler": HERE}, "resources = GPU=inf: allowed"),
        ({"resources": {"GPU": -1}, "scheduler": HERE}, "resources = GPU=-1: allowed"),
        ({"resources": {"GPU": 1}}, "only workers of a scheduler have any"),
        ({"workers": 2, "scheduler": HERE}, "has workers of its own"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options, problem):
    with pytest.raises(ConfigError) as raised:
        Limits(**options)
    assert problem in str(raised.value)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as raised:
        Limits(workers=0, retries=-1, timeout=math.nan, memory="lots")
    assert [line.split()[0] for line in str(raised.value).splitlines()] == ["workers", "retries", "timeout", "memory"]


@pytest.mark.parametrize(
    ("memory", "meant"),
    [("4GB", 4 * 10**9), ("4GiB", 4 * 2**30), ("500 MB", 5 * 10**8), (2**30, 2**30), ("1e9", 10**9), (None, None)],
)
def test_memory_is_read_as_people_write_it(memory, meant):
    assert Limits(memory=memory).bytes == meant


@given(st.one_of(st.floats(), st.integers()), st.one_of(st.floats(), st.integers()))
def test_whatever_number_is_given_it_is_used_as_it_is_or_refused(timeout, memory):
    if 0 < timeout <= LONGEST:
        assert Limits(timeout=timeout).timeout == timeout
    else:
        with pytest.raises(ConfigError, match="timeout = "):
            Limits(timeout=timeout)
    if LEAST_MEMORY <= memory <= MOST_MEMORY:
        assert Limits(memory=memory).bytes == int(memory)
    else:
        with pytest.raises(ConfigError, match="memory = "):
            Limits(memory=memory)
