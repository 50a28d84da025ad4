"""Sizes that an engine is built for: each dynamic dimension's smallest, best and largest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mmedge.constraints import Relations
from mmedge.errors import BackendError, ExportError, InputError
from mmedge.execution.plan import StagePlan
from mmedge.spec import DTYPES, Array, TensorSpec
from mmedge_export.domain import SizeDomain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmedge.bundle import Bundle
    from mmedge.spec import Manifest, Stage

__all__ = ["NO_LIMIT_FACTOR", "ProfileSizes", "parse_profiles", "resolve_profiles"]

#: A dimension without a limit is built for up to this many times its ``opt``, or for the largest
#: golden sample where that is more. An engine needs some limit; a larger one costs memory.
NO_LIMIT_FACTOR = 8


@dataclass(frozen=True, slots=True)
class ProfileSizes:
    """Sizes of one dimension: ``min <= opt <= max``."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


def parse_profiles(texts: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """``samples=1600:32000:80000`` as the command line takes it, into ``{"samples": (...)}``.

    Raises:
        InputError: a text is not of this form, or names a dimension twice.
    """
    profiles: dict[str, tuple[int, int, int]] = {}
    for text in texts:
        name, separator, sizes = text.partition("=")
        parts = sizes.split(":")
        if not (separator and name and len(parts) == 3 and all(p.isdecimal() for p in parts)):
            raise InputError(
                f"profile {text!r}: expected DIMENSION=MIN:OPT:MAX in whole numbers, such as "
                "samples=1600:32000:80000"
            )
        if name in profiles:
            raise InputError(f"profile {text!r}: dimension {name!r} is given twice")
        profiles[name] = (int(parts[0]), int(parts[1]), int(parts[2]))
    return profiles


def resolve_profiles(
    bundle: Bundle, overrides: Mapping[str, tuple[int, int, int]] | None = None
) -> dict[str, ProfileSizes]:
    """Sizes of every dynamic dimension that some stage's inputs have.

    A dimension of the network's inputs has the limits of the manifest (see :data:`NO_LIMIT_FACTOR`)
    as far as constraints of it alone allow them, or those of ``overrides``. A dimension that only
    tensors between stages have follows from the inputs: it is the manifest's where that has a limit
    and nothing was overridden, else it is measured by running the stages in ONNX Runtime at the
    inputs' smallest, best and largest sizes.

    Raises:
        InputError: an override names no dimension of the inputs, is not ascending, or leaves out
            the golden samples, which would then not fit the engine.
        BackendError: sizes must be measured and ONNX Runtime is not installed or refuses a stage.
    """
    manifest = bundle.manifest
    overrides = overrides or {}
    golden = _golden_sizes(bundle)
    profile_sizes = {
        size: spec
        for spec in manifest.inputs().values()
        for size in spec.shape
        if isinstance(size, str)
    }
    for name in overrides:
        if name not in profile_sizes:
            raise InputError(
                f"profile of {name!r}: the inputs have no such dynamic dimension; "
                + (
                    f"they have {', '.join(sorted(profile_sizes))}"
                    if profile_sizes
                    else "none is dynamic"
                )
            )
    resolved: dict[str, ProfileSizes] = {}
    relations = Relations(manifest.dimensions, manifest.constraints)
    for name in profile_sizes:
        limits = manifest.dimensions[name]
        most = limits.max
        if most is None:
            most = max(NO_LIMIT_FACTOR * limits.opt, *golden.get(name, (0,)))
        if name in overrides:
            sizes = ProfileSizes(*overrides[name])
            if not 1 <= sizes.min <= sizes.opt <= sizes.max:
                raise InputError(
                    f"profile of {name!r}: expected 1 <= MIN <= OPT <= MAX, got {sizes}"
                )
        else:
            step, opt = limits.multiple, limits.opt
            sizes = ProfileSizes(
                next(n for n in range(limits.min, opt + 1, step) if relations.holds({name: n})),
                opt,
                next(
                    n
                    for n in range(most - most % step, opt - 1, -step)
                    if relations.holds({name: n})
                ),
            )
        outside = sorted(s for s in golden.get(name, ()) if not sizes.min <= s <= sizes.max)
        if outside:
            raise InputError(
                f"profile of {name!r}: {sizes} leaves out golden samples of size {outside}, with "
                "which the engine is verified; widen it"
            )
        resolved[name] = sizes
    derived = {
        size
        for stage in manifest.in_order()
        for spec in stage.inputs
        for size in spec.shape
        if isinstance(size, str) and size not in resolved
    }
    if not overrides and all(manifest.dimensions[name].max is not None for name in derived):
        for name in derived:
            limits = manifest.dimensions[name]
            resolved[name] = ProfileSizes(limits.min, limits.opt, limits.max or limits.opt)
    elif derived:
        measured_sizes = _measure(bundle, resolved)
        resolved.update((name, measured_sizes[name]) for name in derived)
    return resolved


def _golden_sizes(bundle: Bundle) -> dict[str, set[int]]:
    """Sizes that the golden samples give to each dimension of the network's inputs."""
    sizes: dict[str, set[int]] = {}
    specs = bundle.manifest.inputs()
    for sample in bundle.samples():
        for name, spec in specs.items():
            for size, declared in zip(sample.inputs[name].shape, spec.shape, strict=True):
                if isinstance(declared, str):
                    sizes.setdefault(declared, set()).add(size)
    return sizes


def _measure(bundle: Bundle, inputs: Mapping[str, ProfileSizes]) -> dict[str, ProfileSizes]:
    """Sizes of the dimensions between stages, from runs on zeros."""
    manifest = bundle.manifest
    stages = manifest.in_order()
    last = max((i for i, s in enumerate(stages) if _new_dimensions(s, inputs)), default=-1)
    domain = SizeDomain({n: manifest.dimensions[n] for n in inputs}, manifest.constraints)
    runs = []
    for at in ("min", "opt", "max"):
        sizes = {name: getattr(limits, at) for name, limits in inputs.items()}
        runs.append(_run(bundle, manifest, stages[: last + 1], domain.near(sizes) or sizes))
    return {
        name: ProfileSizes(*(run[name] for run in runs)) for name in runs[0] if name not in inputs
    }


def _new_dimensions(stage: Stage, dimensions: Mapping[str, ProfileSizes]) -> bool:
    return any(
        isinstance(n, str) and n not in dimensions for spec in stage.outputs for n in spec.shape
    )


def _run(
    bundle: Bundle, manifest: Manifest, stages: tuple[Stage, ...], sizes: Mapping[str, int]
) -> dict[str, int]:
    """Run ``stages`` on zeros; return the size of every dimension of their outputs."""
    # Imports onnx, which the command line does without until it builds.
    from mmedge_export.onnx_graph.runner import Runner

    tensors: dict[str, Array] = {
        name: np.zeros(_shape(spec, sizes), DTYPES[spec.dtype])
        for name, spec in manifest.inputs().items()
    }
    output_sizes: dict[str, int] = {}

    def run(stage: Stage, feeds: Mapping[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in stage.outputs]
        try:
            values = Runner(bundle.file(stage.graph), names)(feeds)
        except ExportError as error:
            shapes = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise BackendError(
                f"stage {stage.name!r} does not run at {shapes}: {error}. "
                "Narrow the profile to sizes that the network takes"
            ) from error
        for spec in stage.outputs:
            pairs = zip(spec.shape, values[spec.name].shape, strict=True)
            output_sizes.update((name, size) for name, size in pairs if isinstance(name, str))
        return values

    StagePlan(stages, {stage.name: partial(run, stage) for stage in stages}).advance(tensors)
    return output_sizes


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
