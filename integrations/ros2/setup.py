"""What colcon installs beside the package, where ROS looks for it; pyproject.toml has the rest."""

from setuptools import setup

SHARE = "share/mmedge_ros"
setup(
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/mmedge_ros"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/launch", ["launch/stream.launch.py"]),
        (f"{SHARE}/config", ["config/robot.yaml"]),
    ]
)
