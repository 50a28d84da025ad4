"""Attacks by way of manifest.json."""

from __future__ import annotations

import json

from bundles_bad.attack import Attack, on_manifest, on_text
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


def _cycle(manifest):
    tensor = {"name": "x", "dtype": "float32", "shape": [1]}
    stage = manifest["stages"][0]
    stage["inputs"].append(tensor)
    manifest["stages"].append(
        {**stage, "name": "other", "inputs": stage["outputs"], "outputs": [tensor]}
    )
    manifest["variants"][0]["files"]["other"] = GRAPH


IMAGE = r"\$\.stages\[0\]\.inputs\[0\]"
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
        "newer schema version 2; upgrade mmedge",
        on_manifest(lambda m: m.update(schema_version=2, more=True)),
    ),
    Attack("older schema", "older schema version 0", _put("schema_version", value=0)),
    Attack("schema version as text", r"\$\.schema_version", _put("schema_version", value="1")),
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
        rf"{IMAGE}\.dtype: expected one of bool,.*got 'int16'",
        _put("stages", 0, "inputs", 0, "dtype", value="int16"),
    ),
    Attack("huge size", rf"{IMAGE}\.shape\[1\]: expected a whole", _shape("batch", 1 << 40, 4, 3)),
    Attack(
        "huge product", rf"{IMAGE}\.shape: expected at most 2147483648 elements", _shape(*[512] * 4)
    ),
    Attack(
        "huge dimension",
        rf"{IMAGE}\.shape: expected at most 2147483648 elements",
        _put("dimensions", "batch", value={"min": 1 << 30, "opt": 1 << 30, "max": None}),
    ),
    Attack("zero size", rf"{IMAGE}\.shape\[1\]: .*got 0", _shape("batch", 0, 4, 3)),
    Attack("negative size", rf"{IMAGE}\.shape\[1\]: .*got -4", _shape("batch", -4, 4, 3)),
    Attack("too many axes", rf"{IMAGE}\.shape: expected a list of 0 to 8", _shape(*[1] * 9)),
    Attack("unknown dimension", rf"{IMAGE}\.shape\[0\]: .*'beams'", _shape("beams", 4, 4, 3)),
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
        _put("dimensions", "batch", value={"min": 0, "opt": 0, "max": 1}),
    ),
    Attack(
        "NaN",
        r"\$\.variants\[0\]\.tolerance\.rtol: expected a finite number from 0, got nan",
        _put("variants", 0, "tolerance", "rtol", value=float("nan")),
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
]  # fmt: skip
