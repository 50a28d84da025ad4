"""What the tests share: ears for what a node publishes, and waiting."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from std_msgs.msg import Float32MultiArray, String

ROOT = Path(__file__).parents[3]
#: Made by make_bundle.py, as `make ros2` does.
BUNDLE = ROOT / "build" / "ros2" / "robot.mmedge"
DEPTH = 1000

#: Parameters of a node in the process of the tests.
PARAMETERS = {
    "bundle": str(BUNDLE),
    "trigger": "camera",
    "modalities.camera.topic": "/camera/image_raw",
    "modalities.camera.type": "sensor_msgs/msg/Image",
    "modalities.lidar.topic": "/points",
    "modalities.lidar.type": "sensor_msgs/msg/PointCloud2",
    "modalities.lidar.fields": ["x", "y", "z"],
    "modalities.arm.topic": "/joint_states",
    "modalities.arm.type": "sensor_msgs/msg/JointState",
    "modalities.arm.joints": ["base", "shoulder", "elbow", "wrist_1", "wrist_2", "wrist_3"],
    "modalities.arm.depth": 50,
    "modalities.text.topic": "/say",
    "modalities.text.type": "std_msgs/msg/String",
}


def wait_for(holds, what, seconds=20.0):
    """Wait until something holds; fail where it does not within so many seconds."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


def state_of(node):
    """Label of a lifecycle node's state."""
    return node._state_machine.current_state[1]


def published(node):
    """Results that it has published since it was activated."""
    return node._outlet.published


class Ears:
    """Results, outputs and diagnostics of a node, as they come."""

    def __init__(self, node, of="/mmedge"):
        self.results = []
        self.outputs = defaultdict(list)
        self.found = {}
        self.on_result = None
        self._of = of
        self._subscriptions = [
            node.create_subscription(String, f"{of}/result", self._take, DEPTH),
            *(
                node.create_subscription(
                    Float32MultiArray, f"{of}/output/{name}", self.outputs[name].append, DEPTH
                )
                for name in ("used", "mix")
            ),
            node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, DEPTH),
        ]

    def matched(self):
        """Whether each has a publisher."""
        return all(each.get_publisher_count() for each in self._subscriptions)

    def _take(self, message):
        self.results.append(json.loads(message.data))
        if self.on_result is not None:
            self.on_result(self.results[-1])

    def _hear(self, message):
        for status in message.status:
            self.found[status.name] = status

    def status(self, part):
        """The newest status of the stream or of a modality; None: none came."""
        return self.found.get(f"{self._of}: {part}")

    def level(self, part):
        """Its level; None: none came."""
        status = self.status(part)
        return None if status is None else status.level

    def message(self, part):
        """Its message; empty: none came."""
        status = self.status(part)
        return "" if status is None else status.message

    def values(self, part):
        """All its values by key."""
        return {pair.key: pair.value for pair in self.status(part).values}

    def value(self, part, key):
        """A value of it, as text."""
        status = self.status(part)
        if status is None:
            return None
        return next((pair.value for pair in status.values if pair.key == key), None)
