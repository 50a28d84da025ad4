"""The C++ runtime takes and refuses the ONNX graphs that Python takes and refuses."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from pathlib import Path
from random import Random

import pytest
from bundles_bad import graph_attacks
from fuzz.mutate import mutate_protobuf
from fuzz.native import fuzz
from fuzz.targets import CORPUS
from loop_bundles import Captioner, Completer, Filter, Painter, Speller
from random_graphs import field, plain, random_model, varint
from tiny import GRAPH, WEIGHTS

from mmedge.bundle import Bundle, onnxgraph
from mmedge.bundle.onnxfile import check_graph
from mmedge.bundle.operators import (
    _RULES,
    DOMAINS,
    FIRST,
    NEEDS_ELEMENTS,
    NO_INTEGERS,
    SAME,
    TYPED,
)
from mmedge.errors import BundleError

pytestmark = pytest.mark.native_build

SIZES = {GRAPH: 1000, WEIGHTS: 424, "manifest.json": 5000}


def described(graph) -> dict[str, object]:
    """A GraphFile as the probe prints it."""
    return {
        "weights": list(graph.weights),
        "functions": dict(graph.functions),
        "needs_elements": list(graph.needs_elements),
        "spans": sorted(map(list, graph.spans)),
    }


def in_python(data: bytes, name: str = GRAPH, sizes=SIZES) -> dict[str, object]:
    try:
        return described(check_graph(memoryview(data), name, sizes, "x"))
    except BundleError as error:
        return {"fault": str(error)}


@pytest.fixture(scope="session")
def program(probe) -> Path:
    return probe("graphs_probe")


@pytest.fixture(scope="session")
def in_cpp(program):
    """Gives what the C++ runtime says of each of some graphs."""

    def check(cases, name: str = GRAPH, sizes=SIZES) -> list[dict[str, object]]:
        command = [program, "check", name, *(f"{file}={size}" for file, size in sizes.items())]
        data = b"".join(struct.pack("<Q", len(case)) + case for case in cases)
        done = subprocess.run(command, input=data, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode()[-4000:]
        results = [json.loads(line) for line in done.stdout.splitlines()]
        for result in results:
            external = result.pop("external", [])
            assert sorted({tuple(each[2:]) for each in external}) == [
                tuple(span) for span in result.get("spans", [])
            ]
        return results

    return check


def assert_same(expected: dict[str, object], got: dict[str, object], case: bytes) -> None:
    if "fault" in expected:
        assert "fault" in got, (expected, case)
    else:
        assert got == expected, case


def assert_all_same(in_cpp, cases) -> int:
    """How many of them are taken."""
    expected = [in_python(case) for case in cases]
    for each, got, case in zip(expected, in_cpp(cases), cases, strict=True):
        assert_same(each, got, case)
    return sum("fault" not in each for each in expected)


def test_the_tables_are_those_of_python(program):
    done = subprocess.run([program, "table"], capture_output=True, text=True, check=True)
    kinds = ["none", "first", "second", "third", "typed", "value", "first-first", "first-none", ""]
    got = {}
    for line in done.stdout.splitlines():
        domain, op, results, attribute, kind, needs_elements, rule = line.split(",")
        assert (domain, op) not in got
        got[domain, op] = (
            kinds[int(results)], attribute, int(kind), needs_elements == "1", rule != "0",
        )  # fmt: skip
    expected = {}
    for domain, ops in DOMAINS.items():
        for op in ops:
            results = "none" if (domain, op) in NO_INTEGERS else ""
            attribute, kind = "", 0
            if not domain:
                if op in SAME:
                    results = ("first", "second", "third")[SAME[op]]
                elif op in FIRST:
                    results = "first-none" if FIRST[op] is None else f"first-{kinds[FIRST[op] + 1]}"
                elif op in TYPED:
                    results = "typed"
                    attribute, kind = TYPED[op][0], TYPED[op][1] or 0
                elif op == "ConstantOfShape":
                    results = "value"
            call = domain, op
            expected[call] = results, attribute, kind, call in NEEDS_ELEMENTS, call in _RULES
    assert got == expected


@pytest.mark.parametrize("attack", graph_attacks.ATTACKS, ids=str)
def test_what_is_hostile_is_refused_for_the_same_reason(attack, in_cpp, tiny_bundle, tmp_path):
    path = attack.make(tiny_bundle, tmp_path)
    files = [file for file in path.rglob("*") if file.is_file()]
    sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in files}
    (name,) = (name for name in sizes if name.endswith(".onnx"))
    data = (path / name).read_bytes()
    assert re.search(attack.words, in_python(data, name, sizes)["fault"].replace("x:", f"{name}:"))
    (got,) = in_cpp([data], name, sizes)
    assert re.search(attack.words, got["fault"].replace("x:", f"{name}:"))


def test_graphs_of_bundles_reach_for_the_same(program, tiny_bundle, tmp_path):
    paths = [tiny_bundle]
    for network in (Captioner(), Completer(), Filter(), Painter(), Speller()):
        paths.append(tmp_path / type(network).__name__)
        network.write(paths[-1]).close()
    for path in paths:
        with Bundle.open(path) as bundle:
            manifest = bundle.manifest
        files = [file for file in manifest.files if (path / file).is_file()]
        sizes = {file: (path / file).stat().st_size for file in files}
        words = [f"file {file}" for file in files]
        words += [f"stage {stage.name} {stage.graph}" for stage in manifest.stages]
        got = described_in_cpp(program, path, words)
        graphs = [file for file in files if file.endswith(".onnx")]
        assert got == {name: in_python((path / name).read_bytes(), name, sizes) for name in graphs}
        assert not any("fault" in each for each in got.values())


def described_in_cpp(program: Path, folder: Path, words: list[str]) -> dict[str, dict]:
    """What ``check_graphs`` gives for a manifest of these words."""
    done = subprocess.run(
        [program, "bundle", folder], input="\n".join(words), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for each in result.values():
        if isinstance(each, dict):
            del each["external"]
    return result


def test_random_graphs(in_cpp):
    rng = Random(1)
    taken = assert_all_same(in_cpp, [random_model(rng) for _ in range(2000)])
    assert 500 < taken < 1800


def test_mutated_graphs(in_cpp):
    rng = Random(2)
    seeds = [path.read_bytes() for path in sorted((CORPUS / "graph").iterdir())]
    seeds += [random_model(rng) for _ in range(200)]
    seeds = [seed for seed in seeds if "fault" not in in_python(seed)]
    cases = [mutate_protobuf(rng.choice(seeds), rng, seeds) for _ in range(3000)]
    assert assert_all_same(in_cpp, cases) > 300


def with_nodes(*nodes: bytes, functions=(), more: bytes = b"") -> bytes:
    graph = b"".join(field(1, node) for node in nodes) + more
    bodies = b"".join(field(25, each) for each in functions)
    return field(1, 10) + field(8, field(2, 20)) + field(7, graph) + bodies


def branches(depth: int) -> bytes:
    inner = plain("Relu", ["x"], ["y"]) if depth == 0 else branches(depth - 1)
    body = field(1, "then_branch") + field(6, field(1, inner))
    return field(4, "If") + field(5, body)


def named_function(op: str, *nodes: bytes, inputs=(), outputs=()) -> bytes:
    names = [field(4, name) for name in inputs] + [field(5, name) for name in outputs]
    return b"".join([field(1, op), field(10, "mmedge"), *names, *(field(7, n) for n in nodes)])


def call(op: str, inputs, outputs) -> bytes:
    return plain(op, inputs, outputs) + field(7, "mmedge")


RELU, DIV = plain("Relu", ["x"], ["x"]), plain("Div", ["a", "b"], ["c"])
LIMITS = {
    "15 bodies deep": lambda: (with_nodes(branches(14)), True),
    "16 bodies deep": lambda: (with_nodes(branches(15)), False),
    "100,000 nodes": lambda: (with_nodes(*[field(4, "Relu")] * 100_000), True),
    "100,001 nodes": lambda: (with_nodes(*[field(4, "Relu")] * 100_001), False),
    "100,000 nodes with those of functions": lambda: (
        with_nodes(
            *[call("F", [], [])] * 9,
            *[RELU] * (100_000 - 9 - 90_000),
            functions=[named_function("F", *[RELU] * 10_000)],
        ),
        True,
    ),
    "a node more after the last call": lambda: (
        with_nodes(
            *[call("F", [], [])] * 9,
            *[RELU] * (100_001 - 9 - 90_000),
            functions=[named_function("F", *[RELU] * 10_000)],
        ),
        False,
    ),
    "1,000,000 names": lambda: (with_nodes(field(4, "Max") + field(1, "") * 1_000_000), True),
    "1,000,001 names": lambda: (with_nodes(field(4, "Max") + field(1, "") * 1_000_001), False),
    "4,097 values": lambda: (
        with_nodes(DIV, more=field(5, field(8, "b") + field(2, 7) + field(7, b"\1" * 4097))), True,
    ),
    "-1 behind 4,097 values of an attribute": lambda: (
        with_nodes(
            field(4, "Constant") + field(2, "b")
            + field(5, field(1, "value_ints") + field(8, b"\1" * 4097 + varint(-1))),
            DIV,
        ),
        True,
    ),
    "-1 among 4,097 values of an attribute": lambda: (
        with_nodes(
            field(4, "Constant") + field(2, "b")
            + field(5, field(1, "value_ints") + field(8, b"\1" * 4096 + varint(-1))),
            DIV,
        ),
        False,
    ),
    "a shape that a caller chooses": lambda: (
        with_nodes(
            call("F", [], []),
            functions=[
                named_function(
                    "F", field(4, "RandomNormal") + field(5, field(1, "shape") + field(21, "s"))
                )
            ],
        ),
        False,
    ),
    "a surrogate in a name": lambda: (with_nodes(RELU + field(2, b"\xed\xa0\x80")), False),
    "a long form in a name": lambda: (with_nodes(RELU + field(2, b"\xc0\x80")), False),
    "a name of four bytes": lambda: (with_nodes(RELU + field(2, b"\xf4\x8f\xbf\xbf")), True),
    "a name past Unicode": lambda: (with_nodes(RELU + field(2, b"\xf4\x90\x80\x80")), False),
    "a long form of a tag": lambda: (b"\x88\x80\x00\x0a" + with_nodes(RELU)[2:], True),
    "a number of 70 bits": lambda: (b"\x08" + b"\xff" * 9 + b"\x7f" + with_nodes(RELU)[2:], True),
    "a number of 77 bits": lambda: (b"\x08" + b"\xff" * 10 + b"\x7f" + with_nodes(RELU)[2:], False),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name, in_cpp):
    data, is_taken = LIMITS[name]()
    expected = in_python(data)
    assert ("fault" not in expected) == is_taken, expected
    assert_same(expected, in_cpp([data])[0], data)


def test_fields_are_counted_in_messages_inside_messages_too(in_cpp, monkeypatch):
    """Python with a smaller number, since it would take its time."""
    # Four are of the model and its opset; a node is one of the graph's.
    nodes = 100_000
    fields = (onnxgraph.MAX_FIELDS - 4 - nodes) // nodes - 1
    left = onnxgraph.MAX_FIELDS - 4 - nodes * (fields + 2)
    full = field(4, "Relu") + field(9, b"") * fields

    def model(more: int) -> bytes:
        return with_nodes(*[full] * (nodes - 1), full + field(9, b"") * (left + more))

    taken, refused = in_cpp([model(0), model(1)])
    assert "fault" not in taken
    assert "more than 4000000 fields" in refused["fault"]
    small = with_nodes(field(4, "Relu") + field(9, b"") * 10, field(4, "Relu"))
    total = 3 + 1 + 2 + 11 + 1
    for limit, is_taken in ((total, True), (total - 1, False)):
        monkeypatch.setattr("mmedge.bundle.protobuf.MAX_FIELDS", limit)
        assert ("fault" not in in_python(small)) == is_taken


COSTLY = {
    "a function of many results, called in many ways": lambda: with_nodes(
        *(call("F", ["i" if way >> bit & 1 else "f" for bit in range(12)], ["y"])
          for way in range(4096)),
        functions=[named_function("F", inputs=[f"x{i}" for i in range(12)], outputs=[""] * 10**5)],
        more=field(11, field(1, "f") + field(2, field(1, field(1, 1)))),
    ),
    "many results of many bodies": lambda: with_nodes(
        field(4, "If") + field(2, "") * 200_000
        + field(5, field(1, "b") + field(11, field(12, b"")) * 100_000),
    ),
    "a constant that many nodes ask": lambda: with_nodes(
        *[plain("Expand", ["x", "n"], ["y"])] * 10_000,
        more=field(5, field(8, "n") + field(2, 7) + field(1, 4096) + field(7, b"\1" * 4096)),
    ),
    "many names": lambda: with_nodes(
        *(plain("Max", [f"{i}.{j}" for j in range(90)], []) for i in range(3_000))
    ),
    "attributes of one node": lambda: with_nodes(
        field(4, "Relu") + b"".join(field(5, field(1, f"{i:x}")) for i in range(100_000))
    ),
}  # fmt: skip


def test_no_graph_costs_much(program):
    for name, data in COSTLY.items():
        assert fuzz(program, "graph", [data()], count=0)["slowest_s"] > 0, name


def test_mutations_in_one_process(program):
    seeds = [path.read_bytes() for path in sorted((CORPUS / "graph").iterdir())]
    assert fuzz(program, "graph", seeds, count=10000)["taken"] > 100


@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("op", ["LSTM", "Relu"])
@pytest.mark.parametrize("backend", ["ort", "tensorrt"])
def test_a_dimension_of_nothing(least, op, backend, program, tmp_path):
    """Of a variant's file, whose stage takes the dimension; engines are not looked into."""
    (tmp_path / "a.onnx").write_bytes(with_nodes(RELU))
    (tmp_path / "b.onnx").write_bytes(with_nodes(field(4, op)))
    words = [f"dimension n {least}", "stage net a.onnx n", f"variant {backend} net b.onnx"]
    result = described_in_cpp(program, tmp_path, [*words, "file a.onnx", "file b.onnx"])
    if least == 0 and op == "LSTM" and backend == "ort":
        assert "b.onnx: dimension 'n' may be 0, and LSTM ends the process" in result["fault"]
    else:
        assert set(result) == {"a.onnx", "b.onnx"}
