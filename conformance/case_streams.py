"""Schedules of streams on a simulated clock, and every result, age, drop and reason."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import streaming
from case_files import write_lines
from stream_loops import value
from stream_player import load, play
from stream_schedules import POLICIES, TRIGGERS, sense

from mmedge.stream import Exact, Hold, Interpolate, Latest, Policy, Sanity, Window

__all__ = ["random_schedule", "random_schedules", "write_schedules"]

#: Share of the bundles in random schedules, in so many.
BUNDLES = (
    *("streaming",) * 10, *("recurrent",) * 4, *("poses",) * 3, "policy", "captioner", "growing",
)  # fmt: skip

#: By bundle, the input whose first element says whether an encoder fails, by stage.
FAILING = {
    "streaming": {"see": "image", "scan": "points", "read": "ids", "double": "wheel"},
    "recurrent": {"listen": "pcm", "filter": "imu", "see": "image"},
    "policy": {"see": "image"},
}

#: Milliseconds of a schedule.
LENGTHS = (600, 300, 300, 150, 150, 30)

#: The random schedules that are kept: together they have nearly all reasons, notes, drops and
#: policies that the first 1,200 have.
SEED = 1
CHOSEN = (
    22, 26, 56, 73, 76, 88, 103, 122, 136, 156, 168, 206, 221, 243, 276, 277, 311, 317, 322, 352,
    374, 375, 382, 460, 496, 511, 540, 571, 581, 582, 594, 606, 623, 639, 640, 705, 730, 739, 757,
    807, 812, 815, 883, 907, 914, 922, 952, 965, 981, 984, 987, 1016, 1057, 1072, 1113, 1124, 1129,
    1136, 1159, 1168,
)  # fmt: skip

STAGES = {
    "streaming": ("see", "scan", "read", "double", "shift", "hear", "fuse"),
    "recurrent": ("listen", "filter", "see", "fuse"),
    "poses": ("camera", "pose", "arm", "fuse"),
    "policy": ("see", "step"),
    "captioner": ("see", "step"),
    "growing": ("gather",),
}

NAMES = {
    "streaming": tuple(streaming.COLUMNS),
    "recurrent": ("audio", "imu", "camera"),
    "poses": ("camera", "pose", "arm"),
    "policy": ("camera", "joints"),
    "captioner": ("image",),
    "growing": ("audio",),
}

ALIGN: dict[str, dict[str, list[Policy]]] = {
    "streaming": POLICIES,
    "recurrent": {
        "imu": [Latest(), Hold(50.0), Latest(wait_ms=10.0)],
        "audio": [Latest(), Hold(80.0), Window(4, 4), Window(8, 8, max_gap_ms=40.0)],
    },
    "poses": {
        "pose": [
            Interpolate({"turn": ((0, 4),)}, angles={"place": ((2, 3),)}, wait_ms=20.0),
            Interpolate({"turn": ((0, 4),)}, max_age_ms=60.0),
            Exact(15.0),
        ],
        "arm": [Interpolate(angles=((0, 3),), wait_ms=30.0), Interpolate(angles=((1, 2), (4, 5)))],
    },
    "policy": {"camera": [Latest(), Latest(wait_ms=20.0)], "joints": [Latest(), Hold(60.0)]},
    "captioner": {},
    "growing": {},
}

TRIGGERS_OF = {
    "streaming": TRIGGERS,
    "recurrent": ["audio", "imu", "camera", "any", 20.0],
    "poses": ["camera", "camera", "pose", 15.0],
    "policy": ["camera", "camera", "any", 10.0],
    "captioner": ["image"],
    "growing": ["audio"],
}


def random_schedule(rng: random.Random) -> dict[str, Any]:
    """A schedule without its results."""
    bundle = rng.choice(BUNDLES)
    stages, names = STAGES[bundle], NAMES[bundle]
    costs = [rng.choice([0, 0, 1, 5, 20, 60]) / 1000 for _ in stages]
    if rng.random() < 0.3:
        costs[rng.randrange(len(stages))] = 0.3
    align = {name: rng.choice(policies) for name, policies in ALIGN[bundle].items()}
    options: dict[str, Any] = {
        "trigger": rng.choice(TRIGGERS_OF[bundle]),
        "deadline_ms": rng.choice([None, None, 30.0, 200.0]),
        "depth": rng.choice([2, 5, 64]),
        "recover_after": rng.choice([1, 2, 3]),
        "keep": rng.choice([2, 16]),
        "future": rng.choice([1.0, 1.0, 0.2]),
        "align": {name: {"policy": type(p).__name__, **asdict(p)} for name, p in align.items()},
        "sanity": {},
    }
    if rng.random() < 0.2:
        sanity = Sanity(frozen_after=rng.choice([2, 3, None]), range_margin=rng.choice([0.0, None]))
        options["sanity"] = {rng.choice(names): asdict(sanity)}
    if bundle == "recurrent":
        options["reset_after"] = rng.choice([None, 0.15, {"audio": 0.1, "fuse": 0.2}])
    if bundle in ("policy", "captioner"):
        options["newer_trigger"] = rng.choice(["wait", "cancel"])
        limit = {"limit": rng.choice([3, 8])} if bundle == "captioner" else {}
        options["loop_options"] = {"seed": rng.randrange(5), **limit}
    used = [names[0], *(name for name in names[1:] if rng.random() < 0.8)]
    events = _events(rng, bundle, sense(rng, used, rng.choice(LENGTHS)))
    end = events[-1]["at"] if events else 1000.0
    # So that nothing is left under way, where samples trigger.
    rest = 6 * sum(costs) * (12 if "newer_trigger" in options else 1) + 0.5
    events += [
        {"at": end + rest, "do": "fetch"},
        {"at": end + rest, "do": "health"},
        {"at": end + rest, "do": "close"},
        {"at": end + rest, "do": "health"},
    ]
    return {
        "bundle": bundle,
        "start": 1000.0,
        "costs": dict(zip(stages, costs, strict=True)),
        "options": options,
        "failing": FAILING.get(bundle, {}),
        "fail_every": rng.choice([0, 0, 2, 5]) if bundle in FAILING else 0,
        "events": events,
    }


def _events(rng: random.Random, bundle: str, senses: list[tuple]) -> list[dict[str, Any]]:
    """What a reader of schedules does, from what sensors do."""
    events: list[dict[str, Any]] = []
    last: dict[str, tuple[float, dict[str, np.ndarray]]] = {}
    number = row = 0
    # How often results are fetched.
    share = rng.choice([0.0, 0.3, 1.0])
    for at, name, offset, content, rows in senses:
        now = 1000.0 + at / 1000
        if content in ("forget", "reset"):
            events.append({"at": now, "do": content})
            if content == "forget":
                events[-1]["modality"] = name
        else:
            number += 1
            stamp = None if offset == 0 and rng.random() < 0.1 else now + offset / 1000
            is_chunk = bundle == "streaming" and name == "voice"
            same = content == "same" and name in last and not (is_chunk and last[name][0] != stamp)
            if same:
                arrays = last[name][1]
            else:
                arrays = _value(bundle, name, number, row, rows)
                row += rows if is_chunk else 0
                floats = [a for a in arrays.values() if a.dtype == np.float32 and a.size]
                if content == "nan" and floats:
                    floats[0].reshape(-1)[-1] = np.nan
            last[name] = now if stamp is None else stamp, arrays
            event = {"at": now, "do": "push", "modality": name, "t": stamp}
            event["inputs"] = {key: _plain(array) for key, array in arrays.items()}
            events.append(event)
            if rng.random() < 0.01:
                events.append({**event, "inputs": {k: [[1], [0]] for k in arrays}})
        if rng.random() < share:
            events.append({"at": now, "do": rng.choice(["fetch", "fetch", "fetch", "latest"])})
        if rng.random() < 0.02:
            events.append({"at": now, "do": "health"})
    return events


def _plain(array: np.ndarray) -> list[Any]:
    """Shape and elements."""
    elements = [None if number != number else number for number in array.reshape(-1).tolist()]
    return [list(array.shape), elements]


def _value(bundle: str, name: str, number: int, row: int, rows: int) -> dict[str, np.ndarray]:
    if bundle == "streaming":
        if name == "voice":
            return {"pcm": np.arange(row, row + rows, dtype=np.float32)[None]}
        return streaming.inputs(name, streaming.value(name, number))
    rng = np.random.default_rng(number)
    if bundle == "captioner":
        return {"image": rng.integers(-8, 9, (1, 5, 6)).astype(np.float32) / np.float32(8)}
    if bundle == "poses":
        small = rng.integers(-200, 201, 8).astype(np.float32) / np.float32(64)
        if name == "camera":
            return {"image": np.full((1, 4), number, np.float32)}
        if name == "pose":
            return {"place": small[None, :3], "turn": small[None, 3:7].copy()}
        return {"joints": np.clip(small[None, :5], -3, 3)}
    inputs = {"audio": "pcm", "imu": "imu", "camera": "image", "joints": "joints"}
    return {inputs[name]: value(name, number)}


def random_schedules(bundles: Path, seed: int, numbers: Iterable[int]) -> list[dict[str, Any]]:
    """The random schedules of these numbers with their results."""
    rows = []
    for number in numbers:
        # By a text, so that one schedule does not depend on those before.
        schedule = {
            "name": f"{seed}-{number}",
            **random_schedule(random.Random(f"{seed}-{number}")),
        }
        rows.append({**schedule, **play(load(bundles, schedule["bundle"]), schedule)})
    return rows


def write_schedules(folder: Path, bundles: Path) -> None:
    """Write the file to ``folder``."""
    write_lines(folder / "schedules.jsonl", random_schedules(bundles, SEED, CHOSEN))
