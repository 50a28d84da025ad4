"""What flows where in a network that was cut by modality: the facts that ``inspect`` draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from mmedge.spec import DTYPES, Cut, Manifest, Modality, Stage, TensorSpec

__all__ = ["Crossing", "Flow", "FlowNode", "Lane", "flow_of", "tensor_bytes"]


@dataclass(frozen=True, slots=True)
class Crossing:
    """A tensor that a fusion stage takes; ``bytes`` with dynamic dimensions at ``opt``."""

    spec: TensorSpec
    bytes: int
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FlowNode:
    """One stage.

    Attributes:
        stage: it.
        share: its part of the FLOPs of all stages, 0 to 1; None where none were counted.
        weights: bytes of its graph and weight files, of those that no other stage uses; None where
            sizes are not known.
        shared: those of its files that other stages use too.
        crossing: those of its outputs that fusion stages take; none of a fusion stage.
        outputs: those of its outputs that are the network's.
        after: stages of the same modality, or of the fusion, whose outputs it takes.
    """

    stage: Stage
    share: float | None
    weights: int | None
    shared: tuple[str, ...]
    crossing: tuple[Crossing, ...]
    outputs: tuple[TensorSpec, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lane:
    """One modality: what comes in, its encoders in order, and what skips them."""

    modality: Modality
    inputs: tuple[TensorSpec, ...]
    encoders: tuple[FlowNode, ...]
    straight: tuple[Crossing, ...]

    @property
    def crossing(self) -> tuple[Crossing, ...]:
        """All that the fusion stages take of this modality."""
        return (*(c for node in self.encoders for c in node.crossing), *self.straight)


@dataclass(frozen=True, slots=True)
class Flow:
    """The whole network; ``flops`` is the sum over its stages, 0 where they were not counted.

    The stages of a loop, ``loop_stages`` of them, are the last of ``fusion``: they take what all
    modalities gave.
    """

    name: str
    lanes: tuple[Lane, ...]
    fusion: tuple[FlowNode, ...]
    outputs: tuple[TensorSpec, ...]
    flops: int
    cut: Cut
    loop_stages: int = 0

    @property
    def stages(self) -> tuple[FlowNode, ...]:
        """Encoders, then fusion stages."""
        return (*(node for lane in self.lanes for node in lane.encoders), *self.fusion)

    @property
    def crossing(self) -> tuple[Crossing, ...]:
        """All that the fusion stages take and did not make themselves."""
        return tuple(crossing for lane in self.lanes for crossing in lane.crossing)

    def as_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {
            "flops": self.flops,
            "stages": [
                {
                    "name": node.stage.name,
                    "modality": node.stage.modality,
                    "flops": node.stage.flops,
                    "share": node.share,
                    "weights_bytes": node.weights,
                    "shared_weights": list(node.shared),
                    "after": list(node.after),
                }
                for node in self.stages
            ],
            "crossing": [
                {
                    "modality": lane.modality.name,
                    "from": source,
                    "to": list(crossing.to),
                    "tensor": crossing.spec.name,
                    "dtype": crossing.spec.dtype,
                    "shape": list(crossing.spec.shape),
                    "bytes": crossing.bytes,
                }
                for lane in self.lanes
                for source, crossings in (
                    *((node.stage.name, node.crossing) for node in lane.encoders),
                    (None, lane.straight),
                )
                for crossing in crossings
            ],
            "crossing_bytes": sum(crossing.bytes for crossing in self.crossing),
            "moves": [
                {"modality": move.modality, "what": move.what, "flops": move.flops}
                for move in self.cut.moves
            ],
            "remarks": list(self.cut.remarks),
        }


def tensor_bytes(spec: TensorSpec, manifest: Manifest) -> int:
    """Bytes of a tensor with its dynamic dimensions at ``opt``."""
    sizes = (s if isinstance(s, int) else manifest.dimensions[s].opt for s in spec.shape)
    return prod(sizes) * DTYPES[spec.dtype].itemsize


def flow_of(
    manifest: Manifest,
    sizes: Mapping[str, int] | None = None,
    weights: Mapping[str, Sequence[str]] | None = None,
) -> Flow:
    """Find what flows where.

    Args:
        manifest: of the bundle.
        sizes: bytes of its files by path; without them, no weights are known.
        weights: by each stage's graph, the weight files that it uses.
    """
    by_modality: dict[str | None, list[Stage]] = {None: []}
    takers: dict[str, list[str]] = {}
    makers: dict[str, Stage] = {}
    stages = (*manifest.in_order(), *manifest.loop_stages())
    for stage in stages:
        by_modality.setdefault(stage.modality, []).append(stage)
        makers.update((spec.name, stage) for spec in stage.outputs)
        for spec in stage.inputs if stage.modality is None else ():
            takers.setdefault(spec.name, []).append(stage.name)
    files = {
        stage.name: (stage.graph, *(weights or {}).get(stage.graph, ()))
        for stage in makers.values()
    }
    users = Counter(name for names in files.values() for name in dict.fromkeys(names))
    outputs = frozenset(manifest.outputs)
    total = sum(stage.flops for stage in stages)

    def crossings(specs: Sequence[TensorSpec]) -> tuple[Crossing, ...]:
        return tuple(
            Crossing(spec, tensor_bytes(spec, manifest), tuple(takers[spec.name]))
            for spec in specs
            if spec.name in takers
        )

    def node(stage: Stage) -> FlowNode:
        names = dict.fromkeys(files[stage.name])
        private_files = [name for name in names if users[name] == 1]
        before = [makers[spec.name] for spec in stage.inputs if spec.name in makers]
        return FlowNode(
            stage,
            stage.flops / total if total else None,
            sum(sizes[name] for name in private_files) if sizes else None,
            tuple(name for name in names if users[name] > 1),
            crossings(stage.outputs) if stage.modality is not None else (),
            tuple(spec for spec in stage.outputs if spec.name in outputs),
            tuple(dict.fromkeys(s.name for s in before if s.modality == stage.modality)),
        )

    inputs = manifest.inputs()
    lanes = []
    for modality in manifest.modalities:
        specs = tuple(inputs[name] for name in modality.inputs)
        encoders = by_modality.get(modality.name, [])
        lanes.append(Lane(modality, specs, tuple(map(node, encoders)), crossings(specs)))
    tensors = {spec.name: spec for stage in stages for spec in stage.outputs}
    return Flow(
        manifest.name,
        tuple(lanes),
        tuple(map(node, by_modality[None])),
        tuple(tensors[name] for name in manifest.outputs),
        total,
        manifest.cut,
        len(manifest.loop_stages()),
    )
