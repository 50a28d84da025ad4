"""The table of a pipeline under a second load, for ``docs/generate.py``."""

from __future__ import annotations

from native_tables import load, unmeasured

__all__ = ["isolation", "isolation_weights"]


def isolation() -> str:
    """Latency alone and beside a second load, with cores and priority of its own."""
    data = load("isolation")
    if data is None:
        return unmeasured("isolation")
    device = data["device"]
    rows = []
    for name, figures in data["latency_ms"].items():
        columns = [
            f"{each['median']:.1f} [{each['range'][0]:.1f}, {each['range'][1]:.1f}]"
            for each in figures.values()
        ]
        rows.append(f"| {name} | {' | '.join(columns)} |")
    rows += [f"| {name} | not allowed here: {why} | | |" for name, why in data["refused"].items()]
    return "\n".join(
        [
            (
                f"The robot's network, {data['rate_hz']:g} calls a second, latency in ms from the "
                f"time at which a call was due; medians of {data['trials']} trials of "
                f"{data['calls']} calls, ranges in brackets. {device['cores']} cores of "
                f"{device['cpu']}, onnxruntime {device['onnxruntime']}, {data['date']}, load of "
                f"the machine at the end {device['load_average'][0]:.1f}, niceness of pipeline and "
                f"load {device['niceness']} where nothing else is said, a process of the load "
                "for each core (`benchmarks/isolation.py`):"
            ),
            "",
            "| | 50 % | 99 % | longest |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def isolation_weights() -> str:
    """What a second session on the same weights takes."""
    data = load("isolation")
    if data is None:
        return unmeasured("isolation")
    found = data["weights"]
    rows = []
    for kind, words in (
        ("packed", "packed when they are loaded, as mmedge loads them"),
        ("unpacked", "not packed (`session.disable_prepacking`)"),
    ):
        columns = [f"{size / 1e6:.0f}" for size in found["private_bytes"][kind]]
        columns += [f"{times[kind]:.2f}" for times in found["latency_ms"].values()]
        rows.append(f"| {words} | {' | '.join(columns)} |")
    calls = " | ".join(f"ms a call of {count} rows" for count in found["latency_ms"])
    return "\n".join(
        [
            (
                f"| linear layers, {found['file_bytes'] / 1e6:.0f} MB of weights in a file | "
                "private memory of the first session, MB | of the second, MB | "
                f"{calls} |"
            ),
            f"|---|---|---|{'---|' * len(found['latency_ms'])}",
            *rows,
        ]
    )
