"""Inputs for a network: checked samples, and generated ones of the example's kind.

It is longer than most modules, since whatever is made up of inputs anywhere is made up here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.constraints import allows, spans
from mmedge.errors import ExportError
from mmedge_export.inputs import as_array
from mmedge_export.sources.resize import contiguous, resize

if TYPE_CHECKING:
    from mmedge.spec import Array, Dimension
    from mmedge_export.inputs import Input
    from mmedge_export.model import Model

    #: Of parts, by dimension, how many there are and how many are taken.
    Orders = dict[tuple[str, int, int], np.ndarray[Any, np.dtype[np.int64]]]

__all__ = [
    "LARGEST",
    "check",
    "elements",
    "example",
    "extremes",
    "others",
    "probes",
    "random",
    "rebatch",
    "resize",
    "sizes",
    "widened",
    "without",
]

#: Elements of all inputs together that a generated input may have: 64 MB of float32.
LARGEST = 1 << 24


def example(model: Model) -> dict[str, Array]:
    """The example of every input."""
    return {name: value.example for name, value in model.inputs.items()}


def check(model: Model, values: Mapping[str, Array], what: str) -> dict[str, Array]:
    """``values`` in the model's order, as C-contiguous arrays.

    ``what`` names the sample in messages.

    Raises:
        ExportError: an input is missing or unknown, or of another dtype, rank or size.
    """
    if not isinstance(values, Mapping):
        raise ExportError(
            f"{what}: expected a mapping of input names to arrays, got {type(values).__name__}; "
            "samples are pairs (inputs, target)"
        )
    unknown = [name for name in values if name not in model.inputs]
    missing = [name for name in model.inputs if name not in values]
    if unknown or missing:
        raise ExportError(
            f"{what}: "
            + "; ".join(
                f"{kind} {', '.join(map(repr, names))}"
                for kind, names in (("missing input", missing), ("unknown input", unknown))
                if names
            )
            + f"; a sample gives {', '.join(model.inputs)}"
        )
    feeds: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for name, spec in model.inputs.items():
        value = as_array(values[name])
        value_text = (
            f"{getattr(value, 'dtype', type(value).__name__)} {list(getattr(value, 'shape', ()))}"
        )
        if not isinstance(value, np.ndarray) or value.dtype != spec.example.dtype:
            raise ExportError(
                f"{what}, input {name!r}: expected {spec.example.dtype}, got {value_text}"
            )
        if isinstance(value, np.ma.MaskedArray):
            raise ExportError(
                f"{what}, input {name!r}: a masked array, whose mask would be lost; give "
                "value.filled(...)"
            )
        if value.ndim != spec.example.ndim:
            raise ExportError(
                f"{what}, input {name!r}: expected rank {spec.example.ndim} {spec.shape()}, got "
                f"{value_text}"
            )
        for axis, (size, dimension) in enumerate(zip(value.shape, spec.shape(), strict=True)):
            expected_size = (
                sizes.setdefault(dimension, size) if isinstance(dimension, str) else dimension
            )
            if size != expected_size:
                raise ExportError(
                    f"{what}, input {name!r}: axis {axis} is {dimension!r} and must be "
                    f"{expected_size}, got {value_text}"
                )
        feeds[name] = contiguous(value)
    for symbol, limits in model.dimensions().items():
        size = sizes[symbol]
        if not allows(limits, size):
            raise ExportError(
                f"{what}: dimension {symbol!r} is {size}, but dims allows {spans(limits)}; widen "
                "dims or leave the sample out"
            )
    if fault := model.domain().relations.fault(sizes):
        raise ExportError(f"{what}: {fault}")
    return feeds


def sizes(model: Model, values: Mapping[str, Array]) -> dict[str, int]:
    """Size of each dynamic dimension in ``values``."""
    return {
        symbol: values[name].shape[axis]
        for name, value in model.inputs.items()
        for axis, symbol in value.dynamic.items()
    }


def rebatch(
    model: Model,
    values: Mapping[str, Array],
    other: Mapping[str, Array] | None,
) -> tuple[str, dict[str, Array]] | None:
    """``values`` at another batch size, and a word on which; None where there is no other.

    The batch is the dynamic dimension that is the first axis of every input that has it (of the
    most inputs, where there are several). It grows by one step, or shrinks by one where there is
    no more. The row that is added is the first of ``other``, another sample, where its
    other sizes agree, else the sample's own first.
    """
    axes: dict[str, list[int]] = {}
    for value in model.inputs.values():
        for axis, name in value.dynamic.items():
            axes.setdefault(name, []).append(axis)
    leading = [name for name, positions in axes.items() if not any(positions)]
    if not leading:
        return None
    symbol = max(leading, key=lambda name: len(axes[name]))
    limits = model.dimensions()[symbol]
    now, domain = sizes(model, values), model.domain()
    target = next(
        (
            size
            for step in (limits.multiple, -limits.multiple)
            if domain.allows(now | {symbol: (size := now[symbol] + step)})
        ),
        None,
    )
    if target is None:
        return None
    batch_inputs = [name for name, value in model.inputs.items() if value.dynamic.get(0) == symbol]
    joint = dict(values)
    if other is not None and all(values[n].shape[1:] == other[n].shape[1:] for n in batch_inputs):
        joint |= {name: np.concatenate([values[name], other[name]]) for name in batch_inputs}
    return f"{symbol}={target}", resize(model, joint, {symbol: target})


def without(
    model: Model, values: Mapping[str, Array], modalities: Collection[str]
) -> dict[str, Array]:
    """``values`` with what the runtime puts in place of ``modalities`` that a caller leaves out.

    By the runtime's rule: the token where there is one, else zeros. A dynamic dimension that the
    remaining inputs have keeps its size, any other takes its smallest
    (:meth:`mmedge.constraints.Relations.complete`).
    """
    groups = model.modalities()
    absent = [name for modality in modalities for name in groups[modality]]
    present = {
        symbol: values[name].shape[axis]
        for name, value in model.inputs.items()
        if name not in absent
        for axis, symbol in value.dynamic.items()
    }
    size_of = model.domain().relations.complete(present)
    feeds = dict(values)
    for name in absent:
        value = model.inputs[name]
        shape = tuple(size_of[size] if isinstance(size, str) else size for size in value.shape())
        token = value.absent_token
        feeds[name] = (
            np.zeros(shape, value.example.dtype)
            if token is None
            else contiguous(np.broadcast_to(token, shape))
        )
    return feeds


def probes(model: Model) -> Iterator[dict[str, int]]:
    """Sizes to try a traced graph at, other than those of the example.

    All dimensions a step or more past the example, twice, so that each is tried at an even and an
    odd number of steps, and two of one size do not stay of one size; the same sizes the other way
    round, so that of two dimensions each is the larger once; all at their smallest, and each alone,
    at 0 and at 1, which torch takes for constants; and each at its largest with the others at their
    smallest, where a largest is stated. All are allowed, or near, and within :data:`LARGEST`
    elements.
    """
    domain = model.domain()
    dimensions = domain.dimensions
    opt = {symbol: limits.opt for symbol, limits in dimensions.items()}
    least = {symbol: limits.min for symbol, limits in dimensions.items()}
    steps = dict(zip(dimensions, range(1, len(dimensions) + 1), strict=True))
    back = {
        n: k + (k - steps[n] + 1) % 2 for n, k in zip(steps, reversed(steps.values()), strict=True)
    }
    more, most = (
        {symbol: _step(dimensions[symbol], count) for symbol, count in counts.items()}
        for counts in (steps, back)
    )
    by_size = sorted(more, key=lambda symbol: more[symbol])
    reversed_sizes = dict(zip(by_size, (more[symbol] for symbol in reversed(by_size)), strict=True))
    small_sizes = [
        {**opt, symbol: size}
        for symbol, limits in dimensions.items()
        for size in (0, 1)
        if allows(limits, size) and len(dimensions) > 1
    ]
    ends = [
        {**least, symbol: limits.max}
        for symbol, limits in dimensions.items()
        if limits.max is not None
    ]
    earlier_sizes = [opt]
    for sizes in (
        more,
        most,
        reversed_sizes,
        *small_sizes,
        least,
        *({**least, s: 1} for s in least if not least[s]),
        *ends,
    ):
        candidate = domain.near({symbol: sizes[symbol] for symbol in dimensions})
        if (
            candidate is not None
            and candidate not in earlier_sizes
            and elements(model, candidate) <= LARGEST
        ):
            earlier_sizes.append(candidate)
            yield candidate


def _step(limits: Dimension, count: int) -> int:
    """The size ``count`` steps past the example's, or before it where there is none."""
    size = limits.opt + count * limits.multiple
    if limits.max is not None and size > limits.max:
        size = limits.opt - count * limits.multiple
    return size if allows(limits, size) else limits.opt


def elements(model: Model, sizes: Mapping[str, int]) -> int:
    """Elements of all inputs together at ``sizes``."""
    return sum(
        prod(sizes[size] if isinstance(size, str) else size for size in value.shape())
        for value in model.inputs.values()
    )


def random(
    model: Model,
    sizes: Mapping[str, int],
    rng: np.random.Generator,
    *,
    vary: bool = False,
    least: int = 0,
) -> dict[str, Array]:
    """Inputs of the example's kind at ``sizes``: same dtypes, values in the example's range.

    Floats are uniform between the example's smallest and largest value (one to either side of a
    constant), integers likewise with both ends, booleans are true as often as in the example. A
    constant integer or boolean example stays as it is unless ``vary`` is set: then integers are
    anything from ``least`` to the example's largest, and booleans of a constant example are a half
    of each, but the first of every row as they are. What a network computed, and an input whose
    ``variation`` is ``"parts"``, keep their kind: along each dynamic axis they are parts of the
    example in any order. It is one order for all that a network computed: a place of one state is
    that place of all others, and equal places of an index are equal places of what it points to.
    """
    templates = resize(model, example(model), sizes)
    orders: Orders = {}
    return {
        name: _shuffle(
            model.inputs[name],
            templates[name].shape,
            rng,
            orders if name in model.computed else {},
        )
        if name in model.computed or model.inputs[name].variation == "parts"
        else _like(model.inputs[name].example, templates[name].shape, rng, vary=vary, least=least)
        for name in model.inputs
    }


def _shuffle(
    value: Input,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    orders: Orders,
) -> Array:
    """Parts of an example; ``orders`` are those of dimensions so far, and get what is new."""
    shuffled = value.example
    for axis, symbol in value.dynamic.items():
        count = shuffled.shape[axis]
        if not count:
            return np.zeros(shape, shuffled.dtype)
        key = symbol, count, shape[axis]
        if key not in orders:
            orders[key] = rng.integers(0, count, shape[axis])
        shuffled = np.take(shuffled, orders[key], axis)
    return contiguous(shuffled)


def _like(
    sample: Array, shape: tuple[int, ...], rng: np.random.Generator, *, vary: bool, least: int
) -> Array:
    if not sample.size:  # a tensor that never holds anything
        return np.zeros(shape, sample.dtype)
    if sample.dtype == np.bool_:
        share = float(sample.mean())
        if not vary or share not in (0.0, 1.0):
            return np.asarray(rng.random(shape) < share)
        return _mix(shape, rng, first=bool(share))
    low, high = sample.min(), sample.max()
    if np.issubdtype(sample.dtype, np.integer):
        if vary:
            low = min(low, sample.dtype.type(least))
        return rng.integers(low, high, shape, sample.dtype, endpoint=True)
    if not np.isfinite(sample).all():
        finite = sample[np.isfinite(sample)]
        low, high = (finite.min(), finite.max()) if finite.size else (-1.0, 1.0)
    if low == high:
        low, high = low - 1, high + 1
    return rng.uniform(float(low), float(high), shape).astype(sample.dtype)


def _mix(shape: tuple[int, ...], rng: np.random.Generator, *, first: bool) -> Array:
    """Booleans, a half of each; the first of every row is ``first``, so that no row lacks it."""
    values = np.asarray(rng.random(shape) < 0.5)
    if values.ndim and values.shape[-1] > 1:
        values[..., 0] = first
    return values


def others(value: Array, *, least: int = 0) -> Iterator[tuple[str, Array]]:
    """Other values for an input that is ``value``, and words on each; of the same shape and dtype.

    Args:
        value: what the network is known to take.
        least: smallest integer that may be tried, below the smallest in ``value``.
    """
    if not value.size:  # a tensor that never holds anything
        return
    rng = np.random.default_rng(0)
    kind = value.dtype
    candidates: list[tuple[str, Array]]
    if kind == np.bool_:
        row = value.copy()
        if row.ndim and row.shape[0] > 1:
            row[0] = ~row[0]
        candidates = [
            ("all true", np.ones_like(value)),
            ("all false", np.zeros_like(value)),
            ("true here and there", _mix(value.shape, rng, first=True)),
            ("false here and there", _mix(value.shape, rng, first=False)),
            ("with its first row inverted", row),
        ]
    elif np.issubdtype(kind, np.integer):
        low, high = min(int(value.min()), least), int(value.max())
        if kind.itemsize == 1:
            limits = np.iinfo(kind.name)
            low, high = limits.min, limits.max
        high = max(high, low + 1)
        candidates = [
            (f"{low} throughout", np.full_like(value, low)),
            (f"{high} throughout", np.full_like(value, high)),
            (f"from {low} to {high}", rng.integers(low, high, value.shape, kind, endpoint=True)),
        ]
    else:
        candidates = [("at random", _like(value, value.shape, rng, vary=True, least=least))]
    for words, other in candidates:
        if not np.array_equal(other, value):
            yield words, np.array(other, order="C").reshape(value.shape)


def widened(value: Array, factor: float) -> Array:
    """Random floats of the shape of ``value``, ``factor`` times as far about its middle."""
    finite = value[np.isfinite(value)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (-1.0, 1.0)
    half = factor * (high - low) / 2 or factor
    middle = (low + high) / 2
    values = np.random.default_rng(0).uniform(middle - half, middle + half, value.shape)
    return np.asarray(values, value.dtype)


def extremes(value: Array) -> Iterator[tuple[str, Array]]:
    """Integers of 32 and 64 bits that no float32 holds, and one below zero."""
    if value.dtype.name in ("int32", "int64"):
        yield "-1 throughout", np.full_like(value, -1)
        rng = np.random.default_rng(0)
        values = rng.integers(2**24, 2**25, value.shape, value.dtype)
        yield "from 2**24 to 2**25", np.array(values, value.dtype)
