"""From a string to token ids and a mask, as the bundle's tokenizer says.

The tokenizer's file decides all that it states: special tokens, on which side a text is cut and at
what length, on which side it is padded, with which id and to which multiple. The input's shape
decides the length where its token axis is fixed.
"""

from __future__ import annotations

import warnings
from math import lcm
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmedge.errors import BackendError, BundleError, InputError
from mmedge.schema.tokenizer import MAX_TEXT_CHARACTERS, check_tokenizer
from mmedge.spec import DTYPES, Array, Dimension

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.bundle import Bundle
    from mmedge.spec import TensorSpec, Tokenizer

__all__ = [
    "NoTextEncoder",
    "TextEncoder",
    "UnpaddedTokenizer",
    "load_tokenizer",
    "text_encoders",
]


class UnpaddedTokenizer(NamedTuple):
    """A tokenizer of the library that does not pad, and the padding that its file states."""

    tokens: Any
    padding: Mapping[str, Any] | None


class TextEncoder:
    """The token inputs of one modality for a text.

    Args:
        unpadded_tokenizer: from :func:`load_tokenizer`. This class pads, since it may be to
            another length.
        tokenizer: which inputs it fills.
        specs: of the network's inputs, by name.
        dimensions: limits of dynamic dimensions.

    Raises:
        BundleError: the tokenizer cuts a text to less than its own special tokens.
    """

    def __init__(
        self,
        unpadded_tokenizer: UnpaddedTokenizer,
        tokenizer: Tokenizer,
        specs: Mapping[str, TensorSpec],
        dimensions: Mapping[str, Dimension],
    ) -> None:
        self._tokens, self._tokenizer = unpadded_tokenizer.tokens, tokenizer
        ids = specs[tokenizer.ids]
        self._ids_dtype = DTYPES[ids.dtype]
        self._most = (1 << (8 * self._ids_dtype.itemsize - 1)) - 1
        self._mask_dtype = DTYPES[specs[tokenizer.mask].dtype] if tokenizer.mask else None
        length = ids.shape[-1]
        self._fixed = length if isinstance(length, int) else None
        limits = Dimension(0, 1) if isinstance(length, int) else dimensions[length]
        self._least = limits.min
        padding = unpadded_tokenizer.padding or {}
        self._pad = int(padding.get("pad_id", 0))
        self._left = padding.get("direction", "right") == "left"
        # What the tokenizer itself pads to, where the network takes any length.
        self._to = int(padding.get("length") or 0)
        self._multiple = lcm(int(padding.get("pad_to_multiple_of") or 1), limits.multiple)
        self._cut = unpadded_tokenizer.tokens.truncation
        special = self._tokens.num_special_tokens_to_add(is_pair=False)
        if self._cut is not None and self._cut["max_length"] <= special:
            raise BundleError(
                f"{tokenizer.file}: it cuts texts to {self._cut['max_length']} tokens, of which "
                f"{special} are special ones; save the tokenizer with a larger max_length"
            )

    def encode(self, text: str) -> dict[str, Array]:
        """Ids, and the mask where there is one, for one text: ``[1, tokens]`` by input.

        A text that the tokenizer itself cuts is cut with a :class:`UserWarning`.

        Raises:
            InputError: the text is too long, has no tokens, is no Unicode, or makes the tokenizer
                fail.
        """
        encoding = self._encoding(text)
        ids: list[int] = encoding.ids
        if encoding.overflowing:
            warnings.warn(
                f"a text of {len(text)} characters is cut to {len(ids)} tokens at its "
                f"{'beginning' if self._cut['direction'] == 'left' else 'end'}, as the bundle's "
                "tokenizer says",
                UserWarning,
                stacklevel=2,
            )
        length = self._length(ids, text)
        if not ids and length:
            raise InputError(
                f"the text {_quote(text)} has no tokens, so that input {self._tokenizer.ids!r} "
                "would be padding alone, which gives NaN in many networks; leave the modality out "
                "if it is optional, or pass the ids that the network was trained on for no text"
            )
        if (largest := max(ids, default=0)) > self._most:
            raise InputError(
                f"input {self._tokenizer.ids!r}: token id {largest} does not fit {self._ids_dtype}"
            )
        start = length - len(ids) if self._left else 0
        words = slice(start, start + len(ids))
        padded = np.full((1, length), self._pad, self._ids_dtype)
        padded[0, words] = ids
        feeds: dict[str, Array] = {self._tokenizer.ids: padded}
        if self._tokenizer.mask is not None:
            mask = np.zeros((1, length), self._mask_dtype)
            mask[0, words] = 1
            feeds[self._tokenizer.mask] = mask
        return feeds

    def _encoding(self, text: str) -> Any:  # noqa: ANN401
        if len(text) > MAX_TEXT_CHARACTERS:
            raise InputError(
                f"a text of {len(text)} characters; expected at most {MAX_TEXT_CHARACTERS}, "
                "shorten it"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"a text with half of a surrogate pair, which is no Unicode: {error}; decode its "
                'bytes with errors="replace"'
            ) from error
        try:
            normalizer = self._tokens.normalizer
            if normalizer is not None:
                size = len(normalizer.normalize_str(text))
                if size > MAX_TEXT_CHARACTERS:
                    raise InputError(
                        f"a text of {len(text)} characters becomes {size} when it is normalized; "
                        f"expected at most {MAX_TEXT_CHARACTERS}, shorten it"
                    )
            return self._tokens.encode(text)
        except BaseException as error:
            if not _is_of_library(error):
                raise
            raise InputError(
                f"the bundle's tokenizer {self._tokenizer.file} fails on the text {_quote(text)}: "
                f"{error}"
            ) from error

    def _length(self, ids: list[int], text: str) -> int:
        if self._fixed is None:
            length = max(len(ids), self._to, self._least)
            return -(-length // self._multiple) * self._multiple
        if len(ids) > self._fixed:
            raise InputError(
                f"text of {len(ids)} tokens does not fit input {self._tokenizer.ids!r}, which "
                f"takes {self._fixed}; shorten it (nothing is cut off unless the tokenizer says "
                f"so): {_quote(text)}"
            )
        return self._fixed


class NoTextEncoder:
    """Stands where the ``tokenizers`` library is not installed: token ids are taken, texts not."""

    def __init__(self, error: BackendError) -> None:
        self._error = str(error)

    def encode(self, text: str) -> dict[str, Array]:
        """Refuse any text.

        Raises:
            BackendError: always; it says what to install.
        """
        raise BackendError(f"the text {_quote(text)} cannot be read: {self._error}")


def text_encoders(
    bundle: Bundle, specs: Mapping[str, TensorSpec], dimensions: Mapping[str, Dimension]
) -> dict[str, TextEncoder | NoTextEncoder]:
    """The encoder of each modality that takes text; each file is loaded once.

    Args:
        bundle: has the files.
        specs: of what a call takes, by name.
        dimensions: limits of dynamic dimensions.

    Without the ``tokenizers`` library a :class:`UserWarning` says so, and the bundle takes token
    ids alone.

    Raises:
        BundleError: a file is no tokenizer, or one that no bundle may hold.
    """
    manifest, by_file = bundle.manifest, {}
    takers = {m.name: m.tokenizer for m in manifest.modalities if m.tokenizer is not None}
    try:
        _library()
    except BackendError as error:
        warnings.warn(
            f"{bundle.path}: {', '.join(takers)}: token ids are taken, texts are refused: {error}",
            UserWarning,
            stacklevel=2,
        )
        return {name: NoTextEncoder(error) for name in takers}
    encoders: dict[str, TextEncoder | NoTextEncoder] = {}
    for name, tokenizer in takers.items():
        if tokenizer.file not in by_file:
            # That it is allowed was checked when the bundle was opened.
            data = bytes(bundle.read(tokenizer.file))
            by_file[tokenizer.file] = _load(data, f"{bundle.path}: {tokenizer.file}")
        encoders[name] = TextEncoder(by_file[tokenizer.file], tokenizer, specs, dimensions)
    return encoders


def load_tokenizer(data: bytes, source: str) -> UnpaddedTokenizer:
    """A tokenizer of the ``tokenizers`` library from its file, checked first.

    Raises:
        BackendError: the library is not installed.
        BundleError: no tokenizer, or one that no bundle may hold.
    """
    check_tokenizer(data, source)
    return _load(data, source)


def _library() -> Any:  # noqa: ANN401
    """The library's class of tokenizers, which a bundle without text need not load."""
    try:
        from tokenizers import Tokenizer as Tokens
    except ImportError as error:
        raise BackendError(
            f"text needs the tokenizers library: pip install 'mmedge[text]': {error}"
        ) from error
    return Tokens


def _load(data: bytes, source: str) -> UnpaddedTokenizer:
    library = _library()
    try:
        tokens = library.from_buffer(data)
        padding = tokens.padding
        tokens.no_padding()
    except BaseException as error:
        if not _is_of_library(error):
            raise
        raise BundleError(
            f"{source} is no tokenizer of the tokenizers library: {error}; export the bundle again"
        ) from error
    return UnpaddedTokenizer(tokens, padding)


def _is_of_library(error: BaseException) -> bool:
    """Whether the library raised it: plain exceptions, and panics, which are none of those."""
    if isinstance(error, InputError | BundleError):
        return False
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _quote(text: str) -> str:
    quoted = ascii(text)
    return quoted if len(quoted) <= 80 else f"{quoted[:77]}..."
