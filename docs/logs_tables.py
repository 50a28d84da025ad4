"""Tables of logs at scale, for ``docs/generate.py``."""

from __future__ import annotations

import statistics
from typing import Any

from native_tables import load, unmeasured

__all__ = ["logs_fleet", "logs_hour", "logs_ray"]

#: Hours of logs, and cores and nodes, of the estimate.
HOURS, CORES = 10_000, (16, 256, 1024)
#: US dollars that the estimate assumes for a core-hour, and for a month of a GB in object storage.
CORE_HOUR, GB_MONTH = 0.04, 0.023


def logs_hour() -> str:
    """Bytes and seconds of an hour of a recording, by part."""
    data = load("logs")
    if data is None:
        return unmeasured("logs")
    hour, read, recording = data["hour"], data["read"], data["recording"]
    scale = 3600.0 / recording["seconds"]
    seconds = {name: value * scale for name, value in hour["seconds"].items()}
    size, written = (hour[name] * scale / 1e9 for name in ("read_bytes", "written_bytes"))
    network = data["network"]["network_seconds"] * _parts(data)
    rows = [
        ("read from this machine's disk, nothing in memory", read["disk"] * scale, size),
        ("read from memory", read["memory"] * scale, size),
        ("digest of the files (SHA-256)", seconds["digest"], size),
        ("read from memory and decode: digests of the chunks, arrays", seconds["read"], size),
        ("the network", network, None),
        (
            "the stream (alignment, checks, hashes) and rows of results",
            seconds["run"] - network,
            None,
        ),
        ("write Parquet", seconds["write"], written),
        ("**all, in one process**", sum(seconds.values()), None),
    ]
    rates = ", ".join(
        f"{name} {rate:g} Hz {_shape(recording['shapes'][name])}"
        for name, rate in recording["rates_hz"].items()
    )
    scaled = "" if scale == 1 else f"; {recording['seconds']:g} s were measured, scaled up"
    jpeg = data["decode_jpeg"]
    frames = recording["rates_hz"]["camera"] * 3600
    memory = data["memory"]
    return "\n".join(
        [
            (
                f"An hour of {rates} ({size:.2f} GB; {hour['rows'] * scale:,.0f} results), "
                f"{_machine(data)} (`benchmarks/logs.py`{scaled}):"
            ),
            "",
            "| part | s | GB |",
            "|---|---|---|",
            *(
                f"| {what} | {value:.1f} | {'' if gigabytes is None else f'{gigabytes:.3f}'} |"
                for what, value, gigabytes in rows
            ),
            "",
            (
                "A recording of mmedge holds arrays. Had the frames been stored as JPEG (quality "
                f"{jpeg['quality']}, {jpeg['bytes']:.0f} bytes each), decoding them would take "
                f"{jpeg['us'] * frames / 1e6:.0f} s more ({jpeg['us']:.0f} us a frame, Pillow), "
                f"and {frames * jpeg['bytes'] / 1e9:.2f} GB would be read. Most memory: "
                f"{memory['part_bytes'] / 1e6:.0f} MB for {memory['part_seconds']:g} s of "
                f"recording, {memory['hour_bytes'] / 1e6:.0f} MB for {recording['seconds']:g} s."
            ),
        ]
    )


def logs_ray() -> str:
    """Ray beside one process on the measuring machine."""
    data = load("logs")
    if data is None:
        return unmeasured("logs")
    ray = data["ray"]
    walls = {name: statistics.median(each) for name, each in ray["wall_seconds"].items()}
    hours = ray["recordings"] * ray["recording_seconds"] / 3600
    titles = {
        "local": "this process, without Ray",
        "actors_1": "one actor of Ray",
        "actors_2": "two actors of Ray",
    }
    return "\n".join(
        [
            (
                f"{ray['recordings']} recordings of {ray['recording_seconds']:g} s each, "
                f"{_machine(data)}; medians of {len(ray['wall_seconds']['local'])} runs, ranges in "
                "brackets. Results were equal to the last bit. Starting Ray took "
                f"{ray['start_seconds']:.1f} s more, once:"
            ),
            "",
            "| | s | hours of logs in an hour |",
            "|---|---|---|",
            *(
                f"| {titles[name]} | {wall:.1f} "
                f"[{min(ray['wall_seconds'][name]):.1f}, {max(ray['wall_seconds'][name]):.1f}] | "
                f"{hours / wall * 3600:.0f} |"
                for name, wall in walls.items()
            ),
        ]
    )


def logs_fleet() -> str:
    """What 10,000 hours of such logs would take, from the figures of one hour."""
    data = load("logs")
    if data is None:
        return unmeasured("logs")
    scale = 3600.0 / data["recording"]["seconds"]
    seconds = {name: value * scale for name, value in data["hour"]["seconds"].items()}
    core_seconds = sum(seconds.values())
    read, written = (
        HOURS * data["hour"][name] * scale / 1e12 for name in ("read_bytes", "written_bytes")
    )
    core_hours = HOURS * core_seconds / 3600
    network = data["network"]["network_seconds"] * _parts(data)
    rows = [
        ("core-hours", f"{core_hours:,.0f}"),
        ("of them the network alone", f"{HOURS * network / 3600:,.0f}"),
        ("read, TB", f"{read:.1f}"),
        ("written, TB", f"{written:.2f}"),
    ]
    for cores in CORES:
        hours = core_hours / cores
        # A recording is read once for its digest and once to be played; the second comes from
        # memory where the node has room for it.
        rows.append(
            (
                f"on {cores:,} such cores: hours; storage has to give, GB/s",
                f"{hours:,.1f}; {read * 1e3 / (hours * 3600):.2f}",
            )
        )
    rows += [
        (f"cost of the cores, at ${CORE_HOUR} a core-hour", f"${core_hours * CORE_HOUR:,.0f}"),
        (
            f"cost of keeping the results a month, at ${GB_MONTH} a GB",
            f"${written * 1e3 * GB_MONTH:,.0f}",
        ),
        ("cost of keeping the logs a month", f"${read * 1e3 * GB_MONTH:,.0f}"),
    ]
    return "\n".join(
        [
            f"| {HOURS:,} hours of such logs | calculated, not measured |",
            "|---|---|",
            *(f"| {what} | {value} |" for what, value in rows),
        ]
    )


def _parts(data: dict[str, Any]) -> float:
    """How many of the short recording, on which the network was timed, are in an hour."""
    return 3600.0 / float(data["memory"]["part_seconds"])


def _shape(shapes: list[list[int | str]]) -> str:
    return " and ".join("x".join(map(str, shape[1:])) or "scalar" for shape in shapes)


def _machine(data: dict[str, Any]) -> str:
    device = data["device"]
    versions = ", ".join(f"{name} {version}" for name, version in device["libraries"].items())
    return (
        f"one thread, {device['cores']} cores of {device['cpu']}, {versions}, {data['date']}, load "
        f"of the machine at the end {device['load_average'][0]:.1f}"
    )
