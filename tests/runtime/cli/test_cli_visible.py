"""Nothing that a terminal acts on reaches it, whatever names, errors and files say."""

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from recording_kit import write
from reports import sample as report
from text_bundles import words, write_text_bundle

from mmedge.cli.console import visible

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202eevil\u2066"
#: What no output may have: controls but for newline and tab, and marks of direction.
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def run(*args):
    done = subprocess.run(
        [sys.executable, "-m", "mmedge", *map(str, args)], capture_output=True, timeout=300
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def shown(*args, code=None):
    """Output and errors of a command; neither has anything that acts."""
    rc, out, err = run(*args)
    for text in (out, err):
        assert not ACTING.search(text), (args, ascii(text))
    assert code is None or rc == code, (rc, out, err)
    return out + err


def test_what_is_made_visible():
    assert visible(EVIL) == r"\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202eevil\u2066"
    assert visible("a\tb\nc é 語 \ud800") == "a\tb\nc é 語 \\ud800"


VERBS = [
    *([v] for v in ("bench", "inspect", "sweep", "verify", "tune")),
    ["run", "-i", "x={evil}"],
    ["record", "-o", "{evil}"],
    ["quantize", "-o", "{evil}.q"],
    ["build", "--backend", "openvino"],
    ["export", "-o", "{evil}.out"],
    ["remove", "{evil}"],
    ["compare", "{evil}"],
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
@pytest.mark.parametrize("more", [[], ["--debug"]], ids=["", "debug"])
def test_a_path_that_is_not_there_through_every_verb(tmp_path, verb, more):
    evil = tmp_path / EVIL
    words_ = [word.replace("{evil}", str(evil)) for word in verb[1:]]
    assert "owned" in shown(verb[0], evil, *words_, *more)


def test_words_that_nobody_knows(tmp_path):
    for args in ([EVIL], ["inspect", f"--{EVIL}"], ["bench", "x", "--precision", EVIL]):
        shown(*args)


def test_a_bundle_of_another_name_and_its_inputs(tmp_path):
    tokens = words(length=8).to_str().encode()
    path = write_text_bundle(tmp_path / f"b{EVIL}", tokens)
    for args in (
        ["inspect", path],
        ["verify", path],
        ["run", path, "-i", f"text=go {EVIL}"],
        ["run", path, "-i", f"text={'go ' * 20}{EVIL}"],
        ["run", path, "-i", f"{EVIL}=x"],
        ["run", path, "-i", f"text={EVIL}.npy"],
        ["record", path, "-o", tmp_path / f"r{EVIL}", "--from-samples", "--seconds", "1"],
        ["replay", path, tmp_path / f"r{EVIL}", "--trigger", EVIL],
        ["bench", path, "--calls", "5", "--warmup", "0", "--no-profile", "--sessions", "1"],
    ):
        shown(*args)


def test_labels_of_a_bundle(tiny, tmp_path):
    from mmedge.bundle import Bundle

    labels = json.dumps([f"no{EVIL}", f"[red]yes{EVIL}"]).encode()
    files = {**tiny.files, "assets/labels.json": labels}
    Bundle.write(tmp_path / "b", tiny.manifest, files, samples=tiny.samples).close()
    np.save(tmp_path / "i.npy", np.zeros((1, 4, 4, 3), np.uint8))
    shown("run", tmp_path / "b", "-i", f"image={tmp_path / 'i.npy'}")
    shown("inspect", tmp_path / "b")


def test_reports_of_others(tmp_path):
    tree = json.loads(report().to_json())
    poison(tree)
    (tmp_path / "a.json").write_text(json.dumps(tree))
    (tmp_path / "b.json").write_text(report().to_json())
    shown("compare", tmp_path / "a.json", tmp_path / "b.json")


def poison(tree):
    """Put what acts behind each text of a report."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, str):
            tree[key] = value + EVIL
        elif isinstance(value, dict | list):
            poison(value)


def test_recordings_of_others(tmp_path, streaming, manifest):
    mcap = pytest.importorskip("mcap.writer")
    with (tmp_path / "r.mcap").open("wb") as file:
        writer = mcap.Writer(file, compression=mcap.CompressionType.NONE)
        writer.start(EVIL, EVIL)
        channel = writer.register_channel(EVIL, EVIL, writer.register_schema(EVIL, EVIL, b""))
        writer.add_message(channel, 1, b"", 1)
        writer.finish()
    assert "not a recording" in shown(
        "replay", streaming, tmp_path / "r.mcap", "--trigger", "camera", code=1
    )
    write(tmp_path / "r", manifest)
    (tmp_path / "r" / EVIL).write_bytes(b"")
    assert "unknown file" in shown(
        "replay", streaming, tmp_path / "r", "--trigger", "camera", code=1
    )


def test_graphs_of_others(tmp_path):
    """What the exporter and ONNX Runtime say of names that act."""
    value = [helper.make_tensor_value_info(EVIL, TensorProto.FLOAT, [1, 4])]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])]
    for node in (
        helper.make_node("Relu", [EVIL], ["y"], name=EVIL),
        helper.make_node(EVIL, [EVIL], ["y"], name=EVIL),
        helper.make_node("Reshape", [EVIL], ["y"], name=EVIL),
        helper.make_node("Relu", [EVIL], ["y"], name=EVIL, domain=EVIL),
    ):
        model = helper.make_model(
            helper.make_graph([node], EVIL, value, result),
            opset_imports=[helper.make_opsetid("", 20)],
            ir_version=10,
        )
        onnx.save(model, tmp_path / "n.onnx")
        shown("export", tmp_path / "n.onnx", "-o", tmp_path / "b.mmedge")
