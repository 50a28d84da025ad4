"""The manifest's reader and writer: what is written is read, and nothing else is."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GRAPH, LABELS, WEIGHTS, tiny_manifest

from mmedge import schema, spec
from mmedge.errors import BundleError
from mmedge.schema import manifest_from_json, manifest_to_json, path_fault
from mmedge.spec import (
    Constraint,
    Cut,
    Dimension,
    Manifest,
    Modality,
    Move,
    Range,
    Stage,
    TensorSpec,
    Tolerance,
    Variant,
)

FEW = settings(max_examples=80, deadline=None)


def good() -> Manifest:
    return replace(
        tiny_manifest(),
        files=dict.fromkeys((GRAPH, WEIGHTS, LABELS), "a" * 64),
        ranges={"image": Range(0.0, 255.0)},
        cut=Cut((Move("image", "1 MatMul", 960),), ("text has no encoder",)),
        constraints=(Constraint("batch % 2 == 0", "net.py:12: if x.shape[0] % 2"),),
        not_checked=("input text never varied",),
    )


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True)
tensor_names = st.from_regex(r"[A-Za-z0-9_./:-]{1,12}", fullmatch=True)
paths = st.lists(
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,8}", fullmatch=True), min_size=1, max_size=3
).map("/".join)
texts = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-300, allow_infinity=False)
flops = st.integers(0, 2**53)
ranges = st.tuples(finite, finite).map(sorted).map(lambda ends: Range(*ends))


@st.composite
def manifests(draw) -> Manifest:
    """Networks of one encoder per modality and one fusion stage."""
    dims = draw(st.dictionaries(names, st.integers(1, 9), max_size=2))
    axes = st.integers(1, 16) | (st.sampled_from(sorted(dims)) if dims else st.nothing())
    dtypes = st.sampled_from(sorted(spec.DTYPES))
    count = draw(st.integers(1, 3))
    tensors = draw(
        st.lists(tensor_names, min_size=2 * count + 1, max_size=2 * count + 1, unique=True)
    )
    specs = [
        TensorSpec(name, draw(dtypes), tuple(draw(st.lists(axes, max_size=4)))) for name in tensors
    ]
    ids = draw(st.lists(names, min_size=count + 1, max_size=count + 1, unique=True))
    graph, *others = draw(st.lists(paths.map("d/".__add__), min_size=1, max_size=3, unique=True))
    files = {name: draw(st.from_regex(r"[0-9a-f]{64}", fullmatch=True)) for name in (graph,)}
    files |= {f"e/{i}": "0" * 64 for i, _ in enumerate(others)} | {"samples.safetensors": "1" * 64}
    modalities = tuple(
        Modality(
            name,
            (tensor.name,),
            required=draw(st.booleans()),
            rate_hz=draw(st.none() | positive),
            max_age_ms=draw(st.none() | positive),
            absent=draw(st.sampled_from(["zeros", "token", "last"])),
            tokenizer=draw(st.none() | st.just(spec.Tokenizer(graph, tensor.name))),
            sample_rate_hz=draw(st.none() | st.integers(1, 96000)),
        )
        for name, tensor in zip(ids, specs[:count], strict=False)
    )
    encoders = [
        Stage(m.name, graph, (specs[i],), (specs[count + i],), modality=m.name, flops=draw(flops))
        for i, m in enumerate(modalities)
    ]
    fusion = Stage(ids[-1], graph, tuple(specs[count : 2 * count]), (specs[-1],))
    stages = tuple(draw(st.permutations([*encoders, fusion])))
    variant = Variant(
        draw(names),
        draw(names),
        draw(names),
        {stage.name: graph for stage in stages},
        Tolerance(draw(st.floats(0, 2)), draw(st.floats(0, 1e9))),
        {specs[-1].name: Tolerance(draw(st.floats(0, 2)), 0.0)} if draw(st.booleans()) else {},
        requires=draw(st.dictionaries(names, texts, max_size=2)),
        build=draw(st.dictionaries(texts, texts, max_size=2)),
        metrics=draw(st.dictionaries(names, finite, max_size=2)),
        not_checked=tuple(draw(st.lists(texts, max_size=2))),
    )
    return Manifest(
        name=draw(names),
        modalities=modalities,
        stages=stages,
        outputs=(specs[-1].name,),
        variants=(variant,),
        files=files,
        dimensions={
            name: Dimension(
                draw(st.integers(0, size)), size, draw(st.sampled_from([None, size, 99]))
            )
            for name, size in dims.items()
        },
        ranges=draw(st.dictionaries(st.sampled_from(tensors[:count]), ranges)),
        cut=Cut(
            tuple(draw(st.lists(st.builds(Move, st.sampled_from(ids[:count]), texts, flops)))),
            tuple(draw(st.lists(texts, max_size=3))),
        ),
        not_checked=tuple(draw(st.lists(texts, max_size=2))),
        labels=draw(st.sampled_from([{}, {specs[-1].name: graph}])),
        provenance=draw(st.dictionaries(texts, texts, max_size=3)),
        samples=draw(st.integers(0, 9)),
    )


@FEW
@given(manifests())
def test_round_trip(manifest):
    text = manifest_to_json(manifest)
    again = manifest_from_json(text)
    assert again == manifest
    assert manifest_from_json(text.encode()) == manifest
    assert manifest_to_json(again) == text


def test_every_field_of_the_dataclasses_is_read():
    tree = json.loads(manifest_to_json(good()))
    assert set(tree) == {field.name for field in fields(Manifest)}
    for cls, found in (
        (Modality, tree["modalities"][0]),
        (Stage, tree["stages"][0]),
        (TensorSpec, tree["stages"][0]["inputs"][0]),
        (Variant, tree["variants"][0]),
        (Tolerance, tree["variants"][0]["tolerance"]),
        (Dimension, tree["dimensions"]["batch"]),
        (Constraint, tree["constraints"][0]),
        (Range, tree["ranges"]["image"]),
        (Cut, tree["cut"]),
        (Move, tree["cut"]["moves"][0]),
    ):
        assert set(found) == {field.name for field in fields(cls)}


def places(tree, path=()):
    """Every path of keys in a JSON tree."""
    yield path
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from places(tree[key], (*path, key))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(st.data())
def test_a_manifest_with_one_value_replaced_is_refused_or_valid(data):
    tree = json.loads(manifest_to_json(good()))
    *where, last = data.draw(st.sampled_from([path for path in places(tree) if path]))
    at = tree
    for key in where:
        at = at[key]
    at[last] = data.draw(json_values)
    text = json.dumps(tree)
    try:
        manifest = manifest_from_json(text)
    except BundleError:
        return
    assert json.loads(manifest_to_json(manifest)) == json.loads(text)


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(BundleError, match=r"^manifest\.json: \$"):
        manifest_from_json(data)


@pytest.mark.parametrize("path", list(places(json.loads(manifest_to_json(good())))))
def test_each_field_is_needed_and_typed(path):
    tree = json.loads(manifest_to_json(good()))
    if not path:
        return
    *where, last = path
    at = tree
    for key in where:
        at = at[key]
    original = at[last]
    at[last] = {"no": ["such", "thing"]}
    with pytest.raises(BundleError, match=r"\$.*expected .*, got "):
        manifest_from_json(json.dumps(tree))
    at[last] = original
    if isinstance(last, str) and where[-1:] not in (
        ["files"], ["dimensions"], ["ranges"], ["labels"], ["provenance"],
    ):  # fmt: skip
        del at[last]
        with pytest.raises(BundleError, match="missing field|none for stage"):
            manifest_from_json(json.dumps(tree))


ENCODER = Stage(
    "encoder",
    GRAPH,
    (TensorSpec("image", "uint8", ("batch", 4, 4, 3)),),
    (TensorSpec("features", "float32", ("batch", 8)),),
    modality="image",
)
FUSION = Stage(
    "fusion",
    GRAPH,
    (TensorSpec("features", "float32", ("batch", 8)), TensorSpec("text", "int64", ("batch", 5))),
    (TensorSpec("score", "float32", ("batch", 2)),),
)


def two_stages(encoder=ENCODER, fusion=FUSION, **changes) -> Manifest:
    variant = replace(good().variants[0], files={"encoder": GRAPH, "fusion": GRAPH})
    return replace(good(), stages=(encoder, fusion), variants=(variant,), **changes)


def with_inputs(stage, *specs):
    return replace(stage, inputs=(*stage.inputs, *specs))


TEXT, IMAGE = FUSION.inputs[1], ENCODER.inputs[0]


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (
            two_stages(with_inputs(ENCODER, TEXT)),
            r"\$\.stages\[0\]\.inputs\[1\]: .* a tensor of modality 'image' alone, got 'text'",
        ),
        (
            two_stages(fusion=replace(FUSION, modality="text")),
            r"\$\.stages\[1\]\.inputs\[0\]: expected a tensor of modality 'text' alone",
        ),
        (
            two_stages(replace(ENCODER, modality="radar")),
            r"\$\.stages\[0\]\.modality: .*unknown modality 'radar'",
        ),
        (
            two_stages(fusion=with_inputs(FUSION, TensorSpec("image", "uint8", (4, 4, 3)))),
            r"\$\.stages\[1\]\.inputs\[2\]: expected image: uint8\[batch, 4, 4, 3\] as at",
        ),
        (
            two_stages(replace(ENCODER, outputs=(TensorSpec("features", "float16", (8,)),))),
            r"\$\.stages\[1\]\.inputs\[0\]: expected features: float16\[8\] as at",
        ),
        (
            two_stages(fusion=with_inputs(FUSION, TensorSpec("map", "uint8", (4,)))),
            r"\$\.stages\[1\]\.inputs\[2\]\.name: .*unknown tensor 'map'",
        ),
        (
            two_stages(fusion=with_inputs(FUSION, TEXT)),
            r"\$\.stages\[1\]\.inputs\[2\]\.name: .*duplicate 'text'",
        ),
        (
            two_stages(fusion=replace(FUSION, outputs=(*FUSION.outputs, *ENCODER.outputs))),
            r"\$\.stages\[1\]\.outputs\[1\]\.name: .*duplicate 'features'",
        ),
        (
            two_stages(fusion=replace(FUSION, outputs=(*FUSION.outputs, TEXT))),
            r"\$\.stages\[1\]\.outputs\[1\]\.name: .*'text', an input of a modality",
        ),
        (
            two_stages(fusion=with_inputs(FUSION, *FUSION.outputs)),
            r"\$\.stages: .*a cycle: fusion -> fusion",
        ),
        (two_stages(fusion=replace(FUSION, name="encoder")), r"\$\.stages\[1\]\.name: .*duplicate"),
        (
            two_stages(outputs=("score", "feature")),
            r"\$\.outputs\[1\]: .*unknown tensor 'feature'",
        ),
        (two_stages(outputs=("score", "score")), r"\$\.outputs\[1\]: .*duplicate 'score'"),
        (two_stages(labels={"features": LABELS}), r"\$\.labels: .*unknown output 'features'"),
        (two_stages(labels={"score": "no"}), r"\$\.labels\['score'\]: .*unknown file 'no'"),
        (
            two_stages(ranges={"features": Range(0, 1)}),
            r"\$\.ranges: .*unknown input 'features'",
        ),
        (
            two_stages(ranges={"text": Range(2, 1)}),
            r"\$\.ranges\['text'\]: expected min <= max, got 2\.0, 1\.0",
        ),
        (
            two_stages(cut=Cut((Move("fusion", "x", 0),))),
            r"\$\.cut\.moves\[0\]\.modality: .*unknown modality 'fusion'",
        ),
        (two_stages(samples=1), r"\$\.samples: .*unknown file 'samples\.safetensors'"),
        (
            two_stages(modalities=(*good().modalities, Modality("lidar", ("points",)))),
            r"\$\.modalities\[2\]\.inputs\[0\]: .*unknown tensor 'points'",
        ),
        (
            two_stages(modalities=(*good().modalities, Modality("lidar", ("image",)))),
            r"\$\.modalities\[2\]\.inputs\[0\]: .*duplicate 'image'",
        ),
        (
            two_stages(modalities=(*good().modalities, Modality("image", ("points",)))),
            r"\$\.modalities\[2\]\.name: .*duplicate 'image'",
        ),
        (
            replace(
                good(),
                modalities=(
                    good().modalities[0],
                    Modality("text", ("text",), tokenizer=spec.Tokenizer(LABELS, "text", "mask")),
                ),
            ),
            r"\$\.modalities\[1\]\.tokenizer\.mask: .* an input of modality 'text', got 'mask'",
        ),
        (
            replace(
                good(),
                modalities=(
                    good().modalities[0],
                    Modality("text", ("text",), tokenizer=spec.Tokenizer("vocab", "text")),
                ),
            ),
            r"\$\.modalities\[1\]\.tokenizer\.file: .*unknown file 'vocab'",
        ),
        (
            replace(
                good(),
                modalities=(
                    good().modalities[0],
                    Modality("text", ("text",), required=False, absent="token"),
                ),
            ),
            r"\$\.modalities\[1\]\.absent: .*unknown file 'samples\.safetensors'",
        ),
        (
            replace(good(), variants=(replace(good().variants[0], files={}),)),
            r"\$\.variants\[0\]\.files: expected a file for each stage, got none for stage 'net'",
        ),
        (
            replace(
                good(),
                variants=(replace(good().variants[0], files={"net": GRAPH, "other": GRAPH}),),
            ),
            r"\$\.variants\[0\]\.files: .*unknown stage 'other'",
        ),
    ],
)
def test_rules_between_fields(manifest, words):
    with pytest.raises(BundleError, match=words):
        manifest_to_json(manifest)


@pytest.mark.parametrize("sizes", [(3, 4, 8), (2, 3, 8), (2, 4, 7)])
def test_limits_are_multiples(sizes):
    manifest = replace(good(), dimensions={"batch": Dimension(*sizes, multiple=2)})
    with pytest.raises(BundleError, match=r"\$\.dimensions\['batch'\]: expected multiples of 2"):
        manifest_to_json(manifest)


def older(manifest: Manifest) -> dict[str, Any]:
    """What version 3 of the schema wrote of a manifest."""
    tree = json.loads(manifest_to_json(manifest))
    for field in ("constraints", "not_checked", "plans", "states", "loops"):
        del tree[field]
    for stage in tree["stages"]:
        stage["loop"] = None
    for variant in tree["variants"]:
        del variant["not_checked"], variant["plan"], variant["cache"]
    for dimension in tree["dimensions"].values():
        del dimension["multiple"]
    return tree | {"schema_version": 3}


def test_version_3_is_read():
    expected = replace(good(), constraints=(), not_checked=())
    assert manifest_from_json(json.dumps(older(good()))) == expected


@pytest.mark.parametrize("version", [4, 5])
def test_a_version_in_between_is_read(version):
    tree = json.loads(manifest_to_json(good())) | {"schema_version": version}
    if version == 4:
        for variant in tree["variants"]:
            del variant["cache"]
    assert manifest_from_json(json.dumps(tree)) == good()


@pytest.mark.parametrize("version", [3, 4])
def test_an_older_version_has_no_cache_in_place(version):
    """A reader of that version would run the file as if its states grew."""
    tree = older(good()) if version == 3 else json.loads(manifest_to_json(good()))
    tree["schema_version"] = version
    tree["variants"][0]["cache"] = "in_place"
    with pytest.raises(BundleError, match=f"no field 'cache' in version {version}"):
        manifest_from_json(json.dumps(tree))


@pytest.mark.parametrize("field", ["constraints", "not_checked", "plans", "states", "loops"])
def test_version_3_with_a_field_of_a_later_version_is_refused(field):
    """It would be left out unseen, and a constraint with it."""
    tree = older(good()) | {field: [{"expression": "T == 2", "source": "a line"}]}
    with pytest.raises(BundleError, match=f"no field '{field}' in version 3"):
        manifest_from_json(json.dumps(tree))


@given(st.data())
def test_version_3_with_one_value_replaced_is_refused_or_read(data):
    tree = older(good())
    *where, last = data.draw(st.sampled_from([path for path in places(tree) if path]))
    at = tree
    for key in where:
        at = at[key]
    at[last] = data.draw(json_values)
    with contextlib.suppress(BundleError):
        manifest_from_json(json.dumps(tree))


def test_relations_that_cost_much_together_are_refused():
    """Sizes of what stands in are looked for by evaluating all of them, thousands of times."""
    manifest = good()
    long = "batch" + " + 1" * 120 + " > 0"
    few = replace(manifest, constraints=(Constraint(long, "a line"),) * 8)
    assert manifest_from_json(manifest_to_json(few)) == few
    many = replace(manifest, constraints=(Constraint(long, "a line"),) * 9)
    with pytest.raises(BundleError, match=r"constraints: expected at most 2048 .* got 2187"):
        manifest_to_json(many)


def test_stages_may_stand_in_any_order():
    manifest = two_stages()
    backwards = replace(manifest, stages=manifest.stages[::-1])
    assert manifest_from_json(manifest_to_json(backwards)) == backwards
    assert manifest.in_order() == backwards.in_order() == (ENCODER, FUSION)


@FEW
@given(manifests())
def test_in_order_has_every_stage_after_those_it_waits_for(manifest):
    ordered = manifest.in_order()
    assert sorted(map(id, ordered)) == sorted(map(id, manifest.stages))
    ready = set(manifest.inputs())
    for stage in ordered:
        assert {spec.name for spec in stage.inputs} <= ready
        ready |= {spec.name for spec in stage.outputs}


def test_an_error_names_its_source_and_where():
    tree = json.loads(manifest_to_json(good()))
    tree["stages"][0]["inputs"][1]["dtype"] = "complex64"
    with pytest.raises(BundleError) as caught:
        manifest_from_json(json.dumps(tree), source="robot.mmedge: manifest.json")
    assert str(caught.value) == (
        "robot.mmedge: manifest.json: $.stages[0].inputs[1].dtype: expected one of bool, float16, "
        "float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64, got "
        "'complex64'; export the bundle again"
    )


def test_the_example_in_the_documentation_is_a_manifest():
    text = (Path(__file__).parents[3] / "docs/reference/bundle.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)
    manifest = manifest_from_json(example)
    assert json.loads(manifest_to_json(manifest)) == json.loads(example)


def test_labels():
    assert schema.labels_from_json('["ja", "nein", "größer"]'.encode(), source="x") == [
        "ja", "nein", "größer",
    ]  # fmt: skip
    for data in (b"{}", b"[1]", b'["a\\u001b"]', b'["\\ud800"]', b"[", b"\xff"):
        with pytest.raises(BundleError, match=r"^x: \$"):
            schema.labels_from_json(data, source="x")


@given(st.text(max_size=40))
def test_a_path_without_fault_stays_inside(path):
    if path_fault(path) is None:
        assert path.isascii()
        assert not path.startswith(("/", "."))
        assert not {"", ".", ".."} & set(path.split("/"))


def test_manifests_are_not_changed_by_writing():
    manifest = two_stages()
    before = copy.deepcopy(manifest)
    manifest_to_json(manifest)
    assert manifest == before
