"""One run of a network, which a graph is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array

__all__ = ["ParityCase"]


@dataclass(frozen=True)
class ParityCase:
    """Inputs, the network's own outputs for them, and what to call them in a message."""

    what: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
