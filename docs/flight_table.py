"""Table of what a flight recorder costs, from benchmarks/results/flight_recorder.json."""

from __future__ import annotations

from benchmark_tables import load

__all__ = ["flight_recorder"]


def flight_recorder() -> str:
    """Latency with and without a recorder, while it writes, memory and processor time."""
    data = load("flight_recorder.json")
    lines = [
        (
            f"Measured on {data['device']['cores']} cores of {data['device']['cpu']}, "
            f"{data['date']}, load average before {data['device']['load_average'][0]:.2f}; 95 % "
            "intervals in brackets; two streams in one process take turns step by step, one of "
            "them with a recorder, whose window is full. A step is three pushes of states, one of "
            "a picture, and the wait for its result (`benchmarks/flight_recorder.py`):"
        ),
        "",
        "| network | steps | figure | without | with | ratio | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    figures = {
        "result_p50": "result, median",
        "result_p99": "result, 99 %",
        "push_p50": "push of a picture, median",
        "step_p50": "whole step, median",
    }
    for row in data["networks"]:
        ways = {
            "real_time": f"{row['processor']['rate_hz']:g} a second",
            "back_to_back": "without pause",
        }
        for way, words in ways.items():
            for key, name in figures.items():
                figure = row[way][key]
                low, high = figure["ratio_95"]
                least, most = figure["difference_us_95"]
                lines.append(
                    f"| {row['network']} | {words} | {name} | {figure['plain_us']:.1f} us "
                    f"| {figure['recorded_us']:.1f} us | {figure['ratio']:.3f} [{low:.3f}, "
                    f"{high:.3f}] | {figure['difference_us']:.1f} us [{least:.1f}, {most:.1f}] |"
                )
    lines.append("")
    for row in data["networks"]:
        writing, processor, collector = row["writing"], row["processor"], row["collector"]
        memory = "; ".join(
            f"{part['pushed']}: {part['traced_growth'] / 2**20:.1f} MiB asked for, "
            f"{part['resident_growth'] / 2**20:.1f} MiB resident, of "
            f"{part['memory_bytes'] / 2**20:.0f}"
            for part in row["memory"]
        )
        others = row["others_share"]
        lines.append(
            f"- `{row['network']}`: while {writing['bytes'] / 2**20:.0f} MiB were written in "
            f"{writing['seconds']:.2f} s, results took {writing['p50_us'] / 1e3:.2f} ms (median), "
            f"{writing['p99_us'] / 1e3:.2f} ms (99 %), {writing['worst_us'] / 1e3:.1f} ms at most; "
            f"to hand over {writing['records']} records took {writing['cut_us']:.0f} us. "
            f"Processor time at {processor['rate_hz']:g} pictures a second: "
            f"{100 * processor['plain_share']:.2f} % of a core without, "
            f"{100 * processor['recorded_share']:.2f} % with. Longest garbage collection "
            f"{collector['plain']['longest_ms']:.2f} ms without, "
            f"{collector['recorded']['longest_ms']:.2f} ms with. Memory, five times the limit "
            f"pushed: {memory}. Other processes had "
            + ("an unknown share" if others is None else f"{100 * others:.0f} %")
            + " of the cores' time."
        )
    return "\n".join(lines)
