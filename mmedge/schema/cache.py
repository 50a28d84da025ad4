"""Rules on a variant that writes the states of a loop in place.

A bundle without one never loads this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.loop_spec import CACHE_LAST, CACHE_TOTAL
from mmedge.schema.read import Misfit

if TYPE_CHECKING:
    from mmedge.spec import Manifest

__all__ = ["check_cache"]


def check_cache(manifest: Manifest, where: str) -> None:
    """Raise Misfit unless a variant can take the states that grow in buffers that it writes to."""
    loop = manifest.loop
    if loop is None:
        raise Misfit(where, "growing, since there is no loop", "in_place")
    if loop.kind != "generate":
        raise Misfit(where, "growing, since no loop generates tokens", "in_place")
    stage = next(s for s in manifest.stages if s.name == loop.stage)
    states = [s for s in manifest.states if s.stage == stage.name and s.axis is not None]
    if not states:
        raise Misfit(where, f"growing, since no state of {stage.name!r} grows", "in_place")
    specs = {spec.name: spec for spec in stage.inputs}
    for state in states:
        spec = specs[state.input]
        fixed = [isinstance(size, int) for size in spec.shape]
        if state.axis != 2 or fixed[1:] != [True, False, True] or spec.dtype[:5] != "float":
            expected = "growing, or states [batch, heads, length, size] of floats"
            raise Misfit(where, expected, f"in_place with {spec} that grows along {state.axis}")
    for name in (CACHE_LAST, CACHE_TOTAL):
        if name in specs:
            raise Misfit(where, f"growing, or no input {name!r} of the stage", "in_place")
