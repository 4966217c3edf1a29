"""Lay out what Sphinx reads, from docs/, the repository's own pages and the committed notebooks; then let it render."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main

from docs import landing, notebooks, playground, reference
from docs.committed import ROOT, committed_figures
from docs.links import PAGES, Links

__all__ = ["build", "lay_out"]

PARTS = "_parts"  # what pages include


def build(out: Path) -> int:
    """Write the site into `out`, in the place of an older one, and return 0 if Sphinx had nothing to warn of.

    Raises:
        FileExistsError: `out` holds something else than a site.
    """
    if out.exists() and any(out.iterdir()) and not (out / "objects.inv").exists():
        raise FileExistsError(f"{out} is not empty and holds no site: name another folder")
    shutil.rmtree(out, ignore_errors=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "sources"
        lay_out(sources)
        options = ["--quiet", "--fail-on-warning", "--keep-going", "--doctree-dir", f"{folder}/doctrees"]
        status = build_main(["--builder", "html", "--conf-dir", str(ROOT / "docs"), *options, str(sources), str(out)])
    (out / ".buildinfo").unlink(missing_ok=True)
    playground.write(out / "playground")
    return int(status)


def lay_out(sources: Path) -> None:
    """Write all pages into `sources`, the links between them resolved."""
    figures = committed_figures()
    links = Links(sources, figures)

    def write(name: str, text: str) -> None:
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        (sources / name).write_text(text, encoding="utf-8")

    for path in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "api").glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        write(path.relative_to(ROOT / "docs").as_posix(), links.rewrite(text, path.parent))
    for place, docname in PAGES.items():
        path = ROOT / place
        text = links.rewrite(path.read_text(encoding="utf-8"), path.parent)
        # the README is no page: the landing page has its first part, the guide the others
        write(f"{PARTS}/{place}" if place == "README.md" else f"{docname}.md", text)
    for figure in figures:
        write(f"{figure.docname}.ipynb", notebooks.page(figure, links))
    write(f"{PARTS}/gallery.md", landing.gallery(figures, links, whole=False))
    write(f"{PARTS}/all_figures.md", landing.gallery(figures, links, whole=True))
    write(f"{PARTS}/verdicts.md", landing.verdict_tables(figures))
    write(f"{PARTS}/contents.md", landing.contents(figures))
    write(f"{PARTS}/walkthrough.md", landing.walkthrough(figures))
    write(f"{PARTS}/playground.md", playground.as_markdown())
    write(f"{PARTS}/modules.md", reference.contents())
    for modules in reference.MODULES.values():
        for module in modules:
            write(f"api/hatlab.{module}.rst", reference.page(module))
    for folder in sorted(links.listings):
        write(f"{links.page_of_listing(folder)}.md", _listing(folder, links))


def _listing(folder: Path, links: Links) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = (f"- [{path.relative_to(folder).as_posix()}](path:{links.copy(path)})\n" for path in files)
    return f"---\norphan: true\n---\n\n# {folder.name}\n\nThe files of `{folder.relative_to(ROOT).as_posix()}`:\n\n" + (
        "".join(lines)
    )
