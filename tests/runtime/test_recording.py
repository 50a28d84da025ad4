"""Recordings in both forms: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file
from streaming import make_streaming, value

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import BackendError, InputError
from mmedge.recording import Golden, Recorder, directory, open_recording, recorder
from mmedge.recording.sample import MAX_VALUE_BYTES, copied
from mmedge.spec import DTYPES

mcap_writer = pytest.importorskip("mcap.writer")

FORMS = ("r", "r.mcap")


@pytest.fixture(scope="module", autouse=True)
def unsynced():
    """A disk that others use takes seconds to flush."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    return make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")


@pytest.fixture(scope="module")
def manifest(streaming):
    with Bundle.open(streaming) as bundle:
        return bundle.manifest


def write(path, manifest, count=10, **more):
    with Recorder(path, manifest, **more) as made:
        for k in range(count):
            made.record("camera", value("camera", k), k / 10 - 0.01, k / 10)
    return made


def same(one, other):
    if isinstance(one, str):
        return one == other
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def arrays():
    # Empty and 0-d ones too; big-endian ones would be another dtype.
    return st.sampled_from(sorted(DTYPES)).flatmap(
        lambda name: hnp.arrays(DTYPES[name], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
    )


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
SAMPLES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("camera", "lidar", "voice")), arrays()),
        st.tuples(st.just("text"), TEXTS),
        st.tuples(st.just("text"), st.fixed_dictionaries({"ids": arrays(), "mask": arrays()})),
        st.tuples(st.just("state"), st.fixed_dictionaries({"state": arrays()})),
    ),
    max_size=12,
)
TIMES = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("form", FORMS)
@given(samples=SAMPLES, data=st.data())
@settings(max_examples=40)
def test_what_is_written_is_read(manifest, form, samples, data):
    many = {"min_size": len(samples), "max_size": len(samples)}
    arrivals = sorted(data.draw(st.lists(TIMES, **many)))
    stamps = data.draw(st.lists(TIMES, **many))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / form
        with Recorder(path, manifest) as made:
            for (name, content), t, arrival in zip(samples, stamps, arrivals, strict=True):
                assert made.record(name, content, t, arrival)
        found = open_recording(path)
        assert (found.bundle, found.missing) == ("streaming", "")
        assert found.modalities == tuple(m.name for m in manifest.modalities)
        for _ in range(2):  # each iteration begins anew
            read = list(found)
            assert len(read) == len(samples) == made.count
            for (name, content), t, arrival, got in zip(
                samples, stamps, arrivals, read, strict=True
            ):
                assert got.modality == name
                assert same(got.value, content)
                # MCAP counts nanoseconds.
                assert got.t == pytest.approx(t, abs=2e-9, rel=0)
                assert got.arrival == pytest.approx(arrival, abs=2e-9, rel=0)
                if form == "r":
                    assert (got.t, got.arrival) == (t, arrival)


def test_values_are_copied_when_they_are_handed_in(manifest, tmp_path):
    array = value("camera", 1)
    strided = np.arange(8, dtype=np.float32)[None, ::2]
    with Recorder(tmp_path / "r", manifest) as made:
        made.record("camera", array)
        array[:] = 99
        made.record("camera", strided)
    first, second = open_recording(tmp_path / "r")
    assert same(first.value, value("camera", 1))
    assert second.value.tolist() == [[0, 2, 4, 6]]
    assert first.t == first.arrival <= second.arrival


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nose", np.zeros(1)), "unknown modality 'nose'"),
        (("text", np.zeros(1)), "expected a value for inputs ids, mask, got an array"),
        (("camera", "words"), "got text"),
        (("text", "\ud800"), "UTF-8"),
        (("camera", {"points": np.zeros(1)}), "got inputs points"),
        (("camera", np.zeros(1, np.uint16)), "dtype uint16"),
        (("camera", [1.0]), "got list"),
        (("camera", np.zeros(1), float("nan")), "a stamp is finite"),
        (("camera", np.zeros(1), 0.0, float("inf")), "an arrival is finite"),
        (("camera", np.zeros(1), 0.0, 4.0), "ordered by arrival"),
    ],
)
def test_what_cannot_be_recorded_is_refused(manifest, tmp_path, args, words):
    with Recorder(tmp_path / "r", manifest) as made:
        made.record("camera", value("camera", 1), 5.0, 5.0)
        with pytest.raises(InputError, match=words.replace("an arrival", "a arrival")):
            made.record(*args)
        made.record("camera", value("camera", 2), 6.0, 6.0)
    assert len(list(open_recording(tmp_path / "r"))) == made.count == 2
    with pytest.raises(BackendError, match="closed"):
        made.record("camera", value("camera", 3))


def test_a_gpu_array_and_a_huge_one_are_refused():
    class OnGpu:
        __cuda_array_interface__ = {}

    with pytest.raises(InputError, match="on a GPU"):
        copied(OnGpu())
    huge = np.broadcast_to(np.uint8(0), (MAX_VALUE_BYTES + 1,))
    with pytest.raises(InputError, match="at most"):
        copied({"a": huge})


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_overwritten(manifest, tmp_path, form):
    write(tmp_path / form, manifest)
    with pytest.raises(InputError, match="already exists"):
        Recorder(tmp_path / form, manifest)
    assert len(list(open_recording(tmp_path / form))) == 10


def test_chunks_are_bounded_and_one_is_read_at_a_time(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "CHUNK_SAMPLES", 3)
    write(tmp_path / "r", manifest)
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        *(f"chunk-{k:06d}.safetensors" for k in range(4)),
        "recording.json",
    ]
    read = iter(open_recording(tmp_path / "r"))
    next(read)
    (tmp_path / "r" / "chunk-000001.safetensors").unlink()
    next(read), next(read)
    with pytest.raises(InputError, match="chunk-000001.* cannot be read"):
        next(read)


@pytest.mark.parametrize("form", FORMS)
def test_reading_holds_a_few_samples_at_a_time(manifest, tmp_path, monkeypatch, form):
    monkeypatch.setattr(directory, "CHUNK_BYTES", 1 << 20)
    with Recorder(tmp_path / form, manifest) as made:
        for k in range(64):
            made.record("camera", np.full((1, 1 << 18), k, np.uint8), k, k)
    tracemalloc.start()
    try:
        assert sum(int(s.value[0, 0]) for s in open_recording(tmp_path / form)) == 63 * 32
        assert tracemalloc.get_traced_memory()[1] < 6 << 20  # of 16 MiB
    finally:
        tracemalloc.stop()


def test_a_full_queue_loses_the_newest_and_says_so(manifest, tmp_path, monkeypatch):
    go = threading.Event()
    put = directory.DirectoryWriter.write

    def slow(self, sample):
        go.wait(10)
        put(self, sample)

    monkeypatch.setattr(directory.DirectoryWriter, "write", slow)
    with Recorder(tmp_path / "r", manifest, queue_bytes=40) as made:
        taken = [made.record("camera", value("camera", k), copy=False) for k in range(20)]
        go.set()
    assert 3 <= sum(taken) < 20
    assert taken == sorted(taken, reverse=True)
    assert made.lost == {"queue_full": 20 - sum(taken)}
    found = open_recording(tmp_path / "r")
    assert f"{20 - sum(taken)} samples not recorded (queue_full)" in found.missing
    assert len(list(found)) == made.count == sum(taken)


@pytest.mark.parametrize("form", FORMS)
def test_what_was_lost_is_known_when_it_is_opened(manifest, tmp_path, form):
    write(tmp_path / "none" / form, manifest)
    assert open_recording(tmp_path / "none" / form).missing == ""
    with Recorder(tmp_path / form, manifest) as made:
        made.record("camera", value("camera", 1), 0.0, 0.0)
        made.lost["queue_full"] += 3
        made.lost["unfit"] += 1
    found = open_recording(tmp_path / form)
    assert found.missing == ("3 samples not recorded (queue_full), 1 samples not recorded (unfit)")
    assert len(list(found)) == 1
    if form == "r.mcap":
        data = (tmp_path / form).read_bytes()
        at = data.index(b'"queue_full": 3')
        for bad in (b'"queue_full": x', b'"queue full": 3', b'"queue_full":-3'):
            (tmp_path / form).write_bytes(data[:at] + bad + data[at + len(bad) :])
            with pytest.raises(InputError, match=r"mmedge.recording.end.*copy it anew"):
                open_recording(tmp_path / form)


def test_a_whole_mcap_file_that_lost_samples_is_still_checked(manifest, tmp_path):
    with Recorder(tmp_path / "r.mcap", manifest) as made:
        made.record("camera", value("camera", 1), 0.0, 0.0)
        made.lost["queue_full"] += 3
    data = (tmp_path / "r.mcap").read_bytes()
    at = data.index(b"count\x01\0\0\x001")
    (tmp_path / "r.mcap").write_bytes(data[: at + 9] + b"2" + data[at + 10 :])
    found = open_recording(tmp_path / "r.mcap")
    assert found.missing == "3 samples not recorded (queue_full)"
    with pytest.raises(InputError, match="expected 2 samples, got 1"):
        list(found)


def test_what_goes_wrong_in_the_thread_is_raised_by_close(manifest, tmp_path, monkeypatch):
    def broken(self, sample):
        raise RuntimeError("no such state")

    monkeypatch.setattr(directory.DirectoryWriter, "write", broken)
    made = Recorder(tmp_path / "r", manifest)
    made.record("camera", value("camera", 1))
    with pytest.raises(InputError, match="no such state"):
        made.close()


@pytest.mark.parametrize("form", FORMS)
def test_a_disk_that_refuses_is_told_at_the_end(manifest, tmp_path, monkeypatch, form):
    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    made = Recorder(tmp_path / form, manifest)
    kind = type(made._writer)
    monkeypatch.setattr(kind, "write", refuse)
    made.record("camera", value("camera", 1))
    with pytest.raises(InputError, match="No space left"):
        made.close()
    made.close()
    assert (made.count, made.lost["write_error"]) == (0, 1)
    assert "not closed" in open_recording(tmp_path / form).missing


KILLED = """
import os, sys, time
import numpy as np
from mmedge.bundle import Bundle
from mmedge.recording import Recorder, directory, mcap
directory.CHUNK_SAMPLES = 5
mcap.CHUNK_BYTES = 400
with Bundle.open(sys.argv[1]) as bundle:
    made = Recorder(sys.argv[2], bundle)
    for k in range(23):
        made.record("camera", np.full((1, 4), k, np.float32), k / 10, k / 10)
    while made._bytes:
        time.sleep(0.01)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("form", FORMS)
def test_a_killed_recorder_loses_its_last_chunk_alone(streaming, tmp_path, form):
    done = subprocess.run([sys.executable, "-c", KILLED, streaming, tmp_path / form])
    assert done.returncode == -signal.SIGKILL
    found = open_recording(tmp_path / form)
    assert "the recorder was not closed" in found.missing
    read = list(found)
    assert len(read) == 20 if form == "r" else 15 <= len(read) <= 23
    assert [int(s.value[0, 0]) for s in read] == list(range(len(read)))


# Hostile and damaged folders.


def damaged(manifest, tmp_path, change):
    path = tmp_path / "r"
    write(path, manifest)
    change(path)
    with pytest.raises(InputError) as caught:
        list(open_recording(path))
    return str(caught.value)


def index(change):
    def apply(path):
        data = json.loads((path / "recording.json").read_text())
        change(data)
        (path / "recording.json").write_text(json.dumps(data))

    return apply


def chunk(change):
    """Alters a chunk's tensors and lets the index agree with its size."""

    def apply(path):
        file = path / "chunk-000000.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)
        index(lambda d: d.update(chunk_bytes=[file.stat().st_size]))(path)

    return apply


def link(path):
    shutil.move(path / "chunk-000000.safetensors", path.parent / "aside")
    (path / "chunk-000000.safetensors").symlink_to(path.parent / "aside")


def pipe(path):
    (path / "chunk-000000.safetensors").unlink()
    os.mkfifo(path / "chunk-000000.safetensors")


def truncate(path):
    os.truncate(path / "chunk-000000.safetensors", 100)


def unsort(tensors):
    tensors["arrival"][3] = 9.0


def stamp(tensors):
    tensors["t"][3] = np.nan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (link, "no links"),
        (pipe, "not a plain file"),
        (truncate, "expected .* bytes, got 100"),
        (lambda p: (p / "chunk-000000.safetensors").unlink(), "expected 1 chunks, got 0"),
        (lambda p: (p / "chunk-000002.safetensors").write_bytes(b""), "chunk-000001.* is missing"),
        (lambda p: (p / "evil.pkl").write_bytes(b""), "unknown file"),
        (lambda p: (p / "recording.json").unlink(), "recording.json cannot be read"),
        (lambda p: (p / "recording.json").write_text("{"), "not JSON"),
        (lambda p: (p / "recording.json").write_text("[" * 10**5), "nested too deeply"),
        (index(lambda d: d.update(recording_version=2)), "recording_version: expected"),
        (index(lambda d: d.update(files=["../x"])), "unknown field"),
        (index(lambda d: d.update(modalities=["../x"])), "names of modalities"),
        (index(lambda d: d.update(modalities=["camera"] * 2)), "names of modalities"),
        (index(lambda d: d.update(count=11)), "expected 11 samples, got 10"),
        (index(lambda d: d.update(chunk_bytes=[1 << 60])), "expected a whole number"),
        (chunk(unsort), "ordered by arrival"),
        (chunk(stamp), "a stamp is finite"),
        (chunk(lambda t: t.update(modality=t["modality"] + 100)), "is of modality 100"),
        (chunk(lambda t: t.update(modality=t["modality"][:3])), "differ in length"),
        (chunk(lambda t: t.pop("t")), "expected 't' of float64"),
        (chunk(lambda t: t.pop("4.value")), "sample 4: expected tensors"),
        (chunk(lambda t: t.update({"4.text": t["t"]})), "sample 4: expected tensors"),
        (chunk(lambda t: t.update({"10.value": t["t"]})), "unknown tensor"),
        (chunk(lambda t: t.update({"٣.value": t["t"]})), "unknown tensor"),
        (chunk(lambda t: t.update({"3.value": np.zeros(2, np.uint16)})), "dtype uint16"),
    ],
)
def test_a_folder_that_cannot_be_trusted_is_refused(manifest, tmp_path, change, words):
    import re

    assert re.search(words, damaged(manifest, tmp_path, change))


@pytest.fixture(scope="module")
def whole(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for form in FORMS:
        write(folder / form, manifest)
    return folder


def read_all(path):
    """Samples, or the error that says why not."""
    try:
        return list(open_recording(path))
    except InputError as error:
        return error


@given(data=st.data())
@settings(max_examples=80)
@pytest.mark.parametrize("name", ["r/chunk-000000.safetensors", "r/recording.json", "r.mcap"])
def test_altered_bytes_are_refused_or_read_as_samples(whole, name, data):
    original = (whole / name).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(whole / "r", copy / "r")
        shutil.copy(whole / "r.mcap", copy / "r.mcap")
        cut = data.draw(st.integers(0, len(original)))
        at = data.draw(st.integers(0, len(original) - 1))
        changed = bytearray(original)
        changed[at] ^= data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            changed = changed[:cut]
        (copy / name).write_bytes(changed)
        found = read_all(copy / name.split("/")[0])
        if isinstance(found, list):
            arrivals = [sample.arrival for sample in found]
            assert arrivals == sorted(arrivals)
            assert len(found) <= 10


@pytest.mark.parametrize("cut", range(1, 40))
def test_an_mcap_file_that_is_cut_short_is_read_up_to_there(manifest, tmp_path, monkeypatch, cut):
    from mmedge.recording import mcap

    monkeypatch.setattr(mcap, "CHUNK_BYTES", 400)
    path = tmp_path / "r.mcap"
    write(path, manifest)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * cut // 40])
    found = read_all(path)
    if isinstance(found, InputError):
        assert cut < 12, found  # not even the metadata is there
        return
    assert [int(s.value[0, 0]) for s in found] == list(range(len(found)))
    assert "not closed" in open_recording(path).missing
    assert len(found) >= 8 or cut < 30


def foreign(path, *, encoding="cdr", schema="ros2msg", compression="NONE"):
    with path.open("wb") as file:
        writer = mcap_writer.Writer(file, compression=mcap_writer.CompressionType[compression])
        writer.start("ros2", "x")
        known = writer.register_schema("sensor_msgs/msg/Image", schema, b"uint8[] data")
        channel = writer.register_channel("/camera", encoding, known)
        writer.add_message(channel, 1, b"\0\1\0\0", 1)
        writer.finish()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "schema 'sensor_msgs/msg/Image' of encoding 'ros2msg'.*Recorder.record"),
        ({"compression": "ZSTD"}, "compressed with 'zstd'.*--compression none"),
    ],
)
def test_a_foreign_mcap_is_refused_with_what_to_do(tmp_path, options, words):
    foreign(tmp_path / "bag.mcap", **options)
    with pytest.raises(InputError, match=words):
        open_recording(tmp_path / "bag.mcap")


def test_an_mcap_file_describes_itself(manifest, tmp_path):
    from mcap.reader import make_reader

    before = time.time_ns()
    write(tmp_path / "r.mcap", manifest, clock=lambda: 0.0)
    with (tmp_path / "r.mcap").open("rb") as file:
        found = list(make_reader(file).iter_messages())
    assert len(found) == 10
    schema, channel, message = found[3]
    assert (channel.topic, channel.message_encoding) == ("/camera", "safetensors")
    assert schema.name == "mmedge.Sample"
    assert "'in.<input>'" in schema.data.decode()
    assert message.log_time - found[0][2].log_time == 300_000_000
    assert message.log_time - message.publish_time == 10_000_000
    assert before <= found[0][2].log_time <= time.time_ns()


def test_what_is_not_there_or_no_recording(tmp_path):
    with pytest.raises(InputError, match="no recording is there"):
        open_recording(tmp_path / "none")
    with pytest.raises(InputError, match="no recording is there"):
        open_recording("\0")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="not an MCAP file"):
        open_recording(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a plain file"):
        open_recording(tmp_path / "pipe")


def test_without_the_library_a_folder_still_works(manifest, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcap", None)
    with pytest.raises(BackendError, match="pip install"):
        Recorder(tmp_path / "r.mcap", manifest)
    write(tmp_path / "r", manifest)
    assert len(list(open_recording(tmp_path / "r"))) == 10
    with pytest.raises(BackendError, match="pip install"):
        recorder.need_mcap()


# An application's pushes.


def test_pushes_of_an_application_are_recorded(streaming, tmp_path):
    with (
        mmedge.load(streaming, threads=1) as pipe,
        Recorder(tmp_path / "r", pipe.bundle) as made,
        made.attach(pipe.stream(trigger="camera")) as stream,
    ):
        assert stream.push("lidar", value("lidar", 4)) == 0
        now = time.monotonic()
        assert stream.push("camera", value("camera", 7), now) == 0
        assert stream.result(10).outputs["seen"].tolist() == [[7.0]]
        stream.push("text", "red ball")
        with pytest.raises(InputError):
            stream.push("camera", np.zeros((1, 5), np.float32))
        assert stream.health().modalities["camera"].pushed == 1
    lidar, camera, text = open_recording(tmp_path / "r")
    assert same(lidar.value, value("lidar", 4))
    assert lidar.t == lidar.arrival
    assert same(camera.value, value("camera", 7))
    assert camera.t == now <= camera.arrival
    assert text.value == "red ball"
    assert made.lost == {}


def test_threads_that_push_at_once_are_recorded_in_order(manifest, tmp_path):
    with Recorder(tmp_path / "r", manifest) as made:

        def push(name):
            for k in range(100):
                made.record(name, value(name, k))

        threads = [threading.Thread(target=push, args=(n,)) for n in ("camera", "lidar", "state")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(list(open_recording(tmp_path / "r"))) == 300


# Golden samples.


def test_golden_samples_come_at_their_rates(streaming):
    with Bundle.open(streaming) as bundle:
        golden = Golden(bundle, seconds=1.0, rates={"voice": 4.0}, last="camera")
        read = list(golden)
        assert read == sorted(read, key=lambda sample: sample.arrival)
        counts = {name: sum(s.modality == name for s in read) for name in golden.modalities}
        assert counts == {
            "camera": 30,
            "lidar": 10,
            "text": 10,
            "state": 200,
            "odom": 20,
            "voice": 4,
        }
        assert [s.modality for s in read[:6]][-1] == "camera"
        camera = [s.value for s in read if s.modality == "camera"]
        # Never the same twice in a row, and never far from the golden sample.
        assert all(not same(a, b) for a, b in pairwise(camera))
        assert max(float(np.abs(v).max()) for v in camera) < 1e-30
        for words, args in (("nose", {"rates": {"nose": 1.0}}), ("above 0", {"seconds": 0.0})):
            with pytest.raises(InputError, match=words):
                Golden(bundle, **{"seconds": 1.0, **args})


def test_golden_samples_of_other_batches_are_left_out(tiny_bundle):
    with Bundle.open(tiny_bundle) as bundle:
        read = list(Golden(bundle, seconds=1.0))
        assert {s.value.shape[0] for s in read} == {1}
        image = [s.value for s in read if s.modality == "image"]
        differ = image[0].astype(int) - image[1]
        assert np.abs(differ).sum() == 1
