"""Inputs for the C++ readers of manifests and tokenizer files, and changes of them."""

from __future__ import annotations

import copy
import json
import random
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

#: Values of every type, at limits and past them.
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 4, 4096, 4097, 1 << 31, (1 << 31) + 1, 1 << 53, (1 << 53) + 1,
    1 << 63, -(1 << 63), 1 << 64, 10**30, 10**400, 0.0, -0.0, 0.5, 1.0, 2.0, 3.5, 1e9, 1e6, 1e-400,
    1e308, float("inf"), float("nan"), "", " ", "x", "a" * 64, "a" * 65, "a" * 4097, "é", "\u2028",
    "\ud800", "\0", "../x", "/etc", "C:x", "a/b", "a\\b", ".a", "manifest.json", "zeros", "token",
    "batch", "whole", "cut", "in_place", "generate", "samples.safetensors", [], {}, [[]], [None],
    {"": None}, {"type": "Sequence"}, {"min": 0, "opt": 1, "max": None, "multiple": 1},
]  # fmt: skip

#: What is put into a text without regard to what it means.
PIECES = [
    '"', "\\", "\\u00e9", "\\ud83d\\ude00", "\\udc00", "\\x", "[", "]", "{", "}", ",", ":", "null",
    "NaN", "-Infinity", "1e400", "-0", "01", "1.", ".5", "1e", "+1", "\t", "\n", "\x00", "\x7f",
    "\ufeff", "é", "/*", "9" * 4300, "9" * 4301, "[" * 60, '"a":1,', "1e-400",
]  # fmt: skip


def ask(program: Path, cases: Iterable[tuple[str, bytes]]) -> list[dict[str, Any]]:
    """What the probe answers to each (kind, data)."""
    request = b"".join(b"%s %d\n%s" % (kind.encode(), len(data), data) for kind, data in cases)
    done = subprocess.run([program], input=request, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
    return [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]


def place(message: str) -> str:
    """The JSON path of a message, and what is before it."""
    return message.partition(": expected")[0]


def decisions_that_differ(
    cases: Iterable[bytes], got: Iterable[dict[str, Any]], expected: Iterable[dict[str, Any]]
) -> list[tuple[object, ...]]:
    """Each case that one reader takes and the other does not, or reads otherwise."""
    return [
        (case[:3000], a, b)
        for case, a, b in zip(cases, got, expected, strict=True)
        if ("ok" in a) != ("ok" in b) or a.get("ok") != b.get("ok")
    ]


def share_at_same_place(got: Iterable[dict[str, Any]], expected: Iterable[dict[str, Any]]) -> float:
    """Of the cases that are refused, the share for which both name the same place."""
    alike = [
        place(a["error"]) == place(b["error"])
        for a, b in zip(got, expected, strict=True)
        if "error" in b
    ]
    return sum(alike) / len(alike)


def places(tree: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a tree."""
    yield path
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


def value_at(tree: Any, path: Sequence[Any]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def change(tree: Any, rng: random.Random) -> Any:
    """The tree with one value added, removed, repeated or replaced; often by another of its own."""
    tree = copy.deepcopy(tree)
    every = list(places(tree))
    path = rng.choice(every[1:] or every)
    if not path:
        return rng.choice(VALUES)
    around, key = value_at(tree, path[:-1]), path[-1]
    value = around[key]
    match rng.randrange(9):
        case 0:
            del around[key]
        case 1 if isinstance(around, list):
            most = 4097 if len(json.dumps(value)) < 200 else 2
            around[key:key] = [copy.deepcopy(value)] * min(most, rng.choice((1, 2, 9, 4097)))
        case 1:
            around[str(rng.choice(VALUES))[:99]] = copy.deepcopy(value)
        case 2 | 3 | 4:  # another value of the same type
            others = [p for p in every if type(value_at(tree, p)) is type(value)]
            around[key] = copy.deepcopy(value_at(tree, rng.choice(others)))
        case 5 if type(value) is float or (type(value) is int and abs(value) < 1 << 99):
            around[key] = rng.choice((value + 1, value - 1, -value, value * 1000, float(value)))
        case 5 if isinstance(value, str):
            at = rng.randrange(len(value) + 1)
            around[key] = (
                value[:at] + rng.choice(["", "/", ".", "x", "é", "\n", " 1"]) + value[at + 1 :]
            )
        case 6 if isinstance(value, dict) and value:
            around[key] = dict(rng.sample(list(value.items()), len(value)))
        case _:
            around[key] = copy.deepcopy(rng.choice(VALUES))
    return tree


def mutated(seeds: Sequence[Any], rng: random.Random, count: int) -> Iterator[bytes]:
    """``count`` texts, each a seed with one to three changes of its values or its text."""
    for _ in range(count):
        tree = rng.choice(seeds)
        for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 3))):
            tree = change(tree, rng)
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.5)
        if rng.random() < 0.15:  # a key twice
            keys = list(re.finditer(r'"(\w+)": ', text))
            if keys:
                key = rng.choice(keys)
                again = rng.choice([key[1], key[1], f"\\u{ord(key[1][0]):04x}{key[1][1:]}"])
                member = f'"{again}": {rng.choice(["0", "[]"])}, '
                text = text[: key.start()] + member + text[key.start() :]
        data = text.encode("utf-8", "surrogatepass")
        if rng.random() < 0.15:
            at = rng.randrange(len(data) + 1)
            piece = rng.choice(PIECES).encode()
            piece = rng.choice((piece, rng.randbytes(2), b""))
            data = data[:at] + piece + data[at + rng.choice((0, 0, 1, 9)) :]
        yield data


def older(tree: dict[str, Any], version: int) -> dict[str, Any]:
    """A manifest of the newest version as an older one had it, as far as that could say it."""
    tree = {**copy.deepcopy(tree), "schema_version": version}
    if version < 6:
        for loop in tree.get("loops", []):
            loop.pop("whole_prompt", None)
    if version < 5:
        for variant in tree["variants"]:
            variant.pop("cache", None)
    if version < 4:
        for field in ("constraints", "not_checked", "plans", "states", "loops"):
            tree.pop(field, None)
        for variant in tree["variants"]:
            variant.pop("not_checked", None)
            variant.pop("plan", None)
        for stage in tree["stages"]:
            stage["loop"] = None
        for dimension in tree["dimensions"].values():
            dimension.pop("multiple", None)
    return tree


#: Numbers and other texts that are JSON, or nearly.
NUMBERS = [
    "0", "-0", "-0.0", "00", "01", "-", "-a", "1.", "1.5", ".5", "1e5", "1E+5", "1e-5", "1e", "1e+",
    "1.e5", "0e0", "1e400", "-1e400", "1e-400", "-1e-400", "5e-324", "2.4703282292062327e-324",
    "2.4703282292062328e-324", "2.2250738585072011e-308", "1.7976931348623158e308", "1" * 400,
    "1.7976931348623159e308", "9007199254740993", "9007199254740993.0", "9223372036854775807",
    "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "9" * 4300, "9" * 4301,
    "-" + "9" * 4300, "-" + "9" * 4301, "0." + "0" * 5000 + "1e5000", "1" + "0" * 5000 + "e-5000",
    "0e99999999999999999999", "1e99999999999999999999", "1e-99999999999999999999", "0x10", "1_0",
    "NaN", "Infinity", "-Infinity", "-NaN", "nan", "+1", "179769313486231580793" + "0" * 288,
    "1797693134862315807937" + "9" * 287, "1e1000000000000", "0.0000001e-320", "123456789e-400",
]  # fmt: skip
TEXTS = [
    '""', '"', "'a'", '"\\u0041"', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\ude00"',
    '"\\ud83d\\ud83d\\ude00"', '"\\ud83d\\u0041"', '"\\ud83d\\n"', '"\\u00"', '"\\uD83G"',
    '"\\ud83d\\u12"', '"\\u+123"', '"\\a"', '"\\/\\b\\f\\n\\r\\t\\\\\\""', '"\t"', '"\n"', '"\x1f"',
    '"\x7f"', '"\x00"', '"a\\', '"\\', '"\\"', '"é\u2028\U0001f600"', "\ufeff1", " \t\r\n1 ",
    "\x0b1", "\xa01", "1 2", "", " ", "nul", "nulll", "null", "truee", "True", "[1,]", "[,1]",
    "[1 2]", "[", "]", "[]]", "[1}", "{", '{"a"}', '{"a":}', '{"a":1,}', '{,"a":1}',
    '{"a":1 "b":2}', "{1:2}", '{"a":1,"a":2}', '{"a":1,"\\u0061":2}', '{"b":1,"a":2,"a":3,"b":4}',
    '{"":1,"":2}', '{"a":{"b":1,"b":2}}', '[{"a":1,"a":1}]', "{}", "[{}]",
    '{"a":[{"b":[]}],"c":{}}', "//", "1//", "[" * 300 + "]" * 300, "[" * 200_000, '{"a":' * 200_000,
    '{"\\ud800":1,"\\ud800":2}',
]  # fmt: skip
BYTES = [
    b'"\xc3"', b'"\xc3\xa9"', b'"\xc0\x80"', b'"\xc1\xbf"', b'"\xe0\x9f\xbf"', b'"\xe0\xa0\x80"',
    b'"\xff"', b'"\xed\xa0\x80"', b'"\xed\x9f\xbf"', b'"\xf0\x8f\xbf\xbf"', b'"\xf0\x90\x80\x80"',
    b'"\x80"', b'"\xf5"', b'"\xf4\x8f\xbf\xbf"', b'"\xf4\x90\x80\x80"', b'"\xe2\x82', b'"\xe2\x82"',
    b"\xff\xfe1\x00", b"\xc3\xa9",
]  # fmt: skip
