"""What encoders made of their last inputs: a bounded cache of features, keyed by content.

Most modalities change seldom: a prompt, a map, a camera that stands still. Features are kept under
a 128-bit hash (XXH3) of the dtype, shape and bytes that made them, so that neither the caller nor
the sensor has to say what changed, and an array that was written over in place is seen as new. What
an encoder runs on is a copy, made before it is hashed: an array that another thread writes to in
the middle of a call cannot leave features behind under the hash of other bytes.

The hash reads every byte at every call. Measured on one core of a server (AMD EPYC): 43 GB/s for
what lies in its caches, 20 GB/s for a frame that comes from memory, which is 0.3 ms for 1920 x 1080
RGB, and 0.2 us for a prompt. XXH3 is not cryptographic; a seed of each cache's own keeps inputs
that were prepared to collide from doing so.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from xxhash import xxh3_128_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.spec import Array

__all__ = ["CacheInfo", "FeatureCache", "Key"]

#: Most entries of one modality.
MAX_ENTRIES = 64

#: Dtype, shape and hash of each input of a modality.
Key = tuple[tuple[str, tuple[int, ...], bytes], ...]


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """Counters of one modality since its pipeline was loaded.

    ``hits`` counts calls in which its encoder was left out, ``misses`` those in which it ran on
    content that was not held, ``unhashed`` those in which it ran because an input lies on a GPU,
    where nothing is hashed. ``evictions`` counts entries that made room for others; ``entries`` are
    held now, with features of ``bytes`` bytes.
    """

    hits: int
    misses: int
    unhashed: int
    evictions: int
    entries: int
    bytes: int


class FeatureCache:
    """Features of each modality by the content that made them. Safe to call from threads.

    Two threads that miss the same content at the same moment both compute it.

    Args:
        inputs: names of the inputs that a modality's encoders take, by modality.
        limit: most bytes of features held; the least recently used entry of any modality goes
            first. Features that alone are larger are not kept.
    """

    def __init__(self, inputs: Mapping[str, tuple[str, ...]], *, limit: int) -> None:
        self._inputs = inputs
        self._limit = limit
        self._seed = int.from_bytes(os.urandom(8), "little")
        self._lock = threading.Lock()
        #: By modality and key: what is held, and its bytes.
        self._entries: OrderedDict[tuple[str, Any], tuple[Any, int]] = OrderedDict()
        self._counts: dict[str, Counter[str]] = {modality: Counter() for modality in inputs}
        self._bytes = 0
        # Modalities whose content was new the last time: it will be so again, and is copied first.
        self._changing: set[str] = set()

    def recall(
        self, modality: str, values: dict[str, Any]
    ) -> tuple[Mapping[str, Array] | None, Key | None]:
        """The features of what ``values`` holds for ``modality``, if any, and the key of it.

        Where there are none, the inputs in ``values`` are replaced by copies, and the key is that
        of the copies. Both are None for an array on a GPU. Counted; see :meth:`get`.
        """
        changing = modality in self._changing
        if changing:
            self.copy_inputs(modality, values)
        key = self.key(modality, values)
        features = self.get(modality, key) if key is not None else None
        if features is not None:
            self._changing.discard(modality)
            return features, key
        if key is not None and not changing:
            self._changing.add(modality)
            self.copy_inputs(modality, values)
            key = self.key(modality, values)
        return None, key

    def copy_inputs(self, modality: str, values: dict[str, Any]) -> None:
        """Replace the inputs of ``modality`` by copies, which nobody else writes to."""
        for name in self._inputs[modality]:
            value = values[name]
            if type(value) is np.ndarray:
                values[name] = value.copy()

    def key(self, modality: str, values: Mapping[str, Any]) -> Key | None:
        """Key of what ``values`` holds for ``modality``; None, and counted, for a GPU array.

        NumPy arrays must be C-contiguous.
        """
        parts = []
        for name in self._inputs[modality]:
            value = values[name]
            if type(value) is not np.ndarray:
                with self._lock:
                    self._counts[modality]["unhashed"] += 1
                return None
            parts.append((value.dtype.str, value.shape, xxh3_128_digest(value.data, self._seed)))
        return tuple(parts)

    def get(self, modality: str, key: Key) -> Mapping[str, Array] | None:
        """The features held under ``key``, counted as a hit; None, counted as a miss.

        They are the cache's own arrays: copy before anyone may write to them.
        """
        with self._lock:
            entry = self._entries.get((modality, key))
            if entry is None:
                self._counts[modality]["misses"] += 1
                return None
            self._entries.move_to_end((modality, key))
            self._counts[modality]["hits"] += 1
            features: Mapping[str, Array] = entry[0]
            return features

    def best(self, modality: str, measure: Callable[[Any], int]) -> Any:  # noqa: ANN401
        """What is held for which ``measure`` is largest, counted as a hit.

        None, counted as a miss, where there is nothing for which it is above 0.
        """
        with self._lock:
            values = {
                entry: measure(content)
                for entry, (content, _) in self._entries.items()
                if entry[0] == modality
            }
            entry = max(values, key=values.__getitem__, default=None)
            if entry is None or values[entry] <= 0:
                self._counts[modality]["misses"] += 1
                return None
            self._entries.move_to_end(entry)
            self._counts[modality]["hits"] += 1
            return self._entries[entry][0]

    def put(self, modality: str, key: object, content: Any, size: int | None = None) -> None:  # noqa: ANN401
        """Hold ``content``, which is the cache's from now on, and let go of the oldest.

        ``size``: its bytes; None: it is features, of their arrays' bytes.
        """
        if size is None:
            size = sum(value.nbytes for value in content.values())
        with self._lock:
            if size > self._limit or (modality, key) in self._entries:
                return
            if self._counts[modality]["entries"] == MAX_ENTRIES:
                self._evict(next(entry for entry in self._entries if entry[0] == modality))
            while self._bytes + size > self._limit:
                self._evict(next(iter(self._entries)))
            self._entries[modality, key] = content, size
            self._account(modality, 1, size)

    def _evict(self, entry: tuple[str, Any]) -> None:
        _, size = self._entries.pop(entry)
        self._account(entry[0], -1, -size)
        self._counts[entry[0]]["evictions"] += 1

    def _account(self, modality: str, entries: int, size: int) -> None:
        self._counts[modality]["entries"] += entries
        self._counts[modality]["bytes"] += size
        self._bytes += size

    def info(self) -> dict[str, CacheInfo]:
        """Counters by modality, as they are now."""
        with self._lock:
            return {
                modality: CacheInfo(
                    hits=counts["hits"],
                    misses=counts["misses"],
                    unhashed=counts["unhashed"],
                    evictions=counts["evictions"],
                    entries=counts["entries"],
                    bytes=counts["bytes"],
                )
                for modality, counts in self._counts.items()
            }

    def close(self) -> None:
        """Let go of all entries and hold none from now on; counters of calls stay."""
        with self._lock:
            self._limit = -1
            for modality, _ in self._entries:
                self._counts[modality]["entries"] = 0
                self._counts[modality]["bytes"] = 0
            self._entries.clear()
            self._bytes = 0
