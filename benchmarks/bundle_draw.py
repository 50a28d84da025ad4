"""Pictures of ``zoo:draw``, by torch and by its bundle: as their captions say, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from zoo_bundles import bench, precisions, quantize_bundle

import mmedge
from mmedge_export import export
from mmedge_export.zoo import factory
from mmedge_export.zoo.draw.captions import encode
from mmedge_export.zoo.draw.drawing import to_bytes, torch_artist
from mmedge_export.zoo.draw.evaluation import figures, real
from mmedge_export.zoo.draw.model import BATCH
from mmedge_export.zoo.draw.network import DrawNet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmedge_export.zoo.draw.drawing import Artist

NAME = "draw"
#: Of pictures that are as their caption says. Few are drawn for the gate, so it cannot be finer.
MAX_DROP = 0.03


def draw_pictures(cache: Path, folder: Path) -> dict[str, Any]:  # noqa: ARG001 - as of other tasks
    """Captions of known and of held-out combinations; the same noise by torch and by bundles."""
    model, bundle = factory(NAME), folder / "bundle"
    assert isinstance(model.module, DrawNet)  # noqa: S101
    results = {"torch": figures(torch_artist(model.module))}
    export(model, bundle).close()
    quantization = quantize_bundle(model, bundle, MAX_DROP)
    for precision in ("fp32", "int8") if quantization.get("variant") else ("fp32",):
        with mmedge.load(bundle, backend="ort", precision=precision, device="cpu") as pipe:
            results[precision] = figures(bundle_artist(pipe))
    rows = [
        {"what": what, **{by: measured[what] for by, measured in results.items()}}
        for what in results["torch"]
    ]
    return {
        "what": f"pictures of {NAME}, judged by zoo:vqa-attention and measured",
        "rows": rows,
        "real": real(),
        "quantization": quantization,
    }


def bundle_artist(pipe: mmedge.Pipeline) -> Artist:
    """Captions and noise to pictures, by a loaded bundle."""

    def draw(
        texts: Sequence[str], noise: np.ndarray[Any, np.dtype[np.float32]]
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        parts = []
        for start in range(0, len(texts), BATCH[1]):
            some = slice(start, start + BATCH[1])
            result = pipe.run({"text": encode(list(texts[some]))}, noise=noise[some])
            parts.append(result["image"])
        return to_bytes(np.concatenate(parts))

    return draw


def time_pictures(bundle: Path) -> list[dict[str, Any]]:
    """What ``mmedge bench`` says of each variant, with one thread and a picture at a time."""
    rows = []
    for precision in precisions(bundle):
        measured = bench(bundle, precision, ["--calls", "100"])
        loop = measured["loop"]
        rows.append(
            {
                "precision": precision,
                "steps": loop["steps"],
                "step_ms": loop["step_ms"]["p50"],
                "call_ms": measured["latency_ms"]["p50"],
                "size_bytes": measured["size_bytes"],
                "others_share": measured["device"]["after"]["cpu_share"]["others"],
            }
        )
    return rows
