"""What Sphinx's HTML lacks for screen readers."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

__all__ = ["setup"]

PARAMETERS = re.compile(r"<dl>\s*((?:<dd>.*?</dd>\s*)+)</dl>", re.DOTALL)


def parameters_are_no_definitions(body: str) -> str:
    """A signature of several lines is a list of definitions without terms, which readers announce as broken."""

    def replace(match: re.Match[str]) -> str:
        items = match[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
        return f'<span class="sig-lines">{items}</span>'

    return PARAMETERS.sub(replace, body)


def _mend(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    context["body"] = parameters_are_no_definitions(context.get("body", ""))
    # captions in the sidebar are headings without a level
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", _mend, priority=900)  # after the theme has made its tree
    return {"parallel_read_safe": True, "parallel_write_safe": True}
