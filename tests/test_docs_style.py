"""The colours of ```diff blocks in the documentation: the theme alone shows none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
READABLE = 4.5
"""The contrast that WCAG 2.2 asks of text (1.4.3, level AA)."""


def contrast(text: str, background: str) -> float:
    """The WCAG contrast ratio of two colours like "#aabbcc"."""
    low, high = sorted((luminance(text), luminance(background)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def colours(kind: str) -> list[tuple[str, str]]:
    """Text and background of added or removed lines, in each block of the style sheet."""
    style = (DOCS / "_static" / "diff.css").read_text()
    pattern = rf"--diff-{kind}: (#\w{{6}}); --diff-{kind}-back: (#\w{{6}});"
    return re.findall(pattern, style)


@pytest.mark.parametrize("kind", ["added", "removed"])
def test_changed_lines_of_a_diff_are_coloured_and_readable(kind: str) -> None:
    found = colours(kind)
    assert len(found) == 3  # light, dark chosen by the reader, dark by the system
    for text, background in found:
        assert contrast(text, background) >= READABLE


def test_the_rules_name_the_classes_that_the_highlighter_gives() -> None:
    pygments = pytest.importorskip("pygments")
    lexers = pytest.importorskip("pygments.lexers")
    formatters = pytest.importorskip("pygments.formatters")
    block = "-optimizer.step()\n+optimizer.backward(losses)\n"
    html = pygments.highlight(block, lexers.DiffLexer(), formatters.HtmlFormatter())
    given = set(re.findall(r'class="(g\w)"', html))
    style = (DOCS / "_static" / "diff.css").read_text()
    assert given == {"gi", "gd"}
    for name in given:
        assert re.search(rf"\.{name} \{{\s+color: var", style)
    assert '"diff.css"' in (DOCS / "conf.py").read_text()


def test_grey_on_white_is_not_readable() -> None:
    assert contrast("#999999", "#ffffff") < READABLE < contrast("#000000", "#ffffff")
