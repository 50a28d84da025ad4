"""Recordings that lost samples, are damaged, hostile or foreign: all is told or refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_kit import FORMS, write
from safetensors.numpy import load_file, save_file
from streaming import value

from mmedge.errors import InputError
from mmedge.recording import Recorder, directory, open_recording

mcap_writer = pytest.importorskip("mcap.writer")


pytestmark = pytest.mark.usefixtures("unsynced")


# Losses while recording.


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


def test_a_conversion_waits_for_room_in_the_queue(manifest, tmp_path):
    with Recorder(tmp_path / "r", manifest, queue_bytes=40) as made:
        for k in range(100):
            assert made.record("camera", value("camera", k), float(k), float(k), wait=True)
    assert not made.lost
    assert len(list(open_recording(tmp_path / "r"))) == made.count == 100


def test_a_conversion_waits_for_no_disk_that_broke(manifest, tmp_path, monkeypatch):
    def broken(self, sample):
        raise OSError("the disk is gone")

    monkeypatch.setattr(directory.DirectoryWriter, "write", broken)
    made = Recorder(tmp_path / "r", manifest, queue_bytes=40)
    taken = [made.record("camera", value("camera", k), wait=True) for k in range(20)]
    assert not all(taken)
    with pytest.raises(InputError, match="the disk is gone"):
        made.close()
    assert made.lost == {"write_error": 20}


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
        made._writer._counts["camera"] += 1  # as if one were lost on its way to the file
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
    """Alters the index and its digest: what a digest finds is tried elsewhere."""

    def apply(path):
        data = json.loads((path / "recording.json").read_text())
        change(data)
        if data.keys() == {field.name for field in fields(directory._Index)}:
            data["sha256"] = directory._index_digest(directory._Index(**data))
        (path / "recording.json").write_text(json.dumps(data))

    return apply


def chunk(change):
    """Alters a chunk's tensors and its digest, and lets the index agree with its size."""

    def apply(path):
        file = path / "chunk-000000.safetensors"
        start = json.loads((path / "recording.json").read_text())["start"]
        tensors = load_file(file)
        change(tensors)
        del tensors[directory.DIGEST]
        tensors[directory.DIGEST] = directory._digest(start, 0, tensors)
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
        (index(lambda d: d.update(recording_version=1)), "recording_version: expected"),
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
        (
            chunk(lambda t: t.update({"3.value": np.zeros(2, np.complex64)})),
            "dtype: expected one of",
        ),
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
            assert same_samples(found, read_all(whole / name.split("/")[0])[: len(found)])


def same_samples(some, others):
    return [(s.modality, s.t, s.arrival, s.value.tobytes()) for s in some] == [
        (s.modality, s.t, s.arrival, s.value.tobytes()) for s in others
    ]


@pytest.mark.parametrize("name", ["r/chunk-000000.safetensors", "r/recording.json", "r.mcap"])
def test_no_flipped_bit_gives_other_samples(whole, name, tmp_path):
    """One bit of each byte that can matter: of all files of both forms."""
    shutil.copytree(whole / "r", tmp_path / "r")
    shutil.copy(whole / "r.mcap", tmp_path / "r.mcap")
    original = (whole / name).read_bytes()
    expected = read_all(whole / name.split("/")[0])
    for at in range(0, len(original), 1 if name == "r/recording.json" else 5):
        changed = bytearray(original)
        changed[at] ^= 1 << at % 8
        (tmp_path / name).write_bytes(changed)
        found = read_all(tmp_path / name.split("/")[0])
        assert isinstance(found, InputError) or same_samples(found, expected), at
        if name != "r.mcap" and not isinstance(found, InputError):
            assert changed[at : at + 1].isspace() or original[at : at + 1].isspace(), at


def test_chunks_that_changed_places_are_told(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "CHUNK_SAMPLES", 5)
    write(tmp_path / "r", manifest)
    write(tmp_path / "other", manifest)
    shutil.copy(tmp_path / "other/chunk-000001.safetensors", tmp_path / "r")
    with pytest.raises(InputError, match="chunk-000001.safetensors is altered"):
        list(open_recording(tmp_path / "r"))


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


# What is no recording of ours.


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
