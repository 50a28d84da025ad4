"""Segmented attention as model-local functions of standard operators, in domain ``mmedge``.

``SegmentedAttention<M>[Biased|Guarded](q, k_1..k_M, v_1..v_M[, bias_1..bias_M])`` attends over M
segments in one softmax. A runtime without a kernel for it runs the body.

- ``q [B, H, Lq, D]``, ``k_i [B, H, L_i, D]``, ``v_i [B, H, L_i, Dv]`` give ``[B, H, Lq, Dv]``. Axes
  0 and 1 may be 1 where they broadcast.
- ``bias_i``, four axes, broadcasts to ``[B, H, Lq, L_i]`` and is added to the scaled scores.
- ``scale`` (float, required) multiplies the scores.
- A row whose scores are all minus infinity is NaN with ``Biased`` and 0 with ``Guarded``, which is
  what torch's exporter writes for boolean masks and what ONNX's own ``Attention`` says; a bias that
  is finite, however low, gives the softmax of what it is, with both.

ONNX functions have neither variadic inputs nor branches on what is left out, hence one function for
each number of segments and kind of bias.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["DOMAIN", "KINDS", "MOST", "OLDEST", "attention_function", "function_name"]

DOMAIN = "mmedge"

#: Kinds of bias: none, added, and added with rows that are NaN set to 0.
KINDS = ("", "Biased", "Guarded")

#: Segments that one node takes, as the kernel does.
MOST = 8

#: CastLike, by which one body serves every float type, is from here.
OLDEST = 15


def function_name(segments: int, kind: str) -> str:
    """Operator for so many segments and one of :data:`KINDS`."""
    return f"SegmentedAttention{segments}{kind}"


def attention_function(segments: int, kind: str, opset: int) -> ir.Function:
    """The function; its body calls no other.

    Args:
        segments: 2 to :data:`MOST`.
        kind: one of :data:`KINDS`.
        opset: version of the operators in the body.
    """
    q, *rest = (
        ir.Value(name=name)
        for name in ["q"]
        + [
            f"{letter}{i}"
            for letter in ("k", "v", *(["bias"] if kind else []))
            for i in range(segments)
        ]
    )
    k, v, bias = rest[:segments], rest[segments : 2 * segments], rest[2 * segments :]
    nodes: list[ir.Node] = []

    def add(op_type: str, *inputs: ir.Value, name: str, **attributes: float) -> ir.Value:
        node = ir.node(
            op_type, inputs, attributes or None, outputs=[ir.Value(name=name)], name=f"make_{name}"
        )
        nodes.append(node)
        return node.outputs[0]

    factor = ir.Node(
        "",
        "Constant",
        [],
        [ir.RefAttr("value_float", "scale", ir.AttributeType.FLOAT)],
        outputs=[ir.Value(name="factor")],
        name="make_factor",
    )
    nodes.append(factor)
    scaled = add(
        "Mul", q, add("CastLike", factor.outputs[0], q, name="factor_like_q"), name="scaled"
    )
    keys = add("Concat", *k, name="keys", axis=-2)
    values = add("Concat", *v, name="values", axis=-2)
    columns = ir.node(
        "Transpose",
        [keys],
        {"perm": [0, 1, 3, 2]},
        outputs=[ir.Value(name="columns")],
        name="make_columns",
    )
    nodes.append(columns)
    scores = add("MatMul", scaled, columns.outputs[0], name="scores")
    if kind:
        scores = add("Add", scores, add("Concat", *bias, name="bias", axis=-1), name="biased")
    weights = add("Softmax", scores, name="weights", axis=-1)
    if kind == "Guarded":
        empty = add("IsNaN", weights, name="empty")
        zero = ir.node("Constant", [], {"value_float": 0.0}, outputs=[ir.Value(name="zero")])
        zero.name = "make_zero"
        nodes.append(zero)
        like = add("CastLike", zero.outputs[0], q, name="zero_like_q")
        weights = add("Where", empty, like, weights, name="guarded")
    out = add("MatMul", weights, values, name="out")
    body = ir.Graph([q, *rest], [out], nodes=nodes, opset_imports={"": opset}, name="body")
    return ir.Function(
        DOMAIN,
        function_name(segments, kind),
        graph=body,
        attributes=[ir.Attr("scale", ir.AttributeType.FLOAT, None)],
    )
