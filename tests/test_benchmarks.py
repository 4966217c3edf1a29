"""How ratios, intervals and the file of results are made. What the rows say is for `make bench`, not for a test."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hatlab
from benchmarks import __main__ as bench
from benchmarks import clarena, images, machine, memory, peers, report, timing
from benchmarks.ours import Epochs, set_up, sweep
from benchmarks.table import ROWS, Measured, NotMeasured, Row, Setting
from benchmarks.timing import Ratio
from hatlab.method.networks import HATCNN, HATMLP


def costs(*values: float) -> Callable[[], float]:
    left: Iterator[float] = iter(values)
    return lambda: next(left)


# --- timing ---------------------------------------------------------------------------------------------------------


def test_ratio_is_the_median_of_the_ratios_of_pairs_and_leaves_the_warm_up_out() -> None:
    measured = timing.ratio(costs(9, 2, 6, 30), costs(1, 1, 2, 3), runs=3)
    assert measured == Ratio(3.0, 2.0, 10.0, 3, (6, 2))


def test_ratio_swaps_which_side_goes_first() -> None:
    order: list[str] = []
    sides = (lambda: order.append("a") or 2.0), (lambda: order.append("b") or 1.0)
    assert timing.ratio(*sides, runs=3, warm_up=1).ratio == 2
    assert "".join(order) == "baabbaab"


def test_stopwatch_divides_by_what_was_done() -> None:
    done: list[int] = []
    cost = timing.stopwatch(lambda: done.append(1), per=4, times=3, clock=costs(10.0, 16.0))
    assert (cost(), done) == (0.5, [1, 1, 1])


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (5, 1), (6, 1), (8, 1), (9, 2), (15, 4), (100, 40)])
def test_interval_lies_between_the_order_statistics_of_the_sign_test(n: int, k: int) -> None:
    values = [float(v) for v in range(n, 0, -1)]
    assert timing.median_interval(values) == ((n + 1) / 2, k, n + 1 - k)
    if n > 5:
        below = sum(math.comb(n, j) for j in range(k)) / 2**n
        assert 1 - 2 * below >= 0.95 > 1 - 2 * (below + math.comb(n, k) / 2**n)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40))
def test_interval_holds_the_median(values: list[float]) -> None:
    middle, low, high = timing.median_interval(values)
    assert min(values) <= low <= middle <= high <= max(values)


def test_curve_goes_up_and_down_through_the_sizes() -> None:
    asked: list[int] = []
    table = timing.curve({n: lambda n=n: asked.append(n) or float(n) for n in (1, 2, 4)}, runs=3)
    assert asked == [1, 2, 4, 4, 2, 1, 1, 2, 4]
    assert table == {1: [1.0] * 3, 2: [2.0] * 3, 4: [4.0] * 3}


def test_rise_is_over_the_cheapest_smaller_size() -> None:
    assert timing.rise([4, 2, 1]) == 0.5
    assert timing.rise([4, 2, 3, 2.5]) == 1.5
    measured = timing.rise_of({1: [4, 4, 4], 2: [4, 4, 4], 4: [12, 12, 20]})
    assert (measured.ratio, measured.runs, measured.sides) == (1.5, 3, (4, 3))
    assert 1.5 == measured.low <= measured.high == 2.5
    assert measured == timing.rise_of({1: [4, 4, 4], 2: [4, 4, 4], 4: [12, 12, 20]})


def test_threads_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), timing.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before


# --- the table and its file -----------------------------------------------------------------------------------------

MACHINE = {"cpu": "A Chip", "cores": 2}


def a_row(name: str, target: str = "<= 1.15") -> Row:
    measured = Measured(Ratio(1.2346, 1.1, 1.3, 9, (0.00234567, 0.0019)), ("ours", "theirs"), "s", {"images": "MNIST"})
    return Row(name, f"what {name} is", target, lambda setting: measured, lambda of: of.ratio)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, Row]:
    made = {name: a_row(name, target) for name, target in (("one", "<= 1.15"), ("two", ">= 1.2"), ("three", ">= 4"))}
    monkeypatch.setattr(bench, "ROWS", made)
    monkeypatch.setattr(bench, "describe", lambda: {**MACHINE, "gpu": None})
    monkeypatch.setattr(bench, "other_work", lambda: 0.0)  # however busy the machine that tests is
    return made


def test_file_holds_machine_and_rows(rows: dict[str, Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "a-chip-2-cores.json").read_text())
    assert set(found) == {"machine", "rows"}
    assert [(row["name"], row["met"]) for row in found["rows"]] == [("one", False), ("two", True), ("three", False)]
    first = found["rows"][0]
    assert {name: first[name] for name in ("ratio", "low", "high", "runs", "target")} == {
        "ratio": 1.235, "low": 1.1, "high": 1.3, "runs": 9, "target": "<= 1.15",
    }  # fmt: skip
    assert first["sides"] == [
        {"side": "ours", "median": 0.002346, "unit": "s"},
        {"side": "theirs", "median": 0.0019, "unit": "s"},
    ]
    assert first["command"] == "python -m benchmarks --only one"
    assert (first["images"], first["quick"]) == ("MNIST", False)
    table = capsys.readouterr().out.splitlines()
    assert table[1] == report.HEADER
    assert table[2].split() == [
        *("one", "1.24", "1.1", "1.3", "9", "<=", "1.15", "NO"),
        *("ours", "0.00235", "s", "/", "theirs", "0.0019", "s"),
    ]


def test_only_keeps_the_other_rows_of_the_file(rows: dict[str, Row], tmp_path: Path) -> None:
    path = tmp_path / "a-chip-2-cores.json"
    old = [{"name": name, "ratio": 7.0} for name in ("gone", "three", "one")]
    report.write(path, {}, old)
    assert bench.main(["--only", "one", "two", "--output", str(tmp_path)]) == 0
    assert [(row["name"], row["ratio"]) for row in report.read(path)] == [
        ("one", 1.235),
        ("two", 1.235),
        ("three", 7.0),
    ]


def test_what_cannot_be_measured_says_why(
    rows: dict[str, Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(setting: Setting) -> Measured:
        raise NotMeasured("no such thing here")

    rows["two"] = Row("two", "", "<= 1", measure, lambda of: of.ratio)
    assert bench.main(["--only", "two", "--output", str(tmp_path)]) == 0
    (row,) = report.read(tmp_path / "a-chip-2-cores.json")
    assert [row[name] for name in ("ratio", "low", "high", "runs", "met")] == [None, None, None, 0, None]
    assert row["why"] == "no such thing here"
    assert capsys.readouterr().out.splitlines()[2].endswith("no such thing here")


def test_ctrl_c_keeps_what_was_measured(rows: dict[str, Row], tmp_path: Path) -> None:
    def stop(setting: Setting) -> Measured:
        raise KeyboardInterrupt

    rows["two"] = Row("two", "", "<= 1", stop, lambda of: of.ratio)
    assert bench.main(["--output", str(tmp_path)]) == 130
    assert [row["name"] for row in report.read(tmp_path / "a-chip-2-cores.json")] == ["one"]


def test_quick_numbers_do_not_become_the_reference(
    rows: dict[str, Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "home", lambda: tmp_path)
    assert bench.main(["--quick"]) == 0
    assert bench.main([]) == 0
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json"))
    assert found == ["results/benchmarks/a-chip-2-cores.json", "results/reference/benchmarks/a-chip-2-cores.json"]


def test_curves_are_drawn(tmp_path: Path) -> None:
    rows = [
        {"name": name, "ratio": 1.02, "unit": name, "seconds": {"1": 1.0, "2": 1.9, "4": 3.5}}
        for name in ("task", "run")
    ]
    report.plot(tmp_path / "x.png", MACHINE, [*rows, {"name": "no curve", "ratio": 1}])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_every_row_has_a_target_that_is_understood() -> None:
    assert len(ROWS) >= 19
    for name, row in ROWS.items():
        assert name == row.name
        relation, bound = row.target.split()[:2]
        assert relation in ("<=", ">=") and float(bound) > 0
    of_set_up = ROWS["clarena_set_up"]
    assert of_set_up.met(Ratio(40, 39, 41, 3, (12.0, 0.3)))
    assert not of_set_up.met(Ratio(4, 3, 5, 3, (12.0, 0.31)))


def test_machine_is_named_by_its_parts_and_not_by_its_owner() -> None:
    described = machine.describe()
    assert described["cores"] >= 1 and described["cpu"]
    assert not any(
        isinstance(value, str) and (str(Path.home()) in value or "/" in value) for value in described.values()
    )
    cpu = "Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz"
    assert machine.slug({"cpu": cpu, "gpu": None, "cores": 4}) == "intel-xeon-e5-2690-v4-4-cores"
    assert machine.slug({"cpu": "AMD EPYC", "gpu": "NVIDIA H100", "cores": 16}) == "amd-epyc-nvidia-h100-16-cores"
    assert machine.slug({"cpu": "AMD EPYC", "gpu": None, "cores": 2}) == "amd-epyc-2-cores"


# --- the sides ------------------------------------------------------------------------------------------------------


def parameters(network: torch.nn.Module, without: tuple[str, ...] = ()) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for name, p in network.named_parameters() if not name.startswith(without)]


def test_peers_are_hatlabs_networks_without_gates() -> None:
    others = ("gates", "heads.1")
    assert parameters(peers.mlp(784, (30, 20), 2)) == parameters(HATMLP((1, 28, 28), [2, 2], (30, 20)), others)
    ours, theirs = HATCNN((3, 32, 32), [2, 2]).eval(), peers.cnn(2).eval()
    assert parameters(theirs) == parameters(ours, others)
    mine = [p for name, p in ours.named_parameters() if not name.startswith(others)]
    with torch.no_grad():
        for p, q in zip(theirs.parameters(), mine, strict=True):
            p.copy_(q)
        x = torch.randn(3, 3, 32, 32)
        assert torch.allclose(theirs(x), ours(x, 0, torch.ones_like(ours.gates[0])), atol=1e-6)
    dropouts = [layer.p for layer in theirs if isinstance(layer, torch.nn.Dropout)]
    assert dropouts == [p for p in ours.dropout if p]


def test_epochs_are_of_a_later_task_with_masked_gradients() -> None:
    epochs = Epochs([hatlab.RunConfig(widths=(8,), seed=seed) for seed in (0, 1)])
    before = {name: p.clone() for name, p in epochs.first.network.named_parameters()}
    assert epochs.first.task == 1 and epochs.first.cumulative.any()
    epochs()
    epochs.whole()
    assert epochs.first.gradient_mask
    moved = {name for name, p in epochs.first.network.named_parameters() if not torch.equal(p, before[name])}
    assert {"trunk.fc1.weight", "heads.1.weight", "gates"} <= moved
    assert "heads.0.weight" not in moved
    assert epochs.steps == -(-len(epochs.data()[0]) // 64)


def test_set_up_and_sweep_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = hatlab.RunConfig(widths=(8,), n_tasks=1, max_epochs=1)
    set_up(config)
    sweep(config.grid(seed=[0, 1]))
    assert not list(tmp_path.glob("tmp*"))


@pytest.fixture
def few(tmp_path: Path, empty_home: Path, no_network: list[str], monkeypatch: pytest.MonkeyPatch) -> images.Images:
    """Random images, for lack of real ones; fewer than there would be."""
    made = images.Images._made
    monkeypatch.setattr(
        images.Images, "_made", lambda self, name, n_train, n_test, shape: made(self, name, 400, 100, shape)
    )
    return images.Images(tmp_path)


def test_where_there_are_no_images_random_ones_of_their_size_are_made(
    few: images.Images, no_network: list[str]
) -> None:
    assert (few.title, few.cifar_title, few.part_title) == ("random-28x28", "random-32x32", "quarter-of-random-28x28")
    config = hatlab.RunConfig(dataset=few.cifar, network="cnn", n_tasks=2)
    assert Epochs([config]).data()[0].shape[1:] == (3, 32, 32)
    assert no_network == []


def test_torchvision_reads_the_same_images(few: images.Images) -> None:
    ours = Epochs([Setting(few).split_mnist(8)])
    task = ours.first.sequence.tasks[1]
    (x, y), *rest = peers.loader(few.torchvision_root, task.classes, len(task.train), workers=0)
    assert (x.shape[1:], set(y.tolist())) == ((1, 28, 28), {0, 1})
    assert len(y) + sum(len(labels) for _, labels in rest) == len(task.train)
    model = peers.mlp(784, (8,), 2)
    before = [p.clone() for p in model.parameters()]
    peers.loader_epoch(model, peers.sgd(model), [(x, y)])
    peers.bare_epoch(model, peers.sgd(model), *ours.data())
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_activations_follow_the_formula() -> None:
    assert memory.activations(inputs=784, units=800, batch_size=64, runs=16) == 16 * 64 * (1568 + 4000) * 4


def test_clarena_that_cannot_be_installed_or_stops_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clarena, "install", lambda: "no index can be reached")
    with pytest.raises(clarena.NotInstalled, match="no index can be reached"):
        clarena.CLArena(tmp_path, threads=1, usual=False)
    monkeypatch.setattr(clarena, "install", lambda: "")
    monkeypatch.setattr(clarena, "PYTHON", Path(bench.sys.executable))
    monkeypatch.setattr(clarena, "__file__", str(tmp_path / "clarena.py"))
    (tmp_path / "clarena_epoch.py").write_text(
        "import sys\n"
        "print('{\"setup\": 1.5}' if input() == 'task' else '', flush=True)\n"
        "input(); sys.exit('no memory left')\n"
    )
    with clarena.CLArena(tmp_path, threads=1, usual=False) as peer:
        assert peer.task() == 1.5
        with pytest.raises(clarena.NotInstalled, match="stopped: no memory left"):
            peer.epoch()
