"""``mmedge replay`` of a flight recorder's dump: what happened, and whether it comes out again."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from typer import Exit

from mmedge.bundle import Bundle
from mmedge.cli.console import emit_json, say, stdout, table, warn
from mmedge.loader import load
from mmedge.recording.flight.history import happenings
from mmedge.recording.flight.reader import FlightDump
from mmedge.recording.flight.replay import replay_dump

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge.recording.flight.comparison import DumpComparison

__all__ = ["compare_dump"]

#: Lines of what happened, and of results that differ, that are printed.
MOST_LINES = 40


def compare_dump(bundle: str, path: Path, *, threads: int | None, as_json: bool) -> None:
    """Print what a dump says, run it again, and print what differs; exit with 1 if anything does.

    Args:
        bundle: what was recorded.
        path: of the dump.
        threads: as for :func:`mmedge.load`; None: as it was recorded.
        as_json: print JSON instead.

    Raises:
        InputError: it is no dump, or of another bundle.
    """
    dump = FlightDump.open(path)
    comparison = _compare_all(bundle, dump, threads)
    if as_json:
        emit_json(
            {
                "dump": path.name,
                **{k: v for k, v in dump.header.items() if k != "modalities"},
                "triggers_meanwhile": list(dump.meanwhile),
                "happenings": [asdict(happening) for happening in happenings(dump)],
                "replay": {
                    "method": comparison.method,
                    "compared": comparison.compared,
                    "remarks": list(comparison.remarks),
                    "counts": comparison.counts,
                    "results": [asdict(result) for result in comparison.results],
                },
            }
        )
    else:
        _print_dump(dump)
        _print_comparison(comparison)
    if not comparison.is_equal:
        raise Exit(1)


def _compare_all(bundle: str, dump: FlightDump, threads: int | None) -> DumpComparison:
    """Compare the results of each variant of this bundle that ran, one variant after another."""
    networks = dump.header["networks"]
    with Bundle.open(bundle) as opened:
        of_bundle = [n for n in networks if n["digest"] == opened.digest]
        variants = {network["variant"]: network for network in of_bundle}
        comparisons = []
        # Of another bundle, the replay says what it expects.
        for variant, network in variants.items() or ((None, networks[-1]),):
            # Its outputs are compared below, bit for bit.
            with load(
                opened, variant, threads=threads or network["threads"], allow_unverified=True
            ) as pipe:
                comparisons.append(replay_dump(pipe, dump))
    results = [
        next((r for r in each if r.outcome != "not_reproducible"), each[-1])
        for each in zip(*(comparison.results for comparison in comparisons), strict=True)
    ]
    remarks = dict.fromkeys(r for comparison in comparisons for r in comparison.remarks)
    return replace(comparisons[-1], results=tuple(results), remarks=tuple(remarks))


def _print_dump(dump: FlightDump) -> None:
    header = dump.header
    end = header["t"]
    for trigger in header["triggers"]:
        say(f"{trigger['kind']} at {trigger['t'] - end:+.3f} s: {trigger['message']}", stdout())
    for trigger in dump.meanwhile:
        say(f"while it was written: {trigger['kind']}: {trigger['message']}", stdout())
    for kind, count in header["held_off"].items():
        say(f"since the dump before it, {count} triggers made none: {kind}", stdout())
    say(
        f"{header['kept_seconds']:.4g} of {header['seconds']:g} s, "
        f"{header['kept_bytes'] / 2**20:.3g} of {header['memory_bytes'] / 2**20:.3g} MiB; "
        "times are seconds before its end",
        stdout(),
    )
    for kind, count in header["evicted_for_bytes"].items():
        warn(f"{count} records ({kind}) had to go for bytes before their time", stdout())
    if dump.missing:
        warn(dump.missing, stdout())
    rows: list[tuple[object, ...]] = []
    for modality in header["modalities"]:
        samples = [s for s in dump.samples.values() if s.modality == modality]
        faults = Counter(s.fault for s in samples if s.fault)
        rows.append(
            (
                modality,
                sum(not s.held for s in samples),
                sum(s.held for s in samples),
                ", ".join(f"{count} {fault}" for fault, count in faults.items()),
                sum(s.value is None for s in samples) or "",
            )
        )
    columns = ("modality", "samples", "from before", "dropped at once", "not kept")
    table(f"{dump.path.name}, {_machine(dump)}", columns, rows)
    lines = [
        (f"{h.begin - end:.3f}", _until(h.is_open, h.end - end, h.count), str(h))
        for h in happenings(dump)
    ]
    if lines:
        table("what happened", ("from", "to", "what"), lines[-MOST_LINES:])
    if len(lines) > MOST_LINES:
        say(f"{len(lines) - MOST_LINES} more before these; --json has all", stdout())


def _until(is_open: bool, end: float, count: int) -> str:  # noqa: FBT001
    if not count:
        return ""
    return "the end" if is_open else f"{end:.3f}"


def _machine(dump: FlightDump) -> str:
    """The hottest zone, the slowest clock and the memory, over all samples of the machine."""
    states = dump.machine
    if not states:
        return "state of the machine not recorded"
    date = datetime.fromtimestamp(states[-1]["unix_ns"] / 1e9, UTC)
    words = [f"{date:%Y-%m-%d %H:%M:%S} UTC"]
    temperatures = [t for state in states for t in (state["temperature_c"] or {}).values()]
    if temperatures:
        words.append(f"up to {max(temperatures):.0f} °C")
    clocks = [state["frequency_mhz"]["min"] for state in states if state["frequency_mhz"]]
    if clocks:
        words.append(f"cores at {min(clocks):.0f} MHz or more")
    memory = [state["resident_bytes"] for state in states if state["resident_bytes"]]
    if memory:
        words.append(f"{max(memory) / 2**20:.0f} MiB")
    cooling: set[str] = {name for state in states for name in state["cooling"]}
    words += [f"slowed by {name}" for name in sorted(cooling)]
    return ", ".join(words)


def _print_comparison(comparison: DumpComparison) -> None:
    words: dict[str, Any] = {
        "equal": "equal",
        "different": "DIFFERENT",
        "not_computed": "not computed (repeated, or without outputs)",
        "not_reproducible": "not reproducible",
    }
    counts = comparison.counts
    rows = [(text, counts[outcome]) for outcome, text in words.items() if outcome in counts]
    table(f"replayed by {comparison.method}", ("results", "count"), rows)
    say(comparison.compared, stdout())
    for remark in comparison.remarks:
        warn(remark, stdout())
    bad = [r for r in comparison.results if r.outcome in ("different", "not_reproducible")]
    if bad:
        table(
            "not equal",
            ("result", "t", "what"),
            [(r.number, f"{r.t:.6f}", "; ".join(r.words)) for r in bad[:MOST_LINES]],
        )
    if len(bad) > MOST_LINES:
        say(f"{len(bad) - MOST_LINES} more; --json has all", stdout())
