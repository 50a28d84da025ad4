"""The reader of CTranslate2's binary files, on files that are written here."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks/networks"))

from ctranslate2_file import read_model

FLOAT32, INT8, INT16, INT32, FLOAT16, BFLOAT16 = range(6)


def text(value):
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def variable(name, dtype, value):
    sizes = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
    return text(name) + sizes + struct.pack("<BI", dtype, value.nbytes) + value.tobytes()


def write(path, variables, aliases=(), version=6, end=b""):
    parts = [struct.pack("<I", version), text("Spec"), struct.pack("<II", 3, len(variables))]
    parts += [variable(*item) for item in variables]
    parts += [struct.pack("<I", len(aliases)), *(text(name) for pair in aliases for name in pair)]
    path.write_bytes(b"".join(parts) + end)
    return path


def test_every_dtype_comes_as_its_numbers(tmp_path):
    values = np.array([[1.5, -2, 0.25], [3, 0, -8]], np.float32)
    rows = np.array([127, 10], np.float32)
    variables = [
        ("a", FLOAT32, values),
        ("b", FLOAT16, values.astype(np.float16)),
        ("c", BFLOAT16, (values.view(np.uint32) >> 16).astype(np.uint16)),
        ("d", INT32, np.array([3, -4], np.int32)),
        ("e/weight", INT8, np.array([[127, -127, 3], [1, 2, 3]], np.int8)),
        ("e/weight_scale", FLOAT32, rows),
        ("f/weight", INT16, np.array([[1024, -1]], np.int16)),
        ("f/weight_scale", FLOAT32, np.array(1024, np.float32)),
        ("g", INT8, np.array(1, np.int8)),
    ]
    file = write(tmp_path / "model.bin", variables, [("h/weight", "e/weight"), ("i", "a")])

    name, tensors = read_model(file)

    assert name == "Spec"
    assert sorted(tensors) == ["a", "b", "c", "d", "e/weight", "f/weight", "g", "h/weight", "i"]
    for key in "abci":
        np.testing.assert_array_equal(tensors[key], values)
        assert tensors[key].dtype == np.float32
    np.testing.assert_array_equal(tensors["d"], [3, -4])
    # As CTranslate2 computes it: times the reciprocal of a row's scale.
    expected = np.array([[127, -127, 3], [1, 2, 3]], np.float32) * (1 / rows)[:, None]
    np.testing.assert_array_equal(tensors["e/weight"], expected)
    np.testing.assert_array_equal(tensors["h/weight"], expected)
    np.testing.assert_array_equal(tensors["f/weight"], np.array([[1, -1 / 1024]], np.float32))
    assert tensors["g"].shape == ()


def test_what_it_does_not_know_is_refused(tmp_path):
    file = tmp_path / "model.bin"
    value = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="binary version 7; this reader knows 6"):
        read_model(write(file, [], version=7))
    with pytest.raises(ValueError, match="a has dtype 6; this reader knows 0 to 5"):
        read_model(write(file, [("a", 6, value)]))
    with pytest.raises(ValueError, match="goes on for 3 bytes"):
        read_model(write(file, [("a", 0, value)], end=b"abc"))
    file.write_bytes(write(file, [("a", 0, value)]).read_bytes()[:-9])
    with pytest.raises(ValueError, match="inside of a value"):
        read_model(file)
