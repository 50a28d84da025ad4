"""The table of loops beside their peers, from benchmarks/results/generate.json."""

from __future__ import annotations

from benchmark_tables import load


def loops() -> str:
    """Loops that generate beside peers on the same weights."""
    data = load("generate.json")
    device = data["device"]
    lines = [
        (
            f"Batch 1, greedy, {device['cores']} cores of {device['cpu']}, {data['date']}; medians "
            "over rounds in turn, each engine alone in a process (`benchmarks/generate.py`). "
            "Ratios are mmedge's time over the engine's, round by round, with quartiles: below 1 "
            "mmedge is faster."
        ),
        "",
        (
            "| network | threads | engine | first token | between tokens | whole run "
            "| mmedge / engine: first | between | whole run |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        # What was measured on another day, or another machine.
        origin = {row.get("date"), row.get("cpu")} - {data["date"], device["cpu"], None}
        what = f"{row['network']}, {row['tokens']} tokens"
        if origin:
            what += f" ({', '.join(sorted(origin))})"
        for engine in row["engines"]:
            name = engine["engine"]
            marks = ""
            if not engine["same_tokens"]:
                share = engine.get("equal_share")  # results of before have none
                same = "" if share is None else f", {share:.0%} the same"
                marks = f" (other tokens from {engine['differs_at']}{same})"
            cells = [
                "-" if (figure := engine[key]) is None else f"{figure['median']:.2f} ms"
                for key in ("first_ms", "between_ms", "total_ms")
            ]
            shares = row["ratios"].get(name, {})
            cells += [
                "-"
                if (share := shares.get(key)) is None
                else f"{share['median']:.2f} [{share['low']:.2f}, {share['high']:.2f}]"
                for key in ("first_ms", "between_ms", "total_ms")
            ]
            lines.append(f"| {what} | {row['threads']} | {name}{marks} | {' | '.join(cells)} |")
    lines += [
        "",
        (
            "| network | threads | floor of a token | floor / mmedge's time between tokens "
            "| first token, everything cached | cold / cached |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        ours = next(engine for engine in row["engines"] if engine["engine"] == "mmedge")
        between, first = ours["between_ms"]["median"], ours["first_ms"]["median"]
        cached = row["first_cached_ms"]["median"]
        lines.append(
            f"| {row['network']} | {row['threads']} | {row['floor_ms']:.2f} ms: "
            f"{row['step_bytes'] / 2**20:.0f} MiB at {row['bytes_per_s'] / 1e9:.1f} GB/s "
            f"| {row['floor_ms'] / between:.0%} | {cached:.2f} ms | {first / cached:.0f} |"
        )
    missing = {
        f"{name} ({row['network']}, {row['threads']} threads): {why}"
        for row in data["rows"]
        for name, why in row["left_out"].items()
    }
    if missing:
        lines += ["", *(f"- Left out: {text}." for text in sorted(missing))]
    return "\n".join(lines)
