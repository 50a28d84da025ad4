"""The C++ runtime takes and refuses the manifests and other JSON that Python does."""

from __future__ import annotations

import json
import random
import re
import unicodedata

import pytest
from bundles_bad import cache_attacks, loop_attacks, manifest_attacks
from fuzz.mutate import mutate_json
from fuzz.native import fuzz
from fuzz.targets import CORPUS
from loop_bundles import Captioner, Completer, Filter, Painter, Speller
from schema_cases import (
    BYTES,
    NUMBERS,
    PIECES,
    TEXTS,
    VALUES,
    ask,
    decisions_that_differ,
    mutated,
    older,
    place,
    share_at_same_place,
)
from streaming import make_streaming
from text_bundles import words, write_text_bundle

from mmedge.errors import BundleError
from mmedge.schema import (
    labels_from_json,
    manifest_from_json,
    plain,
    stated_version,
)
from mmedge.schema.read import Misfit, _Duplicated, decode

pytestmark = pytest.mark.native_build


@pytest.fixture(scope="module")
def program(probe):
    return probe("schema_probe")


@pytest.fixture(scope="module")
def manifests(tiny_bundle, tmp_path_factory):
    """Good manifests of every kind, of this version and of older ones."""
    folder = tmp_path_factory.mktemp("good")
    tiny = json.loads((tiny_bundle / "manifest.json").read_text())
    trees = [tiny, *(json.loads(path.read_text()) for path in (CORPUS / "manifest").iterdir())]
    for prepare in (*loop_attacks.GOOD.values(), cache_attacks.caches):
        trees.append(json.loads(json.dumps(tiny)))
        prepare(trees[-1])
    for i, (network, options) in enumerate(
        [
            (Captioner(), {}),
            (Completer(), {}),
            (Speller(), {}),
            (Painter(), {}),
            (Painter(), {"decoder": True}),
            (Filter(), {}),
        ]
    ):
        path = folder / str(i)
        network.write(path, **options).close()
        trees.append(json.loads((path / "manifest.json").read_text()))
    trees.append(json.loads((make_streaming(folder / "s") / "manifest.json").read_text()))
    text = write_text_bundle(folder / "t", words(length=8).to_str().encode(), length="tokens")
    trees.append(json.loads((text / "manifest.json").read_text()))
    trees.append(
        {**trees[0], "constraints": [{"expression": "batch % 2 == 0", "source": "n.py:1"}]}
    )
    for tree in list(trees):
        trees += [older(tree, version) for version in (5, 4, 3)]
    return trees


def python_manifest(data):
    try:
        return {"ok": json.loads(json.dumps(plain(manifest_from_json(data, source="here"))))}
    except BundleError as error:
        return {"error": str(error)}


def test_good_manifests_say_the_same(program, manifests):
    cases = [json.dumps(tree).encode() for tree in manifests]
    got, expected = (
        ask(program, [("manifest", c) for c in cases]),
        list(map(python_manifest, cases)),
    )
    assert decisions_that_differ(cases, got, expected) == []
    taken = [answer["ok"] for answer in got if "ok" in answer]
    assert len(taken) > len(cases) // 2
    assert {loop["kind"] for m in taken for loop in m["loops"]} == {"generate", "denoise"}
    assert len({len(m["plans"]) for m in taken}) > 1


@pytest.mark.parametrize("attacks", [manifest_attacks, loop_attacks, cache_attacks])
def test_hostile_manifests_are_refused_with_the_same_words(program, tiny_bundle, tmp_path, attacks):
    cases = []
    for i, attack in enumerate(attacks.ATTACKS):
        (tmp_path / str(i)).mkdir()
        path = attack.make(tiny_bundle, tmp_path / str(i)) / "manifest.json"
        if path.is_file():
            cases.append((attack, path.read_bytes()))
    got = ask(program, [("manifest", data) for _, data in cases])
    refused = 0
    for (attack, data), answer in zip(cases, got, strict=True):
        expected = python_manifest(data)
        assert ("ok" in answer) == ("ok" in expected), (attack.name, answer)
        if "error" in expected:
            refused += 1
            if re.search(attack.words, expected["error"]):  # else it is about another file
                assert re.search(attack.words, answer["error"]), (attack.name, answer, expected)
            assert place(answer["error"]) == place(expected["error"]), attack.name
            assert answer["error"].startswith("here: ")
            assert len(answer["error"]) < 1000
    assert refused > 10
    assert refused > 0.8 * len(attacks.ATTACKS)


def edges(manifests):
    """Manifests at and past limits that random changes seldom meet."""
    newest = [tree for tree in manifests if tree["schema_version"] == 6]
    generate, denoise, decoder, encoders, limited = (
        next(filter(fits, newest))
        for fits in (
            lambda m: m["loops"] and m["loops"][0]["kind"] == "generate",
            lambda m: m["loops"] and m["loops"][0]["kind"] == "denoise",
            lambda m: m["loops"] and m["loops"][0].get("decoder"),
            lambda m: m["name"] == "streaming",
            lambda m: m["constraints"],
        )
    )
    for version, items, field, value in [
        (5, "loops", "whole_prompt", False),
        (4, "loops", "whole_prompt", None),
        (4, "variants", "cache", "growing"),
        (3, "variants", "cache", "growing"),
        (3, "variants", "plan", None),
        (3, "variants", "plan", "cut"),
        (3, "variants", "not_checked", ["x"]),
        (3, "variants", "not_checked", 1),
        (3, "stages", "loop", 0),
        (3, "stages", "loop", {}),
        (4, "stages", "loop", None),
    ]:
        tree = older(encoders if version == 3 else generate, version)
        tree[items][0][field] = value
        yield tree
    for field in ("constraints", "not_checked", "plans", "states", "loops"):
        yield {**older(encoders, 3), field: []}
    for multiple in (1, 2, 0, None):
        tree = older(encoders, 3)
        for dimension in tree["dimensions"].values():
            dimension["multiple"] = multiple
        yield tree
    tree = older(encoders, 3)
    for stage in tree["stages"]:
        del stage["loop"]
    yield tree
    for stage in encoders["stages"]:
        for modality in (*encoders["modalities"], {"name": None}, {"name": "unknown"}):
            stages = [
                {**s, "modality": modality["name"]} if s is stage else s for s in encoders["stages"]
            ]
            yield {**encoders, "stages": stages}
    for count in (1, 8, 16, 17, 255, 256, 257):
        relation = {"expression": "+".join(["batch"] * 63) + " > batch", "source": "x"}
        yield {**limited, "constraints": [relation] * count}
        yield {**limited, "constraints": [{**relation, "expression": "batch > 0"}] * count}
    yield {**limited, "labels": {**limited["labels"], "other": "x"}}
    for loop, field, values in [
        (generate, "axis", [None, 0, 1, 2, 7, 8, True]),
        (generate, "initial", ["zeros", "empty", "stored", "output"]),
        (generate, "source", ["score", "other"]),
    ]:
        for value in values:
            for i in range(len(loop["states"])):
                states = [dict(state) for state in loop["states"]]
                states[i][field] = value
                yield {**loop, "states": states}
    for loop in (generate, denoise, decoder):
        for i, stage in enumerate(loop["stages"]):
            for side in ("inputs", "outputs"):
                for j, spec in enumerate(stage[side]):
                    for change in [
                        {"name": "score"},
                        {"name": stage["outputs"][0]["name"]},
                        {"name": loop["loops"][0].get("latent", "past")},
                        {"shape": [*spec["shape"], 1]},
                        {"shape": [1 for _ in spec["shape"]]},
                        {"shape": spec["shape"][1:]},
                        {"dtype": "float32"},
                        {"dtype": "float16"},
                        {"dtype": "int64"},
                    ]:
                        tree = json.loads(json.dumps(loop))
                        tree["stages"][i][side][j] |= change
                        yield tree


def test_manifests_at_limits(program, manifests):
    cases = [json.dumps(tree).encode() for tree in edges(manifests)]
    got = ask(program, [("manifest", case) for case in cases])
    expected = [python_manifest(case) for case in cases]
    assert decisions_that_differ(cases, got, expected) == []
    assert share_at_same_place(got, expected) == 1
    assert 0 < sum("ok" in answer for answer in got) < len(got)


def compare_changed_manifests(program, manifests, seed, count):
    """Answers of both to ``count`` changes of manifests, and to as many of another kind."""
    rng = random.Random(seed)
    cases = list(mutated(manifests, rng, count))
    seeds = [json.dumps(tree).encode() for tree in manifests]
    cases += [mutate_json(rng.choice(seeds), rng, seeds) for _ in range(count // 5)]
    got = ask(program, [("manifest", case) for case in cases])
    expected = [python_manifest(case) for case in cases]
    assert decisions_that_differ(cases, got, expected) == []
    return got, expected


def test_changed_manifests(program, manifests):
    got, expected = compare_changed_manifests(program, manifests, seed=1, count=1500)
    taken = sum("ok" in answer for answer in got)
    assert len(got) // 20 < taken < len(got) // 2
    # Where there is one fault, both see it at the same place.
    assert share_at_same_place(got, expected) > 0.9


def test_the_version_that_a_manifest_states(program, manifests):
    rng = random.Random(3)
    cases = [b"", b"[]", b'{"schema_version": 7}', b'{"schema_version": true}', b'{"a": 1, "a": 1}']
    cases += [b'{"schema_version": %s}' % text for text in (b"3.0", b"-0", b"9223372036854775807")]
    cases += list(mutated([{"schema_version": 3, "name": ["x"]}], rng, 500))
    got = ask(program, [("version", case) for case in cases])
    for case, answer in zip(cases, got, strict=True):
        expected = stated_version(case)
        if expected is not None:
            expected = min(max(expected, -(1 << 63)), (1 << 63) - 1)
        assert answer == {"ok": expected}, case


def test_labels(program):
    cases = [b"[]", b'["no", "yes"]', b'["\\ud800"]', b'["a\\nb"]', b"{}", b'["a", 1]', b'[""]']
    cases += list(mutated([["no", "yes", "é"]], random.Random(4), 500))
    got = ask(program, [("labels", case) for case in cases])
    for case, answer in zip(cases, got, strict=True):
        try:
            expected = {"ok": labels_from_json(case, source="here")}
        except BundleError:
            expected = {}
        assert answer.get("ok") == expected.get("ok"), case


def echo(value):
    """As the probe writes a document."""
    match value:
        case _Duplicated():
            return {"duplicate": echo(value.key)}
        case str():
            return {"text": [ord(c) for c in value]}
        case dict():
            return {"members": [echo(x) for member in value.items() for x in member]}
        case list():
            return {"items": [echo(x) for x in value]}
        case bool() | float() | None:
            return value
    if -(1 << 63) <= value < 1 << 63:
        return value
    try:
        return [float(value)]
    except OverflowError:
        return [float("inf") if value > 0 else float("-inf")]


def test_json_is_read_as_python_reads_it(program):
    rng = random.Random(5)
    cases = [f" {text}".encode() for text in NUMBERS] + [text.encode() for text in TEXTS] + BYTES
    cases += [f'{{"a": [{text}, 1]}}'.encode() for text in NUMBERS]
    cases += list(mutated([{"a": VALUES, "b": {"c": {}, "d": [1.5, {"é": ""}]}}], rng, 300))
    cases += ["".join(rng.choices(PIECES, k=rng.randrange(9))).encode() for _ in range(1500)]
    alphabet = '[]{}:,"\\u0a1e-+.tn '
    cases += ["".join(rng.choices(alphabet, k=rng.randrange(1, 9))).encode() for _ in range(3000)]
    got = ask(program, [("json", case) for case in cases])
    taken = 0
    for case, answer in zip(cases, got, strict=True):
        try:
            expected = {"ok": echo(decode(case, most=128 << 20))}
        except Misfit:
            expected = {}
        taken += "ok" in expected
        assert json.dumps(answer.get("ok")) == json.dumps(expected.get("ok")), case[:200]
        assert ("ok" in answer) == ("ok" in expected), case[:200]
    assert 200 < taken < len(cases)


def test_what_is_printable(program):
    (answer,) = ask(program, [("printable", b"")])
    ends = answer["ok"]
    printable = [range(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True)]
    if unicodedata.unidata_version == "14.0.0":
        inside = {c for run in printable for c in run}
        assert inside == {c for c in range(0x110000) if chr(c).isprintable()}
    else:  # later versions assign more characters
        assert all(chr(c).isprintable() for run in printable for c in run)


@pytest.mark.parametrize("kind", ["manifest", "json"])
def test_changed_bytes_break_nothing(program, manifests, kind):
    counts = fuzz(program, kind, [json.dumps(m).encode() for m in manifests], count=1000)
    assert counts["inputs"] == 1000
    assert counts["taken"] > 0
