"""Speech of ``zoo:speak``, by torch and by its bundle: whether it is understood, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from zoo_bundles import bench, precisions, quantize_bundle

import mmedge
from mmedge_export import export
from mmedge_export.zoo import factory
from mmedge_export.zoo.hear import phrases
from mmedge_export.zoo.speak.evaluation import (
    espeak_speaker,
    torch_speaker,
    understood,
    vocoder_speaker,
)
from mmedge_export.zoo.speak.model import BATCH, SAMPLES
from mmedge_export.zoo.speak.network import SpeakNet
from mmedge_export.zoo.speak.text import encode

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge_export.zoo.speak.evaluation import Speaker

NAME = "speak"
#: The rounding of the pitch adds up over all frames.
RTOL = 1e-2
MAX_DROP = 0.01
#: Every fourth known request: training read them all.
_STEP = 4


def speak_requests(cache: Path, folder: Path) -> dict[str, Any]:  # noqa: ARG001 - as of other tasks
    """Unseen and known requests, as zoo:hear writes them down."""
    model, bundle, requests = factory(NAME), folder / "bundle", phrases.load()
    assert isinstance(model.module, SpeakNet)  # noqa: S101
    texts = {
        "unseen": [phrase.english for phrase in requests.unseen],
        "known": [phrase.english for phrase in requests.known[::_STEP]],
    }
    export(model, bundle, rtol=RTOL).close()
    speakers: dict[str, Speaker] = {
        "espeak": espeak_speaker,
        "vocoder": vocoder_speaker,
        "torch": torch_speaker(model.module),
    }
    results = {
        by: {what: understood(speaker, part) for what, part in texts.items()}
        for by, speaker in speakers.items()
    }
    quantization = quantize_bundle(model, bundle, MAX_DROP)
    for precision in ("fp32", "int8") if quantization.get("variant") else ("fp32",):
        with mmedge.load(bundle, backend="ort", precision=precision, device="cpu") as pipe:
            speaker = bundle_speaker(pipe)
            results[precision] = {what: understood(speaker, part) for what, part in texts.items()}
    rows = [
        {"what": what, **{by: measured[what] for by, measured in results.items()}} for what in texts
    ]
    return {
        "what": f"speech of {NAME}, as zoo:hear writes it down",
        "rows": rows,
        "quantization": quantization,
    }


def bundle_speaker(pipe: mmedge.Pipeline) -> Speaker:
    """Texts to clips, by a loaded bundle, each cut to its speech."""

    def clips(texts: list[str]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        spoken: list[np.ndarray[Any, np.dtype[np.float32]]] = []
        for start in range(0, len(texts), BATCH[1]):
            result = pipe.run({"text": encode(texts[start : start + BATCH[1]])})
            counts = result["samples"].tolist()
            spoken += [row[:n] for row, n in zip(result["audio"], counts, strict=True)]
        return spoken

    return clips


def time_speech(bundle: Path) -> list[dict[str, Any]]:
    """What ``mmedge bench`` says of each variant, with one thread, on the golden samples in turn.

    The real-time factor is the mean time of a call by the mean length of the speech, the silence
    after it not counted.
    """
    rows = []
    for precision in precisions(bundle):
        with mmedge.load(bundle, backend="ort", precision=precision, device="cpu") as pipe:
            seconds = np.mean([len(clip) for clip in bundle_speaker(pipe)(list(SAMPLES))]) / 16_000
        measured = bench(bundle, precision, ["--calls", "200"])
        latency = measured["latency_ms"]
        rows.append(
            {
                "precision": precision,
                "call_ms": latency["p50"],
                "p90_ms": latency["p90"],
                "mean_ms": latency["mean"],
                "speech_s": float(seconds),
                "real_time_factor": latency["mean"] / 1000 / float(seconds),
                "size_bytes": measured["size_bytes"],
                "others_share": measured["device"]["after"]["cpu_share"]["others"],
            }
        )
    return rows
