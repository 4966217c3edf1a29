"""The walkthrough as a class meets it: JupyterLab, Run All, sliders, an exercise answered wrong and right."""

from __future__ import annotations

import json
import os
import re
import runpy
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect

from hatlab.support.paths import home

SMALL = "seeds = [0]; cs = [0, 0.75, 2.5]; widths = [60, 60]; max_epochs = 8"
ERRORS = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']"  # tracebacks, and warnings
PATIENCE = 180_000  # milliseconds: JupyterLab starts, and the walkthrough trains


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab on the students' and the solved walkthrough, at small parameters; its address, with token."""
    folder = tmp_path_factory.mktemp("classroom")
    tool = runpy.run_path(str(home() / "tools" / "classroom.py"), run_name="classroom")
    for path in tool["write"](folder):
        notebook = nbformat.read(path, as_version=4)
        (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
        cell.source += f"\n{SMALL}\nresults = {str(folder / 'results')!r}"
        nbformat.write(notebook, path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / "settings"
    environment = (
        os.environ
        | {f"JUPYTER_{what}_DIR": str(settings / what.lower()) for what in ("CONFIG", "DATA", "RUNTIME")}
        | {"JUPYTERLAB_WORKSPACES_DIR": str(settings / "workspaces")}
    )
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0",
        "--IdentityProvider.token=seen", f"--ServerApp.root_dir={folder}", "--allow-root",
        "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    with open(folder / "lab.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/api?token=seen", server, folder / "lab.log")
        yield f"http://127.0.0.1:{port}/lab/tree/{{name}}?token=seen&reset"  # without the last tabs
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(120):
        assert server.poll() is None, log.read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(address) as answer:
                json.load(answer)
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(log.read_text(encoding="utf-8"))


def run_all(page: Page, address: str) -> None:
    """Open a notebook as a student does, and return when its last cell has printed where the outcome is."""
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.goto(address)
    expect(page.locator("#jp-main-statusbar")).to_contain_text("Python 3 (ipykernel) | Idle", timeout=PATIENCE)
    started = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]:"))
    for _ in range(10):  # JupyterLab drops cells that are run while it still connects to the kernel
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_timeout(3000)
        if started.count():
            break
    expect(page.locator(".jp-OutputArea-output", has_text="saved in")).to_have_count(1, timeout=PATIENCE)


def cell_with(page: Page, code: str) -> Locator:
    return page.locator(".jp-CodeCell").filter(has=page.locator(".jp-InputArea-editor", has_text=code))


def answer(page: Page, code: str, exercise: str = "def my_gate(e, s)") -> None:
    """Put `code` into the cell of an exercise, by default the first, run it and the cell that checks it."""
    cell = cell_with(page, exercise)
    cell.locator(".cm-content").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(code)
    for _ in range(2):  # it goes to the next cell, too
        page.keyboard.press("Shift+Enter")


def solutions() -> list[tuple[str, str]]:
    """A line of each exercise's cell that no other cell has, and the answer to it."""
    cells = nbformat.read(home() / "notebooks" / "01_walkthrough.ipynb", as_version=4).cells
    kind = {tag: [c.source for c in cells if tag in c.metadata.get("tags", [])] for tag in ("exercise", "solution")}
    starts = (next(line for line in stub.splitlines() if "..." in line or "def " in line) for stub in kind["exercise"])
    return list(zip(starts, kind["solution"], strict=True))


def test_run_all_finishes_and_a_slider_changes_the_figure(page: Page, lab: str) -> None:
    run_all(page, lab.format(name="01_walkthrough_solutions.ipynb"))
    expect(page.locator(ERRORS)).to_have_count(0)
    expect(page.locator(".jp-OutputArea-output", has_text="Right: ")).not_to_have_count(0)
    for code in ("explore(unit", "explore(filling", "explore(overlap"):
        cell = cell_with(page, code)
        picture = cell.locator("img.widget-image")
        expect(picture).to_have_count(1)
        before = picture.get_attribute("src")
        cell.get_by_role("slider").first.focus()
        page.keyboard.press("ArrowRight")
        expect(picture).not_to_have_attribute("src", str(before))


def test_graders_run_all_finishes(page: Page, lab: str) -> None:
    run_all(page, lab.format(name="01_walkthrough_grader.ipynb"))
    expect(page.locator(ERRORS)).to_have_count(0)
    expect(page.locator(".jp-RenderedMarkdown", has_text="For graders: exercise 8")).to_have_count(1)


def test_checks_react_to_a_wrong_gate_and_loop_and_then_to_right_ones(page: Page, lab: str) -> None:
    run_all(page, lab.format(name="01_walkthrough_student.ipynb"))
    check = cell_with(page, "exercises.check_gate(my_gate)")
    expect(check).to_contain_text("Not yet.")
    expect(page.locator(ERRORS)).to_have_count(9)  # eight checks, and the cell that uses all answers
    answer(page, "def my_gate(e, s): return torch.sigmoid(s + e)")
    expect(check).to_contain_text("Not yet. s and e are added; they have to be multiplied.")
    answer(page, "def my_gate(e, s): return torch.sigmoid(s * e)")
    expect(check).to_contain_text("Right: ")
    expect(check).not_to_contain_text("Not yet.")
    _, *functions, (start, loop) = solutions()
    for stub, code in functions:
        answer(page, code, stub)
    check = cell_with(page, "exercises.check_training(learn)")
    answer(page, "\n".join(line for line in loop.splitlines() if ".grad *= my_factor" not in line), start)
    expect(check).to_contain_text("Not yet. After two tasks the weights of the trunk")
    answer(page, loop, "def learn(network")
    expect(check).to_contain_text("Right: after two tasks every number is that of hatlab.method.loop")
