"""The cross ablation as a notebook, on the digits: five seeds, a small network, few epochs."""

import json
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest

from hatlab.batches.kernels import Execution
from hatlab.batches.notebook import Notebook
from hatlab.config import ConfigError
from hatlab.experiments.cross_ablation import claims
from hatlab.experiments.cross_ablation import tables as ablation
from hatlab.support.files import write_table
from hatlab.support.paths import home

NOTEBOOK = home() / "notebooks" / "03_cross_ablation.ipynb"
SMALL = {"cs": [0.75, 2.5], "seeds": [0, 1, 2, 3, 4], "tuning_seeds": [100], "widths": [40, 40], "max_epochs": 5}

FIGURES = ("cross_ablation", "cross_differences", "at_best", "plane")

pytestmark = pytest.mark.filterwarnings("ignore:.*IPython:DeprecationWarning")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """What the notebook leaves, and what it shows."""
    results = tmp_path_factory.mktemp("results")
    notebook, copy = Notebook.read(NOTEBOOK), results / "copy.ipynb"
    parameters = notebook.check(SMALL)
    execution = Execution(notebook, copy, {**parameters, "results": str(results)}, str(results))
    execution.start()
    execution.join()
    assert execution.failure is None, execution.failure.traceback
    folder = results / "interactive" / "cross_ablation"
    tables = {path.stem: pd.read_parquet(path) for path in folder.glob("*.parquet")}
    outputs = [o for cell in nbformat.read(copy, as_version=4).cells for o in cell.get("outputs", [])]
    return SimpleNamespace(results=results, folder=folder, tables=tables, outputs=outputs)


def test_it_leaves_tables_figures_and_a_manifest(executed):
    names = {"outcomes", "summary", "differences", "findings", "verdicts", "tuning", "by_task", "at_best"}
    files = {f"{name}.{ending}" for name in names for ending in ("parquet", "csv")}
    files |= {f"{name}.{ending}" for name in FIGURES for ending in ("png", "pdf")}
    manifest = json.loads((executed.folder / "manifest.json").read_text())
    assert set(manifest["artifacts"]) == files
    # none, two of original, two of original at half of c, two each of cross and reuse; five seeds
    assert len(manifest["runs"]) == 9 * 5 + 9
    assert len(executed.tables["outcomes"]) == 9 * 5
    assert len(executed.tables["differences"]) == 4 * 2 * 4 and set(executed.tables["differences"]["n"]) == {5}
    assert sum("image/png" in output.get("data", {}) for output in executed.outputs) == 4
    assert not any(output.output_type == "stream" and output.name == "stderr" for output in executed.outputs)


def test_in_the_first_task_cross_is_its_control_number_for_number(executed):
    outcomes = executed.tables["outcomes"].set_index(["arm", "c", "seed"])["run"]
    for c in SMALL["cs"]:
        for seed in SMALL["seeds"]:
            cross, half = (
                pd.read_parquet(executed.results / "runs" / outcomes[arm, c, seed] / "capacity.parquet")
                for arm in ("cross", "half")
            )
            first, later = (
                [t.loc[rows, "weights_used"].tolist() for t, rows in ((cross, which(cross)), (half, which(half)))]
                for which in (lambda t: t["task"] == 0, lambda t: t["task"] > 0)
            )
            assert first[0] == first[1] and later[0] != later[1]


def test_the_reuse_term_makes_tasks_reuse_more_and_half_a_c_leaves_less_room(executed):
    table = executed.tables["differences"].set_index(["arm", "reference", "c", "outcome"]).sort_index()
    outcomes = executed.tables["outcomes"].set_index(["arm", "c", "seed"]).sort_index()
    for c in SMALL["cs"]:
        assert table.loc[("cross", "half", c, "reused"), "low"] > 5
        assert table.loc[("cross", "original", c, "capacity"), "low"] > 0
        assert table.loc[("reuse", "original", c, "capacity"), "low"] > 0
        assert table.loc[("original", "none", c, "capacity"), "high"] < 0
    assert outcomes[["capacity", "reused", "accuracy"]].stack().between(0, 100).all()
    assert outcomes["accuracy"].min() > 55
    reuse = outcomes.loc["reuse", "reused"].groupby("c").mean()
    assert reuse[2.5] > reuse[0.75]


def test_its_text_is_that_of_its_tables(executed):
    tables = executed.tables
    differences = ablation.differences(ablation.pairs(tables["outcomes"]))
    means = ablation.summary(tables["outcomes"])
    chosen = ablation.best(tables["tuning"])
    said = claims.at_best(tables["at_best"], chosen)
    pd.testing.assert_frame_equal(claims.table(differences, means, said), tables["findings"])
    shown = [
        output["data"]["text/markdown"] for output in executed.outputs if "text/markdown" in output.get("data", {})
    ]
    of_parts = tables["findings"].groupby("part")["text"].agg(list)
    sentences = [of_parts["reading"], of_parts["room"] + of_parts["conclusion"], of_parts["at_best"]]
    assert shown == ["\n".join(f"- {sentence}" for sentence in part) for part in sentences]
    swapped = tables["outcomes"].replace({"arm": {"cross": "half", "half": "cross"}})
    other = claims.conclusion(ablation.differences(ablation.pairs(swapped)))
    signs = [text.partition("): ")[2].partition("(")[2][0] for text in (claims.conclusion(differences)[1], other[1])]
    assert signs == ["+", "−"]


def test_each_mode_is_compared_at_the_c_that_was_chosen_on_another_seed(executed):
    tables = executed.tables
    assert set(tables["tuning"]["seed"]) == {100}
    best = ablation.best(tables["tuning"])
    found = ablation.at_best(ablation.best_pairs(tables["outcomes"], best))
    pd.testing.assert_frame_equal(found, tables["at_best"])
    shown = [o["data"]["text/markdown"] for o in executed.outputs if "text/markdown" in o.get("data", {})]
    assert shown[2] == "\n".join(f"- {sentence}" for sentence in claims.at_best(found, best))
    assert len(tables["by_task"]) == 9 * 5 * 5
    held = tables["by_task"].groupby(["arm", "c", "seed"])
    assert (held["free"].first() == 100).all() and (held["usage"].diff().dropna() >= 0).all()


def test_its_numbers_repeat_byte_for_byte(executed, tmp_path):
    again = ablation.differences(ablation.pairs(executed.tables["outcomes"]))
    for path in write_table(tmp_path, "differences", again):
        assert path.read_bytes() == (executed.folder / path.name).read_bytes()
    np.testing.assert_array_equal(executed.tables["verdicts"]["verdict"], ["estimated"] * 7)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"cs": [-0.5]}, "c = -0.5"), ({"seeds": [1, 1]}, "named twice"), ({"dataset": 3}, "dataset = 3")],
)
def test_parameters_that_no_run_takes_are_refused_before_a_kernel_starts(given, message):
    with pytest.raises(ConfigError, match=message):
        Notebook.read(NOTEBOOK).check(given)


def test_the_default_has_pairs_enough_to_find_a_difference():
    values = Notebook.read(Path(NOTEBOOK)).check({})
    comparisons = len(values["cs"]) * len(ablation.OUTCOMES)
    assert len(values["seeds"]) >= claims.pairs_needed(comparisons)
