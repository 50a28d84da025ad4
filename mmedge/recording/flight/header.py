"""The header of a dump, checked for what a replay needs of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mmedge.schema.read import decode

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_JSON_BYTES", "read_header"]

#: Bytes of one message of JSON, and of the header.
MAX_JSON_BYTES = 16 << 20
#: What the header has, and what that is; of the others, which a replay does not need, nothing is
#: asked.
HEADER: Mapping[str, type | tuple[type, ...]] = {
    "triggers": list, "held_off": dict, "t": (int, float), "seconds": (int, float),
    "kept_seconds": (int, float), "memory_bytes": int, "kept_bytes": int,
    "evicted_for_bytes": dict, "is_whole": bool, "told": int, "networks": list,
    "modalities": list, "options": dict, "clock": dict, "device": dict,
}  # fmt: skip
NETWORK = {"bundle": str, "digest": str, "variant": str, "plan": str}


def read_header(text: str) -> dict[str, Any]:
    """The header, if it has what a replay needs; raises Misfit, ValueError or TypeError."""
    header: Any = decode(text, most=MAX_JSON_BYTES)
    for name, kind in HEADER.items():
        if not isinstance(header[name], kind):
            raise TypeError(f"{name} is {header[name]!r:.80}")
    for network in header["networks"]:
        if any(not isinstance(network[name], kind) for name, kind in NETWORK.items()):
            raise TypeError(f"a network is {network!r:.200}")
        threads = network["threads"]
        if threads is not None and type(threads) is not int:
            raise TypeError(f"threads is {threads!r:.80}")
    clock, device = header["clock"], header["device"]
    if clock["kind"] == "simulated":
        costs = [float(clock["start"]), *map(float, clock["costs"].values())]
        if not all(map(math.isfinite, costs)):
            raise ValueError(f"the clock is {clock!r:.200}")
    if not (isinstance(device["cpu"], str) and isinstance(device["libraries"], dict)):
        raise TypeError(f"device is {device!r:.200}")
    for trigger in header["triggers"]:
        float(trigger["t"])
        str(trigger["kind"]), str(trigger["message"])
    if not header["networks"]:
        raise ValueError("there is no network")
    read: dict[str, Any] = header
    return read
