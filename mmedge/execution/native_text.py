"""Texts of a network that libmmedge has loaded: ids of them, and text of a loop's tokens."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from weakref import finalize

from mmedge.native.text import NativeTextStream, NativeTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mmedge.execution.native_handles import Handles
    from mmedge.spec import Array

__all__ = ["LoopTexts", "NativeTexts"]


class NativeTexts:
    """The tokenizers of a bundle, each read at its first text. Threads take turns.

    Args:
        handles: of the network.
    """

    def __init__(self, handles: Handles) -> None:
        self._handles = handles
        self._lock = threading.Lock()
        self._tokenizers: dict[str | None, NativeTokenizer] = {}
        finalize(self, _close, self._tokenizers.values()).atexit = False

    def encode(self, name: str, text: str) -> dict[str, Array]:
        """Ids and mask of a text, by input; ``name`` is the modality's or that of its ids.

        Raises:
            InputError: nothing of that name takes a text, or the text does not fit.
        """
        with self._lock:
            return self._tokenizer(name).encode(text)

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """The text of each row of a loop's tokens."""
        with self._lock:
            tokenizer = self._tokenizer(None)
            return [tokenizer.decode(row) for row in rows]

    def streams(self, rows: int) -> list[NativeTextStream]:
        """For each row of a loop its text as tokens come."""
        with self._lock:
            tokenizer = self._tokenizer(None)
            return [tokenizer.stream() for _ in range(rows)]

    def _tokenizer(self, name: str | None) -> NativeTokenizer:
        if name not in self._tokenizers:
            with self._handles.use() as handle:
                self._tokenizers[name] = NativeTokenizer(handle, name)
        return self._tokenizers[name]


class LoopTexts:
    """What the text of each row of one loop grows by.

    Args:
        texts: of the bundle, which has a tokenizer for the loop's tokens.
        rows: of the loop.
    """

    def __init__(self, texts: NativeTexts, rows: int) -> None:
        self._streams = texts.streams(rows)
        finalize(self, _close, self._streams).atexit = False

    def add(self, tokens: Array, active: Array, ended: Array, *, last: bool) -> tuple[str, ...]:
        """Take a step.

        Args:
            tokens: of each row.
            active: whether it counts.
            ended: whether the row ends with this step.
            last: whether no step follows.
        """
        return tuple(
            stream.add(int(token), last=last) if is_active else stream.end() if has_ended else ""
            for stream, token, is_active, has_ended in zip(
                self._streams, tokens, active, ended, strict=True
            )
        )


def _close(handles: Iterable[NativeTokenizer | NativeTextStream]) -> None:
    for handle in handles:
        handle.close()
