"""What only a GPU can show, in two minutes. Where there is none, each test is skipped and says so."""

import gc

import numpy as np
import pytest
import torch

from hatlab.config import RunConfig
from hatlab.data.loading import Images
from hatlab.data.tasks import make_sequence
from hatlab.method.loop import train_task
from hatlab.method.networks import HATNetwork
from hatlab.support.progress import Progress
from hatlab.training import open_units, replicas
from hatlab.training.dropout_rng import DropoutRNG, stream
from hatlab.training.engine import ReplicaGroup
from hatlab.training.runs import run, sweep
from hatlab.training.torch_settings import float32, torch_settings
from hatlab.training.trainer import Trainer, evaluate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GPU, CPU = torch.device("cuda"), torch.device("cpu")
SMALL = RunConfig(widths=(100, 80), batch_size=16, max_epochs=4, n_tasks=3)
QUIET = Progress()
SUMS = 10.0  # a sum of some hundred products in another order: some times what the last bit of each weight does


@pytest.fixture
def pictures(tmp_path):
    """A CNN's config, on images of noise around a mean for each class."""
    rng = np.random.default_rng(0)
    means, y = rng.integers(60, 196, (4, 28, 28)), np.repeat(np.arange(4), 60)
    x = (means[y] + rng.normal(0, 30, (len(y), 28, 28))).clip(0, 255).astype(np.uint8)
    np.savez(tmp_path / "made.npz", x_train=x, y_train=y, x_test=x[::4], y_test=y[::4])
    return RunConfig(
        dataset=f"npz:{tmp_path / 'made.npz'}", network="cnn", batch_size=4, max_epochs=2, validation=0.17
    )  # 25 steps an epoch


@pytest.fixture(params=["mlp", "cnn"])
def config(request, pictures):
    return SMALL if request.param == "mlp" else pictures


def trainers_of(configs, device=GPU):
    sequences = [make_sequence(config) for config in configs]
    images = Images.of(sequences[0].datasets, device)
    return [Trainer(config, sequence, images) for config, sequence in zip(configs, sequences, strict=True)]


def train(trainers, epochs=None, capture=True):
    """So many epochs of each, or all."""
    group = trainers if isinstance(trainers, ReplicaGroup) else ReplicaGroup(trainers, capture)
    first = group.trainers[0]
    with torch_settings(first.network, first.config.batch_size, len(group.trainers), first.device):
        if epochs is None:
            group.train(lambda trainer: None, QUIET)
        for _ in range(epochs or 0):
            group.train_epoch()
    return trainers


def distance(one, other):
    """The largest difference between any two weights or embeddings."""
    pairs = zip(one.network.parameters(), other.network.parameters(), strict=True)
    return max(float((a.cpu() - b.cpu()).detach().abs().max()) for a, b in pairs)


def flat(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.network.parameters()])


def follow(trainer, leading, seed=None):
    """Take over weights; with a seed, each is moved to a number next to it."""
    way = torch.Generator(leading.device).manual_seed(seed or 0)
    for p, q in zip(trainer.network.parameters(), leading.network.parameters(), strict=True):
        p.data.copy_(q.data)
        if seed is not None:
            up = torch.rand(q.shape, generator=way, device=q.device) < 0.5
            p.data.copy_(torch.nextafter(q.data, torch.where(up, torch.inf, -torch.inf).to(q)))


def apart(group, others, controls):
    """Train fifty steps, `others` and `controls` from the weights of `group` at each epoch; see how far apart they end.

    Rounding grows without bound over many steps where gates are steep. So an epoch has few, and the measure is a
    control: the same run from weights of which each is the number next to what it was.

    Returns:
        (2, runs): medians over the epochs of the distance of others and controls, as a part of the way of the epoch.
    """
    leading, found = group.trainers, []
    while leading[0].steps < 50:
        before = [flat(trainer) for trainer in leading]
        for one, other, control in zip(leading, others, controls, strict=True):
            follow(other.trainers[0], one)
            follow(control.trainers[0], one, seed=one.steps)
        for one in (group, *others, *controls):
            train(one, 1)
        found.append([
            [
                float((flat(kind.trainers[0]).to(one.device) - flat(one)).norm() / (flat(one) - start).norm())
                for kind, one, start in zip(kinds, leading, before, strict=True)
            ]
            for kinds in (others, controls)
        ])  # fmt: skip
    return np.median(found, axis=0)


def varied(base, runs):
    return [
        base.replace(
            seed=i % 3, c=(0.0, 0.1, 0.75, 2.5)[i % 4], mode=("original", "cross", "reuse")[i % 3],
            s_max=(400.0, 50.0)[i % 2], schedule=("authors", "paper")[i // 2 % 2],
            learning_rate=(0.05, 0.02)[i // 4 % 2],
        )
        for i in range(runs)
    ]  # fmt: skip


def few_steps(config):
    """Epochs of four or five steps, and enough of them."""
    return config.replace(batch_size=20 if config.network == "cnn" else 64, max_epochs=20)


def epochs_of_fifty_steps(trainer):
    return -(-50 // trainer.steps_per_epoch)


class StopAfter(Progress):
    """Ends training as Ctrl-C does, when so many epochs are done."""

    def __init__(self, epochs):
        self.left = epochs

    def epoch_done(self, *_):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_fifty_steps_alone_and_in_a_sweep_agree(config):
    configs = varied(few_steps(config), 8)
    alone, controls = ([ReplicaGroup(trainers_of([one])) for one in configs] for _ in range(2))
    distances, rounding = apart(ReplicaGroup(trainers_of(configs)), alone, controls)
    assert (distances <= SUMS * rounding).all() and (distances <= 0.1).all(), (distances, rounding)


def test_captured_steps_are_the_eager_ones(config):
    captured, eager = (train(trainers_of(varied(config, 4)), 2, capture) for capture in (True, False))
    for a, b in zip(captured, eager, strict=True):
        assert a.steps == b.steps
        assert distance(a, b) <= 1e-5


def test_fifty_steps_on_a_gpu_and_on_the_cpu_agree_and_so_does_validation(config):
    config = few_steps(config)
    on_gpu, on_cpu, control = (ReplicaGroup(trainers_of([config], device)) for device in (GPU, CPU, GPU))
    distances, rounding = apart(on_gpu, [on_cpu], [control])
    assert distances <= SUMS * rounding and distances <= 0.1, (distances, rounding)
    follow(on_cpu.trainers[0], on_gpu.trainers[0])
    with float32():
        trainers = (on_gpu.trainers[0], on_cpu.trainers[0])
        found = [evaluate(t.network, 0, t.data[0].valid, t.config.s_max) for t in trainers]
    assert found[0] == pytest.approx(found[1], abs=2e-3)


def by_loop(trainer):
    """Train the first task with the loop that one reads, on the same order and dropout."""
    config, network, taken = trainer.config, trainer.network, []
    shapes = [(config.batch_size, *shape) for shape in network.dropout_shapes]
    dropout_rng = DropoutRNG(shapes, network.dropout, trainer.device)

    def forward(x, task, mask):
        if not network.training:
            return HATNetwork.forward(network, x, task, mask)
        position = torch.tensor([dropout_rng.position(trainer.dropout_rng, len(taken))], device=x.device)
        masks = [factors if factors is None else factors[0, : len(x)] for factors in dropout_rng.draw(position)]
        return HATNetwork.forward(network, x, task, mask, masks)

    network.forward = forward
    train, valid = (
        split.batch(torch.arange(len(split), device=trainer.device))
        for split in (trainer.data[0].train, trainer.data[0].valid)
    )
    with torch_settings(network, config.batch_size, 1, trainer.device):
        train_task(
            network, 0, *train, trainer.cumulative, config, valid, trainer.order, lambda *losses: taken.append(losses)
        )
    return len(taken)


def test_an_epoch_of_the_engine_is_one_of_the_loop(config):
    config = few_steps(config).replace(max_epochs=1)
    engine, loop, control = (trainers_of([config])[0] for _ in range(3))
    start = flat(engine)
    follow(control, engine, seed=1)
    train([engine], 1)
    train([control], 1)
    assert by_loop(loop) == engine.steps
    way = (flat(engine) - start).norm()
    rounding, found = ((flat(engine) - flat(other)).norm() / way for other in (control, loop))
    assert found <= SUMS * rounding and found <= 0.1, (found, rounding)


def test_a_step_is_captured_anew_when_half_of_the_runs_have_left(monkeypatch):
    graphs, record = [], replicas.StepGraph

    def watch(take, inputs, device):
        graphs.append(len(inputs["s"]))
        return record(take, inputs, device)

    monkeypatch.setattr(replicas, "StepGraph", watch)
    base = SMALL.replace(batch_size=64)  # at most 50 steps
    configs = [base.replace(seed=seed, max_epochs=epochs) for seed, epochs in enumerate((1, 1, 2, 3, 4))]
    together = train(trainers_of(configs))
    assert graphs[0] == 5 and graphs[-1] == 1 and len(graphs) <= 5
    for one, trainer in zip(configs, together, strict=True):
        alone, control = trainers_of([one]) + trainers_of([one])
        follow(control, alone, seed=1)
        train([alone])
        train([control])
        assert trainer.finished
        assert distance(alone, trainer) <= max(1e-5, SUMS * distance(alone, control))


def test_captured_steps_on_the_open_units_are_those_on_all(monkeypatch):
    """Captured once for each size; as near to steps on all units as runs whose weights are one number off."""
    monkeypatch.setattr(open_units, "ENOUGH", 0)
    monkeypatch.setattr(replicas, "LOOK_EVERY", 2)
    configs = SMALL.replace(batch_size=64, max_epochs=2, c=2.5).grid(seed=range(3))
    all_units = train(trainers_of(configs))
    control = trainers_of(configs)
    for trainer in control:
        follow(trainer, trainers_of([trainer.config])[0], seed=1)
    train(control)
    graphs, record = [], replicas.StepGraph

    def watch(take, inputs, device):
        graphs.append(len(inputs["s"]))
        return record(take, inputs, device)

    monkeypatch.setattr(replicas, "StepGraph", watch)
    monkeypatch.setattr(open_units, "ON_CUDA", True)
    left_out = train(trainers_of(configs))
    assert 1 < len(graphs) < 30
    for one, other, moved in zip(left_out, all_units, control, strict=True):
        assert distance(one, other) <= max(1e-5, SUMS * distance(other, moved))


def test_a_run_that_is_repeated_has_the_same_bits(config):
    """For a CNN because cuDNN is told to be deterministic."""
    one, other = (train(trainers_of([config]), epochs_of_fifty_steps(trainers_of([config])[0]))[0] for _ in range(2))
    assert distance(one, other) == 0


def test_a_sweep_that_is_repeated_has_the_same_bits(config):
    one, other = (train(trainers_of(varied(config, 4)), 2) for _ in range(2))
    assert [distance(a, b) for a, b in zip(one, other, strict=True)] == [0] * 4


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, config):
    whole = run(config, results=tmp_path / "whole", device="cuda", progress=QUIET)
    with pytest.raises(KeyboardInterrupt):
        run(config, results=tmp_path / "parts", device="cuda", progress=StopAfter(config.max_epochs + 1))
    resumed = run(config, results=tmp_path / "parts", device="cuda", progress=QUIET)
    assert resumed.manifest["sessions"][1]["from_task"] >= 0 and len(resumed.manifest["sessions"]) == 2
    for name, table in whole.tables._asdict().items():
        assert table.equals(getattr(resumed.tables, name)), name


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_on_the_other_kind_of_device(tmp_path, first, second):
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, results=tmp_path, device=first, progress=StopAfter(6))
    done = run(SMALL, results=tmp_path, device=second, progress=QUIET)
    assert done.tasks["epochs"].tolist() == [4] * 3
    assert done.epochs["valid_loss"].notna().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "sgd", "c": 0.0},
        {"method": "sgd_frozen", "c": 0.0},
        {"method": "ewc", "c": 0.0},
        {"method": "joint", "c": 0.0},
        {"gate_precision": "float64", "compensation": "exact"},
        {"sequence": "permuted", "n_tasks": 2, "max_epochs": 2},
        {"schedule": "paper", "mode": "cross"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_whole_runs_of_each_kind_learn_what_they_learn_on_the_cpu(tmp_path, changes):
    """What is frozen is checked bit by bit at the end of each task, on the GPU as well."""
    config = SMALL.replace(**{"dropout": (0.0, 0.0), "max_epochs": 6, **changes})
    gpu, cpu = (run(config, results=tmp_path / name, device=name, progress=QUIET) for name in ("cuda", "cpu"))
    for table in ("tasks", "epochs"):
        pd_gpu, pd_cpu = getattr(gpu, table), getattr(cpu, table)
        assert pd_gpu[["task"]].equals(pd_cpu[["task"]])
    learnt = [one.accuracy.query("after_task == task")["accuracy"].mean() for one in (gpu, cpu)]
    assert learnt[0] == pytest.approx(learnt[1], abs=0.1) and learnt[0] > 0.6
    assert gpu.manifest["sessions"][0]["device"] == torch.cuda.get_device_name()


def test_runs_that_do_not_fit_side_by_side_are_trained_in_smaller_groups(tmp_path):
    notes = []

    class Watch(Progress):
        def note(self, text):
            notes.append(text)

    configs = RunConfig(widths=(2000, 2000), n_tasks=2, max_epochs=1).grid(seed=range(8))
    run(configs[0], results=tmp_path / "first", device="cuda", progress=QUIET)  # what CUDA itself holds is held now
    gc.collect()
    torch.cuda.empty_cache()
    # 17 MB of weights a run: eight are 130 MB, and as much again for their gradients, best values, and masks
    room = torch.cuda.memory_reserved() + 320 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
    try:
        done = sweep(configs, results=tmp_path, device="cuda", progress=Watch())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert notes and "out of memory with 8 runs side by side" in notes[0]
    assert [len(one.tasks) for one in done] == [2] * 8
    alone = run(configs[0], results=tmp_path / "alone", device="cuda", progress=QUIET)
    assert alone.epochs["train_loss"].to_numpy() == pytest.approx(done[0].epochs["train_loss"].to_numpy(), abs=1e-3)


SWITCHES = {
    "older": lambda: torch.set_float32_matmul_precision("high"),
    "newer": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "newer, matmul": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "newer, convolutions": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "tf32"),
    "benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
}


@pytest.fixture
def switch(request):
    SWITCHES[request.param]()
    yield request.param
    torch.set_float32_matmul_precision("highest")
    torch.backends.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # torch's default
    torch.backends.cudnn.benchmark = False


@pytest.fixture
def plain(config):
    """The run as it is where the user chose nothing; made before the switch is set."""
    return train(trainers_of([config]), 1)[0]


@pytest.mark.parametrize("switch", SWITCHES, indirect=True)
def test_a_run_has_the_same_bits_whatever_the_user_chose(plain, switch, config):
    assert distance(train(trainers_of([config]), 1)[0], plain) == 0


def _errors():
    """Relative errors of a product and of a convolution, against float64."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator).cuda() for _ in range(2))
    x, w = torch.randn(8, 64, 32, 32, generator=generator).cuda(), torch.randn(64, 64, 3, 3, generator=generator).cuda()
    pairs = [(a @ b, a.double() @ b.double()), (torch.conv2d(x, w), torch.conv2d(x.double(), w.double()))]
    return [float((one - exact).norm() / exact.norm()) for one, exact in pairs]


@pytest.mark.parametrize(
    ("switch", "coarse"),
    [("older", 0), ("newer", 0), ("newer, matmul", 0), ("newer, convolutions", 1)],
    indirect=["switch"],
)
def test_tf32_is_there_where_the_user_wants_it_and_gone_in_training(switch, coarse):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    before = _errors()
    with float32():
        inside = _errors()
    assert before[coarse] > 1e-4
    assert max(inside) < 1e-5
    assert _errors() == pytest.approx(before, rel=0.1)


def test_a_run_leaves_the_users_generators_alone(tmp_path):
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    run(SMALL.replace(max_epochs=1), results=tmp_path, device="cuda", progress=QUIET)
    assert torch.equal(before[0], torch.get_rng_state())
    assert torch.equal(before[1], torch.cuda.get_rng_state())


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("method", ["hat", "joint"])
def test_no_step_waits_for_the_device(method):
    """Between the first step and the last, whatever would wait is an error."""
    config = SMALL.replace(method=method, c=0.75 if method == "hat" else 0.0)
    (trainer,) = trainers_of([config])
    steps = trainer.steps_per_epoch
    counted = []

    def check():
        counted.append(None)
        torch.cuda.set_sync_debug_mode("error" if 1 < len(counted) < steps else "default")

    try:
        losses = ReplicaGroup([trainer], check=check).train_epoch()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(losses) == len(counted) == steps > 10


def test_a_joint_epoch_is_that_of_the_cpu():
    config = SMALL.replace(method="joint", c=0.0)
    on_gpu, on_cpu = (trainers_of([config], device)[0] for device in (GPU, CPU))
    for trainer in (on_gpu, on_cpu):
        trainer.task = 2
        train([trainer], 1)
    assert on_gpu.steps == on_cpu.steps > 30
    assert distance(on_gpu, on_cpu) <= 1e-4


def test_random_numbers_are_those_of_the_cpu():
    shapes, probabilities = [(16, 1, 28, 28), (16, 100), (16, 33), (3,)], [0.2, 0.5, 0.1, 1 - 1e-9]
    for steps in (0, 7):
        drawn = []
        for device in (GPU, CPU):
            dropout_rng = DropoutRNG(shapes, probabilities, device)
            starts = [dropout_rng.position(stream(seed, 2), steps) for seed in (0, 1, 2**31)]
            drawn.append(dropout_rng.draw(torch.tensor(starts, device=device)))
        for a, b in zip(*drawn, strict=True):
            assert torch.equal(a.cpu(), b)
