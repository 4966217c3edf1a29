"""The web site: every link leads somewhere, nothing is loaded from elsewhere, every picture is told in words.

Building it takes about 20 seconds, once a session. What only a browser can say is in tests/browser.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

import hatlab
from docs.build import build
from docs.docstrings import as_rst
from docs.links import Links
from hatlab.support.paths import home

NOTEBOOKS = sorted((home() / "results" / "reference").glob("*/*/*.ipynb"))


@cache
def page(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, BeautifulSoup]:
    return {path: page(path) for path in sorted(site.rglob("*.html"))}


def targets(soup: BeautifulSoup) -> set[str]:
    """Return every address on a page: what it links, shows and loads."""
    tags = soup.find_all(["a", "img", "link", "script", "source", "iframe"])
    return {str(tag[name]) for tag in tags for name in ("href", "src") if tag.get(name)}


def test_every_link_picture_and_fragment_resolves(site: Path, pages: dict[Path, BeautifulSoup]) -> None:
    broken = []
    for path, soup in pages.items():
        for target in targets(soup):
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "mailto", "data"):
                continue
            found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            whole = found.is_file() and found.is_relative_to(site)
            settings = "=" in parts.fragment  # of the playground, which says what it does not know
            if whole and parts.fragment and not settings and found.suffix == ".html":
                whole = page(found).find(id=unquote(parts.fragment)) is not None
            if not whole:
                broken.append(f"{path.relative_to(site)}: {target}")
    assert not broken


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[Path, BeautifulSoup]) -> None:
    loaded = {
        str(tag.get("src") or tag.get("href"))
        for soup in pages.values()
        for tag in soup.find_all(["img", "script", "link", "source", "iframe", "audio", "video", "embed", "object"])
    }
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    styles += [tag.text for soup in pages.values() for tag in soup.find_all("style")]
    for style in styles:
        loaded |= set(re.findall(r"url\(\s*['\"]?([^'\")]+)", style))
        loaded |= set(re.findall(r"@import\s+['\"]([^'\"]+)", style))
    assert not {target for target in loaded if target.startswith(("http:", "https:", "//"))}


def test_no_formula_waits_for_a_script(site: Path, pages: dict[Path, BeautifulSoup]) -> None:
    scripts = {str(tag.get("src", tag.text)) for soup in pages.values() for tag in soup.find_all("script")}
    assert not [script for script in scripts if "mathjax" in script.lower() or "katex" in script.lower()]
    formulas = page(site / "results" / "quick" / "cross_ablation.html").find_all("math")
    assert len(formulas) > 10 and all(formula.get_text(strip=True) for formula in formulas)


def test_every_picture_is_told_in_words(site: Path, pages: dict[Path, BeautifulSoup]) -> None:
    told = {(path, str(tag)): tag.get("alt") for path, soup in pages.items() for tag in soup.find_all("img")}
    assert told and not [where for where, words in told.items() if not words or not words.strip()]
    notebook = page(site / "results" / "quick" / "capacity_usage.html")
    words = [tag["alt"] for tag in notebook.find_all("img")]
    assert len(set(words)) == len(words) == 5
    assert words[0].startswith("Capacity usage: the paper's Fig. 5: the share of the trunk's weights in use")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_every_committed_notebook_has_a_page(path: Path, site: Path) -> None:
    """With all its pictures, its files, and a place on the landing page."""
    profile, figure = path.parts[-3:-1]
    address = f"results/{profile}/{figure}.html"
    shown = page(site / address)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    assert len(shown.find_all("img")) == pictures
    offered = {unquote(str(tag["href"])).rpartition("/")[2] for tag in shown.find_all("a", class_="download")}
    assert {file.name for file in path.parent.iterdir()} <= offered
    gallery = page(site / "index.html").select(".gallery a:has(img)")
    assert address in {str(link["href"]) for link in gallery} or not list(path.parent.glob("*.png"))


def test_landing_page_has_all_verdicts(site: Path) -> None:
    claims = {cell.get_text() for cell in page(site / "index.html").select("table td:nth-child(3)")}
    assert "usage jumps up at every task switch" in claims


def test_reference_has_every_public_name(site: Path) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    assert not [name for name in hatlab.__all__ if not re.search(rf'id="hatlab\.[\w.]+\.{name}"', text)]
    config = page(site / "api" / "hatlab.config.html").get_text()
    assert not [name for name in hatlab.RunConfig.model_fields if name not in config]


def test_search_knows_the_words(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert '"compress"' in index or "compress:" in index  # the stem of compressibility


def test_a_docstring_is_shown_as_it_is_written() -> None:
    lines = [
        "Of |e|, with `|x|`:",
        "",
        "    |a| = b",
        "    c",
        "",
        "After.",
        "",
        "Returns:",
        "    loss: of",
        "        all.",
    ]
    shown = ["Of \\|e\\|, with `|x|`:", "", "::", "", "    |a| = b", "    c", "", "After.", "", "Returns:"]
    assert as_rst(lines) == [*shown, "    :", "    -   ``loss``: of", "        all."]


def test_no_other_folder_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="holds no site"):
        build(tmp_path)
    assert (tmp_path / "mine.txt").exists()


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    links = Links(tmp_path, [])
    assert links.rewrite("[a](https://a.example) [b](#c)", home()) == "[a](https://a.example) [b](#c)"
    assert links.rewrite("[a](../README.md#data)", home() / "data") == "[a](/guide.md#data)"
    assert links.rewrite("[`a`](LICENSE)", home()) == "[`a`](path:/_files/LICENSE)"
    with pytest.raises(FileNotFoundError, match=r"missing\.md"):
        links.rewrite("[a](missing.md)", home())
