"""Quantised engines of TensorRT and TensorRT-RTX; see :class:`..registry.Quantizer`.

An engine runs on its GPU alone, and it may be built on a machine without one. So what is judged is
the Q/DQ graph that it is built from, in ONNX Runtime on the CPU: every quantisation is computed as
the graph says it, products in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.errors import ExportError, InputError
from mmedge.spec import Tolerance
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.open_questions import NOT_RUN
from mmedge_export.targets.tensorrt import EngineOptions
from mmedge_export.targets.tensorrt.engine import (
    FP32_TOLERANCE,
    EngineSource,
    build_variant,
    float_source,
)
from mmedge_export.targets.tensorrt.engine_builder import EngineBuilder
from mmedge_export.targets.tensorrt.profiles import resolve_profiles
from mmedge_export.targets.tensorrt.qdq import (
    SCHEME_PRECISIONS,
    find_nodes,
    prepare,
    write_qdq,
    write_switched,
)
from mmedge_export.targets.variants import base_variant

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from mmedge.bundle import Bundle
    from mmedge.execution.plan import Run
    from mmedge.spec import Stage, Variant
    from mmedge_export.calibration.observed import Observed
    from mmedge_export.targets.quantizable import QuantizationScheme
    from mmedge_export.targets.registry import Store

__all__ = [
    "NOT_CHECKED",
    "NOT_TIMED",
    "PACKAGES",
    "SWITCHED",
    "choose_range",
    "find_nodes",
    "float_variant",
    "least_tolerance",
    "open_graph",
    "open_store",
    "prepare",
    "write",
    "write_switched",
]

NOT_TIMED = "an engine runs on its GPU alone"
NOT_CHECKED = (
    NOT_RUN,
    "the engine itself: its Q/DQ graph was judged, in ONNX Runtime on the CPU",
    f"speed: {NOT_TIMED}",
)
SWITCHED = "tensorrt"
PACKAGES = ("onnxruntime",)

#: The first architecture with fp8 (E4M3) products, Ada.
FP8_SM = 89


def float_variant(bundle: Bundle) -> tuple[Bundle, Variant]:
    """The bundle's own graphs, which ONNX Runtime runs on the CPU."""
    base = base_variant(bundle, "ort")
    if base is None:
        raise ExportError(f"{bundle.path}: it has no float32 graphs; export the network again")
    return bundle, base


def choose_range(observed: Observed, precision: str) -> tuple[float, float] | None:
    """The range with the least error for int8, all that was seen for fp8; None of zeros alone.

    The steps of fp8 grow with the values: cutting off large ones makes small ones hardly finer.
    """
    if not observed.histogram.counts.any():
        return None
    if precision == "fp8":
        return observed.histogram.min, observed.histogram.max
    limits = observed.range(levels=256, symmetric=True)
    return limits.low, limits.high


def write(
    source: Path,
    path: Path,
    plan: Mapping[str, QuantizationScheme],
    ranges: Mapping[str, tuple[float, float]],
    *,
    reduce_range: Collection[str] = (),
) -> None:
    """Write a prepared graph with the products of ``plan`` in 8 bits.

    Sums are of 32 bits on every GPU: ``reduce_range`` is of no use.
    """
    del reduce_range
    precision = SCHEME_PRECISIONS[next(iter(plan.values()))]
    write_qdq(source, path, plan.keys(), ranges, precision=precision)


def open_graph(path: Path, stage: Stage, *, alone: bool, threads: int | None = None) -> Run:
    """A graph in ONNX Runtime, with every node computed as ONNX defines it.

    Its fusions of Q/DQ with what lies between are off: integer kernels of some processors cut sums
    off, as no GPU does, and ONNX Runtime 1.32 gets fp8 wrong in them.
    """
    del stage, alone
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return Runner(path, options=options, optimise="basic")


def least_tolerance(base: Variant) -> Tolerance:
    """What a float32 engine is held to, and at least what the float32 graphs are."""
    limits = base.tolerance, FP32_TOLERANCE
    return Tolerance(max(one.rtol for one in limits), max(one.atol for one in limits))


def open_store(
    bundle: Bundle, backend: str, precision: str, engines: EngineOptions | None
) -> Store:
    """What builds the engines, after loading the library and resolving GPUs and sizes."""
    options = engines or EngineOptions()
    builders = [
        EngineBuilder(backend, target, workspace=options.workspace)
        for target in dict.fromkeys(options.targets)
    ]
    if precision == "fp8":
        _refuse_fp8(builders)
    sizes = resolve_profiles(bundle, options.profile)

    def store(
        bundle: Bundle,
        variant: Variant,
        graphs: Mapping[str, Path],
        folder: Path,
        tell: Callable[[str], None],
    ) -> list[tuple[Variant, dict[str, Path]]]:
        sources = {
            stage.name: EngineSource(graphs[stage.name])
            if stage.name in graphs
            else float_source(bundle, stage, folder)
            for stage in bundle.manifest.in_order()
        }
        return [
            build_variant(bundle, builder, variant, sources, sizes, folder, tell)
            for builder in builders
        ]

    return store


def _refuse_fp8(builders: Collection[EngineBuilder]) -> None:
    """Refuse GPUs without fp8 before anything is calibrated."""
    for builder in builders:
        if int(builder.target.removeprefix("sm_")) < FP8_SM:
            raise InputError(
                f"precision fp8 for {builder.target}: products in fp8 (E4M3) need sm_{FP8_SM} or "
                "later; quantize to int8, or build it with precision fp16"
            )
