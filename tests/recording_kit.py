"""A recording of a few samples, in either form."""

from __future__ import annotations

from dataclasses import dataclass

from streaming import value

from mmedge.recording import Recorded, Recorder

#: Names of a folder and of an MCAP file: the name chooses the form.
FORMS = ("r", "r.mcap")


def write(path, manifest, count=10, **more):
    with Recorder(path, manifest, **more) as made:
        for k in range(count):
            made.record("camera", value("camera", k), k / 10 - 0.01, k / 10)
    return made


NAMES = ("camera", "lidar", "text", "state", "odom", "voice")


@dataclass
class Listed:
    samples: list
    name: str = "listed"
    bundle: str = "streaming"
    modalities: tuple = NAMES
    missing: str = ""

    def __iter__(self):
        return iter(self.samples)


def at(name, arrival, number=1, t=None):
    return Recorded(name, arrival if t is None else t, arrival, value(name, number))
