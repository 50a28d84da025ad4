"""One run of a network, which a graph is held against, and what to do about a small difference."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array, Tolerance
    from mmedge.tolerance import Difference

__all__ = ["ParityCase", "allow_more"]

#: A difference up to this share of the scale may be rounding that adds up. A graph that computes
#: something else is mostly further off.
_NEAR = 1e-2


@dataclass(frozen=True)
class ParityCase:
    """Inputs, the network's own outputs for them, and what to call them in a message."""

    what: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def allow_more(deviation: Difference, tolerance: Tolerance) -> str:
    """The tolerance that allows ``deviation``, as an option; empty where it is no rounding."""
    if deviation.reason or not 0 < deviation.max_rel <= _NEAR:
        return ""
    rtol = 10.0 ** ceil(log10(deviation.max_rel))
    return (
        f"that is {deviation.limit_used:.3g} times what the tolerance allows "
        f"(rtol={tolerance.rtol:g}, atol={tolerance.atol:g}), and may be rounding. If so much is "
        f"right for this network, allow it: --rtol {rtol:g}, or rtol={rtol:g} of export()"
    )
