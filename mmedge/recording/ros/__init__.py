"""ROS 2: messages become values of a modality, and bags recordings. Nothing here needs ROS.

====================================  ============================================================
:mod:`~mmedge.recording.ros.topics`   what a user says of a topic, in code or a parameter file
:mod:`~mmedge.recording.ros.convert`  a message to the value that a modality takes, by its type
:mod:`~mmedge.recording.ros.fit`      an array to the shape and dtype of an input
:mod:`~mmedge.recording.ros.images`   pictures: Image, CompressedImage
:mod:`~mmedge.recording.ros.points`   PointCloud2 and LaserScan
:mod:`~mmedge.recording.ros.vectors`  Imu, JointState, and arrays of std_msgs
:mod:`~mmedge.recording.ros.bag`      a bag as a recording (extra ``ros``)
:mod:`~mmedge.recording.ros.write`    a bag written as a recording of mmedge
====================================  ============================================================

Messages are taken as rclpy and as rosbags decode them.
"""

from __future__ import annotations

from mmedge.recording.ros.bag import Bag, say_changes
from mmedge.recording.ros.convert import TYPES, Converter, seconds
from mmedge.recording.ros.topics import Topic, policies, read_parameter_file, read_topics
from mmedge.recording.ros.write import Written, write_bag

__all__ = [
    "TYPES",
    "Bag",
    "Converter",
    "Topic",
    "Written",
    "policies",
    "read_parameter_file",
    "read_topics",
    "say_changes",
    "seconds",
    "write_bag",
]
