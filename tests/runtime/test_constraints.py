"""Relations between sizes: read by the grammar, evaluated exactly, completed, kept by streams."""

from __future__ import annotations

import ast
import random
from dataclasses import replace

import numpy as np
import pytest
from streaming import COLUMNS, make_streaming, value
from tiny import make_tiny

import mmedge
from mmedge.bundle import Bundle
from mmedge.constraints import LARGEST, Relations, parse, round_up
from mmedge.errors import BundleError, InputError
from mmedge.spec import Constraint, Dimension
from mmedge.stream import SimulatedClock, Stream
from mmedge.stream.policies import Window


@pytest.mark.parametrize(
    ("text", "sizes", "holds"),
    [
        ("T % 2 == 0", {"T": 6}, True),
        ("T % 2 == 0", {"T": 7}, False),
        ("-7 // 2 == -4 and -7 % 2 == 1 and 7 % -2 == -1", {}, True),
        ("2 - 3 - 4 == -5 and 100 // 5 // 2 == 10 and -3 * -2 == 6", {}, True),
        ("max(T, S, 3) - min(T, S) == 4", {"T": 5, "S": 1}, True),
        ("not T == 1 and not not S > 0", {"T": 2, "S": 1}, True),
        ("T == 1 or S == 2 and T == 2", {"T": 1, "S": 9}, True),
        ("(T == 1 or S == 2) and T == 2", {"T": 1, "S": 2}, False),
        ("T == 0 or 8 % T == 0", {"T": 0}, True),
        ("8 % T == 0 or T == 0", {"T": 0}, False),  # a division by 0 breaks it
        ("8 // T == 0 or 1 == 1", {"T": 0}, False),
        ("T * T > 0", {"T": 1 << 40}, False),  # past 2**63 - 1
        (f"T <= {LARGEST}", {"T": LARGEST}, True),
        (f"T + {LARGEST} > 0", {"T": 1}, False),
        ("  T>=1  ", {"T": 1}, True),
    ],
)
def test_a_relation_is_evaluated(text, sizes, holds):
    relation = parse(text)
    assert relation.names == {name for name in ("T", "S") if name in text}
    assert relation.holds(sizes) is holds


def make_text(rng: random.Random, depth: int) -> str:
    """A random number, or at depth 0 of the call a relation, of the grammar."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(["T", "S", str(rng.randrange(9))])
    kind = rng.randrange(6)
    inner = [make_text(rng, depth - 1) for _ in range(2)]
    if kind == 0:
        return f"({inner[0]})"
    if kind == 1:
        return f"-{inner[0]}"
    if kind == 2:
        return f"{rng.choice(['min', 'max'])}({inner[0]}, {inner[1]})"
    return f"{inner[0]} {rng.choice(['+', '-', '*', '//', '%'])} {inner[1]}"


def test_random_relations_mean_what_they_mean_in_python():
    rng, seen = random.Random(0), 0
    for _ in range(500):
        parts = [
            f"{make_text(rng, 3)} {rng.choice(['==', '!=', '<', '<=', '>', '>='])} "
            f"{make_text(rng, 3)}"
            for _ in range(2)
        ]
        text = f" {rng.choice(['and', 'or', 'and not'])} ".join(parts)
        relation, tree = parse(text), compile(ast.parse(text, mode="eval"), "", "eval")
        for sizes in ({"T": 3, "S": 5}, {"T": 0, "S": 1}, {"T": 64, "S": 7}):
            try:
                want = bool(eval(tree, {"min": min, "max": max}, dict(sizes)))
            except ZeroDivisionError:
                want = False
            assert relation.holds(sizes) is want, (text, sizes)
            seen += want
    assert 200 < seen < 1300


def test_sizes_of_what_is_absent_keep_the_relations():
    dimensions = {"T": Dimension(1, 8), "S": Dimension(4, 8, 640, 4), "U": Dimension(0, 1)}
    relations = Relations(dimensions, [Constraint("T <= S", "a"), Constraint("S % 3 == 0", "b")])
    assert relations.complete({"T": 3}) == {"T": 3, "S": 12, "U": 0}
    assert relations.complete({"T": 300}) == {"T": 300, "S": 300, "U": 0}
    assert relations.complete({"S": 12}) == {"T": 1, "S": 12, "U": 0}
    nothing = relations.complete({"T": 641})
    assert "takes only T <= S, because of a" in str(relations.fault(nothing))
    assert relations.fault({"T": 5}) is None  # not yet known


@pytest.mark.parametrize(
    ("limits", "size", "expected"),
    [(Dimension(1, 1), 5, 5), (Dimension(4, 8, 16, 4), 5, 8), (Dimension(4, 8, 16, 4), 30, 16)],
)
def test_a_size_is_rounded_up(limits, size, expected):
    assert round_up(limits, size) == expected


def constrained(*expressions: str, **changes: object) -> Bundle:
    tiny = make_tiny()
    limits = tuple(Constraint(text, f"net.py:{i}: if") for i, text in enumerate(expressions))
    return replace(tiny.manifest, constraints=limits, **changes), tiny.files, tiny.samples


def test_a_call_is_refused_at_once_and_golden_samples_too(tmp_path):
    manifest, files, samples = constrained("batch % 2 == 1", "batch * 2 < 7")
    Bundle.write(tmp_path / "b", manifest, files, samples=samples).close()
    with mmedge.load(tmp_path / "b") as pipe:
        values = samples[0].inputs
        for _ in range(2):
            with pytest.raises(InputError, match=r"batch=2: .*batch % 2 == 1, because of net.py:0"):
                pipe.run({name: np.repeat(value, 2, 0) for name, value in values.items()})
        assert pipe.run(values)["score"].shape == (1, 2)
    manifest, files, samples = constrained("batch < 3")
    with pytest.raises(BundleError, match=r"golden sample 1: .*batch < 3"):
        Bundle.write(tmp_path / "c", manifest, files, samples=samples)


@pytest.fixture
def pipe(tmp_path):
    limits = [
        Constraint(text, "net.py:3: if")
        for text in ("points != 3", "points <= samples", "samples % 4 == 0")
    ]
    make_streaming(tmp_path / "s", constraints=tuple(limits))
    with mmedge.load(tmp_path / "s") as loaded:
        yield loaded


def test_a_stream_refuses_what_one_modality_breaks_when_it_is_pushed(pipe):
    with Stream(pipe, trigger="camera", clock=SimulatedClock()) as stream:
        for _ in range(2):
            with pytest.raises(InputError, match=r"points=3: .*takes only points != 3, .*net.py:3"):
                stream.push("lidar", np.ones((1, 3, 2), np.float32))
        stream.push("lidar", np.ones((1, 2, 2), np.float32))
    with pytest.raises(InputError, match="window's length is 6: .*takes only samples % 4 == 0"):
        Stream(pipe, trigger="camera", clock=SimulatedClock(), align={"voice": Window(6)})


def test_a_stream_has_no_answer_from_what_does_not_go_together(pipe):
    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock) as stream:
        stream.push("lidar", np.ones((1, 5, 2), np.float32))
        stream.push("voice", np.ones((1, 4), np.float32))
        stream.push("camera", value("camera", 1))
        result = stream.result(0)
        assert result.outputs is None
        assert "points=5, samples=4: this bundle takes only points <= samples" in result.reason
        clock.advance(0.01)
        stream.push("voice", np.ones((1, 8), np.float32))
        stream.push("camera", value("camera", 1))
        assert stream.result(0).outputs["out"][0, COLUMNS["lidar"]].tolist() == [5.5, 5.5]


def test_what_stands_in_has_sizes_that_go_together(pipe):
    answer = pipe(image=value("camera", 1), points=np.ones((1, 5, 2), np.float32))
    assert answer["out"][0, COLUMNS["voice"]].tolist() == [0, 0]
    with Stream(pipe, trigger="camera", clock=SimulatedClock()) as stream:
        stream.push("lidar", np.ones((1, 5, 2), np.float32))
        stream.push("camera", value("camera", 1))
        result = stream.result(0)
        assert result.outputs is not None
        assert result.outputs["out"][0, COLUMNS["lidar"]].tolist() == [5.5, 5.5]
