"""Messages that hold a number, as the network of make_bundle.py finds it."""

from __future__ import annotations

import array

import numpy as np
from sensor_msgs.msg import Image, JointState, PointCloud2, PointField

HEIGHT, WIDTH, POINTS = 48, 64, 256
JOINTS = ("base", "shoulder", "elbow", "wrist_1", "wrist_2", "wrist_3")
RNG = np.random.default_rng(4)
#: Noise of which each message has another part.
PIXELS = RNG.integers(0, 256, 2 * HEIGHT * WIDTH * 3, np.uint8)
SPOTS = RNG.random((2 * POINTS, 2), np.float32)


def camera(number):
    size = HEIGHT * WIDTH * 3
    start = number * 37 % size
    pixels = PIXELS[start : start + size].copy()
    pixels[:3] = [number & 255, number >> 8 & 255, number >> 16 & 255]
    return Image(
        height=HEIGHT, width=WIDTH, encoding="rgb8", step=WIDTH * 3,
        data=array.array("B", pixels.tobytes()),
    )  # fmt: skip


def points(number, *, count=POINTS):
    start = number * 5 % POINTS
    cloud = np.empty((count, 4), np.float32)
    cloud[:, 0] = number
    cloud[:, 1:3] = np.resize(SPOTS[start:], (count, 2))
    cloud[:, 3] = 0.5  # intensity, which the network does not take
    return PointCloud2(
        height=1, width=count, point_step=16, row_step=16 * count, is_dense=True,
        fields=[
            PointField(name=name, offset=4 * k, datatype=PointField.FLOAT32, count=1)
            for k, name in enumerate(("x", "y", "z", "intensity"))
        ],
        data=array.array("B", cloud.tobytes()),
    )  # fmt: skip


def joints(number):
    # Not in the network's order.
    position = [float(number), *(np.sin(number * np.arange(1, 6)) * 0.5)]
    names = JOINTS[::-1]
    return JointState(name=list(names), position=position[::-1])
