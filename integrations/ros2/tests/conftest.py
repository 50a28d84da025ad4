"""A network of this run alone, a bundle, and nodes that spin in threads."""

from __future__ import annotations

import os
import threading

import pytest
from network import only_loopback
from robot import BUNDLE, PARAMETERS


def pytest_sessionstart(session):
    if fault := only_loopback():
        pytest.exit(fault, 3)
    if not BUNDLE.exists():
        pytest.exit(f"{BUNDLE} is not there; run `make ros2`", 3)


@pytest.fixture(scope="session", autouse=True)
def ros(tmp_path_factory):
    import rclpy

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
