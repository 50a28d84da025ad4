"""A run over real DDS: sensors, the node and this listener are processes of their own.

Every sample is accounted for: published = received by the node or reported lost; received = used,
dropped for one reason, or pending; and each result is held against what was sent.

    python robot_run.py --seconds 600 --output benchmarks/results/ros2.json

The command also measures what conversions cost, and the stream without ROS around it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rclpy
from network import only_loopback
from rclpy.executors import SingleThreadedExecutor
from robot import BUNDLE, ROOT, Ears, wait_for

from mmedge.recording.ros import seconds

HERE = Path(__file__).parent
MODALITIES = ("camera", "lidar", "arm")
#: A result's number of a modality's sample is that element of the output ``used``.
COLUMNS = {"camera": 0, "lidar": 1, "arm": 2}

PARAMETERS = """\
mmedge:
  ros__parameters:
    bundle: {bundle}
    trigger: camera
    autostart: true
    threads: 1
    modalities:
      camera:
        topic: /camera/image_raw
        type: sensor_msgs/msg/Image
        reliability: reliable
        depth: 30
      lidar:
        topic: /points
        type: sensor_msgs/msg/PointCloud2
        fields: [x, "y", z]
        reliability: reliable
      arm:
        topic: /joint_states
        type: sensor_msgs/msg/JointState
        joints: [base, shoulder, elbow, wrist_1, wrist_2, wrist_3]
        reliability: reliable
        depth: 100
"""


@contextmanager
def node_process(folder, bundle=BUNDLE):
    """The node as ``ros2 run`` starts it; killed at the end."""
    parameters = Path(folder, "robot.yaml")
    parameters.write_text(PARAMETERS.format(bundle=bundle))
    command = [Path(sys.prefix, "bin", "mmedge-ros"), "--ros-args", "--params-file", parameters]
    with Path(folder, "node.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def sensors_process(folder, span, readers=1):
    """Sensors that publish for so many seconds, once each has so many subscriptions."""
    file = Path(folder, "sent.json")
    command = [sys.executable, HERE / "sensors.py", str(span), file, str(readers)]
    return file, subprocess.Popen(command)


@contextmanager
def listening():
    """A node of this process, spun in a thread, and its ears."""
    node = rclpy.create_node("listener")
    ears = Ears(node)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield node, ears
    finally:
        executor.shutdown()
        thread.join(10.0)
        node.destroy_node()


def wait_until_active(ears, process):
    """Wait until the node says that it runs, and not where it has ended."""

    def active():
        assert process.poll() is None, f"the node ended: {process.returncode}; see node.log"
        return "results" in (ears.values("stream") if ears.status("stream") else ())

    wait_for(active, "an active node", 60.0)


def counted(ears, part, key):
    """A counter of the newest diagnostics; -1: none came."""
    value = ears.value(part, key)
    return -1 if value in (None, "") else int(value)


def account(ears, sent, *, whole=True):
    """What does not add up, of the newest diagnostics; empty when all does.

    ``whole``: the node listened from the first message on.
    """
    faults = []
    for name in MODALITIES:
        values = ears.values(name)
        count = {
            key: int(values[key] or 0)
            for key in (
                "received", "lost", "first_number", "unfit", "errors", "pushed", "used", "dropped",
                "pending",
            )
        }  # fmt: skip
        before = count["first_number"] - 1
        if whole and before:
            faults.append(f"{name}: the first message has number {count['first_number']}")
        if before + count["received"] + count["lost"] != len(sent[name]):
            faults.append(f"{name}: {len(sent[name])} published, {count}")
        if count["received"] != count["pushed"] + count["unfit"] + count["errors"]:
            faults.append(f"{name}: received is not pushed, unfit or in error: {count}")
        if count["pushed"] != count["used"] + count["dropped"] + count["pending"]:
            faults.append(f"{name}: pushed is not used, dropped or pending: {count}")
        reasons = sum(int(v) for k, v in values.items() if k.startswith("dropped: "))
        if reasons != count["dropped"]:
            faults.append(f"{name}: {count['dropped']} dropped, {reasons} by reason")
    return faults


def match(results, sent):
    """What in results is not as it was sent; empty when each is."""
    numbers = {
        name: {seconds(*divmod(stamp, 10**9)): k for k, stamp in enumerate(sent[name])}
        for name in MODALITIES
    }
    faults = []
    triggers = []
    for line in results:
        if not line["fresh"]:
            continue
        used = line["outputs"]["used"]["values"]
        for name in MODALITIES:
            said = line["modalities"][name]
            if not said["samples"]:
                if not said.get("absent") or used[COLUMNS[name]] != 0.0:
                    faults.append(f"{name} at {line['t']}: nothing used, {used}")
                continue
            number = numbers[name].get(said["stamp"])
            if number is None or used[COLUMNS[name]] != number:
                faults.append(
                    f"{name} at {line['t']}: {said['stamp']} was sent as {number}, used {used}"
                )
        triggers.append(line["t"])
        if line["modalities"]["camera"]["stamp"] != line["t"]:
            faults.append(f"a result at {line['t']} of another picture")
    if triggers != sorted(set(triggers)):
        faults.append("results are not in order, each trigger once")
    return faults


def run_robot(folder, span, listen=None):
    """Run sensors and node for so many seconds; what came of it, and what was wrong.

    ``listen``: called with this process's node before the sensors start.
    """
    heard = {}
    with listening() as (node, ears), node_process(folder) as process:
        wait_until_active(ears, process)
        wait_for(ears.matched, "publishers")
        if listen is not None:
            listen(node)
        arrivals = []
        ears.on_result = lambda line: arrivals.append(node.get_clock().now().nanoseconds)
        memory = [resident_mib(process.pid)]
        file, sensors = sensors_process(folder, span, 1 if listen is None else 2)
        while sensors.poll() is None:
            time.sleep(1.0)
            memory.append(resident_mib(process.pid))
        assert sensors.returncode == 0
        told = json.loads(file.read_text())
        sent = told["sent"]

        def settled():
            return all(
                counted(ears, name, "first_number") - 1 + counted(ears, name, "received")
                + counted(ears, name, "lost") == len(sent[name])
                and counted(ears, name, "pending") >= 0
                for name in MODALITIES
            ) and counted(ears, "stream", "published") == len(ears.results)  # fmt: skip

        # Diagnostics come each second.
        try:
            wait_for(settled, "the last messages", 15.0)
        except AssertionError:
            heard["unsettled"] = True
        alive = process.poll() is None
        faults = account(ears, sent) + match(ears.results, sent)
        if not alive:
            faults.append(f"the node ended: {process.returncode}")
        if counted(ears, "stream", "published") != len(ears.results):
            faults.append(
                f"{counted(ears, 'stream', 'published')} results published, "
                f"{len(ears.results)} heard"
            )
        fresh = [line for line in ears.results if line["fresh"]]
        end_to_end = [
            arrival / 1e9 - line["t"]
            for arrival, line in zip(arrivals, ears.results, strict=False)
            if line["fresh"]
        ]
        heard |= {
            "sent": sent,
            "results": list(ears.results),
            "published": {name: len(stamps) for name, stamps in sent.items()},
            "latest_publish_ms": told["latest_ms"],
            "diagnostics": {part: ears.values(part) for part in ("stream", *MODALITIES)},
            "latency_ms": quantiles([1e3 * line["latency"] for line in fresh]),
            "publish_to_listener_ms": quantiles([1e3 * each for each in end_to_end]),
            "resident_mib": {"first": memory[0], "last": memory[-1], "most": max(memory)},
            "faults": faults,
        }
    return heard


def resident_mib(process):
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def quantiles(values):
    """Median, 95 % and 99 % quantiles, and the most."""
    if not values:
        return None
    found = np.quantile(values, [0.5, 0.95, 0.99, 1.0])
    return dict(zip(("p50", "p95", "p99", "most"), map(float, found), strict=True))


def main():
    """Run, measure, write, and end with 1 where something was wrong."""
    from costs import bare_stream, conversions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "ros2" / "run")
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    if fault := only_loopback():
        raise SystemExit(fault)
    os.environ["ROS_LOG_DIR"] = str(words.folder / "log")
    load = os.getloadavg()[0]
    rclpy.init()
    run = run_robot(words.folder, words.seconds)
    rclpy.shutdown()
    for name in ("sent", "results"):
        run[name] = len(run[name])
    run.pop("sent")
    bare = bare_stream(BUNDLE, min(words.seconds, 60.0))
    result = {
        "what": "a mmedge node over DDS: camera 30 Hz, lidar 10 Hz, joint states 100 Hz, each "
        "sample accounted for; the stream alone; conversions of messages",
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "load_before": load,
        "seconds": words.seconds,
        "run": run,
        "bare_stream": bare,
        "added_ms": {
            key: run["latency_ms"][key] - bare["latency_ms"][key] for key in ("p50", "p95", "p99")
        },
        "conversions": conversions(),
    }
    words.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {words.output}: {json.dumps(result['added_ms'])}")
    if run["faults"]:
        raise SystemExit("\n".join(["this is wrong:", *run["faults"]]))


if __name__ == "__main__":
    main()
