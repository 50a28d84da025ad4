"""Where to cut an encoder from the fusion stage: the tensors whose crossing costs least.

Dataflow gives the latest place: everything that depends on one modality is in its encoder. What
follows the last real work there is often a mask spread over heads or a token repeated over a grid,
whose result is many times what it is made from. Such nodes may go to the fusion stage. Which of
them do is a minimum cut: bytes that cross, against what moving costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx as nx

from mmedge_export.partition.dataflow import used

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import onnx_ir as ir

__all__ = ["MOVED_SHARE", "frontier"]

#: Of an encoder's work, at most this share may go to the fusion stage, where it runs at every
#: result instead of at every reading of the sensor.
MOVED_SHARE = 0.01

#: What moving a node costs, in bytes that must at least be saved: starting an op that moves no data
#: takes about as long as copying this much.
NODE_COST = 256


def frontier(
    nodes: Collection[ir.Node],
    bytes_of: Mapping[str, int],
    flops_of: Mapping[ir.Node, int],
    leaving: Collection[ir.Value],
) -> set[ir.Node]:
    """Those of an encoder's nodes that belong in the fusion stage instead.

    A byte that crosses counts as much as a floating-point operation that is moved, and a node as
    much as :data:`NODE_COST` of either. What makes an output of the network stays.

    Args:
        nodes: all that depend on the modality alone.
        bytes_of: size of every value, by name.
        flops_of: operations of every node.
        leaving: the values that the fusion stage takes.
    """
    total = sum(flops_of.get(node, 0) for node in nodes)
    most = int(MOVED_SHARE * total)
    moved_nodes = _min_cut(nodes, bytes_of, flops_of, leaving, most)
    if sum(flops_of.get(node, 0) for node in moved_nodes) > most:
        # Each was small, all together are not: then only what costs nothing.
        moved_nodes = _min_cut(nodes, bytes_of, flops_of, leaving, 0)
    return moved_nodes


def _min_cut(
    nodes: Collection[ir.Node],
    bytes_of: Mapping[str, int],
    flops_of: Mapping[ir.Node, int],
    leaving: Collection[ir.Value],
    most: int,
) -> set[ir.Node]:
    inside = set(nodes)
    gone = set(leaving)
    graph: nx.DiGraph = nx.DiGraph()
    encoder, fusion = "encoder", "fusion"
    graph.add_nodes_from((encoder, fusion))
    for node in nodes:
        flops = flops_of.get(node, 0)
        if flops <= most and not any(value.is_graph_output() for value in node.outputs):
            graph.add_edge(encoder, ("node", node), capacity=NODE_COST + flops)
        else:
            graph.add_edge(encoder, ("node", node))  # without capacity: never cut
        for value in used(node):
            producer = value.producer()
            if producer in inside:
                # The fusion stage cannot feed an encoder.
                graph.add_edge(("node", node), ("node", producer))
                start: object = ("node", producer)
            elif value.is_graph_input():
                start = encoder
            else:
                continue  # sizes and constants are copied where they are needed
            vertex = ("value", value)
            graph.add_edge(start, vertex, capacity=bytes_of.get(str(value.name), 0))
            graph.add_edge(vertex, ("node", node))
        for value in node.outputs:
            if value in gone:
                vertex = ("value", value)
                graph.add_edge(("node", node), vertex, capacity=bytes_of.get(str(value.name), 0))
                graph.add_edge(vertex, fusion)
    if not graph.in_degree(fusion):
        return set()
    _, (_, fusion_side) = nx.minimum_cut(graph, encoder, fusion)
    return {item[1] for item in fusion_side if isinstance(item, tuple) and item[0] == "node"}
