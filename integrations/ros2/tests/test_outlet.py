"""Results as messages: every dtype to the bit, names that topics may have, texts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rclpy.lifecycle import LifecycleNode
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.validate_topic_name import validate_topic_name
from robot import wait_for
from std_msgs.msg import String, UInt8MultiArray

from mmedge import InputError
from mmedge.spec import DTYPES, Manifest, Modality, Stage, TensorSpec
from mmedge.stream import Result
from mmedge_ros.outlet import Outlet, to_message, topic_of


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(2, 3), (1, 4), (5,), (), (0, 2)])
def test_arrays_go_as_messages_of_their_dtype(dtype, shape):
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2, shape) if dtype == "bool" else rng.integers(0, 100, shape)
    value = np.asarray(values, dtype)
    if dtype.startswith("float"):
        value = np.asarray(value / 7, dtype)
    message = to_message(value, ("batch",))
    message = deserialize_message(serialize_message(message), type(message))
    exact = {"float16": np.float32, "bool": np.uint8}.get(dtype, np.dtype(dtype))
    got = np.array(message.data, exact).reshape([d.size for d in message.layout.dim])
    np.testing.assert_array_equal(got, value)
    assert got.shape == shape
    labels = [d.label for d in message.layout.dim]
    assert labels == ["batch", "axis1"][: len(shape)]
    if value.size:
        assert [d.stride for d in message.layout.dim] == [
            int(np.prod(shape[axis:])) for axis in range(len(shape))
        ]


def test_outputs_of_any_name_have_a_topic():
    for name, topic in (
        ("scores", "scores"), ("logits.0", "logits_0"), ("3d", "_3d"), ("a//b", "a_b"),
    ):  # fmt: skip
        assert topic_of(name) == f"~/output/{topic}"
        validate_topic_name(topic_of(name))


def manifest(*names):
    outputs = tuple(TensorSpec(name, "bool", ("batch", 2)) for name in names)
    inputs = (TensorSpec("x", "float32", ("batch", 2)),)
    return Manifest(
        name="any", modalities=(Modality("m", ("x",)),),
        stages=(Stage("fusion", "onnx/f.onnx", inputs, outputs),), outputs=names, variants=(),
        files={}, dimensions={},
    )  # fmt: skip


def result(outputs):
    return Result(
        outputs=outputs, t=1.0, made=1.5, latency=0.5, ages={"m": 0.0}, samples={"m": ()},
        absent={}, dropped={"m": {"nan": 2}}, fresh=True, met=None, outputs_t=1.0, trigger="m",
    )  # fmt: skip


def test_two_outputs_of_one_topic_are_refused(spin):
    node = spin(LifecycleNode("outlet"))
    with pytest.raises(InputError, match=r"outputs 'a.b' and 'a_b' both go to ~/output/a_b"):
        Outlet(node, manifest("a.b", "a_b"))


def test_texts_and_masks_are_published_with_the_line_and_nothing_without_outputs(spin, helper):
    node = spin(LifecycleNode("outlet"))
    heard = {"mask": [], "text": [], "line": []}
    for name, kind, topic in (
        ("mask", UInt8MultiArray, "output/mask"),
        ("text", String, "output/text"),
        ("line", String, "result"),
    ):
        helper.create_subscription(kind, f"/outlet/{topic}", heard[name].append, 10)
    outlet = Outlet(node, manifest("mask"))
    node.trigger_configure()
    node.trigger_activate()
    # The topic of a text is made with the first one, so the first is not heard by all.
    outlet.publish(result({"text": "go"}))
    wait_for(lambda: node.count_subscribers("/outlet/output/text"), "a listener of texts")
    publishers = [*node.publishers]
    wait_for(
        lambda: all(
            each.get_subscription_count() for each in publishers if "/outlet/" in each.topic_name
            and "transition" not in each.topic_name
        ),
        "listeners",
    )  # fmt: skip
    for values in heard.values():
        values.clear()
    mask = np.array([[True, False]])
    outlet.publish(result({"mask": mask, "text": ["go left", "now"], "finish": ["stop"]}))
    outlet.publish(result(None))
    wait_for(lambda: len(heard["line"]) >= 2, "two results")
    wait_for(lambda: len(heard["text"]) >= 2, "two texts")
    assert [message.data for message in heard["text"]][-2:] == ["go left", "now"]
    (message,) = heard["mask"]
    assert list(message.data) == [1, 0]
    first, second = (json.loads(message.data) for message in heard["line"][-2:])
    assert (first["number"], second["number"]) == (1, 2)
    assert (first["finish"], first["text"]) == (["stop"], ["go left", "now"])
    assert first["outputs"]["mask"]["values"] == [True, False]
    assert first["dropped"] == {"m": {"nan": 2}}
    assert second["outputs"] is None
