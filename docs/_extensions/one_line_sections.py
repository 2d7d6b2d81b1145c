"""Sphinx extension: docstring sections whose text starts on the line of their name.

`Numerics: float64, ...` reads well in a terminal. Napoleon knows a section by a name alone on its
line, and takes this for a paragraph, or for a definition list where the next line is indented.
A section that still ends up as either is a warning, an error under `-W`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

SECTIONS = ("Numerics", "Shape", "Signs", "Source", "Example")
_HEAD = re.compile(rf"( *)({'|'.join(SECTIONS)}): +(\S.*)")


def spread(lines: Sequence[str]) -> list[str]:
    """The docstring with the name of each such section alone on its line, its text indented.

    Args:
        lines: of a docstring.

    Returns:
        The new lines; other lines are as they were.
    """
    out: list[str] = []
    margin = ""  # of the section whose first paragraph is being read
    for line in lines:
        starts_paragraph = not out or not out[-1].strip()
        head = _HEAD.fullmatch(line) if starts_paragraph else None
        if head is not None:
            margin = head[1] + "    "
            out += [f"{head[1]}{head[2]}:", margin + head[3]]
        elif margin and line.lstrip().startswith(">>> "):  # a block of its own
            out += ["", line]
            margin = ""
        elif margin and line.strip():
            out.append(margin + line.lstrip())
        else:
            margin = ""
            out.append(line)
    return out


def unspread(content: nodes.Element) -> list[str]:
    """Texts of paragraphs and of defined terms in `content` that begin as a section would."""
    found = [
        node.astext() for kind in (nodes.term, nodes.paragraph) for node in content.findall(kind)
    ]
    return [text for text in found if text.startswith(tuple(f"{name}:" for name in SECTIONS))]


def _spread(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    lines[:] = spread(lines)


def _check(app: Sphinx, doctree: nodes.document) -> None:
    for content in doctree.findall(addnodes.desc_content):
        for text in unspread(content):
            logger.warning("not a section of a docstring: %r", text, location=content)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it before napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", _spread, priority=400)
    app.connect("doctree-read", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
