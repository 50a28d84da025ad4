"""Recordings read by the tools of libmmedge: the samples of Python, and what Python refuses."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import zlib

import numpy as np
import pytest
from flights import fly
from fuzz.native import fuzz, seeds_of
from native_builds import ROOT
from safetensors.numpy import load_file, save_file

import mmedge
from mmedge.errors import InputError
from mmedge.recording import Recorder, directory, mcap, open_recording
from mmedge.recording.sample import tensors_of
from mmedge.recording.timeline import read_timeline

pytestmark = pytest.mark.native_build

BUNDLE = ROOT / "conformance/cases/bundles/streaming.mmedge"
FORMS = ("run", "run.mcap")


@pytest.fixture(scope="module", autouse=True)
def _unsynced():
    """A disk that others use takes seconds to flush."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="module")
def describe(probe):
    program = probe("recording_probe")

    def run(paths):
        done = subprocess.run(
            [program], input="".join(f"{path}\n" for path in paths), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(rows) == len(paths)
        return rows

    return run


def described(path):
    """What the probe says of a recording, by Python."""
    try:
        recording = open_recording(path)
        sha = hashlib.sha256()
        for sample in recording:
            tensors = tensors_of(sample.value)
            is_text = "text" in tensors
            # Names as the probe has them; those of several inputs are sorted as C++ keeps them.
            named = {
                "" if k in ("text", "value") else k.removeprefix("in."): v
                for k, v in tensors.items()
            }
            named = dict(sorted(named.items()))
            head = [sample.modality, sample.t, sample.arrival, is_text]
            for name, array in named.items():
                head += [name, array.dtype.name, list(array.shape)]
            sha.update(json.dumps(head).encode())
            for array in named.values():
                sha.update(array.tobytes())
        timeline = read_timeline(recording)
    except InputError as error:
        return {"error": str(error)}
    return {
        "name": recording.name,
        "bundle": recording.bundle,
        "modalities": list(recording.modalities),
        "missing": recording.missing,
        "samples": timeline.samples,
        "seconds": timeline.seconds,
        "gaps": [list(gap) for gap in timeline.gaps],
        "sha256": sha.hexdigest(),
    }


def compare(describe, paths):
    """Both on each path; how many are taken and how many refused."""
    taken = refused = 0
    for path, got in zip(paths, describe(paths), strict=True):
        expected = described(path)
        if "error" in expected:
            assert "error" in got, (path, expected)
            refused += 1
        else:
            assert got == expected, path
            taken += 1
    return taken, refused


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Whole ones, and such whose recorder was killed or lost samples."""
    folder = tmp_path_factory.mktemp("recordings")
    with mmedge.Bundle.open(BUNDLE) as bundle:
        manifest = bundle.manifest
    for form in FORMS:
        with Recorder(folder / "whole" / form, manifest) as made:
            write(made)
        made = Recorder(folder / "cut" / form, manifest)
        write(made)
        made._closed = True  # the thread ends as one that was killed
        with made._turn:
            made._writer.close = lambda lost: None
            made._turn.notify()
        made._thread.join()
        if form == "run":
            made._writer._flush()
        else:
            made._writer._mcap._Writer__finalize_chunk()
            made._writer._file.close()
        with Recorder(folder / "lost" / form, manifest) as made:
            write(made)
            made.lost["queue_full"] += 3
            made.lost["unfit"] += 1
        with Recorder(folder / "empty" / form, manifest):
            pass
    return folder


def write(made):
    rng = np.random.default_rng(1)
    for number in range(12):
        time = number * 0.3 + 20 * (number > 8)
        made.record("camera", rng.normal(size=(1, 4)).astype(np.float32), time - 0.01, time)
        made.record("text", "what is it? ☃", time, time)
    made.record("lidar", np.zeros((1, 0, 2), np.float32), time, time)
    tokens = {"ids": np.ones((1, 4), np.int64), "mask": np.ones((1, 4), bool)}
    made.record("text", tokens, time, time)


def test_samples_are_those_of_python(describe, recordings):
    paths = [
        recordings / kind / form for kind in ("whole", "cut", "lost", "empty") for form in FORMS
    ]
    assert compare(describe, paths) == (8, 0)
    rows = {str(path): row for path, row in zip(paths, describe(paths), strict=True)}
    assert rows[str(paths[0])]["samples"] == 26
    assert rows[str(paths[0])]["gaps"] == [[2.4, 20.3]]
    assert "3 samples not recorded (queue_full)" in rows[str(paths[4])]["missing"]
    assert "was not closed" in rows[str(paths[3])]["missing"]


def change(data, rng):
    """Bytes with some of them changed, cut or put in."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not data:
            break
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            begin = rng.randrange(len(data))
            data[at:at] = data[begin : begin + rng.randrange(64)]
        else:
            data[at : at + 8] = bytes(rng.choice((0, 255)) for _ in data[at : at + 8])
    return bytes(data)


def test_damaged_files_are_refused_where_python_refuses_them(describe, recordings, tmp_path):
    rng = random.Random(7)
    paths = []
    for number in range(400):
        form = FORMS[number % 2]
        source = recordings / ("whole", "cut", "lost")[number % 3] / form
        path = tmp_path / str(number) / form
        if form == "run":
            shutil.copytree(source, path)
            target = rng.choice(sorted(path.iterdir()))
        else:
            path.parent.mkdir()
            shutil.copy(source, path)
            target = path
        target.write_bytes(change(target.read_bytes(), rng))
        paths.append(path)
    taken, refused = compare(describe, paths)
    assert taken + refused == 400
    assert refused > 250


# What somebody made on purpose: its digests are right.


def seal(index):
    """``recording.json`` with the digest of what it says."""
    data = {**index, "sha256": ""}
    index["sha256"] = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    return json.dumps(index)


INDEXES = [
    ("complete", 1),
    ("complete", None),
    ("count", -1),
    ("count", 25),
    ("count", 26.0),
    ("count", 1 << 60),
    ("bundle", "a\tb"),
    ("bundle", ""),
    ("bundle", "é"),
    ("bundle", "x" * 5000),
    ("modalities", []),
    ("modalities", ["camera", "camera"]),
    ("modalities", ["..", "a"]),
    ("modalities", "camera"),
    ("start", "now"),
    ("start", ""),
    ("lost", {"no reason": 1}),
    ("lost", {"a": 1, "b": 0}),
    ("lost", {"a": 1.5}),
    ("lost", []),
    ("chunk_bytes", [1]),
    ("chunk_bytes", []),
    ("recording_version", 3),
    ("recording_version", True),
    ("more", 1),
    ("bundle", "\ud800"),
    ("lost", {"b": 2, "a": 1}),
]


def test_indexes_that_were_made_up_are_judged_as_in_python(describe, recordings, tmp_path):
    paths = []
    for number, (field, value) in enumerate(INDEXES):
        path = tmp_path / str(number)
        shutil.copytree(recordings / "whole/run", path)
        index = json.loads((path / "recording.json").read_text())
        index[field] = value
        (path / "recording.json").write_text(seal(index))
        paths.append(path)
    for number, name in enumerate(("chunk-1.safetensors", ".recording.json.part", ".x.part", "a")):
        path = tmp_path / f"file{number}"
        shutil.copytree(recordings / "whole/run", path)
        (path / name).write_text("x")
        paths.append(path)
    for number, name in enumerate(("recording.json", "chunk-000000.safetensors")):
        for kind in ("link", "pipe", "gone"):
            path = tmp_path / f"{kind}{number}"
            shutil.copytree(recordings / "whole/run", path)
            (path / name).unlink()
            if kind == "link":
                (path / name).symlink_to(recordings / "whole/run" / name)
            elif kind == "pipe":
                os.mkfifo(path / name)
            paths.append(path)
    holed = tmp_path / "holed"
    shutil.copytree(recordings / "cut/run", holed)
    os.truncate(holed / "chunk-000000.safetensors", 100 << 20)
    taken, refused = compare(describe, [*paths, holed, tmp_path / "nothing"])
    assert taken >= 5
    assert refused >= 25


CHUNKS = {
    "same": lambda t: t,
    "no value": lambda t: {k: v for k, v in t.items() if k != "0.value"},
    "no stamps": lambda t: {k: v for k, v in t.items() if k != "t"},
    "two kinds": lambda t: {**t, "0.text": np.zeros(1, np.uint8)},
    "beyond": lambda t: {**t, "26.value": np.zeros(1)},
    "leading zero": lambda t: {**t, "00.value": np.zeros(1)},
    "no name": lambda t: {**t, "0.in.": np.zeros(1)},
    "newline": lambda t: {**t, "0.in.a\n": np.zeros(1)},
    "snowman": lambda t: {**t, "0.☃": np.zeros(1)},
    "text of no UTF-8": lambda t: {**t, "1.text": np.array([0xED, 0xA0, 0x80], np.uint8)},
    "text of rank 2": lambda t: {**t, "1.text": np.zeros((1, 2), np.uint8)},
    "float32 stamps": lambda t: {**t, "t": t["t"].astype(np.float32)},
    "stamps of rank 2": lambda t: {**t, "t": t["t"].reshape(-1, 1)},
    "short": lambda t: {**t, "t": t["t"][:-1]},
    "infinite": lambda t: {**t, "t": np.where(np.arange(len(t["t"])) == 3, np.inf, t["t"])},
    "nan": lambda t: {**t, "arrival": np.where(np.arange(len(t["t"])) == 3, np.nan, t["arrival"])},
    "nanoseconds": lambda t: {**t, "arrival": t["arrival"] * 1e9 + 2e12},
    "two clocks": lambda t: {**t, "t": t["t"] + 1e6},
    "backward": lambda t: {**t, "arrival": t["arrival"][::-1].copy()},
    "modality 9": lambda t: {**t, "modality": t["modality"] + 9},
    "modality -1": lambda t: {**t, "modality": t["modality"] - 7},
    "inputs": lambda t: {
        **{k: v for k, v in t.items() if k != "0.value"},
        "0.in.a": np.zeros((), bool),
        "0.in.b": np.zeros((2, 0), np.float16),
    },
    "empty": lambda t: {
        "t": np.zeros(0),
        "arrival": np.zeros(0),
        "modality": np.zeros(0, np.int64),
    },
}


def test_chunks_that_were_made_up_are_judged_as_in_python(describe, recordings, tmp_path):
    paths = []
    for name, make in CHUNKS.items():
        for number in (0, 1):
            path = tmp_path / name / str(number)
            shutil.copytree(recordings / "whole/run", path)
            index = json.loads((path / "recording.json").read_text())
            file = path / "chunk-000000.safetensors"
            tensors = load_file(file)
            tensors.pop("sha256")
            tensors = {k: np.ascontiguousarray(v) for k, v in make(tensors).items()}
            tensors["sha256"] = directory._digest(index["start"], number, tensors).copy()
            save_file(tensors, file)
            index["chunk_bytes"][0] = file.stat().st_size
            if name == "empty":
                index["count"] = 0
            (path / "recording.json").write_text(seal(index))
            paths.append(path)
    taken, refused = compare(describe, paths)
    assert taken >= 3
    assert refused >= len(CHUNKS)


def metadata(name, content):
    """A record of metadata."""
    pairs = b"".join(text(k) + text(v) for k, v in content.items())
    return record(0x0C, text(name) + struct.pack("<I", len(pairs)) + pairs)


def text(words):
    data = words if isinstance(words, bytes) else words.encode()
    return struct.pack("<I", len(data)) + data


def record(kind, body, length=None):
    return struct.pack("<BQ", kind, len(body) if length is None else length) + body


def chunk(records, crc=None, compression=""):
    crc = zlib.crc32(records) if crc is None else crc
    head = struct.pack("<QQQI", 0, 0, len(records), crc)
    return record(0x06, head + text(compression) + struct.pack("<Q", len(records)) + records)


BEGIN = {
    "recording_version": "2",
    "bundle": "b",
    "modalities": '["camera", "text"]',
    "start_ns": "1000",
    "origin_s": "1.5",
}
SCHEMA = record(
    3, struct.pack("<H", 1) + text("mmedge.Sample") + text("text/plain") + text("words")
)
CHANNEL = record(
    4, struct.pack("<HH", 1, 1) + text("/camera") + text("safetensors") + struct.pack("<I", 0)
)


def message(log, publish, value, channel=1):
    data = mcap.pack(tensors_of(value))
    return record(5, struct.pack("<HIQQ", channel, 0, log, publish) + data)


def sealed(content):
    return {**content, "sha256": mcap._digest(content)}


def file_of(begin, body, count, lost="{}", tail=b"", end=None):
    end = metadata(mcap.END, sealed({"count": str(count), "lost": lost}) if end is None else end)
    footer = record(2, struct.pack("<QQI", 0, 0, 0))
    done = record(0x0F, struct.pack("<I", 0))
    head = record(1, text("") + text("mmedge"))
    return (
        mcap.MAGIC
        + head
        + metadata(mcap.BEGIN, sealed(begin))
        + body
        + end
        + done
        + tail
        + footer
        + mcap.MAGIC
    )


FRAME = np.arange(4, dtype=np.float32)


def mcap_files():
    """By name, files that were made on purpose."""
    one = SCHEMA + CHANNEL + message(2000, 1500, FRAME)
    files = {"plain": file_of(BEGIN, one, 1), "chunk": file_of(BEGIN, chunk(one), 1)}
    for key, values in {
        "recording_version": ("3", "", "02"),
        "bundle": ("\x7f☃",),
        "modalities": (
            "[]",
            '["camera", "camera"]',
            '["text"]',
            "{}",
            "[1]",
            '["camera"',
            "[" * 2000,
        ),
        "start_ns": ("-1", "1_0", " 1", "+1", str((1 << 64) - 1), str(1 << 64), "1e3", "٣", ""),
        "origin_s": (
            "nan",
            "inf",
            "1e12",
            "-1e11",
            " 1.0",
            "1_0.0",
            "1e-05",
            "1.",
            ".5",
            "1e5",
            "1e+05",
            "1e+999",
            "1e-999",
            "0" * 65,
            "0x10",
            "-7",
        ),
    }.items():
        for value in values:
            files[f"{key} {value[:20]}"] = file_of({**BEGIN, key: value}, one, 1)
    for key in BEGIN:
        files[f"no {key}"] = file_of({k: v for k, v in BEGIN.items() if k != key}, one, 1)
    for lost in ('{"a": 1, "b": 2}', '{"a": 1, "a": 2}', '{"A": 1}', "[]", "{", '{"a": -1}'):
        files[f"lost {lost}"] = file_of(BEGIN, one, 1, lost=lost)
    files["no end"] = file_of(BEGIN, one, 1, end={})
    files["no digest at the end"] = file_of(BEGIN, one, 1, end={"count": "1", "lost": "{}"})
    files["no count"] = file_of(BEGIN, one, 1, end=sealed({"lost": "{}"}))
    files["count of 2"] = file_of(BEGIN, one, 2)
    files["no crc"] = file_of(BEGIN, chunk(one, crc=0), 1)
    files["other crc"] = file_of(BEGIN, chunk(one, crc=5), 1)
    files["compressed"] = file_of(BEGIN, chunk(one, compression="zstd"), 1)
    files["unknown kinds"] = file_of(
        BEGIN, record(0x80, b"xyz") + chunk(one + record(0x81, b"x")), 1
    )
    files["length beyond"] = file_of(BEGIN, one + record(5, b"x" * 22, 1 << 40), 1)
    files["message of 21"] = file_of(BEGIN, one + record(5, b"x" * 22, 21), 1)
    files["message of 20"] = file_of(BEGIN, one + record(5, b"x" * 22, 20), 1)
    files["message of 22"] = file_of(BEGIN, one + record(5, b"x" * 22, 22), 1)
    files["channel's length of 0"] = file_of(
        BEGIN, SCHEMA + CHANNEL[:1] + bytes(8) + CHANNEL[9:] + message(1, 1, FRAME), 1
    )
    files["record past its chunk"] = file_of(BEGIN, chunk(one + record(0x81, b"x", 9)), 1)
    files["half a head"] = file_of(BEGIN, chunk(one + b"\x05\x00"), 1)
    files["no channel"] = file_of(BEGIN, SCHEMA + message(1, 1, FRAME), 1)
    files["channel again"] = file_of(
        BEGIN, one + CHANNEL.replace(b"camera", b"text/x") + message(3000, 1, FRAME), 2
    )
    files["backward"] = file_of(BEGIN, one + message(1, 1, FRAME), 2)
    files["other schema"] = file_of(BEGIN, one.replace(b"mmedge.Sample", b"mmedge.Simple"), 1)
    files["other encoding"] = file_of(BEGIN, one.replace(b"safetensors", b"safetonsors"), 1)
    files["text"] = file_of(BEGIN, one + message(3000, 1 << 63, "what?"), 2)
    files["late"] = file_of(BEGIN, one + message((1 << 64) - 1, 0, FRAME), 2)
    files["after a message"] = files["plain"].replace(mcap.BEGIN.encode(), b"other.recording!", 1)
    whole = files["chunk"]
    for at in range(0, len(whole), 7):
        files[f"cut at {at}"] = whole[:at]
    return files


def test_mcap_files_that_were_made_up_are_judged_as_in_python(describe, tmp_path):
    paths = []
    for number, (name, data) in enumerate(mcap_files().items()):
        path = tmp_path / f"{number} {''.join(c if c.isalnum() else '_' for c in name)}.mcap"
        path.write_bytes(data)
        paths.append(path)
    taken, refused = compare(describe, paths)
    assert taken > 30
    assert refused > 60


def test_many_samples_are_read_one_at_a_time(describe, tmp_path):
    body = SCHEMA + CHANNEL + b"".join(message(2000 + i, 1500, FRAME) for i in range(20_000))
    (tmp_path / "long.mcap").write_bytes(file_of(BEGIN, chunk(body), 20_000))
    assert compare(describe, [tmp_path / "long.mcap"]) == (1, 0)


@pytest.mark.parametrize("kind", ["recording-mcap", "recording-folder"])
def test_changed_inputs_end_no_reader(probe, tmp_path, kind):
    program = probe("recording_probe")
    counts = fuzz(program, kind, seeds_of(kind), tmp_path / "scratch", count=500)
    assert counts["inputs"] == 500


def test_the_dump_of_a_flight_recorder_is_a_recording_of_its_samples(describe, tmp_path):
    with (
        mmedge.load(BUNDLE, threads=1) as pipe,
        fly(pipe, tmp_path, trigger="camera", seconds=0.3) as flight,
    ):
        flight.push("text", 3)
        for k in range(30):
            flight.push("camera", k)
            flight.push("state", k)
        path = flight.recorder.dump("test")
    (row,) = describe([path])
    expected = described(path)
    assert row == expected
    assert expected["samples"] > 10
