"""Loops and state in OpenVINO: what ONNX Runtime's stepper does, its own does too."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mmedge
from mmedge.backends.openvino.compiled import Compiled
from mmedge.backends.openvino.session import fix_shapes
from mmedge.backends.openvino.stepper import OpenVinoStepper
from mmedge.bench.measure import bench
from mmedge.bundle import Bundle
from mmedge.execution import generate
from mmedge.execution.verify import verify
from mmedge.stream import SimulatedClock
from tests.loop_bundles import Captioner, Completer, Painter, Speller, expected_rows, rows
from tests.loop_samples import write_captions, write_filter, write_pictures
from tests.stream_checks import fetch

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'mmedge[openvino]'")


def add_openvino(path):
    """The bundle with a variant of the same graphs, without what the toolchain proves of it."""
    bundle = Bundle.open(path)
    (variant,) = bundle.manifest.variants
    bundle.with_variant(replace(variant, backend="openvino"), {}).close()
    return path


def load(path, **options):
    options = {"backend": "openvino", "allow_unverified": True, "threads": 1, **options}
    return mmedge.load(path, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("openvino")


@pytest.fixture(scope="module", params=[Captioner, Speller], ids=["grows", "keeps its shape"])
def network(request, folder):
    """A network, its pipeline, the name of its input, and values for it by seed and batch."""
    net = request.param()
    path = folder / request.param.__name__
    net.write(path).close()
    name, shape = ("image", (5, 6)) if request.param is Captioner else ("sound", (3, 5))

    def value(seed, batch=1):
        return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)

    with load(add_openvino(path)) as pipe:
        yield net, pipe, name, value


@pytest.fixture(scope="module")
def completer(folder):
    net = Completer()
    net.write(folder / "completer").close()
    with load(add_openvino(folder / "completer")) as pipe:
        yield net, pipe


@pytest.fixture(scope="module")
def painter(folder):
    net = Painter()
    net.write(folder / "painter").close()
    add_openvino(folder / "painter")
    with load(folder / "painter") as pipe, mmedge.load(folder / "painter", backend="ort") as ort:
        yield pipe, ort


def test_the_session_has_a_stepper_of_its_own(network):
    _, pipe, name, value = network
    run = pipe.iterate({name: value(0)})
    assert isinstance(run._run._stepper, OpenVinoStepper)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_tokens_equal_those_of_single_steps(network, seed, batch):
    net, pipe, name, value = network
    inputs = value(seed, batch)
    result = pipe.run({name: inputs})
    assert rows(result) == expected_rows(net, net.scores(inputs), batch)


def test_rows_stop_at_steps_of_their_own(network):
    _, pipe, name, value = network
    lengths = {tuple(sorted(pipe.run({name: value(s, 3)})["lengths"].tolist())) for s in range(12)}
    assert any(len(set(each)) > 1 for each in lengths)


@pytest.mark.parametrize("new", [None, 0, 3])
@pytest.mark.parametrize("count", [1, 7])
def test_a_prompt_in_runs_of_any_size(tmp_path, new, count):
    net = Completer()
    net.write(tmp_path / "completer", new=new).close()
    prompt = np.random.default_rng(count).integers(1, 11, (2, count))
    with load(add_openvino(tmp_path / "completer")) as pipe:
        result = pipe(tokens=prompt)
    assert rows(result) == expected_rows(net, net.scores(2), first=prompt)


def test_a_prompt_that_begins_alike_is_not_run_again(completer, monkeypatch):
    net, pipe = completer
    taken = []
    scores = generate.GenerateRun._scores
    monkeypatch.setattr(
        generate.GenerateRun,
        "_scores",
        lambda run: (taken.append(run._stepper._arrays["tokens"].shape[1]), scores(run))[1],
    )
    prompt = np.random.default_rng(9).integers(1, 11, (1, 9))
    for tokens, runs in ((prompt, [9]), (prompt, []), (prompt[:, :6], [1])):
        taken.clear()
        result = pipe(tokens=tokens)
        assert rows(result) == expected_rows(net, net.scores(), first=tokens)
        assert taken[: len(runs)] == runs
        assert set(taken[len(runs) :]) <= {1}
    # A beginning with other tokens behind it.
    other = np.concatenate((prompt[:, :6], prompt[:, :3]), 1)
    taken.clear()
    assert rows(pipe(tokens=other)) == expected_rows(net, net.scores(), first=other)
    assert taken[0] == 3


def test_a_call_goes_on_with_its_state(completer):
    _, pipe = completer
    prompt = np.array([[3, 4, 5]])
    whole = pipe(tokens=prompt, stop=(), limit=12)
    state = pipe.state()
    parts = [pipe(tokens=prompt, stop=(), limit=5, state=state)]
    kept = state.copy()
    before = {name: array.copy() for name, array in state.tensors().items()}
    parts.append(pipe(tokens=prompt[:, :0], stop=(), limit=7, state=state))
    assert [t for part in parts for t in part["tokens"][0]] == whole["tokens"][0].tolist()
    # What was left is not written to by the runs after it.
    for name, array in kept.tensors().items():
        np.testing.assert_array_equal(array, before[name])
    again = pipe(tokens=prompt[:, :0], stop=(), limit=7, state=kept)
    np.testing.assert_array_equal(again["tokens"], parts[1]["tokens"])


def test_what_the_caller_gives_is_not_written_to(network):
    net, pipe, name, value = network
    inputs = value(3, 2)
    before = inputs.copy()
    first = rows(pipe.run({name: inputs}, cached=False))
    np.testing.assert_array_equal(inputs, before)
    assert rows(pipe.run({name: inputs}, cached=False)) == first
    inputs.flags.writeable = False
    assert (
        rows(pipe.run({name: inputs}, cached=False))
        == first
        == expected_rows(net, net.scores(inputs), 2)
    )


def test_a_form_for_the_samples_shapes_gives_way_to_another(tmp_path):
    """A state that keeps its shape: one row is compiled for by itself, others are not."""
    net = Speller()
    net.write(tmp_path / "plain").close()
    path = tmp_path / "speller"
    sound = np.random.default_rng(0).normal(size=(1, 3, 5)).astype(np.float32)
    with load(add_openvino(tmp_path / "plain")) as pipe:
        step = pipe.bundle.manifest.loop_stages()[0]
        session = pipe._loaded.sessions[step.name]
        shapes = tuple((1,) if spec.name == "token" else (1, 8) for spec in session.inputs)
        session._by_shapes[shapes] = fixed = Compiled(
            fix_shapes(session._model, shapes), session._settings, session._output_names
        )
        assert fixed.fixed_outputs
        assert rows(pipe(sound=sound)) == expected_rows(net, net.scores(sound))
        both = np.concatenate((sound, sound + 1))
        assert rows(pipe(sound=both)) == expected_rows(net, net.scores(both), 2)
    assert not path.exists()


def test_eight_threads_give_each_its_own_tokens(network):
    net, pipe, name, value = network
    values = [value(seed, 1 + seed % 2) for seed in range(8)]
    expected = [expected_rows(net, net.scores(each), len(each)) for each in values]
    wrong = []

    def work(number):
        for turn in range(10):
            at = (number + turn) % 8
            if rows(pipe.run({name: values[at]})) != expected[at]:
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_many_short_generations_take_no_more_memory(network):
    _, pipe, name, value = network
    values = [value(seed) for seed in range(50)]

    def run():
        for count in range(1000):
            pipe.run({name: values[count % 50]}, limit=1 + count % 5)
        gc.collect()

    run()
    before = _resident_bytes()
    run()
    assert _resident_bytes() - before < 8 << 20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


def test_a_step_that_fails_is_told_and_leaves_the_state(completer, monkeypatch):
    _, pipe = completer
    state = pipe.state()
    pipe(tokens=np.array([[3]]), stop=(), limit=3, state=state)
    position = state.position
    with monkeypatch.context() as patch:

        def fail(_stepper):
            raise RuntimeError("no more memory")

        patch.setattr(OpenVinoStepper, "_run", fail)
        with pytest.raises(mmedge.BackendError, match="OpenVINO failed: no more memory"):
            pipe(tokens=np.array([[4]]), stop=(), state=state)
    assert state.position == position
    with pytest.raises(mmedge.BackendError, match="integers of 32 bits"):
        pipe(tokens=np.array([[2**31]]))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_latent_is_that_of_onnx_runtime(painter, batch):
    """Its step has a state, and runs twice a row of the schedule, each with its own."""
    pipe, ort = painter
    condition = np.random.default_rng(1).normal(size=(batch, 3)).astype(np.float32)
    steps, expected = (
        [step.latent for step in each.iterate({"condition": condition}, seed=4)]
        for each in (pipe, ort)
    )
    np.testing.assert_allclose(steps, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("where", ["whole", "encoder", "fusion"])
def test_a_state_without_a_loop(tmp_path, where):
    path = add_openvino(write_filter(tmp_path / "filter", where))
    ones = np.ones((1, 4), np.float32)
    with load(path, allow_unverified=False) as pipe:
        state = pipe.state()
        outputs = [float(pipe(x=ones * v, gain=ones, state=state)["y"][0, 0]) for v in (1, 1, 0, 2)]
        assert outputs == [1.0, 2.0, 1.5, 2.75]
    with load(path) as pipe:
        clock = SimulatedClock(start=100.0)
        with pipe.stream(trigger="x", clock=clock) as stream:
            stream.push("gain", ones)
            for value in (1, 1, 0):
                clock.advance(0.01)
                stream.push("x", ones * value)
            results = fetch(stream)
        assert [float(result.outputs["y"][0, 0]) for result in results] == [1.0, 2.0, 1.5]


def test_a_stream_runs_loops_on_its_triggers(network):
    net, pipe, name, value = network
    clock = SimulatedClock(start=100.0, costs={"step": 0.001})
    expected = []
    with pipe.stream(trigger=name, clock=clock) as stream:
        results = []
        for seed in range(3):
            clock.advance(1.0)
            stream.push(name, value(seed))
            clock.advance(1.0)
            results += fetch(stream)
            expected.append(expected_rows(net, net.scores(value(seed))))
    assert [rows(result.outputs) for result in results] == expected


@pytest.mark.parametrize("write", [write_captions, write_pictures], ids=["tokens", "latent"])
def test_golden_samples_are_replayed(tmp_path, write):
    path = add_openvino(write(tmp_path / "b"))
    with load(path, allow_unverified=False) as pipe:
        assert verify(pipe).ok


def test_a_damaged_step_is_refused(tmp_path):
    path = write_captions(tmp_path / "b")
    with Bundle.open(path) as bundle:
        files = {name: bytes(bundle.read(name)) for name in bundle.manifest.files}
        other = dict(files)
    Captioner(seed=4).write(tmp_path / "other").close()
    with Bundle.open(tmp_path / "other") as damaged:
        other["onnx/other.onnx"] = bytes(damaged.read("onnx/step.onnx"))
    bundle = Bundle.open(path)
    (variant,) = bundle.manifest.variants
    variant = replace(
        variant, backend="openvino", files={**variant.files, "step": "onnx/other.onnx"}
    )
    bundle.with_variant(variant, {"onnx/other.onnx": other["onnx/other.onnx"]}).close()
    with pytest.raises(mmedge.AccuracyError, match="stage 'step' differs"):
        mmedge.load(path, backend="openvino")


def test_a_loop_is_measured(tmp_path):
    path = str(add_openvino(write_captions(tmp_path / "b")))
    report = bench(path, "openvino", threads=1, calls=20, warmup=2, tokens=4)
    assert report.variant == "openvino-fp32-cpu"
    assert (report.loop["steps"], report.loop["first_ms"]["count"]) == (4, 20)
    assert any(operator["stage"] == "step" for operator in report.operators)
