"""ROS 2 bags are recordings: what is in them comes out, is written anew, and replays the same."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from ros_messages import STORE, cloud, image, joints, scan, text, write_bag
from streaming import value

import mmedge
from mmedge.cli.app import build_app, run
from mmedge.errors import InputError
from mmedge.recording import open_recording
from mmedge.recording.ros import Bag, Topic
from mmedge.recording.ros import write_bag as write_recording

pytestmark = pytest.mark.usefixtures("unsynced")

BEGIN = 1_795_982_184.0
#: As a node's parameter file has them.
PARAMETERS = """\
mmedge:
  ros__parameters:
    bundle: robot.mmedge
    modalities:
      camera:
        topic: /camera/image
      lidar:
        topic: /points
        fields: [x, y]
        align: hold
        max_age_ms: 250.0
        reliability: reliable
      state:
        topic: /joints
        joints: [a, b, c]
      text.topic: /say
"""
TOPICS = {
    "camera": Topic(topic="/camera/image"),
    "lidar": Topic(topic="/points", fields=("x", "y"), align="hold", max_age_ms=250.0),
    "state": Topic(topic="/joints", joints=("a", "b", "c")),
    "text": Topic(topic="/say"),
}


def items():
    """A third of a second: each message is received 4 ms after it was measured; times in s."""
    made = [("/say", BEGIN, text("red ball")), ("/other", BEGIN, scan([1.0]))]
    for k in range(10):
        at = BEGIN + k / 30
        frame = value("camera", k)
        made.append(("/camera/image", at + 0.004, image(frame, "32FC1", stamp=at)))
    for k in range(3):
        at = BEGIN + k / 10
        points = value("lidar", k)[0]
        fields = {"x": points[:, 0], "y": points[:, 1]}
        made.append(("/points", at + 0.004, cloud(fields, stamp=at)))
    for k in range(20):
        at = BEGIN + k / 60
        state = value("state", k)[0].astype(np.float64)
        made.append(("/joints", at + 0.004, joints("cab", np.roll(state, 1), stamp=at)))
    return sorted(made, key=lambda item: item[1])


def check(samples):
    by_name = {name: [s for s in samples if s.modality == name] for name in TOPICS}
    assert {name: len(found) for name, found in by_name.items()} == {
        "camera": 10,
        "lidar": 3,
        "state": 20,
        "text": 1,
    }
    assert by_name["text"][0].value == "red ball"
    for name in ("camera", "lidar", "state"):
        rate = {"camera": 30, "lidar": 10, "state": 60}[name]
        for k, sample in enumerate(by_name[name]):
            expected = value(name, k)
            assert (sample.value.dtype, sample.value.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(sample.value, expected)
            assert sample.t == pytest.approx(BEGIN + k / rate, abs=1e-6)
            assert sample.arrival == pytest.approx(sample.t + 0.004, abs=1e-6)
    assert [s.arrival for s in samples] == sorted(s.arrival for s in samples)


@pytest.mark.parametrize(
    ("storage", "mode"),
    [
        ("mcap", None),
        ("mcap", "FILE"),
        ("mcap", "MESSAGE"),
        ("mcap", "STORAGE"),
        ("sqlite3", None),
        ("sqlite3", "FILE"),
        ("sqlite3", "MESSAGE"),
    ],
)
def test_samples_of_a_bag(tmp_path, manifest, storage, mode):
    path = write_bag(tmp_path / "bag", items(), storage=storage, mode=mode)
    bag = Bag(path, manifest, TOPICS)
    assert (bag.bundle, bag.missing, bag.modalities) == ("streaming", "", tuple(TOPICS))
    for _ in range(2):  # each iteration begins anew
        check(list(bag))
    assert bag.notes == {"state": ("float64 is rounded to float32",)}
    if mode in (None, "STORAGE"):
        (file,) = path.glob("*.mcap" if storage == "mcap" else "*.db3")
        check(list(Bag(file, manifest, TOPICS)))


@pytest.mark.parametrize("form", ["run", "run.mcap"])
def test_a_bag_is_written_as_a_recording(tmp_path, manifest, form):
    path = write_bag(tmp_path / "bag", items())
    wrote = write_recording(Bag(path, manifest, TOPICS), manifest, tmp_path / form)
    assert wrote.samples == 34
    assert wrote.seconds == pytest.approx(19 / 60 + 0.004, abs=1e-6)
    made = open_recording(tmp_path / form)
    assert (made.bundle, made.missing) == ("streaming", "")
    check(list(made))


def command(words):
    """The verb in this process; what is wrong with its words is raised."""
    typer.main.get_command(build_app()).main(words, standalone_mode=False)


def call(*words, expect=0):
    done = subprocess.run(
        [sys.executable, "-m", "mmedge", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == expect, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


def test_a_bag_replays_as_the_recording_that_is_made_of_it(tmp_path, streaming, capsys):
    path = write_bag(tmp_path / "bag", items())
    (tmp_path / "p.yaml").write_text(PARAMETERS)
    asked = ("--ros-parameters", tmp_path / "p.yaml")
    done = call("record", streaming, "--from-bag", path, *asked, "-o", tmp_path / "run")
    assert "34 samples over 0.3207 s" in done.stderr
    assert "state: float64 is rounded to float32" in done.stderr
    how = ("--simulated", "--trigger", "camera", "--threads", 1)
    names = ("camera=/camera/image", "lidar=/points", "text=/say")
    words = [word for name in names for word in ("--topic", name)]
    # The file says which joints; a topic on the command line takes the place of the file's.
    lines = []
    for arguments in ((path, *how, *asked, *words), (tmp_path / "run", *how)):
        assert run(["replay", str(streaming), *map(str, arguments)]) == 0
        lines.append(capsys.readouterr().out.splitlines())
    of_bag, of_recording = lines
    assert len(of_bag) == len(of_recording) == 12
    first, *results, last = map(json.loads, of_bag)
    assert first["recording"] == "bag"
    assert last["end"]["pushed"] == {
        "camera": 10, "lidar": 3, "text": 1, "state": 20, "odom": 0, "voice": 0
    }  # fmt: skip
    assert [line["outputs"]["seen"]["values"] for line in results] == [[k] for k in range(10)]
    assert of_bag[1:] == of_recording[1:]


def test_a_bag_is_measured(tmp_path, pair):
    frames = np.random.default_rng(1).integers(0, 256, (8, 2, 2, 3), np.uint8)
    made = [
        ("/camera", BEGIN + k / 40, image(frame, "bgr8", stamp=BEGIN + k / 40))
        for k, frame in enumerate(frames)
    ]
    path = write_bag(tmp_path / "bag", made)
    words = ("--topic", "camera=/camera", "--trigger", "camera", "--warmup", 2, "--no-profile")
    done = call("replay", pair, path, *words, "--json")
    report = json.loads(done.stdout)
    assert report["load"]["recording"] == "bag"
    assert report["results"]["triggers"] == 8
    assert "camera: bgr8: colors are put in the order rgb" in done.stderr


def test_what_is_wrong_is_refused_by_name(tmp_path, manifest, streaming):
    path = write_bag(tmp_path / "bag", items())
    there = "/camera/image, /joints, /other, /points, /say"
    image_of = "expected messages of sensor_msgs/msg/Imu, the bag has sensor_msgs/msg/Image"
    for topics, words in (
        ({}, "say which topic is which modality"),
        ({"camera": Topic(topic="/cam")}, f"no topic /cam for modality 'camera'.*: {there}"),
        ({"camera": Topic(topic="/camera/image", type="sensor_msgs/msg/Imu")}, image_of),
        ({"odom": Topic(topic="/say")}, "modality 'odom', topic /say: takes no text"),
        ({"lamp": Topic(topic="/say")}, "unknown modality; this bundle has camera"),
    ):
        with pytest.raises(InputError, match=words):
            Bag(path, manifest, topics)
    with pytest.raises(InputError, match="a ROS 2 bag; say which topic"):
        open_recording(path)
    (file,) = path.glob("*.mcap")
    with pytest.raises(InputError, match="Of a ROS 2 bag, say which topic is which modality"):
        open_recording(file)
    with pytest.raises(InputError, match="cannot be read as a ROS 2 bag"):
        Bag(tmp_path / "nothing", manifest, TOPICS)
    replay = ("replay", streaming, "--topic", "camera=/a", "--trigger", "camera")
    record = ("record", streaming, "--from-bag", path, "-o", tmp_path / "r")
    for words, fault in (
        (replay, "need a ROS 2 bag"),
        (record, "--from-bag goes with --topic"),
        ((*record, "--topic", "camera=/a", "--topic", "camera=/b"), "each modality once"),
    ):
        with pytest.raises(typer.BadParameter, match=fault):
            command([*map(str, words)])


def test_messages_that_do_not_fit_end_it_or_are_left_out_and_counted(tmp_path, manifest):
    made = items()
    made.insert(4, ("/points", made[4][1], cloud({"x": np.zeros(2, np.float32)})))
    path = write_bag(tmp_path / "bag", made)
    words = "after 3 samples, received at .*topic /points: a cloud without field 'y'"
    with pytest.raises(InputError, match=words):
        list(Bag(path, manifest, TOPICS))
    bag = Bag(path, manifest, TOPICS, skip_unfit=True)
    assert len(list(bag)) == 34
    assert bag.missing == "1 messages left out, which do not fit"
    write_recording(bag, manifest, tmp_path / "run")
    assert open_recording(tmp_path / "run").missing == "1 samples not recorded (unfit)"


@pytest.mark.parametrize("padding", [0, 3, 4, 8, 9])
def test_messages_that_programs_padded_are_read(tmp_path, manifest, monkeypatch, padding):
    serialize = STORE.serialize_cdr
    monkeypatch.setattr(
        STORE, "serialize_cdr", lambda *a, **k: bytes(serialize(*a, **k)) + b"\0" * padding
    )
    path = write_bag(tmp_path / "bag", items())
    monkeypatch.undo()
    bag = Bag(path, manifest, TOPICS)
    if padding <= 8:
        check(list(bag))
    else:
        with pytest.raises(InputError, match="size mismatch"):
            list(bag)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_damaged_bags_are_refused(tmp_path, manifest, storage):
    path = write_bag(tmp_path / "bag", items(), storage=storage)
    (file,) = path.glob("*.mcap" if storage == "mcap" else "*.db3")
    whole = file.read_bytes()
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 8):
            data[at] ^= int(rng.integers(1, 256))
        file.write_bytes(bytes(data[: int(rng.integers(1, len(data) + 1))]))
        try:
            list(Bag(file, manifest, TOPICS))
        except InputError:
            refused += 1
    # A changed value or time of a message is no fault that a bag could tell.
    assert refused >= 40


def test_nothing_of_it_is_loaded_where_it_is_not_used():
    code = (
        "import sys, mmedge.recording, mmedge.cli.app; "
        "print([name for name in ('rosbags', 'ruamel', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rosbags" not in done.stdout
    assert "ruamel" not in done.stdout


def test_a_stream_on_a_simulated_clock_gives_the_same_lines_each_time(tmp_path, streaming):
    from mmedge.bench.result_lines import result_lines
    from mmedge.recording.ros import policies

    path = write_bag(tmp_path / "bag", items())
    with mmedge.load(streaming, threads=1) as pipe:
        runs = [
            list(
                result_lines(
                    pipe, Bag(path, pipe.bundle, TOPICS), trigger="camera", align=policies(TOPICS)
                )
            )
            for _ in range(2)
        ]
    assert runs[0] == runs[1]
