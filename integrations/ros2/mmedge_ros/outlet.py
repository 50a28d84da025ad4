"""Results as messages of std_msgs: one topic for each output, and one that says all the rest.

A message type of our own would need rosidl to generate it on every machine that listens.
"""

from __future__ import annotations

import array
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from std_msgs.msg import (
    Float32MultiArray,
    Float64MultiArray,
    Int8MultiArray,
    Int16MultiArray,
    Int32MultiArray,
    Int64MultiArray,
    MultiArrayDimension,
    MultiArrayLayout,
    String,
    UInt8MultiArray,
    UInt16MultiArray,
    UInt32MultiArray,
    UInt64MultiArray,
)

from mmedge import InputError
from mmedge.stream import result_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rclpy.lifecycle import LifecycleNode

    from mmedge.spec import Manifest, TensorSpec
    from mmedge.stream import Result

__all__ = ["Outlet", "to_message", "topic_of"]

#: Message, typecode of its numbers, and dtype that an output is cast to, exactly, by its dtype.
MESSAGES: dict[str, tuple[Any, str, str]] = {
    "float16": (Float32MultiArray, "f", "float32"),
    "float32": (Float32MultiArray, "f", "float32"),
    "float64": (Float64MultiArray, "d", "float64"),
    "int8": (Int8MultiArray, "b", "int8"),
    "int16": (Int16MultiArray, "h", "int16"),
    "int32": (Int32MultiArray, "i", "int32"),
    "int64": (Int64MultiArray, "q", "int64"),
    "bool": (UInt8MultiArray, "B", "uint8"),
    "uint8": (UInt8MultiArray, "B", "uint8"),
    "uint16": (UInt16MultiArray, "H", "uint16"),
    "uint32": (UInt32MultiArray, "I", "uint32"),
    "uint64": (UInt64MultiArray, "Q", "uint64"),
}
#: Results that wait for a subscriber.
DEPTH = 16


def topic_of(output: str) -> str:
    """The topic of an output, under the node's name; what a topic's name cannot have is ``_``."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", output)
    return f"~/output/{'_' * name[:1].isdigit()}{name}"


def to_message(value: np.ndarray[Any, Any], labels: Sequence[str] = ()) -> Any:  # noqa: ANN401
    """An array as a std_msgs array of its dtype, with its shape in the layout.

    Args:
        value: of a dtype of a bundle. float16 goes as float32, bool as uint8: exactly.
        labels: names of its axes; ``axis0`` and so on for those not named.
    """
    message, typecode, dtype = MESSAGES[value.dtype.name]
    dims = []
    stride = value.size
    for axis, size in enumerate(value.shape):
        label = labels[axis] if axis < len(labels) else f"axis{axis}"
        dims.append(MultiArrayDimension(label=label, size=size, stride=stride))
        stride //= max(size, 1)
    data = array.array(typecode)
    # An array of numbers is taken as it is; of anything else rclpy looks at every element.
    data.frombytes(np.ascontiguousarray(value, dtype).tobytes())
    return message(layout=MultiArrayLayout(dim=dims, data_offset=0), data=data)


class Outlet:
    """Publishes results while its node is active.

    Args:
        node: whose publishers they are.
        manifest: says which outputs there are.

    Attributes:
        published: results.

    Raises:
        InputError: two outputs whose topics have the same name.
    """

    def __init__(self, node: LifecycleNode, manifest: Manifest) -> None:
        self.published = 0
        self._node = node
        self._modalities = tuple(modality.name for modality in manifest.modalities)
        specs = {spec.name: spec for stage in manifest.stages for spec in stage.outputs}
        self._labels = {name: _labels(specs[name]) for name in manifest.outputs if name in specs}
        self._publishers: dict[str, Any] = {}
        #: A publisher that is made while the node is active is not activated by its transition.
        self._active = False
        topics: dict[str, str] = {}
        for name in manifest.outputs:
            topic = topic_of(name)
            if topic in topics:
                raise InputError(f"outputs {topics[topic]!r} and {name!r} both go to {topic}")
            topics[topic] = name
            if name in specs:
                self._publisher(name, MESSAGES[specs[name].dtype][0])
        self._result = node.create_lifecycle_publisher(String, "~/result", DEPTH)
        self._active = True

    def publish(self, result: Result) -> None:
        """Publish the outputs, and then what is to say of them."""
        for name, value in (result.outputs or {}).items():
            for message in self._messages(name, value):
                self._publisher(name, type(message)).publish(message)
        line = {
            "number": self.published,
            **result_line(result, self._modalities),
            "lateness": result.lateness,
            "dropped": {name: dict(counts) for name, counts in result.dropped.items()},
        }
        self._result.publish(String(data=json.dumps(line, allow_nan=False)))
        self.published += 1

    def _messages(self, name: str, value: object) -> list[Any]:
        """What is published of an output: an array, or each row's text."""
        if isinstance(value, np.ndarray):
            return [to_message(value, self._labels.get(name, ()))]
        rows = [value] if isinstance(value, str) else value
        if isinstance(rows, list | tuple) and all(isinstance(row, str) for row in rows):
            return [String(data=row) for row in rows]
        return []  # what a loop says beside its outputs is in the line

    def close(self) -> None:
        """End the publishers."""
        for publisher in (*self._publishers.values(), self._result):
            self._node.destroy_lifecycle_publisher(publisher)

    def _publisher(self, name: str, message: Any) -> Any:  # noqa: ANN401
        """The publisher of an output, also of one that only a loop gives, such as ``text``."""
        if name not in self._publishers:
            publisher = self._node.create_lifecycle_publisher(message, topic_of(name), DEPTH)
            self._publishers[name] = publisher
            if self._active:
                publisher.on_activate(None)
        return self._publishers[name]


def _labels(spec: TensorSpec) -> tuple[str, ...]:
    return tuple(
        size if isinstance(size, str) else f"axis{axis}" for axis, size in enumerate(spec.shape)
    )
