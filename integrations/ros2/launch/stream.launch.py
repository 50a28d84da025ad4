"""Starts the node with a parameter file, and brings it to active.

ros2 launch mmedge_ros stream.launch.py parameters:=robot.yaml
"""

from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """What ros2 launch runs."""
    example = PathJoinSubstitution([FindPackageShare("mmedge_ros"), "config", "robot.yaml"])
    node = LifecycleNode(
        package="mmedge_ros",
        executable="stream_node",
        name=LaunchConfiguration("name"),
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("parameters"), {"autostart": True}],
        output="screen",
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("name", default_value="mmedge"),
            DeclareLaunchArgument("namespace", default_value=""),
            DeclareLaunchArgument("parameters", default_value=example),
            node,
        ]
    )
