"""Types of a captured program's values, which torch's exporter need not compute anew."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

# A private door: where the exporter makes conversions of types explicit, it takes no program whose
# values are known.
from torch.onnx._internal.fx.passes import type_promotion

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

__all__ = ["promoted_by_known_types"]


@contextmanager
def promoted_by_known_types() -> Iterator[None]:
    """Have the exporter take shape and dtype of a value from the program, which holds them.

    To see which operands an operator converts, it runs each program on tensors without data. What
    it finds, but for the conversions that it puts in, is what capturing wrote beside each value.
    """
    interpreter: Any = type_promotion._TypePromotionInterpreter  # noqa: SLF001
    run_node = interpreter.run_node

    def read_value(self: Any, n: torch.fx.Node) -> Any:  # noqa: ANN401
        if n.op != "call_function" or "val" not in n.meta:
            return run_node(self, n)
        # As torch's own, without running an operator that stays as it is. An output that is
        # converted has another node, and this one's value is of the type that it had.
        with self._set_current_node(n):
            if rule := type_promotion.get_type_promotion_rule(n, self.type_promotion_table):
                self._maybe_promote_node(n, rule)
        return n.meta["val"]

    interpreter.run_node = read_value
    try:
        yield
    finally:
        interpreter.run_node = run_node
