"""A source: the reference networks of :mod:`mmedge_export.zoo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.sources.factory import as_model
from mmedge_export.sources.python_object import load_object
from mmedge_export.sources.source import SourceDraft, SourceModel, SourceOptions

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ZooSource"]


class ZooSource:
    """``zoo:NAME``: a network that comes with mmedge, with samples and a metric."""

    name = "zoo"
    forms = "zoo:NAME"
    options: frozenset[str] = frozenset()

    def takes(self, spec: str) -> bool:
        """Whether it begins with ``zoo:``."""
        return spec.startswith("zoo:")

    def read(self, spec: str, options: SourceOptions) -> SourceModel:  # noqa: ARG002 - it has none
        """The reference network.

        Raises:
            ExportError: there is none of that name, or what it needs is not installed.
        """
        return SourceModel(as_model(load_object(spec), spec))

    def draft(self, spec: str, options: SourceOptions, output: Path) -> SourceDraft:  # noqa: ARG002
        """Nothing: a reference network has its factory.

        Raises:
            ExportError: always.
        """
        raise ExportError(
            f"{spec} is a factory already, mmedge_export.zoo.factory; mmedge export {spec} takes it"
        )
