"""A source: the user's own factory, a Python function that gives a :class:`Model`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.install import installed
from mmedge_export.model import Model
from mmedge_export.sources.factory_text import write_draft
from mmedge_export.sources.python_object import load_object
from mmedge_export.sources.source import SourceDraft, SourceModel, SourceOptions

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FactorySource"]


class FactorySource:
    """``path/to/file.py:factory`` or ``package.module:factory``: it says everything itself.

    A Python file is imported with its folder on the import path, as Python does with a script.
    """

    name = "factory"
    forms = "path/to/file.py:factory or package.module:factory"
    options: frozenset[str] = frozenset()

    def takes(self, spec: str) -> bool:
        """Whether it is a Python file, or has the form of a name in a module."""
        place, colon, name = spec.rpartition(":")
        return spec.endswith(".py") or bool(colon and place and name)

    def read(self, spec: str, options: SourceOptions) -> SourceModel:  # noqa: ARG002 - it has none
        """What the factory returns.

        Raises:
            ExportError: there is no such thing, it raised, or it returned something else.
        """
        return SourceModel(as_model(load_object(spec), spec))

    def draft(self, spec: str, options: SourceOptions, output: Path) -> SourceDraft:  # noqa: ARG002
        """A factory for a torch module's class, or a function that gives a module, or a module.

        Raises:
            ExportError: there is no such thing, making it raised, or it is no torch module.
        """
        with installed("looking at a torch module"):
            from mmedge_export.sources.torch_draft import draft_torch
        return write_draft(draft_torch(spec, output), output)


def as_model(instance: object, spec: str) -> Model:
    """``instance``, which ``spec`` gave.

    Raises:
        ExportError: it is no Model.
    """
    if not isinstance(instance, Model):
        raise ExportError(
            f"{spec} gave {type(instance).__name__}; expected a mmedge_export.Model: wrap the "
            "network as Model(module, inputs={name: Input(example)}, outputs=[name])"
        )
    return instance
