"""``mmedge/text.h`` by ctypes: what conformance cases do not ask of it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

import mmedge
from mmedge.errors import InputError
from mmedge.execution.detokenize import TextStream, detokenizer
from mmedge.native.runtime import NativeBundle, NativePipeline, library
from mmedge.native.structures import Tensor
from mmedge.native.text import NativeTexts, NativeTokenizer

pytestmark = pytest.mark.native_build

BUNDLES = Path(__file__).parents[3] / "conformance" / "cases" / "bundles"
OK, INVALID, NOT_WARM = 0, 1, 201


def load(name: str) -> NativePipeline:
    with NativeBundle(BUNDLES / f"{name}.mmedge") as bundle:
        return NativePipeline(bundle, threads=1, kernels=0, allow_unverified=1)


def test_a_tokenizer_goes_on_without_its_pipeline():
    pipe = load("completer")
    with NativeTokenizer(pipe, "text") as tokenizer, NativeTokenizer(pipe) as words:
        pipe.close()
        ids = tokenizer.encode("a b c")["tokens"]
        assert words.decode(ids[0].tolist()) == "a b c"
        with words.stream() as stream:
            words.close()
            pieces = [stream.add(token, last=at == 2) for at, token in enumerate(ids[0].tolist())]
            assert "".join(pieces) == "a b c"
            stream.reset()
            assert stream.end() == ""


def test_what_takes_no_text_is_named():
    with load("completer") as pipe, load("tiny") as tiny:
        with pytest.raises(InputError, match="input 'image' takes no text; these do: text"):
            NativeTokenizer(pipe, "image")
        with pytest.raises(InputError, match="this bundle has no tokenizer"):
            NativeTokenizer(tiny, "image")
        with pytest.raises(InputError, match="makes no text of tokens"):
            NativeTokenizer(tiny)
        with NativeTokenizer(pipe) as words, pytest.raises(InputError, match="a loop's tokens"):
            words.encode("a")
        texts = NativeTexts(pipe)
        tokens = np.zeros((1, 2), np.int64)
        with pytest.raises(InputError, match="'tokens' is given twice"):
            texts.arrays({"text": "a", "tokens": tokens})
        texts.close()


def test_a_text_and_tokens_beyond_what_was_set_aside_are_not_warm():
    c = library()
    with load("word-piece") as pipe:
        NativeTokenizer(pipe, "text").close()  # declares the functions
        handle, clone = ctypes.c_void_p(), ctypes.c_void_p()
        assert c.mmedge_tokenizer_open(pipe.handle, b"text", ctypes.byref(handle)) == OK
        assert c.mmedge_tokenizer_clone(handle, ctypes.byref(clone)) == OK
        tensors, count = (Tensor * 2)(), ctypes.c_int32()
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        row = (ctypes.c_int64 * 5000)(*[9] * 5000)
        for each in (handle, clone):
            long = b"a" * 1025
            status = c.mmedge_tokenizer_encode(
                each, long, ctypes.c_size_t(1025), tensors, count, None
            )
            assert status == NOT_WARM
            assert b"mmedge_tokenizer_reserve() with more characters" in c.mmedge_last_error()
            wide = ctypes.c_int64(5000)
            given = ctypes.byref(text), ctypes.byref(size)
            assert c.mmedge_tokenizer_decode(each, row, wide, *given) == NOT_WARM
            assert c.mmedge_tokenizer_reserve(each, ctypes.c_int64(2000), wide) == OK
            assert c.mmedge_tokenizer_decode(each, row, wide, *given) == OK
            status = c.mmedge_tokenizer_encode(
                each, long, ctypes.c_size_t(1025), tensors, count, None
            )
            assert status != NOT_WARM
        assert c.mmedge_tokenizer_reserve(handle, ctypes.c_int64(-1), ctypes.c_int64(1)) == INVALID
        for each in (handle, clone):
            c.mmedge_tokenizer_close(each)


@pytest.mark.parametrize("name", ["byte-level", "unigram", "word-piece", "word-level"])
def test_text_comes_as_in_python(name):
    rng = np.random.default_rng(2)
    with mmedge.Bundle.open(BUNDLES / f"{name}.mmedge") as bundle, load(name) as pipe:
        decode = detokenizer(bundle, "assets/t.json")
        with NativeTokenizer(pipe, "text") as tokenizer:
            for count in (1, 5, 60, 200):
                row = rng.integers(0, 300, count).tolist()
                assert tokenizer.decode(row) == decode(row)
                expected = TextStream(decode)
                with tokenizer.stream() as stream:
                    for token in row:
                        assert stream.add(token) == expected.add(token)
                    assert stream.end() == expected.end()
