"""Tokenizers of libmmedge, by ctypes: ``cpp_ext/include/mmedge/text.h``."""

from __future__ import annotations

import ctypes
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.closable import Closable
from mmedge.errors import InputError
from mmedge.native.runtime import NativePipeline, check, library
from mmedge.native.structures import Tensor, array_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.spec import Array

__all__ = ["NativeTextStream", "NativeTexts", "NativeTokenizer"]

#: Most characters of a text, for which memory is set aside.
MOST_CHARACTERS = 8192


@cache
def _library() -> Any:  # noqa: ANN401
    """The loaded library, with the functions of text.h declared."""
    c = library()
    pointer, handle = ctypes.POINTER, ctypes.c_void_p
    given = pointer(ctypes.c_void_p), pointer(ctypes.c_size_t)
    c.mmedge_tokenizer_open.argtypes = (handle, ctypes.c_char_p, pointer(handle))
    c.mmedge_tokenizer_clone.argtypes = (handle, pointer(handle))
    c.mmedge_tokenizer_reserve.argtypes = (handle, ctypes.c_int64, ctypes.c_int64)
    c.mmedge_tokenizer_encode.argtypes = (
        handle, ctypes.c_char_p, ctypes.c_size_t, pointer(Tensor), pointer(ctypes.c_int32),
        pointer(ctypes.c_int32),
    )  # fmt: skip
    c.mmedge_tokenizer_decode.argtypes = (handle, pointer(ctypes.c_int64), ctypes.c_int64, *given)
    c.mmedge_text_stream_create.argtypes = (handle, pointer(handle))
    c.mmedge_text_stream_add.argtypes = (handle, ctypes.c_int64, ctypes.c_int32, *given)
    c.mmedge_text_stream_end.argtypes = (handle, *given)
    for name in ("tokenizer_close", "text_stream_close", "text_stream_reset"):
        getattr(c, f"mmedge_{name}").argtypes = (handle,)
        getattr(c, f"mmedge_{name}").restype = None
    return c


class _Handle(Closable):
    """What the library has made, and frees."""

    _close: str

    def __init__(self) -> None:
        self._c = _library()
        self.handle = ctypes.c_void_p()

    def _text(self, function: str, *arguments: object) -> str:
        """The text that a function gives."""
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        call = getattr(self._c, function)
        check(self._c, call(self.handle, *arguments, ctypes.byref(text), ctypes.byref(size)))
        return ctypes.string_at(text, size.value).decode() if size.value else ""

    def close(self) -> None:
        """Free it. May be called twice."""
        handle, self.handle = self.handle, ctypes.c_void_p()
        getattr(self._c, self._close)(handle)


class NativeTokenizer(_Handle):
    """A tokenizer of a bundle; for one thread at a time.

    Args:
        pipeline: of the bundle.
        name: of the modality, or of its input of ids; None: the one that makes text of a loop's
            tokens.

    Raises:
        InputError: nothing of that name takes a text, or the loop gives none.
        BundleError: the file is no tokenizer that libmmedge reads.
    """

    _close = "mmedge_tokenizer_close"

    def __init__(self, pipeline: NativePipeline, name: str | None = None) -> None:
        super().__init__()
        text = None if name is None else name.encode()
        made = ctypes.byref(self.handle)
        check(self._c, self._c.mmedge_tokenizer_open(pipeline.handle, text, made))
        self._reserve(0)

    def _reserve(self, tokens: int) -> None:
        check(self._c, self._c.mmedge_tokenizer_reserve(self.handle, MOST_CHARACTERS, tokens))

    def encode(self, text: str) -> dict[str, Array]:
        """Ids, and the mask where there is one, by input: [1, tokens].

        A text that the tokenizer itself cuts is cut with a :class:`UserWarning`.

        Raises:
            InputError: the text is too long, has no tokens, or is no Unicode.
        """
        data = text.encode("utf-8", "surrogatepass")
        tensors, count, is_cut = (Tensor * 2)(), ctypes.c_int32(), ctypes.c_int32()
        check(
            self._c,
            self._c.mmedge_tokenizer_encode(self.handle, data, len(data), tensors, count, is_cut),
        )
        if is_cut.value:
            warnings.warn(
                f"a text of {len(text)} characters is cut, as the bundle's tokenizer says",
                UserWarning,
                stacklevel=2,
            )
        return {tensor.name.decode(): array_of(tensor) for tensor in tensors[: count.value]}

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        row = np.array(tokens, np.int64)
        self._reserve(len(row))
        data = row.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))
        return self._text("mmedge_tokenizer_decode", data, len(row))

    def stream(self) -> NativeTextStream:
        """The text of one row of tokens, as they come."""
        return NativeTextStream(self)


class NativeTextStream(_Handle):
    """The text of one row of tokens; :meth:`NativeTokenizer.stream` makes it."""

    _close = "mmedge_text_stream_close"

    def __init__(self, tokenizer: NativeTokenizer) -> None:
        super().__init__()
        made = ctypes.byref(self.handle)
        check(self._c, self._c.mmedge_text_stream_create(tokenizer.handle, made))

    def add(self, token: int, *, last: bool = False) -> str:
        """What ``token`` adds to the text; with ``last`` also what is not complete."""
        return self._text("mmedge_text_stream_add", token, last)

    def end(self) -> str:
        """What is not complete: no token follows."""
        return self._text("mmedge_text_stream_end")

    def reset(self) -> None:
        """Begin another row."""
        self._c.mmedge_text_stream_reset(self.handle)


class NativeTexts:
    """What a pipeline's calls take and give as text; for one thread at a time.

    Args:
        pipeline: of the bundle.
    """

    def __init__(self, pipeline: NativePipeline) -> None:
        self._pipeline = pipeline
        self._tokenizers: dict[str | None, NativeTokenizer] = {}

    def tokenizer(self, name: str | None = None) -> NativeTokenizer:
        """See :class:`NativeTokenizer`; each is opened once."""
        if name not in self._tokenizers:
            self._tokenizers[name] = NativeTokenizer(self._pipeline, name)
        return self._tokenizers[name]

    def arrays(self, values: Mapping[str, Array | str]) -> dict[str, Array]:
        """The inputs of a call, with ids and masks in the place of texts.

        Raises:
            InputError: a text does not fit, or an input is given twice.
        """
        arrays: dict[str, Array] = {}
        for name, value in values.items():
            if not isinstance(value, str):
                arrays[name] = value
                continue
            tokens = self.tokenizer(name).encode(value)
            twice = [key for key in tokens if key in arrays or (key != name and key in values)]
            if twice:
                raise InputError(
                    f"input {twice[0]!r} is given twice: by itself and by the text of {name!r}"
                )
            arrays |= tokens
        return arrays

    def close(self) -> None:
        """Free all. May be called twice."""
        for tokenizer in self._tokenizers.values():
            tokenizer.close()
        self._tokenizers = {}
