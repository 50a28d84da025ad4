"""A cut network as text: each modality's way to the fusion stage, what crosses, what was moved.

Names and remarks are a bundle's own words. By the schema they hold printable characters alone, so
nothing in them moves a terminal's cursor; print them without markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmedge.cli.flow import Crossing, Flow, FlowNode

__all__ = ["amount", "draw_text", "facts", "moved", "moved_title", "size", "summary"]

_NOT_COUNTED = "FLOPs not counted"


def draw_text(flow: Flow) -> str:
    """The flow from sensors to outputs, one line an item, drawn with box characters."""
    lines = [f"{flow.name}: {summary(flow)}", ""]
    for lane in flow.lanes:
        lines.append(lane.modality.name)
        branches = [[str(spec)] for spec in lane.inputs]
        branches += [_node_lines(node) for node in lane.encoders]
        if lane.straight:
            names = dict.fromkeys(name for c in lane.straight for name in c.to)
            to = f"straight into {', '.join(names)}"
            branches.append([f"{to}: {amount(lane.straight)}", *_crossing_lines(lane.straight)])
        lines += _branches(branches)
    for node in flow.fusion:
        lines += [node.stage.name, *_branches([[", ".join(facts(node))], *_ends(node)])]
    if flow.fusion and len(flow.stages) > 1:
        lines += ["", f"into fusion: {amount(flow.crossing)}"]
    for title, items in ((f"{moved_title(flow)}:", moved(flow)), ("remarks:", flow.cut.remarks)):
        if items:
            lines += ["", title, *(f"  {item}" for item in items)]
    return "\n".join(lines) + "\n"


def moved_title(flow: Flow) -> str:
    """What all moves together save."""
    saved = sum(move.flops for move in flow.cut.moves)
    return f"moved into encoders, {operations(saved)} less in each run of the fusion"


def moved(flow: Flow) -> list[str]:
    """One line for each move."""
    return [f"{m.modality}: {m.what} ({operations(m.flops)})" for m in flow.cut.moves]


def summary(flow: Flow) -> str:
    """One line on how the network is cut."""
    if len(flow.stages) == 1:
        return f"one stage, {flow.stages[0].stage.name}: the network is not cut by modality"
    encoders = len(flow.stages) - len(flow.fusion)
    fusion = len(flow.fusion) - flow.loop_stages
    parts = [_count(encoders, "encoder"), _count(fusion, "fusion stage")]
    parts.append(_count(flow.loop_stages, "stage") + " of a loop")
    sizes = " and ".join(part for part in parts if not part.startswith("0 "))
    return f"cut into {sizes}, {operations(flow.flops) if flow.flops else _NOT_COUNTED}"


def _cost(node: FlowNode) -> str:
    """FLOPs of a stage and their share of all."""
    if node.share is None:
        return _NOT_COUNTED
    return f"{operations(node.stage.flops)} ({node.share:.1%})"


def _weights(node: FlowNode) -> str:
    """Size of a stage's files, or an empty text where it is not known."""
    if node.weights is None:
        return ""
    names = (path.rpartition("/")[2] for path in node.shared)
    return ", shared ".join((f"files {size(node.weights)}", *names))


def facts(node: FlowNode) -> list[str]:
    """What is to be said of a stage: its cost, files, what it waits for."""
    parts = [
        _cost(node),
        _weights(node),
        f"after {', '.join(node.after)}" if node.after else "",
    ]
    return [part for part in parts if part]


def amount(crossings: Sequence[Crossing]) -> str:
    """How many tensors and bytes."""
    return f"{_count(len(crossings), 'tensor')}, {size(sum(c.bytes for c in crossings))}"


def operations(flops: int) -> str:
    """FLOPs to three digits, a multiply-add counting as two."""
    return _scaled(flops, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"))


def size(count: int) -> str:
    """Bytes to three digits."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB"))


def _scaled(value: int, base: int, units: Sequence[str]) -> str:
    power = 0
    while power < len(units) - 1 and value >= base ** (power + 1):
        power += 1
    figure = value / base**power
    digits = 0 if not power or figure >= 100 else 1 if figure >= 10 else 2
    return f"{figure:.{digits}f} {units[power]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _node_lines(node: FlowNode) -> list[str]:
    """A stage's line, then what leaves it."""
    ends = _ends(node)
    if node.crossing:
        ends.append([f"crosses: {amount(node.crossing)}", *_crossing_lines(node.crossing)])
    return [f"{node.stage.name}: {', '.join(facts(node))}", *_branches(ends)]


def _ends(node: FlowNode) -> list[list[str]]:
    return [[f"output {spec}"] for spec in node.outputs]


def _crossing_lines(crossings: Sequence[Crossing]) -> list[str]:
    return list(_branches([[f"{c.spec}  {size(c.bytes)}"] for c in crossings]))


def _branches(blocks: Sequence[Sequence[str]]) -> Iterator[str]:
    """Blocks of lines as the branches of a tree."""
    for index, (first, *rest) in enumerate(blocks):
        last = index == len(blocks) - 1
        yield f"{'└─' if last else '├─'} {first}"
        yield from (f"{'  ' if last else '│ '} {line}" for line in rest)
