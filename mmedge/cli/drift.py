"""``mmedge drift``: learn what is normal of recordings, and score a recording against it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from mmedge.bench.drift import learn_drift, play
from mmedge.cli.console import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    emit_json,
    number,
    say,
    table,
)
from mmedge.cli.output import check_file, finite
from mmedge.cli.replay import read_trigger_option
from mmedge.cli.trust import TrustOptions
from mmedge.drift import DriftProfile
from mmedge.loader import load
from mmedge.recording import open_recording
from mmedge.stream.observer import Event, Observer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge.stream.result import Result

__all__ = ["drift"]

RecordingsArgument = Annotated[
    list[Path],
    typer.Argument(
        help="Recordings: what mmedge record or a Recorder wrote. To learn of them, what sensors "
        "brought while all was well."
    ),
]


def drift(
    bundle: BundleArgument,
    recordings: RecordingsArgument,
    *,
    learn: Annotated[
        Path | None,
        typer.Option(help="Learn what is normal, and write the drift profile to this file."),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="Score the recordings against this drift profile."),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            help="With --learn: hours of normal operation in which one false alarm is expected, of "
            "all modalities together; 24.",
            min=0.001,
            callback=finite,
        ),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            help="With --learn: seconds over which looks are averaged; 2.5.",
            min=0.001,
            callback=finite,
        ),
    ] = None,
    trigger: Annotated[
        str | None,
        typer.Option(
            help="What starts a result: a modality, any, or a rate in Hz; the modality of the "
            "most samples. It decides which values are encoded."
        ),
    ] = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    trust: TrustOptions,
) -> None:
    """Learn what sensors and encoders bring when all is well, and score recordings against it."""
    if (learn is None) == (profile is None):
        raise typer.BadParameter("give --learn FILE or --profile FILE, one of them")
    if learn is None and (false_alarms is not None or window is not None):
        raise typer.BadParameter(
            "--false-alarms and --window are those of the profile; give them with --learn"
        )
    check_file(learn, "--learn")
    starts = None if trigger is None else read_trigger_option(trigger)
    scored_by = None if profile is None else DriftProfile.read(profile)
    opened = [open_recording(path) for path in recordings]
    with load(
        bundle, backend=backend, precision=precision, device=device, threads=threads,
        **trust.keywords(),
    ) as pipe:  # fmt: skip
        if learn is not None:
            learned = learn_drift(
                pipe, opened, trigger=starts, false_alarm_hours=false_alarms or 24.0,
                window_seconds=window or 2.5,
            )  # fmt: skip
            learned.write(learn)
            _tell_profile(learned, learn, as_json=as_json)
        elif scored_by is not None:
            summaries = []
            for recording in opened:
                scores = _Scores()
                for _ in play(pipe, recording, trigger=starts, drift=scored_by, observer=scores):
                    pass
                summaries.append(scores.summary(recording.name))
            _tell_scores(summaries, scored_by, as_json=as_json)


def _tell_profile(profile: DriftProfile, path: Path, *, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "path": str(path),
                "bundle": profile.bundle,
                "digest": profile.digest,
                "false_alarm_hours": profile.false_alarm_hours,
                "references": [
                    {
                        "modality": reference.modality,
                        "source": reference.source,
                        "tensors": [layout.tensor for layout in reference.layouts],
                        "statistics": len(reference.statistics()),
                        "window_s": reference.looks * reference.interval,
                        "seconds": reference.seconds,
                    }
                    for reference in profile.references
                ],
                "unwatched": dict(profile.unwatched),
            }
        )
        return
    table(
        f"{profile.bundle}: what is normal",
        ("modality", "of", "tensors", "statistics", "window s", "learned of s"),
        [
            (
                reference.modality,
                reference.source,
                ", ".join(f"{layout.tensor} ({layout.kind})" for layout in reference.layouts),
                str(len(reference.statistics())),
                number(reference.looks * reference.interval),
                number(reference.seconds),
            )
            for reference in profile.references
        ],
    )
    if profile.unwatched:
        table("not watched", ("what", "why"), list(profile.unwatched.items()))
    shortest = min(reference.seconds for reference in profile.references) / 3600.0
    say(
        f"wrote {path}: one false alarm in {profile.false_alarm_hours:g} h is expected, which is "
        f"extrapolated from {number(shortest)} h or more of each modality"
    )


class _Scores(Observer):
    """The scores of each result of a recording, and the events of drift."""

    def __init__(self) -> None:
        self._scores: dict[str, list[float]] = {}
        self._alarms: list[Event] = []
        self._results = 0

    def on_result(self, result: Result) -> None:
        """Take in its scores."""
        self._results += 1
        for name, score in result.drift.items():
            self._scores.setdefault(name, []).append(score)

    def on_event(self, event: Event) -> None:
        """Take in what tells of drift."""
        if event.kind.startswith("drift"):
            self._alarms.append(event)

    def summary(self, recording: str) -> dict[str, object]:
        """What is printed as JSON."""
        return {
            "recording": recording,
            "results": self._results,
            "modalities": {
                name: {
                    "scored": len(scores),
                    "median": float(np.median(scores)),
                    "p99": float(np.quantile(scores, 0.99)),
                    "max": max(scores),
                    "alarm_share": float(np.mean(np.array(scores) >= 1.0)),
                }
                for name, scores in self._scores.items()
            },
            "events": [
                {"kind": event.kind, "t": event.t, "message": event.message, **event.details}
                for event in self._alarms
            ],
        }


def _tell_scores(
    summaries: Sequence[dict[str, object]], profile: DriftProfile, *, as_json: bool
) -> None:
    if as_json:
        emit_json({"profile_of": profile.bundle, "recordings": summaries})
        return
    for summary in summaries:
        table(
            f"{summary['recording']}: drift at {summary['results']} results",
            ("modality", "median", "99 %", "highest", "alarm"),
            [
                (name, number(s["median"]), number(s["p99"]), number(s["max"]),
                 f"{s['alarm_share']:.1%}")
                for name, s in summary["modalities"].items()  # type: ignore[attr-defined]
            ],
        )  # fmt: skip
        for event in summary["events"]:  # type: ignore[attr-defined]
            say(f"{event['t']:.3f} s: {event['message']}")
        if not summary["modalities"]:
            say("no modality has a score: the recording is shorter than a window, or has gaps")
