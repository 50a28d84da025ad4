"""Decomposition of a captured program into operators that torch's exporter has, where it is needed.

The exporter traces each program once more, to break up operators that it does not have in ONNX:
nearly half of the time of a conversion. Of most networks these are a few, such as
``aten.to.dtype``, which always mean the same other one. They are replaced one by one; a program
that has others is traced once more, as ever.
"""

from __future__ import annotations

import operator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

# Private doors: torch offers no other place between capture and conversion.
from torch.onnx._internal.exporter import _decomp, _fx_passes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

__all__ = ["decomposed_where_needed"]

Program = torch.export.ExportedProgram

_aten: Any = torch.ops.aten


@contextmanager
def decomposed_where_needed() -> Iterator[None]:
    """Have torch's exporter trace only those programs once more that need it."""
    decompose = _fx_passes.decompose_with_registry

    def decompose_where_needed(exported_program: Program, registry: Any) -> Program:  # noqa: ANN401
        known = frozenset(_decomp.get_onnx_implemented_overloads(registry))
        if _is_decomposed(exported_program, known):
            return exported_program
        return decompose(exported_program, registry)

    _fx_passes.decompose_with_registry = decompose_where_needed
    try:
        yield
    finally:
        _fx_passes.decompose_with_registry = decompose


def _is_decomposed(program: Program, known: Collection[Any]) -> bool:
    """Whether all of a program's operators are ``known``, after replacing what can be.

    What is replaced means the same, whatever becomes of the rest.
    """
    graph = program.graph_module.graph
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    if any(node.op != "call_function" for node in nodes):
        return False  # a program inside it
    for node in nodes:
        if node.target is _aten.batch_norm.default:
            _normalize(node)
        _write_nothing(node)
    if any(_writes(node.target) for node in nodes):
        return False  # who reads what was written is found by tracing
    for node in nodes:
        if (replace := _REPLACED.get(node.target)) is not None:
            replace(node)
    _compute_sizes_once(graph)
    # Dropout counts as an operator with an effect: what was only held by it goes now.
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return all(
        node.target in known and not _is_broken_up(node.target)
        for node in graph.nodes
        if node.op == "call_function" and node.target not in _DROPPED
    )


def _compute_sizes_once(graph: torch.fx.Graph) -> None:
    """Take a size from the first that computes it, as tracing would."""
    first: dict[str, torch.fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.meta.get("val"), torch.SymInt):
            earlier = first.setdefault(str(_value(node)), node)
            if earlier is not node:
                node.replace_all_uses_with(earlier)


def _writes(target: Any) -> bool:  # noqa: ANN401 - an operator, or a function of Python's
    return bool(getattr(getattr(target, "_schema", None), "is_mutable", False))


#: Checks that the exporter drops after the decomposition.
_DROPPED = frozenset(
    {
        _aten._assert_async.default,  # noqa: SLF001 - so they are called
        _aten._assert_async.msg,  # noqa: SLF001
        _aten._assert_scalar.default,  # noqa: SLF001
        _aten._assert_tensor_metadata.default,  # noqa: SLF001
        _aten.sym_constrain_range_for_size.default,
    }
)


def _is_broken_up(target: Any) -> bool:  # noqa: ANN401
    """Whether tracing breaks an operator up though the exporter has it: it may give its input."""
    return (
        isinstance(target, torch._ops.OpOverload)  # noqa: SLF001 - it has no other name
        and (_may_alias(target) or any(value.alias_info for value in target._schema.arguments))  # noqa: SLF001
        and target.has_kernel_for_dispatch_key(torch.DispatchKey.CompositeImplicitAutograd)
    )


def _may_alias(target: torch._ops.OpOverload) -> bool:
    """Whether a result may be an argument, or a view of one."""
    return torch.Tag.maybe_aliasing_or_mutating in target.tags or any(
        value.alias_info
        for value in target._schema.returns  # noqa: SLF001
    )


def _value(node: Any) -> Any:  # noqa: ANN401 - of a node: a tensor or a size
    return node.meta["val"]


def _write_nothing(node: torch.fx.Node) -> None:
    """Make a new tensor where one is written to that nobody else has."""
    source = node.args[0] if node.args else None
    if not _writes(node.target) or not isinstance(source, torch.fx.Node) or node.kwargs:
        return
    name, overload = node.target.__name__.split(".")  # type: ignore[union-attr]
    pure = getattr(getattr(_aten, name.removesuffix("_"), None), overload, None)
    made_by = source.args[0] if source.target is operator.getitem else source
    is_only_here = (
        isinstance(made_by, torch.fx.Node)
        and isinstance(made_by.target, torch._ops.OpOverload)  # noqa: SLF001
        and not _may_alias(made_by.target)
        and len(source.users) == 1
    )
    # A tensor that is written to keeps its dtype; a new one has that of all operands.
    is_of_one_dtype = all(
        isinstance(_value(each), torch.Tensor) and _value(each).dtype == _value(node).dtype
        for each in node.all_input_nodes
    )
    if name.endswith("_") and pure is not None and is_only_here and is_of_one_dtype:
        node.target = pure


def _pass_through(node: torch.fx.Node) -> None:
    """Take out a node that gives its first argument; where an output is named after it: a copy."""
    source: Any = node.args[0]
    if any(user.op == "output" for user in node.users):
        node.target, node.args, node.kwargs = _aten.clone.default, (source,), {}
        return
    node.replace_all_uses_with(source)
    node.graph.erase_node(node)


def _copy(node: torch.fx.Node) -> None:
    """A copy with its elements in order."""
    node.target, node.args = _aten.clone.default, node.args[:1]
    node.kwargs = {"memory_format": torch.contiguous_format}


def _cast(node: torch.fx.Node) -> None:
    """``to`` another dtype, or nowhere: all is on one device."""
    source: Any = node.args[0]
    if _value(source).device != _value(node).device:
        return
    if _value(source).dtype == _value(node).dtype:
        _pass_through(node)
        return
    node.target, node.args = _aten._to_copy.default, (source,)  # noqa: SLF001 - so it is called
    node.kwargs = {"dtype": _value(node).dtype}


def _drop_out(node: torch.fx.Node) -> None:
    _, _, train = node.args
    if train is False:
        _pass_through(node)


def _rename(target: Callable[..., Any]) -> Callable[[torch.fx.Node], None]:
    def rename(node: torch.fx.Node) -> None:
        node.target = target

    return rename


def _reshape(node: torch.fx.Node) -> None:
    """``view``, which takes 0 for a size as it is, of a copy that has its elements in order."""
    source: Any = node.args[0]
    if _names(_value(source).shape) == _names(_value(node).shape):
        _pass_through(node)
        return
    with node.graph.inserting_before(node):
        copy = node.graph.call_function(
            _aten.clone.default, (source,), {"memory_format": torch.contiguous_format}
        )
    copy.meta = {**node.meta, "val": _value(source).contiguous()}
    node.target, node.args, node.kwargs = _aten.view.default, (copy, *node.args[1:]), {}


def _names(shape: Any) -> list[str]:  # noqa: ANN401 - a size may be an expression
    """Of sizes, without asking whether two are equal, which torch would note."""
    return [str(size) for size in shape]


def _flatten(node: torch.fx.Node) -> None:
    """``reshape``, where the axes that become one have fixed sizes."""
    source: Any = node.args[0]
    shape = _value(source).shape
    axes: Any = (*node.args[1:], *(0, -1)[len(node.args) - 1 :])
    if node.kwargs or not shape:
        return
    first, last = (axis % len(shape) for axis in axes)
    if all(isinstance(size, int) for size in shape[first : last + 1]):
        _reshape_axes(node, first, last + 1, [torch.Size(shape[first : last + 1]).numel()])


def _unflatten(node: torch.fx.Node) -> None:
    """``reshape`` of one axis."""
    arguments: Any = node.args
    source, axis, sizes = arguments
    axis %= _value(source).ndim
    _reshape_axes(node, axis, axis + 1, sizes)


def _reshape_axes(node: torch.fx.Node, first: int, end: int, sizes: Sequence[Any]) -> None:
    """Make ``node`` a reshape of the axes from ``first`` to ``end`` of its argument."""
    source: Any = node.args[0]
    shape = _value(source).shape

    def kept(axes: Iterable[int]) -> list[Any]:
        return [shape[n] if isinstance(shape[n], int) else _size(node, source, n) for n in axes]

    with node.graph.inserting_before(node):
        before, after = kept(range(first)), kept(range(end, len(shape)))
    node.args = (source, [*before, *sizes, *after])
    _reshape(node)


def _size(node: torch.fx.Node, source: torch.fx.Node, axis: int) -> torch.fx.Node:
    size = node.graph.call_function(_aten.sym_size.int, (source, axis))
    size.meta = {**node.meta, "val": _value(source).shape[axis]}
    return size


def _average(node: torch.fx.Node) -> None:
    """The mean, where a picture becomes one pixel."""
    arguments: Any = node.args
    source, sizes = arguments
    if list(sizes) == [1, 1]:
        node.target, node.args = _aten.mean.dim, (source, [-1, -2], True)


def _normalize(node: torch.fx.Node) -> None:
    """The part of a batch normalisation in evaluation mode that is not about training."""
    value, weight, bias, mean, variance, training, momentum, eps, *_ = node.args
    if training is not False or mean is None:
        return
    with node.graph.inserting_before(node):
        normalized = node.graph.call_function(
            _aten._native_batch_norm_legit_no_training.default,  # noqa: SLF001 - so it is called
            (value, weight, bias, mean, variance, momentum, eps),
        )
    nothing = _value(node).new_empty((0,))
    normalized.meta = {**node.meta, "val": (_value(node), nothing, nothing)}
    node.target, node.args, node.kwargs = operator.getitem, (normalized, 0), {}


def _chunk(node: torch.fx.Node) -> None:
    """``split`` of an axis of fixed size."""
    arguments: Any = node.args
    source, count, *rest = arguments
    axis: Any = node.kwargs.get("dim", rest[0] if rest else 0)
    size = _value(source).shape[axis]
    if isinstance(size, int):
        node.target, node.kwargs = _aten.split.Tensor, {}
        node.args = (source, -(-size // count), axis)


#: What stands for an operator that the exporter does not have.
_REPLACED: dict[Any, Callable[[torch.fx.Node], None]] = {
    _aten.__and__.Tensor: _rename(_aten.bitwise_and.Tensor),
    _aten.__or__.Tensor: _rename(_aten.bitwise_or.Tensor),
    _aten.adaptive_avg_pool2d.default: _average,
    _aten.chunk.default: _chunk,
    _aten.contiguous.default: _copy,
    _aten.dropout.default: _drop_out,
    _aten.flatten.using_ints: _flatten,
    _aten.max.other: _rename(_aten.maximum.default),
    _aten.min.other: _rename(_aten.minimum.default),
    _aten.reshape.default: _reshape,
    _aten.to.device: _cast,
    _aten.to.dtype: _cast,
    _aten.to.dtype_layout: _cast,
    _aten.unflatten.int: _unflatten,
}
