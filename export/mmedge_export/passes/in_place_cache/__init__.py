"""Keys and values of a loop's stage in buffers that it writes to, in place of longer copies.

In a bundle's own graphs a state that grows is a concatenation of past and new. Here the attention
that takes it becomes ``com.microsoft.GroupQueryAttention`` (docs/reference/bundle.md, "Cache in
place"). How the graph writes its attention does not matter: what its parts compute is read from
runs of them (:mod:`.layout`, :mod:`.rotation`), and a graph that computes anything else keeps its
states, with a reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.onnx_graph.measure_shapes import measure_shapes
from mmedge_export.passes.in_place_cache.layout import Layout, check_causal, read_layout
from mmedge_export.passes.in_place_cache.match import (
    PLACING,
    GrowingAttention,
    NotInPlaceError,
    match_attention,
    walk_back,
)
from mmedge_export.passes.in_place_cache.rewrite import LayerPlan, write_in_place
from mmedge_export.passes.in_place_cache.rotation import RotationReader
from mmedge_export.passes.in_place_cache.stage_feeds import RunSizes, StageFeeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from mmedge.spec import Manifest
    from mmedge_export.onnx_graph.measure_shapes import MeasuredTensor

__all__ = ["FAR", "NotInPlaceError", "in_place_graph"]

#: Sizes for a run whose shapes are read: each different from the others and from what is fixed.
_SIZES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)

#: Places up to which it is looked at for several rows, and for several numbers of new tokens.
NEAR = 256

#: Most places at which a mask without a limit is looked at.
FAR = 1 << 15


def in_place_graph(model: ir.Model, manifest: Manifest, begins: Sequence[int] = (0,)) -> ir.Model:
    """The graph of a loop's stage with the states that grow in buffers.

    Args:
        model: the graph, of any precision; it is left as it is.
        manifest: of its bundle.
        begins: how many places the states may hold at the beginning of a loop.

    Raises:
        NotInPlaceError: the graph computes what the operator does not.
    """
    feeds = StageFeeds(manifest)
    for state in feeds.growing:
        spec = feeds.spec(state.input)
        if state.axis != 2 or len(spec.shape) != 4 or spec.dtype[:5] != "float":
            raise NotInPlaceError(
                f"state {state.input!r} is {spec} and grows along axis {state.axis}; buffers are "
                "[batch, heads, length, size]"
            )
        if not isinstance(spec.shape[1], int) or not isinstance(spec.shape[3], int):
            raise NotInPlaceError(f"state {state.input!r} has no fixed number of heads")
        if spec.shape[3] % 8:
            raise NotInPlaceError(
                f"heads of state {state.input!r} have {spec.shape[3]} elements; the operator takes "
                "multiples of 8"
            )
    if not feeds.growing:
        raise NotInPlaceError(f"no state of stage {feeds.stage.name!r} grows")
    try:
        return _rewritten(model.clone(), feeds, begins)
    except ExportError as error:
        raise NotInPlaceError(str(error)) from error


def _rewritten(model: ir.Model, feeds: StageFeeds, begins: Sequence[int]) -> ir.Model:
    sizes = _unlike_sizes(feeds, begins)
    shapes = measure_shapes(model, feeds.make(sizes))
    layers = match_attention(model, feeds.growing, shapes, (sizes.batch, sizes.new))
    runs = _runs(feeds, begins)
    plans = []
    positions = _positions(feeds)
    rotations = (
        RotationReader(model, feeds, shapes, sizes, positions) if positions is not None else None
    )
    for layer in layers:
        layout = read_layout(model, layer, feeds, shapes, sizes)
        scale = check_causal(model, layer, layout, feeds, shapes, sizes, runs)
        layout = layout.scaled(scale)
        plans.append(_plan(layer, layout, rotations, shapes, sizes))
    if any(plan.rotation is None for plan in plans):
        # Positions are then in the graph anyway.
        plans = [_plan(p.match, p.layout, None, shapes, sizes) for p in plans]
    write_in_place(model, plans, feeds, shapes, sizes)
    return model


def _plan(
    layer: GrowingAttention,
    layout: Layout,
    rotations: RotationReader | None,
    shapes: dict[str, MeasuredTensor],
    sizes: RunSizes,
) -> LayerPlan:
    at = (sizes.batch, sizes.new)
    query, rotation = layer.query, None
    key = walk_back(layer.new_key, shapes, at, PLACING)
    value = walk_back(layer.new_value, shapes, at, PLACING)
    if rotations is not None:
        turned_query = rotations.read(layer.query, layout.heads, layout.size)
        turned_key = rotations.read(key, layout.key_heads, layout.size)
        if turned_query is not None and turned_key is not None and turned_query.is_like(turned_key):
            rotation = turned_query
            query = walk_back(turned_query.source, shapes, at, PLACING)
            key = walk_back(turned_key.source, shapes, at, PLACING)
    return LayerPlan(layer, layout, query, key, value, rotation)


def _unlike_sizes(feeds: StageFeeds, begins: Sequence[int]) -> RunSizes:
    """Sizes of a run by which axes are told apart."""
    fixed = {size for spec in feeds.stage.inputs for size in spec.shape if isinstance(size, int)}
    free = [size for size in _SIZES if size not in fixed]
    batch = _fitting(free, feeds.batch_limit())
    new = _fitting([size for size in free if size != batch], feeds.new_limit())
    free = [size for size in free if size not in (batch, new) and size >= max(begins)]
    past = _fitting(free, feeds.past_limit())
    return RunSizes(batch, new, past, past - min(begins))


def _fitting(sizes: Sequence[int], limit: int | None) -> int:
    return next((size for size in sizes if limit is None or size <= limit), limit or 1)


def _runs(feeds: StageFeeds, begins: Sequence[int]) -> list[RunSizes]:
    """Runs in which a mask is looked at: short and long ones, each way that a loop may begin."""
    most_new, most = feeds.new_limit() or 8, feeds.past_limit() or FAR
    batches = {1, min(2, feeds.batch_limit() or 2)}
    runs = []
    for begin in begins:
        pasts = {begin, begin + 1, begin + 5, begin + 64, most // 2, most - most_new, most}
        for past in sorted(past for past in pasts if begin <= past <= most):
            if past > NEAR:
                runs.append(RunSizes(1, min(2, most_new), past, past - begin))
                continue
            for new in sorted({1, min(2, most_new), min(7, most_new)}):
                runs += [RunSizes(batch, new, past, past - begin) for batch in sorted(batches)]
    return runs


def _positions(feeds: StageFeeds) -> int | None:
    """How many positions a run of the loop can come to; None: there is no limit to tables."""
    name = feeds.loop.position
    if name is not None and len(feeds.token.shape) == 2 and not feeds.spec(name).shape:
        return None  # that of the first of several tokens alone
    past, new = feeds.past_limit(), feeds.new_limit()
    return None if past is None or new is None else past + new
