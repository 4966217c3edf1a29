"""The parts of the landing page that follow from what is committed: gallery, verdicts, lists of notebooks."""

from __future__ import annotations

from docs.committed import ROOT, CommittedFigure, titles
from docs.links import Links
from docs.notebooks import in_capitals, pictures_in_words
from hatlab.analysis import verdicts

__all__ = ["contents", "gallery", "verdict_tables", "walkthrough"]


def gallery(figures: list[CommittedFigure], links: Links, *, whole: bool) -> str:
    """Return the pictures of each profile as Markdown, each a link to its notebook: the first of each, or all."""
    text = ""
    for profile, title in titles().items():
        cards = [
            _card(figure, index, links)
            for figure in figures
            if figure.profile == profile
            for index in range(len(figure.pictures) if whole else min(1, len(figure.pictures)))
        ]
        text += f"### {title}\n\n:::::{{container}} gallery\n{''.join(cards)}:::::\n\n"
    return text


def _card(figure: CommittedFigure, index: int, links: Links) -> str:
    picture = figure.pictures[index]
    name = in_capitals(picture.stem)
    says = pictures_in_words(figure).get(picture.stem, f"{name}: {figure.title}")
    page = f"/{figure.docname}.ipynb"
    return (
        f"::::{{container}} card\n[![{says} ({figure.label})]({links.copy(picture)})]({page})\n\n"
        f"**[{name}]({page})**{says.removeprefix(name)}\n::::\n"
    )


def verdict_tables(figures: list[CommittedFigure]) -> str:
    """Return what became of the paper's claims, a table a profile, each figure's name a link to its notebook."""
    text = ""
    pages = {(figure.profile, figure.name): f"/{figure.docname}.ipynb" for figure in figures}
    for profile, title in titles().items():
        path = ROOT / "results" / "reference" / profile / "verdicts.csv"
        if not path.exists():
            continue
        table = verdicts.read(path)
        counts = verdicts.summary(table)
        table["figure"] = [
            f"[{name.replace('_', ' ')}]({pages[profile, name]})" if (profile, name) in pages else name
            for name in table["figure"]
        ]
        text += f"### {title}\n\n{counts}.\n\n{verdicts.as_markdown(table)}\n"
    return text


def contents(figures: list[CommittedFigure]) -> str:
    """Return a table of contents of the notebooks for each profile."""
    text = ""
    for profile, title in titles().items():
        entries = "".join(
            f"{in_capitals(figure.name)} </{figure.docname}>\n" for figure in figures if figure.profile == profile
        )
        text += f'```{{toctree}}\n:hidden:\n:caption: "{title}"\n\n{entries}```\n\n'
    return text


def walkthrough(figures: list[CommittedFigure]) -> str:
    """Return a sentence that leads to the walkthrough, or nothing where it is not committed yet."""
    found = [figure for figure in figures if figure.name == "walkthrough"]
    return f"New to HAT? Begin with the [walkthrough](/{found[0].docname}.ipynb).\n" if found else ""
