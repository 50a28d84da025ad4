"""Quantised variants for ONNX Runtime on the CPU; see :class:`..registry.Quantizer`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge import native
from mmedge.backends import SessionOptions
from mmedge.backends.onnxruntime.session import kernel_library, session_options
from mmedge.errors import ExportError, InputError
from mmedge_export.onnx_graph.graph import save
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.targets.graph_edits import untype
from mmedge_export.targets.onnxruntime import SCHEMES
from mmedge_export.targets.onnxruntime.schemes import find_sites, prepare, write_form
from mmedge_export.targets.onnxruntime.sensitivity import write_switched
from mmedge_export.targets.quantizable import every_scheme
from mmedge_export.targets.variants import base_variant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mmedge.bundle import Bundle
    from mmedge.execution.plan import Run
    from mmedge.spec import Stage, Tolerance, Variant
    from mmedge_export.calibration.observed import Observed
    from mmedge_export.targets.quantizable import QuantizableNode
    from mmedge_export.targets.registry import Store
    from mmedge_export.targets.tensorrt import EngineOptions

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

NOT_TIMED = ""
NOT_CHECKED = ()
SWITCHED = "ort"
PACKAGES = ("onnxruntime",)

write = write_form


def float_variant(bundle: Bundle) -> tuple[Bundle, Variant]:
    """The bundle's own graphs."""
    base = base_variant(bundle, "ort")
    if base is None:
        raise ExportError(
            f"{bundle.path}: no variant of ONNX Runtime on the CPU; export the network again"
        )
    return bundle, base


def find_nodes(
    model: ir.Model, precision: str, ranges: Mapping[str, tuple[float, float]] | None
) -> tuple[tuple[QuantizableNode, ...], dict[str, str]]:
    """The nodes with constant weights; ranges rule none of them out."""
    del precision, ranges  # what stays float is told of nodes that another precision could take too
    return find_sites(model, every_scheme(SCHEMES)), {}


def choose_range(observed: Observed, precision: str) -> tuple[float, float]:
    """The range of uint8 with the least error, whatever the precision of the weights."""
    del precision
    limits = observed.range(levels=256)
    return limits.low, limits.high


def open_graph(path: Path, stage: Stage, *, alone: bool, threads: int | None = None) -> Run:
    """A graph of a stage as the runtime would run it on the CPU."""
    import onnx

    settings = session_options(stage, alone=alone, threads=threads)
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    functions = onnx.load(path, load_external_data=False).functions
    if any(function.domain == native.DOMAIN for function in functions):
        library, _ = kernel_library("cpu", SessionOptions())
        if library is not None:
            settings.register_custom_ops_library(str(library))
    return Runner(path, None, settings)


def least_tolerance(base: Variant) -> Tolerance:
    """What the float32 variant is held to."""
    return base.tolerance


def open_store(
    bundle: Bundle, backend: str, precision: str, engines: EngineOptions | None
) -> Store:
    """What puts the graphs into the bundle as they are."""
    del bundle, precision
    if engines is not None:
        raise InputError(
            f"GPUs, sizes and a workspace are for engines; {backend} runs graphs on the CPU"
        )
    return _store


def _store(
    bundle: Bundle,
    variant: Variant,
    graphs: Mapping[str, Path],
    folder: Path,
    tell: Callable[[str], None],
) -> list[tuple[Variant, dict[str, Path]]]:
    del bundle, tell
    models = {name: ir.load(path) for name, path in graphs.items()}
    for model in models.values():
        untype(model.graph)
    _share_tensors(models)
    place = f"onnx/{variant.id}"
    paths = {name: f"{place}/{name}.onnx" for name in models}
    variant = replace(variant, files={**variant.files, **paths})
    return [(variant, save(models, folder, place=place))]


def _share_tensors(models: Mapping[str, ir.Model]) -> None:
    """Let the graphs hold equal tensors once, so that they are written once."""
    tensors: dict[tuple[str, tuple[int, ...], bytes], ir.TensorProtocol] = {}
    for model in models.values():
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None:
                array = tensor.numpy()
                key = (tensor.dtype.name, array.shape, array.tobytes())
                value.const_value = tensors.setdefault(key, tensor)
