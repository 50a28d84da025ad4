"""A cut network as one SVG: inputs, encoders, what crosses, fusion, outputs, left to right.

Every modality has a lane and the fusion stages stand across all of them, so that each arrow is a
straight line however many modalities and tensors there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmedge.cli.canvas import GAP, LINE, PAD, Box, Canvas, folded
from mmedge.cli.draw import amount, facts, moved, moved_title, size, summary
from mmedge.cli.flow import Crossing, Flow, Lane

__all__ = ["draw_svg"]

#: Left edge and width of each column, in px.
_INPUTS, _ENCODERS, _CROSSING, _FUSION, _OUTPUTS = (
    (24, 270), (334, 270), (644, 290), (986, 270), (1308, 290),
)  # fmt: skip
_WIDTH, _TOP, _LANE_GAP = 1622, 100, 22

#: What is listed at most: inputs of a modality, crossing tensors of an encoder, outputs of the
#: network, moves and remarks; lines of one note and their characters.
_MOST_INPUTS, _MOST_CROSSING, _MOST_OUTPUTS, _MOST_NOTES, _NOTE_LINES, _NOTE = 6, 3, 16, 16, 3, 200

#: Colours of lanes, in turn: Okabe and Ito's palette (jfly.uni-koeln.de/color) without black.
_HUES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")


@dataclass(frozen=True, slots=True)
class _EncoderRow:
    """An encoder and what leaves it, or what passes by with no encoder.

    ``fed``: the modality's inputs come in; ``taken``: a fusion stage takes something.
    """

    encoder: Box | None
    crossing: Box | None
    fed: bool
    taken: bool

    @property
    def height(self) -> int:
        return max(box.height for box in (self.encoder, self.crossing) if box)


def draw_svg(flow: Flow) -> str:
    """The SVG's text. Equal flows give equal text."""
    canvas = Canvas(_WIDTH)
    entries = [_entry(lane, index) for index, lane in enumerate(flow.lanes)]
    lanes = [_rows(lane, fusion=bool(flow.fusion)) for lane in flow.lanes]
    heights = [
        max(entry.height, _stacked(row.height for row in rows))
        for entry, rows in zip(entries, lanes, strict=True)
    ]
    fusion = [Box(node.stage.name, facts(node), "fusion", node.share) for node in flow.fusion]
    outputs = Box("outputs", _outputs(flow))
    body = max(
        sum(heights) + _LANE_GAP * (len(heights) - 1),
        _stacked(box.height for box in fusion) + 2 * PAD,
        outputs.height,
    )
    _headings(canvas, flow)
    y = float(_TOP)
    for entry, rows, height in zip(entries, lanes, heights, strict=True):
        canvas.box(_INPUTS, y, entry, height)
        at = y + (height - _stacked(row.height for row in rows)) / 2
        for row in rows:
            _draw_row(canvas, at, row)
            at += row.height + GAP
        y += height + _LANE_GAP
    if fusion:
        canvas.rect(_FUSION[0] - PAD, _TOP, _FUSION[1] + 2 * PAD, body, "frame")
    at = _TOP + (body - _stacked(box.height for box in fusion)) / 2
    for box in fusion:
        canvas.box(_FUSION, at, box)
        at += box.height + GAP
    middle = _TOP + body / 2
    if any(node.outputs for node in flow.fusion):
        canvas.arrow(sum(_FUSION) + PAD, _OUTPUTS[0], middle)
    if fusion:
        canvas.box(_OUTPUTS, middle - outputs.height / 2, outputs)
    else:  # the encoders' arrows end at the outputs
        canvas.box((_FUSION[0] - PAD, _OUTPUTS[1]), _TOP, outputs, body)
    bottom = _notes(canvas, flow, _TOP + body + 40)
    return canvas.page(f"{flow.name}: {summary(flow)}", bottom)


def _headings(canvas: Canvas, flow: Flow) -> None:
    canvas.text(24, 36, flow.name, kind="head")
    canvas.text(24, 58, summary(flow), kind="quiet")
    columns = [(_INPUTS, "modalities")]
    if len(flow.stages) > len(flow.fusion):
        columns.append((_ENCODERS, "encoders"))
    if flow.fusion:
        columns.append((_CROSSING, f"into fusion: {amount(flow.crossing)}"))
        columns.append((_FUSION, "fusion"))
    for (x, width), words in columns:
        canvas.text(x, _TOP - 12, words, kind="quiet", width=width)


def _draw_row(canvas: Canvas, y: float, row: _EncoderRow) -> None:
    middle = y + row.height / 2
    if row.encoder:
        if row.fed:
            canvas.arrow(sum(_INPUTS), _ENCODERS[0], middle)
        canvas.box(_ENCODERS, middle - row.encoder.height / 2, row.encoder)
    if row.crossing:
        canvas.arrow(sum(_ENCODERS if row.encoder else _INPUTS), _CROSSING[0], middle)
        canvas.box(_CROSSING, middle - row.crossing.height / 2, row.crossing)
    if row.taken:
        canvas.arrow(sum(_CROSSING), _FUSION[0] - PAD, middle)


def _rows(lane: Lane, *, fusion: bool) -> list[_EncoderRow]:
    input_names = {spec.name for spec in lane.inputs}
    rows = []
    for node in lane.encoders:
        lines = _listed(node.crossing)
        lines += _some((f"output {spec.name}" for spec in node.outputs), _MOST_CROSSING)
        title = amount(node.crossing) if node.crossing else "nothing into fusion"
        crossing = Box(title, lines) if lines else None
        fed = any(spec.name in input_names for spec in node.stage.inputs)
        taken = bool(node.crossing) or (not fusion and bool(node.outputs))
        encoder = Box(node.stage.name, facts(node), share=node.share)
        rows.append(_EncoderRow(encoder, crossing, fed, taken))
    if lane.straight:
        title = f"straight in: {amount(lane.straight)}"
        rows.append(
            _EncoderRow(None, Box(title, _listed(lane.straight), "frame"), fed=True, taken=True)
        )
    return rows


def _entry(lane: Lane, index: int) -> Box:
    modality = lane.modality
    rate = f"{modality.rate_hz:g} Hz" if modality.rate_hz else ""
    words = ", ".join(part for part in (rate, "" if modality.required else "optional") if part)
    lines = _some(map(str, lane.inputs), _MOST_INPUTS) + ([words] if words else [])
    return Box(modality.name, lines, hue=_HUES[index % len(_HUES)])


def _outputs(flow: Flow) -> list[str]:
    """The network's outputs, those of encoders apart where there is fusion."""
    names = {spec.name for node in flow.fusion for spec in node.outputs}
    lines = _some((str(spec) for spec in flow.outputs if spec.name in names), _MOST_OUTPUTS)
    others = _some((str(spec) for spec in flow.outputs if spec.name not in names), _MOST_OUTPUTS)
    return [*lines, *(["of encoders alone:"] if lines and others else []), *others]


def _listed(crossings: Sequence[Crossing]) -> list[str]:
    return _some((f"{c.spec.name} {size(c.bytes)}" for c in crossings), _MOST_CROSSING)


def _some(lines: Iterable[str], most: int) -> list[str]:
    """The first few, and how many more there are."""
    every = list(lines)
    if len(every) <= most:
        return every
    return [*every[:most], f"and {len(every) - most} more"]


def _stacked(heights: Iterable[int]) -> int:
    every = list(heights)
    return sum(every) + GAP * max(0, len(every) - 1)


def _notes(canvas: Canvas, flow: Flow, y: float) -> float:
    """Moves and remarks below the drawing; where the page ends."""
    for title, notes in ((moved_title(flow), moved(flow)), ("remarks", flow.cut.remarks)):
        if not notes:
            continue
        canvas.text(24, y, title, kind="title")
        for note in _some(notes, _MOST_NOTES):
            for index, line in enumerate(folded(note, _NOTE, _NOTE_LINES)):
                y += LINE
                canvas.text(24 if index == 0 else 38, y + 3, line if index else f"- {line}")
        y += 2 * LINE + GAP
    return y
