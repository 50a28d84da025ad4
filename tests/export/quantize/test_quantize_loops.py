"""Bundles whose stages have state or run in a loop, to lower precision and on to a device."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import onnx
import pytest
from loop_networks import WORDS, continued, policy, policy_head, spoken

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import AccuracyError
from mmedge.execution.verify import verify
from mmedge_export import export
from mmedge_export.calibration.calibrate import calibrate
from mmedge_export.quantize import Task, quantize
from mmedge_export.quantize import quantize_bundle as module
from mmedge_export.quantize.evaluate import BundleNetwork, Call
from mmedge_export.quantize.options import QuantizeOptions

OPTIONS = {"goal": "size", "threads": 1, "max_error": 0.3}
RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Bundles in float32 by what drives them."""
    folder = tmp_path_factory.mktemp("loops")
    networks = {
        "generate": continued(), "recurrent": spoken(), "denoise": policy_head(), "state": policy()
    }  # fmt: skip
    for name, model in networks.items():
        export(model, folder / name, samples_limit=3).close()
    return folder


@pytest.fixture
def bundle(plain, tmp_path):
    def copy(name):
        return shutil.copytree(plain / name, tmp_path / name)

    return copy


def run(path, task=None, resume=None, progress=None, **options):
    asked = QuantizeOptions(**OPTIONS | options)
    opened, report = quantize(path, task, asked, resume=resume, progress=progress)
    opened.close()
    return report


def prompts(count):
    return [{"input_ids": RNG.integers(3, WORDS, (1, 4))} for _ in range(count)]


@pytest.mark.parametrize(
    ("name", "precision", "stages"),
    [
        ("generate", "int8", {"step"}),
        ("generate", "int4", {"step"}),
        ("recurrent", "int8", {"model", "step"}),
        ("denoise", "int8", {"image", "joints", "step"}),
        ("state", "int8", {"image", "fusion"}),
    ],
)
def test_a_variant_is_added_and_holds_on_the_device(name, precision, stages, bundle):
    path = bundle(name)
    report = run(path, precision=precision, max_error=0.5)
    assert report.variant == f"ort-{precision}-cpu"
    assert {stage.name for stage in report.stages} == stages
    assert report.verdict.ok
    assert report.bytes_after < report.bytes_before
    with Bundle.open(path) as opened:
        variants = {variant.id: variant for variant in opened.manifest.variants}
        quantized, floats = variants[report.variant], variants["ort-fp32-cpu"]
        assert quantized.files.keys() == floats.files.keys()
        step = {"state": "fusion"}.get(name, "step")
        assert quantized.files[step] != floats.files[step]
        plans = opened.manifest.plan_names(quantized)
    # Where keys and values grow, their form in place is one more variant.
    assert len(report.variants) == 1 + (name == "generate")
    for variant in report.variants:
        for plan in plans:
            with mmedge.load(path, variant, plan=plan) as pipe:
                assert verify(pipe).ok
    assert (
        (report.tokens > 0) is (report.first_ms is not None) is (name in ("generate", "recurrent"))
    )
    plain_words = json.dumps(report.to_dict(), allow_nan=False)
    assert '"token_ms"' in plain_words


def test_the_report_says_how_a_loop_was_timed_and_judged(bundle):
    report = run(bundle("generate"))
    words = dict(report.summary())
    assert f"(a call of {report.tokens} tokens)" in words["latency"]
    assert "times as fast" in words["first token"]
    assert "times as fast" in words["each token after it"]
    assert " rows" in words["choices of logits"]
    (step,) = report.stages
    assert re.search("; timed as 1 prefill of [0-9]+ and [0-9]+ steps$", step.speed)


def test_the_steps_of_a_denoising_loop_are_timed(bundle):
    report = run(bundle("denoise"))
    (step,) = (stage for stage in report.stages if stage.name == "step")
    assert step.speed.endswith("; timed as 5 runs")
    assert report.first_ms is report.token_ms is None
    assert not report.verdict.changed


def test_the_network_answers_as_the_pipeline_does(plain):
    (values,) = prompts(1)
    with Bundle.open(plain / "generate") as opened, mmedge.load(plain / "generate") as pipe:
        network = BundleNetwork(opened, threads=1)
        ours, theirs = network.run(values), pipe.run(values)
        assert ours.keys() == theirs.keys()
        assert np.array_equal(ours["tokens"], theirs["tokens"])
        assert ours["finish"] == theirs["finish"]
        forced = np.array([[5, 6, 7]])
        scores = network.answer(Call(values, forced=forced))["logits"]
        steps = list(pipe.iterate(values, forced=forced, limit=4))
        assert np.allclose(scores, np.stack([step.scores for step in steps], 1), atol=1e-5)
    inputs = {
        name: RNG.standard_normal(shape).astype(np.float32)
        for name, shape in (("image", (1, 5, 12)), ("joints", (1, 7)))
    }
    with Bundle.open(plain / "denoise") as opened, mmedge.load(plain / "denoise") as pipe:
        ours = BundleNetwork(opened, threads=1).run(inputs, seed=3)
        assert np.allclose(ours["latent"], pipe.run(inputs, seed=3)["latent"], atol=1e-5)


def test_states_go_from_sample_to_sample(plain):
    samples = [
        {name: RNG.standard_normal((1, size)).astype(np.float32) for name, size in
         (("image", 300), ("imu", 6))}
        for _ in range(3)
    ]  # fmt: skip
    with Bundle.open(plain / "state") as opened, mmedge.load(plain / "state") as pipe:
        network, state = BundleNetwork(opened, threads=1), pipe.state()
        carried = network.answers(Call(values) for values in samples)
        anew = network.answers(Call(values, states={}) for values in samples)
        for ours, alone, values in zip(carried, anew, samples, strict=True):
            assert np.allclose(ours["action"], pipe.run(values, state=state)["action"], atol=1e-5)
            assert np.allclose(alone["action"], pipe.run(values)["action"], atol=1e-5)
        assert not np.allclose(carried[2]["action"], anew[2]["action"], atol=1e-5)


def test_ranges_are_of_every_step(plain, tmp_path):
    """What enters the step grows from token to token; all of it is seen."""
    with Bundle.open(plain / "generate") as opened:
        names, inputs = {"step": ["past_k"]}, prompts(2)
        counts, state = [], tmp_path / "state"
        for options, file in (({}, None), ({"limit": 3}, state), ({"limit": 3}, state)):
            seen = calibrate(opened, inputs, {}, names, options={"stop": (), **options}, state=file)
            counts.append(count_of(seen["step"]["past_k"].histogram))
    # A prompt of 4 leaves as many places, and each token after it one more, of 32 numbers.
    assert counts == [2 * 32 * sum(range(4, 4 + n)) for n in (8, 2, 2)]


def count_of(histogram):
    return int(histogram.counts.sum()) + histogram.zeros


def same_tokens(outputs, targets):
    return float(np.mean([np.array_equal(o["tokens"], t) for o, t in zip(outputs, targets)]))  # noqa: B905


def test_a_metric_gets_what_a_call_gives_and_is_kept(bundle):
    path = bundle("generate")
    inputs = prompts(60)
    with mmedge.load(path) as pipe:
        targets = [pipe.run(values)["tokens"] for values in inputs]
    given = []

    def metric(outputs, targets):
        given.append(outputs[0].keys())
        return same_tokens(outputs, targets)

    task = Task(list(zip(inputs, targets, strict=True)), inputs[:8], metric)
    report = run(path, task, max_drop=0.5, precision="int8")
    assert set(given[0]) == {"tokens", "lengths", "finish"}
    assert report.metric == 1.0
    assert report.verdict.drop.bound <= 0.5
    assert report.variant == "ort-int8-cpu"
    with pytest.raises(AccuracyError, match="samples cannot show"):
        run(path, task, max_drop=0.01)


def test_nothing_is_kept_that_loses_too_much(bundle):
    path = bundle("generate")
    said: list[str] = []
    with pytest.raises(AccuracyError, match="with no node in lower precision"):
        run(path, max_error=1e-9, progress=said.append)
    assert any("error of the answers by stage: step" in line for line in said)
    with Bundle.open(path) as opened:
        assert {variant.precision for variant in opened.manifest.variants} == {"fp32"}


def test_nodes_of_a_step_are_put_back(bundle):
    path = bundle("generate")
    worst = run(path, precision="int4", max_error=10).verdict.worst
    path = shutil.copytree(path, path.with_name("again"))
    opened = Bundle.open(path)
    opened.without_variant("ort-int4-cpu").close()
    report = run(path, precision="int4", max_error=0.5 * worst)
    assert report.verdict.worst <= 0.5 * worst
    (step,) = (stage for stage in report.stages if stage.name == "step")
    assert "the metric needs it" in step.kept.values()
    with mmedge.load(path, precision="int4") as pipe:
        assert verify(pipe).ok


def test_a_damaged_step_does_not_pass(bundle):
    path = bundle("generate")
    run(path, precision="int4", max_error=1.0)
    opened = Bundle.open(path)
    (variant,) = (v for v in opened.manifest.variants if v.id == "ort-int4-cpu")
    name = variant.files["step"]
    graph = onnx.load(opened.file(name))
    floats = [t for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    largest = max(floats, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(largest)
    largest.CopyFrom(onnx.numpy_helper.from_array(-values, largest.name))
    opened.with_variant(variant, {name: graph.SerializeToString()}).close()
    with (
        mmedge.load(path, variant.id, allow_unverified=True) as pipe,
        pytest.raises(AccuracyError),
    ):
        verify(pipe).check()


def test_a_stopped_run_goes_on(bundle, tmp_path, monkeypatch):
    path, folder = bundle("generate"), tmp_path / "work"
    with monkeypatch.context() as patch:
        patch.setattr(module, "golden_differences", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(path, resume=folder)
    answers = []
    old = BundleNetwork.answers
    monkeypatch.setattr(
        BundleNetwork, "answers", lambda self, *a: answers.append(1) or old(self, *a)
    )
    report = run(path, resume=folder)
    assert report.variant == "ort-int8-cpu"
    assert answers == [1]  # the float network's own
