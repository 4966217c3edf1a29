"""What is committed in results/reference: the profiles, and the figures of each with their notebooks and files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

__all__ = ["ROOT", "CommittedFigure", "committed_figures", "profiles", "titles"]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class CommittedFigure:
    """One folder results/reference/<profile>/<name>.

    Attributes:
        folder: its absolute path.
    """

    folder: Path

    @property
    def profile(self) -> str:
        return self.folder.parent.name

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def docname(self) -> str:
        """The page of its notebook."""
        return f"results/{self.profile}/{self.name}"

    @cached_property
    def notebook(self) -> Path:
        (path,) = self.folder.glob("*.ipynb")
        return path

    @property
    def label(self) -> str:
        """Profile, and the figure where several of the profile come from one notebook: "mnist, two tasks"."""
        own = self.notebook.stem.partition("_")[2]
        return self.profile if self.name == own else f"{self.profile}, {self.name.replace('_', ' ')}"

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        return list(json.loads(self.notebook.read_text(encoding="utf-8"))["cells"])

    @property
    def title(self) -> str:
        """The notebook's first heading."""
        return str("".join(self.cells[0]["source"])).splitlines()[0].lstrip("# ")

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "manifest.json").read_text(encoding="utf-8")))

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    @property
    def pictures(self) -> list[Path]:
        """The figure that is named for the notebook first."""
        own = self.notebook.stem.partition("_")[2]
        return sorted(self.folder.glob("*.png"), key=lambda path: (not path.stem.startswith(own), path.stem))


def committed_figures() -> list[CommittedFigure]:
    """Return all figures that have an executed notebook: profile by profile, in the notebooks' order."""
    folders = {path.parent for path in (ROOT / "results" / "reference").glob("*/*/*.ipynb")}
    figures = [CommittedFigure(folder) for folder in folders]
    order = profiles()
    return sorted(figures, key=lambda figure: (order.index(figure.profile), figure.notebook.name, figure.name))


def profiles() -> list[str]:
    """Return the committed profiles in the order of notebooks/figures.yaml, from small to large."""
    known = list(yaml.safe_load((ROOT / "notebooks" / "figures.yaml").read_text(encoding="utf-8")))
    found = {path.parent.parent.name for path in (ROOT / "results" / "reference").glob("*/*/*.ipynb")}
    return [*(name for name in known if name in found), *sorted(found - set(known))]


def titles() -> dict[str, str]:
    """Return profile -> its heading in results/README.md, "quick: scikit-learn's digits"."""
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    found = {name: f"{name}: {what}" for name, what in re.findall(r"^## (\w+): (.+)$", text, re.MULTILINE)}
    return {name: found.get(name, name) for name in profiles()}
