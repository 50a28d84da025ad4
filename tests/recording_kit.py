"""A recording of a few samples, in either form."""

from __future__ import annotations

from streaming import value

from mmedge.recording import Recorder

#: Names of a folder and of an MCAP file: the name chooses the form.
FORMS = ("r", "r.mcap")


def write(path, manifest, count=10, **more):
    with Recorder(path, manifest, **more) as made:
        for k in range(count):
            made.record("camera", value("camera", k), k / 10 - 0.01, k / 10)
    return made
