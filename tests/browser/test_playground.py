"""The playground in a browser, opened from a file: what it shows is what was recorded, and the address keeps it."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from docs import playground
from hatlab.method.gate import compensated_gradient, gate, s_schedule
from hatlab.method.regularizer import mask_sparsity

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return playground.write(tmp_path_factory.mktemp("playground")).as_uri()


@pytest.fixture
def opened(page: Page, file: str) -> Iterator[Page]:
    """The page as it opens by double click; afterwards nothing must have gone wrong or left the file."""
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith("file:") else faults.append(asked.url))
    page.set_viewport_size(DESKTOP)
    page.goto(file)
    yield page
    assert not faults


def show(page: Page, address: str) -> None:
    page.evaluate("address => { location.hash = address; }", address)
    page.wait_for_function("asked => location.hash === '#' + asked", arg=address)
    page.evaluate("() => new Promise(requestAnimationFrame)")  # the page has drawn it


def settings(page: Page) -> dict[str, str]:
    return {
        name: page.locator(f"select[name={name}]").input_value() for name in ("c", "mode", "s_max", "widths", "seed")
    }


def test_what_is_shown_is_what_was_recorded(opened: Page) -> None:
    runs = pd.read_csv(playground.RECORDED / "runs.csv")
    tables = {
        name: pd.read_parquet(playground.RECORDED / f"{name}.parquet") for name in ("masks", "capacity", "accuracy")
    }
    draw = random.Random(0)
    for row in runs.sample(8, random_state=1).itertuples():
        masks = tables["masks"][tables["masks"]["run"] == row.run]
        task, epoch = draw.choice(masks[["task", "epoch"]].drop_duplicates().to_numpy().tolist())
        chosen = f"c={row.c:g}&mode={row.mode}&s_max={row.s_max:g}&widths={row.widths}&seed={row.seed}"
        show(opened, f"{chosen}&task={task + 1}&epoch={epoch + 1}")
        expect(opened.locator("#now")).to_contain_text(f"Task {task + 1} of 5, epoch {epoch + 1}:")
        at = masks[(masks["task"] == task) & (masks["epoch"] == epoch)].sort_values("unit")["mask"].to_numpy() / 255
        said = [unit.get_attribute("aria-label") or "" for unit in opened.locator("[data-unit]").all()]
        assert [text.split(" mask ")[1].split(",")[0] for text in said] == [js_fixed(mask, 2) for mask in at]
        capacity = tables["capacity"]
        used = capacity[(capacity["run"] == row.run) & (capacity["task"] == task) & (capacity["epoch"] == epoch)]
        share = js_fixed(100 * used["weights_used"].item() / used["weights"].item(), 1)
        expect(opened.locator("#now")).to_contain_text(f"{share}% of the weights are used")
        show(opened, f"{chosen}&task=5&epoch=40")
        accuracy = tables["accuracy"][tables["accuracy"]["run"] == row.run].set_index(["after_task", "task"])[
            "accuracy"
        ]
        cells = opened.locator("#accuracy td:nth-child(4)").all_inner_texts()
        assert cells == [f"{js_fixed(100 * accuracy[4, k], 1)}%" for k in range(5)]


def js_fixed(value: float, digits: int) -> str:
    """Round as a browser's toFixed does; Python's rounds the exact value, too, and only a tie differs."""
    return f"{value + 1e-12:.{digits}f}"


def test_every_experiment_opens_from_its_link_and_says_its_question(opened: Page) -> None:
    for preset in playground.presets():
        link = opened.get_by_role("link", name=preset["name"], exact=True)
        link.click()
        expect(link).to_have_attribute("aria-current", "true")
        expect(opened.locator("#task-of-preset")).to_contain_text(preset["question"])
        for name, value in preset["settings"].items():
            assert opened.locator(f"select[name={name}]").input_value() == value


def test_a_link_is_reopened_with_all_that_was_chosen(opened: Page, file: str) -> None:
    opened.locator("select[name=c]").select_option("1.25")
    opened.locator("select[name=mode]").select_option("cross")
    opened.locator("select[name=widths]").select_option("40-40")
    opened.locator("select[name=with]").select_option("original,0.75")
    opened.locator("#later").click()
    opened.locator("[data-unit='fc2.7']").click()
    opened.locator("input[name=m4]").fill("0.5")
    opened.locator("input[name=top]").fill("50")
    before = {
        part: opened.locator(part).inner_text()
        for part in ("#now", "#why", "#accuracy", "#regularizer-values", "#gate-values")
    }
    address = opened.url
    again = opened.context.new_page()
    again.goto(address)
    assert {part: again.locator(part).inner_text() for part in before} == before
    assert (
        settings(again)
        == settings(opened)
        == {"c": "1.25", "mode": "cross", "s_max": "400", "widths": "40-40", "seed": "1"}
    )
    assert address.startswith(file) and "task=2" in address and "to=fc2.7" in address


def test_an_address_that_asks_for_what_is_not_there_is_told(opened: Page) -> None:
    show(opened, "c=3&task=9&colour=red&m=1,2")
    for text in (
        "c = 3 in the address: allowed are 0, 0.1",
        "task = 9 in the address",
        "colour in the address is not known",
        "m = 1,2",
    ):
        expect(opened.locator("#notice")).to_contain_text(text)
    assert settings(opened)["c"] == "0.375"


def test_why_a_weight_may_or_may_not_move(opened: Page) -> None:
    """Every kind of answer, each against the masks of the first experiment."""
    run = playground.data()["runs"]["12-12|400|0.375|original|1"]
    show(opened, "task=1&from=fc1.1&to=fc2.1")
    expect(opened.locator("#why")).to_contain_text("there is no earlier task")
    show(opened, "task=4&epoch=40")
    frame = max(k for k, (task, _) in enumerate(run["frames"]) if task == 3)
    held, users = cumulative(run, 3)
    kinds = set()
    for j in range(12):
        for i in range(12, 24):
            factor = 1 - min(held[j], held[i])
            both = [task + 1 for task, mask in enumerate(users) if min(mask[j], mask[i]) > 0.5]
            if factor > 0.99:
                kind = "so none sees what it computes" if held[i] < 0.5 else "whatever the weight"
            elif factor > 0.01:
                kind = "It may move, but less"
            else:
                kind = f"task {both[0]} computes with it" if both else "although no task computes with it"
            if kind not in kinds:
                kinds.add(kind)
                opened.locator("select[name=from]").select_option(f"fc1.{j + 1}")
                opened.locator("select[name=to]").select_option(f"fc2.{i - 11}")
                expect(opened.locator("#why")).to_contain_text(kind)
                expect(opened.locator("#why")).to_contain_text(f"= {js_fixed(factor, 2)}.")
    expect(opened.locator("#now")).to_contain_text(f"{js_fixed(100 * frozen_share(held), 1)}% are frozen")
    assert len(kinds) >= 4 and run["frames"][frame][0] == 3
    opened.locator("select[name=to]").select_option("output.2")
    expect(opened.locator("#why")).to_contain_text("There is no weight from fc1")
    opened.locator("select[name=from]").select_option("fc2.3")
    expect(opened.locator("#why")).to_contain_text("belong to that task alone")


def cumulative(run: dict[str, Any], task: int) -> tuple[list[float], list[list[float]]]:
    raw = base64.b64decode(run["masks"])
    units = len(raw) // len(run["frames"])
    masks = [[value / 255 for value in raw[k * units : (k + 1) * units]] for k in range(len(run["frames"]))]
    ends = [max(k for k, (t, _) in enumerate(run["frames"]) if t == earlier) for earlier in range(task)]
    return [max(column) for column in zip(*(masks[end] for end in ends), strict=True)], [masks[end] for end in ends]


def frozen_share(held: list[float]) -> float:
    """Of the weights from 64 pixels to 12 units and on to 12 more, those whose gradient is multiplied by almost 0."""
    one, two = (sum(1 - mask < 0.01 for mask in layer) for layer in (held[:12], held[12:]))
    return (64 * one + one * two) / (64 * 12 + 12 * 12)


def test_with_a_small_slope_nothing_is_frozen(opened: Page) -> None:
    show(opened, "s_max=1&task=5&epoch=40")
    expect(opened.locator("#now")).to_contain_text(" 0.0% are frozen")


def test_a_weight_is_chosen_by_mouse_and_a_unit_by_keyboard(opened: Page) -> None:
    opened.locator("[data-weight='image fc1.2'] .touch").dispatch_event("click")
    expect(opened.locator("#why")).to_contain_text("Each of the 64 weights")
    opened.locator("[data-unit='fc1.1']").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "Enter"):
        opened.keyboard.press(key)
    assert opened.locator("select[name=to]").input_value() == "fc2.3"
    expect(opened.locator("[data-unit='fc2.3']")).to_be_focused()


def test_it_plays_to_the_end_and_stops(opened: Page) -> None:
    assert opened.locator("#play").inner_text() == "Play"
    last = int(opened.locator("#frame").get_attribute("max") or 0)
    opened.locator("#frame").fill(str(last - 3))
    opened.locator("#play").press("Enter")
    expect(opened.locator("#frame")).to_have_value(str(last))
    expect(opened.locator("#play")).to_have_text("Play")
    expect(opened.locator("#now")).to_contain_text("Task 5 of 5, epoch 40")


@pytest.mark.parametrize(("e", "b", "top"), [(0.5, 51, 400.0), (-3.0, 1, 400.0), (0.0, 101, 50.0), (5.5, 20, 10.0)])
def test_one_gate_by_hand_is_hatlabs(opened: Page, e: float, b: int, top: float) -> None:
    show(opened, f"e={e:g}&b={b}&top={top:g}")
    slopes = s_schedule("paper", top, 101, 1)
    at, s = torch.tensor(e, dtype=torch.float64, requires_grad=True), slopes[b - 1]
    mask = gate(at, s)
    (plain,) = torch.autograd.grad(mask, at)
    one = torch.ones((), dtype=torch.float64)
    compensated = compensated_gradient(one, mask.detach(), at.detach(), s, top, "exact", 50.0)
    mean = sum(float(s * torch.sigmoid(s * at.detach()) * torch.sigmoid(-s * at.detach())) for s in slopes) / 101
    shown = [float(text) for text in opened.locator("#gate-values td").all_inner_texts()]
    expected = [s, float(mask.detach()), float(plain), mean, float(compensated)]
    for value, right in zip(shown, expected, strict=True):
        assert value == pytest.approx(right, rel=6e-3, abs=6e-5)


@pytest.mark.parametrize(
    ("p", "m", "c"),
    [
        ("1,1,1,0,0,0,0", "1,0,0,1,0,0,0", 3.0),
        ("0,0,0,0,0,0,0", "1,1,0,0,0,0,0.5", 0.75),
        ("1,1,1,1,1,1,1", "0,1,0,0,0,0,0", 1.0),
    ],
)
def test_the_regularizer_by_hand_is_hatlabs(opened: Page, p: str, m: str, c: float) -> None:
    show(opened, f"factor={c:g}&p={p}&m={m}")
    masks, previous = ([torch.tensor([float(v) for v in text.split(",")])] for text in (m, p))
    of = {mode: float(mask_sparsity(masks, previous, mode, 0)) for mode in ("original", "reuse", "cross")}
    shown = [float(text) for text in opened.locator("#regularizer-values td").all_inner_texts()[:4]]
    assert shown == pytest.approx([of["original"], of["reuse"], c * of["original"], c * of["cross"]], abs=6e-5)


@pytest.mark.parametrize(("scheme", "size"), [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE), ("dark", PHONE)])
def test_no_serious_finding_of_axe_and_nothing_is_cut_off(opened: Page, scheme: Any, size: Any) -> None:
    opened.set_viewport_size(size)
    opened.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    for address in ("task=3&epoch=40", "c=0&widths=40-40&task=5&epoch=40&with=cross,0.75&colour=red"):
        show(opened, address)
        findings = Axe().run(opened).response["violations"]
        assert not [
            f"{f['id']}: {f['nodes'][0]['html'][:300]}" for f in findings if f["impact"] in ("serious", "critical")
        ]
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_site_has_the_same_page(site: Path) -> None:
    assert (site / "playground" / "playground.html").read_text(encoding="utf-8") == playground.page()
