"""One stage on its way to lower precision: its graph, what may be quantised, and how it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge_export.passes.smooth_outliers import SmoothOutliersPass
from mmedge_export.quantize.graph_edits import save_graph
from mmedge_export.quantize.schemes import RANGED, find_sites, prepare, write_form

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mmedge.spec import Stage
    from mmedge_export.quantize.schemes import QuantizableNode, QuantizationScheme

__all__ = ["StageWork", "quantised", "quantised_forms"]

#: A channel of an activation that is so many times larger than the median one is an outlier. Less
#: costs 8 bits little: the median channel keeps 16 of 256 steps or more.
OUTLYING = 16.0

Plan = dict[str, "QuantizationScheme"]


@dataclass
class StageWork:
    """A stage and the choices that were made of it.

    Attributes:
        stage: as the manifest has it.
        prepared: its float graph, from :func:`mmedge_export.quantize.schemes.prepare`.
        sites: the nodes that may be quantised.
        folder: where graphs are written.
        ranges: of activations, by tensor.
        narrow: nodes with weights of 7 bits.
        plan: the form of every site.
        speed: of every site and form how many times as fast as in float32 it is by itself.
        why: of sites that stay float, the reason.
        backend: that runs it.
    """

    stage: Stage
    prepared: Path
    sites: tuple[QuantizableNode, ...]
    folder: Path
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    narrow: frozenset[str] = frozenset()
    plan: Plan = field(default_factory=dict)
    speed: dict[str, dict[QuantizationScheme, float]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    backend: str = "ort"

    @classmethod
    def start(cls, stage: Stage, graph: Path, folder: Path, backend: str = "ort") -> StageWork:
        """Prepare the graph of ``stage`` in ``folder``; nothing is quantised yet."""
        folder.mkdir(parents=True, exist_ok=True)
        prepared = folder / f"{stage.name}.onnx"
        # OpenVINO knows no functions.
        sites = find_sites(prepare(graph, prepared, inline=backend == "openvino"))
        plan: Plan = {site.node: "float" for site in sites}
        return cls(stage, prepared, sites, folder, plan=plan, backend=backend)

    def smooth(self, channel_max: Mapping[str, NDArray[np.float32]]) -> list[str]:
        """Move outlying channels into weights, where that is free; names of the activations.

        Args:
            channel_max: of activations, the largest magnitude by index of the last axis.
        """
        taken = {site.activation for site in self.sites if site.op == "MatMul"}
        outlying = {
            name: largest
            for name, largest in channel_max.items()
            if name in taken and np.isfinite(largest).all() and _spread(largest) >= OUTLYING
        }
        if not outlying:
            return []
        smoother = SmoothOutliersPass(outlying)
        model = ir.load(self.prepared)
        if not smoother(model).modified:
            return []
        target = self.folder / f"{self.stage.name}.smoothed.onnx"
        save_graph(model, target)
        self.prepared = target
        self.sites = find_sites(ir.load(target))
        return [done.tensor for done in smoother.smoothed]

    def tensors(self) -> list[str]:
        """Tensors whose ranges the static form needs."""
        ranged = (site for site in self.sites if set(site.forms).intersection(RANGED))
        return list(dict.fromkeys(n for site in ranged for n in (site.activation, site.output)))

    def graph(self, plan: Mapping[str, QuantizationScheme] | None = None) -> Path:
        """The stage's graph with ``plan``, or with its own, written where it does not exist yet."""
        forms = quantised_forms(self.plan if plan is None else plan)
        if not forms:
            return self.prepared
        content = [sorted(forms.items()), sorted(self.narrow), sorted(self.ranges.items())]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        path = self.folder / f"{self.stage.name}.{digest}.onnx"
        if not path.exists():
            write_form(self.prepared, path, forms, self.ranges, narrow=self.narrow)
        return path

    def without(self, nodes: Collection[str]) -> Plan:
        """The plan with ``nodes`` as float."""
        return {node: "float" if node in nodes else form for node, form in self.plan.items()}


def _spread(largest: NDArray[np.float32]) -> float:
    """The largest channel over the median one that is not 0 throughout."""
    alive = largest[largest > 0]
    return float(alive.max() / np.median(alive)) if alive.size else 1.0


def quantised(plan: Mapping[str, QuantizationScheme]) -> list[str]:
    """The nodes of a plan that are not float."""
    return list(quantised_forms(plan))


def quantised_forms(plan: Mapping[str, QuantizationScheme]) -> dict[str, QuantizationScheme]:
    """The forms of those nodes."""
    return {node: form for node, form in plan.items() if form != "float"}
