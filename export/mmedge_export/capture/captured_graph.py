"""A network as ONNX, and what is known of the torch program that it was made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmedge_export.onnx_graph.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from mmedge_export.capture.relations import Relation

__all__ = ["CapturedGraph"]


@dataclass(frozen=True)
class CapturedGraph(Graph):
    """A whole network as it was captured.

    ``program`` is the torch program that it was made from and ``renamed`` maps names of the
    program's values to names in the graph, where they differ; both are for finding the first
    tensor that differs. ``relations`` are what the program assumes of sizes, and ``checks`` the
    lines of the network that check values and whose checks the graph does not make. A graph that
    did not come from torch has none of these.
    """

    program: torch.export.ExportedProgram | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    relations: Sequence[Relation] = ()
    checks: Sequence[str] = ()
