"""Classical front ends of the reference network beside learned ones, with little and much data.

Trains ``vqa-attention`` eight times by one short recipe (learned or classical front ends, all or a
tenth of the data, with or without augmentation) and writes the accuracy on the whole test split.
``python benchmarks/zoo_front_ends.py --work DIR --cache DIR`` takes up what an interrupted run
left: finished networks are kept, the one in training goes on from its last epoch. ``--report``
trains nothing and writes what there is; ``--bundle`` exports the networks trained on all data with
augmentation, compares the classical one with torch, quantizes it and times both. Needs easy-vqa and
espeak-ng.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundle_accuracy import answer_questions
from zoo_bundles import bench, precisions, quantize_bundle, tell

from mmedge.bench.machine import host
from mmedge_export import export
from mmedge_export.zoo import factory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RESULTS = Path(__file__).parent / "results" / "zoo_front_ends.json"
NAME = "vqa-attention"
FRONT_ENDS = {
    "learned": {"image": "resnet", "audio": "cnn"},
    "classical": {"image": "classical", "audio": "spectrum-cnn"},
}
#: Scarce data first: what the comparison is about.
SHARES = (0.1, 1.0)
PASSES = 9
"""Passes over all images; a share of them is passed over so many times more often, which makes the
steps of all networks as many."""
RECIPE: Mapping[str, object] = {"images": 40, "spoken": 40, "warmup": 90, "seed": 0}
MAX_DROP = 0.01
#: Of the test split.
IMAGES = 1_000
CONFIDENCE = 1.959964
"""Quantile of the normal distribution for a confidence of 95%."""


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927)."""
    share, z = right / count, CONFIDENCE
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / count / 2) ** 2)
    return middle - half, middle + half


def cells() -> Iterator[tuple[str, float, bool]]:
    """Front end, share of the data, augmentation, in the order of training."""
    for share, augmented, front_end in product(SHARES, (True, False), FRONT_ENDS):
        yield front_end, share, augmented


def folder(work: Path, front_end: str, share: float, augmented: bool) -> Path:  # noqa: FBT001
    """Where a network of the comparison is trained."""
    return work / f"{front_end}-{share:g}-{'augmented' if augmented else 'plain'}"


def command(front_end: str, share: float, augmented: bool, passes: int) -> list[str]:  # noqa: FBT001
    """``mmedge-train`` of one network, without folders."""
    options: dict[str, object] = {
        **FRONT_ENDS[front_end],
        **RECIPE,
        "share": share,
        "epochs": round(passes / share),
        "threads": 1,
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    arguments.append("--augment" if augmented else "--no-augment")
    return [sys.executable, "-m", "mmedge_export.zoo.train", "vqa", *arguments]


def row(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the results say of a report of ``mmedge-train``."""
    recipe, count = report["recipe"], report["test_questions"]
    kept = ("parameters", "train_seconds", "threads", "train_images", "train_questions")
    accuracy = {}
    for given, share in report["accuracy"].items():
        low, high = wilson(round(share * count), count)
        accuracy[given] = {"share": share, "low": low, "high": high}
    return {
        "recipe": recipe,
        "steps": recipe["epochs"] * max(1, report["train_images"] // recipe["images"]),
        **{name: report[name] for name in (*kept, "train_clips", "test_questions", "test_clips")},
        "accuracy": accuracy,
        "versions": report["versions"],
    }


def collect(work: Path) -> dict[str, Any]:
    """Rows of the networks that are trained, and which are not."""
    rows, missing = [], []
    for front_end, share, augmented in cells():
        cell = {"front_end": front_end, "share": share, "augmented": augmented}
        path = folder(work, front_end, share, augmented) / f"{NAME}.json"
        if path.exists():
            rows.append({**cell, **row(json.loads(path.read_text(encoding="utf-8")))})
        else:
            missing.append(cell)
    return {"rows": rows, "missing": missing}


def measure_bundles(work: Path, cache: Path) -> dict[str, Any]:
    """Export, accuracy and quantization of the classical network, and times of both."""
    speed, accuracy, quantization = [], [], {}
    for front_end in FRONT_ENDS:
        trained = folder(work, front_end, 1.0, augmented=True)
        model = factory(NAME, trained / f"{NAME}.safetensors")
        bundle = trained / "bundle"
        if front_end == "classical":
            accuracy = answer_questions(cache, trained, model)["rows"]
            quantization = quantize_bundle(model, bundle, MAX_DROP)
        else:
            export(model, bundle).close()
        for precision in precisions(bundle):
            measured = bench(bundle, precision, ["--calls", "300"])
            speed.append(
                {
                    "front_end": front_end,
                    "precision": precision,
                    "latency_ms": measured["latency_ms"],
                    "size_bytes": measured["size_bytes"],
                    "others_share": measured["device"]["after"]["cpu_share"]["others"],
                }
            )
    return {"accuracy": accuracy, "quantization": quantization, "speed": speed}


def write(output: Path, changes: Mapping[str, Any]) -> None:
    """Put ``changes`` into the results file."""
    old = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    result = {
        **old,
        "what": f"front ends of {NAME} by a short recipe: accuracy on the easy-VQA test split",
        "date": datetime.now(UTC).date().isoformat(),
        "test_images": IMAGES,
        **changes,
        "device": host.state(),
    }
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Train what is not trained yet, and write the results after each network."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained networks")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="prepared data")
    parser.add_argument("--passes", type=int, default=PASSES, help="over all images")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--bundle", action="store_true", help="measure bundles, train nothing")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.bundle:
        write(options.output, {"bundle": measure_bundles(options.work, options.cache)})
        return
    for front_end, share, augmented in () if options.report else cells():
        out = folder(options.work, front_end, share, augmented)
        if (out / f"{NAME}.json").exists():
            continue
        tell(f"{datetime.now(UTC):%H:%M:%S} {out.name}")
        arguments = command(front_end, share, augmented, options.passes)
        paths = ["--out", str(out), "--cache", str(options.cache)]
        subprocess.run([*arguments, *paths], check=True)
        write(options.output, collect(options.work))
    write(options.output, collect(options.work))


if __name__ == "__main__":
    main()
