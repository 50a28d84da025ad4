"""Golden samples: what goes into a bundle as proof, and what a graph is checked on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError
from mmedge.spec import Array, Sample, Tolerance
from mmedge_export import feeds
from mmedge_export.parity import Case, compare

if TYPE_CHECKING:
    from mmedge_export.source import Model

__all__ = ["GENERATED", "Run", "golden", "probe"]

#: Golden samples of a model that brings none: its example, and random inputs of the same kind.
GENERATED = 4

Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def golden(model: Model, run: Run, limit: int) -> list[Sample]:
    """The first ``limit`` samples of ``model`` with the network's own outputs.

    A model without samples gives its example and seeded random inputs of the same kind
    (:func:`mmedge_export.feeds.random`) at several sizes, :data:`GENERATED` in all. Random inputs
    that the network refuses or answers with NaN are left out.

    Args:
        model: says where samples come from.
        run: the network itself.
        limit: at least 1.

    Raises:
        ExportError: a sample does not fit the inputs, or the network fails on it.
    """
    if model.samples is None:
        return _generated(model, run, min(limit, GENERATED))
    found = []
    for index, pair in enumerate(islice(model.samples, limit)):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ExportError(
                f"sample {index}: expected a pair (inputs, target), got {type(pair).__name__}; "
                "give None as the target of a sample without one"
            )
        inputs = feeds.check(model, pair[0], f"sample {index}")
        found.append(Sample(inputs, run(inputs)))
    if not found:
        raise ExportError("samples are empty; give at least one, or None to have them generated")
    return found


def probe(
    model: Model, run: Run, samples: Sequence[Sample], tell: Callable[[str], None]
) -> list[Case]:
    """The example at the other sizes of its dynamic dimensions that :func:`feeds.probes` gives.

    Args:
        model: has the example.
        run: the network itself.
        samples: golden samples. Where they have other sizes than the example, a generated size that
            the network refuses is only told: inputs that depend on each other (lengths, indices)
            can be real in samples only.
        tell: called with a line of text.

    Raises:
        ExportError: the network refuses a size that its dimensions allow.
    """
    varied = _varied(model, samples)
    cases = []
    for sizes in feeds.probes(model):
        inputs = feeds.resize(model, feeds.example(model), sizes)
        what = "the example at " + ", ".join(f"{name}={size}" for name, size in sizes.items())
        try:
            cases.append(Case(what, inputs, run(inputs)))
        except ExportError as refusal:
            if not varied:
                raise ExportError(
                    f"the network refuses {what}, though its dynamic dimensions allow these sizes: "
                    "state the smallest and largest size of each in Model.dims, or give samples of "
                    f"several sizes. {refusal}"
                ) from refusal
            tell(f"not checked: {what}, which the network refuses ({refusal})")
    return cases


def _varied(model: Model, samples: Sequence[Sample]) -> bool:
    """Whether ``samples`` have another size than the example in every dynamic dimension."""
    sizes = feeds.sizes(model, feeds.example(model))
    return all(
        any(feeds.sizes(model, sample.inputs)[symbol] != size for sample in samples)
        for symbol, size in sizes.items()
    )


def repeatable(run: Run, inputs: Mapping[str, Array], tolerance: Tolerance) -> dict[str, Array]:
    """Outputs for ``inputs``.

    Raises:
        ExportError: a second run gives others.
    """
    first, second = run(inputs), run(inputs)
    for name, value in first.items():
        difference = compare(second[name], value, tolerance)
        if not difference.passes:
            raise ExportError(
                f"the network is not deterministic: on the same input, output {name!r} "
                f"{difference} between two runs; take random operations and state that is kept "
                "between calls out of its forward"
            )
    return first


def _generated(model: Model, run: Run, count: int) -> list[Sample]:
    example = feeds.example(model)
    found = [Sample(example, run(example))]
    opt = {name: limits.opt for name, limits in model.dimensions().items()}
    variety = [opt, *feeds.probes(model)]
    for index in range(count - 1):
        # A generator of its own for each, so that a refused one does not change the others.
        rng = np.random.default_rng(index)
        inputs = feeds.random(model, variety[index % len(variety)], rng)
        try:
            outputs = run(inputs)
        except ExportError:
            continue
        if not any(_has_nan(value) for value in outputs.values()):
            found.append(Sample(inputs, outputs))
    return found


def _has_nan(value: Array) -> bool:
    return bool(np.issubdtype(value.dtype, np.inexact) and np.isnan(value).any())
