"""Table of `mmedge bench` beside MLPerf's loadgen, for ``docs/generate.py``."""

from __future__ import annotations

from typing import Any

from native_tables import load, unmeasured

__all__ = ["loadgen"]


def loadgen() -> str:
    """Both clocks on the same calls."""
    data = load("loadgen")
    if data is None:
        return unmeasured("loadgen")
    device = data["device"]
    lines = [
        (
            f"{data['network']}, batch 1 and {data['threads']} thread, {device['cores']} cores of "
            f"{device['cpu']}, onnxruntime {device['libraries']['onnxruntime']}, loadgen "
            f"{data['loadgen']}, {data['date']}, load of the machine before "
            f"{device['load_average'][0]:.1f} and at the end {data['load_at_end'][0]:.1f}"
            f"{', before all other processes (SCHED_FIFO)' if data['realtime'] else ''} "
            f"(`benchmarks/loadgen.py`). Medians over {data['rounds']} rounds of "
            f"{data['queries']:,} calls; ratios are loadgen's over `mmedge bench`'s, round by "
            "round, with 95 % intervals:"
        ),
        "",
        "| calls | | loadgen | `mmedge bench` | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, row in data["rows"].items():
        words = _words(name, row)
        for key in ("p50", "p90", "p99", "mean"):
            times = [f"{row['network'][tool][key]:.3f} ms" for tool in ("loadgen", "bench")]
            lines.append(f"| {' | '.join((words, key, *times, _ratio(row['ratio'][key])))} |")
        own = [f"{1e3 * row['empty'][tool]['p50']:.1f} us" for tool in ("loadgen", "bench")]
        if "fine" in row:
            own[0] += f" ({1e3 * row['fine']['loadgen']['p50']:.1f} us without timer slack)"
        lines.append(f"| {words} | p50 of a call that does nothing | {' | '.join(own)} | |")
        if row["rate_hz"] is None:
            inside = f"{row['inside_ms']:.3f} ms"
            ratio = _ratio(row["inside"])
            lines.append(
                f"| {words} | p50 of the calls alone, in loadgen's run | {inside} | | {ratio} |"
            )
        without = _ratio(row["without_own"])
        lines.append(f"| {words} | p50 less that of a call that does nothing | | | {without} |")
    apart = max(
        # Both are whole nanoseconds.
        round(abs(one["loadgen"] / one["bench"] - 1.0), 9)
        for row in data["rows"].values()
        for one in row["same_latencies"].values()
    )
    clocks = max(row["clocks_us"]["p98"] for row in data["rows"].values())
    most = max(row["clocks_us"]["max"] for row in data["rows"].values())
    lines += [
        "",
        (
            "Where both clocks time the same calls at once, they see the ends of 98 % of calls "
            f"within {clocks:.1f} us of each other, and of all within {most:.1f} us. Given the "
            "latencies of one run of loadgen, `mmedge bench`'s rule for percentiles gives "
            f"loadgen's p50, p90 and p99{f' within {100 * apart:.2g} %' if apart else ''}."
        ),
    ]
    return "\n".join(lines)


def _words(name: str, row: dict[str, Any]) -> str:
    if row["rate_hz"] is None:
        return "one after another"
    share = float(name.rpartition(" ")[2])
    return f"at random, {row['rate_hz']:g} a second, {100 * share:.0f} % of what one core does"


def _ratio(found: dict[str, Any]) -> str:
    low, high = found["ratio_95"]
    return f"{found['ratio']:.3f} [{low:.3f}, {high:.3f}]"
