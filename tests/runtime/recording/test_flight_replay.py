"""A dump runs again to the same results, bit for bit, or says which differ and in what."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from math import inf, nan

import numpy as np
import onnx
import pytest
from flights import drive, fly
from loop_bundles import Captioner
from onnx import TensorProto, helper
from stream_loops import make_growing, make_policy, make_recurrent
from stream_loops import value as number
from streaming import MODALITIES, value
from swap_bundles import frame, make_network

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import InputError
from mmedge.recording import FlightRecorder
from mmedge.recording.flight.comparison import compare_outputs
from mmedge.recording.flight.options import options_to_json, read_stream_options
from mmedge.recording.flight.reader import FlightDump
from mmedge.recording.flight.replay import replay_dump
from mmedge.spec import Manifest, Modality, Sample, Stage, TensorSpec, Tolerance, Variant
from mmedge.stream import Exact, Hold, Interpolate, Latest, Sanity, Window

pytest.importorskip("mcap.writer")

NAMES = [modality.name for modality in MODALITIES]
COSTS = {"see": 0.01, "scan": 0.05, "fuse": 0.004, "hear": 0.002}
#: Every policy, and with a deadline results that repeat outputs.
OPTIONS = (
    {"trigger": "camera"},
    {"trigger": 30.0, "align": {"state": Interpolate(wait_ms=5), "voice": Window(6, 3)}},
    {
        "trigger": "any",
        "deadline_ms": 20,
        "align": {"lidar": Exact(50), "odom": Hold(60), "text": Latest(wait_ms=5)},
        "sanity": {"state": Sanity(frozen_after=3)},
        "depth": 5,
    },
)


@pytest.fixture(scope="module")
def pipe(streaming):
    with mmedge.load(streaming, threads=1) as pipe:
        yield pipe


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    path = make_recurrent(tmp_path_factory.mktemp("states") / "bundle", remember=True)
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


@pytest.fixture(autouse=True)
def _quick_disk(unsynced):
    """See there."""


def spoil(name, made):
    """What a broken sensor gives."""
    if isinstance(made, dict) or made.dtype.kind != "f":
        return made
    made = made.copy()
    made.flat[0] = nan
    return made


def differences(comparison):
    return [r for r in comparison.results if r.outcome not in ("equal", "not_computed")]


@pytest.mark.parametrize(("seed", "options"), list(enumerate(OPTIONS)))
def test_a_whole_run_comes_out_the_same_in_all_that_results_say(pipe, tmp_path, seed, options):
    with fly(pipe, tmp_path, costs=COSTS, **options) as flight:
        drive(flight, seed, 120, NAMES, faulty=spoil)
        dump = flight.dump()
    comparison = replay_dump(pipe, dump)
    assert comparison.method == "whole run"
    assert comparison.is_equal
    assert comparison.counts == {"equal": len(dump.results)}
    assert len(dump.results) > 10
    # A cut run is compared result by result.
    dump.header["is_whole"] = False
    each = replay_dump(pipe, dump)
    assert each.method == "each result"
    assert differences(each) == []
    assert each.counts["equal"] > 10


def test_a_window_that_cuts_into_history_has_what_its_results_used(pipe, tmp_path):
    align = {"state": Interpolate(wait_ms=5), "voice": Window(12, 4)}
    options = {"trigger": "camera", "align": align, "seconds": 0.3, "costs": COSTS}
    with fly(pipe, tmp_path, **options) as flight:
        flight.push("text", 3)
        drive(flight, 1, 120, ["camera", "lidar", "state", "voice"], withdraws=False)
        dump = flight.dump()
    held = {sample.modality for sample in dump.samples.values() if sample.held}
    assert "text" in held
    assert not dump.header["is_whole"]
    comparison = replay_dump(pipe, dump)
    assert differences(comparison) == []
    assert comparison.counts["equal"] >= 3


def test_a_recorder_that_came_late_has_what_results_used(pipe, tmp_path):
    with fly(pipe, tmp_path, trigger="camera", attached=False) as flight:
        flight.push("text", 3)
        flight.push("lidar", 4)
        flight.attach()
        flight.push("camera", 1, 2)
        dump = flight.dump()
    assert dump.samples["text", 0].held
    comparison = replay_dump(pipe, dump)
    assert (comparison.method, comparison.counts) == ("each result", {"equal": 2})


def test_what_is_used_again_after_the_window_is_kept_again(pipe, recurrent, tmp_path):
    """A prompt, and a value of an encoder with state, whose users had all left the window."""
    cases = (
        (pipe, "text", "camera", "state", value),
        (recurrent, "audio", "camera", "imu", number),
    )
    for case, (network, once, trigger, often, numbers) in enumerate(cases):
        folder = tmp_path / str(case)
        with fly(network, folder, numbers=numbers, trigger=trigger, seconds=0.5) as flight:
            flight.push(once, 3)
            flight.push(trigger, 1, 2)
            flight.push(often, *range(60))
            ring = flight.recorder._memory.ring
            assert ring.find((once, 0)) is None
            flight.push(trigger, 4)
            flight.push(often, 61)  # the record of a result is made when something else comes
            assert ring.find((once, 0)) is not None
            parts = {id(r): r for r in (*ring.records, *ring.held)}
            assert ring.nbytes == sum(record.nbytes for record in parts.values())
            dump = flight.dump()
        assert dump.samples[once, 0].held
        assert replay_dump(network, dump).counts == {"equal": 1}


def recurrent_flight(recurrent, folder, **options):
    return fly(recurrent, folder, numbers=number, trigger="camera", **options)


@pytest.mark.parametrize("seconds", [60.0, 0.4])
def test_states_of_encoders_and_of_fusion_begin_as_they_did(recurrent, tmp_path, seconds):
    options = {"costs": {"listen": 0.01, "fuse": 0.002}, "reset_after": 0.3, "seconds": seconds}
    with recurrent_flight(recurrent, tmp_path, **options) as flight:
        drive(flight, 3, 120, ["audio", "imu", "camera"], faulty=spoil)
        dump = flight.dump()
    if seconds > 1:
        assert replay_dump(recurrent, dump).method == "whole run"
        assert replay_dump(recurrent, dump).is_equal
        dump.header["is_whole"] = False
    comparison = replay_dump(recurrent, dump)
    assert differences(comparison) == []
    assert comparison.counts["equal"] > 5


def test_large_states_are_kept_seldom_and_had_of_the_runs_between(recurrent, tmp_path, monkeypatch):
    monkeypatch.setattr("mmedge.recording.flight.memory.SMALL_STATE", 0)
    with recurrent_flight(recurrent, tmp_path, seconds=1.2) as flight:
        for _ in range(150):
            flight.push("audio", 3, every=0.01)
            flight.push("camera", 4, every=0.01)
        dump = flight.dump()
    comparison = replay_dump(recurrent, dump)
    bad = differences(comparison)
    # The first one may have had its state from before the window.
    assert len(bad) <= 1
    assert all("is not in the dump" in result.words[0] for result in bad)
    runs = [e for e in dump.entries if type(e).__name__ == "DumpRun"]
    assert any(run.states is None for run in runs)
    assert comparison.counts["equal"] > 50


def test_an_altered_state_shows_in_the_next_run(recurrent, tmp_path):
    with recurrent_flight(recurrent, tmp_path) as flight:
        flight.push("audio", 1, 2)
        flight.push("camera", 3)
        dump = flight.dump()
    dump.header["is_whole"] = False
    (first, second) = (e for e in dump.entries if type(e).__name__ == "DumpRun")
    assert first.states == {}
    for arrays in second.states.values():
        arrays["heard_before"][...] += 1
    (result,) = replay_dump(recurrent, dump).results
    assert result.outcome == "different"
    named = "modality 'audio': state 'heard_before': 1 of 1 elements differ, by up to 1"
    assert named in result.words
    assert any(word.startswith("output 'out': ") for word in result.words)


def test_states_that_grow(tmp_path):
    with mmedge.load(make_growing(tmp_path / "bundle"), threads=1) as pipe:
        (name,) = [m.name for m in pipe.bundle.manifest.modalities]
        with fly(pipe, tmp_path / "dumps", numbers=number, trigger=name, seconds=0.1) as flight:
            flight.push(name, *range(8))
            dump = flight.dump()
        comparison = replay_dump(pipe, dump)
    # The last ones are refused, because the state has grown to its limit.
    assert differences(comparison) == []
    assert comparison.counts["equal"] >= 2


@pytest.mark.parametrize("options", [{}, {"newer_trigger": "cancel"}, {"deadline_ms": 55}])
def test_loops_end_where_they_ended(tmp_path, options):
    Captioner().write(tmp_path / "bundle", stop=(), limit=12).close()

    def image(_modality, k):
        return np.random.default_rng(k).normal(size=(1, 5, 6)).astype(np.float32)

    with mmedge.load(tmp_path / "bundle", threads=1) as pipe:
        with fly(
            pipe, tmp_path / "dumps", trigger="image", costs={"step": 0.01}, numbers=image,
            loop_options={"limit": 10, "seed": 3, "temperature": 0.9}, **options,
        ) as flight:  # fmt: skip
            flight.push("image", *range(12), every=0.05)
            flight.clock.advance(1.0)
            dump = flight.dump()
        whole = replay_dump(pipe, dump)
        dump.header["is_whole"] = False
        each = replay_dump(pipe, dump)
    assert len(dump.results) > 3
    assert whole.counts == {"equal": len(dump.results)}
    assert differences(each) == []
    finishes = {finish for r in dump.results if r.outputs for finish in r.outputs["finish"]}
    ends = {"cancel": "cancel", 55: "deadline"}
    assert next((ends[end] for end in options.values()), "limit") in finishes


def test_a_loop_that_denoises(tmp_path):
    with mmedge.load(make_policy(tmp_path / "bundle"), threads=1) as pipe:
        names = [m.name for m in pipe.bundle.manifest.modalities]
        with fly(
            pipe, tmp_path / "dumps", numbers=number, trigger=names[0], costs={"step": 0.01}
        ) as flight:
            for k in range(6):
                for name in names:
                    flight.push(name, k, every=0.05)
            flight.clock.advance(1.0)
            dump = flight.dump()
        dump.header["is_whole"] = False
        comparison = replay_dump(pipe, dump)
    assert differences(comparison) == []
    assert comparison.counts["equal"] > 2


@contextmanager
def slow_and_failing(pipe, monkeypatch, stage, seconds, *, fails_at=()):
    """A stage that takes long, and fails at some of its runs."""
    real, runs = pipe.run_stage, [0]

    def run_stage(name, feeds):
        if name == stage:
            runs[0] += 1
            time.sleep(seconds)
            if runs[0] in fails_at:
                raise ValueError("the encoder was interrupted")
        return real(name, feeds)

    with monkeypatch.context() as patch:
        patch.setattr(pipe, "run_stage", run_stage)
        yield


def test_a_live_stream_with_faults_runs_again_bit_for_bit(pipe, tmp_path, monkeypatch):
    """Real threads and time: sensors that stop, NaN, infinity, a slow and failing encoder."""
    align = {"state": Interpolate(wait_ms=2), "voice": Window(6, 3), "odom": Exact(20)}
    dead_after = {"lidar": 5, "odom": 10}
    with slow_and_failing(pipe, monkeypatch, "scan", 0.02, fails_at=(2,)):
        stream = pipe.stream(trigger="camera", deadline_ms=40, align=align)
        recorder = FlightRecorder(stream, tmp_path, machine_period_s=0.05)

        def sense(name, period, count):
            random = np.random.default_rng(len(name))
            for k in range(count):
                if k >= dead_after.get(name, inf):
                    return
                made = value(name, k)
                if not isinstance(made, dict):
                    made = (made + random.random(made.shape)).astype(np.float32)
                    if k % 7 == 5:
                        made.flat[0] = nan if k % 2 else inf
                stream.push(name, made, copy=k % 2 == 0)
                time.sleep(period)

        periods = (("camera", 0.01, 60), ("lidar", 0.03, 20), ("state", 0.004, 150),
                   ("odom", 0.02, 30), ("voice", 0.015, 40))  # fmt: skip
        stream.push("text", "red ball")
        threads = [threading.Thread(target=sense, args=sensor) for sensor in periods]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        path = recorder.dump("test")
        recorder.close()
        stream.close()
    dump = FlightDump.open(path)
    assert {s.fault for s in dump.samples.values()} >= {None, "nan"}
    comparison = replay_dump(pipe, dump)
    assert comparison.method == "each result"
    assert differences(comparison) == []
    assert comparison.counts["equal"] >= 5
    assert len(dump.results) >= 10


def test_what_differs_is_named(pipe, tmp_path):
    with fly(pipe, tmp_path, trigger="camera") as flight:
        flight.push("camera", 1, 2, 3)
        dump = flight.dump()
    results = dump.results
    results[1].outputs["out"][0, 0] = np.nextafter(np.float32(2), np.float32(3))
    results[2].fields["ages"]["camera"] = 0.25
    for whole in (True, False):
        dump.header["is_whole"] = whole
        one, two, three = replay_dump(pipe, dump).results
        assert one.outcome == "equal"
        assert (two.outcome, two.words) == (
            "different", ("output 'out': 1 of 11 elements differ, by up to 2.38e-07",),
        )  # fmt: skip
        assert three.outcome == "different"
        assert "0.25" in three.words[0]
    assert not replay_dump(pipe, dump).is_equal


def test_what_is_not_there_is_named(pipe, tmp_path):
    with fly(pipe, tmp_path, trigger="camera") as flight:
        flight.push("lidar", 1)
        flight.push("camera", 1, 2)
        dump = flight.dump()
    dump.header["is_whole"] = False
    lidar = dump.samples["lidar", 0]
    dump.samples["lidar", 0] = replace(lidar, value=None, missing="it was on a GPU")
    comparison = replay_dump(pipe, dump)
    assert comparison.counts == {"not_reproducible": 2}
    assert not comparison.is_equal
    assert comparison.results[0].words == ("sample 0 of 'lidar' cannot be used: it was on a GPU",)
    assert comparison.remarks == ("1 samples were not kept, the first because it was on a GPU",)


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    for number_, name in ((1, "one"), (2, "two")):
        make_network(folder / name, number_)
    return folder


def test_results_of_two_networks_are_each_compared_on_their_own(swapped, tmp_path):
    with mmedge.load(swapped / "one", threads=1) as one:
        numbers = lambda _modality, k: np.full((1, 1), k, np.float32)  # noqa: E731
        with fly(one, tmp_path, trigger="camera", numbers=numbers) as flight:
            swap = flight.stream.swap(swapped / "two", shadow=3, probation=3)
            for k in range(1, 61):
                flight.push("state", k, every=0.01)
                if k % 5 == 0:
                    flight.stream.push("camera", frame(k))
                if k % 10 == 3:
                    flight.stream.push("lidar", frame(k))
            assert swap.state == "confirmed"
            dump = flight.dump()
        assert [network["number"] for network in dump.header["networks"]] == [0, 1]
        first = replay_dump(one, dump)
    with mmedge.load(swapped / "two", threads=1) as two:
        second = replay_dump(two, dump)
    assert first.method == second.method == "each result"
    outcomes = [
        {(a.outcome, b.outcome) for a, b in zip(first.results, second.results, strict=True)}
    ]
    assert outcomes == [{("equal", "not_reproducible"), ("not_reproducible", "equal")}]
    assert "variant ort-fp32-cpu of bundle" in second.results[0].words[0]


def test_states_that_another_network_took_over(tmp_path):
    paths = [make_recurrent(tmp_path / name, remember=True) for name in ("a", "b")]
    with mmedge.load(paths[0], threads=1) as pipe:
        with fly(pipe, tmp_path / "dumps", numbers=number, trigger="camera") as flight:
            swap = flight.stream.swap(paths[1], shadow=3, probation=3)
            for k in range(12):
                flight.push("audio", k)
                flight.push("camera", 1)
            assert swap.state == "confirmed"
            dump = flight.dump()
        comparison = replay_dump(pipe, dump)
    # Both have one digest, so that all are compared. Of what was encoded for the new network before
    # it took over, nobody told.
    assert comparison.counts.get("different", 0) == 0
    assert comparison.counts["equal"] >= 10
    assert all("not in the dump" in r.words[0] for r in differences(comparison))


def test_another_bundle_or_variant_is_refused_and_another_machine_is_said(
    pipe, recurrent, tmp_path
):
    with fly(pipe, tmp_path, trigger="camera") as flight:
        flight.push("camera", 1)
        dump = flight.dump()
    with pytest.raises(InputError, match="results of bundle 'streaming' of digest"):
        replay_dump(recurrent, dump)
    dump.header["device"]["cpu"] = "another"
    dump.header["device"]["libraries"]["onnxruntime"] = "1.0"
    remarks = replay_dump(pipe, dump).remarks
    assert remarks[0].startswith("recorded on another, replayed on ")
    assert any("recorded with onnxruntime 1.0, replayed with" in remark for remark in remarks)


def make_sums(path, size=1001):
    """A network that adds up one input, which depends on where the input lies."""
    x, y = TensorSpec("x", "float32", (1, size)), TensorSpec("y", "float32", (1, 1))
    axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axis"], ["y"])], "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y.shape)], [axis],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file = "onnx/net.onnx"
    manifest = Manifest(
        name="sums",
        modalities=(Modality("scan", ("x",)),),
        stages=(Stage("net", file, (x,), (y,)),),
        outputs=("y",),
        variants=(Variant("ort", "fp32", "cpu", {"net": file}, Tolerance(1e-4, 1e-4)),),
        files={},
    )
    zeros = np.zeros((1, size), np.float32)
    sample = Sample({"x": zeros}, {"y": np.zeros((1, 1), np.float32)})
    Bundle.write(path, manifest, {file: model.SerializeToString()}, samples=[sample]).close()
    return path


def test_arrays_lie_in_memory_as_they_did(tmp_path):
    """A sum's last bits depend on the address; so a pushed view of a buffer must lie as it lay."""
    random = np.random.default_rng(0)
    with mmedge.load(make_sums(tmp_path / "bundle"), threads=1) as pipe:
        with fly(pipe, tmp_path / "dumps", trigger="scan") as flight:
            for offset in range(0, 64, 4):
                memory = np.zeros(4 * 1001 + 128, np.uint8)
                start = -memory.ctypes.data % 64 + offset
                view = memory[start : start + 4 * 1001].view(np.float32).reshape(1, 1001)
                view[...] = random.normal(size=view.shape)
                flight.clock.advance(0.01)
                flight.stream.push("scan", view, copy=False)
            dump = flight.dump()
        assert [s.alignment["x"] for s in dump.samples.values()] == list(range(0, 64, 4))
        assert replay_dump(pipe, dump).counts == {"equal": 16}
        dump.header["is_whole"] = False
        assert replay_dump(pipe, dump).counts == {"equal": 16}


@pytest.mark.parametrize("options", OPTIONS)
def test_options_come_back_as_they_were(pipe, options):
    full = pipe.stream(**options).options
    again = read_stream_options(options_to_json(full))
    assert again == {**full, "align": full["align"] or {}, "sanity": full["sanity"] or {}}


def test_options_of_another_version_are_refused(pipe):
    tree = options_to_json(pipe.stream(**OPTIONS[2]).options)
    for wrong in (
        {"trigger": "camera"},
        {**tree, "align": {"lidar": {"policy": "Nearest"}}},
        {**tree, "align": {"lidar": {"policy": "Exact", "tolerance_ms": 1}}},
        {**tree, "loop_options": {"noise": {"array": {"dtype": "float32"}}}},
    ):
        with pytest.raises(InputError):
            read_stream_options(wrong)


def test_arrays_of_options_come_back():
    noise = np.arange(6, dtype=np.float32).reshape(2, 3)
    names = ("trigger", "deadline_ms", "align", "sanity", "depth", "keep", "future",
             "recover_after", "reset_after", "newer_trigger")  # fmt: skip
    tree = options_to_json(dict.fromkeys(names) | {"loop_options": {"noise": noise}})
    again = read_stream_options(tree)["loop_options"]["noise"]
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, noise)


def test_outputs_are_compared_by_their_bits():
    zero, array = np.array([0.0, nan], np.float32), np.array([-0.0, nan], np.float32)
    assert compare_outputs({"a": array}, {"a": array.copy()}) == []
    assert compare_outputs({"a": array}, {"a": zero}) == [
        "output 'a': 1 of 2 elements differ, by up to 0; 1 are not finite"
    ]
    assert compare_outputs(None, {"a": zero}) == [
        "outputs: there are some replayed, and none recorded"
    ]
    assert compare_outputs({"a": zero}, {"b": zero}) == [
        "output 'a' is only recorded", "output 'b' is only replayed",
    ]  # fmt: skip
    assert compare_outputs({"a": zero}, {"a": zero[:1]}) == [
        "output 'a': recorded float32[2], replayed float32[1]"
    ]
    assert compare_outputs({"a": ["x"]}, {"a": ["y"]}) == [
        "output 'a': recorded ['x'], replayed ['y']"
    ]
