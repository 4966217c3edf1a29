"""Links between the repository's files, made into links between the site's pages.

Pages keep the relative links that work in the repository. A file that is a page here is linked as a page, a folder of
results as the page of its notebook, a module of hatlab as its reference; any other file is copied and downloaded.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from docs.committed import ROOT, CommittedFigure
from docs.reference import MODULES

__all__ = ["PAGES", "Links"]

# file of the repository -> its page, without ending
PAGES = {
    "README.md": "guide",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "benchmarks/README.md": "benchmarks",
    "data/README.md": "data",
    "results/README.md": "results/index",
}
FILES = "_files"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")
OUTSIDE = re.compile(r"[a-z]+:|#")


class Links:
    """Rewrites links; `listings` has the folders that are linked and have no notebook, for pages that list them.

    Args:
        sources: the folder that Sphinx reads; files to be shown or downloaded are copied into it.
        figures: all that are committed.
    """

    def __init__(self, sources: Path, figures: list[CommittedFigure]) -> None:
        self.sources = sources
        self.listings: set[Path] = set()
        self._figures = figures

    def rewrite(self, text: str, folder: Path, profile: str = "") -> str:
        """Return Markdown with its relative links made into links from the top of `sources`.

        Args:
            text: the page.
            folder: the folder of the repository that its links are relative to.
            profile: which committed copy of a notebook a link to notebooks/ prefers.

        Raises:
            FileNotFoundError: a link leads nowhere.
        """

        def replace(match: re.Match[str]) -> str:
            picture, label, target = match.groups()
            label = LINK.sub(replace, label)
            if OUTSIDE.match(target):
                return f"{picture}[{label}]({target})"
            path, hash_sign, fragment = target.partition("#")
            found = self.resolve((folder / path).resolve(), profile, shown=bool(picture))
            return f"{picture}[{label}]({found}{hash_sign}{fragment})"

        return LINK.sub(replace, text)

    def resolve(self, path: Path, profile: str = "", *, shown: bool = False) -> str:
        """Return what to link for a file or folder of the repository; `shown`: as a picture on the page."""
        if not path.exists() and path.parent == ROOT / "hatlab":  # in a notebook executed before modules moved
            path = next(iter(sorted((ROOT / "hatlab").rglob(path.name))), path)
        if not path.exists() or not path.is_relative_to(ROOT):
            raise FileNotFoundError(f"a page of the site links {path}, which is not a file of the repository")
        place = path.relative_to(ROOT).as_posix()
        if place in PAGES:
            return f"/{PAGES[place]}.md"
        if place.startswith("docs/") and path.suffix == ".md":
            return f"/{place.removeprefix('docs/')}"
        executed = [f for f in self._figures if path in (f.folder, f.notebook) or self._source(f) == path]
        if executed:
            best = min(executed, key=lambda f: (f.profile != profile, f.name != f.notebook.stem.partition("_")[2]))
            return f"/{best.docname}.ipynb"
        if path.is_dir():
            self.listings.add(path)
            return f"/{self.page_of_listing(path)}.md"
        module = place.removeprefix("hatlab/").removesuffix(".py").replace("/", ".")
        if any(module in modules for modules in MODULES.values()):
            return f"/api/hatlab.{module}.rst"
        return self.copy(path) if shown else f"path:{self.copy(path)}"

    def copy(self, path: Path) -> str:
        """Copy a file of the repository to where pages can show or offer it, and return its address there."""
        place = Path(FILES) / path.relative_to(ROOT)
        (self.sources / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.sources / place)
        return f"/{place.as_posix()}"

    @staticmethod
    def page_of_listing(folder: Path) -> str:
        return f"results/{folder.relative_to(ROOT / 'results' / 'reference').as_posix()}"

    @staticmethod
    def _source(figure: CommittedFigure) -> Path:
        return ROOT / "notebooks" / figure.notebook.name
