"""The node in this process: transitions, parameters, QoS, clocks, diagnostics, wrong messages."""

from __future__ import annotations

import array
import json
import shutil
import time

import numpy as np
import pytest
from make_numbers import camera, joints, points
from rclpy.lifecycle import TransitionCallbackReturn as Done
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from robot import PARAMETERS, Ears, published, state_of, wait_for
from sensor_msgs.msg import Image, JointState, PointCloud2
from std_msgs.msg import String

import mmedge

OK, WARN, ERROR = b"\x00", b"\x01", b"\x02"


def stamped(message, node):
    message.header.stamp = node.get_clock().now().to_msg()
    return message


def start(node):
    assert node.trigger_configure() == Done.SUCCESS
    assert node.trigger_activate() == Done.SUCCESS
    return node


def test_a_node_goes_through_its_states_by_service(make_node, helper):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    node = make_node()
    client = helper.create_client(ChangeState, "/mmedge/change_state")
    assert client.wait_for_service(10.0)

    def change(number):
        future = client.call_async(ChangeState.Request(transition=Transition(id=number)))
        wait_for(future.done, "the transition")
        return future.result().success

    assert state_of(node) == "unconfigured"
    for _ in range(2):  # a node may be configured and activated again
        assert change(Transition.TRANSITION_CONFIGURE)
        assert state_of(node) == "inactive"
        assert node.stream is None
        for _ in range(2):
            assert change(Transition.TRANSITION_ACTIVATE)
            assert state_of(node) == "active"
            stream = node.stream
            assert change(Transition.TRANSITION_DEACTIVATE)
            assert node.stream is None
            with pytest.raises(Exception, match="closed"):
                stream.push("camera", np.zeros((1, 48, 64, 3), np.uint8))
        assert change(Transition.TRANSITION_CLEANUP)
        assert state_of(node) == "unconfigured"
    assert change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    assert change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert state_of(node) == "finalized"
    assert node.stream is None


def test_an_error_in_a_transition_releases_everything(make_node, monkeypatch):
    node = start(make_node())

    def fail(self, state):
        raise RuntimeError("a cable")

    monkeypatch.setattr(type(node).__mro__[1], "on_deactivate", fail)
    assert node.trigger_deactivate() == Done.ERROR
    assert state_of(node) == "unconfigured"
    assert node.stream is None
    monkeypatch.undo()
    start(node)
    assert state_of(node) == "active"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bundle": None}, "parameter bundle: expected the bundle"),
        ({"bundle": "/nothing/there"}, "/nothing/there"),
        ({"trigger": "lamp"}, "lamp"),
        ({"triger": "camera"}, "unknown parameter 'triger'; did you mean trigger?"),
        ({"deadline_ms": "soon"}, "parameter deadline_ms: expected a number, got 'soon'"),
        ({"variant": "none"}, "none"),
        ({"plan": "half"}, "half"),
        ({"modalities.camera.type": None}, "modalities.camera.type: expected one of"),
        ({"modalities.camera.typ": "x"}, "did you mean type"),
        ({"modalities.camera.type": "nav_msgs/msg/Path"}, "nav_msgs"),
        ({"modalities.camera.topic": None, "modalities.camera.type": None},
         "modality 'camera' is required: set modalities.camera.topic"),
        ({"modalities.lamp.topic": "/x", "modalities.lamp.type": "sensor_msgs/msg/Image"},
         "unknown modality; this bundle has camera, lidar, arm, text"),
        ({"modalities.lidar.fields": ["x", "y", "z"], "modalities.lidar.align": "hold"},
         "max_age_ms"),
        ({"modalities.camera.align": "interpolate"}, "only float inputs are interpolated"),
    ],
)  # fmt: skip
def test_parameters_that_will_not_do_are_told_and_leave_the_node_unconfigured(
    make_node, helper, changes, words
):
    ears = Ears(helper)
    node = make_node(**changes)
    assert node.trigger_configure() == Done.FAILURE
    assert state_of(node) == "unconfigured"
    wait_for(lambda: ears.status("stream"), "diagnostics")
    found = ears.status("stream")
    assert found.level == ERROR
    assert words in found.message


def test_a_bundle_is_loaded_only_as_signed_where_keys_are_given(make_node, helper, tmp_path):
    bundle = shutil.copy(PARAMETERS["bundle"], tmp_path / "robot.mmedge")
    _, ours, _ = mmedge.generate_key(tmp_path / "ours")
    _, theirs, _ = mmedge.generate_key(tmp_path / "theirs")
    mmedge.sign_bundle(bundle, tmp_path / "ours.key", version=3)
    ears = Ears(helper)
    node = make_node(bundle=str(bundle), trusted_keys=[str(theirs)], lowest_version=3)
    assert node.trigger_configure() == Done.FAILURE
    wait_for(lambda: "no signature by a trusted key" in ears.message("stream"), "the refusal")
    node.set_parameters([Parameter("trusted_keys", value=[str(ours)])])
    node.set_parameters([Parameter("lowest_version", value=4)])
    assert node.trigger_configure() == Done.FAILURE
    wait_for(lambda: "version" in ears.message("stream"), "the refusal")
    node.set_parameters([Parameter("lowest_version", value=3)])
    start(node)
    wait_for(lambda: ears.value("stream", "signature"), "diagnostics")
    assert ears.value("stream", "signature").startswith("version 3, verified by ")


def test_parameters_are_fixed_while_the_node_is_configured(make_node):
    node = make_node(trigger="lamp")
    assert node.trigger_configure() == Done.FAILURE
    assert node.set_parameters([Parameter("trigger", value="any")])[0].successful
    assert node.set_parameters([Parameter("modalities.lidar.depth", value=7)])[0].successful
    start(node)
    done = node.set_parameters([Parameter("trigger", value="arm")])[0]
    assert not done.successful
    assert "clean it up first" in done.reason
    assert node.inlets["lidar"].qos.depth == 7
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert node.set_parameters([Parameter("trigger", value=10.0)])[0].successful
    start(node)


def test_qos_is_best_effort_unless_asked_for_and_overrides_win(make_node):
    node = start(
        make_node(
            **{
                "modalities.lidar.reliability": "reliable",
                "modalities.lidar.durability": "transient_local",
                "qos_overrides./joint_states.subscription.depth": 3,
                "qos_overrides./joint_states.subscription.reliability": "reliable",
            }
        )
    )
    camera, lidar, arm = (node.inlets[name].qos for name in ("camera", "lidar", "arm"))
    assert camera.reliability == QoSReliabilityPolicy.BEST_EFFORT
    assert (camera.durability, camera.depth) == (QoSDurabilityPolicy.VOLATILE, 10)
    assert lidar.reliability == QoSReliabilityPolicy.RELIABLE
    assert lidar.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
    assert (arm.depth, arm.reliability) == (3, QoSReliabilityPolicy.RELIABLE)
    # Also when it is activated again, when they are declared already.
    node.trigger_deactivate()
    node.trigger_activate()
    assert node.inlets["arm"].qos.depth == 3


def test_a_publisher_that_offers_too_little_is_told(make_node, helper):
    ears = Ears(helper)
    node = start(make_node(**{"modalities.camera.reliability": "reliable"}))
    helper.create_publisher(
        Image, "/camera/image_raw",
        QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT),
    )  # fmt: skip
    wait_for(lambda: node.inlets["camera"].incompatible, "the mismatch")
    wait_for(lambda: ears.value("camera", "incompatible_qos") == "1", "its diagnostics")


def test_results_and_diagnostics_say_what_was_used(make_node, helper):
    node = start(make_node(**{"deadline_ms": 10_000.0, "modalities.text.reliability": "reliable"}))
    ears = Ears(helper)
    sensors = {
        "camera": helper.create_publisher(Image, "/camera/image_raw", 10),
        "lidar": helper.create_publisher(PointCloud2, "/points", 10),
        "arm": helper.create_publisher(JointState, "/joint_states", 10),
        "text": helper.create_publisher(String, "/say", 10),
    }
    wait_for(lambda: all(p.get_subscription_count() for p in sensors.values()), "subscriptions")
    wait_for(ears.matched, "publishers")
    time.sleep(0.3)  # the other direction of discovery
    sensors["text"].publish(String(data="go left"))
    sensors["arm"].publish(stamped(joints(7), helper))
    sensors["lidar"].publish(stamped(points(5), helper))
    inlets = node.inlets
    wait_for(lambda: all(inlets[n].pushed for n in ("text", "arm", "lidar")), "three samples")
    wait_for(lambda: node.stream.health().modalities["lidar"].encodes, "the lidar's encoding")
    wait_for(lambda: node.stream.health().modalities["text"].encodes, "the text's encoding")
    sensors["camera"].publish(stamped(camera(300), helper))
    wait_for(lambda: ears.results, "a result")
    (line,) = ears.results
    assert line["number"] == 0
    assert (line["fresh"], line["met"], line["reason"], line["trigger"]) == (
        True,
        True,
        "",
        "camera",
    )
    # Numbers of the camera, the lidar and the arm, and the text's ids (2 and 3).
    assert line["outputs"]["used"]["values"] == [300.0, 5.0, 7.0, 5.0]
    assert {name: each["samples"] for name, each in line["modalities"].items()} == dict.fromkeys(
        ("camera", "lidar", "arm", "text"), 1
    )
    wait_for(lambda: len(ears.outputs["mix"]) == len(ears.outputs["used"]) == 1, "outputs")
    (used,) = ears.outputs["used"]
    assert used.data == array.array("f", [300.0, 5.0, 7.0, 5.0])
    assert [(d.label, d.size, d.stride) for d in used.layout.dim] == [
        ("batch", 1, 4), ("axis1", 4, 4),
    ]  # fmt: skip
    wait_for(lambda: ears.value("camera", "used") == "1", "diagnostics")
    assert ears.level("stream") == OK
    assert ears.value("stream", "results") == "1"
    assert ears.value("stream", "published") == "1"
    for name, kind in (("camera", "Image"), ("lidar", "PointCloud2"), ("arm", "JointState")):
        assert ears.value(name, "type") == f"sensor_msgs/msg/{kind}"
        assert ears.value(name, "received") == ears.value(name, "pushed") == "1"
        assert ears.value(name, "lost") == ears.value(name, "unfit") == "0"
    assert ears.value("arm", "changed 0") == "float64 is rounded to float32"
    # Without new samples the required camera is too old, and then the lidar.
    wait_for(lambda: ears.level("camera") == ERROR, "a camera that is too old")
    assert ears.message("camera").startswith("absent: too_old")
    wait_for(lambda: ears.level("lidar") == WARN, "a lidar that is too old")
    node.trigger_deactivate()
    wait_for(lambda: ears.message("stream") == "inactive", "an inactive node")


def test_wrong_messages_are_counted_and_end_nothing(make_node, helper, monkeypatch):
    ears = Ears(helper)
    node = start(make_node())
    publisher = helper.create_publisher(Image, "/camera/image_raw", 50)
    wait_for(publisher.get_subscription_count, "a subscription")
    time.sleep(0.3)
    small = camera(1)
    small.height, small.data = 24, small.data[: 24 * 64 * 3]
    grey = camera(2)
    grey.encoding, grey.step, grey.data = "mono8", 64, grey.data[: 48 * 64]
    short = camera(3)
    short.data = short.data[:-1]
    wrong = [small, small, grey, short]
    for message in [*wrong, camera(4)]:
        publisher.publish(stamped(message, helper))
    inlet = node.inlets["camera"]
    wait_for(lambda: inlet.received == 5, "five messages")
    wait_for(lambda: inlet.pushed == 1, "the good one")
    assert inlet.unfit.total() == 4
    faults = sorted(inlet.unfit.items(), key=lambda each: -each[1])
    assert faults[0][1] == 2
    assert "a picture of 64 x 24 pixels (width x height), expected 64 x 48" in faults[0][0]
    assert any("mono8 with 1 channels, expected 3" in fault for fault, _ in faults)
    assert any("9216 bytes in all, got 9215" in fault for fault, _ in faults)
    wait_for(lambda: ears.value("camera", "unfit") == "4", "diagnostics")
    wait_for(lambda: ears.results, "the result of the good one")

    # What nobody foresaw ends nothing either.
    def fail(message):
        raise ZeroDivisionError("a surprise")

    monkeypatch.setattr(inlet, "converter", fail)
    publisher.publish(stamped(camera(5), helper))
    wait_for(lambda: inlet.errors.total() == 1, "the error")
    monkeypatch.undo()
    publisher.publish(stamped(camera(6), helper))
    wait_for(lambda: inlet.pushed == 2, "the one after")
    assert inlet.received == inlet.pushed + inlet.unfit.total() + inlet.errors.total()
    wait_for(lambda: ears.value("camera", "errors") == "1", "diagnostics")


def test_a_stream_that_failed_is_told(make_node, helper, monkeypatch):
    ears = Ears(helper)
    node = start(make_node())
    publisher = helper.create_publisher(Image, "/camera/image_raw", 50)
    wait_for(publisher.get_subscription_count, "a subscription")
    time.sleep(0.3)
    clock = node.now
    monkeypatch.setattr(node.stream._clock, "_source", lambda: 1 / 0)
    publisher.publish(stamped(camera(1), helper))
    wait_for(lambda: node.inlets["camera"].errors, "the refusal")
    wait_for(lambda: "ZeroDivisionError" in node.stream._core.failure, "the failure")
    assert clock() > 0
    wait_for(lambda: ears.level("stream") == ERROR, "diagnostics")
    assert "ZeroDivisionError" in ears.message("stream")
    # A supervisor brings it back.
    node.trigger_deactivate()
    node.trigger_activate()
    publisher.publish(stamped(camera(2), helper))
    wait_for(lambda: ears.results, "a result")


def test_lost_messages_are_counted_by_the_publishers_numbers(make_node, helper):
    ears = Ears(helper)
    node = start(make_node(**{"modalities.arm.depth": 1, "modalities.arm.reliability": "reliable"}))
    publisher = helper.create_publisher(JointState, "/joint_states", 100)
    wait_for(publisher.get_subscription_count, "a subscription")
    time.sleep(0.3)
    inlet = node.inlets["arm"]
    publisher.publish(stamped(joints(0), helper))
    wait_for(lambda: inlet.received == 1, "the first")
    take = inlet.converter

    class Slow:
        """Holds the executor while newer messages take the place of older ones."""

        def __getattr__(self, name):
            return getattr(take, name)

        def __call__(self, message):
            time.sleep(0.5)
            return take(message)

    inlet.converter = Slow()
    for number in range(1, 20):
        publisher.publish(stamped(joints(number), helper))
        time.sleep(0.01)
    wait_for(lambda: inlet.received + inlet.lost == 20, "all accounted for")
    assert inlet.lost >= 10
    assert not inlet.untold
    wait_for(lambda: ears.value("arm", "lost") == str(inlet.lost), "diagnostics")
    # Numbers of two publishers are not told apart, and diagnostics say so.
    other = helper.create_publisher(JointState, "/joint_states", 100)
    wait_for(lambda: inlet.publishers == 2, "a second publisher")
    other.publish(stamped(joints(20), helper))
    wait_for(lambda: inlet.untold, "a message of two publishers")
    wait_for(lambda: (ears.value("arm", "lost") or "").startswith("at least"), "diagnostics")


def test_a_stream_runs_on_simulated_time_and_follows_its_jumps(make_node, helper):
    from rosgraph_msgs.msg import Clock

    ears = Ears(helper)
    clock = helper.create_publisher(Clock, "/clock", 10)
    publisher = helper.create_publisher(Image, "/camera/image_raw", 10)
    node = make_node(use_sim_time=True)

    def set_clock(seconds):
        message = Clock()
        message.clock.sec = int(seconds)
        message.clock.nanosec = round((seconds - int(seconds)) * 1e9)
        clock.publish(message)
        wait_for(lambda: abs(node.now() - seconds) < 1e-6, f"the clock at {seconds:g} s")

    def show(number, seconds):
        message = camera(number)
        message.header.stamp.sec = int(seconds)
        message.header.stamp.nanosec = round((seconds - int(seconds)) * 1e9)
        before = len(ears.results)
        publisher.publish(message)
        wait_for(lambda: len(ears.results) > before, f"the result of {number}")
        return ears.results[-1]

    wait_for(clock.get_subscription_count, "a listener of /clock")
    time.sleep(0.3)
    set_clock(100.0)
    start(node)
    wait_for(publisher.get_subscription_count, "a subscription")
    wait_for(ears.matched, "publishers")
    time.sleep(0.3)
    line = show(1, 99.95)
    assert (line["t"], line["outputs"]["used"]["values"][0]) == (99.95, 1.0)
    set_clock(100.1)
    line = show(2, 100.1)
    assert line["made"] == pytest.approx(100.1, abs=1e-6)
    assert node.stream.health().clock_jumps == 0
    # A bag that begins anew: the clock is set back, and results go on, on the new time.
    set_clock(50.0)
    line = show(3, 49.99)
    assert line["outputs"]["used"]["values"][0] == 3.0
    assert line["t"] == pytest.approx(49.99, abs=0.2)
    assert node.stream.health().clock_jumps == 1
    wait_for(lambda: ears.value("stream", "clock_jumps") == "1", "diagnostics on real time")
    assert published(node) == 3
    assert json.dumps(line)


def test_before_the_first_clock_samples_are_of_the_future(make_node, helper):
    from rosgraph_msgs.msg import Clock

    ears = Ears(helper)
    clock = helper.create_publisher(Clock, "/clock", 10)
    publisher = helper.create_publisher(Image, "/camera/image_raw", 10)
    node = start(make_node(use_sim_time=True))
    wait_for(publisher.get_subscription_count, "a subscription")
    wait_for(clock.get_subscription_count, "a listener of /clock")
    wait_for(ears.matched, "publishers")
    time.sleep(0.3)
    assert node.now() == 0.0

    def show(number):
        message = camera(number)
        message.header.stamp.sec = 1000
        publisher.publish(message)

    show(1)
    dropped = node.stream.health
    wait_for(lambda: dropped().modalities["camera"].dropped == {"future": 1}, "the drop")
    message = Clock()
    message.clock.sec = 1000
    clock.publish(message)
    wait_for(lambda: node.now() == 1000.0, "the clock")
    show(2)
    wait_for(lambda: ears.results, "a result")
    assert ears.results[0]["outputs"]["used"]["values"][0] == 2.0
    assert node.stream.health().clock_jumps == 1
