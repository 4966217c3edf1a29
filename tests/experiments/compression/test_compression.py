import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hatlab
from hatlab.analysis.verdicts import AGREES, DIFFERS, ESTIMATED, FAILS, HOLDS, UNDECIDED
from hatlab.config import ConfigError, RunConfig
from hatlab.experiments.compression import claims, tables
from hatlab.support.progress import Progress
from hatlab.training.runs import Run, Tables

PAPER = RunConfig(dataset="mixture:mnist", network="cnn", c=1.5, embedding_init="uniform")
SGD = PAPER.replace(method="sgd", c=0)


def made_up(config, points, best=-1, test=0.9, weights=claims.PAPER_TRUNK, title="MNIST"):
    """A run that never was: `points` are (share of the weights, validation accuracy) after each epoch."""
    rows = []
    for epoch, (share, _) in enumerate([(1.0, 0.0), *points], start=-1):
        for layer, size in (("fc1", 10), ("total", weights)):
            rows.append((0, epoch, layer, size, round(share * size)))
    capacity = pd.DataFrame(rows, columns=["task", "epoch", "layer", "weights", "weights_used"])
    epochs = pd.DataFrame({"task": 0, "epoch": range(len(points)), "valid_accuracy": [a for _, a in points]})
    tasks = pd.DataFrame({"task": [0], "best_epoch": [range(len(points))[best]], "weights": [weights]})
    accuracy = pd.DataFrame({"after_task": [0], "task": [0], "accuracy": [test]})
    return Run(config, Path("nowhere"), {"title": title}, Tables(capacity, accuracy, epochs, tasks))


def test_points_are_the_share_and_the_accuracy_after_each_epoch():
    points = tables.by_epoch([made_up(PAPER, [(0.5, 0.8), (0.1, 0.9)]), made_up(PAPER.replace(seed=1), [(0.2, 0.7)])])
    assert list(points["epoch"]) == [0, 1, 0] and list(points["seed"]) == [0, 0, 1] and set(points["c"]) == {1.5}
    np.testing.assert_allclose(points["share"], [50, 10, 20], rtol=1e-6)
    np.testing.assert_allclose(points["accuracy"], [80, 90, 70])


def test_a_run_is_held_against_sgd_of_its_seed():
    points = [(0.5, 0.8), (0.1, 0.90), (0.05, 0.88), (0.02, 0.899)]
    runs = [made_up(PAPER.replace(seed=seed), points, best=2, test=0.85) for seed in (3, 4)]
    plain = [made_up(SGD.replace(seed=seed), [(1, 0.1), (1, a)], test=0.86) for seed, a in ((4, 0.95), (3, 0.91))]
    first, second = tables.by_run(runs, plain, 1.0).itertuples()
    assert (first.seed, first.epochs, first.best_epoch) == (3, 4, 2)
    assert (first.share, first.accuracy, first.test_accuracy) == pytest.approx((5, 88, 85), rel=1e-5)
    assert (first.sgd_accuracy, first.sgd_test_accuracy) == pytest.approx((91, 86))
    assert first.smallest_share == pytest.approx(10, rel=1e-5)  # 90.0 is just within a point of 91; 89.9 is not
    assert math.isnan(second.smallest_share)  # none is within a point of 95
    wider = tables.by_run(runs, plain, 1.2)["smallest_share"]
    assert wider[0] == pytest.approx(2, rel=1e-4)


def test_what_does_not_belong_together_is_refused():
    run = made_up(PAPER, [(0.5, 0.8)])
    with pytest.raises(ValueError, match="no run of SGD with seed 0"):
        tables.by_run([run], [made_up(SGD.replace(seed=1), [(1, 0.8)])], 1.0)
    run.tables.tasks.loc[1] = run.tables.tasks.loc[0]
    with pytest.raises(ValueError, match="has 2 tasks"):
        tables.by_epoch([run])


def judged(config, shares, reached=0.95, **how):
    """Verdicts on runs of some seeds that reach SGD's 95% last at these shares, and go on to compress below."""
    runs = [
        made_up(config.replace(seed=k), [(2 * s, 0.9), (s, reached), (s / 2, 0.5)], **how) for k, s in enumerate(shares)
    ]
    plain = [made_up(SGD.replace(seed=k), [(1, 0.95)]) for k in range(len(shares))]
    return claims.verdicts_for(runs, tables.by_run(runs, plain, 0.5), 0.5)


def test_verdicts_on_the_papers_experiment():
    reached, share = judged(PAPER, [0.008, 0.010, 0.013])
    assert (reached.verdict, reached.n) == (UNDECIDED, 3)
    assert judged(PAPER, [0.01] * 6)[0].verdict == HOLDS
    assert (share.paper, share.verdict) == (1, AGREES) and share.ours == pytest.approx(31 / 30, rel=1e-3)
    assert judged(PAPER, [0.10, 0.11, 0.13])[1].verdict == DIFFERS
    (reached,) = judged(PAPER, [0.10, 0.11, 0.13, 0.1, 0.1, 0.1], reached=0.94)
    assert (reached.verdict, reached.ours) == (FAILS, 0)
    _, share = judged(PAPER, [0.205, 0.21, 0.215], title="CIFAR-100")
    assert (share.paper, share.verdict) == (21, AGREES)
    _, share = judged(PAPER, [0.2, 0.21], title="SVHN")
    assert (share.verdict, share.why) == (ESTIMATED, "the paper prints no number of this data set")


@pytest.mark.parametrize(
    ("config", "how", "why"),
    [
        (RunConfig(dataset="mnist", c=1.5, widths=(400, 400)), {}, "this is an MLP 400-400"),
        (PAPER.replace(dataset="mnist"), {"weights": 5_000_000}, "32x32 pixels"),
        (PAPER.replace(dataset="cifar100", n_tasks=1), {}, "all classes"),
        (PAPER.replace(c=0.75), {}, "here c = 0.75 and e is uniform"),
        (PAPER.replace(embedding_init="normal"), {}, "here c = 1.5 and e is normal"),
    ],
)
def test_other_experiments_are_not_comparable(config, how, why):
    for verdict in judged(config, [0.01, 0.01, 0.012], **how):
        assert verdict.verdict == ESTIMATED and why in verdict.why and math.isnan(verdict.paper)


def test_the_sentence_follows_the_table():
    columns = ["c", "seed", "share", "test_accuracy", "sgd_test_accuracy"]
    table = pd.DataFrame(
        [(1.5, 0, 8.0, 97.0, 97.5), (1.5, 1, 10.0, 96.0, 97.5), (4.0, 0, 3.0, 90.0, 97.5)], columns=columns
    )
    first, second = claims.statement(table).splitlines()
    assert first.startswith("c = 1.5: the models that are kept use 9.00% (95% interval -3.71 to 21.71) of the trunk's")
    assert first.endswith("is -1.00 points (95% interval -7.35 to 5.35); n = 2.")
    assert "3.00% of" in second and second.endswith("is -7.50 points; n = 1.")


def test_several_tasks_are_refused_before_training():
    with pytest.raises(ConfigError, match="classes_per_task = 5 makes 2 tasks of 'digits'"):
        tables.single_task(RunConfig(classes_per_task=5))
    config = RunConfig(classes_per_task=10)
    assert tables.single_task(config) is config


def test_real_runs_shrink(tmp_path):
    config = RunConfig(
        widths=(40, 40), dropout=(0.0, 0.0), batch_size=16, max_epochs=12, classes_per_task=10, embedding_init="uniform"
    )
    both = [config.replace(c=1.5), config.replace(method="sgd", c=0)]
    run, plain = hatlab.sweep(both, results=tmp_path, device="cpu", progress=Progress())
    points = tables.by_epoch([run])
    assert len(points) == len(run.epochs)
    assert points["share"].iloc[-1] < 0.7 * points["share"].iloc[0]
    (row,) = tables.by_run([run], [plain], 1.0).itertuples()
    kept = run.epochs[run.epochs["epoch"] == row.best_epoch]
    assert kept["valid_loss"].iloc[0] == run.epochs["valid_loss"].min()
    assert row.share == pytest.approx(100 * run.tasks["weights_used"].iloc[0] / run.tasks["weights"].iloc[0])
    assert row.test_accuracy > 90 and row.sgd_test_accuracy > 90
