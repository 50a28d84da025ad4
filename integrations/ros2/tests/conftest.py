"""A network of this run alone, a bundle, and nodes that spin in threads."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
#: Made by make_bundle.py, as `make ros2` does.
BUNDLE = ROOT / "build" / "ros2" / "robot.mmedge"

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def pytest_sessionstart(session):
    # Fast DDS binds every address, whatever it is told: so that nobody else hears or speaks, the
    # tests run in a network namespace that has nothing but a loopback.
    names = [name for _, name in socket.if_nameindex()]
    if names != ["lo"]:
        pytest.exit(f"these tests want no network but lo, there are {names}; run `make ros2`", 3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        (_, flags) = struct.unpack("16sh14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
    if not BUNDLE.exists():
        pytest.exit(f"{BUNDLE} is not there; run `make ros2`", 3)


@pytest.fixture(scope="session", autouse=True)
def ros(tmp_path_factory):
    import rclpy

    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("log"))
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def spin():
    """Spins nodes in a thread each, and destroys them at the end."""
    from rclpy.executors import SingleThreadedExecutor

    spinning = []

    def begin(node):
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()
        spinning.append((node, executor, thread))
        return node

    yield begin
    for node, executor, thread in reversed(spinning):
        executor.shutdown()
        thread.join(10.0)
        node.destroy_node()


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


@pytest.fixture
def make_node(spin):
    """Makes a node with these parameters beside the usual ones; None leaves one out."""
    from rclpy.parameter import Parameter

    from mmedge_ros.node import StreamNode

    def make(name="mmedge", **changes):
        values = PARAMETERS | {key.replace("__", "."): each for key, each in changes.items()}
        overrides = [Parameter(key, value=each) for key, each in values.items() if each is not None]
        return spin(StreamNode(name, parameter_overrides=overrides))

    return make


@pytest.fixture
def helper(spin):
    """A node that publishes and listens."""
    import rclpy

    return spin(rclpy.create_node("helper"))
