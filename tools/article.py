"""Build results/article/article.pdf from article.typ beside it, which reads all numbers from results/reference.

make article
"""

from __future__ import annotations

from pathlib import Path

import typst

from hatlab.support.paths import checkout


def build(root: Path, target: Path) -> Path:
    """Compile the article of the checkout `root` into the PDF `target`, and return that.

    Nothing is downloaded, and no font of the machine is used, so equal results give an equal page.

    Raises:
        typst.TypstError: a table lacks a row that the text speaks of, say.
    """
    source = root / "results" / "article" / "article.typ"
    typst.compile(source, output=target, root=root, ignore_system_fonts=True)
    return target


if __name__ == "__main__":
    print(build(checkout(), checkout() / "results" / "article" / "article.pdf"))
