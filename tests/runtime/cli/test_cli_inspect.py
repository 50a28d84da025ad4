"""``mmedge inspect`` draws the cut: facts, text and SVG, with hostile words in all three."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.bundle import Bundle
from mmedge.cli.draw import draw_text
from mmedge.cli.flow import flow_of
from mmedge.cli.svg import draw_svg
from mmedge.schema import manifest_to_json
from mmedge.spec import (
    Cut,
    Dimension,
    Manifest,
    Modality,
    Move,
    Stage,
    TensorSpec,
    Tolerance,
    Variant,
)

#: Left edges of headings and notes, which stand in no box.
MARGINS = {"24", "38"}

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = (
    "<script>alert(1)</script> & \"quotes\" 'too' ]]>",
    "[red]no markup[/red] :bomb:",
    "größer 多",
)


def manifest_of(modalities, stages, outputs, *, cut=None, **sizes) -> Manifest:
    """A manifest that the schema takes."""
    manifest = Manifest(
        name="net",
        modalities=tuple(modalities),
        stages=tuple(stages),
        outputs=tuple(outputs),
        variants=(
            Variant("ort", "fp32", "cpu", {s.name: s.graph for s in stages}, Tolerance(0, 0)),
        ),
        files={stage.graph: "0" * 64 for stage in stages},
        dimensions={name: Dimension(1, opt) for name, opt in sizes.items()},
        cut=cut or Cut(),
    )
    manifest_to_json(manifest)
    return manifest


IMAGE = TensorSpec("image", "uint8", ("batch", 8, 8, 3))
POINTS = TensorSpec("points", "float32", ("n", 4))
IDS = TensorSpec("ids", "int64", ("batch", "tokens"))
MASK = TensorSpec("mask", "bool", ("batch", "tokens"))
STATE = TensorSpec("state", "float16", ("batch", 12))
KEYS = tuple(TensorSpec(f"layer.{i}/keys", "float16", ("batch", 64, 8)) for i in range(5))
PILLARS = TensorSpec("pillars", "float32", (16, 4))
BEV = TensorSpec("bev", "float32", ("batch", 16))
WORDS = TensorSpec("words", "float32", ("batch", "tokens", 4))
FUSED = TensorSpec("fused", "float32", ("batch", 8))
BOXES = TensorSpec("boxes", "float32", ("batch", 10, 7))
SEEN = TensorSpec("seen", "float32", ("batch", 1))


def four() -> Manifest:
    """Cached keys; two encoders in a row; an input that passes its encoder by; no encoder."""
    return manifest_of(
        [
            Modality("camera", ("image",), rate_hz=30.0),
            Modality("lidar", ("points",)),
            Modality("question", ("ids", "mask"), required=False),
            Modality("odometry", ("state",)),
        ],
        [
            Stage("fusion", "f.onnx", (*KEYS, BEV, WORDS, MASK, STATE), (FUSED,), flops=200_000),
            Stage("head", "h.onnx", (FUSED, STATE), (BOXES,), flops=100_000),
            Stage("eye", "c.onnx", (IMAGE,), (*KEYS, SEEN), modality="camera", flops=5_000_000),
            Stage("pillar", "p.onnx", (POINTS,), (PILLARS,), modality="lidar", flops=700_000),
            Stage("backbone", "b.onnx", (PILLARS,), (BEV,), modality="lidar", flops=3_000_000),
            Stage("words", "t.onnx", (IDS, MASK), (WORDS,), modality="question", flops=1_000_000),
        ],
        ["boxes", "seen"],
        cut=Cut((Move("camera", "5 MatMul: keys", 327_680),), HOSTILE),
        batch=2,
        n=100,
        tokens=6,
    )


SIZES = {"f.onnx": 4096, "h.onnx": 500, "c.onnx": 2048, "p.onnx": 1, "b.onnx": 2, "t.onnx": 3}
SIZES |= {"weights.data": 10_000, "c.data": 1024}
WEIGHTS = {"f.onnx": ("weights.data",), "h.onnx": ("weights.data",), "c.onnx": ("c.data",)}


def test_text():
    assert (
        draw_text(flow_of(four(), SIZES, WEIGHTS))
        == """\
net: cut into 4 encoders and 2 fusion stages, 10.0 MFLOP

camera
├─ image: uint8[batch, 8, 8, 3]
└─ eye: 5.00 MFLOP (50.0%), files 3.00 KiB
   ├─ output seen: float32[batch, 1]
   └─ crosses: 5 tensors, 10.0 KiB
      ├─ layer.0/keys: float16[batch, 64, 8]  2.00 KiB
      ├─ layer.1/keys: float16[batch, 64, 8]  2.00 KiB
      ├─ layer.2/keys: float16[batch, 64, 8]  2.00 KiB
      ├─ layer.3/keys: float16[batch, 64, 8]  2.00 KiB
      └─ layer.4/keys: float16[batch, 64, 8]  2.00 KiB
lidar
├─ points: float32[n, 4]
├─ pillar: 700 kFLOP (7.0%), files 1 B
└─ backbone: 3.00 MFLOP (30.0%), files 2 B, after pillar
   └─ crosses: 1 tensor, 128 B
      └─ bev: float32[batch, 16]  128 B
question
├─ ids: int64[batch, tokens]
├─ mask: bool[batch, tokens]
├─ words: 1.00 MFLOP (10.0%), files 3 B
│  └─ crosses: 1 tensor, 192 B
│     └─ words: float32[batch, tokens, 4]  192 B
└─ straight into fusion: 1 tensor, 12 B
   └─ mask: bool[batch, tokens]  12 B
odometry
├─ state: float16[batch, 12]
└─ straight into fusion, head: 1 tensor, 48 B
   └─ state: float16[batch, 12]  48 B
fusion
└─ 200 kFLOP (2.0%), files 4.00 KiB, shared weights.data
head
├─ 100 kFLOP (1.0%), files 500 B, shared weights.data, after fusion
└─ output boxes: float32[batch, 10, 7]

into fusion: 9 tensors, 10.4 KiB

moved into encoders, 328 kFLOP less in each run of the fusion:
  camera: 5 MatMul: keys (328 kFLOP)

remarks:
  <script>alert(1)</script> & "quotes" 'too' ]]>
  [red]no markup[/red] :bomb:
  größer 多
"""
    )


def test_facts_as_json():
    facts = json.loads(json.dumps(flow_of(four(), SIZES, WEIGHTS).as_json()))
    stages = {stage["name"]: stage for stage in facts["stages"]}
    assert stages["eye"] == {
        "name": "eye", "modality": "camera", "flops": 5_000_000, "share": 0.5,
        "weights_bytes": 3072, "shared_weights": [], "after": [],
    }  # fmt: skip
    assert stages["head"]["shared_weights"] == ["weights.data"]
    assert stages["backbone"]["after"] == ["pillar"]
    assert sum(stage["share"] for stage in stages.values()) == pytest.approx(1)
    assert facts["crossing"][-1] == {
        "modality": "odometry", "from": None, "to": ["fusion", "head"], "tensor": "state",
        "dtype": "float16", "shape": ["batch", 12], "bytes": 2 * 12 * 2,
    }  # fmt: skip
    assert facts["crossing_bytes"] == sum(row["bytes"] for row in facts["crossing"])
    assert facts["moves"] == [{"modality": "camera", "what": "5 MatMul: keys", "flops": 327_680}]
    assert facts["remarks"] == list(HOSTILE)


def test_one_stage_is_said_to_be_no_cut():
    manifest = manifest_of(
        [Modality("camera", ("image",)), Modality("odometry", ("state",))],
        [Stage("whole", "w.onnx", (IMAGE, STATE), (BOXES,))],
        ["boxes"],
        batch=1,
    )
    flow = flow_of(manifest)
    for drawing in (draw_text(flow), draw_svg(flow)):
        assert "one stage, whole: the network is not cut by modality" in drawing
        assert "FLOPs not counted" in drawing
    assert "files" not in draw_text(flow)
    assert [stage["share"] for stage in flow.as_json()["stages"]] == [None]


def words_of(svg: str) -> str:
    """All text of a drawing, tooltips too; style left out."""
    tree = ET.fromstring(svg)
    return "\n".join(
        part
        for element in tree.iter()
        if element.tag != f"{SVG}style"
        for part in element.itertext()
    )


def assert_sound(svg: str, manifest: Manifest) -> None:
    """Well-formed, self-contained, every name there, no box over another or outside the page."""
    tree = ET.fromstring(svg)
    assert {element.tag.removeprefix(SVG) for element in tree.iter()} == {
        "svg", "title", "style", "rect", "text", "path",
    }  # fmt: skip
    for element in tree.iter():
        assert not [name for name in element.attrib if name.startswith("on") or "href" in name]
    assert "url(" not in svg
    words = words_of(svg)
    for name in [stage.name for stage in manifest.stages] + [m.name for m in manifest.modalities]:
        assert name in words
    width, height = float(tree.get("width")), float(tree.get("height"))
    boxes = [
        tuple(float(rect.get(key)) for key in ("x", "y", "width", "height"))
        for rect in tree.iter(f"{SVG}rect")
        if rect.get("class") in {"box", "fusion"}
    ]
    for x, y, w, h in boxes:
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
    for (x, y, w, h), (x2, y2, w2, h2) in combinations(boxes, 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
    for text in tree.iter(f"{SVG}text"):
        assert 0 < float(text.get("x")) < width
        assert 0 < float(text.get("y")) < height
    frames = boxes + [
        tuple(float(rect.get(key)) for key in ("x", "y", "width", "height"))
        for rect in tree.iter(f"{SVG}rect")
        if rect.get("class") == "frame"
    ]
    inside = [(e, 9, 3) for e in tree.iter(f"{SVG}text") if e.get("x") not in MARGINS]
    inside = [(e, *room) for e, *room in inside if e.get("class") != "quiet"]
    inside += [(e, 0, 5) for e in tree.iter(f"{SVG}rect") if e.get("class") in {"track", "bar"}]
    assert len(inside) > len(boxes)
    for element, above, below in inside:
        left, base = float(element.get("x")), float(element.get("y"))
        assert any(
            x < left < x + w and y <= base - above and base + below <= y + h
            for x, y, w, h in frames
        )


def test_svg():
    svg = draw_svg(flow_of(four(), SIZES, WEIGHTS))
    assert svg == draw_svg(flow_of(four(), dict(reversed(SIZES.items())), WEIGHTS))
    assert_sound(svg, four())
    words = words_of(svg)
    for part in (
        *HOSTILE,
        "5 tensors, 10.0 KiB",
        "and 2 more",
        "output seen",
        "straight in: 1 tensor",
    ):
        assert part in words
    assert "script" not in svg.replace("&lt;script", "").replace("&lt;/script", "")
    assert "prefers-color-scheme: dark" in svg


def test_long_words_are_cut_to_their_box_and_whole_in_the_tooltip():
    name = "decoder.layers.17/" + "attention." * 15 + "keys"
    manifest = four()
    long = replace(KEYS[0], name=name)
    stages = [
        replace(
            stage,
            inputs=tuple(long if spec == KEYS[0] else spec for spec in stage.inputs),
            outputs=tuple(long if spec == KEYS[0] else spec for spec in stage.outputs),
        )
        for stage in manifest.stages
    ]
    remark = "stuffing " * 400
    manifest = replace(manifest, stages=tuple(stages), cut=Cut((), (remark, "末" * 500)))
    tree = ET.fromstring(draw_svg(flow_of(manifest)))
    texts = list(tree.iter(f"{SVG}text"))
    shown = ["".join([text.text or "", *(child.tail or "" for child in text)]) for text in texts]
    (line,) = [words for words in shown if words.startswith("decoder")]
    assert re.fullmatch(r"decoder\.\S+…\S+ 2\.00 KiB", line)
    assert max(map(len, shown)) < 240
    tips = [child.text for text in texts for child in text]
    assert f"{name} 2.00 KiB" in tips
    assert (
        sum(words.count("stuffing") for words in tips)
        + sum(
            words.count("stuffing")
            for words, text in zip(shown, texts, strict=True)
            if not len(text)
        )
        == 400
    )


@st.composite
def networks(draw) -> Manifest:
    """Up to eight modalities of up to two encoders, each of up to twenty tensors, and a fusion."""
    names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", fullmatch=True)
    count = draw(st.integers(1, 8))
    modalities, stages, into, outputs = [], [], [], []
    flops = st.sampled_from([0, 1, 10**6, 2**53])
    for i, name in enumerate(draw(st.lists(names, min_size=count, max_size=count, unique=True))):
        given_ = TensorSpec(f"in/{i}", "float32", (1, "batch"))
        modalities.append(Modality(name, (given_.name,), required=draw(st.booleans())))
        last = given_
        for depth in range(draw(st.integers(0, 2))):
            made = tuple(
                TensorSpec(f"t/{i}/{depth}/{k}", "float32", (1,))
                for k in range(draw(st.integers(1, 20)))
            )
            stages.append(
                Stage(f"e{i}.{depth}", "g.onnx", (last,), made, modality=name, flops=draw(flops))
            )
            last = made[0]
            into += draw(st.sampled_from([made, made[:1], ()]))
            outputs += draw(st.sampled_from([made[:4], ()]))
        if last is given_:
            into.append(given_)
    if into:
        fused = TensorSpec("fused", "float32", (1,))
        stages.append(Stage("fusion", "g.onnx", tuple(into), (fused,), flops=draw(flops)))
        outputs.append(fused)
    elif not outputs:
        outputs.append(stages[-1].outputs[0])
    texts = st.text(max_size=300).filter(str.isprintable)
    chosen = st.sampled_from([m.name for m in modalities])
    moves = draw(st.lists(st.builds(Move, chosen, texts, flops), max_size=3))
    cut = Cut(tuple(moves), tuple(draw(st.lists(texts, max_size=3))))
    manifest = manifest_of(modalities, stages, [spec.name for spec in outputs], cut=cut, batch=3)
    return replace(manifest, stages=tuple(draw(st.permutations(manifest.stages))))


@settings(max_examples=40)
@given(networks())
def test_every_network_can_be_drawn(manifest):
    flow = flow_of(manifest)
    assert_sound(draw_svg(flow), manifest)
    text = draw_text(flow)
    for spec in (spec for stage in manifest.stages for spec in stage.inputs):
        assert str(spec) in text or "/1/" in spec.name or "/0/" in spec.name
    for crossing in flow.crossing:
        assert str(crossing.spec) in text
    for remark in manifest.cut.remarks:
        assert f"  {remark}\n" in text
    assert len(flow.stages) == len(manifest.stages)


@pytest.fixture(scope="module")
def remarkable(tiny, tmp_path_factory):
    """The tiny bundle with FLOPs and hostile remarks."""
    stage = replace(tiny.manifest.stages[0], flops=424)
    manifest = replace(tiny.manifest, stages=(stage,), cut=Cut((Move("image", "x", 7),), HOSTILE))
    path = tmp_path_factory.mktemp("remarks") / "tiny.mmedge"
    Bundle.write(path, manifest, tiny.files, samples=tiny.samples).close()
    return path


def call(*words, expect=0, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "mmedge", "inspect", *map(str, words)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )
    assert done.returncode == expect, done.stderr + done.stdout
    return done.stdout.decode(), done.stderr.decode()


def test_the_verb_prints_the_drawing_without_markup(remarkable):
    out, _ = call(remarkable)
    for remark in HOSTILE:
        assert f"  {remark}\n" in out
    assert "├─ 424 FLOP (100.0%), files " in out
    assert "one stage, net: the network is not cut by modality" in out
    assert "\x1b" not in out


def test_a_terminal_of_ascii_alone(remarkable):
    out, _ = call(remarkable, PYTHONIOENCODING="ascii")
    assert "|- 424 FLOP" in out
    assert r"  gr\xf6\xdfer \u591a" in out


def test_json_and_svg_together(remarkable, tmp_path):
    path = tmp_path / "cut.svg"
    out, words = call(remarkable, "--json", "--svg", path)
    data = json.loads(out)
    assert data["flow"]["stages"][0]["flops"] == 424
    assert data["flow"]["remarks"] == data["manifest"]["cut"]["remarks"] == list(HOSTILE)
    assert "wrote" in words
    with Bundle.open(remarkable) as bundle:
        assert_sound(path.read_text(encoding="utf-8"), bundle.manifest)
        files = [len(bundle.read(name)) for name in ("onnx/net.onnx", "onnx/net.onnx.data")]
    assert data["flow"]["stages"][0]["weights_bytes"] == sum(files)


def test_a_drawing_that_cannot_be_written(remarkable, tmp_path):
    out, words = call(remarkable, "--svg", tmp_path / "none" / "x.svg", expect=2)
    assert out == ""
    assert "--svg" in words
    assert "there is no folder" in words
    # What is found out late does not cost what was printed.
    out, words = call(remarkable, "--svg", "/dev/full", expect=1)
    assert "424 FLOP" in out
    assert re.search(r"InputError: --svg .*cannot be written", words)
