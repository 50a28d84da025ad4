"""The variant of a bundle that others are made from and compared with: float32 on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from mmedge.bundle import Bundle
    from mmedge.spec import Manifest, Variant

__all__ = ["base_variant", "check_runs_once"]


def check_runs_once(manifest: Manifest, action: str) -> None:
    """Raise ExportError where a stage has state or is run in a loop: there ``action`` would lie.

    Samples do not say what such a stage takes in its later runs, and no metric judges its outputs.

    Args:
        manifest: of the bundle.
        action: what was asked for, as the message begins.
    """
    if manifest.loops or manifest.states:
        names = sorted({*(s.stage for s in manifest.states), *(p.stage for p in manifest.loops)})
        raise ExportError(
            f"{action}: stage {', '.join(map(repr, names))} of {manifest.name!r} runs step by step "
            "on what it gave before; expected a network that runs once. This version of mmedge "
            "runs such a bundle as it was exported"
        )


def base_variant(bundle: Bundle, backend: str) -> Variant | None:
    """The variant on the CPU in which a backend runs the bundle's own graphs; None if none is.

    Raises:
        ExportError: it is not float32.
    """
    for variant in bundle.manifest.variants:
        if (variant.backend, variant.target, variant.cache) != (backend, "cpu", "growing"):
            continue
        if variant.precision == "fp32":
            return variant
        if bundle.manifest.runs_own_graphs(variant):
            raise ExportError(
                f"the bundle's graphs are {variant.precision}; float32 is needed: export it again"
            )
    return None
