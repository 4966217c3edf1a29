"""Runs as users start them: loaded, resumed, killed, refused."""

import json
import multiprocessing
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import hatlab
from hatlab.config import ConfigError, RunConfig
from hatlab.data import datasets
from hatlab.support.progress import Progress
from hatlab.training import grouping, jobs, replicas, runs
from hatlab.training.grouping import OutOfMemory
from hatlab.training.records import Record, RecordError
from hatlab.training.runs import find_device
from hatlab.training.trainer import Trainer, TrainingDiverged

SMALL = RunConfig(widths=(30, 20), batch_size=32, max_epochs=3, n_tasks=3)
TABLES = ("capacity", "accuracy", "epochs", "tasks")
QUIET = Progress()


def table_bytes(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".parquet", ".csv")}


def test_a_run_leaves_its_tables_and_its_manifest(tmp_path):
    run = hatlab.run(SMALL, results=tmp_path, device="cpu", progress=QUIET)
    assert run.folder == tmp_path / "runs" / SMALL.run_id
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest == run.manifest
    assert manifest["state"] == "finished"
    assert RunConfig.parse(manifest["config"], "manifest") == SMALL
    assert manifest["data"]
    session = manifest["sessions"][0]
    assert {"started", "seconds", "device", "threads", "versions", "git", "platform"} <= set(session)
    assert session["versions"]["hatlab"] == hatlab.__version__
    assert set(table_bytes(run.folder)) == {f"{t}.{ending}" for t in TABLES for ending in ("parquet", "csv")}
    for name in TABLES:
        assert (getattr(run, name)["run"] == run.run_id).all()
    capacity, accuracy = run.capacity, run.accuracy
    assert set(capacity["layer"]) == {"fc1", "fc2", "total"}
    assert capacity["epoch"].min() == -1
    assert (capacity["weights_used"] <= capacity["weights"]).all()
    assert len(accuracy) == 1 + 2 + 3
    assert accuracy["accuracy"].between(0, 1).all()
    # what the cumulative mask uses can only grow
    assert (np.diff(run.tasks["weights_used"]) >= 0).all()


def test_a_finished_run_is_loaded_and_not_repeated(tmp_path, monkeypatch):
    first = hatlab.run(SMALL, results=tmp_path, progress=QUIET)
    monkeypatch.setattr(replicas, "step", None)
    monkeypatch.setattr(jobs, "make_sequence", None)
    again = hatlab.run(SMALL, results=tmp_path, progress=QUIET)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))


def test_runs_do_not_depend_on_what_ran_before(tmp_path):
    other = SMALL.replace(seed=1)
    torch.manual_seed(3)
    together = hatlab.sweep([other, SMALL], results=tmp_path / "a", progress=QUIET, replicas=1)
    alone = hatlab.run(SMALL, results=tmp_path / "b", progress=QUIET)
    assert table_bytes(together[1].folder) == table_bytes(alone.folder)
    assert table_bytes(together[0].folder) != table_bytes(alone.folder)


def test_collect_puts_runs_below_each_other_with_their_parameters(tmp_path):
    configs = [SMALL.replace(n_tasks=1, c=c, max_epochs=1) for c in (0.1, 2.5)]
    both = hatlab.collect(hatlab.sweep(configs, results=tmp_path, progress=QUIET))
    for table in both:
        assert list(table.columns[:6]) == ["run", "dataset", "c", "mode", "s_max", "seed"]
        assert sorted(table["c"].unique()) == [0.1, 2.5]
    assert list(both.accuracy["run"]) == [config.run_id for config in configs]


def test_modes_differ_only_where_the_regularizer_does(tmp_path):
    """In the first task cross is original at half of c: the same run, to the bit."""
    one = {"results": tmp_path, "progress": QUIET}
    base = SMALL.replace(n_tasks=1, c=0.5)
    cross = hatlab.run(base.replace(mode="cross", c=1.0), **one)
    original = hatlab.run(base, **one)
    assert cross.capacity.drop(columns="run").equals(original.capacity.drop(columns="run"))


# --- side by side -----------------------------------------------------------------------------------------------------


class Log(Progress):
    """Every event, as (name, run id)."""

    def __init__(self):
        self.events, self.notes = [], []

    def run_started(self, run_id, label, n_tasks, max_epochs, tasks_done):
        self.events.append(("started", run_id, label))

    def epoch_done(self, run_id, task, epoch, valid_accuracy, usage):
        self.events.append(("epoch", run_id, (task, epoch)))

    def run_done(self, run_id, loaded):
        self.events.append(("done", run_id, loaded))

    def note(self, text):
        self.notes.append(text)


def assert_alike(one, other):
    """The same runs: equal state, numbers equal but for rounding."""
    assert set(table_bytes(one.folder)) == set(table_bytes(other.folder))
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-4)
    for run in (one, other):
        assert {p.name for p in run.folder.iterdir()} == {p.name for p in one.folder.iterdir()}
    ignored = {"sessions", "files"}
    assert {k: v for k, v in one.manifest.items() if k not in ignored} == {
        k: v for k, v in other.manifest.items() if k not in ignored
    }


def test_a_sweep_leaves_what_its_runs_leave_alone(tmp_path):
    configs = SMALL.grid(seed=[0, 1], c=[0.0, 0.75], mode=["original", "cross"])
    log = Log()
    together = hatlab.sweep(configs, results=tmp_path / "a", progress=log)
    assert [run.config for run in together] == configs
    first = log.events.index(("epoch", configs[0].run_id, (0, 0)))
    assert [event[0] for event in log.events[:first]] == ["started"] * 8
    assert log.events[-1][0] == "done"
    assert ("started", configs[-1].run_id, "digits c=0.75 mode=cross seed=1") in log.events
    assert [run.manifest["sessions"][0]["side_by_side"] for run in together] == [8] * 8
    for run in together:
        assert_alike(run, hatlab.run(run.config, results=tmp_path / "b", progress=QUIET))


def test_a_sweep_loads_what_is_finished_goes_on_with_what_was_stopped_and_starts_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "CHECKPOINT_EVERY", 0)  # after each epoch, however long writing takes
    configs = SMALL.grid(seed=range(4))
    hatlab.run(configs[1], results=tmp_path / "a", progress=QUIET)

    class Interrupt(Progress):
        def epoch_done(self, run_id, task, epoch, valid_accuracy, usage):
            if (task, epoch) == (1, 1):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hatlab.sweep(configs[1:3], results=tmp_path / "a", progress=Interrupt())
    log = Log()
    runs = hatlab.sweep(configs, results=tmp_path / "a", progress=log)
    assert [e[2] for e in log.events if e[0] == "done" and e[1] == configs[1].run_id] == [True]
    assert [len(run.manifest["sessions"]) for run in runs] == [1, 1, 2, 1]
    assert runs[2].manifest["sessions"][1]["from_task"] == 1
    for run in runs:
        assert_alike(run, hatlab.run(run.config, results=tmp_path / "b", progress=QUIET))


def test_finished_and_new_runs_read_the_images_once(tmp_path, monkeypatch):
    hatlab.run(SMALL, results=tmp_path, progress=QUIET)
    read = []

    def load_all(names, **how):
        read.append(names)
        return datasets.load_all(names, **how)

    monkeypatch.setattr(runs, "load_all", load_all)
    hatlab.sweep(SMALL.grid(seed=[0, 1], dataset=["digits"]), results=tmp_path, progress=QUIET)
    assert read == ["digits"]


def test_a_network_too_small_for_the_regularizer_is_named(tmp_path):
    few = SMALL.replace(widths=(6, 4), max_epochs=1, n_tasks=2)
    log = Log()
    hatlab.sweep(few.grid(c=[0.0, 0.75, 1.0], widths=[(6, 4), (6, 5)]), results=tmp_path, progress=log)
    assert log.notes == ["networks of 10 units: R is 0 whatever c is, as over at most min_units = 10"]
    log = Log()
    hatlab.sweep([few.replace(c=0.0), few.replace(min_units=9)], results=tmp_path, progress=log)
    assert log.notes == []


def test_runs_that_cannot_share_a_step_train_apart(tmp_path):
    base = SMALL.replace(max_epochs=1, n_tasks=2)
    configs = [base, base.replace(widths=(10, 10)), base.replace(seed=1), base.replace(batch_size=16)]
    runs = hatlab.sweep(configs, results=tmp_path, progress=QUIET)
    assert [run.manifest["sessions"][0]["side_by_side"] for run in runs] == [2, 1, 2, 1]
    assert [run.config for run in runs] == configs


def test_replicas_bounds_how_many_train_side_by_side(tmp_path):
    runs = hatlab.sweep(
        SMALL.replace(max_epochs=1, n_tasks=1).grid(seed=range(5)), results=tmp_path, progress=QUIET, replicas=2
    )
    assert sorted(run.manifest["sessions"][0]["side_by_side"] for run in runs) == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("replicas", [0, -1, 2.5, True, "8"])
def test_replicas_that_cannot_be_are_refused(tmp_path, replicas, no_training):
    with pytest.raises(ConfigError, match=r"replicas = .*whole number of at least 1"):
        hatlab.sweep([SMALL], results=tmp_path, progress=QUIET, replicas=replicas)


class Full:
    """Memory that holds two runs; the error comes in the midst of an epoch."""

    def __init__(self, monkeypatch, holds, error):
        self.holds, self.error, self.steps, self.sizes = holds, error, 0, []
        self.original = replicas.step
        monkeypatch.setattr(replicas, "step", self)

    def __call__(self, network, state, *rest):
        self.steps += 1
        self.sizes.append(len(state.e))
        if len(state.e) > self.holds and self.steps > 30:
            raise self.error
        return self.original(network, state, *rest)


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_a_group_that_does_not_fit_into_memory_is_halved(tmp_path, monkeypatch, error):
    configs = SMALL.grid(seed=range(5))
    log = Log()
    with monkeypatch.context() as patch:
        full = Full(patch, 2, error)
        runs = hatlab.sweep(configs, results=tmp_path / "a", progress=log)
    assert set(full.sizes) >= {5, 3, 2}
    assert log.notes[0] == "out of memory with 5 runs side by side: going on with 3 at a time"
    for run in runs:
        assert_alike(run, hatlab.run(run.config, results=tmp_path / "b", progress=QUIET))
        # what the checkpoints held was not trained again
    assert any(session["from_epoch"] > 0 for run in runs for session in run.manifest["sessions"][1:])


def test_a_run_that_does_not_fit_into_memory_alone_is_named(tmp_path, monkeypatch):
    Full(monkeypatch, 0, MemoryError())
    with pytest.raises(OutOfMemory, match=rf"run {SMALL.run_id} \(digits c=0.75 seed=0\) does not fit into memory"):
        hatlab.run(SMALL, results=tmp_path, progress=QUIET)


@pytest.fixture
def worker_threads(monkeypatch):
    """Every run is held for one that fills the cache, and two CPU threads are there."""
    monkeypatch.setattr(grouping, "CPU_WEIGHTS", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_large_runs_train_in_worker_threads_on_a_cpu(tmp_path, worker_threads):
    configs = SMALL.grid(seed=range(5))
    log = Log()
    together = hatlab.sweep(configs, results=tmp_path / "a", progress=log, device="cpu")
    sessions = [run.manifest["sessions"][0] for run in together]
    assert {(session["side_by_side"], session["threads"]) for session in sessions} == {(1, 1)}
    ends = [log.events.index(("done", config.run_id, False)) for config in configs]
    starts = [k for k, event in enumerate(log.events) if event[0] == "started"]
    assert starts[1] < min(ends), "the second run starts before the first is done"
    for run in together:
        alone = hatlab.sweep([run.config], results=tmp_path / "b", progress=QUIET, device="cpu", replicas=1)[0]
        assert_alike(run, alone)


def test_one_after_the_other_means_no_worker_threads(tmp_path, worker_threads):
    log = Log()
    hatlab.sweep(SMALL.grid(seed=[0, 1]), results=tmp_path, progress=log, device="cpu", replicas=1)
    assert [event[0] for event in log.events if event[0] != "epoch"] == ["started", "done"] * 2


def test_ctrl_c_ends_all_worker_threads_and_the_next_call_goes_on(tmp_path, worker_threads, monkeypatch):
    configs = SMALL.replace(max_epochs=20).grid(seed=[0, 1])

    class Interrupt(Log):
        def epoch_done(self, run_id, task, epoch, valid_accuracy, usage):
            super().epoch_done(run_id, task, epoch, valid_accuracy, usage)
            if (task, epoch) == (1, 1):
                raise KeyboardInterrupt

    log = Interrupt()
    with pytest.raises(KeyboardInterrupt):
        hatlab.sweep(configs, results=tmp_path / "a", progress=log, device="cpu")
    assert "done" not in [event[0] for event in log.events]
    for run in hatlab.sweep(configs, results=tmp_path / "a", progress=QUIET, device="cpu"):
        assert run.manifest["sessions"][1]["from_task"] > 0 or run.manifest["sessions"][1]["from_epoch"] > 0
        alone = hatlab.sweep([run.config], results=tmp_path / "b", progress=QUIET, device="cpu", replicas=1)[0]
        assert_alike(run, alone)


def test_worker_threads_that_do_not_fit_into_memory_are_halved(tmp_path, worker_threads, monkeypatch):
    original, at_work, most = replicas.step, set(), []

    def full(*arguments):
        if not threading.current_thread().name.startswith("worker"):  # the second attempt: worker threads may be ending
            return original(*arguments)
        at_work.add(threading.get_ident())
        most.append(len(at_work))
        if len(at_work) > 1:
            at_work.clear()
            raise MemoryError
        return original(*arguments)

    configs = SMALL.replace(max_epochs=6).grid(seed=range(3))
    log = Log()
    with monkeypatch.context() as patch:
        patch.setattr(replicas, "step", full)
        together = hatlab.sweep(configs, results=tmp_path / "a", progress=log, device="cpu")
    assert log.notes == ["out of memory: going on with 1 at a time"]
    assert max(most) == 2
    for run in together:
        assert_alike(run, hatlab.run(run.config, results=tmp_path / "b", progress=QUIET, device="cpu"))


def test_memory_that_runs_out_while_a_checkpoint_is_read_is_no_reason_to_delete_it(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "CHECKPOINT_EVERY", 0)

    class Interrupt(Progress):
        def task_done(self, *_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hatlab.run(SMALL, results=tmp_path, progress=Interrupt())

    def full(self, saved):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "load_state_dict", full)
    with pytest.raises(OutOfMemory, match="does not fit into memory"):
        hatlab.run(SMALL, results=tmp_path, progress=QUIET)


def test_an_error_that_is_not_about_memory_is_not_retried(tmp_path, monkeypatch):
    Full(monkeypatch, 0, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        hatlab.sweep(SMALL.grid(seed=range(4)), results=tmp_path, progress=QUIET)


def test_a_sweep_in_which_one_run_diverges_finishes_the_others_first(tmp_path):
    configs = [SMALL, SMALL.replace(learning_rate=1e30), SMALL.replace(seed=1)]
    log = Log()
    with pytest.raises(
        TrainingDiverged, match=f"1 of 3 runs diverged; the others are finished:\nrun {configs[1].run_id}"
    ):
        hatlab.sweep(configs, results=tmp_path, progress=log)
    assert "diverged" in log.notes[0]
    for config in (configs[0], configs[2]):
        manifest = json.loads((tmp_path / "runs" / config.run_id / "manifest.json").read_text())
        assert manifest["state"] == "finished"


def test_checkpoints_take_a_small_part_of_the_time(tmp_path, monkeypatch):
    """A checkpoint that takes long is written seldom; the last one always."""
    now = [0.0]
    monkeypatch.setattr(jobs.time, "perf_counter", lambda: now[0])
    saved = []

    def save(self, state):
        saved.append((state["task"], state["within"] and state["within"]["epoch"]))
        now[0] += 1.0
        self.checkpoint.touch()

    class Epoch(Progress):
        def epoch_done(self, *_):
            now[0] += 4.0

    monkeypatch.setattr(jobs.Record, "save_checkpoint", save)
    hatlab.run(SMALL.replace(max_epochs=8), results=tmp_path, progress=Epoch())
    # 20 seconds, which are 5 epochs, lie between two
    assert saved == [(0, 1), (0, 6), (1, 3), (2, None), (2, 5), (3, None)]


COLD = """
import sys
import hatlab
from hatlab.support.progress import Progress
config = hatlab.RunConfig(dataset="npz:" + sys.argv[1], widths=(20, 20), max_epochs=1, validation=0.2)
for _ in ("new", "finished"):
    hatlab.run(config, results=sys.argv[2], device="cpu", progress=Progress())
print(*{"torch._dynamo", "sympy", "scipy.stats", "sklearn", "matplotlib", "IPython"} & sys.modules.keys())
"""


def test_a_run_imports_no_compiler_and_no_statistics(tmp_path, tiny_npz):
    """torch._dynamo, which torch imports for what it computes without values, takes two seconds."""
    call = [sys.executable, "-c", COLD, str(tiny_npz), str(tmp_path)]
    told = subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert (told.stdout.strip(), told.returncode) == ("", 0)


# --- interruption ---------------------------------------------------------------------------------------------------


class FirstEpoch(Progress):
    """Tells the parent that training is under way."""

    def __init__(self, under_way):
        self.under_way = under_way

    def epoch_done(self, run_id, task, epoch, valid_accuracy, usage):
        self.under_way.set()


def train_and_tell(config, results, under_way):
    hatlab.run(config, results=results, device="cpu", progress=FirstEpoch(under_way))
    under_way.set()


def test_a_run_killed_at_ten_random_moments_ends_with_the_same_bytes(tmp_path, capsys):
    """kill -9, wherever it strikes: during training, a checkpoint, the tables, or the manifest."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["hatlab.training.runs", "sklearn.datasets", "sklearn.utils", "torch._dynamo"])
    config = RunConfig(widths=(400, 400), batch_size=16, max_epochs=8)  # closed units are left out

    def start(results):
        under_way = context.Event()
        process = context.Process(target=train_and_tell, args=(config, results, under_way))
        process.start()
        while not under_way.wait(0.1):
            assert process.exitcode is None, "the process died before its first epoch"
        return process

    whole = start(tmp_path / "whole")
    began = time.monotonic()
    whole.join()
    duration = time.monotonic() - began
    assert whole.exitcode == 0
    expected = table_bytes(tmp_path / "whole" / "runs" / config.run_id)

    moments, kills, attempt, seen = random.Random(2018), 0, 0, set()
    while kills < 10:
        results = tmp_path / f"killed-{attempt}"
        process = start(results)
        process.join(moments.uniform(0, duration / 3))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            state = torch.load(results / "runs" / config.run_id / "checkpoint.pt", weights_only=True)
            seen.add((state["task"], state["within"] and state["within"]["epoch"]))
        else:  # it ended before the blow: it must be right, and the next blows fall on a new run
            assert process.exitcode == 0
            assert table_bytes(results / "runs" / config.run_id) == expected
            attempt += 1
    last = start(tmp_path / f"killed-{attempt}")
    last.join()
    assert last.exitcode == 0
    assert table_bytes(tmp_path / f"killed-{attempt}" / "runs" / config.run_id) == expected
    assert len(seen) >= 3, f"the kills struck at {seen}: too few different moments to mean anything"
    with capsys.disabled():
        print(f"\n10 kills, last checkpoints (task, epoch): {sorted(seen, key=str)}")


def test_ctrl_c_keeps_what_is_done_and_the_next_call_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "CHECKPOINT_EVERY", 0)

    class Interrupt(Progress):
        def epoch_done(self, run_id, task, epoch, valid_accuracy, usage):
            if (task, epoch) == (1, 1):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hatlab.run(SMALL, results=tmp_path / "stopped", progress=Interrupt())
    seen = []

    class Watch(Progress):
        def epoch_done(self, run_id, task, epoch, valid_accuracy, usage):
            seen.append((task, epoch))

    resumed = hatlab.run(SMALL, results=tmp_path / "stopped", progress=Watch())
    whole = hatlab.run(SMALL, results=tmp_path / "whole", progress=QUIET)
    # the interrupted epoch (1, 1) was not saved yet
    assert seen[0] == (1, 1)
    assert table_bytes(resumed.folder) == table_bytes(whole.folder)
    assert [s["from_task"] for s in resumed.manifest["sessions"]] == [0, 1]
    assert [s["from_epoch"] for s in resumed.manifest["sessions"]] == [0, 1]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_a_run_whose_checkpoint_was_damaged_says_so_and_starts_anew(tmp_path, monkeypatch, share):
    """A bit is flipped at some place of the file; the numbers are those of a run that nothing happened to."""
    monkeypatch.setattr(jobs, "CHECKPOINT_EVERY", 0)

    class Interrupt(Progress):
        def epoch_done(self, run_id, task, epoch, valid_accuracy, usage):
            if (task, epoch) == (1, 1):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hatlab.run(SMALL, results=tmp_path / "stopped", progress=Interrupt())
    checkpoint = tmp_path / "stopped" / "runs" / SMALL.run_id / "checkpoint.pt"
    content = bytearray(checkpoint.read_bytes())
    content[int(share * (len(content) - 1))] ^= 4
    checkpoint.write_bytes(content)
    log = Log()
    resumed = hatlab.run(SMALL, results=tmp_path / "stopped", progress=log)
    (note,) = log.notes
    assert note.startswith(f"run {SMALL.run_id} starts anew: {checkpoint} ") and ("damaged" in note)
    assert [session["from_task"] for session in resumed.manifest["sessions"]] == [0, 0]
    whole = hatlab.run(SMALL, results=tmp_path / "whole", progress=QUIET)
    assert table_bytes(resumed.folder) == table_bytes(whole.folder)


def test_a_run_that_diverged_keeps_its_last_good_checkpoint(tmp_path, monkeypatch):
    original, count = replicas.step, iter(range(10**9))

    def poisoned(*arguments):
        return original(*arguments) * (float("nan") if next(count) == 25 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(replicas, "step", poisoned)
        with pytest.raises(TrainingDiverged, match="step"):
            hatlab.run(SMALL, results=tmp_path / "a", progress=QUIET)
    assert (tmp_path / "a" / "runs" / SMALL.run_id / "checkpoint.pt").exists()
    resumed = hatlab.run(SMALL, results=tmp_path / "a", progress=QUIET)
    whole = hatlab.run(SMALL, results=tmp_path / "b", progress=QUIET)
    assert table_bytes(resumed.folder) == table_bytes(whole.folder)


# --- refusals, before anything is trained -----------------------------------------------------------------------------


@pytest.fixture
def no_training(monkeypatch):
    def forbidden(*_):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(replicas, "step", forbidden)


def test_one_bad_config_stops_a_sweep_before_the_first_run(tmp_path, no_training):
    with pytest.raises(ConfigError, match="classes_per_task"):
        hatlab.sweep([SMALL, SMALL.replace(classes_per_task=3, n_tasks=None)], results=tmp_path, progress=QUIET)


def test_a_network_that_does_not_take_the_images_is_refused(tmp_path, no_training):
    with pytest.raises(
        ConfigError, match=r"network = 'cnn', dataset = 'digits': .* 8 x 8: they must be square and at least"
    ):
        hatlab.run(SMALL.replace(network="cnn"), results=tmp_path, progress=QUIET)


def test_a_run_that_is_asked_for_twice_is_refused(tmp_path, no_training):
    """Two copies of one run would count as two seeds."""
    with pytest.raises(ConfigError, match=f"run {SMALL.run_id} is among them more than once"):
        hatlab.sweep([SMALL, SMALL.replace(seed=1), SMALL], results=tmp_path, progress=QUIET)


def test_a_run_whose_images_changed_is_made_again_and_both_are_kept(tmp_path, tiny_npz):
    config = SMALL.replace(dataset=f"npz:{tiny_npz}", classes_per_task=2, n_tasks=2, max_epochs=1, validation=0.2)
    first = hatlab.run(config, results=tmp_path, progress=QUIET)
    before, arrays = tiny_npz.read_bytes(), dict(np.load(tiny_npz))
    arrays["x_train"] = 255 - arrays["x_train"]
    np.savez(tiny_npz, **arrays)
    other = hatlab.run(config, results=tmp_path, progress=QUIET)
    assert other.folder != first.folder and other.folder.name.startswith(f"{config.run_id}-")
    assert not other.epochs.equals(first.epochs) and other.manifest["data"] != first.manifest["data"]
    again = hatlab.run(config, results=tmp_path, progress=QUIET)
    assert again.folder == other.folder and len(again.manifest["sessions"]) == 1  # it is loaded, too
    tiny_npz.unlink()
    with pytest.raises(RecordError, match=rf"run {config.run_id} was made with several.*restore those that are meant"):
        hatlab.run(config, results=tmp_path, progress=QUIET)
    tiny_npz.write_bytes(before)
    again = hatlab.run(config, results=tmp_path, progress=QUIET)
    assert again.folder == first.folder and len(again.manifest["sessions"]) == 1
    pd.testing.assert_frame_equal(first.epochs, again.epochs)


def test_a_finished_run_is_loaded_where_its_images_are_gone(tmp_path, tiny_npz):
    config = SMALL.replace(dataset=f"npz:{tiny_npz}", classes_per_task=2, n_tasks=2, max_epochs=1, validation=0.2)
    first = hatlab.run(config, results=tmp_path, progress=QUIET)
    tiny_npz.unlink()
    again = hatlab.run(config, results=tmp_path, progress=QUIET)
    pd.testing.assert_frame_equal(first.accuracy, again.accuracy)


def test_a_run_that_was_stopped_with_other_images_does_not_go_on_with_these(tmp_path, tiny_npz, monkeypatch):
    config = SMALL.replace(dataset=f"npz:{tiny_npz}", classes_per_task=2, n_tasks=2, max_epochs=1, validation=0.2)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Record, "finish", stop)
        hatlab.run(config, results=tmp_path, progress=QUIET)
    checkpoint = tmp_path / "runs" / config.run_id / "checkpoint.pt"
    held, arrays = checkpoint.read_bytes(), dict(np.load(tiny_npz))
    arrays["x_train"] = 255 - arrays["x_train"]
    np.savez(tiny_npz, **arrays)
    other = hatlab.run(config, results=tmp_path, progress=QUIET)
    alone = hatlab.run(config, results=tmp_path / "alone", progress=QUIET)
    pd.testing.assert_frame_equal(other.epochs, alone.epochs)
    assert checkpoint.read_bytes() == held


def test_a_checkpoint_of_another_version_is_named(tmp_path):
    record = jobs.Record(SMALL, tmp_path)
    record.prepare()
    record.save_checkpoint({"epoch": 3})
    with pytest.raises(RecordError, match=r"checkpoint\.pt is not of this version of hatlab.*delete it"):
        hatlab.run(SMALL, results=tmp_path, progress=QUIET)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_not_there_is_refused(tmp_path, no_training):
    with pytest.raises(ConfigError, match=r"device = 'cuda': torch .* sees 0 CUDA devices.*'cpu' or 'auto'"):
        hatlab.run(SMALL, results=tmp_path, device="cuda", progress=QUIET)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(ConfigError, match="allowed are auto, cpu, cuda"):
        find_device(name)


def test_a_results_folder_that_cannot_be_written_is_refused(tmp_path, no_training):
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot be written"):
        hatlab.run(SMALL, results=tmp_path / "file", progress=QUIET)


def test_a_manifest_of_another_config_is_refused(tmp_path, no_training):
    folder = tmp_path / "runs" / SMALL.run_id
    folder.mkdir(parents=True)
    wrong = {"config": SMALL.replace(c=9.0).model_dump(mode="json"), "state": "finished"}
    (folder / "manifest.json").write_text(json.dumps(wrong))
    with pytest.raises(RecordError, match=r"another config: c is 9\.0 there and 0\.75 here"):
        hatlab.run(SMALL, results=tmp_path, progress=QUIET)


def test_between_a_sweep_and_a_step_lie_five_functions(tmp_path, monkeypatch):
    """From the command to the formula, a reader passes seven functions at most, both ends among them."""
    original, depths = replicas.step, set()
    package = Path(hatlab.__file__).parent

    def watch(*arguments):
        names, frame = ["step"], sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            # a comprehension has a frame of its own before Python 3.12
            if Path(code.co_filename).is_relative_to(package) and not code.co_name.startswith("<"):
                names.append(code.co_qualname)
            if code.co_name == "sweep":
                depths.add(tuple(names))
                break
            frame = frame.f_back
        return original(*arguments)

    monkeypatch.setattr(replicas, "step", watch)
    hatlab.sweep(SMALL.grid(seed=[0, 1]), results=tmp_path, progress=QUIET)
    assert depths and all(len(names) <= 7 for names in depths), depths
