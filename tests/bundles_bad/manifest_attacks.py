"""Attacks by way of manifest.json."""

from __future__ import annotations

import json

from bundles_bad.attack import Attack, on_directory, on_manifest, on_text
from tiny import GRAPH, LABELS, WEIGHTS


def _put(*keys, value):
    """A change that sets the member at ``keys``."""

    def change(manifest):
        at = manifest
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value

    return on_manifest(change)


def _rename(new):
    def change(manifest):
        manifest["files"][new] = manifest["files"].pop(LABELS)

    return on_manifest(change)


def _shape(*axes):
    return _put("stages", 0, "inputs", 0, "shape", value=list(axes))


def _move(**changes):
    return {"modality": "image", "what": "2 MatMul", "flops": 7, **changes}


def _cycle(manifest):
    tensor = {"name": "x", "dtype": "float32", "shape": [1]}
    stage = manifest["stages"][0]
    stage["inputs"].append(tensor)
    manifest["stages"].append(
        {**stage, "name": "other", "inputs": stage["outputs"], "outputs": [tensor]}
    )
    manifest["variants"][0]["files"]["other"] = GRAPH


def _parts(manifest, *plans):
    """Another way to run the network, in two stages, beside the one that it has."""
    net = manifest["stages"][0]
    hidden = {"name": "hidden", "dtype": "float32", "shape": ["batch", 2]}
    manifest["stages"] += [
        {
            **net,
            "name": "eyes",
            "outputs": [hidden],
            "inputs": net["inputs"][:1],
            "modality": "image",
        },
        {**net, "name": "join", "inputs": [hidden, net["inputs"][1]]},
    ]
    manifest["variants"][0]["files"] |= {"eyes": GRAPH, "join": GRAPH}
    manifest["plans"] = [{"name": name, "stages": list(stages)} for name, stages in plans]


BOTH = ("cut", ("eyes", "join")), ("whole", ("net",))


def _planned(change, *plans):
    def planned(manifest):
        _parts(manifest, *(plans or BOTH))
        change(manifest)

    return on_manifest(planned)


def _yields(**changes):
    """The last stage yields something else."""

    def change(manifest):
        outputs = manifest["stages"][2]["outputs"]
        manifest["stages"][2]["outputs"] = [{**outputs[0], **changes}]

    return _planned(change)


def _nothing(_manifest):
    """Only the plans."""


def _limits(least, opt, most):
    return {"min": least, "opt": opt, "max": most, "multiple": 1}


#: What is no relation between sizes: name, text, what is expected in its place.
CONSTRAINTS = (
    ("of nothing", "", "a number or a dimension, got the end"),
    ("that is a number", "batch * 2", "a relation"),
    ("that runs code", "__import__('os').system('id')", "a number, a dimension or an operator"),
    ("that calls", "abs(batch) > 0", r"the end or an operator, got '\('"),
    ("with an attribute", "batch.real > 0", "a number, a dimension or an operator"),
    ("with a power", "batch ** 9 > 0", r"a number or a dimension, got '\*'"),
    ("with a float", "batch > 0.5", "a number, a dimension or an operator"),
    ("with a bit shift", "batch << 9 > 0", "a number or a dimension, got '<'"),
    ("with other digits", "batch > \u0663", "a number, a dimension or an operator"),
    ("of a truth as a number", "(batch > 1) + 1 > 0", "a number, got a relation"),
    ("in a chain", "0 < batch < 9", "the end or an operator, got '<'"),
    ("with an open bracket", "(batch > 1", r"'\)', got the end"),
    ("with a huge number", f"batch < {2**63}", "numbers up to 9223372036854775807"),
    ("with a number of 900 digits", f"batch < {'9' * 900}", "numbers up to"),
    ("of 1,001 characters", f"batch > 0{' ' * 1000}", "at most 1000 characters, got 1009"),
    ("of 257 tokens", f"batch > 0{' + 0' * 127}", "at most 256 numbers, names and operators"),
    ("nested deeply", f"{'(' * 200}batch{')' * 40} > 0", "nested at most 32 deep"),
    ("with many minus signs", f"{'-' * 200}batch > 0", "nested at most 32 deep"),
    ("with many negations", f"{'not ' * 200}batch > 0", "nested at most 32 deep"),
    ("of an unknown dimension", "time > 0", "names of dimensions that inputs have, got .*'time'"),
    ("with one number for max", "max(batch) > 0", "max of at least two numbers"),
)


def _downgrade(manifest):
    """What schema 1 had: the version is named, not the first field that it lacks."""
    for field in ("ranges", "cut"):
        del manifest[field]
    for stage in manifest["stages"]:
        del stage["flops"]
    manifest["schema_version"] = 1


def _looping(manifest):
    """A manifest of version 3 with a stage that is run repeatedly."""
    for field in ("constraints", "not_checked", "plans", "states", "loops"):
        del manifest[field]
    for field in ("not_checked", "plan", "cache"):
        del manifest["variants"][0][field]
    manifest["stages"][0]["loop"] = "denoise"
    manifest["schema_version"] = 3


def _many_tensors(manifest):
    """400 outputs more, in as many bytes as their names take."""
    manifest["samples"] = 4096
    manifest["stages"][0]["outputs"] += [
        {"name": f"o{i}", "dtype": "float32", "shape": [1]} for i in range(400)
    ]


def _bit(name, at):
    def change(path):
        data = bytearray((path / name).read_bytes())
        data[at] ^= 1
        (path / name).write_bytes(data)

    return on_directory(change)


def _no_digest(path):
    (path / "manifest.sha256").write_bytes(b"")


IMAGE = r"\$\.stages\[0\]\.inputs\[0\]"
FLOPS = r"\$\.stages\[0\]\.flops: expected a whole number from 0 to 9007199254740992, "
FILES = r"\$\.files key .*expected a relative path inside the bundle, got "

ATTACKS = [
    Attack("manifest not JSON", "not JSON", on_text(lambda text: text[:-20])),
    Attack("manifest empty", "not JSON", on_text(lambda text: "")),
    Attack("manifest not UTF-8", "not JSON.*utf-8", on_text(lambda text: text.encode("utf-16"))),
    Attack("manifest is a list", r"\$: expected an object, got a list", on_text(lambda t: "[]")),
    Attack("huge manifest", "expected at most 1048576", on_text(lambda t: t + " " * (1 << 20))),
    Attack("deep nesting", "nested too deeply", on_text(lambda t: "[" * 100_000 + "]" * 100_000)),
    Attack(
        "deep objects",
        "nested too deeply",
        on_text(lambda t: '{"a":' * 100_000 + "1" + "}" * 100_000),
    ),
    Attack(
        "number of 5,000 digits",
        "not JSON.*digits",
        on_text(lambda t: t.replace('"samples": 2', f'"samples": {"9" * 5000}')),
    ),
    Attack(
        "duplicate key",
        r"\$: expected each key once, got duplicate key 'name'",
        on_text(lambda t: t.replace('"name": "tiny"', '"name": "tiny", "name": "other"')),
    ),
    Attack(
        "duplicate key inside",
        r"\$\.files: expected each key once, got duplicate key",
        on_text(lambda t: t.replace('\n  "files": {', f'\n  "files": {{"{LABELS}": "00",')),
    ),
    Attack(
        "newer schema",
        "newer schema version 7; upgrade mmedge",
        on_manifest(lambda m: m.update(schema_version=7, more=True)),
    ),
    Attack(
        "older schema",
        "older schema version 1; export the bundle again",
        on_manifest(_downgrade),
    ),
    Attack(
        "a loop of an unknown kind",
        r"\$\.loops\[0\]\.kind: expected a loop that this version .* got 'dream'; upgrade mmedge",
        _put("loops", value=[{"kind": "dream"}]),
    ),
    Attack(
        "state with another field",
        r"\$\.states\[0\]: .* unknown field 'name'",
        _put("states", value=[{"name": "past"}]),
    ),
    Attack(
        "loops as text", r"\$\.loops: expected a list of 0 to 1, got 'x'", _put("loops", value="x")
    ),
    Attack(
        "a stage of version 3 that loops",
        r"\$\.stages\[0\]\.loop: expected null: this version .* got 'denoise'",
        on_manifest(_looping),
    ),
    Attack("schema version as text", r"\$\.schema_version", _put("schema_version", value="3")),
    Attack("unknown field", r"\$: .*unknown field 'run'", _put("run", value="rm")),
    Attack(
        "unknown field inside",
        rf"{IMAGE}: expected the fields name, dtype, shape, got unknown field 'code'",
        _put("stages", 0, "inputs", 0, "code", value="x"),
    ),
    Attack(
        "missing field",
        r"\$\.modalities\[1\]\.required: .*missing field",
        on_manifest(lambda m: m["modalities"][1].pop("required")),
    ),
    Attack("wrong type", r"\$\.samples: .*got true", _put("samples", value=True)),
    Attack(
        "unknown dtype",
        rf"{IMAGE}\.dtype: expected one of bool,.*got 'bfloat16'",
        _put("stages", 0, "inputs", 0, "dtype", value="bfloat16"),
    ),
    Attack("huge size", rf"{IMAGE}\.shape\[1\]: expected a whole", _shape("batch", 1 << 40, 4, 3)),
    Attack(
        "huge product", rf"{IMAGE}\.shape: expected at most 2147483648 elements", _shape(*[512] * 4)
    ),
    Attack(
        "huge dimension",
        rf"{IMAGE}\.shape: expected at most 2147483648 elements",
        _put("dimensions", "batch", value=_limits(1 << 30, 1 << 30, None)),
    ),
    Attack("negative size", rf"{IMAGE}\.shape\[1\]: .*got -4", _shape("batch", -4, 4, 3)),
    Attack("too many axes", rf"{IMAGE}\.shape: expected a list of 0 to 8", _shape(*[1] * 9)),
    Attack("unknown dimension", rf"{IMAGE}\.shape\[0\]: .*'beams'", _shape("beams", 4, 4, 3)),
    *(
        Attack(
            f"constraint {name}",
            rf"\$\.constraints\[0\]\.expression: expected {words}",
            _put("constraints", value=[{"expression": text, "source": "net.py:1: x"}]),
        )
        for name, text, words in CONSTRAINTS
    ),
    Attack(
        "too many constraints",
        r"\$\.constraints: expected a list of 0 to 256, got a list of 257",
        _put("constraints", value=[{"expression": "batch > 0", "source": "x"}] * 257),
    ),
    Attack(
        "constraint without its source",
        r"\$\.constraints\[0\]\.source: expected a value, got a missing field",
        _put("constraints", value=[{"expression": "batch > 0"}]),
    ),
    Attack(
        "constraint with a line break",
        r"\$\.constraints\[0\]\.expression: expected at most 4096 printable",
        _put("constraints", value=[{"expression": "batch\n> 0", "source": "x"}]),
    ),
    Attack(
        "dimensions out of order",
        r"\$\.dimensions\['batch'\]: expected min <= opt <= max, got 2, 1, 4",
        _put("dimensions", "batch", "min", value=2),
    ),
    Attack(
        "dimension of negative size",
        r"\$\.dimensions\['batch'\]\.min: expected a whole number from 0 .*got -1",
        _put("dimensions", "batch", "min", value=-1),
    ),
    Attack(
        "dimension that is always zero",
        r"\$\.dimensions\['batch'\]\.opt: expected a whole number from 1 .*got 0",
        _put("dimensions", "batch", value=_limits(0, 0, 1)),
    ),
    Attack(
        "NaN",
        r"\$\.variants\[0\]\.tolerance\.rtol: expected a finite number from 0 to 2, got nan",
        _put("variants", 0, "tolerance", "rtol", value=float("nan")),
    ),
    Attack(
        "tolerance that lets everything pass",
        r"tolerance\.rtol: expected a finite number from 0 to 2, got 1e\+308",
        _put("variants", 0, "tolerance", "rtol", value=1e308),
    ),
    Attack(
        "absolute tolerance that lets everything pass",
        r"tolerance\.atol: expected a finite number from 0 to 1e\+09, got 1e\+308",
        _put("variants", 0, "tolerance", "atol", value=1e308),
    ),
    Attack(
        "latency that beats every other",
        r"metrics\['latency_ms'\]: expected a number above 0 to 1e\+09, got -1e\+308",
        _put("variants", 0, "metrics", value={"latency_ms": -1e308}),
    ),
    Attack(
        "latency of nothing",
        r"metrics\['latency_ms'\]: expected a number above 0 to 1e\+09, got 0",
        _put("variants", 0, "metrics", value={"latency_ms": 0}),
    ),
    Attack(
        "samples times tensors without end",
        r"\$\.samples: expected at most 65536 tensors in all samples, got 4096 samples of 403",
        on_manifest(_many_tensors),
    ),
    Attack(
        "stages without end",
        r"\$\.stages: expected a list of 1 to 256, got a list of 300",
        on_manifest(lambda m: m.update(stages=m["stages"] * 300)),
    ),
    Attack(
        "variants without end",
        r"\$\.variants: expected a list of 1 to 64, got a list of 65",
        on_manifest(lambda m: m.update(variants=m["variants"] * 65)),
    ),
    Attack("flipped bit of the manifest", r"manifest\.json is altered", _bit("manifest.json", 500)),
    Attack("flipped bit of its digest", r"manifest\.json is altered", _bit("manifest.sha256", 3)),
    Attack("digest of nothing", r"manifest\.json is altered", on_directory(_no_digest)),
    Attack(
        "no digest of the manifest",
        r"no manifest\.sha256, which a bundle of this version has",
        on_directory(lambda path: (path / "manifest.sha256").unlink()),
    ),
    Attack(
        "tolerance of an unknown tensor",
        r"\$\.variants\[0\]\.tolerances: expected names of stages' outputs as keys, got unknown",
        _put("variants", 0, "tolerances", value={"nowhere": {"rtol": 1.0, "atol": 0.0}}),
    ),
    Attack(
        "infinity by overflow",
        r"\$\.modalities\[0\]\.rate_hz: expected a finite number above 0, got inf",
        on_text(lambda t: t.replace('"rate_hz": 30.0', '"rate_hz": 1e999')),
    ),
    Attack(
        "duplicate variant",
        r"\$\.variants\[1\]: .*duplicate 'ort-fp32-cpu'",
        on_manifest(lambda m: m["variants"].append(m["variants"][0])),
    ),
    Attack(
        "plan of an unknown name",
        r"\$\.plans\[0\]\.name: expected one of cut, whole, got 'fast'",
        _put("plans", value=[{"name": "fast", "stages": ["net"]}]),
    ),
    Attack("plans as an object", r"\$\.plans: expected a list", _put("plans", value={})),
    Attack(
        "plan of an unknown stage",
        r"\$\.plans\[0\]\.stages\[0\]: expected the name of a stage, got unknown 'ghost'",
        _put("plans", value=[{"name": "whole", "stages": ["ghost"]}]),
    ),
    Attack(
        "plan of no stage",
        r"\$\.plans\[0\]\.stages: expected a list of 1 to 256",
        _put("plans", value=[{"name": "whole", "stages": []}]),
    ),
    Attack(
        "a cut of one stage",
        r"\$\.plans\[0\]\.stages: expected one stage in 'whole', several in 'cut', got 1 in 'cut'",
        _put("plans", value=[{"name": "cut", "stages": ["net"]}]),
    ),
    Attack(
        "two plans of one name",
        r"\$\.plans\[1\]\.name: .*duplicate 'cut'",
        _planned(_nothing, BOTH[0], BOTH[0]),
    ),
    Attack(
        "a stage in two plans",
        r"\$\.plans\[1\]\.stages\[0\]: .*duplicate 'net'",
        _planned(_nothing, ("cut", ("eyes", "join", "net")), ("whole", ("net",))),
    ),
    Attack(
        "a stage in no plan",
        r"\$\.plans: expected every stage in one plan, got stage 'eyes' in none",
        _planned(_nothing, BOTH[1]),
    ),
    Attack(
        "a plan without an input",
        r"\$\.modalities\[1\]\.inputs\[0\]: expected an input that some stage takes of plan 'cut'",
        _planned(lambda m: m["stages"][2]["inputs"].pop()),
    ),
    Attack(
        "a plan without an output",
        r"\$\.outputs\[0\]: expected an output of a stage of plan 'cut', got .*'score'",
        _yields(name="other"),
    ),
    Attack(
        "plans that yield one tensor in two shapes",
        r"\$\.stages\[2\]\.outputs\[0\]: expected score: .* as at \$\.stages\[0\]",
        _yields(shape=[2]),
    ),
    Attack(
        "a plan that takes from another",
        r"\$\.stages\[0\]\.inputs\[2\]\.name: .*unknown tensor 'hidden'",
        _planned(lambda m: m["stages"][0]["inputs"].append(m["stages"][1]["outputs"][0])),
    ),
    Attack(
        "a plan with some of its files",
        r"\$\.variants\[0\]\.files: expected a file for each stage of plan 'cut', .*'eyes'",
        _planned(lambda m: m["variants"][0]["files"].pop("eyes")),
    ),
    Attack(
        "a measured plan without files",
        r"\$\.variants\[0\]\.plan: expected null or a plan that it has files for: whole, got 'cut'",
        _put("variants", 0, "plan", value="cut"),
    ),
    Attack("cycle of stages", r"\$\.stages: .*a cycle: ", on_manifest(_cycle)),
    Attack("terminal codes in a name", r"\\x1b", _put("name", value="\x1b[2J")),
    Attack("terminal codes in a text", "printable", _put("provenance", "x", value="\x1b[2J")),
    Attack("'..' in a path", FILES + r"'\.\.' in path", _rename("../evil")),
    Attack("absolute path", FILES + "absolute path '/etc/passwd'", _rename("/etc/passwd")),
    Attack("backslash in a path", FILES + "backslash in path", _rename("a\\b")),
    Attack("drive letter", FILES + "drive letter in path", _rename("C:x")),
    Attack("empty part in a path", FILES + "empty part in path", _rename("a//b")),
    Attack("space in a path", FILES + "unsafe characters in path", _rename("a b")),
    Attack("long path", FILES + "path longer than 200", _rename("a" * 201)),
    Attack(
        "absolute graph",
        r"\$\.stages\[0\]\.graph: .*absolute path",
        _put("stages", 0, "graph", value="/net.onnx"),
    ),
    Attack(
        "a file as a folder",
        r"\$\.files: .*'assets/labels\.json' as both",
        _put("files", f"{LABELS}/x", value="0" * 64),
    ),
    Attack(
        "the manifest in itself", r"\$\.files: .*'manifest\.json'",
        _put("files", "manifest.json", value="0" * 64),
    ),
    Attack(
        "digest in upper case",
        r"\$\.files\['onnx/net\.onnx'\]: expected text of the form \[0-9a-f\]\{64\}",
        on_manifest(lambda m: m["files"].update({GRAPH: m["files"][GRAPH].upper()})),
    ),
    Attack(
        "digest of another file",
        f"{GRAPH} is altered: expected SHA-256",
        on_manifest(lambda m: m["files"].update({GRAPH: m["files"][WEIGHTS]})),
    ),
    Attack(
        "too many files",
        r"\$\.files: expected at most 4096 members",
        on_text(lambda t: json.dumps({
            **json.loads(t), "files": {f"f{i}": "0" * 64 for i in range(5000)}
        })),
    ),
    Attack(
        "range of an unknown input",
        r"\$\.ranges: expected inputs of modalities as keys, got unknown input 'lidar'",
        _put("ranges", "lidar", value={"min": 0, "max": 1}),
    ),
    Attack(
        "range of an output",
        r"\$\.ranges: .*unknown input 'score'",
        _put("ranges", "score", value={"min": 0, "max": 1}),
    ),
    Attack(
        "range under no tensor name",
        r"\$\.ranges key .*expected text of the form",
        _put("ranges", "\x1b[2J", value={"min": 0, "max": 1}),
    ),
    Attack(
        "range upside down",
        r"\$\.ranges\['image'\]: expected min <= max, got 1\.0, 0\.0",
        _put("ranges", "image", value={"min": 1, "max": 0}),
    ),
    Attack(
        "range of NaN",
        r"\$\.ranges\['image'\]\.min: expected a finite number, got nan",
        _put("ranges", "image", value={"min": float("nan"), "max": 1}),
    ),
    Attack(
        "range without end",
        r"\$\.ranges\['image'\]\.max: expected a finite number, got inf",
        _put("ranges", "image", value={"min": 0, "max": float("inf")}),
    ),
    Attack(
        "range past any float",
        r"\$\.ranges\['image'\]\.max: expected a finite number, got 1000",
        _put("ranges", "image", value={"min": 0, "max": 10**400}),
    ),
    Attack(
        "range of truth values",
        r"\$\.ranges\['image'\]\.min: expected a finite number, got false",
        _put("ranges", "image", value={"min": False, "max": True}),
    ),
    Attack(
        "range as a list",
        r"\$\.ranges\['image'\]: expected an object, got a list of 2",
        _put("ranges", "image", value=[0, 1]),
    ),
    Attack(
        "range without its end",
        r"\$\.ranges\['image'\]\.max: expected a value, got a missing field",
        _put("ranges", "image", value={"min": 0}),
    ),
    Attack("ranges as a list", r"\$\.ranges: expected an object", _put("ranges", value=[])),
    Attack(
        "too many ranges",
        r"\$\.ranges: expected at most 4096 members, got 5000",
        _put("ranges", value={f"x{i}": {"min": 0, "max": 1} for i in range(5000)}),
    ),
    Attack("negative flops", FLOPS + "got -1", _put("stages", 0, "flops", value=-1)),
    Attack(
        "huge flops", FLOPS + "got 9007199254740993", _put("stages", 0, "flops", value=2**53 + 1)
    ),
    Attack("flops with a point", FLOPS + r"got 1\.0", _put("stages", 0, "flops", value=1.0)),
    Attack("flops as text", FLOPS + "got '1'", _put("stages", 0, "flops", value="1")),
    Attack("flops as truth", FLOPS + "got true", _put("stages", 0, "flops", value=True)),
    Attack("flops of null", FLOPS + "got null", _put("stages", 0, "flops", value=None)),
    Attack("cut of null", r"\$\.cut: expected an object, got null", _put("cut", value=None)),
    Attack(
        "unknown field of a cut",
        r"\$\.cut: expected the fields moves, remarks, got unknown field 'run'",
        _put("cut", "run", value="rm"),
    ),
    Attack(
        "moves as an object",
        r"\$\.cut\.moves: expected a list .*got an object",
        _put("cut", "moves", value={}),
    ),
    Attack(
        "too many moves",
        r"\$\.cut\.moves: expected a list of 0 to 4096, got a list of 5000",
        _put("cut", "moves", value=[_move()] * 5000),
    ),
    Attack(
        "move of an unknown modality",
        r"\$\.cut\.moves\[1\]\.modality: expected the name of a modality, got unknown .*'lidar'",
        _put("cut", "moves", value=[_move(), _move(modality="lidar")]),
    ),
    Attack(
        "move of no modality",
        r"\$\.cut\.moves\[0\]\.modality: expected a string, got null",
        _put("cut", "moves", value=[_move(modality=None)]),
    ),
    Attack(
        "move of negative flops",
        r"\$\.cut\.moves\[0\]\.flops: expected a whole number from 0 .*got -5",
        _put("cut", "moves", value=[_move(flops=-5)]),
    ),
    Attack(
        "move with terminal codes",
        r"\$\.cut\.moves\[0\]\.what: expected at most 4096 printable",
        _put("cut", "moves", value=[_move(what="\x1b]0;owned\x07")]),
    ),
    Attack(
        "move without words",
        r"\$\.cut\.moves\[0\]\.what: expected a string, got a list",
        _put("cut", "moves", value=[_move(what=[])]),
    ),
    Attack(
        "remark with terminal codes",
        r"\$\.cut\.remarks\[1\]: expected at most 4096 printable",
        _put("cut", "remarks", value=["fine", "\x9b2J"]),
    ),
    Attack(
        "remark with a line break",
        r"\$\.cut\.remarks\[0\]: .*printable",
        _put("cut", "remarks", value=["a\nb"]),
    ),
    Attack(
        "remark that turns the writing around",
        r"\$\.cut\.remarks\[0\]: .*printable.*u202e",
        _put("cut", "remarks", value=["\u202egnp.exe"]),
    ),
    Attack(
        "remark with half a character",
        r"\$\.cut\.remarks\[0\]: .*printable",
        _put("cut", "remarks", value=["\ud800"]),
    ),
    Attack(
        "endless remark",
        r"\$\.cut\.remarks\[0\]: expected at most 4096 printable",
        _put("cut", "remarks", value=["a" * 4097]),
    ),
    Attack(
        "remarks as text",
        r"\$\.cut\.remarks: expected a list .*got 'abc'",
        _put("cut", "remarks", value="abc"),
    ),
]  # fmt: skip
