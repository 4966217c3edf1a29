"""The rules of a sweep: which runs share a step, how many, and on what threads."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hatlab.config import RunConfig
from hatlab.method.networks import HATCNN, HATMLP
from hatlab.training import grouping
from hatlab.training.engine import SHARED
from hatlab.training.grouping import chunks, compatible, is_out_of_memory, max_replicas, worker_threads

CPU = torch.device("cpu")


def mlp(width):
    with torch.device("meta"):
        return HATMLP((1, 28, 28), [2] * 5, (width, width))


def cnn():
    with torch.device("meta"):
        return HATCNN((3, 32, 32), [2] * 5)


def test_runs_are_of_one_kind_if_they_agree_in_all_that_a_step_shares():
    base = RunConfig(widths=(20, 20))
    free = base.grid(seed=[0, 1], c=[0.1, 0.5], mode=["original", "cross"], learning_rate=[0.01], s_max=[100.0])
    other = [
        base.replace(widths=(20, 21)),
        base.replace(batch_size=32),
        base.replace(dropout=(0.0, 0.5)),
        base.replace(validation=0.2),
        base.replace(compensation="exact"),
        base.replace(dataset="mnist"),
    ]
    found = compatible([free[0], *other, *free[1:]], lambda config: config)
    assert found == [free, *([config] for config in other)]
    for kind in found:
        assert len({tuple(getattr(config, name) for name in SHARED) for config in kind}) == 1


@given(st.integers(1, 200), st.integers(0, 50))
def test_parts_hold_all_in_order_and_differ_in_size_by_one_at_most(jobs, most):
    found = list(chunks(range(jobs), lambda: most))
    assert [job for part in found for job in part] == list(range(jobs))
    sizes = [len(part) for part in found]
    assert max(sizes) <= max(1, most)
    assert max(sizes) - min(sizes) <= 1


def test_how_many_fit_is_asked_before_each_part():
    free = iter([4, 2, 8])
    assert [len(part) for part in chunks(range(10), lambda: next(free))] == [4, 2, 4]


def test_on_a_cpu_the_weights_of_a_group_stay_in_the_cache():
    sizes = {width: max_replicas(mlp(width), 64, CPU) for width in (10, 100, 400, 2000)}
    assert sizes[2000] == 1 and 16 <= sizes[400] < sizes[100] < sizes[10]
    for width, runs in sizes.items():
        weights = sum(p.numel() for p in mlp(width).parameters())
        assert runs == 1 or runs * weights <= grouping.CPU_WEIGHTS
    assert max_replicas(cnn(), 64, CPU) == 1


def test_on_a_gpu_a_group_takes_a_share_of_what_is_free(monkeypatch):
    network, gpu = mlp(2000), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2**30)

    def runs(free):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 2**30))
        return max_replicas(network, 64, gpu)

    weights = 4 * sum(p.numel() for p in network.parameters())
    many, few = runs(78 * 2**30), runs(2 * 2**30)
    assert many > few >= 1
    assert many * weights * grouping.COPIES_OF_WEIGHTS < grouping.GPU_SHARE * 80 * 2**30
    assert many >= 80  # the sweep of 8 c and 10 seeds
    assert runs(0) >= 1


def test_only_large_runs_on_a_cpu_train_in_worker_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert worker_threads(mlp(2000), 3, CPU) == 3
        assert worker_threads(mlp(2000), 1, CPU) == 1
        assert worker_threads(cnn(), 30, CPU) == 4
        assert worker_threads(mlp(100), 30, CPU) == 1
        assert worker_threads(mlp(2000), 30, torch.device("cuda")) == 1
        torch.set_num_threads(64)
        assert worker_threads(cnn(), 100, CPU) == grouping.MOST_WORKER_THREADS
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_errors_about_memory_are_told_from_others(error, expected):
    assert is_out_of_memory(error) is expected


def test_an_error_that_came_from_one_about_memory_is_told():
    with pytest.raises(RuntimeError, match="capture") as caught:
        try:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("previous error during capture")
    assert is_out_of_memory(caught.value)


def test_what_torch_raises_on_a_cpu_is_told_too():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
