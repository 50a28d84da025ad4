"""The variant of a bundle that others are made from and compared with: float32 on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from mmedge.bundle import Bundle
    from mmedge.spec import Variant

__all__ = ["base_variant"]


def base_variant(bundle: Bundle, backend: str) -> Variant | None:
    """The variant on the CPU in which a backend runs the bundle's own graphs; None if none is.

    Raises:
        ExportError: it is not float32.
    """
    for variant in bundle.manifest.variants:
        if (variant.backend, variant.target) != (backend, "cpu"):
            continue
        if variant.precision == "fp32":
            return variant
        if bundle.manifest.runs_own_graphs(variant):
            raise ExportError(
                f"the bundle's graphs are {variant.precision}; float32 is needed: export it again"
            )
    return None
