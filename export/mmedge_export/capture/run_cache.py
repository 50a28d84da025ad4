"""Runs of a network, or of its graph, whose results are used again where inputs are the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array
    from mmedge_export.capture.golden import Run

__all__ = ["RunCache"]

#: Bytes of results that are held; the oldest go first.
_BYTES = 256 << 20


class RunCache:
    """Runs what has not been run yet.

    A check of one kind asks for what another one had: the example is a golden sample, a case at
    another size is compared twice. Whether a network answers by its inputs alone must be known
    before (:meth:`mmedge_export.capture.reference.Reference.repeated`).

    Args:
        run: outputs by name for inputs by name. What it refuses is not remembered.
        limit: bytes of results.
    """

    def __init__(self, run: Run, limit: int = _BYTES) -> None:
        self._run, self._limit = run, limit
        self._results: dict[bytes, dict[str, Array]] = {}
        self._bytes = 0

    def __call__(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; arrays that may have been handed out before."""
        key = _digest(values)
        if key in self._results:
            return dict(self._results[key])
        outputs = self._run(values)
        self._add(key, outputs)
        return outputs

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


def _digest(values: Mapping[str, Array]) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(values):
        value = values[name]
        digest.update(f"{name} {value.dtype} {value.shape};".encode())
        digest.update(value.tobytes())
    return digest.digest()
