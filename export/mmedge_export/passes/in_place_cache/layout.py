"""What attention in a graph computes, found by running its parts on numbers chosen for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError
from mmedge_export.passes.in_place_cache.match import NotInPlaceError
from mmedge_export.passes.in_place_cache.placement import place, placement_of
from mmedge_export.passes.in_place_cache.probe import Probe, content_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from mmedge.spec import Array
    from mmedge_export.onnx_graph.measure_shapes import MeasuredTensor
    from mmedge_export.passes.in_place_cache.match import GrowingAttention
    from mmedge_export.passes.in_place_cache.stage_feeds import RunSizes, StageFeeds

__all__ = ["Layout", "check_causal", "read_layout"]

#: A score that far below the others has no share in a softmax of float32.
HIDDEN = -1000.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What is computed: ``heads`` of queries of ``size``, ``groups`` of each head of keys.

    ``scale`` multiplies the products. ``tokens_first`` says that the queries of a group stand
    token by token.
    """

    heads: int
    key_heads: int
    size: int
    scale: float
    tokens_first: bool

    @property
    def groups(self) -> int:
        """Heads of queries for each of keys."""
        return self.heads // self.key_heads

    def scaled(self, scale: float) -> Layout:
        """With another factor."""
        return replace(self, scale=self.scale * scale)

    def rows(self, array: Array) -> Array:
        """[batch, heads, new, ...] as the rows of the product lie."""
        batch, _, new, *rest = array.shape
        split = array.reshape(batch, self.key_heads, self.groups, new, *rest)
        return split.swapaxes(2, 3) if self.tokens_first else split


def read_layout(
    model: ir.Model,
    layer: GrowingAttention,
    feeds: StageFeeds,
    shapes: dict[str, MeasuredTensor],
    sizes: RunSizes,
) -> Layout:
    """Scale, heads and grouping of a layer.

    Raises:
        NotInPlaceError: it is not attention of queries to keys, with heads in their order.
    """
    name = layer.key.input
    batch, key_heads, _, size = shapes[layer.key.input].shape
    total = sizes.past + sizes.new
    rng = np.random.default_rng(0)
    heads, rest = divmod(shapes[str(layer.left.name)].size, batch * sizes.new * size)
    if rest or heads % key_heads:
        raise NotInPlaceError(f"queries of state {name!r} do not fit its {key_heads} heads")
    cuts = (layer.query, layer.keys, layer.values, layer.shares, layer.product)
    pairs = (
        (layer.left, layer.query),
        (layer.right, layer.keys),
        (layer.over, layer.values),
        (layer.weights, layer.shares),
        (layer.result, layer.product),
    )
    for value, source in pairs:
        _check_content(value, source, cuts, feeds, name)
    dtypes = {str(v.name): shapes[str(v.name)].dtype for v in cuts}
    probe = Probe(model, [value for value, _ in pairs], cuts, dtypes)

    def random(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(shapes[str(layer.keys.name)].dtype.numpy())

    queries = random(batch, heads, sizes.new, size)
    keys, values = random(batch, key_heads, total, size), random(batch, key_heads, total, size)
    shares = random(*shapes[str(layer.shares.name)].shape)
    product = random(batch, heads, sizes.new, size)
    places = [
        placement_of(shapes[str(value.name)].shape, sizes, heads, size)
        for value in (layer.query, layer.result)
    ]
    if None in places:
        raise NotInPlaceError(f"queries of state {name!r} have an order that is not known")
    for tokens_first in (False, True):
        layout = Layout(heads, key_heads, size, 1.0, tokens_first)
        rows = layout.rows(product)
        given = {
            str(layer.query.name): place(queries, places[0]),
            str(layer.keys.name): keys,
            str(layer.values.name): values,
            str(layer.shares.name): shares,
            str(layer.product.name): rows.reshape(shapes[str(layer.product.name)].shape),
        }
        left, right, over, weights, result = probe({**feeds.make(sizes), **given})
        left_scale = _ratio(left, layout.rows(queries))
        right_scale = _keys_ratio(right, keys.swapaxes(2, 3), layout.groups)
        if (
            left_scale is not None
            and right_scale is not None
            and _keys_ratio(over, values, layout.groups) == 1
            and _ratio(weights, shares) == 1
            and _ratio(result, place(product, places[1])) == 1
        ):
            return Layout(heads, key_heads, size, left_scale * right_scale, tokens_first)
    raise NotInPlaceError(f"heads of state {name!r} are not in the order that is known")


def check_causal(
    model: ir.Model,
    layer: GrowingAttention,
    layout: Layout,
    feeds: StageFeeds,
    shapes: dict[str, MeasuredTensor],
    measured: RunSizes,
    runs: Sequence[RunSizes],
) -> float:
    """See that each token sees itself and all before it, in each of ``runs``, and nothing else.

    Args:
        model: the stage's graph.
        layer: of it.
        layout: of the layer.
        feeds: of the stage.
        shapes: of all values in the run ``measured``.
        measured: sizes of that run.
        runs: others.

    Returns:
        What the scores are multiplied by.

    Raises:
        NotInPlaceError: it does not, or what it sees depends on more than sizes and positions.
    """
    name = layer.key.input
    _check_content(layer.masked, layer.scores, (layer.scores, layer.keys), feeds, name)
    dtype = shapes[str(layer.scores.name)].dtype
    cuts = (layer.scores, layer.keys)
    probe = Probe(model, [layer.masked], cuts, {str(v.name): dtype for v in cuts})
    scale: float | None = None
    for run in runs:
        total = run.past + run.new
        rng = np.random.default_rng(total)
        scores = rng.standard_normal((run.batch, layout.heads, run.new, total))
        rows = layout.rows(scores.astype(dtype.numpy()))
        shape = _resized(shapes[str(layer.scores.name)].shape, layout, measured, run)
        keys = np.zeros((run.batch, layout.key_heads, total, layout.size), dtype.numpy())
        given = {str(layer.scores.name): rows.reshape(shape), str(layer.keys.name): keys}
        (masked,) = probe({**feeds.make(run), **given})
        visible = np.arange(total) <= run.past + np.arange(run.new)[:, None]
        seen = layout.rows(np.broadcast_to(visible, (run.batch, layout.heads, run.new, total)))
        if masked.size != rows.size or not _hides(masked.ravel(), seen.ravel()):
            raise NotInPlaceError(
                f"attention of state {name!r} is not causal: with {run.new} tokens after "
                f"{run.past} a token does not see just itself and those before it"
            )
        one = _ratio(masked.ravel()[seen.ravel()], rows.ravel()[seen.ravel()])
        if one is None or (scale is not None and not np.isclose(one, scale, rtol=1e-3)):
            raise NotInPlaceError(f"something is added to the scores of state {name!r}")
        scale = one
    return 1.0 if scale is None else scale


def _hides(masked: Array, seen: Array) -> bool:
    """Whether scores are low just where nothing is seen."""
    return np.array_equal(np.greater(masked, HIDDEN), seen)


def _resized(
    shape: Sequence[int], layout: Layout, measured: RunSizes, run: RunSizes
) -> tuple[int, ...]:
    """The shape of scores in another run: rows and keys are the last two axes."""
    folded = 1 if shape[-2] == measured.new else layout.groups
    rows, total = folded * run.new, run.past + run.new
    if len(shape) == 3:
        return run.batch * layout.heads // folded, rows, total
    return (run.batch, *shape[1:-2], rows, total)


def _check_content(
    value: ir.Value,
    source: ir.Value,
    cuts: Sequence[ir.Value],
    feeds: StageFeeds,
    name: str,
) -> None:
    """See that ``value`` holds what ``source`` does, and beside it sizes and positions alone."""
    try:
        leaves = content_of(value, cuts)
    except ExportError as error:
        raise NotInPlaceError(f"attention of state {name!r}: {error}") from error
    others = {str(leaf.name) for leaf in leaves if leaf is not source} - {feeds.loop.position}
    if others or source not in leaves:
        raise NotInPlaceError(
            f"attention of state {name!r} depends on {', '.join(sorted(map(repr, others)))}"
            if others
            else f"attention of state {name!r} is not of the form that is known"
        )


def _ratio(array: Array, other: Array) -> float | None:
    """The number by which ``array`` is a multiple of ``other``; None where it is none."""
    if array.size != other.size or not array.size:
        return None
    left, right = array.ravel().astype(np.float64), other.ravel().astype(np.float64)
    place = int(np.abs(right).argmax())
    ratio = float(left[place] / right[place])
    if not np.isfinite(ratio) or ratio <= 0:
        return None
    close = np.allclose(
        left, ratio * right, rtol=2e-3 if array.dtype.itemsize < 4 else 1e-5, atol=1e-6
    )
    if not close:
        return None
    return 1.0 if abs(ratio - 1) < 1e-6 else ratio


def _keys_ratio(array: Array, keys: Array, groups: int) -> float | None:
    """As :func:`_ratio` for keys or values, which may be there once for each head of queries."""
    ratio = _ratio(array, keys)
    return ratio if ratio is not None else _ratio(array, np.repeat(keys, groups, axis=1))
