"""One stage on its way to lower precision: its graph, what may be quantised, and how it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge_export.passes.smooth_outliers import SmoothOutliersPass
from mmedge_export.targets.graph_edits import save_graph
from mmedge_export.targets.registry import quantizer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mmedge.spec import Stage
    from mmedge_export.calibration.observed import Observed
    from mmedge_export.targets.quantizable import QuantizableNode, QuantizationScheme
    from mmedge_export.targets.registry import Quantizer

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
        prepared: its float graph, as the target prepares it.
        sites: the nodes that may be quantised.
        folder: where graphs are written.
        ranges: of activations, by tensor.
        reduce_range: nodes with weights of 7 bits.
        plan: the form of every site.
        speed: of every site and form how many times as fast as in float32 it is by itself.
        why: of sites that stay float, the reason.
        excluded: other products that stay float, and why.
        backend: that runs it.
        precision: that is asked for.
    """

    stage: Stage
    prepared: Path
    sites: tuple[QuantizableNode, ...]
    folder: Path
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    reduce_range: frozenset[str] = frozenset()
    plan: Plan = field(default_factory=dict)
    speed: dict[str, dict[QuantizationScheme, float]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    backend: str = "ort"
    precision: str = "int8"

    @classmethod
    def start(
        cls,
        stage: Stage,
        graph: Path,
        folder: Path,
        backend: str = "ort",
        precision: str = "int8",
    ) -> StageWork:
        """Prepare the graph of ``stage`` in ``folder``; nothing is quantised yet."""
        folder.mkdir(parents=True, exist_ok=True)
        prepared = folder / f"{stage.name}.onnx"
        work = cls(stage, prepared, (), folder, backend=backend, precision=precision)
        work._find_sites(work.target.prepare(graph, prepared), None)
        return work

    @property
    def target(self) -> Quantizer:
        """What quantises for the backend."""
        return quantizer(self.backend)

    def take_ranges(self, observed: Mapping[str, Observed]) -> None:
        """Keep the ranges of what was observed, and leave out nodes that cannot do without one."""
        for name, tensor in observed.items():
            limits = self.target.choose_range(tensor, self.precision)
            if limits is not None:
                self.ranges[name] = limits
        self._find_sites(ir.load(self.prepared), self.ranges)

    def _find_sites(
        self, model: ir.Model, ranges: Mapping[str, tuple[float, float]] | None
    ) -> None:
        self.sites, self.excluded = self.target.find_nodes(model, self.precision, ranges)
        self.plan = {site.node: "float" for site in self.sites}

    def smooth(self, channel_max: Mapping[str, NDArray[np.float32]]) -> list[str]:
        """Move outlying channels into weights, where that is free; names of the activations.

        Args:
            channel_max: of activations, the largest magnitude by index of the last axis.
        """
        factors = {s.activation for s in self.sites if s.weight and s.op in ("MatMul", "Gemm")}
        outlying = {
            name: largest
            for name, largest in channel_max.items()
            if name in factors and np.isfinite(largest).all() and _spread(largest) >= OUTLYING
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
        self._find_sites(ir.load(target), None)
        return [activation.tensor for activation in smoother.smoothed]

    def tensors(self) -> list[str]:
        """Tensors whose ranges some form needs."""
        return list(dict.fromkeys(name for site in self.sites for name in site.ranged))

    def graph(self, plan: Mapping[str, QuantizationScheme] | None = None) -> Path:
        """The stage's graph with ``plan``, or with its own, written where it does not exist yet."""
        forms = quantised_forms(self.plan if plan is None else plan)
        if not forms:
            return self.prepared
        content = [sorted(forms.items()), sorted(self.reduce_range), sorted(self.ranges.items())]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        path = self.folder / f"{self.stage.name}.{digest}.onnx"
        if not path.exists():
            self.target.write(
                self.prepared, path, forms, self.ranges, reduce_range=self.reduce_range
            )
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
