"""Sensors of a robot, as a process of their own: camera 30 Hz, lidar 10 Hz, joint states 100 Hz.

Each message holds its number. What was published goes to a file: stamps in ns, by modality.

    python sensors.py SECONDS FILE READERS
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import rclpy
from make_numbers import camera, joints, points
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image, JointState, PointCloud2

RATES = {"camera": 30.0, "lidar": 10.0, "arm": 100.0}
TYPES = {"camera": Image, "lidar": PointCloud2, "arm": JointState}
TOPICS = {"camera": "/camera/image_raw", "lidar": "/points", "arm": "/joint_states"}
MAKERS = {"camera": camera, "lidar": points, "arm": joints}
#: Messages that a publisher keeps for a reader that has not answered.
DEPTH = 100


def run(seconds, file, readers):
    rclpy.init()
    node = rclpy.create_node("sensors")
    profile = QoSProfile(depth=DEPTH, reliability=QoSReliabilityPolicy.RELIABLE)
    publishers = {
        name: node.create_publisher(kind, TOPICS[name], profile) for name, kind in TYPES.items()
    }
    until = time.monotonic() + 60.0
    while any(each.get_subscription_count() < readers for each in publishers.values()):
        assert time.monotonic() < until, "nobody subscribes"
        time.sleep(0.05)
    # Readers have found the writers by now, and not only the other way round.
    time.sleep(1.0)
    sent = {name: [] for name in RATES}
    late = 0.0
    begun = time.monotonic()
    while True:
        name = min(RATES, key=lambda each: len(sent[each]) / RATES[each])
        due = begun + len(sent[name]) / RATES[name]
        if due - begun >= seconds:
            break
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        late = max(late, -wait)
        stamp = node.get_clock().now()
        message = MAKERS[name](len(sent[name]))
        message.header.stamp = stamp.to_msg()
        publishers[name].publish(message)
        sent[name].append(stamp.nanoseconds)
    # What is on its way is still asked for again.
    time.sleep(1.0)
    Path(file).write_text(json.dumps({"sent": sent, "latest_ms": 1e3 * late}))
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("file")
    parser.add_argument("readers", type=int, help="subscriptions of each topic to wait for")
    words = parser.parse_args()
    run(words.seconds, words.file, words.readers)
