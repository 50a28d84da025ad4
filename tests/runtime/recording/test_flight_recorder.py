"""What makes a flight recorder write a dump, what is in it, and what never disturbs the stream."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from flights import fly
from streaming import value

import mmedge
from mmedge.bench.replay import replay
from mmedge.errors import BackendError, InputError
from mmedge.recording import DumpLimits, DumpTriggers, FlightRecorder, open_recording
from mmedge.recording.flight import dump_thread, header, reader
from mmedge.recording.flight.reader import DumpSample, FlightDump, is_dump
from mmedge.recording.flight.replay import replay_dump
from mmedge.stream import Observer, SimulatedClock

mcap_reader = pytest.importorskip("mcap.reader")

NAN = np.full((1, 3), np.nan, np.float32)


@pytest.fixture(scope="module")
def pipe(streaming):
    with mmedge.load(streaming, threads=1) as pipe:
        yield pipe


@pytest.fixture(autouse=True)
def _quick_disk(unsynced):
    """See there."""


def pushed(dump, modality):
    return [e for e in dump.entries if isinstance(e, DumpSample) and e.modality == modality]


def reasons(dump):
    return [trigger["kind"] for trigger in dump.header["triggers"]]


def test_nothing_is_written_before_a_trigger_and_the_call_writes_what_there_is(pipe, tmp_path):
    with fly(pipe, tmp_path / "dumps", trigger="camera") as flight:
        flight.push("state", 1)
        flight.push("camera", *range(5))
        assert not (tmp_path / "dumps").exists()
        path = flight.recorder.dump("the arm shook")
        assert [p.name for p in (tmp_path / "dumps").iterdir()] == [path.name]
        assert flight.stream.health().events == {"flight_dump": 1}
    dump = FlightDump.open(path)
    assert dump.header["triggers"] == [
        {"kind": "application", "t": pytest.approx(5.12), "message": "the arm shook"}
    ]
    assert [(s.seq, s.fault) for s in pushed(dump, "camera")] == [(k, None) for k in range(5)]
    np.testing.assert_array_equal(pushed(dump, "camera")[3].value["image"], value("camera", 3))
    assert [r.fields["samples"]["camera"][0][0] for r in dump.results] == list(range(5))
    assert dump.results[-1].outputs["out"][0, 0] == 4
    assert dump.header["networks"][0]["digest"] == pipe.bundle.digest


def test_a_dump_is_a_recording_as_any_other(pipe, tmp_path):
    with fly(pipe, tmp_path, trigger="camera", seconds=0.25) as flight:
        flight.push("text", 3)
        flight.push("camera", *range(20))
        path = flight.recorder.dump("test")
    assert is_dump(path)
    recording = open_recording(path)
    samples = list(recording)
    # The text from before the window is there, because results use it.
    assert [s.modality for s in samples] == ["text"] + ["camera"] * 13
    run = replay(pipe, recording, trigger="camera", clock=SimulatedClock())
    assert run.results["fresh"] == 13


def test_the_tools_of_mcap_read_it_and_its_json_is_as_its_schemas_say(pipe, tmp_path):
    with fly(pipe, tmp_path, trigger=20, costs={"see": 0.01}) as flight:
        flight.push("state", 1)
        flight.clock.advance(0.1)  # results without outputs
        flight.push("camera", 1, 2, 3)
        flight.stream.forget("state")
        path = flight.recorder.dump("test")
    kinds = Counter()
    with path.open("rb") as file:
        for schema, channel, message in mcap_reader.make_reader(file).iter_messages():
            kinds[channel.topic] += 1
            if channel.message_encoding == "json":
                jsonschema.validate(json.loads(message.data), json.loads(schema.data))
    assert kinds["/camera"] == 3
    assert kinds["/mmedge/samples"] == 4
    assert kinds["/mmedge/events"] == 1
    assert kinds["/mmedge/results"] > kinds["/mmedge/outputs"] > 0


def test_the_window_is_bounded_in_seconds_and_says_what_bytes_cost(pipe, tmp_path):
    with fly(pipe, tmp_path, trigger="camera", seconds=1.0, memory_bytes=400_000) as flight:
        flight.push("camera", *range(80))
        dump = flight.dump()
        few = {"seconds": 0.5, "memory_bytes": 20_000}
        assert 1.0 - 0.03 < dump.header["kept_seconds"] <= 1.0
        assert dump.header["evicted_for_bytes"] == {}
    with fly(pipe, tmp_path, trigger="camera", **few) as flight:
        flight.push("camera", *range(80))
        dump = flight.dump()
    assert set(dump.header["evicted_for_bytes"]) == {"sample", "result"}
    assert dump.header["kept_bytes"] <= 20_000
    assert dump.header["kept_seconds"] < dump.header["evicted_seconds_ago"] < 0.5


def test_missed_deadlines_make_one_dump_and_others_are_held_off_and_named(pipe, tmp_path):
    triggers = DumpTriggers(deadline_misses=3, within_s=0.5, faults=["nan"])
    costs = {"fuse": 0.03}
    options = {"trigger": "camera", "deadline_ms": 20, "costs": costs}
    with fly(
        pipe, tmp_path, triggers=triggers, limits=DumpLimits(hold_off_s=5.0), **options
    ) as flight:
        flight.push("camera", 1, 2, every=0.4)  # too far apart
        assert flight.results(0.4)[-1].met is False
        flight.push("camera", *range(9), every=0.1)
        flight.stream.push("state", NAN)
        flight.clock.advance(6.0)
        flight.stream.push("state", 2 * NAN)
        first, second = flight.dumps()
    assert reasons(first) == ["deadline"]
    assert first.header["triggers"][0]["message"] == ("3 results within 0.5 s missed the deadline")
    assert reasons(second) == ["fault"]
    assert second.header["held_off"] == {"deadline": 2, "fault": 1}
    assert "sample 1 of 'state' was dropped: nan" in second.header["triggers"][0]["message"]
    assert [s.fault for s in pushed(second, "state")] == ["nan", "nan"]


def test_time_after_the_trigger_is_in_the_dump_and_triggers_merge(pipe, tmp_path):
    triggers = DumpTriggers(events=["drift"], no_outputs=True)
    with fly(
        pipe, tmp_path, trigger=20, triggers=triggers, limits=DumpLimits(after_s=0.3)
    ) as flight:
        flight.clock.advance(0.06)  # a result without outputs: there is no camera yet
        flight.stream.tell("drift", "the camera is dark", score=0.9)
        flight.push("camera", *range(20))
        (dump,) = flight.dumps()
    assert reasons(dump) == ["no_outputs", "event"]
    assert dump.header["triggers"][1]["message"] == "drift: the camera is dark"
    assert dump.events[0].details == {"score": 0.9}
    assert dump.header["t"] - dump.header["triggers"][0]["t"] == pytest.approx(0.3, abs=0.021)
    assert len(pushed(dump, "camera")) < 20


def test_a_dump_that_waits_for_its_time_is_written_when_the_stream_ends(pipe, tmp_path):
    limits = DumpLimits(after_s=59.0)
    with fly(pipe, tmp_path, trigger="camera", limits=limits) as flight:
        flight.push("camera", 1)
        flight.recorder.dump("late", after_s=50.0, wait=False)
        with pytest.raises(InputError, match="wait=False"):
            flight.recorder.dump("never", after_s=50.0)
        flight.stream.close()
        (dump,) = flight.dumps()
    assert [event.kind for event in dump.events] == ["close"]
    with pytest.raises(BackendError, match="recorder is closed"):
        flight.recorder.dump("later")


def test_a_stream_that_fails_is_dumped_without_being_asked(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("mmedge.stream.clock.PATIENCE", 0.02)
    now = [0.0]
    stream = pipe.stream(trigger="camera", clock=lambda: now[0])
    recorder = FlightRecorder(
        stream, tmp_path, machine_period_s=None, triggers=DumpTriggers(events=["failure", "odd"])
    )
    stream.push("camera", value("camera", 1))
    stream.result(60.0)
    stream.tell("odd", "a dump shortly before")
    now[0] = None
    until = time.monotonic() + 60
    with pytest.raises(BackendError, match="stream failed"):
        while time.monotonic() < until:
            stream.now()
    recorder.close()
    _before, dump = map(FlightDump.open, recorder.dumps)
    assert reasons(dump) == ["event"]
    assert dump.events[-1].kind == "failure"


def test_what_cannot_be_written_is_an_event_and_leaves_nothing(pipe, tmp_path, monkeypatch):
    def full(path, *_others):
        path.write_bytes(b"half a dump")
        raise OSError(28, "No space left on device")

    with fly(pipe, tmp_path, trigger="camera") as flight:
        flight.push("camera", 1)
        with monkeypatch.context() as patch:
            patch.setattr(dump_thread, "write_dump", full)
            with pytest.raises(BackendError, match="No space left"):
                flight.recorder.dump("test")
        assert flight.stream.health().events == {"flight_dump_failed": 1}
        (failure,) = flight.recorder.failures
        assert failure == (
            "the flight recorder's dump (application) was not written: OSError: [Errno 28] No "
            "space left on device"
        )
        assert list(tmp_path.iterdir()) == []
        flight.push("camera", 2)
        assert flight.results()[-1].outputs["out"][0, 0] == 2
        assert flight.recorder.dump("again").exists()


def test_limits_of_dumps_and_of_the_disk_refuse_and_delete_nothing(pipe, tmp_path):
    with fly(pipe, tmp_path, trigger="camera", limits=DumpLimits(most_dumps=1)) as flight:
        flight.push("camera", *range(10))
        first = flight.recorder.dump("one")
        with pytest.raises(BackendError, match="most_dumps allows no more"):
            flight.recorder.dump("two")
    size = first.stat().st_size
    with fly(pipe, tmp_path, trigger="camera", limits=DumpLimits(disk_bytes=size + 1000)) as flight:
        flight.push("camera", 1)
        with pytest.raises(BackendError, match=f"has {size} bytes of dumps"):
            flight.recorder.dump("three")
    assert list(tmp_path.iterdir()) == [first]


def test_triggers_while_a_dump_is_written_are_named_in_it(pipe, tmp_path, monkeypatch):
    entered, go = threading.Event(), threading.Event()
    write = dump_thread.write_dump

    def slowly(*args):
        entered.set()
        assert go.wait(60)
        write(*args)

    monkeypatch.setattr(dump_thread, "write_dump", slowly)
    with fly(pipe, tmp_path, trigger="camera", triggers=DumpTriggers(faults=["nan"])) as flight:
        flight.stream.push("state", NAN)
        assert entered.wait(60)
        flight.clock.advance(0.1)
        flight.stream.push("state", 2 * NAN)
        go.set()
        (dump,) = flight.dumps()
    (meanwhile,) = dump.meanwhile
    assert meanwhile["kind"] == "fault"
    assert "sample 1" in meanwhile["message"]


def test_no_more_than_two_dumps_wait_to_be_written(pipe, tmp_path, monkeypatch):
    go = threading.Event()
    write = dump_thread.write_dump
    monkeypatch.setattr(dump_thread, "write_dump", lambda *args: go.wait(60) and write(*args))
    with fly(pipe, tmp_path, trigger="camera") as flight:
        flight.push("camera", 1)
        for reason in ("one", "two", "three"):
            assert flight.recorder.dump(reason, wait=False) is None
        with pytest.raises(BackendError, match="2 dumps are still to be written"):
            flight.recorder.dump("four")
        go.set()
        first, _second = flight.dumps()
    assert [trigger["message"] for trigger in first.meanwhile] == ["three"]


def test_a_signal_makes_a_dump_and_its_handler_is_set_back(pipe, tmp_path):
    called = []
    before = signal.signal(signal.SIGUSR1, lambda *_: called.append(True))
    try:
        ours = signal.getsignal(signal.SIGUSR1)
        triggers = DumpTriggers(signal=signal.SIGUSR1)
        with fly(pipe, tmp_path, trigger="camera", triggers=triggers) as flight:
            flight.push("camera", 1)
            os.kill(os.getpid(), signal.SIGUSR1)
            until = time.monotonic() + 60
            while not flight.recorder.dumps:
                assert time.monotonic() < until
                time.sleep(0.002)
            (dump,) = flight.dumps()
        assert reasons(dump) == ["signal"]
        assert called == [True]
        assert signal.getsignal(signal.SIGUSR1) is ours
    finally:
        signal.signal(signal.SIGUSR1, before)
    refused = []

    def make():
        try:
            fly(pipe, tmp_path, trigger="camera", triggers=triggers).__enter__()
        except InputError as error:
            refused.append(str(error))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert "in the main thread" in refused[0]


def test_a_live_stream_whose_sensors_are_dead_is_dumped_after_real_time(pipe, tmp_path):
    with pipe.stream(trigger="camera") as stream:
        recorder = FlightRecorder(
            stream, tmp_path, limits=DumpLimits(after_s=0.01), machine_period_s=0.01
        )
        stream.push("camera", value("camera", 1))
        stream.result(60.0)
        path = recorder.dump("dead", after_s=0.01)
        recorder.close()
    dump = FlightDump.open(path)
    assert dump.machine[0]["resident_bytes"] > 0
    assert dump.machine[0]["unix_ns"] > 0


def test_arrays_on_a_gpu_are_named_and_not_kept(pipe, tmp_path):
    with fly(pipe, tmp_path, trigger="camera") as flight:
        gpu = SimpleNamespace(__cuda_array_interface__={})
        flight.recorder.on_push("camera", 0, {"image": gpu}, 5.0, 5.0, None)
        dump = flight.dump()
    (sample,) = pushed(dump, "camera")
    assert (sample.value, sample.missing) == (None, "it was on a GPU")


def test_outputs_that_a_reader_writes_to_are_kept_as_they_were(pipe, tmp_path):
    with fly(pipe, tmp_path, trigger="camera") as flight:
        flight.push("camera", 7)
        flight.results()[0].outputs["out"][:] = -1
        dump = flight.dump()
    assert dump.results[0].outputs["out"][0, 0] == 7


def test_outputs_are_kept_once(pipe, tmp_path):
    with fly(pipe, tmp_path, trigger="camera") as flight:
        flight.push("camera", 7)
        (result,) = flight.results()
        reference = weakref.ref(result.outputs["out"])
        del result
        flight.push("camera", 8)
        flight.results()
        gc.collect()
        assert reference() is None  # a copy is kept, and it alone is counted
        assert flight.dump().results[0].outputs["out"][0, 0] == 7


def test_another_recorder_may_end_a_file_of_the_folder_while_it_is_counted(
    pipe, tmp_path, monkeypatch
):
    (tmp_path / ".flight-other.mcap.part").write_bytes(b"")
    is_file = Path.is_file

    def ends(path):
        there = is_file(path)
        if path.name == ".flight-other.mcap.part":
            path.rename(tmp_path / "flight-other.mcap")
        return there

    monkeypatch.setattr(Path, "is_file", ends)
    with fly(pipe, tmp_path, trigger="camera") as flight:
        flight.push("camera", 7)
        assert flight.recorder.dump("the arm shook").exists()


def test_a_disk_that_hangs_does_not_make_a_list_of_triggers_grow(pipe, tmp_path, monkeypatch):
    go = threading.Event()
    write = dump_thread.write_dump
    monkeypatch.setattr(dump_thread, "write_dump", lambda *args: go.wait(60) and write(*args))
    monkeypatch.setattr(dump_thread, "MOST_MERGED", 3)
    with fly(pipe, tmp_path, trigger="camera", triggers=DumpTriggers(faults=["nan"])) as flight:
        for _ in range(9):
            flight.clock.advance(0.1)
            flight.stream.push("state", NAN)
        go.set()
        (dump,) = flight.dumps()
    assert [int(t["message"].split()[1]) for t in dump.meanwhile] == [1, 2, 3, 8]
    assert dump.meanwhile[-1]["message"].endswith("nan, and 4 before it")


def test_a_clock_that_is_set_leaves_the_window_as_long_as_it_was(pipe, tmp_path):
    now = [100.0]
    with pipe.stream(trigger="camera", clock=lambda: now[0]) as stream:
        recorder = FlightRecorder(stream, tmp_path, seconds=10.0, machine_period_s=None)
        for step in (0.5, 0.5, 3600.0, 0.5, -7200.0, 0.5):
            now[0] += step
            stream.push("camera", value("camera", 1))
            stream.result(60.0)
        dump = FlightDump.open(recorder.dump("test"))
        recorder.close()
    samples = pushed(dump, "camera")
    assert [s.arrival for s in samples] == [100.5, 101.0, 3701.0, 3701.5, -3498.5, -3498.0]
    assert [e.kind for e in dump.events] == ["clock_jump", "clock_jump"]
    times = [s.arrival for s in open_recording(dump.path)]
    assert times == sorted(times)
    assert times[-1] - times[0] < 5.0


def test_a_recorder_takes_nothing_that_cannot_be_meant(pipe, tmp_path):
    for wrong in (
        {"seconds": 0}, {"memory_bytes": 0}, {"memory_bytes": 1.5}, {"machine_period_s": 0},
    ):  # fmt: skip
        with pytest.raises(InputError), fly(pipe, tmp_path, trigger="camera", **wrong):
            pass
    for wrong in ({"deadline_misses": 0}, {"within_s": 0}, {"faults": "nan"}):
        with pytest.raises(InputError):
            DumpTriggers(**wrong)
    late = {"seconds": 5, "limits": DumpLimits(after_s=5)}
    with (
        pytest.raises(InputError, match="below the 5 s that are kept"),
        fly(pipe, tmp_path, trigger="camera", **late),
    ):
        pass
    for wrong in ({"after_s": -1}, {"most_dumps": 0}, {"disk_bytes": 1.0}):
        with pytest.raises(InputError):
            DumpLimits(**wrong)


def test_a_dump_that_was_cut_short_or_altered_is_refused_or_says_so(pipe, tmp_path):
    with fly(pipe, tmp_path / "d", trigger="camera") as flight:
        flight.push("camera", *range(3))
        path = flight.recorder.dump("test")
    data = path.read_bytes()
    short = tmp_path / "short.mcap"
    short.write_bytes(data[: len(data) // 3])
    dump = FlightDump.open(short)
    assert "not closed" in dump.missing
    altered = tmp_path / "altered.mcap"
    altered.write_bytes(data.replace(b'"t": 5.02', b'"t": 5.03', 1))
    with pytest.raises(InputError, match="damaged|altered"):
        FlightDump.open(altered)
    header = tmp_path / "header.mcap"
    header.write_bytes(data.replace(b'"seconds": 60.0', b'"seconds": 61.0', 1))
    with pytest.raises(InputError, match="altered: its digest differs"):
        FlightDump.open(header)
    shutil.copy(path, tmp_path / "copy.mcap")
    assert len(FlightDump.open(tmp_path / "copy.mcap").results) == 3


def test_a_dump_that_says_what_cannot_be_is_refused(pipe, tmp_path, monkeypatch):
    """Each message, and the header, with one field of another type."""
    with fly(pipe, tmp_path / "d", trigger="camera", costs={"see": 0.01}) as flight:
        flight.push("lidar", 1)
        flight.push("camera", 1, 2)
        path = flight.recorder.dump("test")
    tried = refused = 0
    decode = reader.decode

    def run(change):
        nonlocal tried, refused
        tried += 1
        monkeypatch.setattr(reader, "decode", change)
        monkeypatch.setattr(header, "decode", change)
        try:
            replay_dump(pipe, FlightDump.open(path))
        except InputError:
            refused += 1

    trees = []
    run(lambda data, **more: trees.append(decode(data, **more)) or trees[-1])
    for index, tree in enumerate(trees):
        for name in tree if isinstance(tree, dict) else ():
            for wrong in (None, "x", -1, [], {}):
                seen = []

                def change(data, index=index, name=name, wrong=wrong, seen=seen, **more):
                    tree = decode(data, **more)
                    seen.append(tree)
                    return {**tree, name: wrong} if len(seen) == index + 1 else tree

                run(change)
    assert tried > 200
    assert refused > tried / 4


def test_a_run_whose_costs_changed_is_no_whole_run(pipe, tmp_path):
    with fly(pipe, tmp_path, trigger="camera", costs={"see": 0.01}) as flight:
        flight.push("camera", 1)
        assert flight.dump().header["is_whole"]
        flight.clock.costs["see"] = 0.02
        flight.push("camera", 2)
        flight.clock.advance(0.1)
        dump = flight.dump()
    assert not dump.header["is_whole"]
    assert replay_dump(pipe, dump).counts == {"equal": 2}


def test_an_observer_beside_it_is_told_of_dumps(pipe, tmp_path):
    told = []

    class Watcher(Observer):
        def on_event(self, event):
            told.append((event.kind, event.details.get("path")))

    with fly(pipe, tmp_path, trigger="camera") as flight:
        flight.stream.observe(Watcher())
        path = flight.recorder.dump("test")
    assert told[0] == ("flight_dump", str(path))
