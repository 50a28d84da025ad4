"""Messages of ROS as rosbags has them, written to bytes and read again, and a bundle for them."""

from __future__ import annotations

import pytest

pytest.importorskip("rosbags.typesys", reason="needs the extra ros (rosbags)")

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mmedge.recording.ros import Converter, Topic
from mmedge.spec import Dimension, Manifest, Modality, TensorSpec, Tokenizer

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types


def sent(message, big=False):
    """The message as a subscriber gets it: through its bytes."""
    kind = message.__msgtype__
    data = STORE.serialize_cdr(message, kind, little_endian=not big)
    return STORE.deserialize_cdr(bytes(data), kind)


def header(stamp=1.5, frame="x"):
    sec = int(stamp)
    time = T["builtin_interfaces/msg/Time"](sec=sec, nanosec=round((stamp - sec) * 1e9))
    return T["std_msgs/msg/Header"](stamp=time, frame_id=frame)


def image(pixels, encoding, *, padding=0, big=False, stamp=1.5):
    """An Image of an array [h, w] or [h, w, c], whose rows are followed by so many bytes."""
    pixels = np.asarray(pixels)
    height, width = pixels.shape[:2]
    kind = pixels.dtype.newbyteorder(">" if big else "<")
    rows = np.ascontiguousarray(pixels, kind).view(np.uint8).reshape(height, -1)
    data = np.concatenate([rows, np.full((height, padding), 77, np.uint8)], axis=1)
    return T["sensor_msgs/msg/Image"](
        header=header(stamp), height=height, width=width, encoding=encoding, is_bigendian=int(big),
        step=data.shape[1], data=data.reshape(-1),
    )  # fmt: skip


def compressed(data, form="png"):
    return T["sensor_msgs/msg/CompressedImage"](
        header=header(), format=form, data=np.frombuffer(data, np.uint8)
    )


KINDS = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


def cloud(fields, *, height=1, padding=0, big=False, step=None, stamp=1.5):
    """A PointCloud2 of arrays by field name, all of the same length."""
    order = ">" if big else "<"
    kinds = [(name, values.dtype.newbyteorder(order).str) for name, values in fields.items()]
    dtype = np.dtype(kinds)
    step = step or dtype.itemsize
    offsets = [dtype.fields[name][1] for name in fields]
    wide = np.dtype(
        {"names": list(fields), "formats": [k for _, k in kinds], "offsets": offsets,
         "itemsize": step}
    )  # fmt: skip
    size = len(next(iter(fields.values())))
    points = np.zeros(size, wide)
    for name, values in fields.items():
        points[name] = values
    width = size // height
    rows = points.view(np.uint8).reshape(height, width * step)
    data = np.concatenate([rows, np.full((height, padding), 7, np.uint8)], axis=1)
    return T["sensor_msgs/msg/PointCloud2"](
        header=header(stamp), height=height, width=width,
        fields=[
            T["sensor_msgs/msg/PointField"](
                name=name, offset=at, datatype=KINDS[values.dtype.str[1:]], count=1
            )
            for at, (name, values) in zip(offsets, fields.items(), strict=True)
        ],
        is_bigendian=big, point_step=step, row_step=data.shape[1], data=data.reshape(-1),
        is_dense=True,
    )  # fmt: skip


def scan(ranges, intensities=(), stamp=1.5):
    return T["sensor_msgs/msg/LaserScan"](
        header=header(stamp), angle_min=0.0, angle_max=1.0, angle_increment=0.1,
        time_increment=0.0, scan_time=0.1, range_min=0.1, range_max=30.0,
        ranges=np.asarray(ranges, np.float32), intensities=np.asarray(intensities, np.float32),
    )  # fmt: skip


def imu(quaternion, turn, push, *, has_orientation=True):
    vector = T["geometry_msgs/msg/Vector3"]
    nine = np.zeros(9)
    return T["sensor_msgs/msg/Imu"](
        header=header(),
        orientation=T["geometry_msgs/msg/Quaternion"](*quaternion),
        orientation_covariance=nine if has_orientation else np.array([-1.0, *nine[1:]]),
        angular_velocity=vector(*turn), angular_velocity_covariance=nine,
        linear_acceleration=vector(*push), linear_acceleration_covariance=nine,
    )  # fmt: skip


def joints(names, position, velocity=(), effort=(), stamp=1.5):
    return T["sensor_msgs/msg/JointState"](
        header=header(stamp), name=list(names), position=np.asarray(position, np.float64),
        velocity=np.asarray(velocity, np.float64), effort=np.asarray(effort, np.float64),
    )  # fmt: skip


def numbers(name, values, shape=(), offset=0):
    dims = [T["std_msgs/msg/MultiArrayDimension"](label="", size=size, stride=0) for size in shape]
    layout = T["std_msgs/msg/MultiArrayLayout"](dim=dims, data_offset=offset)
    return T[f"std_msgs/msg/{name}MultiArray"](layout=layout, data=np.asarray(values))


def text(words):
    return T["std_msgs/msg/String"](data=words)


def one_input(dtype, shape, *, tokenizer=None):
    """A manifest of one modality ``m`` with one input; names in ``shape`` are dynamic."""
    names = {size for size in shape if isinstance(size, str)}
    return Manifest(
        name="one",
        modalities=(Modality("m", ("x",), tokenizer=tokenizer),),
        stages=(stage("x", dtype, shape),),
        outputs=("y",),
        variants=(),
        files={},
        dimensions={name: Dimension(1, 4, 4096) for name in names},
    )


def stage(name, dtype, shape):
    from mmedge.spec import Stage

    out = TensorSpec("y", "float32", (1,))
    return Stage("fusion", "onnx/f.onnx", (TensorSpec(name, dtype, tuple(shape)),), (out,))


def converter(message, dtype, shape, **options):
    """A converter for messages of this type, to an input of this dtype and shape."""
    tokenizer = options.pop("tokenizer", None)
    manifest = one_input(dtype, shape, tokenizer=tokenizer)
    return Converter(manifest, "m", Topic(topic="/t", **options), message.__msgtype__)


TOKENIZER = Tokenizer("assets/text.json", "ids", "mask")


def write_bag(path, items, *, storage="mcap", mode=None):
    """A bag of (topic, receive time in seconds, message)."""
    plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
    writer = Writer(path, version=9, storage_plugin=plugin)
    if mode is not None:
        writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, received, message in items:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            data = STORE.serialize_cdr(message, kind)
            writer.write(connections[topic], round(received * 1e9), bytes(data))
    return path
