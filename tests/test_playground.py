"""The playground's page: one file, with the tables that were recorded, and sentences that those tables bear out."""

from __future__ import annotations

import base64
import importlib.util
import re
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hatlab
from docs import playground
from hatlab.support.paths import home

TASKS = 5


@cache
def data() -> dict[str, Any]:
    return playground.data()


def recorded(**settings: str) -> dict[str, Any]:
    """The run that an experiment's settings name, where they say nothing the first experiment's."""
    chosen = {"c": "0.375", "mode": "original", "s_max": "400", "widths": "12-12", "seed": "1"} | settings
    run: dict[str, Any] = data()["runs"]["|".join(chosen[name] for name in ("widths", "s_max", "c", "mode", "seed"))]
    return run | {"usage": run["used"][-1] / data()["weights"][chosen["widths"]]}


def final(run: dict[str, Any]) -> list[float]:
    return list(run["after"][-1])


def forgotten(run: dict[str, Any]) -> list[float]:
    return [run["after"][task][task] - final(run)[task] for task in range(TASKS - 1)]


def masks_of(run: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(run["masks"]), np.uint8).reshape(len(run["frames"]), -1)


def factors(run: dict[str, Any]) -> np.ndarray:
    """What the gradients of the weights between the two layers of 12 are multiplied by in the last task."""
    tasks = np.array([task for task, _ in run["frames"]])
    ends = [np.flatnonzero(tasks == task)[-1] for task in range(TASKS - 1)]
    held = masks_of(run)[ends].max(0) / 255
    return np.asarray(1 - np.minimum(held[:12, None], held[None, 12:]))


def test_it_is_one_small_file_that_asks_for_nothing() -> None:
    page = playground.page()
    assert len(page.encode()) < 3_000_000
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import|fetch\(|XMLHttpRequest|import\(|\{\{""", page)
    assert not [url for url in re.findall(r"https?://[^\s\"'<]+", page) if url != "http://www.w3.org/2000/svg"]


def test_every_setting_has_its_run() -> None:
    choices = data()["choices"]
    runs = {
        f"{widths}|{s_max}|{c}|{mode}|{seed}"
        for widths in choices["widths"]
        for s_max in choices["s_max"]
        for c in choices["c"]
        for mode in (choices["mode"] if c != "0" else ["original"])
        for seed in choices["seed"]
    }
    assert set(data()["runs"]) == runs


def test_frames_are_the_recorded_tables() -> None:
    tables = {
        name: pd.read_parquet(playground.RECORDED / f"{name}.parquet")
        for name in ("masks", "capacity", "epochs", "accuracy")
    }
    listed = pd.read_csv(playground.RECORDED / "runs.csv")
    for row in listed.sample(12, random_state=0).itertuples():
        run = data()["runs"][f"{row.widths}|{row.s_max:g}|{row.c:g}|{row.mode}|{row.seed}"]
        of = {name: table[table["run"] == row.run] for name, table in tables.items()}
        units = sum(map(int, row.widths.split("-")))
        masks = np.frombuffer(base64.b64decode(run["masks"]), np.uint8).reshape(-1, units)
        assert len(masks) == len(run["frames"]) == len(run["used"]) == len(run["valid"])
        for (task, epoch), mask, used, valid in zip(run["frames"], masks, run["used"], run["valid"], strict=True):
            at = {
                name: table[(table["task"] == task) & (table["epoch"] == epoch)]
                for name, table in of.items()
                if name != "accuracy"
            }
            assert at["masks"].sort_values("unit")["mask"].tolist() == mask.tolist()
            assert at["capacity"]["weights_used"].item() == used
            assert at["epochs"]["valid_accuracy"].item() == pytest.approx(valid, abs=1e-6)
        ends = of["capacity"].groupby("task")["epoch"].max()
        assert [list(end) for end in ends.items()] == [f for f in run["frames"] if f[1] == ends[f[0]]]
        for entry in of["accuracy"].itertuples():
            assert run["after"][entry.after_task][entry.task] == pytest.approx(entry.accuracy, abs=1e-6)


def test_a_run_trained_again_has_the_recorded_masks(tmp_path: Any) -> None:
    place = home() / "tools" / "playground.py"
    spec = importlib.util.spec_from_file_location("record_playground", place)
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    watch = tool.Watch()
    (config,) = (
        c for c in tool.configs() if (c.widths, c.s_max, c.c, c.mode, c.seed) == ((12, 12), 400, 0.375, "original", 1)
    )
    hatlab.run(config, results=tmp_path, device="cpu", callbacks=[watch])
    kept = pd.read_parquet(playground.RECORDED / "masks.parquet")
    kept = kept[kept["run"] == config.run_id]
    again = tool.masks(watch)
    assert again["mask"].tolist() == kept["mask"].tolist() and again["epoch"].tolist() == kept["epoch"].tolist()


def name_of(preset: dict[str, Any]) -> str:
    return str(preset["name"])


@pytest.mark.parametrize("preset", playground.presets(), ids=name_of)
def test_an_experiment_has_two_sentences_and_a_question(preset: dict[str, Any]) -> None:
    assert len(re.findall(r"[.](?=\s|$)", preset["says"])) == 2
    assert preset["question"].count("?") == 1 and preset["question"].endswith("?")


def test_what_the_experiments_say_is_so() -> None:
    says = {
        preset["name"]: recorded(**{k: v for k, v in preset["settings"].items() if k != "with"})
        for preset in playground.presets()
    }
    kept, fills, forgets, shut, cross, wide = says.values()
    assert list(says) == [
        "Nothing is forgotten", "Without a price it fills up", "A small slope forgets", "Too high a price shuts it",
        "Cross against original at half of c", "Room to spare",
    ]  # fmt: skip
    assert (
        max(map(abs, forgotten(kept))) < 0.001
        and min(final(kept)) > 0.9
        and kept["usage"] == pytest.approx(0.6, abs=0.03)
    )
    assert fills["usage"] == 1
    assert np.mean(forgotten(forgets)) > 0.03 and max(forgotten(forgets)[:2]) > 0.03
    assert np.mean(factors(forgets) > 0.1) > 0.5 and 0 < masks_of(forgets).min() < masks_of(forgets).max() < 255
    assert shut["usage"] == 0 and np.mean(final(shut)) == pytest.approx(0.5, abs=0.02)
    assert np.mean(final(recorded(c="2.5", widths="40-40"))) > 0.85
    other = recorded(c="0.375", widths="40-40", seed="2")
    first = len([frame for frame in cross["frames"] if frame[0] == 0])
    assert cross["used"][:first] == other["used"][:first] and cross["used"][first:] != other["used"][first:]
    assert np.mean(final(cross)) == pytest.approx(np.mean(final(other)), abs=0.01)
    assert wide["usage"] < 0.5 and np.mean(final(wide)) > 0.99


def test_a_sentence_can_be_wrong() -> None:
    """The run of another experiment does not do for the first."""
    assert recorded(c="0")["usage"] > 0.9 and max(forgotten(recorded(s_max="1"))) > 0.01


def test_the_site_lists_every_experiment() -> None:
    text = playground.as_markdown()
    assert text.count("playground.html#") == len(playground.presets())
    assert "playground/playground.html#c=0.75&mode=cross&widths=40-40&seed=2&with=original,0.375" in text
