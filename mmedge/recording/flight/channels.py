"""Channels of a dump beside those of modalities: their topics, encodings and schemas.

docs/reference/recording.md says what each holds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BEGIN", "CHANNELS", "END", "VERSION", "Channel"]

#: Names of the metadata records at the beginning and at the end, and the version of all this.
BEGIN, END, VERSION = "mmedge.flight", "mmedge.flight.end", "1"


class Channel(NamedTuple):
    """One channel: topic, encoding of its messages, and its schema's name, encoding and text."""

    topic: str
    encoding: str
    schema: tuple[str, str, str]


def _json(kind: str, description: str, properties: Mapping[str, str | list[str]]) -> Channel:
    schema: dict[str, Any] = {
        "title": f"mmedge.Flight{kind.title()}",
        "description": description,
        "type": "object",
        "properties": {name: {"type": type_} for name, type_ in properties.items()},
    }
    return Channel(f"/mmedge/{kind}s", "json", (schema["title"], "jsonschema", json.dumps(schema)))


def _tensors(kind: str, description: str) -> Channel:
    name = f"mmedge.Flight{kind.title()}Tensors"
    return Channel(f"/mmedge/{kind}s", "safetensors", (name, "text/plain", description))


#: By kind.
CHANNELS: Mapping[str, Channel] = {
    "sample": _json(
        "sample",
        "One pushed sample; its value, if it was kept, is the next message of its modality.",
        {"modality": "string", "seq": "integer", "t": "number", "arrival": "number"},
    ),
    "run": _json(
        "run", "One run of an encoder with state.", {"modality": "string", "epoch": "integer"}
    ),
    "result": _json(
        "result",
        "One result of the stream, and what it was computed of.",
        {
            "number": "integer",
            "t": "number",
            "made": "number",
            "latency": "number",
            "fresh": "boolean",
            "reason": "string",
            "ages": "object",
            "absent": "object",
            "outputs": ["object", "null"],
        },
    ),
    "event": _json("event", "One event.", {"kind": "string", "t": "number", "message": "string"}),
    "machine": _json(
        "machine", "The state of the machine.", {"unix_ns": "integer", "temperature_c": "object"}
    ),
    "output": _tensors(
        "output", "Outputs of the result of this sequence number, a tensor for each array."
    ),
    "state": _tensors(
        "state", "States that a run began with, by this number: '<stage>/<input>' each."
    ),
}
