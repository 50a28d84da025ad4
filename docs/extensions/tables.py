"""Tables of two columns, made of what the code says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["table"]


def table(head: tuple[str, str], records: Iterable[tuple[str, str]]) -> nodes.table:
    """A table of two columns: names as they are typed, and words."""
    group = nodes.tgroup(cols=2)
    group += [nodes.colspec(colwidth=35), nodes.colspec(colwidth=65)]
    group += nodes.thead("", line(*map(nodes.Text, head)))
    rows = (line(nodes.literal(text=names), nodes.Text(words)) for names, words in records)
    group += nodes.tbody("", *rows)
    return nodes.table("", group)


def line(*cells: nodes.Node) -> nodes.row:
    """One row."""
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))
