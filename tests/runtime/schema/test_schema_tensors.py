"""safetensors are read within limits, as the library reads them, or refused."""

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import load, save

from mmedge.schema.read import Misfit
from mmedge.schema.tensors import read_tensors
from mmedge.spec import DTYPES

ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: arrays(DTYPES[name], array_shapes(min_dims=0, max_dims=4, min_side=0))
)


@given(st.dictionaries(st.text(min_size=1).filter(lambda n: n != "__metadata__"), ARRAYS))
def test_what_the_library_writes_is_read(tensors):
    with contextlib.suppress(UnicodeEncodeError):
        data = save(tensors)
        found = read_tensors(data)
        assert found.keys() == tensors.keys()
        for name, array in tensors.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert found[name].tobytes() == array.tobytes()


def made(header, size=16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def one(**changes):
    return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 63) + b"{}",
        struct.pack("<Q", 3) + b"{}",
        made(b"\xff\xfe"),
        made(b"[" * 100_000),
        made(b"[]"),
        made({}),
        made(b'{"a":1,"a":2}'),
        made({"a": 1}),
        made(one(shape=[1] * 70)),
        made(one(shape=[1 << 63, 0], data_offsets=[0, 0]), 0),
        made(one(shape=[1 << 62, 1 << 62, 0], data_offsets=[0, 0]), 0),
        made(one(shape=[-4])),
        made(one(shape=[4.0])),
        made(one(shape=[True, 4])),
        made(one(shape="4")),
        made(one(shape=[5])),
        made(one(dtype="BF16", shape=[8])),
        made(one(dtype="F8_E4M3", shape=[16])),
        made(one(dtype=["F32"])),
        made(one(data_offsets=[0, 1 << 70])),
        made(one(data_offsets=[16, 0])),
        made(one(data_offsets=[-16, 0])),
        made(one(data_offsets=[0])),
        made(one(data_offsets=None)),
        made(one(more=1)),
        made(one(), 15),
        made(one(), 17),
        made({**one(), "b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        made({**one(), "b": {"dtype": "F32", "shape": [2], "data_offsets": [20, 28]}}, 28),
        made(one(dtype="BOOL", shape=[16]))[:-1] + b"\x02",
        made(
            {f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(40000)}
        ),
    ],
)
def test_what_is_refused(data):
    with pytest.raises(Misfit):
        read_tensors(data)


@given(st.data())
def test_altered_bytes_are_refused_or_read_as_the_library_reads_them(data):
    whole = bytearray(save({"a": np.arange(4, dtype=np.float32), "b.c": np.ones((2, 1), np.int64)}))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + 1] = data.draw(st.binary(max_size=2))
    with contextlib.suppress(Misfit):
        found = read_tensors(bytes(whole))
        expected = load(bytes(whole))
        assert {n: a.tobytes() for n, a in found.items()} == {
            n: a.tobytes() for n, a in expected.items()
        }
