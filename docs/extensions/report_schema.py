"""The directive ``report-schema``: every key of a report, read from its JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective
from tables import table

import mmedge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from sphinx.application import Sphinx


class ReportSchema(SphinxDirective):
    """A table of keys; those inside another key have its name in front."""

    def run(self) -> list[nodes.Node]:
        """The table, in the order of the schema."""
        (path,) = Path(mmedge.__file__).parent.rglob("report.schema.json")
        self.env.note_dependency(str(path))
        schema = json.loads(path.read_text(encoding="utf-8"))
        return [table(("key", "what"), keys(schema, schema["$defs"], ""))]


def keys(part: dict[str, Any], shared: dict[str, Any], front: str) -> Iterator[tuple[str, str]]:
    """Name and description of each key in ``part``, and of those inside it."""
    for name, value in part.get("properties", {}).items():
        yield f"{front}{name}", value["description"]
        yield from _inside(value, shared, f"{front}{name}")
    if isinstance(more := part.get("additionalProperties"), dict):
        yield from _inside(more, shared, f"{front}NAME")


def _inside(value: dict[str, Any], shared: dict[str, Any], name: str) -> Iterator[tuple[str, str]]:
    if "$ref" in value:
        value = {**shared[value["$ref"].rsplit("/", 1)[-1]], **value}
    if "items" in value and isinstance(value["items"], dict):
        yield from _inside(value["items"], shared, f"{name}[]")
    else:
        yield from keys(value, shared, f"{name}.")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("report-schema", ReportSchema)
    return {"parallel_read_safe": True}
