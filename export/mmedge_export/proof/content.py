"""What an export found out, on its way into a bundle."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmedge.loop_spec import DenoiseLoop, GenerateLoop, StateSpec
    from mmedge.spec import Array, Constraint, Cut, Dimension, Plan, Range, Sample, Stage
    from mmedge_export.model import Model
    from mmedge_export.onnx_graph.graph import Graph

__all__ = ["BundleContent", "manifest_name", "tokenizer_path"]


def manifest_name(text: str) -> str:
    """``text`` as a manifest's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:64] or "network"


def tokenizer_path(modality: str) -> str:
    """Where the tokenizer of a modality lies in a bundle."""
    return f"assets/{manifest_name(modality)}.tokenizer.json"


@dataclass(frozen=True)
class BundleContent:
    """Everything of a bundle that follows from its networks, as the manifest calls it.

    Attributes:
        model: what the bundle is made of; of an ONNX file with the sizes that it takes.
        graphs: as they were captured; what was traced from torch comes first.
        output_names: of the network.
        outputs: its outputs for the example, those that have labels among them.
        worst: the largest relative difference from the network; None: files are their own
            reference.
        assets: further files by path in the bundle.
    """

    model: Model
    graphs: tuple[Graph, ...]
    stages: tuple[Stage, ...]
    files: Mapping[str, Path]
    dimensions: Mapping[str, Dimension]
    cut: Cut
    plans: tuple[Plan, ...]
    samples: tuple[Sample, ...]
    output_names: tuple[str, ...]
    outputs: Mapping[str, Array]
    constraints: tuple[Constraint, ...]
    ranges: Mapping[str, Range]
    worst: float | None
    states: tuple[StateSpec, ...] = ()
    loops: tuple[GenerateLoop | DenoiseLoop, ...] = ()
    first_states: Mapping[str, Array] = field(default_factory=dict)
    unconditional: Mapping[str, Array] = field(default_factory=dict)
    assets: Mapping[str, Path] = field(default_factory=dict)
