"""``mmedge-ros``, and ``ros2 run mmedge_ros stream_node``: the node by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import TransitionCallbackReturn

from mmedge_ros.node import StreamNode

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(words: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop; 1 where ``autostart`` did not come to active."""
    rclpy.init(args=words)
    try:
        node = StreamNode()
        try:
            if node.get_parameter("autostart").value:
                done = node.trigger_configure()
                if done == TransitionCallbackReturn.SUCCESS:
                    done = node.trigger_activate()
                if done != TransitionCallbackReturn.SUCCESS:
                    return 1
            rclpy.spin(node)
        finally:
            node.destroy_node()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0
