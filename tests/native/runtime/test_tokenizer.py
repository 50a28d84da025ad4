"""Tokenizers in C++: ids, words and texts are those of the ``tokenizers`` library."""

from __future__ import annotations

import json
import random
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from probe_cases import numbers, run_cases, tensor
from tokenizer_cases import (
    ADDED,
    MARKS,
    NORMALIZERS,
    PRE_TOKENIZERS,
    PROCESSORS,
    SPACES,
    WHOLE_NORMALIZERS,
    byte_pairs,
    every_character,
    texts,
    tree,
    unigrams,
    word_levels,
    word_pieces,
)
from tokenizers import Tokenizer

from mmedge.errors import BundleError, InputError
from mmedge.execution.detokenize import TextStream
from mmedge.execution.text import TextEncoder, load_tokenizer
from mmedge.schema.tokenizer import check_tokenizer
from mmedge.spec import Dimension, TensorSpec
from mmedge.spec import Tokenizer as TokenizerSpec

pytestmark = pytest.mark.native_build

ROOT = Path(__file__).parents[3]
TABLES = ROOT / "cpp_ext" / "runtime" / "text" / "unicode_tables.inc"


def replaces(pattern: str) -> dict[str, Any]:
    return tree(normalizer={"type": "Replace", "pattern": {"Regex": pattern}, "content": ""})


def opened(file: dict[str, Any]) -> bytes:
    return b"open" + data(json.dumps(file))


def data(text: str) -> bytes:
    return tensor(np.frombuffer(text.encode(), np.uint8))


@pytest.fixture(scope="module")
def program(probe) -> Path:
    return probe("tokenizer_probe")


def ask(program: Path, cases: list[bytes]) -> list[str]:
    """The probe's lines."""
    lines = run_cases(program, cases).decode().split("\n")[:-1]
    assert len(lines) == len(cases)
    return lines


def is_the_tables_library() -> bool:
    head = TABLES.read_text(encoding="ascii")[:400]
    return re.search(r"tokenizers ([\d.]+)\.", head)[1] == tokenizers.__version__


def test_normalizers_are_those_of_the_library(program):
    if not is_the_tables_library():
        pytest.skip("the tables are those of another version of the library")
    given = [*texts(1, 300), *every_character()]
    for part in NORMALIZERS:
        file = tree(normalizer=part)
        check_tokenizer(json.dumps(file).encode(), "t.json")
        normalizer = Tokenizer.from_str(json.dumps(file)).normalizer
        lines = ask(program, [opened(file), *(b"normalize" + data(text) for text in given)])
        assert lines[0] == "open"
        expected = [normalizer.normalize_str(text).encode().hex() for text in given]
        assert lines[1:] == expected, part


def test_pre_tokenizers_are_those_of_the_library(program):
    if not is_the_tables_library():
        pytest.skip("the tables are those of another version of the library")
    random_texts, all_texts = texts(2, 150), every_character()
    cases, expected = [], []
    for part in PRE_TOKENIZERS:
        file = tree(pre_tokenizer=part)
        check_tokenizer(json.dumps(file).encode(), "t.json")
        splits = Tokenizer.from_str(json.dumps(file)).pre_tokenizer.pre_tokenize_str
        has_table = part["type"] not in ("Metaspace", "FixedLength", "CharDelimiterSplit")
        given = [
            *random_texts,
            *(all_texts[:: 1 if part["type"] != "Split" else 9] if has_table else ()),
        ]
        cases += [opened(file), *(b"words" + data(text) for text in given)]
        expected.append("open")
        expected += ["".join(f" {w.encode().hex()}" for w, _ in splits(text)) for text in given]
    assert ask(program, cases) == expected


@pytest.mark.parametrize("make", [byte_pairs, word_pieces, unigrams, word_levels])
def test_ids_and_texts_are_those_of_the_library(program, make):
    rng = random.Random(4)
    files = make()
    for base in files[:]:
        for normalizer in rng.sample(WHOLE_NORMALIZERS, 2):
            cut = {"max_length": 12, "stride": 0, "strategy": "LongestFirst"}
            cut["direction"] = rng.choice(("Left", "Right"))
            files.append({
                **base, "normalizer": normalizer, "added_tokens": list(ADDED), "truncation": cut,
                "post_processor": rng.choice(PROCESSORS),
            })  # fmt: skip
    for number, file in enumerate(files):
        check_tokenizer(json.dumps(file).encode(), "t.json")
        library = Tokenizer.from_str(json.dumps(file))
        given = texts(100 + number, 120)
        encodings = [encode(library, text) for text in given]
        most = library.get_vocab_size() + 2
        rows = [rng.choices(range(most), k=rng.randrange(12)) for _ in range(60)]
        rows += [[int(i) for i in line.split(" ")[1:]] for line in encodings if line[:1] == " "][
            ::3
        ]
        cases = [opened(file), *(b"encode" + data(text) for text in given)]
        lines = ask(program, cases + [f"decode {numbers(row)}".encode() for row in rows])
        assert lines[0] == "open"
        assert lines[1 : len(given) + 1] == encodings, file["model"]["type"]
        assert [bytes.fromhex(line).decode() for line in lines[len(given) + 1 :]] == [
            library.decode(row, skip_special_tokens=True) for row in rows
        ]


def encode(library: Tokenizer, text: str) -> str:
    """As the probe writes it."""
    try:
        encoding = library.encode(text)
    except Exception:  # noqa: BLE001 - the library has no class of its own
        return "unknown"
    ids = "".join(f" {number}" for number in encoding.ids)
    return ("cut" if encoding.overflowing else "") + ids


def test_a_stride_that_leaves_no_room_fails_where_a_text_is_cut(program):
    around = {"type": "BertProcessing", "sep": ["a", 0], "cls": ["a", 0]}
    cut = {"max_length": 5, "stride": 3, "strategy": "LongestFirst", "direction": "Right"}
    file = tree(truncation=cut, post_processor=around, pre_tokenizer=SPACES)
    lines = ask(program, [opened(file), b"encode" + data("a a a"), b"encode" + data("a a a a")])
    assert lines == ["open", " 0 0 0 0 0", "stride"]


#: By what is refused, files that the library does not take, or that use what only it knows.
REFUSED = {
    "prepend_scheme": tree(pre_tokenizer={**MARKS, "add_prefix_space": False}),
    "individual_digits": tree(pre_tokenizer={"type": "Digits"}),
    "merges": tree(model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}),
    "unk_id": tree(model={"type": "Unigram", "vocab": [["a", 0]], "unk_id": 1}),
    "unk_token": tree(model={"type": "WordLevel", "vocab": {"a": 0}}),
    "ids": tree(model={"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}),
    "single_word": tree(added_tokens=[{"id": 1, "content": "x"}]),
    "the property": replaces(r"\p{Runic}"),
    "(?i:": replaces("(?i:\u00e9)"),
    "ss, st": replaces("(?i:ss)"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_names_what_it_is(program, what):
    (line,) = ask(program, [opened(REFUSED[what])])
    assert line.startswith("refused t.json: $."), line
    assert what in line or (what == "ids" and "no number of 32 bits" in line)


def test_rules_of_a_bundle_hold_first(program):
    file = tree(normalizer={"type": "NFQ"})
    with pytest.raises(BundleError):
        check_tokenizer(json.dumps(file).encode(), "t.json")
    (line,) = ask(program, [opened(file)])
    assert "not allowed in a bundle" in line


def as_stream(decode: Any, row: list[int], *, is_ended: bool) -> str:
    """Python's pieces as the probe writes them."""
    stream = TextStream(decode)
    pieces = [
        stream.add(token, last=not is_ended and at == len(row) - 1) for at, token in enumerate(row)
    ]
    return "".join(f" {piece.encode().hex()}" for piece in [*pieces, stream.end()])


def test_text_as_it_comes_is_that_of_python(program):
    rng = random.Random(6)
    for file in (*byte_pairs(), *word_pieces()[:1], *unigrams()[:2]):
        library = Tokenizer.from_str(json.dumps(file))
        rows = [library.encode("".join(texts(at, 4))).ids for at in range(20)]
        most = library.get_vocab_size()
        rows += [rng.choices(range(most), k=rng.randrange(1, 160)) for _ in range(20)]
        cases = [f"stream {n % 2} {numbers(row)}".encode() for n, row in enumerate(rows)]
        assert ask(program, [opened(file), *cases])[1:] == [
            as_stream(library.decode, row, is_ended=bool(n % 2)) for n, row in enumerate(rows)
        ]


#: Of the inputs: dtypes of ids and mask, fixed length, and min, max and multiple of a dimension.
AXES = (
    ("int64", "int64", 6, 0, -1, 1), ("int32", "float32", 20, 0, -1, 1),
    ("int64", "bool", -1, 0, -1, 1), ("int32", "none", -1, 3, -1, 4),
    ("uint8", "float16", -1, 1, 8, 2), ("int16", "float64", -1, 0, -1, 3),
)  # fmt: skip
PAD = {"pad_type_id": 0, "pad_token": "a"}
PADDINGS = (
    None,
    {
        **PAD, "strategy": {"Fixed": 9}, "direction": "Left", "pad_id": 3,
        "pad_to_multiple_of": None,
    },
    {
        **PAD, "strategy": "BatchLongest", "direction": "Right", "pad_id": 1,
        "pad_to_multiple_of": 8,
    },
)  # fmt: skip
CUTS = (
    None,
    {"max_length": 5, "stride": 0, "strategy": "LongestFirst", "direction": "Left"},
    {"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"},
)


def in_python(file: dict[str, Any], axis: tuple[Any, ...], text: str) -> str:
    """As the probe writes it; of a refusal the first two words."""
    ids, mask, size, least, most, multiple = axis
    shape = (1, "n" if size < 0 else size)
    names = ["ids"] if mask == "none" else ["ids", "mask"]
    dtypes = {"ids": ids, "mask": mask}
    specs = {name: TensorSpec(name, dtypes[name], shape) for name in names}
    limits = {"n": Dimension(least, max(1, least), None if most < 0 else most, multiple)}
    spec = TokenizerSpec("t.json", "ids", "mask" if mask != "none" else None)
    unpadded = load_tokenizer(json.dumps(file).encode(), "t.json")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            feeds = TextEncoder(unpadded, spec, specs, limits).encode(text)
        except (BundleError, InputError) as error:
            return "refused" if isinstance(error, BundleError) else "2"
    # Python refuses a length past the dimension's when it checks the call's sizes.
    length = feeds["ids"].shape[1]
    if 0 <= most < length and size < 0:
        return "2"
    return ("cut" if told else "") + "".join(
        f" {name} {length} {array.tobytes().hex()}" for name, array in feeds.items()
    )


def test_padding_and_lengths_are_those_of_python(program):
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2, "far": 300}}
    model["unk_token"] = "[UNK]"
    around = {"type": "BertProcessing", "sep": ["b", 2], "cls": ["a", 1]}
    given = ["", " ", "a", "a b a", "a b c d e f g h", "far a", "a " * 128, "\u00e9" * 256]
    cases, expected = [], []
    for axis in AXES:
        for padding in PADDINGS:
            for cut in CUTS:
                for processor in (None, around):
                    file = tree(
                        model=model, pre_tokenizer=SPACES, padding=padding, truncation=cut,
                        post_processor=processor,
                    )  # fmt: skip
                    cases.append(opened(file))
                    expected.append("open")
                    words = " ".join(map(str, axis))
                    cases += [f"encoder {words}".encode() + data(text) for text in given]
                    expected += [in_python(file, axis, text) for text in given]
    lines = ask(program, cases)
    short = [line if line[:1] not in "r2" else line.split(" ")[0] for line in lines]
    assert short == expected
    assert sum(line == "2" for line in short) > 50
    assert sum(line == "refused" for line in short) > 50


def test_limits_of_a_text(program):
    file = tree(normalizer={"type": "NFKC"}, pre_tokenizer=SPACES)
    words = b"encoder int64 none -1 0 -1 1"
    lines = ask(program, [
        opened(file), words + data("a" * 257), words + data("\ufdfa" * 256),
        words + tensor(np.frombuffer(b"a\xff", np.uint8)), words + data("a" * 8193),
    ])  # fmt: skip
    assert [line.split(" ")[0] for line in lines[1:]] == ["6", "", "2", "2"]
    assert "mmedge_tokenizer_reserve" in lines[1]
    assert "no UTF-8 from byte 1 on" in lines[3]
    assert "at most 8192" in lines[4]
