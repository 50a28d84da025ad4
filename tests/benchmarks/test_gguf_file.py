"""The reader of GGUF files, on files that are written here."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks/networks"))

from gguf_file import read_gguf
from gguf_tokenizer import tokenizer

STRING, ARRAY = 8, 9
FORMS = {0: "B", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 12: "d"}


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value_bytes(kind, value):
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        of, values = value
        return struct.pack("<IQ", of, len(values)) + b"".join(value_bytes(of, v) for v in values)
    return struct.pack("<" + FORMS[kind], value)


def write(path, metadata=(), tensors=(), version=3, alignment=32):
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    parts += [
        text(key) + struct.pack("<I", kind) + value_bytes(kind, value)
        for key, kind, value in metadata
    ]
    data = b""
    for name, shape, kind, content in tensors:
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        parts.append(text(name) + sizes + struct.pack("<IQ", kind, len(data)))
        data += content + b"\0" * (-len(content) % alignment)
    head = b"".join(parts)
    path.write_bytes(head + b"\0" * (-len(head) % alignment) + data)
    return path


def test_metadata_of_every_kind(tmp_path):
    metadata = [
        ("a", 0, 255),
        ("b", 5, -3),
        ("c", 6, 0.5),
        ("d", 7, True),
        ("e", STRING, "é"),
        ("f", ARRAY, (STRING, ["x", "yz"])),
        ("g", ARRAY, (5, [1, -2])),
        ("h", 10, 2**40),
        ("i", 12, 0.1),
    ]
    values, tensors = read_gguf(write(tmp_path / "m.gguf", metadata))
    assert list(values.values()) == [255, -3, 0.5, True, "é", ["x", "yz"], [1, -2], 2**40, 0.1]
    assert tensors == {}


def block(integers, *halves):
    """32 integers of four bits: the first 16 in the lower halves of the bytes."""
    low, high = np.split(np.asarray(integers, np.uint8), 2)
    return np.array(halves, np.float16).tobytes() + (low | high << 4).tobytes()


def test_weights_of_every_type(tmp_path):
    rng = np.random.default_rng(0)
    values = np.array([[1.5, -2, 0.25], [3, 0, -8]], np.float32)
    four = rng.integers(0, 16, (2, 32))
    eight = rng.integers(-127, 128, (1, 32)).astype(np.int8)
    tensors = [
        ("f32", (2, 3), 0, values.tobytes()),
        ("f16", (2, 3), 1, values.astype(np.float16).tobytes()),
        ("bf16", (2, 3), 30, (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()),
        ("q4_0", (2, 32), 2, block(four[0], 0.5) + block(four[1], -2)),
        ("q4_1", (2, 32), 3, block(four[0], 0.5, -1) + block(four[1], 0.25, 3)),
        ("q8_0", (1, 32), 8, np.float16(0.125).tobytes() + eight.tobytes()),
    ]
    for alignment in (32, 64):
        file = write(
            tmp_path / "m.gguf", [("general.alignment", 4, alignment)], tensors, alignment=alignment
        )
        _, read = read_gguf(file)
        for name in ("f32", "f16", "bf16"):
            np.testing.assert_array_equal(read[name], values)
        scale = np.array([[0.5], [-2]])
        np.testing.assert_array_equal(read["q4_0"], scale * (four - 8))
        expected = np.array([[0.5], [0.25]]) * four + np.array([[-1], [3]])
        np.testing.assert_array_equal(read["q4_1"], expected)
        np.testing.assert_array_equal(read["q8_0"], 0.125 * eight)
        assert all(value.dtype == np.float32 for value in read.values())


def test_what_it_does_not_know_is_refused(tmp_path):
    file = tmp_path / "m.gguf"
    with pytest.raises(ValueError, match="expected GGUF of version 3, got b'GGUF' 2"):
        read_gguf(write(file, version=2))
    with pytest.raises(ValueError, match="x has type 14 of ggml; this reader knows 0, 1, 2"):
        read_gguf(write(file, tensors=[("x", (256,), 14, bytes(210))]))
    with pytest.raises(ValueError, match="x has 3 weights, which are no whole blocks of 32"):
        read_gguf(write(file, tensors=[("x", (3,), 8, bytes(34))]))
    with pytest.raises(ValueError, match="inside of a value"):
        read_gguf(write(file, tensors=[("x", (4, 32), 8, bytes(34))]))
    with pytest.raises(ValueError, match="a value has type 13"):
        FORMS[13] = "B"
        read_gguf(write(file, [("x", 13, 0)]))


def test_the_tokenizer_of_a_file():
    tokenizers = pytest.importorskip("tokenizers")
    tokens = ["<end>", "a", "b", "Ġ", "ab", "1", "2", "Ġab"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, *[1] * 7],
        "tokenizer.ggml.merges": ["a b", "Ġ ab"],
    }
    reader = tokenizers.Tokenizer.from_str(json.dumps(tokenizer(metadata)))
    assert reader.encode("ab ab12<end>").ids == [4, 7, 5, 6, 0]
    assert reader.decode([4, 7, 5, 6, 0]) == "ab ab12"
    with pytest.raises(ValueError, match="expected a tokenizer of kind gpt2, smollm; got llama"):
        tokenizer({**metadata, "tokenizer.ggml.model": "llama"})
