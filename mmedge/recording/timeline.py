"""What a replay is in for: how long a recording is, and where nothing comes for long.

A recording of two drives has an hour in which nothing came, and one whose clock was set while it
ran has more; to replay it would be to wait for that long. So its times are read once before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmedge.errors import InputError
from mmedge.recording.golden import Golden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmedge.recording.sample import Recorded, Recording

__all__ = [
    "GAP",
    "Timeline",
    "WithoutGaps",
    "is_apart",
    "plan_replay",
    "read_timeline",
    "two_clocks",
]

#: Seconds without any sample that are a gap, and what is left of one that is skipped.
GAP, LEFT = 10.0, 1.0
#: Seconds between a stamp and its arrival that no sensor takes: they are of two clocks.
APART = 86_400.0


@dataclass(frozen=True, slots=True)
class Timeline:
    """When the samples of a recording arrived.

    Attributes:
        samples: how many there are.
        seconds: from the first arrival to the last.
        gaps: arrival before each gap, and its seconds.
    """

    samples: int
    seconds: float
    gaps: tuple[tuple[float, float], ...]

    @property
    def silent(self) -> float:
        """Seconds of all gaps together."""
        return sum(seconds for _, seconds in self.gaps)

    def __str__(self) -> str:
        gaps = f", of them {self.silent:.4g} s in {len(self.gaps)} gaps" if self.gaps else ""
        return f"{self.samples} samples over {self.seconds:.4g} s{gaps}"


def is_apart(sample: Recorded) -> bool:
    """Whether a stamp is so far from its arrival that they are of two clocks."""
    return abs(sample.arrival - sample.t) > APART


def two_clocks(name: str, sample: Recorded) -> InputError:
    """The error for a recording, all samples of which are as :func:`is_apart` says."""
    return InputError(
        f"{name}: every stamp is more than a day from its arrival (the last one "
        f"{sample.t:g} s, arrival {sample.arrival:g} s): they are of two clocks or units; "
        "record both on one, in seconds"
    )


def read_timeline(recording: Recording, gap: float = GAP) -> Timeline:
    """Read all times of a recording; so it is also seen whether all of it can be read.

    Args:
        recording: is iterated over once.
        gap: seconds without a sample that make a gap.

    Raises:
        InputError: it cannot be read, or its stamps and arrivals are of two clocks.
    """
    first = last = 0.0
    count = apart = 0
    gaps = []
    for sample in recording:
        if not count:
            first = last = sample.arrival
        if sample.arrival - last > gap:
            gaps.append((last, sample.arrival - last))
        last = sample.arrival
        apart += is_apart(sample)
        count += 1
    if count and apart == count:
        raise two_clocks(recording.name, sample)
    return Timeline(count, last - first, tuple(gaps))


def plan_replay(
    recording: Recording,
    *,
    speed: float = 1.0,
    skip_gaps: bool | None = None,
    say: Callable[[str], None] | None = None,
    waits: bool = True,
) -> Recording:
    """The recording to replay: as it is, or without its gaps.

    Args:
        recording: golden samples are taken as they are.
        speed: recorded seconds in one second.
        skip_gaps: True: a second is left of each gap. False: gaps are waited for. None: a recording
            with gaps is refused.
        say: called with how much comes and how long it takes.
        waits: False on a simulated clock, which waits for nothing, so that gaps are no matter.

    Raises:
        InputError: it has gaps, or most of it is gaps; or whatever reading it raises.
    """
    if isinstance(recording, Golden):
        return recording
    timeline = read_timeline(recording, GAP * speed)
    tell = say or (lambda _: None)
    if not timeline.gaps or skip_gaps is False or not (waits or skip_gaps):
        taken = f", which takes {timeline.seconds / speed:.4g} s" if waits else ""
        tell(f"replaying {timeline}{taken}")
        return recording
    before, longest = max(timeline.gaps, key=lambda gap: gap[1])
    where = f"{recording.name}: {timeline}, the longest {longest:.4g} s after arrival {before!r}"
    if 2 * len(timeline.gaps) >= timeline.samples:
        raise InputError(
            f"{where}: so few samples in so much time are no seconds of a sensor; if times are in "
            "milliseconds or nanoseconds record them in seconds. skip_gaps=False (--no-skip-gaps) "
            "waits for all of it"
        )
    if skip_gaps is None:
        raise InputError(
            f"{where}; a replay would wait for it. Skip gaps with skip_gaps=True (--skip-gaps), or "
            "wait for them with skip_gaps=False (--no-skip-gaps)"
        )
    shorter = WithoutGaps(recording, timeline)
    seconds = timeline.seconds - timeline.silent + LEFT * len(timeline.gaps)
    tell(f"replaying {timeline}; without the gaps it takes {seconds / speed:.4g} s")
    return shorter


class WithoutGaps:
    """A recording with each gap shortened to a second; samples keep their ages.

    See :class:`mmedge.recording.sample.Recording`; ``missing`` says what was skipped.
    """

    def __init__(self, recording: Recording, timeline: Timeline) -> None:
        self.name, self.bundle = recording.name, recording.bundle
        self.modalities = recording.modalities
        self._recording, self._gaps = recording, timeline.gaps
        note = f"{len(timeline.gaps)} gaps of {timeline.silent:.4g} s in all skipped"
        self.missing = "; ".join(filter(None, (recording.missing, note)))

    def __iter__(self) -> Iterator[Recorded]:
        """The samples, each moved by the gaps before it."""
        shift, ahead = 0.0, list(reversed(self._gaps))
        for sample in self._recording:
            while ahead and sample.arrival > ahead[-1][0]:
                shift += ahead.pop()[1] - LEFT
            yield replace(sample, t=sample.t - shift, arrival=sample.arrival - shift)
