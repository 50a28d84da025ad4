"""The plan ``whole`` of a quantised variant: the graphs of its stages, merged.

What each node computes in was decided on the stages; it is not decided again.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge.bundle.load import ENGINE_BACKENDS
from mmedge.errors import ExportError, MMEdgeError
from mmedge.execution.verify import verify
from mmedge.loader import load
from mmedge_export.onnx_graph.merge import merge

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmedge.bundle import Bundle
    from mmedge.spec import Variant

__all__ = ["add_variant"]

#: What the evidence for the merged graph leaves open.
_OPEN = "the plan 'whole': held against the golden samples; metric and speed are those of 'cut'"


def add_variant(
    bundle: Bundle, variant: Variant, files: Mapping[str, bytes | Path], folder: Path
) -> tuple[Bundle, Variant, str | None]:
    """Add a variant of the plan ``cut``, with ``whole`` where the bundle has that plan.

    Engines have ``cut`` alone: one of the whole network would hold all weights once more.

    Args:
        bundle: open; it is closed.
        variant: with a file for each stage of the cut.
        files: what it brings, by path in the bundle.
        folder: for the merged graph.

    Returns:
        The new bundle, open; the variant as it was added; and why ``whole`` was left out, if it
        was.
    """
    manifest = bundle.manifest
    if not manifest.has_both_plans():
        return bundle.with_variant(variant, files), variant, None
    stages = manifest.in_order("cut")
    variant = replace(variant, files={stage.name: variant.files[stage.name] for stage in stages})
    if variant.backend in ENGINE_BACKENDS:
        return bundle.with_variant(variant, files), variant, None
    (whole_stage,) = manifest.in_order("whole")
    name = f"{posixpath.dirname(whole_stage.graph)}/{variant.id}.onnx"
    graphs = {stage: (_path(file, files, bundle), file) for stage, file in variant.files.items()}
    try:
        inputs, outputs = (
            [spec.name for spec in specs] for specs in (whole_stage.inputs, whole_stage.outputs)
        )
        model = merge(stages, graphs, inputs, outputs, posixpath.dirname(name))
    except ExportError as error:
        return bundle.with_variant(variant, files), variant, f"no plan 'whole': {error}"
    path = folder / "merged.onnx"
    ir.save(model, path)
    variant_of_both = replace(
        variant,
        files={**variant.files, whole_stage.name: name},
        not_checked=(*variant.not_checked, _OPEN),
    )
    bundle = bundle.with_variant(variant_of_both, {**files, name: path})
    if not manifest.samples:
        return bundle, variant_of_both, None
    try:
        with load(bundle, variant.id, plan="whole", allow_unverified=True) as pipe:
            verify(pipe).check()
    except MMEdgeError as error:
        return bundle.with_variant(variant, {}), variant, f"no plan 'whole': {error}"
    return bundle, variant_of_both, None


def _path(name: str, files: Mapping[str, bytes | Path], bundle: Bundle) -> Path:
    path = files.get(name)
    return bundle.file(name) if path is None or isinstance(path, bytes) else path
