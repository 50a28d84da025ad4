"""The C++ runtime reads, evaluates and completes relations between sizes as Python does."""

from __future__ import annotations

import json
import random
import re

import pytest
from schema_cases import ask

from mmedge.constraints import Relations, allows, parse, round_up, spans
from mmedge.spec import Constraint, Dimension

pytestmark = pytest.mark.native_build


@pytest.fixture(scope="module")
def program(probe):
    return probe("schema_probe")


LEXEMES = [
    *(
        "and",
        "or",
        "not",
        "min",
        "max",
        "T",
        "S",
        "U",
        "_x9",
        "(",
        ")",
        ",",
        "+",
        "-",
        "*",
        "//",
        "%",
    ),
    *(
        "==",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "0",
        "1",
        "2",
        "7",
        "9223372036854775807",
        "9223372036854775808",
    ),
    *("00000000000000000001", "/", "=", "!", "é", "a.b", "2T", "\t", "andx", " "),
]


def random_number(rng, depth):
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(["T", "S", "U", str(rng.randrange(12)), str(1 << rng.randrange(63))])
    first, second = (random_number(rng, depth - 1) for _ in range(2))
    match rng.randrange(6):
        case 0:
            return f"({first})"
        case 1:
            return f"-{first}"
        case 2:
            return f"{rng.choice(['min', 'max'])}({first}, {second})"
    return f"{first} {rng.choice(['+', '-', '*', '//', '%'])} {second}"


def random_relation(rng, depth=2):
    if depth == 0 or rng.random() < 0.4:
        compare = rng.choice(["==", "!=", "<", "<=", ">", ">="])
        return f"{random_number(rng, 2)} {compare} {random_number(rng, 2)}"
    first, second = (random_relation(rng, depth - 1) for _ in range(2))
    match rng.randrange(4):
        case 0:
            return f"not ({first})"
        case 1:
            return f"({first}) {rng.choice(['and', 'or'])} {second}"
    return f"{first} {rng.choice(['and', 'or'])} {second}"


def compare_expressions(program, seed, count):
    """How many expressions were compared, and how many taken."""
    rng = random.Random(seed)
    deep = [f"{'(' * n}T{')' * n} == 1" for n in (31, 32, 33)] + [
        f"{word * n} T == 1" for word in ("-", "not ") for n in (31, 32, 33)
    ]
    long = ["+".join("T" * n) + " > 1" for n in (127, 128, 129)] + [
        " " * n + "T > 1" for n in (995, 996)
    ]
    cases = ["", " ", "T", "(T > 1", *deep, *long, "é" * 1001, "min(T) > 1", "T < S < U"]
    for _ in range(count):
        pieces = re.findall(r"\w+|//|[=!<>]=|\S", random_relation(rng))
        for _ in range(rng.choice((0, 0, 1, 2))):
            at = rng.randrange(len(pieces))
            pieces[at : at + rng.randrange(2)] = [rng.choice(LEXEMES)]
        cases.append(rng.choice((" ", "", "  ")).join(pieces))
    got = ask(program, [("expression", case.encode()) for case in cases])
    taken = 0
    for case, answer in zip(cases, got, strict=True):
        try:
            expected = {"ok": parse(case).tokens}
        except ValueError as error:
            expected = {"error": str(error)}
        taken += "ok" in expected
        if "got '" in expected.get("error", "") and "é" in case:
            assert "error" in answer, case
        else:
            assert answer == expected, case
    return len(cases), taken


def test_expressions_are_read_alike(program):
    count, taken = compare_expressions(program, seed=1, count=4000)
    assert count // 4 < taken < count * 0.9


def compare_relations(program, seed, count):
    """The probe's answers, which are those of Python."""
    rng = random.Random(seed)
    cases, expected = [], []
    for _ in range(count):
        dimensions = {}
        for name in ("T", "S", "U", "V"):
            step = rng.choice((1, 1, 1, 2, 3, 4))
            least = rng.randrange(4) * step
            opt = least + step * rng.randrange(1, 9)
            most = rng.choice((None, opt + step * rng.choice((0, 1, 9, 100))))
            dimensions[name] = Dimension(least, opt, most, step)
        simple = ["T <= S", "S == 2 * T", "T + U >= S", "S % 3 == 0", "U > 40", "T == S or U == 1"]
        constraints = [
            Constraint(
                rng.choice(simple) if rng.random() < 0.6 else random_relation(rng), f"line {i}"
            )
            for i in range(rng.randrange(4))
        ]
        sizes = []
        for _ in range(6):
            names = rng.sample(["T", "S", "U", "V"], rng.randrange(5))
            limits = (9, 9, 100, 1 << 40, 1 << 62)
            sizes.append({name: rng.randrange(rng.choice(limits)) for name in names})
        relations = Relations(dimensions, constraints)
        values = [[relations.fault(each) or "", relations.complete(each)] for each in sizes]
        limits = []
        for name in sorted(dimensions):
            limits.append(spans(dimensions[name]))
            for size in (0, 1, 7, 64, 100):
                limits += [allows(dimensions[name], size), round_up(dimensions[name], size)]
        expected.append({"ok": values, "limits": limits})
        request = {
            "dimensions": {n: [d.min, d.opt, d.max, d.multiple] for n, d in dimensions.items()},
            "constraints": [c.expression for c in constraints],
            "sizes": sizes,
        }
        cases.append(json.dumps(request).encode())
    got = ask(program, [("relations", case) for case in cases])
    for case, answer, value in zip(cases, got, expected, strict=True):
        assert answer == value, case
    return got


def test_relations_have_the_same_values_and_complete_the_same_sizes(program):
    got = compare_relations(program, seed=1, count=120)
    assert len({bool(fault) for answer in got for fault, _ in answer["ok"]}) == 2
