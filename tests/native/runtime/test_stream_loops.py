"""Streams of the C++ runtime over loops of all kinds, prompts, decoders, and states of fusions."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from native_builds import ROOT
from ort_kit import LIBRARY

if str(ROOT / "conformance") not in sys.path:
    sys.path.insert(0, str(ROOT / "conformance"))

from stream_player import play

import mmedge

pytestmark = pytest.mark.native_build

BUNDLES = ROOT / "conformance" / "cases" / "bundles"


class Network(NamedTuple):
    """What is pushed to a bundle: by modality, its input and shape; a number is random up to it."""

    inputs: dict[str, tuple[str, tuple[int, ...]]]
    stages: tuple[str, ...]
    largest: dict[str, int]
    options: tuple[dict, ...] = ({},)
    states: tuple[str, ...] = ()
    bundle: str = ""
    variant: str | None = None


NETWORKS = {
    "completer": Network(
        {"text": ("tokens", (2, -4))},
        ("step",),
        {"prompt tokens": 4},
        ({"seed": 3}, {"temperature": 0.0, "limit": 5}, {"top_k": 2, "top_p": 0.5, "stop": [1, 4]}),
    ),
    "decoder": Network({"text": ("tokens", (2, -4))}, ("step",), {"prompt tokens": 4}),
    "decoder in place": Network(
        {"text": ("tokens", (2, -4))},
        ("step",),
        {"prompt tokens": 4},
        bundle="decoder",
        variant="ort-fp32-cpu-in_place",
    ),
    "painter": Network(
        {"condition": ("condition", (2, 3))},
        ("read", "step", "decode"),
        {},
        ({}, {"seed": 7}, {"noise": [[1, 2, 4], [0.5, -1.0, 2.0, 0.25, 1.0, 0.0, -0.5, 3.0]]}),
    ),
    "prompted": Network(
        {"image": ("image", (2, -4, 6)), "text": ("tokens", (2, -3))},
        ("see", "step"),
        {"frames": 4, "prompt tokens": 3},
        ({}, {"limit": 4}, {"forced": [[1, 2], [6, 7]]}),
    ),
    "speller": Network({"sound": ("sound", (2, -4, 5))}, ("hear", "step"), {"frames": 4}),
    "fusion-state": Network(
        {"x": ("x", (2, 4)), "gain": ("gain", (2, 4))}, ("scale", "mix"), {}, states=("mix",)
    ),
    "state": Network({"x": ("x", (2, 4)), "gain": ("gain", (2, 4))}, ("net",), {}, states=("net",)),
}


@cache
def load(name):
    """A pipeline, which stays open."""
    network = NETWORKS[name]
    return mmedge.load(
        BUNDLES / f"{network.bundle or name}.mmedge", plan=None, threads=1, kernels=False,
        cache_bytes=0, allow_unverified=True, allow_non_finite=True, variant=network.variant,
    )  # fmt: skip


def random_schedule(name, rng):
    """A schedule in the form of conformance/README.md, and the variant that is to run."""
    network = NETWORKS[name]
    costs = {stage: rng.choice([0, 1, 4, 15]) / 1000 for stage in network.stages}
    loops = load(name).bundle.manifest.loops
    options = {
        "trigger": rng.choice([next(iter(network.inputs)), "any", 30.0]),
        "deadline_ms": rng.choice([None, 20.0, 120.0]),
        "depth": rng.choice([2, 64]),
        "align": {},
        "sanity": {},
    }
    if loops:
        options["newer_trigger"] = rng.choice(["wait", "cancel"])
        options["loop_options"] = rng.choice(network.options)
    if network.states and rng.random() < 0.5:
        options["reset_after"] = rng.choice([0.05, {network.states[0]: 0.12}])
    events, now = [], 10.0
    rows = rng.choice([1, 1, 2])
    for _ in range(rng.choice([10, 25, 50])):
        now += rng.choice([0, 2, 5, 30, 80]) / 1000
        modality = rng.choice(list(network.inputs))
        share = rng.random()
        if share < 0.04:
            events.append({"at": now, "do": "reset"})
        elif share < 0.08:
            events.append({"at": now, "do": "forget", "modality": modality})
        elif share < 0.12:
            events.append({"at": now, "do": "health"})
        elif share < 0.25:
            events.append({"at": now, "do": rng.choice(["fetch", "latest"])})
        else:
            if rng.random() < 0.05:
                rows = 3 - rows
            input_name, value = _value(rng, *network.inputs[modality], rows)
            push = {"do": "push", "modality": modality, "t": now, "inputs": {input_name: value}}
            events.append({"at": now, **push})
    end = now + 3.0
    events += [{"at": end, "do": what} for what in ("fetch", "health", "close", "health")]
    bundle = {"bundle": network.bundle or name, "variant": network.variant or ""}
    schedule = {**bundle, "start": 10.0, "costs": costs, "options": options}
    return {**schedule, "failing": {}, "fail_every": 0, "events": events}


def _value(rng, name, shape, rows):
    shape = [rows, *(rng.randint(1, -size) if size < 0 else size for size in shape[1:])]
    count = int(np.prod(shape))
    if name == "tokens":
        return name, [shape, [rng.randint(1, 9) for _ in range(count)]]
    return name, [shape, [rng.randint(-16, 16) / 8 for _ in range(count)]]


def without_text(result):
    """Texts of tokens are not a stream's in C++."""
    outputs = result.get("outputs")
    if not isinstance(outputs, dict) or "text" not in outputs:
        return result
    return {**result, "outputs": {k: v for k, v in outputs.items() if k != "text"}}


def without_wording(result):
    """Of a first noise that does not fit, each runtime has words of its own."""
    fault = "fusion failed: InputError: noise: expected "
    is_fault = result.get("reason", "").startswith(fault)
    return {**result, "reason": fault} if is_fault else result


@pytest.mark.parametrize("name", NETWORKS)
def test_schedules(probe, name):
    schedules, lines = [], []
    for number in range(25):
        schedule = random_schedule(name, random.Random(f"{name}-{number}"))
        lines.append(
            json.dumps(
                {**schedule, "options": {**schedule["options"], "largest": NETWORKS[name].largest}}
            )
        )
        options = dict(schedule["options"])
        if "loop_options" in options:
            options["loop_options"] = {
                key: np.array(value[1], np.float32 if key == "noise" else np.int64).reshape(
                    value[0]
                )
                if key in ("noise", "forced")
                else value
                for key, value in options["loop_options"].items()
            }
        expected = play(load(name), {**schedule, "options": options})
        schedules.append(json.loads(json.dumps(expected)))
    done = subprocess.run(
        [probe("stream_probe"), BUNDLES, LIBRARY],
        input="\n".join(lines),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = 0
    for number, (line, expected) in enumerate(
        zip(done.stdout.splitlines(), schedules, strict=True)
    ):
        row = json.loads(line)
        assert "refused" not in row, row["refused"]
        for got, result in zip(row["results"], expected["results"], strict=True):
            assert without_wording(got) == without_wording(without_text(result)), number
            made += "outputs" in result
        assert row["healths"] == expected["healths"], number
        assert row["errors"] == expected["errors"], number
    assert made > 30


def test_options_of_a_loop_that_are_refused(probe):
    """When a stream is made: each would fail each result."""
    cases = [
        ("painter", {"limit": 3}, "a bundle with a loop 'denoise' takes seed and noise"),
        ("speller", {"limit": 0}, "limit: expected a whole number from 1 to 20, got 0"),
        ("speller", {"noise": [[1], [0.5]]}, "a bundle with a loop 'generate' does not take it"),
        ("state", {"seed": 1}, "has no loop; leave it out"),
    ]
    lines = []
    for name, options, _ in cases:
        schedule = random_schedule(name, random.Random(name))
        schedule["options"]["loop_options"] = options
        schedule["options"]["largest"] = NETWORKS[name].largest
        lines.append(json.dumps({**schedule, "events": []}))
    done = subprocess.run(
        [probe("stream_probe"), BUNDLES, LIBRARY],
        input="\n".join(lines),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for line, (_, _, words) in zip(done.stdout.splitlines(), cases, strict=True):
        assert words in json.loads(line)["refused"]
