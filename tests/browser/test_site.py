"""The web site as a reader meets it: wide and narrow, light and dark, by mouse, keyboard and screen reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Request, Response, expect

SCHEMES = ("light", "dark")
WIDTHS = (1280, 390)
CHECKED = (
    "index.html",
    "results/index.html",
    "results/quick/cross_ablation.html",
    "api/hatlab.config.html",
    "api/hatlab.method.networks.html",
    "guide.html",
    "own_networks.html",
    "playground/playground.html#c=2.5&task=3",
)


def listen(page: Page, address: str) -> list[str]:
    """Return a list that fills with what goes wrong on the page: errors, and requests that fail or leave the host."""
    faults: list[str] = []

    def request(asked: Request) -> None:
        if not asked.url.startswith((f"{address}/", "data:")):
            faults.append(f"another host: {asked.url}")

    def failed(asked: Request) -> None:
        if asked.failure != "net::ERR_ABORTED":  # the page was left before a picture had come
            faults.append(f"{asked.failure}: {asked.url}")

    def response(given: Response) -> None:
        if given.status >= 400:
            faults.append(f"{given.status}: {given.url}")

    page.on("request", request)
    page.on("requestfailed", failed)
    page.on("response", response)
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    return faults


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_loads_and_fits(page: Page, site: Path, address: str, width: int) -> None:
    faults = listen(page, address)
    page.set_viewport_size({"width": width, "height": 900})
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        page.goto(f"{address}/{name}")
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            if wide > 0:
                faults.append(f"{name} is wider than the window by {wide} px")
            assert not faults, name


def test_dark_is_dark(page: Page, address: str) -> None:
    grounds = {}
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{address}/index.html")
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert grounds["light"] != grounds["dark"]


def test_every_picture_of_the_gallery_is_drawn_and_leads_to_its_notebook(page: Page, address: str) -> None:
    faults = listen(page, address)
    page.goto(f"{address}/index.html")
    pictures = page.locator(".gallery a img")
    for picture in pictures.all():  # they are loaded when they come near
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_js_property("complete", True)
        assert picture.evaluate("image => image.naturalWidth") > 0
    pictures.first.click()
    expect(page.locator("h1")).to_contain_text("quick")
    assert not faults


def test_search_finds(page: Page, address: str) -> None:
    faults = listen(page, address)
    page.goto(f"{address}/index.html")
    page.get_by_placeholder("Search").fill("compressibility")
    page.get_by_placeholder("Search").press("Enter")
    results = page.locator("ul.search li")
    expect(results.nth(5)).to_be_visible()  # they come one by one
    results.first.locator("a").first.click()
    expect(page.locator("article")).to_contain_text("ompressib")
    assert not faults


@pytest.mark.parametrize("width", WIDTHS)
def test_what_scrolls_is_reached_with_the_keyboard(page: Page, address: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{address}/results/quick/cross_ablation.html")
    boxes = page.locator(".table-wrapper, article pre, .output.text_html")
    page.wait_for_function("document.querySelector('article pre[tabindex]')")
    for box in boxes.all():
        scrolls, stop = box.evaluate("e => [e.scrollWidth > e.clientWidth, e.tabIndex === 0]")
        assert stop or not scrolls


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])  # colours do not follow the width
@pytest.mark.parametrize("name", [*CHECKED, "search.html?q=mask"])
def test_no_serious_finding_of_axe(page: Page, address: str, name: str, scheme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}/{name}")
    findings = Axe().run(page).response["violations"]
    serious = [
        f"{finding['id']} at {width} px: {node['html'][:1500]} {node['failureSummary'][:300]}"
        for finding in findings
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"][:5]
    ]
    assert not serious
