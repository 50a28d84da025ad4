"""``mmedge bench``: measure a bundle on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmedge.bench.measure import CALLS, WARMUP
from mmedge.bench.measure import bench as measure
from mmedge.bench.report import Report
from mmedge.cli.console import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    number,
    phases,
    stderr,
    table,
    write_file,
)

__all__ = ["bench"]

FIGURES = ("mean", "p50", "p90", "p99", "p99_9", "max")


def bench(
    bundle: BundleArgument,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the report as JSON.")
    ] = None,
    calls: Annotated[int, typer.Option(help="Timed calls.", min=1)] = CALLS,
    warmup: Annotated[int, typer.Option(help="Untimed calls before them.", min=0)] = WARMUP,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time calls in a closed loop, after checking that they compute the right thing."""
    with phases() as tell:
        report = measure(
            bundle,
            backend,
            precision,
            device,
            threads=threads,
            calls=calls,
            warmup=warmup,
            progress=tell,
        )
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        _show(report)
    if output is not None:  # printed first: a measurement is not lost when the disk refuses
        write_file(output, report.to_json().encode())


def _show(report: Report) -> None:
    title = (
        f"{report.bundle['name']} on {report.device['name']}: {report.variant}, "
        f"{report.load['calls']} calls, closed loop, latency in ms"
    )
    rows = [("end to end", *(number(report.latency_ms[key]) for key in FIGURES))]
    rows += [
        (name, *(number(part[key]) for key in FIGURES)) for name, part in report.stages.items()
    ]
    table(title, ("part", *FIGURES), rows)
    table(
        "this machine",
        ("figure", "value"),
        [
            ("throughput", number(report.throughput_hz, "Hz")),
            ("first call", number(report.first_call_ms, "ms")),
            ("cold start", number(report.cold_start_ms, "ms")),
            *(
                (f"  {name}", number(value, "ms"))
                for name, value in report.cold_start_parts_ms.items()
            ),
            ("peak memory", f"{report.peak_memory_bytes / 2**20:.1f} MiB"),
            *((f"attention in {stage}", found) for stage, found in report.attention.items()),
            ("cores, threads", f"{report.device['cores']}, {report.load['threads'] or 'default'}"),
        ],
    )
    if report.latency_ms["p99_9"] is None:
        stderr().print(
            f"- : {report.load['calls']} calls are too few for that percentile", markup=False
        )
