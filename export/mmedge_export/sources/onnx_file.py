"""An ONNX file as it was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from mmedge_export.onnx_graph.graph import Graph
    from mmedge_export.sources.onnx_normalize import Normalized

__all__ = ["OnnxFile"]


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file as read.

    Attributes:
        path: of the file.
        graph: what goes into the bundle.
        normalized: what was changed, and what inputs and outputs are called in the file.
    """

    path: Path
    graph: Graph
    normalized: Normalized

    @property
    def inputs(self) -> list[ir.Value]:
        """The inputs that a caller gives."""
        return list(self.graph.model.graph.inputs)
