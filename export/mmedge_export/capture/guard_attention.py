"""Attention of torch whose rows hide every key, as torch computes it.

``scaled_dot_product_attention`` gives 0 for a row in which no key takes part. torch's exporter
writes a plain softmax of the masked scores: the average of all values for boolean masks, which it
fills with the smallest finite number, and NaN for masks of minus infinity. It also takes every NaN
among the weights of a boolean mask for such a row, those of broken inputs too. ONNX's own
``Attention`` (opset 23) gives 0, but ONNX Runtime refuses masks that one row or key would spread.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["guard_attention", "is_guarded"]

Program = torch.export.ExportedProgram

_OPERATOR = torch.ops.aten.scaled_dot_product_attention.default

#: Place of the mask among the arguments.
_MASK = 3


#: The first opset with ``Attention``.
_ATTENTION = 23


def guard_attention(program: Program, opset: int) -> None:
    """Set rows that hide every key to 0 behind each attention with a mask.

    Boolean masks become additive ones of 0 and minus infinity. Attention without a mask stays: a
    causal row always sees its first key. Whether a row hides every key is read from the mask alone,
    so that NaN in queries, keys and values stays NaN. ``program`` is changed in place; ``opset`` is
    what it is meant for.
    """
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            _guard_all(module, spread=opset >= _ATTENTION)


def is_guarded(node: torch.fx.Node) -> bool:
    """Whether ``node`` is attention whose rows without a key mean nothing before its one user."""
    if node.target is not _OPERATOR or not isinstance(_mask(node), torch.fx.Node):
        return False
    # The decomposed program has ``where`` in place of ``masked_fill``.
    fills = (torch.ops.aten.where.self, torch.ops.aten.masked_fill.Scalar)
    return len(node.users) == 1 and next(iter(node.users)).target in fills


def _guard_all(module: torch.fx.GraphModule, *, spread: bool) -> None:
    for node in list(module.graph.nodes):
        if node.target is not _OPERATOR:
            continue
        mask = _mask(node)
        if isinstance(mask, torch.fx.Node):
            _guard(node, mask, spread=spread)
    module.recompile()


def _mask(node: torch.fx.Node) -> object:
    return node.args[_MASK] if len(node.args) > _MASK else node.kwargs.get("attn_mask")


def _guard(node: torch.fx.Node, mask: torch.fx.Node, *, spread: bool) -> None:
    """Make ``node`` the guarded attention: it keeps its name, which outputs go by.

    ``spread``: the mask gets a row for each query and an element for each key.
    """
    graph = node.graph
    out = node.meta["val"]
    aten: Any = torch.ops.aten

    def add(target: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.fx.Node:  # noqa: ANN401
        new = graph.call_function(target, args, kwargs)
        # Where in the user's code it stands, for messages.
        new.meta = {key: value for key, value in node.meta.items() if key != "val"}
        with out.fake_mode:
            new.meta["val"] = target(
                *torch.fx.map_arg(args, _value), **torch.fx.map_arg(kwargs, _value)
            )
        return new

    with graph.inserting_before(node):
        boolean = _value(mask).dtype == torch.bool
        visible_keys = mask if boolean else add(aten.ne.Scalar, mask, -math.inf)
        # A sum, for ONNX Runtime takes no maximum over no keys.
        count = add(
            aten.sum.dim_IntList,
            add(aten.to.dtype, visible_keys, torch.float32),
            [-1],
            keepdim=True,
        )
        hidden_rows = add(aten.eq.Scalar, count, 0)
        bias = mask
        if boolean:
            addend = add(aten.where.Scalar, mask, 0.0, -math.inf)
            bias = add(aten.to.dtype, addend, out.dtype)
        if spread:
            bias = _spread(bias, node, add)
        args = list(node.args[:_MASK]), list(node.args[_MASK + 1 :])
        kwargs = {key: value for key, value in node.kwargs.items() if key != "attn_mask"}
        attention = add(_OPERATOR, *args[0], bias, *args[1], **kwargs)
    node.target = aten.masked_fill.Scalar
    node.args = (attention, hidden_rows, 0.0)
    node.kwargs = {}


def _spread(
    bias: torch.fx.Node, node: torch.fx.Node, add: Callable[..., torch.fx.Node]
) -> torch.fx.Node:
    """``bias [..., 1 or Lq, 1 or Lk]`` with all its rows and keys."""
    shape = _value(bias).shape
    query, key, *_ = node.args
    target_shape: list[Any] = [-1] * (len(shape) - 2)
    for size, other in zip(shape[-2:], (query, key), strict=True):
        is_broadcast = _is_one(size) and not _is_one(_value(other).shape[-2])
        target_shape.append(add(torch.ops.aten.sym_size.int, other, -2) if is_broadcast else -1)
    return (
        bias
        if set(target_shape) == {-1}
        else add(torch.ops.aten.expand.default, bias, target_shape)
    )


def _is_one(size: int | torch.SymInt) -> bool:
    """Without asking what a dynamic size is."""
    return isinstance(size, int) and size == 1


def _value(node: Any) -> Any:  # noqa: ANN401 # a tensor or a size
    return node.meta["val"]
