"""Streams that are watched by a flight recorder, on a simulated clock, and their dumps."""

from __future__ import annotations

import random
from contextlib import contextmanager

from stream_checks import fetch
from streaming import value

from mmedge.recording import FlightRecorder
from mmedge.recording.flight.reader import FlightDump
from mmedge.stream import SimulatedClock, Stream


class Flight:
    """A stream with its clock and its recorder; ``numbers`` makes values of modalities."""

    def __init__(
        self, pipe, folder, *, start=5.0, costs=None, numbers=value, attached=True, options, **kept
    ):
        self.clock = SimulatedClock(start, costs)
        self.numbers = numbers
        self.stream = Stream(pipe, clock=self.clock, **options)
        self.kept = {"machine_period_s": None, **kept}
        self.folder, self.recorder = folder, None
        if attached:
            self.attach()

    def attach(self):
        self.recorder = FlightRecorder(self.stream, self.folder, **self.kept)

    def push(self, modality, *numbers, every=0.02, **options):
        for number in numbers:
            self.clock.advance(every)
            self.stream.push(modality, self.numbers(modality, number), **options)

    def results(self, seconds=0.0):
        self.clock.advance(seconds)
        return fetch(self.stream)

    def dump(self, reason="test", **options):
        return FlightDump.open(self.recorder.dump(reason, **options))

    def dumps(self):
        """Those that triggers made, once all are written."""
        self.recorder.close()
        return [FlightDump.open(path) for path in self.recorder.dumps]

    def close(self):
        if self.recorder is not None:
            self.recorder.close()
        self.stream.close()


@contextmanager
def fly(pipe, folder, **options):
    recorder_options = (
        "start", "costs", "numbers", "attached", "seconds", "memory_bytes", "triggers", "limits",
        "machine_period_s",
    )  # fmt: skip
    own = {name: options.pop(name) for name in recorder_options if name in options}
    flight = Flight(pipe, folder, options=options, **own)
    try:
        yield flight
    finally:
        flight.close()


def drive(flight, seed, steps, modalities, *, faulty=None, withdraws=True):
    """Push at random; some results are fetched, and sometimes something is withdrawn."""
    choose = random.Random(seed)
    for step in range(steps):
        flight.clock.advance(choose.choice([0.0, 0.003, 0.01, 0.04]))
        name = choose.choice(modalities)
        made = flight.numbers(name, step)
        if faulty is not None and choose.random() < 0.1:
            made = faulty(name, made)
        early = choose.choice([0.0, 0.0, 0.004, 0.5])
        flight.stream.push(name, made, flight.clock() - early)
        if choose.random() < 0.3:
            fetch(flight.stream)
        if withdraws and choose.random() < 0.02:
            fetch(flight.stream)
            flight.stream.forget(choose.choice(modalities))
        if withdraws and choose.random() < 0.01:
            fetch(flight.stream)
            flight.stream.reset()
