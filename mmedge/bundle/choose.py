"""Which variant of a bundle suits a device, and why each other one does not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mmedge.spec import Decision

if TYPE_CHECKING:
    from mmedge.spec import Device, Manifest, Variant

__all__ = ["choose"]


def choose(
    manifest: Manifest,
    device: Device,
    *,
    variant: str | None = None,
    backend: str = "auto",
    precision: str | None = None,
) -> tuple[Variant | None, tuple[Decision, ...]]:
    """The preferred variant that can run, if any does, and a decision on each in manifest order.

    The order of preference is documented at :meth:`mmedge.bundle.Bundle.select`.
    """
    reasons = {
        one.id: f"variant {variant} was asked for"
        if variant not in {None, one.id}
        else _reject_reason(one, device, backend=backend, precision=precision)
        for one in manifest.variants
    }
    accepted = [one for one in manifest.variants if reasons[one.id] is None]
    best = min(accepted, key=_rank, default=None)
    decisions = tuple(
        Decision(id_, accepted=reason is None, reason=reason or _accept_reason(id_, best))
        for id_, reason in reasons.items()
    )
    return best, decisions


def _reject_reason(
    variant: Variant, device: Device, *, backend: str, precision: str | None
) -> str | None:
    if backend not in {"auto", variant.backend}:
        return f"backend {backend} was asked for, this one is {variant.backend}"
    if precision not in {None, variant.precision}:
        return f"precision {precision} was asked for, this one is {variant.precision}"
    return variant.reject_reason(device)


def _rank(variant: Variant) -> tuple[int, float, bool]:
    """Smaller is better; equals keep the manifest's order."""
    place = {"cpu": 2, "cuda": 1}.get(variant.target, 0)  # any other target is an engine's
    return place, variant.metrics.get("latency_ms", math.inf), variant.precision != "fp32"


def _accept_reason(id_: str, best: Variant | None) -> str:
    if best is None or id_ != best.id:
        return f"can run here; {best.id if best else 'another'} is preferred"
    latency = best.metrics.get("latency_ms")
    measured = f", measured at {latency:.3g} ms" if latency is not None else ""
    return f"chosen: runs on {best.target} in {best.precision}{measured}"
