"""Text from tokens, whole or as they come.

A token may end within a character. The text of tokens as they come ends before a character that is
not complete, and goes on when it is.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from mmedge.errors import BackendError
from mmedge.execution.text import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmedge.bundle import Bundle

__all__ = ["TextStream", "detokenizer"]

#: What stands in a text for bytes that are no character, yet or ever.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

#: Tokens after which old ones are decoded no more, and how many of them stay: what a token reads
#: as depends on those before it.
_WINDOW, _CONTEXT = 48, 16


class TextStream:
    """The text of one row of tokens, as they come.

    The pieces together are the text of all tokens, unless the tokenizer's decoder changes what
    comes before (such as one that joins words that it has given apart).

    Args:
        decode: the text of tokens.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._characters = 0  # of the window's text that were given

    def add(self, token: int, *, last: bool = False) -> str:
        """What ``token`` adds to the text; with ``last`` also what is not complete."""
        self._window.append(token)
        return self._advance(last=last)

    def end(self) -> str:
        """What is not complete: no token follows."""
        return self._advance(last=True) if self._window else ""

    def _advance(self, *, last: bool) -> str:
        text = self._decode(self._window)
        complete = text if last else text.rstrip(_REPLACEMENT)
        piece = complete[self._characters :]
        self._characters = max(self._characters, len(complete))
        if len(self._window) >= _WINDOW and len(complete) == len(text):
            del self._window[:-_CONTEXT]
            self._characters = len(self._decode(self._window))
        return piece


def detokenizer(bundle: Bundle, file: str) -> Callable[[Sequence[int]], str] | None:
    """The text of tokens, special ones left out, by a tokenizer's file in the bundle.

    None, with a :class:`UserWarning`, where the ``tokenizers`` library is not installed.

    Raises:
        BundleError: the file is no tokenizer.
    """
    try:
        tokens = load_tokenizer(bytes(bundle.read(file)), f"{bundle.path}: {file}").tokens
    except BackendError as error:
        warnings.warn(
            f"{bundle.path}: tokens are given, their text is not: {error}",
            UserWarning,
            stacklevel=2,
        )
        return None

    def decode(row: Sequence[int]) -> str:
        text: str = tokens.decode(row, skip_special_tokens=True)
        return text

    return decode
