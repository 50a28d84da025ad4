"""The exporter's rewrite rules, tried only where they can apply."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

# A private door: onnxscript hands out its rules one by one, and not which of them it applies.
from onnxscript.rewriter import _DEFAULT_REWRITE_RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

__all__ = ["tried_at_their_operators"]


@contextmanager
def tried_at_their_operators() -> Iterator[None]:
    """Each rule is tried at nodes of the operator that its pattern ends with.

    onnxscript (0.5.3 to 0.7.2) tries all of them at every node, and prepares each time what it
    compares. For the rule that makes a Split of two Slices it lists all nodes of the graph: its
    time grew with the square of their number, to a sixth of an export of CLIP ViT-B/32. At another
    operator no rule applies.
    """
    with ExitStack() as stack:
        for rule in _DEFAULT_REWRITE_RULES:
            if (operator := _operator(rule)) is not None:
                stack.enter_context(_tried_at(rule, operator))
        yield


def _operator(rule: Any) -> str | None:  # noqa: ANN401 - of onnxscript
    """The operator that a rule's pattern ends with; None: it may be any of several."""
    identifier = rule._target_pattern.output_nodes[0].op_identifier()  # noqa: SLF001
    return None if identifier is None else str(identifier[1])


@contextmanager
def _tried_at(rule: Any, operator: str) -> Iterator[None]:  # noqa: ANN401
    try_rewrite = rule.try_rewrite

    def try_at_operator(model: ir.Model, graph: Any, node: ir.Node, **options: Any) -> Any:  # noqa: ANN401
        if node.op_type != operator:
            return None
        return try_rewrite(model, graph, node, **options)

    rule.try_rewrite = try_at_operator
    try:
        yield
    finally:
        del rule.try_rewrite
