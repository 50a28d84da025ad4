"""What a ROS 2 node accounts for and costs, from benchmarks/results/ros2.json."""

from __future__ import annotations

from benchmark_tables import load

__all__ = ["ros2"]

#: Modalities of the run, and how often they come.
SENSORS = {"camera": "camera, 30 Hz", "lidar": "lidar, 10 Hz", "arm": "joint states, 100 Hz"}


def ros2() -> str:
    """The account of each sensor, latencies with and without ROS, and conversions."""
    if not (data := load("ros2.json", missing={})):
        return "No results yet: run `make ros2-bench`."
    run, bare = data["run"], data["bare_stream"]
    faults = len(run["faults"])
    lines = [
        (
            f"{data['seconds']:.0f} s on {data['cores']} cores, load of the machine before "
            f"{data['load_before']:.1f} (`make ros2-bench`, {data['date']}):"
        ),
        "",
        "| sensor | published | received | lost | used | dropped | pending |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, words in SENSORS.items():
        values = run["diagnostics"][name]
        reasons = [
            f"{count} {key.removeprefix('dropped: ')}"
            for key, count in values.items()
            if key.startswith("dropped: ")
        ]
        dropped = f"{values['dropped']} ({', '.join(reasons)})" if reasons else values["dropped"]
        cells = [
            words, run["published"][name], values["received"], values["lost"], values["used"],
            dropped, values["pending"],
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    memory = run["resident_mib"]
    lines += [
        "",
        (
            f"{run['results']} results, each held against what was sent; counts that do not add "
            f"up, and results that are not of the samples that they name: {faults}. Memory of the "
            f"node {memory['first']:.0f} MiB at the beginning, {memory['last']:.0f} MiB at the end."
        ),
        "",
        "| | p50 | p95 | p99 |",
        "|---|---|---|---|",
    ]
    for words, times in (
        ("the stream alone, from a push to its result", bare["latency_ms"]),
        ("the node, from a message's stamp to its result", run["latency_ms"]),
        ("the node added", data["added_ms"]),
        ("from a message's stamp to the listener of results", run["publish_to_listener_ms"]),
    ):
        cells = [f"{times[key]:.2f} ms" for key in ("p50", "p95", "p99")]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    lines += ["", "| conversion | median |", "|---|---|"]
    for words, milliseconds in data["conversions"].items():
        time = f"{milliseconds:.2f} ms" if milliseconds >= 0.1 else f"{1e3 * milliseconds:.1f} us"
        lines.append(f"| {words} | {time} |")
    return "\n".join(lines)
