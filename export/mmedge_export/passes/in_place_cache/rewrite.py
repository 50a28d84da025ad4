"""A stage's graph whose keys and values are written in place by GroupQueryAttention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from mmedge.loop_spec import CACHE_LAST, CACHE_TOTAL
from mmedge_export.onnx_graph.read_node import shape_window
from mmedge_export.onnx_graph.rewrite import FreeNames
from mmedge_export.passes.in_place_cache.match import NotInPlaceError
from mmedge_export.passes.in_place_cache.placement import placement_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.spec import Array
    from mmedge_export.onnx_graph.measure_shapes import MeasuredTensor
    from mmedge_export.passes.in_place_cache.layout import Layout
    from mmedge_export.passes.in_place_cache.match import GrowingAttention
    from mmedge_export.passes.in_place_cache.rotation import Rotation
    from mmedge_export.passes.in_place_cache.stage_feeds import RunSizes, StageFeeds

__all__ = ["LayerPlan", "write_in_place"]

Attribute = int | float | list[int]

#: Where operators of ONNX Runtime's own are.
DOMAIN = "com.microsoft"


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One layer of attention to be written anew.

    Attributes:
        match: what there is.
        layout: what it computes.
        query, key, value: what the operator takes.
        rotation: by which it turns queries and keys; None: not at all.
    """

    match: GrowingAttention
    layout: Layout
    query: ir.Value
    key: ir.Value
    value: ir.Value
    rotation: Rotation | None


class Writer:
    """Writes into one graph.

    Args:
        model: changed.
        feeds: of its stage.
        shapes: of its values in the run ``sizes``.
        sizes: of that run.
    """

    def __init__(
        self,
        model: ir.Model,
        feeds: StageFeeds,
        shapes: dict[str, MeasuredTensor],
        sizes: RunSizes,
    ) -> None:
        self._model, self._graph, self._feeds = model, model.graph, feeds
        self._shapes, self._sizes = shapes, sizes
        self._names = FreeNames(self._graph)
        self._constants: dict[tuple[str, bytes], ir.Value] = {}
        batch = feeds.token.shape[0]
        self.last = self._input(CACHE_LAST, (batch,))
        self.total = self._input(CACHE_TOTAL, ())
        self._capacity = self._names.take("capacity")

    def layer(self, plan: LayerPlan) -> None:
        """Put the operator in a layer's place."""
        match, layout = plan.match, plan.layout
        point = match.product.producer()
        if point is None:
            raise NotInPlaceError("a product is none")
        outputs = [
            ir.Value(
                name=self._names.take(f"{match.result.name}_in_place"), type=match.result.type
            ),
            self._state(match.keys, match.key.output, layout),
            self._state(match.values, match.value.output, layout),
        ]
        inputs: list[ir.Value | None] = [
            self._flat(plan.query, layout.heads, layout.size, point),
            self._flat(plan.key, layout.key_heads, layout.size, point),
            self._flat(plan.value, layout.key_heads, layout.size, point),
            self._past(match.key.input, layout),
            self._past(match.value.input, layout),
            self.last,
            self.total,
        ]
        attributes: dict[str, Attribute] = {
            "num_heads": layout.heads,
            "kv_num_heads": layout.key_heads,
            "scale": layout.scale,
        }
        if plan.rotation is not None:
            inputs += [self.constant(plan.rotation.cos), self.constant(plan.rotation.sin)]
            attributes |= {"do_rotary": 1, "rotary_interleaved": int(plan.rotation.interleaved)}
            begin = self._sizes.past - self._sizes.position
            if begin and self._feeds.loop.position is not None:
                inputs.append(self._positions(point))
        self._add("GroupQueryAttention", inputs, outputs, attributes, point, DOMAIN)
        result = outputs[0]
        shape = self._shapes[str(match.result.name)].shape
        placement = placement_of(shape, self._sizes, layout.heads, layout.size)
        if placement != "flat":
            target = self.constant(np.array([0, 0, layout.heads, layout.size], np.int64))
            result = self._new("Reshape", [result, target], {}, point)
            if placement == "heads":
                result = self._new("Transpose", [result], {"perm": [0, 2, 1, 3]}, point)
        ir.convenience.replace_all_uses_with(match.result, result, replace_graph_outputs=True)

    def finish(self) -> None:
        """Take away what nobody uses any more, and say sizes by the lengths that are given.

        Raises:
            NotInPlaceError: something still needs a state as it was.
        """
        graph = self._graph
        graph.inputs.extend((self.last, self.total))
        common.RemoveUnusedNodesPass()(self._model)
        self._say_sizes()
        common.RemoveUnusedNodesPass()(self._model)
        common.TopologicalSortPass()(self._model)
        self._model.opset_imports.setdefault(DOMAIN, 1)
        for state in self._feeds.growing:
            past = next(v for v in graph.inputs if v.name == state.input)
            for node, _ in past.uses():
                if node.op_type not in ("GroupQueryAttention", "Shape"):
                    raise NotInPlaceError(f"state {state.input!r} goes into {node.op_type} too")

    def constant(self, array: Array) -> ir.Value:
        """A tensor of the graph, once for equal ones."""
        key = (f"{array.dtype}{array.shape}", array.tobytes())
        if key not in self._constants:
            name = self._names.take("in_place_constant")
            value = ir.Value(
                name=name,
                type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                shape=ir.Shape(array.shape),
                const_value=ir.tensor(array, name=name),
            )
            self._graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def _say_sizes(self) -> None:
        """Shapes of states were lengths; those of buffers are not."""
        for state in self._feeds.growing:
            past = next(v for v in self._graph.inputs if v.name == state.input)
            present = next(v for v in self._graph.outputs if v.name == state.output)
            self._replace_shapes(past, new_too=False)
            self._replace_shapes(present, new_too=True)

    def _replace_shapes(self, value: ir.Value, *, new_too: bool) -> None:
        for node, _ in tuple(value.uses()):
            if node.op_type != "Shape":
                continue
            axes = range(4)[shape_window(node)]
            if 2 not in axes:
                continue
            parts = [
                self._length(node, new_too=new_too)
                if axis == 2
                else self._new("Shape", [value], {"start": axis, "end": axis + 1}, node)
                for axis in axes
            ]
            whole = parts[0] if len(parts) == 1 else self._new("Concat", parts, {"axis": 0}, node)
            ir.convenience.replace_all_uses_with(node.outputs[0], whole, replace_graph_outputs=True)

    def _length(self, point: ir.Node, *, new_too: bool) -> ir.Value:
        """How many places hold something before a run, or after it: int64 [1]."""
        wide = self._new("Cast", [self.total], {"to": int(ir.DataType.INT64)}, point)
        total = self._new("Reshape", [wide, self.constant(np.array([1], np.int64))], {}, point)
        return total if new_too else self._new("Sub", [total, self._count(point)], {}, point)

    def _count(self, point: ir.Node) -> ir.Value:
        """How many tokens are new: int64 [1]."""
        token = self._feeds.token
        if len(token.shape) == 1:
            return self.constant(np.array([1], np.int64))
        value = next(v for v in self._graph.inputs if v.name == token.name)
        return self._new("Shape", [value], {"start": 1, "end": 2}, point)

    def _positions(self, point: ir.Node) -> ir.Value:
        """What the loop says of each token's position: int64 [batch, new]."""
        name = self._feeds.loop.position
        value = next(v for v in self._graph.inputs if v.name == name)
        token = next(v for v in self._graph.inputs if v.name == self._feeds.token.name)
        places = self._new("Cast", [value], {"to": int(ir.DataType.INT64)}, point)
        shape = self._new("Shape", [token], {}, point)
        if len(self._feeds.token.shape) == 1:
            column, one = (self.constant(np.array(n, np.int64)) for n in ([-1, 1], [1]))
            places = self._new("Reshape", [places, column], {}, point)
            shape = self._new("Concat", [shape, one], {"axis": 0}, point)
        return self._new("Expand", [places, shape], {}, point)

    def _flat(self, value: ir.Value, heads: int, size: int, point: ir.Node) -> ir.Value:
        """As [batch, new, all heads]."""
        shape = self._shapes[str(value.name)].shape
        placement = placement_of(shape, self._sizes, heads, size)
        if placement == "flat":
            return value
        if placement is None:
            raise NotInPlaceError(f"{value.name!r} has an order that is not known")
        if placement == "heads":
            value = self._new("Transpose", [value], {"perm": [0, 2, 1, 3]}, point)
        target = self.constant(np.array([0, 0, heads * size], np.int64))
        return self._new("Reshape", [value, target], {}, point)

    def _input(self, name: str, shape: Sequence[int | str]) -> ir.Value:
        if not self._names.reserve(name):
            raise NotInPlaceError(f"the graph has a tensor {name!r} of its own")
        return ir.Value(name=name, type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape(shape))

    def _past(self, name: str, layout: Layout) -> ir.Value:
        value = next(v for v in self._graph.inputs if v.name == name)
        batch = value.shape[0] if value.shape is not None else "batch"
        value.shape = ir.Shape([batch, layout.key_heads, self._capacity, layout.size])
        return value

    def _state(self, old: ir.Value, name: str, layout: Layout) -> ir.Value:
        """What the graph gives as a state from now on."""
        graph = self._graph
        index, output = next((i, v) for i, v in enumerate(graph.outputs) if v.name == name)
        batch = self._feeds.token.shape[0]
        new = ir.Value(
            name=name,
            type=output.type,
            shape=ir.Shape([batch, layout.key_heads, self._capacity, layout.size]),
        )
        output.name = self._names.take(f"{name}_grown")
        graph.outputs[index] = new
        for value in {old, output}:
            for node, _ in tuple(value.uses()):
                if node.op_type == "Shape":
                    node.replace_input_with(0, new)
        return new

    def _new(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute],
        point: ir.Node,
    ) -> ir.Value:
        output = ir.Value(name=self._names.take(f"in_place_{op_type.lower()}"))
        self._add(op_type, inputs, [output], attributes, point)
        return output

    def _add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[ir.Value],
        attributes: Mapping[str, Attribute],
        point: ir.Node,
        domain: str = "",
    ) -> None:
        node = ir.Node(
            domain,
            op_type,
            inputs,
            ir.convenience.convert_attributes(attributes),
            outputs=outputs,
            name=self._names.take(f"node_{outputs[0].name}"),
            metadata_props=dict(point.metadata_props),
        )
        self._graph.insert_before(point, node)


def write_in_place(
    model: ir.Model,
    plans: Sequence[LayerPlan],
    feeds: StageFeeds,
    shapes: dict[str, MeasuredTensor],
    sizes: RunSizes,
) -> None:
    """Write a graph's layers anew, in the model itself."""
    writer = Writer(model, feeds, shapes, sizes)
    for plan in plans:
        writer.layer(plan)
    writer.finish()
