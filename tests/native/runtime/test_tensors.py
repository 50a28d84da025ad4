"""Tensors and golden samples in C++ beside Python: the same are read, and the same are refused."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles_bad import file_attacks
from fuzz.native import fuzz
from line_probe import LineProbe
from loop_samples import write_captions, write_filter, write_pictures
from safetensors import SafetensorError, deserialize
from safetensors.numpy import load, save

from mmedge.bundle import Bundle
from mmedge.bundle.samples import MAX_HEADER_BYTES, _array, samples_from_bytes
from mmedge.errors import BundleError
from mmedge.schema import SAMPLES, manifest_from_json, manifest_to_json
from mmedge.schema.names import MAX_RANK
from mmedge.schema.read import Misfit
from mmedge.schema.tensors import read_tensors
from mmedge.spec import Array, Constraint, Dimension, Manifest, Modality, Stage, TensorSpec

pytestmark = pytest.mark.native_build


@pytest.fixture(scope="module")
def tensors(probe) -> Iterator[LineProbe]:
    program = LineProbe(probe("tensors_probe"))
    yield program
    program.close()


def lines(arrays: Mapping[str, Array]) -> list[str]:
    """Arrays as the program shows them."""
    return [
        f"{name.encode('utf-8', 'surrogatepass').hex()}="
        f"{','.join([array.dtype.name, *map(str, array.shape)])}="
        f"{hashlib.sha256(array.tobytes()).hexdigest()}"
        for name, array in arrays.items()
    ] or [""]


def strict(data: bytes) -> list[str] | None:
    try:
        return sorted(lines(read_tensors(data)))
    except Misfit:
        return None


def by_library(data: bytes) -> list[str] | None:
    """What the first half of ``samples_from_bytes`` reads.

    More axes than a manifest can ask for are refused in its second half, and in C++ at once.
    """
    if int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES:
        return None
    try:
        tensors = dict(deserialize(data))
        arrays = {name: _array(name, tensor, "") for name, tensor in tensors.items()}
    except (SafetensorError, ValueError, OverflowError, BundleError):
        return None
    if any(array.ndim > MAX_RANK for array in arrays.values()):
        return None
    return sorted(lines(arrays))


def file_of(header: str | bytes | list[object] | dict[str, object], data: bytes = b"") -> bytes:
    text = header if isinstance(header, str | bytes) else json.dumps(header)
    text = text.encode() if isinstance(text, str) else text
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4), **more) -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def one(text: str, data: bytes = b"\0\0\0\0") -> bytes:
    """A file of one tensor whose JSON is given."""
    return file_of('{"a":%s}' % text, data)  # noqa: UP031


GOOD = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def extra(value: str) -> bytes:
    return one(GOOD[:-1] + f',"x":{value}}}')


def meta(value: str) -> bytes:
    return file_of(f'{{"__metadata__":{value},"a":{GOOD}}}', b"1234")


def empty(dtype: str, *shape: int) -> bytes:
    return file_of({"a": entry(dtype, shape, (0, 0))})


#: Headers in which readers of JSON and of safetensors differ from one another.
FILES = [
    b"", b"12345", b"\0" * 8, (1 << 63).to_bytes(8, "little"), (20 << 20).to_bytes(8, "little"),
    one(GOOD), one(GOOD, b"1234" * 2), one(GOOD, b"123"), file_of("{}"), file_of("{}", b"1"),
    file_of(f'  {{"a":{GOOD}}} \n\t\r', b"1234"), file_of(f'{{"a":{GOOD}}}\0', b"1234"),
    file_of(b"\xef\xbb\xbf{}"), file_of("[]"), file_of("null"), file_of("1"), file_of(""),
    file_of(f'{{"a":{GOOD},"a":{GOOD}}}', b"1234"), file_of(f'{{"a":1,"a":{GOOD}}}', b"1234"),
    file_of('{"a":%s,"a":%s}' % (json.dumps(entry("C64", [9], [7, 8])), GOOD), b"1234"),  # noqa: UP031
    extra("1"), extra("{}"), extra('{"b":1,"b":2}'), extra("1e400"), extra("-1e400"),
    extra("1e-400"), extra("0e999999999999"), extra("1.7976931348623157e308"), extra("1.8e308"),
    extra("9" * 300), extra("9" * 308), extra("9" * 310), extra("9" * 5000), extra("NaN"),
    extra("-Infinity"), extra('"\\ud800"'), extra('"\\udc00"'), extra('"\\ud800\\u0041"'),
    extra('"\\ud800\\udc00"'), extra('"\\ud83d\\ude00 \\u00e9"'), extra('"\\x"'), extra('"\x01"'),
    extra('"\x7f"'), extra("01"), extra("1."), extra("-"), extra("+1"), extra(".5"), extra("tru"),
    *(extra("[" * depth + "]" * depth) for depth in (124, 125, 126, 127, 400)),
    meta("null"), meta("{}"), meta('{"x":"y"}'), meta('{"x":"y","x":"z"}'), meta('{"x":1}'),
    meta('{"x":null}'), meta("[]"), meta("1"), meta('{"x":{"a":1,"a":2}}'), meta("NaN"),
    meta("[" * 300 + "]" * 300), meta('"\\ud800"'), meta('{"\\ud800":"x"}'),
    meta('null,"__metadata__":null'), meta('null,"\\u005f_metadata__":null'),
    one(GOOD.replace('"dtype"', '"dtype":"F32","dtype"')), extra('1,"x":2'),
    one('["F32",[1],[0,4]]'), one('["F32",[1],[0,4],1]'), one('["F32",[1]]'), one("[]"),
    one(GOOD.replace('"F32"', '{"F32":null}')), one(GOOD.replace('"F32"', '{"F32":[]}')),
    one(GOOD.replace('"F32"', '{"F32":null,"F16":null}')), one(GOOD.replace('"F32"', "{}")),
    one(GOOD.replace('"F32"', '"f32"')), one(GOOD.replace('"F32"', "null")),
    one(GOOD.replace("[1]", "[1.0]")), one(GOOD.replace("[1]", "[1e0]")),
    one(GOOD.replace("[1]", "[true]")), one(GOOD.replace("[1]", "1")),
    one(GOOD.replace("[1]", "[-1]")), one(GOOD.replace("[0,", "[-0,")),
    one(GOOD.replace("[1]", "[]")), one(GOOD.replace("[1]", str([1] * 8))),
    one(GOOD.replace("[1]", str([1] * 9))),
    one(GOOD.replace("[0,4]", "[0,4,4]")), one(GOOD.replace("[0,4]", "[4]")),
    one(GOOD.replace("[0,4]", "[4,0]")), one(GOOD.replace("[0,4]", "[0,18446744073709551615]")),
    one(GOOD.replace("[0,4]", "[0,18446744073709551616]")),
    one('{"dtyp\\u0065":"F3\\u0032","shape":[1],"data_offsets":[0,4]}'),
    one('{"dtype":"F32","shape":[1]}'), one("1"), one("null"), one('"F32"'),
    file_of(f'{{"\\ud800":{GOOD}}}', b"1234"), file_of(f'{{"é\\/":{GOOD}}}', b"1234"),
    file_of(f'{{"a":{GOOD},}}', b"1234"), file_of(f'{{"a":{GOOD} "b":1}}', b"1234"),
    file_of(f'{{"a"{GOOD}}}', b"1234"), file_of(b'{"\xff":1}'), file_of(b'{"\xed\xa0\x80":1}'),
    file_of(b'{"\xc0\x80":1}'), file_of(b'{"\xf4\x90\x80\x80":1}'), file_of('{"a'),
    empty("F32", 0), empty("F32", 0, 1 << 62), empty("U8", 0, 1 << 62), empty("F32", 1 << 62, 0),
    empty("F32", 0, 1 << 32, 1 << 32), empty("F32", 1 << 32, 1 << 32, 0),
    empty("U8", 1 << 32, 1 << 31, 0), empty("U8", 1 << 32, (1 << 31) - 1, 0),
    empty("F64", (1 << 60) - 1, 0), empty("F64", 1 << 60, 0), empty("U8", 1 << 63, 0),
    empty("U8", (1 << 63) - 1, 0), empty("U8", 0, 1 << 64), empty("F32", *[0] * 8),
    file_of({"a": entry("F32", [1], [4, 8])}, b"12345678"),
    file_of({"b": entry("F32", [0], [4, 4]), "a": entry(), "c": entry("F32", [0])}, b"1234"),
    file_of({"b": entry("U8", [0], [4, 4]), "a": entry(), "c": entry("U8", [0], [0, 0])}, b"1234"),
    file_of({"b": entry("F32", [0], [2, 2]), "a": entry()}, b"1234"),
    file_of({"a": entry(), "b": entry()}, b"1234"),
    file_of({"a": entry(), "b": entry("U8", [3], [3, 6])}, b"123456"),
    file_of({"a": entry("BOOL", [4])}, b"\0\1\0\1"),
    *(file_of({"a": entry(name, [8], [0, 8 * size])}, bytes(8 * size)) for name, size in {
        "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4,
        "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8, "F8_E4M3": 1, "I4": 1, "": 1,
    }.items()),
]  # fmt: skip

#: The strict reader refuses it for its byte; NumPy has no such boolean to compare.
OTHER_BOOLEAN = file_of({"a": entry("BOOL", [4])}, b"\0\1\2\1")


def test_files_that_readers_differ_in(tensors, tmp_path):
    verdicts = {"strict": set(), "library": set()}
    for index, data in enumerate(FILES):
        (tmp_path / "file").write_bytes(data)
        for command, expected in (("strict", strict(data)), ("library", by_library(data))):
            taken, answers = tensors.ask(command, tmp_path / "file")
            assert taken == (expected is not None), (index, command, data[:200], answers)
            assert not taken or sorted(answers) == expected, (index, command)
            verdicts[command].add((index, taken))
    # The two differ, and each takes some: or this would test one reader.
    assert verdicts["strict"] != verdicts["library"]
    (tmp_path / "file").write_bytes(OTHER_BOOLEAN)
    assert strict(OTHER_BOOLEAN) is None
    assert "booleans of 0 and 1" in tensors.error("strict", tmp_path / "file")
    assert by_library(OTHER_BOOLEAN) is not None
    tensors.get("library", tmp_path / "file")


def test_limits_of_the_strict_reader(tensors, tmp_path):
    many = {f"{i}": entry("U8", [0], [0, 0]) for i in range(1 << 15)}
    for header in (
        many,
        many | {"more": entry("U8", [0], [0, 0])},
        {"a": entry("U8", [1] * 9, [0, 1])},
    ):
        data = file_of(header, b"1" if "a" in header else b"")
        (tmp_path / "file").write_bytes(data)
        taken, answers = tensors.ask("strict", tmp_path / "file")
        expected = strict(data)
        assert taken == (expected is not None)
        assert not taken or sorted(answers) == expected
    long = file_of("{}" + " " * (4 << 20))
    (tmp_path / "file").write_bytes(long)
    assert strict(long) is None
    tensors.error("strict", tmp_path / "file")
    tensors.get("library", tmp_path / "file")


def some_arrays() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    return {
        "a": rng.normal(size=(2, 3)).astype(np.float32),
        "b.c": rng.integers(0, 9, (4,), dtype=np.int64),
        "flag": np.array([True, False, True]),
        "half": np.zeros((0, 7), np.float16),
        "one": np.array(3, np.uint16),
    }


def test_mutated_headers(tensors, tmp_path):
    rng = random.Random(11)
    seed = save(some_arrays())
    header = int.from_bytes(seed[:8], "little")
    words = (
        "0",
        "1",
        "-0",
        "[",
        "]",
        "{",
        "}",
        '"',
        ",",
        ":",
        "\\",
        "F64",
        '"U8"',
        "null",
        "e",
        ".",
    )
    verdicts = {"strict": [], "library": []}
    for _ in range(800):
        data = bytearray(seed)
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(8, 8 + header)
            kind = rng.randrange(5)
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del data[at : at + rng.choice((1, 2, 9))]
            elif kind == 2:
                other = rng.randrange(8, 8 + header)
                data[at:at] = data[other : other + rng.choice((1, 2, 9, 40))]
            elif kind == 3:
                word = rng.choice(words).encode()
                data[at : at + len(word)] = word
            else:  # another digit in a number
                digits = [i for i in range(8, 8 + header) if chr(data[i]).isdigit()]
                if digits:
                    data[rng.choice(digits)] = ord(rng.choice("0123456789"))
        if rng.random() < 0.8:  # the header ends where it did before
            data[:8] = (len(data) - len(seed) + header).to_bytes(8, "little")
        (tmp_path / "file").write_bytes(data)
        for command, expected in (
            ("strict", strict(bytes(data))),
            ("library", by_library(bytes(data))),
        ):
            taken, answers = tensors.ask(command, tmp_path / "file")
            assert taken == (expected is not None), (command, bytes(data), answers)
            assert not taken or sorted(answers) == expected, (command, bytes(data))
            verdicts[command].append(taken)
    assert all(10 < sum(taken) < 790 for taken in verdicts.values())


def golden(data: bytes, manifest: Manifest) -> tuple[list[str] | None, str]:
    """What Python reads of golden samples, or why it refuses them."""
    try:
        samples = samples_from_bytes(data, manifest, source="source")
    except BundleError as error:
        return None, str(error).replace("\n", " ")
    groups: dict[str, Array] = {}
    for i, sample in enumerate(samples.golden):
        for kind, arrays in (
            ("in", sample.inputs),
            ("out", sample.outputs),
            ("step", sample.step),
            ("loop", sample.loop),
        ):
            groups |= {f"{i}.{kind}.{name}": arrays[name] for name in arrays}
    for kind, arrays in (
        ("absent", samples.absent),
        ("state", samples.states),
        ("unconditional", samples.unconditional),
    ):
        groups |= {f"{kind}.{name}": arrays[name] for name in arrays}
    return sorted(lines(groups)), ""


class Case:
    """A manifest and a good samples file of it."""

    def __init__(self, folder: Path, manifest: Manifest, data: bytes) -> None:
        self.manifest, self.data = manifest, data
        self.manifest_path, self.path = folder / "manifest.json", folder / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        self.manifest_path.write_text(manifest_to_json(manifest))

    def compare(self, tensors: LineProbe, data: bytes, *, faults: int = 1) -> bool:
        """Whether both take the data: they read the same of it, or refuse it.

        Of one fault they say the same. Of several, either may be named: tensors have another order.
        """
        self.path.write_bytes(data)
        expected, message = golden(data, self.manifest)
        taken, answers = tensors.ask("samples", self.path, self.manifest_path)
        assert taken == (expected is not None), (answers, message)
        if taken:
            assert sorted(answers) == expected
        elif faults == 1 and not re.search("not safetensors|has dtype", message):
            assert fault(answers[0]) == fault(message), (answers[0], message)
        return taken


def fault(message: str) -> str:
    """A message without what depends on the order of tensors."""
    for kind in ("missing tensor", "unknown tensor", "constant along", "within its dimensions",
                 "along axis", "this bundle takes only", "is NaN in"):  # fmt: skip
        if kind in message:
            return kind
    return re.sub(r"tensor '[^']*': |expected [^;]*", "", message)


def tokens_manifest() -> Manifest:
    """Optional modalities with stored stand-ins, dynamic sizes, a relation and half floats."""
    specs = (
        TensorSpec("image", "uint8", ("batch", 3, "width")),
        TensorSpec("ids", "int64", ("batch", "words")),
        TensorSpec("boxes", "float16", ("boxes", 4)),
    )
    return Manifest(
        name="tokens",
        modalities=(
            Modality("camera", ("image",)),
            Modality("text", ("ids",), required=False, absent="token"),
            Modality("detector", ("boxes",), required=False, absent="token"),
        ),
        stages=(
            Stage(
                "net",
                "onnx/net.onnx",
                inputs=specs,
                outputs=(
                    TensorSpec("score", "float32", ("batch", 2)),
                    TensorSpec("half", "float16", ("batch", "words")),
                    TensorSpec("wide", "float64", ("boxes",)),
                    TensorSpec("class", "int32", ("batch",)),
                ),
            ),
        ),
        outputs=("score", "half", "wide", "class"),
        variants=(),
        files={"onnx/net.onnx": "0" * 64, SAMPLES: "0" * 64},
        dimensions={
            "batch": Dimension(1, 1, 4),
            "words": Dimension(2, 6, 12, 2),
            "width": Dimension(4, 8, None, 4),
            "boxes": Dimension(0, 3, 9),
        },
        constraints=(Constraint("words <= 3 * batch + 4", "net.py:7"),),
        samples=3,
    )


def tokens_case(folder: Path, tiny_bundle: Path) -> Case:
    tiny = manifest_from_json((tiny_bundle / "manifest.json").read_bytes())
    variant = replace(tiny.variants[0], files={"net": "onnx/net.onnx"})
    manifest = replace(tokens_manifest(), variants=(variant,))
    rng = np.random.default_rng(2)
    arrays: dict[str, Array] = {
        "absent.ids": np.full((1, 2), 7),
        "absent.boxes": np.full((1, 4), 0.5, np.float16),
    }
    for i, (batch, words, width, boxes) in enumerate(((1, 6, 4, 0), (2, 10, 8, 3), (4, 2, 12, 9))):
        arrays |= {
            f"{i}.in.image": rng.integers(0, 255, (batch, 3, width), dtype=np.uint8),
            f"{i}.in.ids": rng.integers(0, 99, (batch, words)),
            f"{i}.in.boxes": rng.normal(size=(boxes, 4)).astype(np.float16),
            f"{i}.out.score": rng.normal(size=(batch, 2)).astype(np.float32),
            f"{i}.out.half": rng.normal(size=(batch, words)).astype(np.float16),
            f"{i}.out.wide": rng.normal(size=(boxes,)),
            f"{i}.out.class": rng.integers(0, 9, (batch,), dtype=np.int32),
        }
    return Case(folder, manifest, save(arrays))


@pytest.fixture(scope="module")
def cases(tiny_bundle, tmp_path_factory) -> dict[str, Case]:
    """Networks of every kind that a samples file may be of."""
    folder = tmp_path_factory.mktemp("cases")
    paths = {
        "tiny": tiny_bundle,
        "captions": folder / "captions",
        "pictures": folder / "pictures",
        "filter": folder / "filter",
    }
    write_captions(paths["captions"])
    write_pictures(paths["pictures"])
    write_filter(paths["filter"])
    made = {"tokens": tokens_case(folder / "tokens.case", tiny_bundle)}
    for name, path in paths.items():
        with Bundle.open(path) as bundle:
            made[name] = Case(folder / f"{name}.case", bundle.manifest, bytes(bundle.read(SAMPLES)))
    return made


KINDS = ["tiny", "tokens", "captions", "pictures", "filter"]


@pytest.mark.parametrize("kind", KINDS)
def test_golden_samples(kind, cases, tensors):
    assert cases[kind].compare(tensors, cases[kind].data)


Change = Callable[[dict[str, Array], str, np.random.Generator], object]


def _other_dtype(arrays: dict[str, Array], key: str, rng: np.random.Generator) -> None:
    dtypes = ["uint8", "int64", "float32", "float16", "bool", "float64"]
    arrays[key] = arrays[key].astype(rng.choice(dtypes))


def _longer(arrays: dict[str, Array], key: str, rng: np.random.Generator) -> None:
    if arrays[key].ndim:
        axis = int(rng.integers(arrays[key].ndim))
        count = int(rng.choice([1, 1, 2, 4, 20]))
        arrays[key] = np.concatenate([arrays[key]] * (count + 1), axis)[
            (slice(None),) * axis + (slice(arrays[key].shape[axis] + count),)
        ]


def _shorter(arrays: dict[str, Array], key: str, rng: np.random.Generator) -> None:
    if arrays[key].ndim:
        axis = int(rng.integers(arrays[key].ndim))
        left = int(rng.integers(arrays[key].shape[axis] + 1))
        arrays[key] = arrays[key][(slice(None),) * axis + (slice(left),)]


def _more_rank(arrays: dict[str, Array], key: str, rng: np.random.Generator) -> None:
    arrays[key] = arrays[key][None] if rng.random() < 0.5 else arrays[key].reshape(-1)


def _not_numbers(arrays: dict[str, Array], key: str, rng: np.random.Generator) -> None:
    for name in arrays if rng.random() < 0.5 else [key]:
        if arrays[name].dtype.kind == "f":
            arrays[name] = np.where(
                rng.random(arrays[name].shape) < rng.choice([0.3, 0.5, 0.8, 1.0]),
                np.array(rng.choice([np.nan, np.inf, -np.nan]), arrays[name].dtype),
                arrays[name],
            )


def _missing(arrays: dict[str, Array], key: str, rng: np.random.Generator) -> None:
    del arrays[key]


def _unknown(arrays: dict[str, Array], key: str, rng: np.random.Generator) -> None:
    arrays[rng.choice(["9.in.image", f"{key}x", "absent.image", "é", "x'y"])] = np.zeros(1)


def _other_values(arrays: dict[str, Array], key: str, rng: np.random.Generator) -> None:
    arrays[key] = arrays[key] + rng.integers(0, 2, arrays[key].shape).astype(arrays[key].dtype)


CHANGES: list[Change] = [
    _other_dtype, _longer, _longer, _shorter, _shorter, _more_rank, _not_numbers, _missing,
    _unknown, _other_values,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_changed_golden_samples(kind, cases, tensors):
    """Both take and refuse the same, for the same reason."""
    case = cases[kind]
    rng = np.random.default_rng(KINDS.index(kind))
    taken = []
    for _ in range(150):
        arrays = load(case.data)
        faults = int(rng.choice([1, 1, 2]))
        for _ in range(faults):
            keys = sorted(arrays)
            special = [key for key in keys if not re.match(r"\d+\.(in|out)\.", key)]
            pool = special if special and rng.random() < 0.4 else keys
            CHANGES[int(rng.integers(len(CHANGES)))](
                arrays, pool[int(rng.integers(len(pool)))], rng
            )
        # Not ascontiguousarray, which turns a scalar into a vector.
        ordered = {key: np.asarray(value, order="C") for key, value in arrays.items()}
        taken.append(case.compare(tensors, save(ordered), faults=faults))
    assert 5 < sum(taken) < 145


LATE = [attack for attack in file_attacks.ATTACKS if attack.late and "labels" not in attack.name]


@pytest.mark.parametrize("attack", LATE, ids=str)
def test_attacks(attack, tensors, tiny_bundle, tmp_path):
    path = attack.make(tiny_bundle, tmp_path)
    message = tensors.error("samples", path / SAMPLES, path / "manifest.json")
    assert re.search(attack.words, message.replace("source", SAMPLES, 1)), message
    assert len(message) < 1000


@pytest.mark.parametrize("kind", ["tokens", "captions"])
def test_fuzz(kind, cases, tensors):
    case = cases[kind]
    counts = fuzz(tensors.program, "samples", [case.data], case.manifest_path, count=500)
    assert counts["taken"] > 5
