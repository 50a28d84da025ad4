"""Table of requests to Triton beside local calls, for ``docs/generate.py``."""

from __future__ import annotations

from native_tables import load, unmeasured

__all__ = ["triton_latency"]


def triton_latency() -> str:
    """What a request costs beside a call."""
    data = load("serve_triton")
    if data is None:
        return unmeasured("serve_triton")
    device, server = data["device"], data["server"]
    lines = [
        (
            f"One request at a time over the loopback, one thread, {device['cores']} cores of "
            f"{device['cpu']}, tritonserver {server['tritonserver']}, onnxruntime "
            f"{device['libraries']['onnxruntime']}, {data['date']}, load of the machine before "
            f"{device['load_average'][0]:.1f} and at the end {data['load_at_end'][0]:.1f} "
            f"(`benchmarks/serve_triton.py`). {data['calls']:,} calls of each way, in turn by "
            "blocks; nothing is cached; 95 % intervals in brackets:"
        ),
        "",
        "| bundle | bytes in, out | way | p50 | p90 | p99 | p50 against local | more than local |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"].values():
        for way, words in (("local", "local call"), ("http", "HTTP"), ("grpc", "gRPC")):
            found = row["ways"][way]
            times = [f"{1000 * found[key]:.0f} us" for key in ("p50", "p90", "p99")]
            more = ["-", "-"]
            if way != "local":
                low, high = (1000 * limit for limit in found["more_ms_95"])
                more = [
                    "{:.2f} [{:.2f}, {:.2f}]".format(found["ratio"], *found["ratio_95"]),
                    f"{1000 * found['more_ms']:.0f} us [{low:.0f}, {high:.0f}]",
                ]
            size = f"{row['bytes_in']:,}, {row['bytes_out']:,}"
            lines.append(f"| {' | '.join((row['network'], size, words, *times, *more))} |")
    return "\n".join(lines)
