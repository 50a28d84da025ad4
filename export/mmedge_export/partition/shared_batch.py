"""What is told of inputs of several modalities that a network joins to one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mmedge_export.onnx_graph.infer_sizes import SAMPLES
from mmedge_export.onnx_graph.read_node import standard
from mmedge_export.onnx_graph.size import ONE
from mmedge_export.partition.rowwise_operands import BATCHED

if TYPE_CHECKING:
    import onnx_ir as ir

    from mmedge_export.partition.graph_builder import GraphBuilder
    from mmedge_export.partition.parts import ConcatParts

__all__ = ["BatchRemark", "SharedBatches"]


class BatchRemark(NamedTuple):
    """What is told of one Concat; ``is_cut``: it holds in a network that is cut, and only there."""

    text: str
    is_cut: bool


class SharedBatches:
    """Collects, Concat by Concat, what ran part by part and where that ended.

    A Concat makes a batch where work on samples follows it, such as a convolution: other rows, such
    as tokens, are meant to be mixed, and nothing is told of them.
    """

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder
        self._taken_apart: dict[ir.Node, ConcatParts] = {}
        self._ends: dict[ir.Node, tuple[ir.Node, ConcatParts]] = {}

    def note_pushed(self, node: ir.Node) -> None:
        """``node`` runs for each part by itself."""
        parts = [self._builder.parts[v] for v in node.inputs if v in self._builder.parts]
        if node.op_type in SAMPLES or (node.op_type in BATCHED and len(parts) > 1):
            self._taken_apart.setdefault(parts[0].origin, parts[0])

    def note_refused(self, node: ir.Node) -> None:
        """``node`` takes a whole, which it is not known to treat row by row."""
        for value in node.inputs:
            parts = self._builder.parts.get(value) if value is not None else None
            if parts is None or (node.op_type == "Shape" and standard(node)):
                continue
            is_stack = parts.rounds == ONE and all(size == ONE for size in parts.sizes)
            if not is_stack and (parts.axis == 0 or parts.rounds != ONE):
                self._ends.setdefault(parts.origin, (node, parts))

    def remarks(self) -> list[BatchRemark]:
        """Concat by Concat."""
        remarks = []
        for origin in {**self._taken_apart, **self._ends}:
            where = f"(concat {origin.outputs[0].name!r})"
            if (parts := self._taken_apart.get(origin)) is not None:
                text = (
                    f"{_modalities(parts)} are joined to one batch {where}: its work is taken "
                    f"apart and runs for each of the {len(parts.values)} by itself, with the same "
                    "weights"
                )
                remarks.append(BatchRemark(text, is_cut=True))
            node, parts = self._ends.get(origin, (None, None))
            if node is None or parts is None:
                continue
            if origin in self._taken_apart or _is_followed_by_samples(node):
                text = (
                    f"{_modalities(parts)} share one batch {where} from {node.op_type} "
                    f"{node.outputs[0].name!r} on, which is not cut: {self._reason(node, parts)}"
                )
                remarks.append(BatchRemark(text, is_cut=False))
        return remarks

    def _reason(self, node: ir.Node, parts: ConcatParts) -> str:
        owners = self._builder.owners
        behind = frozenset[str]().union(*parts.owners)
        others = [owners.of(value) - behind for value in node.inputs]
        if more := sorted(frozenset[str]().union(*others)):
            return f"it depends on {', '.join(more)} too"
        return "it mixes rows of the batch, or is not known to treat each by itself"


def _modalities(parts: ConcatParts) -> str:
    names = dict.fromkeys(name for owner in parts.owners for name in sorted(owner))
    return " and ".join(names)


def _is_followed_by_samples(node: ir.Node) -> bool:
    """Whether work on samples takes what ``node`` gives."""
    seen, waiting = {node}, [node]
    while waiting:
        node = waiting.pop()
        if node.op_type in SAMPLES and standard(node):
            return True
        users = {user for value in node.outputs for user in value.consumers()} - seen
        seen |= users
        waiting += users
    return False
