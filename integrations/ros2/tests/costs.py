"""What a message costs to convert, and a stream with nothing of ROS around it."""

from __future__ import annotations

import array
import io
import time
from threading import Thread

import numpy as np
from make_numbers import JOINTS, camera, joints, points
from PIL import Image as Picture
from rclpy.serialization import deserialize_message, serialize_message
from robot_run import quantiles
from sensor_msgs.msg import CompressedImage, Image, Imu, LaserScan
from std_msgs.msg import Int16MultiArray

import mmedge
from mmedge.recording.ros import Converter, Topic
from mmedge.spec import Dimension, Manifest, Modality, Stage, TensorSpec

HEIGHT, WIDTH = 1080, 1920


def bare_stream(bundle, span):
    """The same samples at the same rates, pushed by one thread of this process."""
    rates = {"camera": 30.0, "lidar": 10.0, "arm": 100.0}
    makers = {"camera": camera, "lidar": points, "arm": joints}
    latencies = []
    with mmedge.load(bundle, plan="cut", threads=1) as pipe:
        manifest = pipe.bundle.manifest
        topics = {
            "camera": Topic(topic="/c"),
            "lidar": Topic(topic="/l", fields=("x", "y", "z")),
            "arm": Topic(topic="/a", joints=JOINTS),
        }
        kinds = {"camera": "Image", "lidar": "PointCloud2", "arm": "JointState"}
        converters = {
            name: Converter(manifest, name, topic, f"sensor_msgs/msg/{kinds[name]}")
            for name, topic in topics.items()
        }
        with pipe.stream(trigger="camera", clock=time.time) as stream:
            counts = dict.fromkeys(rates, 0)
            begun = time.monotonic()

            def feed():
                while True:
                    name = min(rates, key=lambda each: counts[each] / rates[each])
                    due = begun + counts[name] / rates[name]
                    if due - begun >= span:
                        return
                    time.sleep(max(due - time.monotonic(), 0.0))
                    # What a publisher and DDS do lies outside: the stamp is that of the push.
                    value = converters[name](makers[name](counts[name]))
                    stream.push(name, value, time.time(), copy=False)
                    counts[name] += 1

            thread = Thread(target=feed)
            thread.start()
            while thread.is_alive():
                try:
                    result = stream.result(timeout=0.2)
                except TimeoutError:
                    continue
                if result.fresh:
                    latencies.append(1e3 * result.latency)
            thread.join()
    return {"seconds": span, "results": len(latencies), "latency_ms": quantiles(latencies)}


def manifest_of(dtype, shape):
    spec = TensorSpec("x", dtype, shape)
    names = {size for size in shape if isinstance(size, str)}
    stage = Stage("fusion", "onnx/f.onnx", (spec,), (TensorSpec("y", "float32", (1,)),))
    return Manifest(
        name="cost", modalities=(Modality("m", ("x",)),), stages=(stage,), outputs=("y",),
        variants=(), files={}, dimensions={n: Dimension(1, 1, 1 << 20) for n in names},
    )  # fmt: skip


def conversions():
    """Milliseconds of each conversion, median of 30, of messages as DDS brings them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    depth = rng.integers(0, 8000, (HEIGHT, WIDTH), np.uint16)
    jpeg = io.BytesIO()
    Picture.fromarray(np.kron(pixels[:135, :240], np.ones((8, 8, 1), np.uint8))).save(jpeg, "JPEG")

    def frame(encoding, values):
        return Image(
            height=HEIGHT, width=WIDTH, encoding=encoding, step=values.nbytes // HEIGHT,
            data=array.array("B", values.tobytes()),
        )  # fmt: skip

    scan = LaserScan(ranges=array.array("f", rng.random(1440, np.float32).tobytes()))
    sound = Int16MultiArray(
        data=array.array("h", rng.integers(-999, 999, 1600, np.int16).tobytes())
    )
    hwc, chw = ("uint8", (1, HEIGHT, WIDTH, 3)), ("uint8", (1, 3, HEIGHT, WIDTH))
    cases = {
        "Image 1080p rgb8": (frame("rgb8", pixels), *hwc, {}),
        "Image 1080p bgr8": (frame("bgr8", pixels), *hwc, {}),
        "Image 1080p rgb8 to channels first": (frame("rgb8", pixels), *chw, {}),
        "Image 1080p rgb8 to float32, scaled": (
            frame("rgb8", pixels), "float32", chw[1], {"scale": 1 / 255},
        ),
        "Image 1080p 16UC1 to float32, scaled": (
            frame("16UC1", depth), "float32", (1, HEIGHT, WIDTH), {"scale": 0.001},
        ),
        "CompressedImage 1080p JPEG": (
            CompressedImage(format="jpeg", data=array.array("B", jpeg.getvalue())), *hwc, {},
        ),
        "PointCloud2 100,000 points, x y z": (
            points(1, count=100_000), "float32", (1, "n", 3), {"fields": ("x", "y", "z")},
        ),
        "LaserScan 1,440 rays": (scan, "float32", (1, "n"), {}),
        "Imu": (Imu(), "float32", (1, 6), {}),
        "JointState 6 joints": (joints(1), "float32", (1, 6), {"joints": JOINTS}),
        "Int16MultiArray 1,600 samples": (sound, "float32", (1, "n"), {"scale": 1 / 32768}),
    }  # fmt: skip
    found = {}
    for name, (message, dtype, shape, options) in cases.items():
        kind = type(message)
        taken = deserialize_message(serialize_message(message), kind)
        package = kind.__module__.split(".")[0]
        convert = Converter(
            manifest_of(dtype, shape), "m", Topic(topic="/t", **options),
            f"{package}/msg/{kind.__name__}",
        )  # fmt: skip
        times = []
        for _ in range(33):
            begun = time.perf_counter()
            convert(taken)
            times.append(1e3 * (time.perf_counter() - begun))
        found[name] = float(np.median(times[3:]))
    return found
