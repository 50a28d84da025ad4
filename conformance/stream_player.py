"""Plays a schedule of a stream, and says all that came of it as JSON has it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import mmedge
from mmedge import stream as streams
from mmedge.errors import BackendError, MMEdgeError
from mmedge.spec import DTYPES
from mmedge.stream import Sanity, SimulatedClock, Stream

__all__ = ["load", "play", "policy"]


@cache
def load(bundles: Path, name: str) -> Any:
    """A bundle's pipeline, which stays open."""
    return mmedge.load(
        bundles / f"{name}.mmedge", plan=None, threads=1, kernels=False, cache_bytes=0,
        allow_unverified=True, allow_non_finite=True,
    )  # fmt: skip


def policy(tree: dict[str, Any]) -> Any:
    """A policy from JSON."""
    options = {key: _slices(value) for key, value in tree.items() if key != "policy"}
    return getattr(streams, tree["policy"])(**options)


def _slices(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _slices(each) for key, each in value.items()}
    return tuple(map(tuple, value)) if isinstance(value, list) else value


class FailingStages:
    """A pipeline whose stages fail on some values.

    A stage of ``failing`` fails where the first element of the input named there is no 0 and a
    multiple of ``every``.
    """

    def __init__(self, pipe: Any, failing: dict[str, str], every: int) -> None:
        self.bundle, self.variant, self._pipe = pipe.bundle, pipe.variant, pipe
        self.start_loop = pipe.start_loop
        self._failing, self._every = failing, every

    def run_stage(self, stage: str, feeds: dict[str, Any]) -> Any:
        """Run one stage."""
        if self._every and stage in self._failing:
            values = feeds[self._failing[stage]].reshape(-1)
            number = int(values[0]) if values.size and np.isfinite(values[0]) else 0
            if number and number % self._every == 0:
                raise BackendError(f"{stage} failed on {number}")
        return self._pipe.run_stage(stage, feeds)


def play(pipe: Any, schedule: dict[str, Any]) -> dict[str, Any]:
    """The results, the snapshots of health and the errors of a schedule, in order."""
    options = dict(schedule["options"])
    align = {name: policy(tree) for name, tree in options.pop("align").items()}
    sanity = {name: Sanity(**tree) for name, tree in options.pop("sanity").items()}
    clock = SimulatedClock(schedule["start"], schedule["costs"])
    stages = FailingStages(pipe, schedule["failing"], schedule["fail_every"])
    specs = pipe.bundle.manifest.inputs()
    results: list[dict[str, Any]] = []
    healths: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    stream = Stream(stages, clock=clock, align=align, sanity=sanity, **options)
    with stream:
        for number, event in enumerate(schedule["events"]):
            clock.advance_to(event["at"])
            try:
                if event["do"] == "push":
                    arrays = {
                        name: np.array(
                            [np.nan if n is None else n for n in values], DTYPES[specs[name].dtype]
                        ).reshape(shape)
                        for name, (shape, values) in event["inputs"].items()
                    }
                    stream.push(event["modality"], arrays, t=event["t"])
                elif event["do"] == "forget":
                    stream.forget(event["modality"])
                elif event["do"] == "reset":
                    stream.reset()
                elif event["do"] == "health":
                    healths.append(_health(stream.health()))
                elif event["do"] == "close":
                    stream.close()
                else:
                    results += _fetch(stream, latest=event["do"] == "latest")
            except MMEdgeError as error:
                errors.append({"event": number, "error": type(error).__name__})
    return {"results": results, "healths": healths, "errors": errors}


def _fetch(stream: Stream, *, latest: bool) -> list[dict[str, Any]]:
    """All results that there are, or the newest."""
    rows = []
    try:
        while True:
            rows.append(_result(stream.result(0.0, latest=latest)))
    except TimeoutError:
        return rows


def _result(result: streams.Result) -> dict[str, Any]:
    """A result without what is empty."""
    outputs = None
    if result.outputs is not None:
        outputs = {name: _plain(array) for name, array in result.outputs.items()}
    row = {
        "outputs": outputs,
        "t": result.t,
        "made": result.made,
        "latency": result.latency,
        "ages": dict(result.ages),
        "samples": {name: [list(used) for used in many] for name, many in result.samples.items()},
        "absent": dict(result.absent),
        "dropped": {name: dict(counts) for name, counts in result.dropped.items()},
        "fresh": result.fresh,
        "met": result.met,
        "reason": result.reason,
        "notes": dict(result.notes),
        "lateness": result.lateness,
        "outputs_t": result.outputs_t,
        "trigger": result.trigger,
    }
    return {key: value for key, value in row.items() if value not in ({}, "", None)}


def _health(health: streams.Health) -> dict[str, Any]:
    """A snapshot without what is 0 or empty, and without events: a runtime need not count them."""
    fields = {name: getattr(health, name) for name in type(health).__slots__ if name != "events"}
    modalities = {
        name: _full({field: getattr(state, field) for field in type(state).__slots__})
        for name, state in fields.pop("modalities").items()
    }
    return {**_full(fields), "modalities": modalities}


def _full(fields: dict[str, Any]) -> dict[str, Any]:
    rows = {k: v if isinstance(v, int | float | str | None) else dict(v) for k, v in fields.items()}
    return {key: value for key, value in rows.items() if value not in (0, {}, "", None)}


def _plain(value: Any) -> Any:
    """An array as its shape and elements; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    elements = [None if number != number else number for number in value.reshape(-1).tolist()]
    return [list(value.shape), elements]
