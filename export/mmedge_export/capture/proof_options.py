"""How a network is held against its graph, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmedge.spec import Tolerance

__all__ = ["ProofOptions", "Tell"]

Tell = Callable[[str], None]


@dataclass(frozen=True)
class ProofOptions:
    """How a network is held against its graph.

    ``samples`` golden samples are taken; ``tell`` is called with a line before each step, ``leave``
    with a line on what is not checked. With ``few_batches`` samples after the golden ones
    are not taken at another batch size. The others are those of
    :func:`mmedge_export.export_bundle.export`.
    """

    tolerance: Tolerance
    samples: int
    tell: Tell
    leave: Tell
    opset: int | None = None
    allow_nan: bool = False
    few_batches: bool = False
