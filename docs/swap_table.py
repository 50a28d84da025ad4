"""Table of what a swap costs a running stream, from benchmarks/results/swap.json."""

from __future__ import annotations

from benchmark_tables import load

__all__ = ["swap"]


def swap() -> str:
    """Latency of results by what the swap is at, against blocks without one; time and memory."""
    data = load("swap.json")
    others = data["others_share"]
    lines = [
        (
            f"Measured on {data['device']['cores']} cores of {data['device']['cpu']}, "
            f"{data['date']}, load average before {data['device']['load_average'][0]:.2f}, other "
            "processes had "
            + ("an unknown share" if others is None else f"{100 * others:.0f} %")
            + f" of the cores' time. {data['rounds']} swaps of `{data['network']}` at "
            f"{data['rate_hz']:g} pictures a second, each beside a block without one; 95 % "
            "intervals in brackets (`benchmarks/swap.py`):"
        ),
        "",
        "| results while | results | median | against none | 99 % | against none | worst |",
        "|---|---|---|---|---|---|---|",
    ]
    names = {
        "loading": "the new bundle is loaded and verified",
        "shadow": "the new network runs in the shadow",
        "handover": "what is held is encoded anew",
        "first": "the first of the new network",
        "probation": "it is in probation",
    }
    plain = data["states"][0]
    lines.append(
        f"| no swap goes on | {data['plain_results']} | {plain['p50']['plain_ms']:.2f} ms | "
        f"| {plain['p99']['plain_ms']:.2f} ms | | {data['plain_worst_ms']:.1f} ms |"
    )
    for row in data["states"]:
        cells = [names[row["state"]], f"{row['results']}"]
        for q in ("p50", "p99"):
            low, high = row[q]["ratio_95"]
            cells += [
                f"{row[q]['ms']:.2f} ms",
                f"{row[q]['ratio']:.3f} [{low:.3f}, {high:.3f}]",
            ]
        lines.append("| " + " | ".join([*cells, f"{row['worst_ms']:.1f} ms"]) + " |")
    memory = data["resident_mib"]
    lines += [
        "",
        (
            f"`stream.swap` itself returned after {data['call_ms']:.2f} ms, and a swap took "
            f"{data['swap_s']:.1f} s with its probation (medians). {data['skipped']} live results "
            f"were not computed in the shadow, and {data['waited']} switches had a result wait. "
            f"Resident memory: {memory['first']:.0f} MiB before the first swap, "
            f"{memory['both']:.0f} MiB with both networks, {memory['after']:.0f} MiB a second "
            "after a swap (medians); from after the first swap to after the last but one it "
            f"changed by {data['resident_growth_mib']:.1f} MiB."
        ),
    ]
    return "\n".join(lines)
