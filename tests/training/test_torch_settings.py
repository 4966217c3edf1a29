"""torch is set up for training, and is afterwards as the user had it."""

import ctypes
import subprocess
import sys
import threading

import pytest
import torch

from hatlab.config import RunConfig
from hatlab.data.tasks import make_sequence
from hatlab.method.networks import HATCNN, HATMLP
from hatlab.support.progress import Progress
from hatlab.training import replicas
from hatlab.training.runs import run
from hatlab.training.torch_settings import PRECISIONS, float32, torch_settings
from hatlab.training.trainer import build_network

CPU = torch.device("cpu")
SMALL = RunConfig(widths=(20, 20), max_epochs=1, n_tasks=1)
CUDNN = torch.backends.cudnn


def mlp(width):
    with torch.device("meta"):
        return HATMLP((1, 28, 28), [2] * 5, (width, width))


def cnn():
    with torch.device("meta"):
        return HATCNN((3, 32, 32), [2] * 5)


@pytest.mark.parametrize("flushed", [True, False])
def test_threads_and_small_numbers_are_set_up_and_put_back(flushed):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_flush_denormal(flushed)
    tiny = torch.tensor(1e-40)
    try:
        with torch_settings(mlp(10), 16, 1, CPU):
            assert torch.get_num_threads() == 1
            assert (tiny * 1).item() == 0
        with torch_settings(mlp(400), 64, 1, CPU):
            assert torch.get_num_threads() == 2
        with torch_settings(mlp(10), 16, 64, CPU), pytest.raises(ZeroDivisionError):
            assert torch.get_num_threads() == 2  # many small runs are a large step
            raise ZeroDivisionError
        with torch_settings(cnn(), 1, 1, CPU):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
        assert ((tiny * 1).item() == 0) is flushed
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


@pytest.fixture
def switches():
    """Put back all of torch's switches, and return what tells them."""

    def read():
        return [part.fp32_precision for part in PRECISIONS], CUDNN.deterministic, CUDNN.benchmark

    before = read()
    assert torch.get_float32_matmul_precision() == "highest"
    yield read
    torch.set_float32_matmul_precision("highest")
    for part, precision in zip(PRECISIONS, before[0], strict=True):
        part.fp32_precision = precision
    CUDNN.deterministic, CUDNN.benchmark = before[1:]


def _set(owner, name, value):
    return lambda: setattr(owner, name, value)


CHOICES = {
    "nothing": lambda: None,
    "older, high": lambda: torch.set_float32_matmul_precision("high"),
    "older, medium": lambda: torch.set_float32_matmul_precision("medium"),
    "older, matmul": _set(torch.backends.cuda.matmul, "allow_tf32", True),
    "older, convolutions": _set(CUDNN, "allow_tf32", False),
    "newer, all": _set(torch.backends, "fp32_precision", "tf32"),
    "newer, matmul": _set(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "newer, cuDNN": _set(CUDNN, "fp32_precision", "tf32"),
    "newer, convolutions": _set(CUDNN.conv, "fp32_precision", "tf32"),
    "newer, CPU": _set(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "deterministic": _set(CUDNN, "deterministic", True),
    "benchmark": _set(CUDNN, "benchmark", True),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_training_is_in_float32_and_repeatable_whatever_the_user_chose(tmp_path, monkeypatch, switches, choice):
    CHOICES[choice]()
    before, seen = switches(), []
    step = replicas.step

    def watch(*arguments):
        seen.append(switches())
        return step(*arguments)

    monkeypatch.setattr(replicas, "step", watch)
    run(SMALL, results=tmp_path, device="cpu", progress=Progress())
    assert seen and all(one == (["ieee"] * len(PRECISIONS), True, False) for one in seen)
    assert switches() == before


@pytest.mark.parametrize("precision", ["high", "medium", "highest"])
def test_the_older_switch_is_put_back_too(switches, precision):
    torch.set_float32_matmul_precision(precision)
    with float32():
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cuda.matmul.allow_tf32 is False
    assert torch.get_float32_matmul_precision() == precision


def test_what_an_operation_inherits_it_still_inherits_afterwards(switches):
    """Read naively, its value is the one that it inherits, and would stay when the user changes that."""
    torch.backends.fp32_precision = "tf32"
    assert torch.backends.mkldnn.conv.fp32_precision == "tf32"
    with float32():
        pass
    torch.backends.fp32_precision = "ieee"
    assert torch.backends.mkldnn.conv.fp32_precision == "ieee"


def test_the_switches_are_put_back_after_an_error(switches):
    torch.backends.fp32_precision = "tf32"
    before = switches()
    with pytest.raises(ZeroDivisionError), torch_settings(mlp(10), 16, 1, CPU):
        raise ZeroDivisionError
    assert switches() == before


def test_threads_that_overlap_leave_the_switches_as_they_were(switches):
    """The first to enter is the first to leave: the second still trains in float32, and puts back the user's."""
    torch.backends.fp32_precision = "tf32"
    before, first_is_in, second_is_in, first_is_out = switches(), *(threading.Event() for _ in range(3))
    seen = []

    def first():
        with float32():
            first_is_in.set()
            second_is_in.wait(60)
        first_is_out.set()

    def second():
        first_is_in.wait(60)
        with float32():
            second_is_in.set()
            first_is_out.wait(60)
            seen.append(switches())

    threads = [threading.Thread(target=one) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [(["ieee"] * len(PRECISIONS), True, False)]
    assert switches() == before


def test_initial_weights_leave_the_generators_of_cpu_and_gpus_alone(monkeypatch):
    asked = []
    for module in (torch.cuda, torch.xpu, torch.mps):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(module, name, lambda seed, name=name: asked.append(name), raising=False)
    before = torch.get_rng_state()
    build_network(SMALL, make_sequence(SMALL))
    assert not asked
    assert torch.equal(torch.get_rng_state(), before)


KEPT = """
import torch
from hatlab.method.networks import HATMLP
from hatlab.training.torch_settings import torch_settings

def held():  # MB
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

network, before = HATMLP((1, 4, 4), [2], (8, 8)), held()
with torch_settings(network, 16, 1, torch.device("cpu")):
    block = torch.ones(16_000_000)
    del block
    within = held()
print(within - before, held() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another library than glibc allocates")
def test_memory_that_a_step_frees_is_kept_until_the_end():
    """64 MB are freed within; in a process of its own."""
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    within, after = map(float, done.stdout.split())
    assert within > 60 and after < 20
