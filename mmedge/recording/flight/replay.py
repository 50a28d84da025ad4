"""Runs a dump again and compares its results to those recorded, bit for bit.

A stream on a simulated clock depends on nothing but what was pushed when. If a dump has all of
that, the whole run is made again, and everything that results say is compared.

What a live stream chose depends also on how long its threads took. But each result says which
samples it used, and the dump has these, the states that encoders and fusion began with, and what
stood in. So each result is computed again of the same, whatever the time; what is compared then is
what was computed of them: outputs, ages, and failures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.backends.registry import probe
from mmedge.device import cpu_model
from mmedge.errors import InputError
from mmedge.recording.flight.comparison import ComparedResult, DumpComparison
from mmedge.recording.flight.each_result import compare_each_result
from mmedge.recording.flight.reader import DumpSample
from mmedge.recording.flight.whole_run import compare_whole_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.pipeline import Pipeline
    from mmedge.recording.flight.reader import FlightDump

__all__ = ["check_network", "replay_dump"]

WHOLE_RUN = (
    "Compared bit for bit: outputs, times, ages, samples, absent modalities, notes, reasons and "
    "drops of each result. Not compared: the drops of the first result after forget or reset, "
    "which depend on what the application had fetched."
)
EACH_RESULT = (
    "Compared bit for bit: outputs of each result, computed again of the samples and states that "
    "it used{ages}, and whether it failed. Not compared: what depends on how long threads took: "
    "times, latency, which samples were chosen or dropped, why a modality was absent, and notes."
)


def replay_dump(pipe: Pipeline, dump: FlightDump) -> DumpComparison:
    """Run a dump again on the bundle that was recorded, and compare.

    Args:
        pipe: the same variant of the same bundle, with as many threads.
        dump: from :meth:`mmedge.recording.flight.reader.FlightDump.open`.

    Raises:
        InputError: it is of another bundle or variant; or its options are not of this version.
    """
    header = dump.header
    check_network(pipe, dump)
    pipe.use_plan(pipe.bundle.manifest.stream_plan(pipe.variant))
    is_simulated = header["clock"]["kind"] == "simulated"
    has_values = all(
        sample.value is not None for sample in dump.samples.values() if not sample.held
    )
    compared: list[ComparedResult]
    # What a swap does beside the stream is not in the dump, nor a choice of variants.
    is_plain = not any(event.kind.startswith(("swap", "variant")) for event in dump.events)
    is_whole = header["is_whole"] and has_values and is_plain and not dump.missing
    if is_simulated and is_whole:
        compared = compare_whole_run(pipe, dump)
        return DumpComparison("whole run", WHOLE_RUN, tuple(compared), _remarks(pipe, dump))
    # A clock that may be set has times that are not those that ages were computed of.
    has_ages = header["clock"]["kind"] in ("simulated", "monotonic")
    compared = compare_each_result(pipe, dump, has_ages=has_ages)
    ages = ", their ages (but of windows)" if has_ages else ""
    return DumpComparison(
        "each result", EACH_RESULT.format(ages=ages), tuple(compared), _remarks(pipe, dump)
    )


def check_network(pipe: Pipeline, dump: FlightDump) -> None:
    """Make sure that a dump has results of this bundle and variant.

    Raises:
        InputError: it has none.
    """
    digest, variant = pipe.bundle.digest, pipe.variant.id
    networks = dump.header["networks"]
    if any(n["digest"] == digest and n["variant"] == variant for n in networks):
        return
    expected = "; ".join(
        f"bundle {n['bundle']!r} of digest {n['digest']}, variant {n['variant']}" for n in networks
    )
    raise InputError(
        f"{dump.path}: results of {expected}; got bundle {pipe.bundle.manifest.name!r} of digest "
        f"{digest}, variant {variant}. Load what was recorded, or replay the samples alone with "
        "--trigger"
    )


def _remarks(pipe: Pipeline, dump: FlightDump) -> tuple[str, ...]:
    """What may explain differences."""
    remarks = []
    recorded: Mapping[str, Any] = dump.header["device"]
    libraries = dict(probe().libraries)
    if recorded["cpu"] != cpu_model():
        remarks.append(f"recorded on {recorded['cpu']}, replayed on {cpu_model()}")
    for name, version in recorded["libraries"].items():
        if libraries.get(name) != version:
            now = libraries.get(name, "none")
            remarks.append(f"recorded with {name} {version}, replayed with {now}")
    threads = {n["threads"] for n in dump.header["networks"]}
    if threads != {pipe.threads}:
        remarks.append(
            f"recorded with {', '.join(map(str, threads))} threads, replayed with {pipe.threads}"
        )
    lost = [s for s in dump.samples.values() if isinstance(s, DumpSample) and s.missing]
    if lost:
        remarks.append(f"{len(lost)} samples were not kept, the first because {lost[0].missing}")
    if dump.missing:
        remarks.append(dump.missing)
    return tuple(remarks)
