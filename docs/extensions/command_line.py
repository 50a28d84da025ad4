"""The directive ``command-line``: a section for each verb, read from the application itself.

What a page says of options is therefore what ``mmedge VERB --help`` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from mmedge.cli.app import PANEL, build_app

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sphinx.application import Sphinx


class CommandLine(SphinxDirective):
    """One section for each verb: what it does, its usage, arguments and options."""

    def run(self) -> list[nodes.Node]:
        """The sections, in order of the verbs' names."""
        command: Any = typer.main.get_command(build_app())
        context = command.make_context("mmedge", [], resilient_parsing=True)
        return [self._section(command.commands[name], context) for name in sorted(command.commands)]

    def _section(self, verb: Any, parent: Any) -> nodes.section:  # noqa: ANN401
        context = verb.context_class(verb, info_name=verb.name, parent=parent)
        name = f"mmedge {verb.name}"
        section = nodes.section(ids=[f"mmedge-{verb.name}"], names=[name])
        section += nodes.title(text=name)
        parts = [" ".join(part.split()) for part in verb.help.split("\f")[0].split("\n\n")]
        section += [nodes.paragraph(text=part) for part in parts if part]
        usage = " ".join(verb.collect_usage_pieces(context))
        section += nodes.literal_block(text=f"{name} {usage}", language="text")
        records = [
            one.get_help_record(context)
            for one in verb.get_params(context)
            if one.rich_help_panel != PANEL and "--help" not in one.opts
        ]
        section += table(("argument or option", "what"), filter(None, records))
        self.state.document.note_explicit_target(section)
        return section


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


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
