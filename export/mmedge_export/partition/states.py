"""Whose a state is, told by dataflow: one modality's, or the fusion stage's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge_export.partition.dataflow import owners

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

__all__ = ["STATES", "assign_states"]

#: The group of the states that belong to no single modality. No modality has this name.
STATES = ""


def assign_states(
    graph: ir.Graph, groups: Mapping[str, Sequence[str]], states: Mapping[str, str]
) -> dict[str, list[str]]:
    """Groups of inputs, each state in that of the one modality which its new value follows from.

    A state that follows from several modalities, or from none, is in the group :data:`STATES`.

    Args:
        graph: sorted.
        groups: input names by modality; states in them are taken out first.
        states: the output that the next run takes, by the input that takes it.
    """
    sensors = {key: [name for name in names if name not in states] for key, names in groups.items()}
    assigned = {key: names for key, names in sensors.items() if names}
    keys = {name: f"{STATES}:{name}" for name in states}
    of_value = owners(graph, {**assigned, **{key: [name] for name, key in keys.items()}})[1]
    behind = {str(v.name): of_value.get(v, frozenset()) for v in graph.outputs}
    sources = {keys[name]: set(behind[output]) for name, output in states.items()}
    for _ in states:  # a state may follow from another one
        for key, names in sources.items():
            sources[key] = names.union(*(sources[other] for other in names if other in sources))
    for name, key in keys.items():
        modalities = sources[key] - sources.keys()
        modality = modalities.pop() if len(modalities) == 1 else STATES
        assigned.setdefault(modality, []).append(name)
    return assigned
