"""A bundle's graphs in another backend at sizes that no golden sample has.

A backend chooses its kernels by size: OpenVINO 2026.4 computes attention over 16 tokens and more
with another kernel than over 15, and for heads of 4 channels that one is wrong. Golden samples, all
of the example's sizes, do not show it. So the stages run in ONNX Runtime and in the backend with
every dynamic dimension at its smallest, far from the example, and at its largest.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import AccuracyError, ExportError
from mmedge.execution.plan import StagePlan
from mmedge.tolerance import difference
from mmedge_export.domain import SizeDomain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmedge.bundle import Bundle
    from mmedge.execution.plan import Run
    from mmedge.spec import Array, Dimension, TensorSpec, Variant

__all__ = ["check_sizes"]

#: A dimension without a largest size is tried at so many times its ``opt``, and at least at so many
#: (kernels change at powers of two; this lies past those that are seen, and is none itself).
_TIMES, _LEAST = 4, 67

#: Elements of all inputs together at most; what has more is not tried.
_ELEMENTS = 1 << 22


def check_sizes(
    bundle: Bundle,
    base: Variant,
    exact: Mapping[str, Run],
    forms: Sequence[Mapping[str, Run]],
    *,
    backend: str,
) -> list[str]:
    """See that a backend computes what ONNX Runtime does at other sizes than the samples have.

    Floats are drawn from the range of the first golden sample, the rest is repeated from it; so are
    states, tokens and latents. Each stage is given what ONNX Runtime made of the stages before.

    Args:
        bundle: open.
        base: its variant in ONNX Runtime, whose tolerances hold.
        exact: each stage in ONNX Runtime.
        forms: each stage in the backend, in one or several forms.
        backend: its name and version, for messages.

    Returns:
        What could not be checked, a line each.

    Raises:
        AccuracyError: a stage computes something else; the message names the sizes.
    """
    manifest = bundle.manifest
    golden = bundle.samples()[0]
    sample = {**golden.inputs, **golden.step}
    specs = {**manifest.inputs(), **manifest.step_inputs()}
    dynamic_names = {
        size for spec in specs.values() for size in spec.shape if isinstance(size, str)
    }
    if not dynamic_names:
        return []
    domain = SizeDomain(manifest.dimensions, manifest.constraints)
    lines: list[str] = []
    for sizes in _sizes(domain, sorted(dynamic_names), specs):
        sizes_text = ", ".join(f"{name}={size}" for name, size in sizes.items())
        try:
            tensors = _make_tensors(specs, sample, sizes)
            for plan in manifest.plan_names():
                StagePlan(manifest.in_order(plan), exact).advance(tensors)
            StagePlan(manifest.loop_stages(), exact).advance(tensors)
        except ExportError:
            lines.append(f"{backend} at {sizes_text}: ONNX Runtime refuses what is made up there")
            continue
        for form in forms:
            refusing = {
                name: partial(_run, run, f"{backend}, stage {name!r} at {sizes_text}")
                for name, run in form.items()
            }
            for stage, outputs in StagePlan(manifest.stages, refusing).alone(tensors):
                for name, value in outputs.items():
                    limit = base.tolerances.get(name, base.tolerance)
                    deviation = difference(value, tensors[name], limit)
                    if not deviation.passes:
                        raise AccuracyError(
                            f"{backend}, stage {stage.name!r} at {sizes_text}, on made-up inputs: "
                            f"output {name!r} {deviation}, {deviation.limit_used:.3g} times what "
                            f"its tolerance allows ({limit}); ONNX Runtime computes another "
                            "value at these sizes: use it, or limit the sizes with dims at export"
                        )
    return lines


def _run(run: Run, where: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    try:
        return run(feeds)
    except ExportError as error:
        raise AccuracyError(f"{where}: {error}; use ONNX Runtime") from error


def _sizes(
    domain: SizeDomain, names: Sequence[str], specs: Mapping[str, TensorSpec]
) -> Iterator[dict[str, int]]:
    """Sizes to try: all smallest, all far, and each far with the others at the example's."""
    limits = {name: domain.dimensions[name] for name in names}
    opt = {name: limit.opt for name, limit in limits.items()}
    least = {name: limit.min for name, limit in limits.items()}
    far = {name: _far(limit) for name, limit in limits.items()}
    earlier_sizes = [opt]
    for target in chain([least, far], ({**opt, name: size} for name, size in far.items())):
        sizes = domain.near(target)
        if sizes is None or sizes in earlier_sizes or _elements(specs, sizes) > _ELEMENTS:
            continue
        earlier_sizes.append(sizes)
        yield sizes


def _far(limit: Dimension) -> int:
    size = max(_TIMES * limit.opt + 1, _LEAST)
    return size if limit.max is None else min(size, limit.max)


def _elements(specs: Mapping[str, TensorSpec], sizes: Mapping[str, int]) -> int:
    return sum(
        prod(sizes[size] if isinstance(size, str) else size for size in spec.shape)
        for spec in specs.values()
    )


def _make_tensors(
    specs: Mapping[str, TensorSpec], sample: Mapping[str, Array], sizes: Mapping[str, int]
) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    tensors: dict[str, Array] = {}
    for name, spec in specs.items():
        value = sample[name]
        for axis, size in enumerate(spec.shape):
            if not isinstance(size, str):
                continue
            if not value.shape[axis]:  # a state that grows may begin so
                value = np.zeros((*value.shape[:axis], 1, *value.shape[axis + 1 :]), value.dtype)
            value = np.take(value, np.arange(sizes[size]) % value.shape[axis], axis)
        if value.dtype.kind == "f" and np.isfinite(value).all() and value.size:
            low, high = float(value.min()), float(value.max())
            value = np.asarray(rng.uniform(low, high, value.shape), value.dtype)
        tensors[name] = value
    return tensors
