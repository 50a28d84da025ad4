"""``mmedge replay``: measure a stream of a bundle on this machine."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmedge.bench.replay import SECONDS, bench_stream
from mmedge.bench.result_lines import result_lines
from mmedge.cli.console import BundleArgument, emit, phases, say
from mmedge.cli.flight import compare_dump
from mmedge.cli.measure_options import SkipGapsOption, VariantOptions
from mmedge.cli.output import finite
from mmedge.cli.topics import ParametersOption, TopicOption, bag_topics
from mmedge.cli.trust import TrustOptions
from mmedge.loader import load
from mmedge.recording import open_recording
from mmedge.recording.flight.reader import is_dump
from mmedge.recording.ros import Bag, policies

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.recording.ros import Topic

__all__ = ["read_trigger_option", "replay"]

RecordingArgument = Annotated[
    Path | None,
    typer.Argument(
        help="What mmedge record or a Recorder wrote, or with --topic a ROS 2 bag; without it "
        "golden samples come at their nominal rates."
    ),
]
SecondsOption = Annotated[
    float | None,
    typer.Option(help=f"How long golden samples come; {SECONDS:g} s.", min=0.001, callback=finite),
]
TriggerOption = Annotated[
    str | None,
    typer.Option(
        help="What a result is made for: a modality, any, or a rate in Hz. Without it, the dump of "
        "a flight recorder is run again as it was recorded, and compared."
    ),
]
SimulatedOption = Annotated[
    bool,
    typer.Option(
        "--simulated",
        help="Play it on a simulated clock, on which stages take no time, and print each result as "
        "a line of JSON, as libmmedge's mmedge-replay does; nothing is measured.",
    ),
]


def replay(
    bundle: BundleArgument,
    recording: RecordingArgument = None,
    *,
    trigger: TriggerOption = None,
    topic: TopicOption = None,
    ros_parameters: ParametersOption = None,
    seconds: SecondsOption = None,
    skip_gaps: SkipGapsOption = None,
    simulated: SimulatedOption = False,
    options: VariantOptions,
    trust: TrustOptions,
) -> None:
    """Push a recording to a stream as it came, and measure the results: ages, drops, deadlines."""
    topics = bag_topics(topic, ros_parameters)
    if trigger is None:
        _compare(bundle, recording, options, seconds, simulated=simulated, topics=bool(topics))
        return
    if topics and recording is None:
        raise typer.BadParameter("--topic and --ros-parameters need a ROS 2 bag to replay")
    if simulated:
        _simulate(
            bundle, recording, topics, read_trigger_option(trigger), seconds, options, trust,
            skip_gaps=bool(skip_gaps),
        )  # fmt: skip
        return
    warmup = options.warmup_calls()
    options.check_files()
    background = options.background_load()
    if recording is not None and seconds is not None:
        raise typer.BadParameter(
            "--seconds cannot be given with a recording, which takes as long as it took"
        )
    if recording is None and skip_gaps is not None:
        raise typer.BadParameter(
            "--skip-gaps cannot be given without a recording: golden samples have no gaps"
        )
    trust.check(bundle)
    with options.reporting() as keep:
        with phases() as tell, background or nullcontext():
            report = bench_stream(
                bundle, options.backend, options.precision, options.device,
                trigger=read_trigger_option(trigger), recording=recording, topics=topics,
                seconds=seconds or SECONDS, deadline_ms=options.deadline, threads=options.threads,
                warmup=warmup, profiled=options.profile, progress=tell, skip_gaps=skip_gaps,
                say=say,
            )  # fmt: skip
        if background is not None:
            # There is no end between the stream and what follows it.
            words = f"{background.words}, and during the cold start and the profile"
            report = replace(report, load={**report.load, "interference": words})
        keep(report)


def _compare(
    bundle: str,
    recording: Path | None,
    options: VariantOptions,
    seconds: float | None,
    *,
    simulated: bool,
    topics: bool,
) -> None:
    """Without --trigger: the dump of a flight recorder, which says what triggered."""
    if recording is None or topics or not is_dump(recording):
        raise typer.BadParameter(
            "needed, but for the dump of a flight recorder", param_hint="--trigger"
        )
    measured = (options.output, options.html, options.interference, options.deadline, seconds)
    chosen = options.backend != "auto" or options.precision or options.device or simulated
    if chosen or any(each is not None for each in measured):
        raise typer.BadParameter(
            "a dump is replayed as it was recorded and compared; only --threads and --json can be "
            "given without --trigger"
        )
    compare_dump(bundle, recording, threads=options.threads, as_json=options.as_json)


def _simulate(
    bundle: str,
    recording: Path | None,
    topics: Mapping[str, Topic],
    trigger: str | float,
    seconds: float | None,
    options: VariantOptions,
    trust: TrustOptions,
    *,
    skip_gaps: bool,
) -> None:
    """Print the lines of a replay on a simulated clock."""
    measured = (options.output, options.html, options.interference, seconds)
    if options.as_json or options.warmup != "auto" or any(each is not None for each in measured):
        raise typer.BadParameter(
            "--simulated measures nothing: leave out --output, --html, --json, --warmup, "
            "--interference and --seconds"
        )
    if recording is None:
        raise typer.BadParameter("--simulated needs a recording")
    opened = None if topics else open_recording(recording)
    with load(
        bundle, backend=options.backend, precision=options.precision, device=options.device,
        threads=options.threads, **trust.keywords(),
    ) as pipe:  # fmt: skip
        for line in result_lines(
            pipe, opened or Bag(recording, pipe.bundle, topics), trigger=trigger,
            deadline_ms=options.deadline, align=policies(topics), skip_gaps=skip_gaps, say=say,
        ):  # fmt: skip
            emit(f"{line}\n")


def read_trigger_option(text: str) -> str | float:
    """What triggers, as it is given on the command line: a rate in Hz, or a name.

    Raises:
        BadParameter: a rate that is not above 0 and finite.
    """
    try:
        hz = float(text)
    except ValueError:
        return text
    if not 0 < hz < float("inf"):
        raise typer.BadParameter(
            f"expected a modality, any, or a rate above 0 Hz; got {text}", param_hint="--trigger"
        )
    return hz
