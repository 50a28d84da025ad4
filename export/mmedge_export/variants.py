"""The variants of a bundle that run on the CPU: the float32 one, and how fast each is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.bench.apart import time_apart
from mmedge.device import probe
from mmedge.errors import ExportError

if TYPE_CHECKING:
    from mmedge.bundle import Bundle
    from mmedge.spec import Variant

__all__ = ["BACKENDS", "base_variant", "time_variants"]

#: Backends that run ONNX graphs on the CPU.
BACKENDS = ("ort", "openvino")


def base_variant(bundle: Bundle, backend: str) -> Variant | None:
    """The variant on the CPU in which a backend runs the bundle's own graphs; None if none is.

    Raises:
        ExportError: it is not float32.
    """
    own = {stage.name: stage.graph for stage in bundle.manifest.stages}
    for variant in bundle.manifest.variants:
        if (variant.backend, variant.target) != (backend, "cpu"):
            continue
        if variant.precision == "fp32":
            return variant
        if variant.files == own:
            raise ExportError(
                f"the bundle's graphs are {variant.precision}; float32 is needed: export it again"
            )
    return None


def time_variants(bundle: Bundle, *, threads: int | None = None) -> tuple[Bundle, dict[str, float]]:
    """Time all variants that this CPU runs and write that into the manifest.

    What :meth:`mmedge.bundle.Bundle.select` goes by was thus measured in one go, each variant in
    processes of its own (:mod:`mmedge.bench.apart`), on the golden samples.

    Args:
        bundle: open; it is closed.
        threads: most threads of a stage; None: the default.

    Returns:
        The new bundle, open, and the milliseconds of a call by the variant's id.

    Raises:
        BackendError: a variant does not run after all.
    """
    device = probe()
    runnable = [
        variant
        for variant in bundle.manifest.variants
        if variant.target == "cpu" and variant.reject_reason(device) is None
    ]
    found = time_apart(str(bundle.path), runnable, threads=threads)
    return bundle.with_metrics({name: {"latency_ms": ms} for name, ms in found.items()}), found
