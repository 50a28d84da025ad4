"""Recordings in both forms: what is written is read; an application's pushes, golden samples."""

from __future__ import annotations

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
from recording_kit import FORMS, write
from streaming import value

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import BackendError, InputError
from mmedge.recording import Golden, Recorder, directory, open_recording, recorder
from mmedge.recording.sample import MAX_VALUE_BYTES, to_value
from mmedge.spec import DTYPES

pytest.importorskip("mcap.writer")


pytestmark = pytest.mark.usefixtures("unsynced")


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
        (("camera", np.zeros(1, np.complex64)), "dtype complex64"),
        (("camera", [1.0]), "got list"),
        (("camera", np.zeros(1), float("nan")), "a stamp: expected finite"),
        (("camera", np.zeros(1), 0.0, float("inf")), "an arrival: expected finite"),
        (("camera", np.zeros(1), 0.0, 4.0), "ordered by arrival"),
    ],
)
def test_what_cannot_be_recorded_is_refused(manifest, tmp_path, args, words):
    with Recorder(tmp_path / "r", manifest) as made:
        made.record("camera", value("camera", 1), 5.0, 5.0)
        with pytest.raises(InputError, match=words):
            made.record(*args)
        made.record("camera", value("camera", 2), 6.0, 6.0)
    assert len(list(open_recording(tmp_path / "r"))) == made.count == 2
    with pytest.raises(BackendError, match="closed"):
        made.record("camera", value("camera", 3))


def test_a_gpu_array_and_a_huge_one_are_refused():
    class OnGpu:
        __cuda_array_interface__ = {"shape": (1,), "typestr": "<f4"}

    with pytest.raises(InputError, match="on a GPU"):
        to_value(OnGpu())
    huge = np.broadcast_to(np.uint8(0), (MAX_VALUE_BYTES + 1,))
    with pytest.raises(InputError, match="at most"):
        to_value({"a": huge})


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
