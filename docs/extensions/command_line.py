"""The directive ``command-line``: a section for each verb, read from the application itself.

With an argument, ``module:function``, it is about that verb alone: one of an integration, whose
distribution need not be installed. What a page says of options is therefore what
``mmedge VERB --help`` says.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import typer
from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from tables import table

from mmedge.cli.app import PANEL, build_app

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class CommandLine(SphinxDirective):
    """One section for each verb: what it does, its usage, arguments and options."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The sections, in order of the verbs' names."""
        app = build_app()
        if self.arguments:
            module, _, function = self.arguments[0].partition(":")
            app = typer.Typer()
            app.callback()(lambda: None)
            app.command(function)(getattr(importlib.import_module(module), function))
        command: Any = typer.main.get_command(app)
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


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
