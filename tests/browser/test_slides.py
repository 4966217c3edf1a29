"""The slides at a projector: every one fits, the keys lead through all of them, nothing is fetched."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

OVERFLOW = """() => {
  const slide = Reveal.getCurrentSlide(), {width, height} = Reveal.getComputedSlideSize();
  return [slide.scrollWidth > width, slide.scrollHeight > height].some(Boolean) ? slide.innerText.slice(0, 60) : "";
}"""


def test_every_slide_fits_and_is_reached(page: Page, slides: Path) -> None:
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else faults.append(asked.url))
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(slides.as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    seen = 1
    while page.evaluate("!Reveal.isLastSlide() || Reveal.availableFragments().next"):
        page.keyboard.press("Space")
        seen += 1
        if too_large := page.evaluate(OVERFLOW):
            faults.append(f"does not fit: {too_large}")
        assert seen < 200
    assert not faults
    assert seen == page.evaluate("Reveal.getTotalSlides()") + 8  # eight slides with an exercise and its solution
