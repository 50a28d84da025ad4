"""Which network made a result."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["UNKNOWN", "NetworkId"]


class NetworkId(NamedTuple):
    """Which network made a result.

    ``number`` counts the networks of a stream, from 0, the one that it was made with. ``digest`` is
    the SHA-256 of its bundle's manifest in lower-case hex (:attr:`mmedge.Bundle.digest`),
    ``variant`` the id of the bundle's variant.
    """

    number: int = 0
    digest: str = ""
    variant: str = ""


#: Of a result that no stream made.
UNKNOWN = NetworkId()
