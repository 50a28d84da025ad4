"""What the search for lower precision handles: nodes, the schemes that they may take, switches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mmedge.spec import Array

__all__ = [
    "SWITCH",
    "QuantizableNode",
    "QuantizationScheme",
    "Scheme",
    "every_scheme",
    "switches",
]

#: Name of a scheme, which the target that has it explains; ``float`` is float32.
QuantizationScheme = str

#: What a graph with switches calls their inputs: this and a number.
SWITCH = "mmedge_switch_"


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way to write nodes in lower precision.

    Attributes:
        name: of it.
        operators: whose nodes can take it.
    """

    name: QuantizationScheme
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QuantizableNode:
    """A node whose weights can be quantised, or, where there are none, what it multiplies.

    ``activation`` and ``output`` name its tensors (a Gather's indices and rows), ``weight`` its
    constant, of ``size`` numbers; it is empty where the node multiplies two activations. ``forms``
    are those that it can take beside ``float``, ``ranged`` the tensors whose ranges they round by.
    """

    node: str
    op: str
    activation: str
    weight: str
    output: str
    size: int
    forms: tuple[QuantizationScheme, ...]
    ranged: tuple[str, ...] = ()


def every_scheme(schemes: Mapping[str, Sequence[Scheme]]) -> tuple[Scheme, ...]:
    """The schemes of all precisions of a target, each once."""
    return tuple(dict.fromkeys(scheme for some in schemes.values() for scheme in some))


def switches(nodes: Sequence[QuantizableNode], on: Collection[str]) -> Mapping[str, Array]:
    """The inputs that turn the nodes of ``on`` on, and all others off."""
    return {f"{SWITCH}{number}": np.array(node.node in on) for number, node in enumerate(nodes)}
