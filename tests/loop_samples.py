"""Golden samples of the bundles in :mod:`loop_bundles`, as they compute here."""

from __future__ import annotations

import numpy as np
from loop_bundles import Captioner, Filter, Painter

import mmedge
from mmedge.bundle import Bundle
from mmedge.spec import Sample


def rewrite(bundle: Bundle, path, samples) -> Bundle:
    """The bundle with golden samples."""
    files = {name: bytes(bundle.read(name)) for name in bundle.manifest.files}
    files.pop("samples.safetensors", None)
    loop = bundle.manifest.loop
    guided = loop is not None and loop.kind == "denoise" and loop.guidance is not None
    unconditional = bundle.unconditional() if guided else {}
    stored = any(state.initial == "stored" for state in bundle.manifest.states)
    return Bundle.write(
        path,
        bundle.manifest,
        files,
        samples=samples,
        unconditional=unconditional,
        states=bundle.first_states() if stored else None,
    )


def caption(pipe, image) -> Sample:
    """A golden sample of the captioner."""
    inputs = {"image": image}
    constants = pipe.run_stage("see", inputs)
    nothing = {name: np.zeros((len(image), 2, 0, 4), np.float32) for name in ("past_k", "past_v")}
    first = {
        "tokens": np.full((len(image), 1), 1, np.int64), "position": np.array([0]), **nothing,
    }  # fmt: skip
    before = pipe.run_stage("step", {**constants, **first})
    step = {
        "tokens": np.full((len(image), 1), 4, np.int64),
        "position": np.array([1]),
        "past_k": before["present_k"],
        "past_v": before["present_v"],
    }
    steps = list(pipe.iterate(inputs, cached=False))
    return Sample(
        inputs,
        {**constants, **pipe.run_stage("step", {**constants, **step})},
        step,
        {
            "tokens": pipe.run(inputs, cached=False)["tokens"],
            "logits": np.stack([step.scores for step in steps], 1),
        },
    )


def picture(pipe, condition) -> Sample:
    """A golden sample of the painter with a decoder."""
    inputs = {"condition": condition}
    shape = (len(condition), 3, 4)
    noise = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    outputs = pipe.run_stage("read", inputs)
    step = {"x": noise, "t": np.array(900, np.float32), "count": np.zeros(1, np.float32)}
    outputs |= pipe.run_stage("step", {**outputs, **step}) | pipe.run_stage("decode", step)
    latents = [step.latent for step in pipe.iterate(inputs, cached=False, noise=noise)]
    return Sample(inputs, outputs, step, {"noise": noise, "latents": np.stack(latents)})


def write_captions(path, *, samples: int = 2, most: int | None = 63, **loop) -> str:
    """Write a captioner with golden samples of one row; its path."""
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(1, 5, 6)).astype(np.float32) for _ in range(samples)]
    return _write(path, Captioner(most=most).write(f"{path}-plain", **loop), caption, images)


def write_pictures(path) -> str:
    """Write a painter with a decoder and a golden sample of two rows; its path."""
    condition = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    return _write(path, Painter().write(f"{path}-plain", decoder=True), picture, [condition])


def write_filter(path, where: str = "whole") -> str:
    """Write a filter, which has a state and no loop, with a golden sample; its path."""
    bundle = Filter(where).write(f"{path}-plain")
    x, gain, h = (np.full((1, 4), v, np.float32) for v in (1.0, 2.0, 3.0))
    names = {spec.name for stage in bundle.manifest.stages for spec in stage.outputs}
    values = {"y": gain * (x + h), "h_new": 0.5 * h + x, "summed": x + h, "scaled": gain}
    sample = Sample({"x": x, "gain": gain}, {n: values[n] for n in names}, {"h": h})
    rewrite(bundle, path, [sample]).close()
    bundle.close()
    return str(path)


def _write(path, bundle: Bundle, sample, values) -> str:
    with mmedge.load(bundle) as pipe:
        rewrite(bundle, path, [sample(pipe, value) for value in values]).close()
    bundle.close()
    return str(path)
