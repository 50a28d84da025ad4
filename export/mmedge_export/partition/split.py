"""One graph becomes an encoder for each modality and a fusion stage, told by dataflow alone.

A node whose content comes from one modality belongs to that modality's encoder; what mixes
modalities is the fusion stage. Which inputs form a modality is all that has to be said.

It is long, since the cut, its limits and the reasons for it are one decision.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import (
    InlinePass,
    LiftSubgraphInitializersToMainGraphPass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
)

from mmedge.spec import Cut, Move
from mmedge_export.partition.dataflow import NOBODY, owners, rebind, used
from mmedge_export.partition.flops import measure_shapes, node_flops
from mmedge_export.partition.frontier import frontier
from mmedge_export.partition.push_concat import Moved, push_concat
from mmedge_export.partition.segment_attention import segment_attention
from mmedge_export.partition.states import STATES, assign_states
from mmedge_export.passes.name_sizes import NameSizesPass
from mmedge_export.passes.simplify_reshapes import SimplifyReshapesPass

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from mmedge.spec import Array
    from mmedge_export.partition.dataflow import Owner
    from mmedge_export.partition.shared_batch import BatchRemark

__all__ = ["LEAST_FLOPS", "Part", "Split", "split"]

#: An encoder with less work than this stays in the fusion stage: running a graph by itself costs
#: about 10 us, in which one core does this many operations.
LEAST_FLOPS = 100_000

#: Names that a manifest takes for tensors (docs/reference/bundle.md).
_UNSAFE = re.compile(r"[^A-Za-z0-9_./:-]")


@dataclass(frozen=True)
class Part:
    """One stage to be: its graph, which modality it encodes (None: fusion), and its work."""

    name: str
    modality: str | None
    model: ir.Model
    flops: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what it takes."""
        return tuple(str(value.name) for value in self.model.graph.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives."""
        return tuple(str(value.name) for value in self.model.graph.outputs)


@dataclass(frozen=True)
class Split:
    """A network in parts, encoders first.

    ``whole`` is the graph that was cut, as the passes left it, with every tensor that crosses among
    its outputs after the network's own: it tells what each part should compute.
    """

    whole: ir.Model
    parts: tuple[Part, ...]
    cut: Cut


def split(
    model: ir.Model,
    groups: Mapping[str, Sequence[str]],
    example: Mapping[str, Array],
    *,
    least_flops: int = LEAST_FLOPS,
    rearrange: bool = True,
    states: Mapping[str, str] | None = None,
    may_be_empty: Collection[str] = (),
) -> Split:
    """Cut a graph by modality.

    Args:
        model: the whole network; it is not changed.
        groups: input names by modality, every input once.
        example: inputs at the sizes that work and traffic are counted for.
        least_flops: encoders with less work stay in the fusion stage.
        rearrange: whether to simplify reshapes, push work up through concatenations and segment
            attention, without which less can be cut.
        states: the output that the next run takes, by the input that takes it; inputs of states
            are sorted into groups here.
        may_be_empty: names of dimensions that may be 0.

    Returns:
        One part where there is nothing to cut; ``cut.remarks`` says why.

    Raises:
        ExportError: ONNX Runtime does not run the graph on ``example``.
    """
    # A copy: the passes below change it.
    model = model.clone()
    InlinePass()(model)
    LiftSubgraphInitializersToMainGraphPass()(model)
    RemoveUnusedNodesPass()(model)
    NameSizesPass()(model)
    states = states or {}
    if states:
        groups = assign_states(model.graph, groups, states)
    moves: Sequence[Moved] = ()
    replaced = 0
    batch_remarks: list[BatchRemark] = []
    if rearrange:
        SimplifyReshapesPass(may_be_empty)(model)
        RemoveUnusedNodesPass()(model)
        moves = push_concat(model, groups, batch_remarks.append)
        if moves:
            NameSizesPass()(model)
        replaced = segment_attention(model)
        if replaced:
            NameSizesPass()(model)
    _name_values(model)
    return _Cutter(model, groups, example, least_flops, states).cut(
        [(move.modality, move.what, move.nodes) for move in moves], replaced, batch_remarks
    )


class _Cutter:
    """The cut of one graph; the methods are its steps."""

    def __init__(
        self,
        model: ir.Model,
        groups: Mapping[str, Sequence[str]],
        example: Mapping[str, Array],
        least_flops: int,
        states: Mapping[str, str],
    ) -> None:
        self.model = model
        self.graph = model.graph
        self.groups = groups
        self.states = states
        self.least_flops = least_flops
        self.remarks: list[str] = []
        self.shapes = measure_shapes(model, example)
        self.bytes_of = {name: array.nbytes for name, array in self.shapes.items()}
        self.flops_of = {node: self._count_flops(node) for node in self.graph}
        self.owner: dict[ir.Node, Owner] = {}
        self.value_owner: dict[ir.Value, Owner] = {}
        #: Nodes that tell a size and run in an encoder, for the fusion stage.
        self.handed_sizes: set[ir.Node] = set()

    def cut(
        self,
        pushed: Sequence[tuple[str, str, Sequence[ir.Node]]],
        replaced: int,
        batches: Sequence[BatchRemark],
    ) -> Split:
        """All steps."""
        encoders = self._find_encoders()
        self._note_unused_inputs()
        self.remarks += [remark.text for remark in batches if encoders or not remark.is_cut]
        if not encoders:
            part = Part("model", None, self.model, sum(self.flops_of.values()))
            return Split(self.model, (part,), Cut((), tuple(self.remarks)))
        fusion = self._find_fusion(encoders)
        self._bind_sizes(encoders, fusion)
        parts = self._make_parts(encoders, fusion)
        if (state := self._divided_state(parts)) is not None:
            self.remarks.append(
                f"not cut: state {state!r} would be taken and given by different stages"
            )
            part = Part("model", None, self.model, sum(self.flops_of.values()))
            return Split(self.model, (part,), Cut((), tuple(self.remarks)))
        if replaced:
            self.remarks.append(
                f"{replaced} attentions over concatenated memories read each segment where it "
                "lies (SegmentedAttention)"
            )
        place = {node: key for key, nodes in encoders.items() for node in nodes}
        moves = []
        for modality, what, nodes in pushed:
            flops = sum(self.flops_of.get(node, 0) for node in nodes if place.get(node) == modality)
            if flops:
                moves.append(Move(modality, what, flops))
        return Split(self.model, parts, Cut(tuple(moves), tuple(self.remarks)))

    def _find_encoders(self) -> dict[str, set[ir.Node]]:
        """Nodes of each encoder that is worth a stage, by modality."""
        self.owner, self.value_owner = owners(self.graph, self.groups)
        live = self._live_modalities()
        if len(live) < 2:
            self.remarks.append("nothing to cut: the outputs depend on one modality")
            return {}
        if len(live) < len(self.groups) - (STATES in self.groups) and all(
            len(self.value_owner.get(v, NOBODY)) < 2 for v in self.graph.outputs
        ):
            self.remarks.append("nothing to cut: an input that is not used has no stage to go to")
            return {}
        nodes_of: dict[str, set[ir.Node]] = {key: set() for key in self.groups if key in live}
        for node, owner in self.owner.items():
            if len(owner) == 1 and owner <= live:
                nodes_of[next(iter(owner))].add(node)
        encoders: dict[str, set[ir.Node]] = {}
        for key, nodes in nodes_of.items():
            flops = sum(self.flops_of[node] for node in nodes)
            if not nodes:
                self.remarks.append(f"{key} is mixed with other modalities at its first node")
            elif flops < self.least_flops:
                self.remarks.append(
                    f"{key} has no encoder: its own work is {flops:,} operations, less than a "
                    f"stage of its own costs ({self.least_flops:,})"
                )
            else:
                encoders[key] = nodes
        if not encoders:
            self.remarks.append("nothing to cut: no modality has work of its own")
        return encoders

    def _divided_state(self, parts: Sequence[Part]) -> str | None:
        """A state that is not one part's, if there is any."""
        for name, output in self.states.items():
            takers = [part.name for part in parts if name in part.inputs]
            if takers != [part.name for part in parts if output in part.outputs]:
                return name
        return None

    def _find_fusion(self, encoders: dict[str, set[ir.Node]]) -> set[ir.Node]:
        """What mixes modalities; the encoders give up what is cheaper to have here."""
        state_outputs = set(self.states.values())
        pinned = {v.producer() for v in self.graph.outputs if v.name in state_outputs}
        for nodes in encoders.values():
            given_up = frontier(
                [node for node in self.graph if node in nodes],
                self.bytes_of,
                self.flops_of,
                self._values_leaving(nodes),
            )
            if not pinned.intersection(given_up):  # who takes a state gives it
                nodes.difference_update(given_up)
        inside = set().union(*encoders.values())
        fusion = {node for node, owner in self.owner.items() if owner and node not in inside}
        unowned = [
            node
            for node, owner in self.owner.items()
            if not owner and any(value.is_graph_output() for value in node.outputs)
        ]
        return fusion | set(unowned)

    def _values_leaving(self, nodes: Collection[ir.Node]) -> list[ir.Value]:
        """Values made by ``nodes`` whose content others take."""
        values = [
            value
            for node, owner in self.owner.items()
            if owner and node not in nodes
            for value in used(node)
            if value.producer() in nodes
        ]
        return list(dict.fromkeys(values))

    def _bind_sizes(self, encoders: dict[str, set[ir.Node]], fusion: set[ir.Node]) -> None:
        """Each stage reads sizes from its own tensors; what it cannot, an encoder hands over."""
        for key, nodes in encoders.items():
            modality_owner = frozenset({key})

            def inside(value: ir.Value, modality_owner: Owner = modality_owner) -> bool:
                return self.value_owner.get(value, NOBODY) <= modality_owner

            entering = [self._input(name) for name in self.groups[key]]
            self._rebind(nodes, inside, entering)
        boundary_tensors = [
            v for nodes in encoders.values() for v in self._boundary_tensors(nodes, fusion)
        ]
        raw_inputs = [value for value in self.graph.inputs if self._is_read_by(value, fusion)]
        fusion_values = {value for node in fusion for value in node.outputs}
        available = [*boundary_tensors, *raw_inputs]
        entering_values = set(available)

        def here(value: ir.Value) -> bool:
            return value in fusion_values or value in entering_values or value.is_initializer()

        for step in self._rebind(fusion, here, available):
            # No tensor that crosses has this size: the size itself crosses.
            source = step.inputs[0]
            if source is None or self._is_read_by(source, fusion):
                continue
            owner = self.value_owner.get(source, NOBODY)
            for nodes in (
                encoder_nodes for key, encoder_nodes in encoders.items() if owner == {key}
            ):
                nodes.add(step)
                self.handed_sizes.add(step)

    def _rebind(
        self,
        nodes: Collection[ir.Node],
        inside: Callable[[ir.Value], bool],
        available: Sequence[ir.Value],
    ) -> list[ir.Node]:
        unbound, originals = rebind(self.graph, nodes, inside, available, self.value_owner)
        for copy, original in originals.items():
            self.shapes[str(copy.name)] = self.shapes[str(original.name)]
        return unbound

    def _boundary_tensors(
        self, nodes: Collection[ir.Node], fusion: Collection[ir.Node]
    ) -> list[ir.Value]:
        values = dict.fromkeys(
            value
            for node in self.graph
            if node in fusion
            for value in self._values_read(node)
            if value.producer() in nodes
        )
        return list(values)

    def _values_read(self, node: ir.Node) -> Iterable[ir.Value]:
        """What a node takes, looking through size arithmetic, which is copied into its stage."""
        for value in used(node):
            yield value
            step = value.producer()
            if step is not None and not self.owner.get(step) and step not in self.handed_sizes:
                yield from self._values_read(step)

    def _is_read_by(self, value: ir.Value, nodes: Collection[ir.Node]) -> bool:
        return any(node in nodes for node in value.consumers()) if value.uses() else False

    def _make_parts(
        self, encoders: Mapping[str, Collection[ir.Node]], fusion: Collection[ir.Node]
    ) -> tuple[Part, ...]:
        outputs = list(self.graph.outputs)
        state_outputs = set(self.states.values())
        names = _stage_names(encoders)
        parts = []
        for key, nodes in encoders.items():
            stage_outputs = [*self._boundary_tensors(nodes, fusion)]
            stage_outputs += [
                v for v in outputs if v.producer() in nodes and v not in stage_outputs
            ]
            stage_inputs = [self._input(name) for name in self.groups[key]]
            if stage_outputs:
                parts.append(self._make_part(names[key], key, stage_inputs, stage_outputs))
        boundary_tensors = [v for part in parts for v in self._values(part.outputs)]
        stage_outputs = [value for value in outputs if value.producer() in fusion]
        if stage_outputs:
            read_values = {v for node in fusion for v in self._values_read(node)}
            stage_inputs = [v for v in (*boundary_tensors, *self.graph.inputs) if v in read_values]
            encoded = {name for part in parts for name in part.inputs}
            idle = [v for v in self.graph.inputs if v not in stage_inputs and v.name not in encoded]
            parts.append(self._make_part(names[None], None, [*stage_inputs, *idle], stage_outputs))
        else:
            self.remarks.append("no fusion stage: every output depends on one modality")
        for part in parts:
            own_outputs = (
                [v.name for v in outputs if v.name in part.outputs and v.name not in state_outputs]
                if part.modality
                else []
            )
            if own_outputs and stage_outputs:
                self.remarks.append(
                    f"output {', '.join(map(str, own_outputs))} depends on {part.modality} alone"
                )
        self.graph.outputs.extend(v for v in boundary_tensors if v not in outputs)
        return tuple(parts)

    def _make_part(
        self,
        name: str,
        modality: str | None,
        stage_inputs: Sequence[ir.Value],
        stage_outputs: Sequence[ir.Value],
    ) -> Part:
        for value in stage_outputs:
            self._declare(value)
        graph = ir.convenience.extract(self.graph, stage_inputs, stage_outputs)
        graph.name = name
        model = ir.Model(
            graph,
            ir_version=self.model.ir_version,
            producer_name=self.model.producer_name,
            producer_version=self.model.producer_version,
            functions=[function.clone() for function in self.model.functions.values()],
        )
        RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
        RemoveUnusedNodesPass()(model)
        return Part(name, modality, model, sum(map(self._count_flops, graph)))

    def _declare(self, value: ir.Value) -> None:
        """Give a value that leaves its stage a type and a rank where inference found none."""
        example = self.shapes[str(value.name)]
        if value.shape is None:
            value.shape = ir.Shape([None] * len(example.shape))
        if value.type is None:
            value.type = ir.TensorType(example.dtype)

    def _count_flops(self, node: ir.Node) -> int:
        """Operations; none for the size arithmetic that the cut added after measuring."""
        if any(str(value.name) not in self.shapes for value in node.outputs if value.name):
            return 0
        return node_flops(node, self.shapes)

    def _live_modalities(self) -> Owner:
        """Modalities whose content reaches an output."""
        of_outputs = (self.value_owner.get(v, NOBODY) for v in self.graph.outputs)
        return NOBODY.union(*of_outputs) - {STATES}

    def _note_unused_inputs(self) -> None:
        live = self._live_modalities()
        idle = {
            name
            for key, names in self.groups.items()
            if key not in live and key != STATES
            for name in names
        }
        unused_inputs = [str(v.name) for v in self.graph.inputs if v.name in idle or not v.uses()]
        if unused_inputs:
            self.remarks.append(f"no output depends on input {', '.join(unused_inputs)}")

    def _input(self, name: str) -> ir.Value:
        return next(value for value in self.graph.inputs if value.name == name)

    def _values(self, names: Sequence[str]) -> list[ir.Value]:
        wanted_names = set(names)
        return [v for node in self.graph for v in node.outputs if v.name in wanted_names]


def _name_values(model: ir.Model) -> None:
    """Give every value of the main graph a name of its own that a manifest can hold."""
    used_names: set[str] = set()
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [v for node in model.graph for v in node.outputs]
    fixed_names = {str(v.name) for v in (*model.graph.inputs, *model.graph.outputs)}
    for value in values:
        name = str(value.name or "value")
        if name in fixed_names and (value.is_graph_input() or value.is_graph_output()):
            continue
        safe_name = _UNSAFE.sub("_", name)[:180] or "value"
        new_name, count = safe_name, 0
        while new_name in used_names or new_name in fixed_names:
            count += 1
            new_name = f"{safe_name}_{count}"
        used_names.add(new_name)
        if new_name != value.name:
            value.name = new_name


def _stage_names(encoders: Iterable[str]) -> dict[str | None, str]:
    names: dict[str | None, str] = {key: key for key in encoders}
    fusion = "fusion"
    while fusion in names.values():
        fusion += "_"
    names[None] = fusion
    return names
