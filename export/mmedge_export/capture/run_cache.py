"""Runs of a network, or of its graph, whose results are used again where inputs are the same."""

from __future__ import annotations

import hashlib
import weakref
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmedge.spec import Array
    from mmedge_export.capture.golden import Run

__all__ = ["RunCache"]

#: Bytes of results that are held; the oldest go first.
_BYTES = 256 << 20

#: Bytes of an array whose digest is taken once: constants of a loop are given to every step.
_LARGE_ARRAY = 1 << 16


class RunCache:
    """Runs what has not been run yet.

    A check of one kind asks for what another one had: the example is a golden sample, a case at
    another size is compared twice. Whether a network answers by its inputs alone must be known
    before (:meth:`mmedge_export.capture.reference.Reference.repeated`).

    Args:
        run: outputs by name for inputs by name. What it refuses is not remembered.
        limit: bytes of results.
        known: inputs and outputs of runs that were made, which are held beside these.
    """

    def __init__(
        self,
        run: Run,
        limit: int = _BYTES,
        known: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]] = (),
    ) -> None:
        self._run, self._limit = run, limit
        self._known = {_digest(values): outputs for values, outputs in known}
        self._results: dict[bytes, dict[str, Array]] = {}
        self._bytes = 0

    def __call__(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; arrays that may have been handed out before."""
        key = _digest(values)
        if (outputs := self._known.get(key) or self._results.get(key)) is not None:
            return dict(outputs)
        new = self._run(values)
        self._add(key, new)
        return new

    def add(self, values: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Note what a run gave."""
        self._add(_digest(values), outputs)

    def _add(self, key: bytes, outputs: Mapping[str, Array]) -> None:
        self._bytes -= _size(self._results.pop(key, {}))
        self._results[key] = dict(outputs)
        self._bytes += _size(outputs)
        while self._bytes > self._limit:
            self._bytes -= _size(self._results.pop(next(iter(self._results))))


def _size(values: Mapping[str, Array]) -> int:
    return sum(value.nbytes for value in values.values())


#: Digests of large arrays that are alive, by their identity. Nobody writes to inputs of a run: a
#: network is given copies.
_digests: dict[int, tuple[weakref.ref[Array], bytes]] = {}


def _digest(values: Mapping[str, Array]) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(values):
        value = values[name]
        digest.update(f"{name} {value.dtype} {value.shape};".encode())
        digest.update(_content(value))
    return digest.digest()


def _content(value: Array) -> bytes:
    """A digest of what an array holds."""
    key = id(value)
    known = _digests.get(key)
    if known is not None and known[0]() is value:
        return known[1]
    content = hashlib.sha256(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data).digest()
    if value.nbytes >= _LARGE_ARRAY:
        _digests[key] = weakref.ref(value, lambda _: _digests.pop(key, None)), content
    return content
