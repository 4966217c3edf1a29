"""The slides: from the committed notebook, with everything they need beside them. How they look is in tests/browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from docs.slides import write


@pytest.fixture(scope="module")
def page(slides: Path) -> BeautifulSoup:
    return BeautifulSoup(slides.read_text(encoding="utf-8"), "html.parser")


def test_only_the_walkthrough_has_slides(slides: Path) -> None:
    assert [path.name for path in slides.parent.glob("*.html")] == ["01_walkthrough.slides.html"]


def test_all_it_loads_lies_beside_it(slides: Path, page: BeautifulSoup) -> None:
    places = [
        tag[name] for name in ("src", "href") for tag in page.select(f"script[{name}], link[{name}], img[{name}]")
    ]
    files = [str(place) for place in places if not str(place).startswith("data:image/png;base64,")]
    assert len(files) == 4 and all((slides.parent / file).is_file() for file in files)
    assert (slides.parent / "reveal.js" / "LICENSE").is_file()


def test_formulas_are_drawn_and_pictures_told_in_words(page: BeautifulSoup) -> None:
    assert len(page.select("math[display=block]")) == 5
    text = " ".join(cell.get_text() for cell in page.select(".jp-MarkdownCell"))
    assert "$" not in text
    pictures = page.select("img")
    assert len(pictures) == 12
    assert all(len(str(picture["alt"])) > 20 for picture in pictures)


def test_what_is_for_the_notebook_alone_is_left_out(page: BeautifulSoup) -> None:
    text = page.get_text()
    for part in ("For teachers", "device: str", "# Parameters", "artifacts.save", "def my_gate(e, s): ...", "loaded"):
        assert part not in text
    assert "sweep(base.grid" in text and "accuracies = pd.concat" not in text  # its code alone, its picture alone


def test_a_solution_comes_with_the_next_key(page: BeautifulSoup) -> None:
    fragments = page.select(".fragment")
    assert len(fragments) == 8
    assert all("Right: " in fragment.get_text() for fragment in fragments)


def test_slides_written_again_replace_the_older(slides: Path, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write(tmp_path)]
    assert [path.read_bytes() for path in write(tmp_path)] == first == [slides.read_bytes()]
