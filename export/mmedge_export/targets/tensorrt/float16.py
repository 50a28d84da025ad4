"""A bundle's stages in float16, checked against the golden samples before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmedge.errors import AccuracyError, BackendError, BundleError, ExportError
from mmedge.execution.plan import StagePlan
from mmedge.spec import Array, Tolerance
from mmedge.tolerance import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import onnx_ir as ir

    from mmedge.bundle import Bundle
    from mmedge.execution.plan import Run
    from mmedge.spec import Stage

__all__ = ["TOLERANCE", "Float16Stage", "prepare", "to_float16"]

#: How far float16 outputs may lie from the golden ones. Float16 has 11 bits: one rounding is 5e-4,
#: and some dozens of layers add theirs up to a few 1e-3; 2e-2 tells that from a mistake.
TOLERANCE = Tolerance(rtol=2e-2, atol=1e-6)


@dataclass(frozen=True, slots=True)
class Float16Stage:
    """One stage in float16: its typed graph, and what stayed float32 and why.

    ``error`` is the largest ``max |got - golden| / max |golden|`` of its outputs over all samples,
    with float16 rounding emulated (:class:`mmedge_export.passes.round_float16.RoundFloat16Pass`).
    """

    file: Path
    nodes: int
    kept: Mapping[str, str]
    error: float


def prepare(model: ir.Model) -> ir.Model:
    """A graph without local functions, with dtypes everywhere and masks that float16 can hold.

    Uint8 inputs are cast before they are moved, as TensorRT needs it.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    from mmedge_export.passes.clamp_masks import ClampMasksPass
    from mmedge_export.passes.widen_uint8 import WidenUint8Pass

    passes = ir.passes.Sequential(
        common.InlinePass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.NameFixPass(),
        common.ShapeInferencePass(strict_mode=False, data_prop=False),
        WidenUint8Pass(),
        ClampMasksPass(),
    )
    return passes(model).model


def to_float16(
    bundle: Bundle, folder: Path, *, progress: Callable[[str], None] | None = None
) -> dict[str, Float16Stage]:
    """Write a typed float16 graph of every stage into ``folder`` and check them all.

    Each stage is run alone on golden tensors, then all of them in a chain.

    Returns:
        stage name -> what was made of it.

    Raises:
        AccuracyError: an output leaves :data:`TOLERANCE`; the message names the stage.
        BackendError: ONNX Runtime is not installed or refuses a graph.
        BundleError: the bundle has no golden samples.
    """
    samples = bundle.samples()
    if not samples:
        raise BundleError(f"{bundle.path}: float16 needs golden samples; export the bundle again")
    tensors = [sample.tensors() for sample in samples]
    stages: dict[str, Float16Stage] = {}
    runs: dict[str, Run] = {}
    for stage in bundle.manifest.in_order():
        if progress is not None:
            progress(f"{stage.name}: float16")
        stages[stage.name], runs[stage.name] = _convert(bundle, stage, tensors, folder)
    float32_nodes = sum(len(stage.kept) for stage in stages.values())
    plan = StagePlan(bundle.manifest.in_order(), runs, bundle.manifest.outputs)
    for sample, golden in zip(samples, tensors, strict=True):
        for name, value in plan.run(sample.inputs).items():
            _check("all stages in a chain", name, value, golden[name], float32_nodes)
    return stages


def _convert(
    bundle: Bundle, stage: Stage, tensors: list[dict[str, Array]], folder: Path
) -> tuple[Float16Stage, Run]:
    """Convert one stage; return it and what computes what it computes."""
    import onnx_ir as ir

    from mmedge_export.onnx_graph.measure_ranges import measure_ranges
    from mmedge_export.passes.cast_float16 import CastFloat16Pass
    from mmedge_export.passes.keep_float32 import keep_float32
    from mmedge_export.passes.round_float16 import RoundFloat16Pass

    model = prepare(ir.load(bundle.file(stage.graph)))
    feeds = [{spec.name: values[spec.name] for spec in stage.inputs} for values in tensors]
    float32_nodes = keep_float32(model, measure_ranges(model, feeds))
    nodes = model.graph.num_nodes()
    typed = CastFloat16Pass(float32_nodes)(model).model
    file = folder / f"{stage.name}.onnx"
    ir.save(typed, file, external_data=f"{file.name}.data")
    _check_types(file, stage)
    rounded = folder / f"{stage.name}.rounded.onnx"
    # Loaded again: the pass rewrites in place.
    ir.save(RoundFloat16Pass()(ir.load(file)).model, rounded, external_data=f"{rounded.name}.data")
    run = _runner(rounded, stage)
    worst = 0.0
    for feed, golden in zip(feeds, tensors, strict=True):
        for name, value in run(feed).items():
            worst = max(
                worst,
                _check(f"stage {stage.name!r}", name, value, golden[name], len(float32_nodes)),
            )
    return Float16Stage(file, nodes, float32_nodes, worst), run


def _check_types(file: Path, stage: Stage) -> None:
    """Types must fit each other; TensorRT adds no casts to a strongly typed graph.

    Not by loading it in ONNX Runtime: 1.32 ends the process while it optimises some float16 graphs.
    """
    import onnx

    try:
        onnx.checker.check_model(file, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BackendError(
            f"stage {stage.name!r}: its float16 graph is not valid: {error}. "
            "Build it with precision fp32"
        ) from error


def _runner(file: Path, stage: Stage) -> Run:
    from mmedge_export.onnx_graph.runner import Runner

    try:
        # The higher levels fuse across the roundings that are to be seen.
        return Runner(file, [spec.name for spec in stage.outputs], optimise="basic")
    except ExportError as error:
        raise BackendError(
            f"stage {stage.name!r}: ONNX Runtime refuses its float16 graph: {error}. "
            "Build it with precision fp32"
        ) from error


def _check(where: str, output: str, value: Array, golden: Array, float32_nodes: int) -> float:
    """Relative error of one output; raise AccuracyError past the tolerance."""
    result = difference(value, golden, TOLERANCE)
    if not result.passes:
        raise AccuracyError(
            f"float16: output {output!r} of {where} {result}, against the golden samples, where "
            f"rtol={TOLERANCE.rtol:g} is allowed; "
            f"{float32_nodes} nodes kept as float32 were not enough. Build with precision fp32"
        )
    return result.max_rel
