"""Clusters that are not in this process: workers with resources, on loopback, and under a batch system."""

import json
import os
import stat
import subprocess
import sys
import time
from itertools import pairwise

import psutil
import pytest
from faults import ROOT, _dask, cluster
from notebooks_for_tests import write

from hatlab.batches.batches import batch
from hatlab.batches.cluster import Scheduler, Threads
from hatlab.batches.ledger import NotebookRun
from hatlab.batches.runner import Assignment, _Watch

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
    """The README's recipe, with the number of a GPU in the environment of each worker and no GPU."""
    code = (
        "import os, time\nfrom pathlib import Path\n"
        "Path(results, f'gpu-{i}').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\ntime.sleep(1)"
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
            found = batch(notebook, over={"i": range(6)}, results=tmp_path, scheduler=address, resources={"GPU": 1})
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert found.done
    on = {i: (tmp_path / f"gpu-{i}").read_text() for i in range(6)}
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
    """The README's recipe for Slurm with dask-jobqueue, as far as it goes without Slurm: sbatch starts the script."""
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
        found = batch(notebook, over={"i": range(4)}, results=tmp_path / "out", scheduler=made.scheduler_address)
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
