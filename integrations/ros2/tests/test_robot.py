"""Processes over DDS: every sample accounted for, a node that is killed, a bag of ROS itself."""

from __future__ import annotations

import json

import pytest
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from robot import BUNDLE, wait_for
from robot_run import (
    MODALITIES,
    account,
    counted,
    listening,
    match,
    node_process,
    run_robot,
    sensors_process,
    wait_until_active,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensors import TOPICS, TYPES

import mmedge
from mmedge.bench.result_lines import result_lines
from mmedge.recording.ros import Bag, policies, read_parameter_file

#: Seconds that sensors publish.
SPAN = 20.0


class BagOfRos:
    """Writes what arrives at raw subscriptions, byte for byte, with the time of its receipt."""

    def __init__(self, path):
        self.path = path
        self.count = 0
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._last = 0

    def listen(self, node):
        profile = QoSProfile(depth=1000, reliability=QoSReliabilityPolicy.RELIABLE)
        for name, kind in TYPES.items():
            connection = self._writer.add_connection(
                TOPICS[name], f"sensor_msgs/msg/{kind.__name__}", typestore=self._store
            )
            node.create_subscription(kind, TOPICS[name], self._take(connection), profile, raw=True)

    def _take(self, connection):
        def take(data, info):
            self._last = max(self._last, info["received_timestamp"])
            self._writer.write(connection, self._last, data)
            self.count += 1

        return take

    def close(self):
        self._writer.close()


@pytest.fixture(scope="module")
def run(ros, tmp_path_factory):
    """20 seconds of a robot, and the bag that was written meanwhile."""
    folder = tmp_path_factory.mktemp("run")
    bag = BagOfRos(folder / "bag")
    heard = run_robot(folder, SPAN, bag.listen)
    bag.close()
    return {**heard, "bag": bag, "parameters": folder / "robot.yaml"}


def test_every_sample_is_accounted_for(run):
    assert run["faults"] == []
    assert "unsettled" not in run
    assert run["published"] == {"camera": 600, "lidar": 200, "arm": 2000}
    assert run["diagnostics"]["stream"]["failure"] == ""
    # How many results there are is the machine's affair, but there are some of every kind.
    fresh = [line for line in run["results"] if line["fresh"]]
    assert len(fresh) > 100
    assert sum(bool(line["modalities"]["arm"]["samples"]) for line in fresh) > 50


def test_a_bag_that_ros_wrote_gives_the_results_of_the_live_run_bit_for_bit(run):
    bag, sent = run["bag"], run["sent"]
    assert bag.count == sum(map(len, sent.values()))
    topics = read_parameter_file(run["parameters"])
    live = [line for line in run["results"] if line["fresh"]]
    with mmedge.load(BUNDLE, plan="cut", threads=1) as pipe:
        source = Bag(bag.path, pipe.bundle, topics)
        values = {(sample.modality, sample.t): sample.value for sample in source}
        assert len(values) == bag.count
        inputs = {m.name: m.inputs[0] for m in pipe.bundle.manifest.modalities}
        # Each live result, made once more of the messages that it says it used.
        for line in live:
            samples = {
                inputs[name]: values[name, said["stamp"]].copy()
                for name, said in line["modalities"].items()
                if said["samples"]
            }
            outputs = pipe(**samples)
            for name, said in line["outputs"].items():
                assert outputs[name].reshape(-1).tolist() == said["values"], line["t"]
        # The bag replayed on a simulated clock: where a result used the samples that the live one
        # did, its outputs are the same bits. Which samples are ready when a picture comes depends
        # on how long stages take, which is no time there.
        lines = result_lines(pipe, source, trigger="camera", align=policies(topics))
        replayed = [json.loads(line) for line in lines][1:-1]
    origin = min(sample.arrival for sample in source)
    assert len(replayed) == len(sent["camera"])
    alike = 0
    by_number = {line["outputs"]["used"]["values"][0]: line for line in replayed if line["fresh"]}
    for line in live:
        other = by_number[line["outputs"]["used"]["values"][0]]
        assert other["t"] == pytest.approx(line["t"] - origin, abs=1e-6)
        if [said["samples"] for said in line["modalities"].values()] == [
            said["samples"] for said in other["modalities"].values()
        ] and line["outputs"]["used"]["values"] == other["outputs"]["used"]["values"]:
            assert other["outputs"] == line["outputs"]
            alike += 1
    print(f"{alike} of {len(live)} results used the same samples in the replay")
    assert alike > 0


def test_a_node_that_cannot_start_by_itself_ends_with_an_error(ros, tmp_path):
    with node_process(tmp_path, bundle="/nothing/there.mmedge") as process:
        assert process.wait(60.0) == 1
    assert "not configured: /nothing/there.mmedge" in (tmp_path / "node.log").read_text()


def test_a_node_that_is_killed_and_started_again_goes_on(ros, tmp_path):
    with listening() as (_, ears):
        with node_process(tmp_path) as process:
            wait_until_active(ears, process)
            wait_for(ears.matched, "publishers")
            file, sensors = sensors_process(tmp_path, 9.0)
            wait_for(lambda: len(ears.results) >= 20, "results", 60.0)
            process.kill()
            process.wait()
        before = len(ears.results)
        ears.found.clear()
        with node_process(tmp_path) as process:
            wait_until_active(ears, process)
            wait_for(lambda: len(ears.results) >= before + 20, "results again")
            assert sensors.wait(60.0) == 0
            sent = json.loads(file.read_text())["sent"]
            wait_for(
                lambda: all(
                    counted(ears, n, "first_number") - 1 + counted(ears, n, "received")
                    + counted(ears, n, "lost") == len(sent[n])
                    for n in MODALITIES
                ),
                "the last messages",
            )  # fmt: skip
            assert account(ears, sent, whole=False) == []
            assert match(ears.results[before:], sent) == []
            # It began anew: its first picture is one that came after it listened.
            assert counted(ears, "camera", "first_number") > 20
            assert process.poll() is None
