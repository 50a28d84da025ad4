"""A small SVG writer: boxes of text lines, arrows, and a style for light and dark viewers.

Its files need nothing else: no script, no font, no image. They follow the viewer's scheme and bring
their own background for viewers that know none. All text is escaped, cut to its box, and whole in
the tooltip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from textwrap import wrap
from unicodedata import combining, east_asian_width

__all__ = ["GAP", "LINE", "PAD", "Box", "Canvas", "folded"]

#: Between boxes, between lines, and inside a box, in px.
GAP, LINE, PAD = 12, 16, 12
_TITLE_LINE, _BAR = 19, 12

#: Width of a character over the font's size: 0.602 in DejaVu Sans Mono, Menlo and Courier New,
#: less in Consolas.
_CHARACTER = 0.602

#: Font sizes by class, in px, as in the style below.
_SIZES = {"title": 13.0, "head": 17.0}
_TEXT_SIZE = 11.5

_XML = 'xmlns="http://www.w3.org/2000/svg"'
_STYLE = """
text { font: 11.5px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #24292f }
.title { font-size: 13px; font-weight: 700 }
.head { font-size: 17px; font-weight: 700 }
.quiet { fill: #57606a }
.page { fill: #ffffff }
.box { fill: #f6f8fa; stroke: #c3ccd5 }
.fusion { fill: #ddeeff; stroke: #8fb8de }
.frame, .pass { fill: none; stroke: #c3ccd5; stroke-dasharray: 4 3 }
.track { fill: #d8dee4 }
.bar { fill: #57606a }
.arrow { stroke: #6e7781; stroke-width: 1.4; fill: none }
.tip { fill: #6e7781 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.quiet { fill: #9da7b3 }
.page { fill: #0d1117 }
.box { fill: #161b22; stroke: #3d444d }
.fusion { fill: #12283f; stroke: #2f5f92 }
.frame, .pass { stroke: #3d444d }
.track { fill: #30363d }
.bar { fill: #9da7b3 }
.arrow { stroke: #8b949e }
.tip { fill: #8b949e }
}
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A titled list of lines; ``share`` (0 to 1) draws a bar, ``hue`` a coloured left edge."""

    title: str
    lines: Sequence[str]
    kind: str = "box"
    share: float | None = None
    hue: str | None = None

    @property
    def height(self) -> int:
        """Smallest height that holds the content, in px."""
        bar = 0 if self.share is None else _BAR
        return 2 * PAD - 4 + _TITLE_LINE + LINE * len(self.lines) + bar


@dataclass(slots=True)
class Canvas:
    """A page ``width`` px wide; elements in order of drawing."""

    width: int
    elements: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, *, kind: str = "", width: float = 0) -> None:
        """One line of at most ``width`` px (0: up to the page's margin) on the base line ``y``."""
        room = width or self.width - x - 2 * PAD
        line = _fit(words, int(room / (_SIZES.get(kind, _TEXT_SIZE) * _CHARACTER)))
        tip = f"<title>{escape(words)}</title>" if line != words else ""
        style = f' class="{kind}"' if kind else ""
        self.elements.append(f'<text x="{x:g}" y="{y:g}"{style}>{tip}{escape(line)}</text>')

    def rect(self, x: float, y: float, width: float, height: float, paint: str) -> None:
        """A rectangle with slightly round corners; ``paint`` is a class, or a colour with #."""
        look = f'fill="{paint}"' if paint.startswith("#") else f'class="{paint}"'
        at = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.elements.append(f'<rect {at} rx="5" {look}/>')

    def arrow(self, start: float, end: float, y: float) -> None:
        """A horizontal arrow to the right."""
        self.elements.append(f'<path class="arrow" d="M{start:g} {y:g}H{end - 8:g}"/>')
        self.elements.append(f'<path class="tip" d="M{end - 9:g} {y - 4:g}l8 4l-8 4z"/>')

    def box(self, column: tuple[int, int], y: float, box: Box, height: float = 0) -> None:
        """A box in a column (left edge, width), stretched to ``height``, its text in the middle."""
        x, width = column
        height = max(height, box.height)
        self.rect(x, y, width, height, box.kind)
        if box.hue:
            self.rect(x, y, 6, height, box.hue)
        inner, at = width - 2 * PAD, y + (height - box.height) / 2 + PAD + 9
        self.text(x + PAD, at, box.title, kind="title", width=inner)
        at += _TITLE_LINE - LINE
        for line in box.lines:
            at += LINE
            self.text(x + PAD, at, line, width=inner)
        if box.share is not None:
            self.rect(x + PAD, at + 9, inner, 5, "track")
            self.rect(x + PAD, at + 9, max(1.0, round(inner * box.share, 1)), 5, "bar")

    def page(self, title: str, height: float) -> str:
        """The whole file."""
        size = f'width="{self.width}" height="{height:g}"'
        return "\n".join([
            f'<svg {_XML} {size} viewBox="0 0 {self.width} {height:g}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="page" {size}/>',
            *self.elements,
            "</svg>\n",
        ])  # fmt: skip


def folded(words: str, columns: int, most: int) -> list[str]:
    """Words over at most ``most`` lines of ``columns`` characters; the last holds the rest."""
    # Half as many where characters may be twice as wide.
    columns = columns if words.isascii() else columns // 2
    lines = wrap(words, columns) or [""]
    return [*lines[: most - 1], " ".join(lines[most - 1 :])] if len(lines) > most else lines


def _fit(words: str, columns: int) -> str:
    """``words``, without their middle where they are wider than ``columns`` characters.

    Names of tensors differ at their ends: they begin with the same scopes.
    """
    if sum(map(_columns, words)) <= columns:
        return words
    tail = _first(words[::-1], columns * 2 // 5)[::-1]
    return f"{_first(words, columns - 1 - columns * 2 // 5)}\N{HORIZONTAL ELLIPSIS}{tail}"


def _first(words: str, columns: int) -> str:
    """As many of the first characters as fit."""
    width = 0
    for index, character in enumerate(words):
        width += _columns(character)
        if width > columns:
            return words[:index]
    return words


def _columns(character: str) -> int:
    if combining(character):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1
