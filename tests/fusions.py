"""Fusion networks for tests of the cut, with the work of each stage counted by hand.

Each function of :data:`FUSIONS` gives a small seeded network in a :class:`mmedge_export.Model`;
:data:`EXPECTED` says what the stages of its cut hold. The formulas are written from the layers'
sizes: they share no code with what counts operations in graphs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import fusions_attention
import fusions_features
from fusion_parts import Expected

from mmedge_export import Model
from mmedge_export.capture.captured_graph import CapturedGraph
from mmedge_export.capture.network import evaluation
from mmedge_export.capture.trace import trace

__all__ = ["EXPECTED", "FUSIONS", "Expected", "traced"]

EXPECTED: dict[str, Expected] = fusions_attention.EXPECTED | fusions_features.EXPECTED

FUSIONS: dict[str, Callable[[], Model]] = {
    name: getattr(made, name)
    for made in (fusions_attention, fusions_features)
    for name in made.EXPECTED
}


@functools.cache
def traced(name: str) -> tuple[Model, CapturedGraph]:
    """A network of :data:`FUSIONS` and its graph; tests that share them change neither."""
    model = FUSIONS[name]()
    with evaluation(model.module):
        return model, trace(model)
