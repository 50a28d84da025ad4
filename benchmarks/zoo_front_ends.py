"""Classical front ends of the reference network beside learned ones, with little and much data.

Trains ``vqa-attention`` by one short recipe (learned or classical front ends, all or a tenth of the
data, with or without augmentation) and writes the accuracy on the whole test split.
``python benchmarks/zoo_front_ends.py --work DIR --cache DIR`` takes up what an interrupted run
left: finished networks are kept, the one in training goes on from its last epoch. ``--report``
trains nothing and writes what there is; ``--bundle SHARE`` exports the networks trained on that
share with augmentation, compares the classical one with torch, quantizes it and times both;
``--speed`` times them anew. Needs easy-vqa and espeak-ng.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from bundle_accuracy import answer_questions
from zoo_bundles import bench, precisions, quantize_bundle, tell

from mmedge.bench.machine import host
from mmedge_export import export
from mmedge_export.zoo import factory, weight_file
from mmedge_export.zoo.vqa import augment
from mmedge_export.zoo.vqa.classical import Classical, pixels
from mmedge_export.zoo.vqa.evaluate import held_out, right_answers
from mmedge_export.zoo.vqa.image import normalise
from mmedge_export.zoo.vqa.network import VqaNet
from mmedge_export.zoo.vqa.questions import load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from mmedge_export.zoo.speech import Corpus
    from mmedge_export.zoo.vqa.questions import Questions

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
#: Of ``mmedge bench``: few, since the least time needs no steady machine.
CALLS = ("--calls", "600", "--warmup", "200", "--sessions", "1")
DRAWS = 2_000
"""Of the bootstrap."""
#: A question or two of the test split, where sums are taken in another order.
TOLERANCE = 2.5e-4


def interval(right: NDArray[np.bool_], image: NDArray[np.int64]) -> tuple[float, float]:
    """The 95% interval of the share of right answers, by a bootstrap over images.

    About ten questions are asked about an image and stand or fall together, so images are drawn,
    and not questions (a cluster bootstrap, percentiles of :data:`DRAWS` draws).

    Args:
        right: bool ``[questions]``.
        image: int64 ``[questions]``, the image of each.
    """
    rights, counts = np.bincount(image, right), np.bincount(image)
    rights, counts = rights[counts > 0], counts[counts > 0]
    n = len(counts)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS)
    low, high = np.percentile(weights @ rights / (weights @ counts), [2.5, 97.5])
    return float(low), float(high)


def kind_of(question: str) -> str:
    """What a question of easy-vqa asks for."""
    if question.startswith("what"):
        return "which color" if "color" in question else "which shape"
    shape = re.search("circle|rectangle|triangle", question)
    return "yes or no, shape" if shape else "yes or no, color"


@dataclass(frozen=True)
class Cell:
    """One network of the comparison.

    Attributes:
        front_end: one of :data:`FRONT_ENDS`.
        share: of the data.
        augmented: whether images and clips are changed at random.
    """

    front_end: str
    share: float
    augmented: bool

    def folder(self, work: Path) -> Path:
        """Where it is trained."""
        changes = "augmented" if self.augmented else "plain"
        return work / f"{self.front_end}-{self.share:g}-{changes}"

    def command(self, passes: int) -> list[str]:
        """``mmedge-train`` of it, without folders."""
        options: dict[str, object] = {
            **FRONT_ENDS[self.front_end],
            **RECIPE,
            "share": self.share,
            "epochs": round(passes / self.share),
            "threads": 1,
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        arguments.append("--augment" if self.augmented else "--no-augment")
        return [sys.executable, "-m", "mmedge_export.zoo.train", "vqa", *arguments]


def cells() -> list[Cell]:
    """The networks in the order of training.

    With all data the classical ones come first: where time runs out, it is known of the shipped
    network what learned front ends reach.
    """
    return [
        Cell(front_end, share, augmented)
        for share in SHARES
        for augmented in (True, False)
        for front_end in (FRONT_ENDS if share < 1 else reversed(FRONT_ENDS))
    ]


def judge(weights: Path, data: Questions, clips: Corpus) -> dict[str, Any]:
    """Accuracy on a split for each set of modalities, with an interval and by kind of question."""
    kinds = np.array([kind_of(data.texts[text]) for text in data.text])
    accuracy = {}
    answers = right_answers(weight_file.load(weights, VqaNet), data, clips)
    for given, right in answers.items():
        low, high = interval(right, data.image)
        by_kind = {str(kind): float(right[kinds == kind].mean()) for kind in np.unique(kinds)}
        accuracy[given] = {
            "share": float(right.mean()), "low": low, "high": high, "by_kind": by_kind,
        }  # fmt: skip
    names, counts = np.unique(kinds, return_counts=True)
    return {
        "accuracy": accuracy,
        "questions": dict(zip(names.tolist(), counts.tolist(), strict=True)),
    }


def row(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the results say of a report of ``mmedge-train``, besides accuracy."""
    recipe = report["recipe"]
    kept = (
        "parameters", "train_seconds", "threads", "train_images", "train_questions", "train_clips",
        "test_questions", "test_clips", "versions",
    )  # fmt: skip
    return {
        "recipe": recipe,
        "steps": recipe["epochs"] * max(1, report["train_images"] // recipe["images"]),
        **{name: report[name] for name in kept},
    }


def collect(work: Path, cache: Path) -> dict[str, Any]:
    """Rows of the networks that are trained, and which are not."""
    data = load("test")
    clips = held_out(data.texts, cache)
    rows, missing = [], []
    for cell in cells():
        path = cell.folder(work) / f"{NAME}.json"
        if not path.exists():
            missing.append(asdict(cell))
            continue
        report = json.loads(path.read_text(encoding="utf-8"))
        figures = path.with_name("figures.json")
        if not figures.exists():
            judged = judge(path.with_suffix(".safetensors"), data, clips)
            figures.write_text(json.dumps(judged), encoding="utf-8")
        judged = json.loads(figures.read_text(encoding="utf-8"))
        for given, share in report["accuracy"].items():
            if abs(judged["accuracy"][given]["share"] - share) > TOLERANCE:
                raise SystemExit(
                    f"{path}: {given} {share}, but {judged['accuracy'][given]['share']} by the "
                    "weights beside it; delete the folder and train again"
                )
        rows.append({**asdict(cell), **row(report), **judged})
    return {
        "rows": rows,
        "missing": missing,
        "test_images": len(data.images),
        "changes": changes(data.images),
    }


def changes(frames: NDArray[np.uint8]) -> dict[str, float]:
    """How much light and sensor noise of the augmentation change features of images.

    Args:
        frames: uint8 ``[images, 64, 64, 3]``.

    Returns:
        For RGB, gradients and colors: root mean square of the change, over that of what differs
        from place to place within an image.
    """
    rng = np.random.default_rng(0)
    exposed = np.stack([augment.expose(frame, rng) for frame in frames])
    encoder = Classical(8)

    def gradients(frame: Tensor) -> Tensor:
        found: Tensor = encoder.sobel(pixels(frame))
        return found

    def colors(frame: Tensor) -> Tensor:
        found: Tensor = encoder.segmentation(pixels(frame))
        return found

    shares = {}
    for name, maps in {"RGB": normalise, "gradients": gradients, "colors": colors}.items():
        before, after = maps(torch.from_numpy(frames)), maps(torch.from_numpy(exposed))
        contrast = before - before.mean((2, 3), keepdim=True)
        share = (after - before).square().mean() / contrast.square().mean()
        shares[name] = float(share.sqrt())
    return shares


def measure_bundles(work: Path, cache: Path, share: float) -> dict[str, Any]:
    """Export, accuracy and quantization of a classical network, and times of both front ends."""
    accuracy, quantization = [], {}
    for front_end in FRONT_ENDS:
        trained = Cell(front_end, share, augmented=True).folder(work)
        model = factory(NAME, trained / f"{NAME}.safetensors")
        if front_end == "classical":
            accuracy = answer_questions(cache, trained, model)["rows"]
            quantization = quantize_bundle(model, trained / "bundle", MAX_DROP)
        else:
            export(model, trained / "bundle").close()
    speed = time_bundles(work, share)
    return {"share": share, "accuracy": accuracy, "quantization": quantization, "speed": speed}


def time_bundles(work: Path, share: float) -> list[dict[str, Any]]:
    """What ``mmedge bench`` says of whole calls, and of the encoders in the plan that is cut.

    The least time as well as the median, which is that of the machine where it is busy.
    """
    rows = []
    for front_end in FRONT_ENDS:
        bundle = Cell(front_end, share, augmented=True).folder(work) / "bundle"
        for precision in precisions(bundle):
            whole, cut = (
                bench(bundle, precision, [*CALLS, "--plan", plan]) for plan in ("whole", "cut")
            )
            times = {
                "call": whole["latency_ms"],
                "image": cut["stages"]["image"],
                "audio": cut["stages"]["audio"],
            }
            shares = [run["device"]["after"]["cpu_share"]["others"] for run in (whole, cut)]
            rows.append(
                {
                    "front_end": front_end,
                    "precision": precision,
                    **{
                        f"{name}_ms": {"p50": time["p50"], "min": time["min"]}
                        for name, time in times.items()
                    },
                    "size_bytes": whole["size_bytes"],
                    "inputs": whole["load"]["inputs"],
                    "others_share": max(shares),
                }
            )
    return rows


def write(output: Path, changes: Mapping[str, Any]) -> None:
    """Put ``changes`` into the results file."""
    old = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    result = {
        **old,
        "what": f"front ends of {NAME} by a short recipe: accuracy on the easy-VQA test split",
        "date": datetime.now(UTC).date().isoformat(),
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
    parser.add_argument(
        "--bundle", type=float, metavar="SHARE", help="measure bundles of it, train nothing"
    )
    parser.add_argument("--speed", action="store_true", help="time the bundles in --work again")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.speed:
        measured = json.loads(options.output.read_text(encoding="utf-8"))["bundle"]
        speed = time_bundles(options.work, measured["share"])
        write(options.output, {"bundle": {**measured, "speed": speed}})
        return
    if options.bundle is not None:
        measured = measure_bundles(options.work, options.cache, options.bundle)
        write(options.output, {"bundle": measured})
        return
    for cell in () if options.report else cells():
        out = cell.folder(options.work)
        if (out / f"{NAME}.json").exists():
            continue
        tell(f"{datetime.now(UTC):%H:%M:%S} {out.name}")
        paths = ["--out", str(out), "--cache", str(options.cache)]
        subprocess.run([*cell.command(options.passes), *paths], check=True)
        write(options.output, collect(options.work, options.cache))
    write(options.output, collect(options.work, options.cache))


if __name__ == "__main__":
    main()
