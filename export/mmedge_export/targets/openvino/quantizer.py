"""Quantised variants for OpenVINO on the CPU; see :class:`..registry.Quantizer`.

The schemes are written as for ONNX Runtime, into graphs without functions, which OpenVINO lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge_export.targets.onnxruntime import schemes
from mmedge_export.targets.onnxruntime.quantizer import (
    choose_range,
    least_tolerance,
    open_store,
    write,
    write_switched,
)
from mmedge_export.targets.openvino import SCHEMES
from mmedge_export.targets.openvino.variant import OpenVinoRunner, add_openvino
from mmedge_export.targets.quantizable import every_scheme
from mmedge_export.targets.variants import base_variant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx_ir as ir

    from mmedge.bundle import Bundle
    from mmedge.execution.plan import Run
    from mmedge.spec import Stage, Variant
    from mmedge_export.targets.quantizable import QuantizableNode

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
PACKAGES = ("onnxruntime", "openvino")


def float_variant(bundle: Bundle) -> tuple[Bundle, Variant]:
    """OpenVINO's float32 variant, which is added where there is none."""
    base = base_variant(bundle, "openvino")
    return add_openvino(bundle) if base is None else (bundle, base)


def prepare(source: Path, path: Path) -> ir.Model:
    """Write the graph without functions."""
    return schemes.prepare(source, path, inline=True)


def find_nodes(
    model: ir.Model, precision: str, ranges: Mapping[str, tuple[float, float]] | None
) -> tuple[tuple[QuantizableNode, ...], dict[str, str]]:
    """The nodes with constant weights; ranges rule none of them out."""
    del precision, ranges
    return schemes.find_sites(model, every_scheme(SCHEMES)), {}


def open_graph(path: Path, stage: Stage, *, alone: bool, threads: int | None = None) -> Run:
    """A graph of a stage as the runtime would run it on the CPU."""
    return OpenVinoRunner(path, stage, alone=alone, threads=threads)
