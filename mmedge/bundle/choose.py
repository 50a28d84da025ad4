"""Which variant of a bundle suits a device, and why each other one does not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from mmedge.errors import InputError
from mmedge.spec import Decision

if TYPE_CHECKING:
    from mmedge.spec import Device, Manifest, PlanName, Variant

__all__ = ["choose", "choose_plan", "is_proven", "restrict", "tuned_threads"]


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
        candidate.id: f"variant {variant} was asked for"
        if variant not in {None, candidate.id}
        else _reject_reason(candidate, device, backend=backend, precision=precision)
        for candidate in manifest.variants
    }
    accepted = [entry for entry in manifest.variants if reasons[entry.id] is None]
    best = min(accepted, key=_rank, default=None)
    decisions = tuple(
        Decision(id_, accepted=reason is None, reason=reason or _accept_reason(id_, best))
        for id_, reason in reasons.items()
    )
    return best, decisions


def choose_plan(
    manifest: Manifest, variant: Variant, device: Device, *, plan: PlanName | None = None
) -> tuple[PlanName, str]:
    """The plan that single calls of a variant run on a device, and why.

    Without a measurement it is ``whole``, the graph as it was exported: each further stage costs
    some 10 us a call, and no backend fuses operators across the cut.

    Args:
        manifest: of the bundle.
        variant: of it.
        device: where it runs.
        plan: the one that was asked for.

    Raises:
        InputError: the variant has no files for the plan.
    """
    names = manifest.plan_names(variant)
    if plan is not None:
        if plan not in names:
            raise InputError(
                f"variant {variant.id} has no plan {plan!r}; it has {' and '.join(names)}"
            )
        return plan, "it was asked for"
    if len(names) == 1:
        return names[0], "the variant has no other"
    if variant.plan is not None and variant.metrics.get("cores") == device.cores:
        return variant.plan, "measured to be faster by mmedge tune"
    return "whole", "the rule for single calls; mmedge tune measures both"


def tuned_threads(variant: Variant, device: Device) -> int | None:
    """Threads that were measured to be fastest, where that says something of this machine."""
    if variant.metrics.get("cores") != device.cores:
        return None
    threads = int(variant.metrics.get("threads", 0))
    return threads if 1 <= threads <= device.cores else None


def is_proven(manifest: Manifest, variant: Variant) -> bool:
    """Whether export has held this very computation against the network."""
    runs_own_graphs = manifest.runs_own_graphs(variant)
    return runs_own_graphs and (variant.backend, variant.target) == ("ort", "cpu")


def restrict(device: Device, target: str | None) -> Device:
    """``device`` as if it offered ``target`` alone; unchanged for None.

    Raises:
        InputError: this machine does not offer it.
    """
    if target is None:
        return device
    if target not in device.targets:
        why = device.missing.get(target)
        raise InputError(
            f"device {target!r} is not here; this machine offers {', '.join(device.targets)}"
            + (f" ({why})" if why else "")
        )
    return replace(device, targets=(target,))


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
    latency_text = f", measured at {latency:.3g} ms" if latency is not None else ""
    return f"chosen: runs on {best.target} in {best.precision}{latency_text}"
