"""``mmedge record``: a recording without sensors, to replay and to see how one is made."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmedge.bundle import Bundle
from mmedge.cli.console import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    emit_json,
    phases,
    say,
    warn,
)
from mmedge.cli.output import check_new, finite
from mmedge.cli.topics import ParametersOption, TopicOption, bag_topics
from mmedge.cli.trust import TrustOptions
from mmedge.loader import load
from mmedge.recording import Golden, Recorder, RecordingStream
from mmedge.recording.pace import Pace, pace
from mmedge.recording.ros import Bag, write_bag
from mmedge.recording.sample import Recorded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.recording.ros import Topic

__all__ = ["record"]

#: Pushes between two words of progress.
TELL_EVERY = 20


def record(
    bundle: BundleArgument,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A new folder, or a new .mcap file.")
    ],
    seconds: Annotated[float, typer.Option(help="How long.", min=0.001, callback=finite)] = 10.0,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="modality=Hz, in place of the bundle's nominal rate. Repeatable."),
    ] = None,
    from_samples: Annotated[
        bool,
        typer.Option(
            "--from-samples",
            help="Write nominal arrivals at once; no stream is run and no time passes.",
        ),
    ] = False,
    from_bag: Annotated[
        Path | None,
        typer.Option(
            help="Write what a ROS 2 bag holds in place of golden samples; needs --topic or "
            "--ros-parameters."
        ),
    ] = None,
    topic: TopicOption = None,
    ros_parameters: ParametersOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    trust: TrustOptions,
) -> None:
    """Record golden samples that are pushed to a stream in real time, at each modality's rate."""
    rates = dict(_rate(word) for word in rate or ())
    check_new(output, overwrite=None)
    paced: Pace | None = None
    topics = bag_topics(topic, ros_parameters)
    if bool(topics) != (from_bag is not None) or (topics and (rates or from_samples)):
        raise typer.BadParameter(
            "--from-bag goes with --topic or --ros-parameters, and not with --rate or "
            "--from-samples"
        )
    if from_bag is not None:
        _convert(bundle, from_bag, topics, output, trust, as_json=as_json)
        return
    if from_samples:
        with Bundle.open(bundle, **trust.keywords()) as opened:
            golden = Golden(opened, seconds=seconds, rates=rates)
            with Recorder(output, opened) as recorder:
                for sample in golden:
                    recorder.record(
                        sample.modality,
                        sample.value,
                        sample.t,
                        sample.arrival,
                        copy=False,
                        wait=True,
                    )
    else:
        with load(
            bundle, backend=backend, precision=precision, device=device, threads=threads,
            **trust.keywords(),
        ) as pipe:  # fmt: skip
            # What comes first in the manifest sets the pace of results, which nobody looks at.
            trigger = pipe.bundle.manifest.modalities[0].name
            golden = Golden(pipe.bundle, seconds=seconds, rates=rates, last=trigger)
            with (
                Recorder(output, pipe.bundle) as recorder,
                recorder.attach(pipe.stream(trigger=trigger)) as stream,
            ):
                paced = _drive(golden, stream, round(sum(golden.rates.values()) * seconds))
    for why, count in recorder.lost.items():
        warn(f"{count} samples not recorded ({why})")
    if as_json:
        emit_json(
            {
                "path": str(output),
                "seconds": seconds,
                "rates_hz": dict(golden.rates),
                "samples": recorder.count,
                "not_recorded": dict(recorder.lost),
                "pushed_late": None if paced is None else paced.late,
                "latest_push_ms": None if paced is None else paced.latest_ms,
            }
        )
        return
    say(f"wrote {output}: {recorder.count} samples")


def _convert(
    bundle: str,
    bag: Path,
    topics: Mapping[str, Topic],
    output: Path,
    trust: TrustOptions,
    *,
    as_json: bool,
) -> None:
    """Write a ROS 2 bag as a recording, with its times in seconds since 1970."""
    with Bundle.open(bundle, **trust.keywords()) as opened:
        source = Bag(bag, opened, topics)
        written = write_bag(source, opened.manifest, output)
    for modality, notes in source.notes.items():
        say(f"{modality}: {'; '.join(notes)}")
    if as_json:
        emit_json(
            {
                "path": str(output),
                "bag": str(bag),
                "seconds": written.seconds,
                "samples": written.samples,
                "changed": {name: list(notes) for name, notes in source.notes.items()},
            }
        )
        return
    say(f"wrote {output}: {written.samples} samples over {written.seconds:.4g} s")


def _drive(golden: Golden, stream: RecordingStream, total: int) -> Pace:
    pushed = 0
    with phases() as tell:

        def push(sample: Recorded, _due: float, stamp: float) -> None:
            nonlocal pushed
            stream.push(sample.modality, sample.value, stamp, copy=False)
            pushed += 1
            if pushed % TELL_EVERY == 0:
                tell("record", min(pushed, total), total)

        pace_report = pace(golden, push, stop=threading.Event())
    if pace_report.late:
        warn(
            f"{pace_report.late} of {pace_report.pushed} pushes came over 1 ms late, the latest by "
            f"{pace_report.latest_ms:.3g} ms; arrivals are recorded as they were"
        )
    return pace_report


def _rate(word: str) -> tuple[str, float]:
    name, _, text = word.partition("=")
    try:
        hz = float(text)
    except ValueError:
        hz = 0.0
    if not 0 < hz < float("inf"):
        raise typer.BadParameter(
            f"expected modality=Hz, such as camera=30; got {word!r}", param_hint="--rate"
        )
    return name, hz
