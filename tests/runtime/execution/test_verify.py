"""Golden samples prove what a device computes, and an error is found in the stage that makes it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import AccuracyError, BundleError
from mmedge.execution.verify import WHOLE, verify


def rewrite(source, target, *, change=None, samples=None):
    """A copy of a bundle with files changed and digests refreshed."""
    with Bundle.open(source) as bundle:
        files = {name: bytes(bundle.read(name)) for name in bundle.manifest.files}
        files.pop("samples.safetensors")
        if change:
            change(files)
        kept = bundle.samples() if samples is None else samples
        Bundle.write(
            target, bundle.manifest, files, samples=kept, absent=bundle.absent_tokens()
        ).close()
    return target


def scale_text(files):
    """Alter one weight of the fusion stage: the factor of the text."""
    model = onnx.load_from_string(files["onnx/fusion.onnx"])
    factor = next(n for n in model.graph.node if n.output == ["pcm_sum_f"])
    assert factor.op_type == "Cast"
    negate = onnx.helper.make_node("Neg", ["pcm_sum"], ["pcm_negative"])
    for node in model.graph.node:
        node.input[:] = ["pcm_negative" if name == "pcm_sum" else name for name in node.input]
    model.graph.node.insert(len(model.graph.node) - 1, negate)
    files["onnx/fusion.onnx"] = model.SerializeToString()


def test_a_good_bundle_verifies_stage_by_stage(sums):
    with mmedge.load(sums) as pipe:
        found = verify(pipe)
    assert found.ok
    found.check()
    assert [(row.stage, row.output) for row in found.rows] == [
        ("camera", "seen"),
        ("fusion", "out"),
        (WHOLE, "out"),
        (WHOLE, "seen"),
    ]


def test_an_altered_stage_is_named(sums, tmp_path):
    path = rewrite(sums, tmp_path / "bad.mmedge", change=scale_text)
    with mmedge.load(path) as pipe:
        found = verify(pipe)
    assert {(row.stage, row.output) for row in found.rows if not row.ok} == {
        ("fusion", "out"),
        (WHOLE, "out"),
    }
    with pytest.raises(AccuracyError, match="output 'out' of stage 'fusion' differs"):
        found.check()
    assert json.dumps(found.to_dict(), allow_nan=False)
    done = subprocess.run(
        [sys.executable, "-m", "mmedge", "verify", str(path), "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False


def command(*words):
    done = subprocess.run(
        [sys.executable, "-m", "mmedge", "verify", *map(str, words)], capture_output=True, text=True
    )
    return done.returncode, done.stdout


def test_every_variant_that_runs_here_is_verified_and_the_others_are_named(sums, tmp_path):
    path = rewrite(sums, tmp_path / "two.mmedge")
    with Bundle.open(path) as bundle:
        (base, *_) = bundle.manifest.variants
        files = {"onnx/fusion.onnx": bytes(bundle.read("onnx/fusion.onnx"))}
        scale_text(files)
        own = {**base.files, "fusion": "onnx/int8.onnx"}
        wrong = replace(base, precision="int8", files=own, not_checked=("real inputs",))
        away = replace(base, precision="fp16", target="sm_999")
        bundle.with_variant(wrong, {"onnx/int8.onnx": files["onnx/fusion.onnx"]}).close()
    with Bundle.open(path) as bundle:
        bundle.with_variant(away, {}).close()
    code, out = command(path, "--precision", "fp32", "--json")
    said = json.loads(out)
    assert (code, said["ok"]) == (0, True)
    asked = f"variant {wrong.id}: precision fp32 was asked for, this one is int8"
    assert asked in said["not_checked"]
    said = json.loads(command(path, "--json")[1])
    assert f"variant {wrong.id}: not asked for; --all checks it" in said["not_checked"]
    assert any(
        line.startswith(f"variant {away.id}: made for sm_999") for line in said["not_checked"]
    )
    code, out = command(path, "--all", "--json")
    said = json.loads(out)
    assert (code, said["ok"]) == (1, False)
    assert {row["variant"]: row["ok"] for row in said["verified"]} == {
        base.id: True,
        wrong.id: False,
    }
    assert f"{wrong.id}: real inputs" in said["not_checked"]
    assert any(
        line.startswith(f"variant {away.id}: made for sm_999") for line in said["not_checked"]
    )
    code, out = command(path, "--all")
    assert code == 1
    assert "OFF" in out
    assert "Not checked" in out
    assert command(path, "--all", "--precision", "fp32")[0] == 0


def test_without_golden_samples_nothing_is_verified(sums, tmp_path):
    path = rewrite(sums, tmp_path / "none.mmedge", samples=())
    with mmedge.load(path) as pipe, pytest.raises(BundleError, match="no golden samples"):
        verify(pipe)


def test_every_stage_runs_on_every_sample_whatever_the_cache_holds(pair, runs):
    with mmedge.load(pair, threads=1) as pipe:
        for sample in pipe.bundle.samples():  # which share their image
            pipe.run(sample.inputs)
        runs.clear()
        before = pipe.cache_info()
        assert verify(pipe).ok
        assert pipe.cache_info() == before
    # Two samples, each stage alone and in the whole network.
    assert runs == {"seen": 4, "level": 4, "heard": 4, "out": 4}
