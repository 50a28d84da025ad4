"""A bundle's stages in int8 or fp8, calibrated and measured on its golden samples.

Without a task to judge by, products that float16 cannot hold are not tried in 8 bits. With the
spectrum before the logarithm in int8, the audio encoder of the reference network was off by 65 % of
its largest output, without it by 9 %. The products of attention, in the same network, cost nothing
that stands out: 1.9 % of the largest answer with them in int8, 1.2 % without.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmedge.errors import AccuracyError, BundleError, ExportError
from mmedge.execution.plan import StagePlan
from mmedge.spec import Tolerance
from mmedge.tolerance import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir

    from mmedge.bundle import Bundle
    from mmedge.spec import Array, Sample, Stage
    from mmedge_export.calibration.observed import Observed
    from mmedge_export.onnx_graph.graph import Runner
    from mmedge_export.targets.tensorrt.quantize import Precision, QdqStage

__all__ = ["emulate", "to_qdq", "tolerance_of"]

#: An engine may round a tie the other way and sum in another order than the emulation did.
MARGIN = 1.5

#: The least relative and absolute tolerance of a variant: what float32 engines are held to, and
#: what an output that is all zeros may hold.
LEAST = Tolerance(rtol=1e-3, atol=1e-6)


def to_qdq(
    bundle: Bundle,
    folder: Path,
    *,
    precision: Precision,
    progress: Callable[[str], None] | None = None,
) -> dict[str, QdqStage]:
    """Write a Q/DQ graph of every stage into ``folder``, and measure what it costs.

    Ranges come from the golden samples as they are: with so few, none can do without some of its
    modalities. Products that :func:`mmedge_export.passes.keep_float32.keep_float32` finds stay
    float32. The graphs then run in ONNX Runtime on the same samples, each alone on golden tensors
    and all in a chain, with every quantisation computed as the graph says it and products in
    float32.

    Returns:
        stage name -> what was made of it.

    Raises:
        AccuracyError: an integer output differs, or a float output so much that an output of zeros
            would lie within the tolerance.
        BackendError: ONNX Runtime is not installed.
        BundleError: the bundle has no golden samples.
        ExportError: nothing can be quantised, or ONNX Runtime refuses a graph.
    """
    import onnx_ir as ir

    from mmedge_export.calibration.calibrate import calibrate
    from mmedge_export.targets.tensorrt.quantize import activations, prepare, write_qdq

    samples = bundle.samples()
    if not samples:
        raise BundleError(f"{bundle.path}: {precision} needs golden samples; export it again")
    tell = progress or (lambda _: None)
    plain: dict[str, Path] = {}
    keep: dict[str, dict[str, str]] = {}
    tensors: dict[str, tuple[str, ...]] = {}
    for stage in bundle.manifest.in_order():
        model = prepare(bundle.file(stage.graph))
        keep[stage.name] = _fragile(model, stage, samples)
        tensors[stage.name] = activations(model, precision=precision, keep=keep[stage.name])
        file = plain[stage.name] = folder / f"{stage.name}.float.onnx"
        ir.save(model, file, external_data=f"{file.name}.data")
    tell(f"{precision}: calibration on {len(samples)} golden samples")
    observed = calibrate(
        bundle, (sample.inputs for sample in samples), plain, tensors, absent_share=0.0
    )
    made: dict[str, QdqStage] = {}
    for name, file in plain.items():
        ranges = {
            tensor: _range(found, precision)
            for tensor, found in observed[name].items()
            if found.histogram.counts.any()  # else nothing but zeros was seen
        }
        made[name] = write_qdq(
            file, folder / f"{name}.onnx", ranges, precision=precision, keep=keep[name]
        )
        count = len(made[name].quantized)
        tell(f"{name}: {count} of {count + len(made[name].kept)} products in {precision}")
    if not any(stage.quantized for stage in made.values()):
        raise ExportError(
            f"{bundle.path}: no product of any stage can be computed in {precision}; build it with "
            "precision fp16"
        )
    errors = _errors(bundle, {name: stage.file for name, stage in made.items()}, precision)
    return {name: replace(stage, error=errors[name]) for name, stage in made.items()}


def tolerance_of(error: float) -> Tolerance:
    """What a variant may differ by from the golden samples, by the relative error emulated."""
    return Tolerance(rtol=max(MARGIN * error, LEAST.rtol), atol=LEAST.atol)


def _fragile(model: ir.Model, stage: Stage, samples: Sequence[Sample]) -> dict[str, str]:
    """Nodes that even float16 cannot hold, and why."""
    from mmedge_export.onnx_graph.measure_ranges import measure_ranges
    from mmedge_export.passes.keep_float32 import keep_float32

    tensors = [{**sample.inputs, **sample.outputs} for sample in samples]
    feeds = [{spec.name: values[spec.name] for spec in stage.inputs} for values in tensors]
    return keep_float32(model, measure_ranges(model, feeds))


def _range(observed: Observed, precision: Precision) -> tuple[float, float]:
    """The range with the least error for int8; all that was seen for fp8.

    The steps of fp8 grow with the values: cutting off large ones makes small ones hardly finer.
    """
    if precision == "fp8":
        return observed.histogram.min, observed.histogram.max
    chosen = observed.range(levels=256, symmetric=True)
    return chosen.low, chosen.high


def _errors(bundle: Bundle, files: Mapping[str, Path], precision: Precision) -> dict[str, float]:
    """Largest relative error of each stage's outputs, alone on golden tensors and in the chain."""
    manifest = bundle.manifest
    runs = {name: emulate(file) for name, file in files.items()}
    plan = StagePlan(manifest.in_order(), runs, manifest.outputs)
    worst = dict.fromkeys(files, 0.0)
    golden: dict[str, Array] = {}

    def compare(stage: Stage, outputs: Mapping[str, Array]) -> None:
        for name, value in outputs.items():
            error = _relative(value, golden[name])
            if not MARGIN * error < 1.0:  # NaN too
                raise AccuracyError(
                    f"{precision}: output {name!r} of stage {stage.name!r} differs from the golden "
                    f"samples by {error:.3g} of its largest value, so that no tolerance could "
                    "tell it from a wrong result. Build with precision fp16, or keep what the "
                    "task needs in float32: mmedge quantize"
                )
            worst[stage.name] = max(worst[stage.name], error)

    def compare_answers(
        stage: Stage, _feeds: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        # A feature between stages is held to the golden one by the stage alone.
        compare(stage, {n: v for n, v in outputs.items() if n in manifest.outputs})

    for sample in bundle.samples():
        golden = {**sample.inputs, **sample.outputs}
        for stage, outputs in plan.alone(golden):
            compare(stage, outputs)
        plan.run(sample.inputs, after=compare_answers)
    return worst


def emulate(file: Path) -> Runner:
    """A Q/DQ graph in ONNX Runtime, with every node computed as ONNX defines it.

    Its fusions of Q/DQ with what lies between are off: integer kernels of some processors cut sums
    off, as no GPU does, and ONNX Runtime 1.32 gets fp8 wrong in them.

    Raises:
        ExportError: ONNX Runtime does not load the file.
    """
    import onnxruntime as ort

    from mmedge_export.onnx_graph.graph import Runner

    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return Runner(file, options=options)


def _relative(got: Array, golden: Array) -> float:
    """Difference as a share of the scale; 0 where the least absolute tolerance covers it."""
    found = difference(got, golden, LEAST)
    return 0.0 if found.max_abs <= LEAST.atol else found.max_rel
