"""Accuracy of the exported reference network beside torch's, on the whole easy-VQA test split.

The bundle is made by ``export`` and run by ``mmedge.load`` as an application would, on the raw
inputs, for every set of modalities a question may come by; torch answers the same questions.
Needs easy-vqa and espeak-ng. Run: ``python benchmarks/bundle_accuracy.py``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import mmedge
from mmedge.bench.machine import host
from mmedge_export import export
from mmedge_export.zoo import factory
from mmedge_export.zoo.pcm import pad, to_float
from mmedge_export.zoo.vqa.evaluate import SUBSETS, accuracy, draw, held_out
from mmedge_export.zoo.vqa.network import VqaNet
from mmedge_export.zoo.vqa.questions import Questions, load
from mmedge_export.zoo.vqa.tokenizer import encode

if TYPE_CHECKING:
    from mmedge_export.zoo.speech import Corpus

RESULTS = Path(__file__).parent / "results" / "bundle_accuracy.json"
NAME = "vqa-attention"
BATCH = 64


def of_bundle(pipe: mmedge.Pipeline, data: Questions, clips: Corpus) -> dict[str, float]:
    """Share of right answers of a loaded bundle for each set of modalities.

    The clip of each question is the one that torch heard: the same draw, by the same seed.
    """
    drawn = draw(data, clips)
    tokens = encode(data.texts)
    # Clips of like length together, so that little of a batch is padding.
    order = np.argsort([len(clips.clip(i)) for i in drawn.tolist()], kind="stable")
    right = dict.fromkeys(SUBSETS, 0)
    for start in range(0, len(order), BATCH):
        pick = order[start : start + BATCH]
        whole = {
            "image": data.images[data.image[pick]],
            "text": tokens[data.text[pick]],
            "audio": pad([to_float(clips.clip(i)) for i in drawn[pick].tolist()]),
        }
        for name, (has_text, has_voice) in SUBSETS.items():
            given = {"image": True, "text": has_text, "audio": has_voice}
            answer = pipe.run({key: value for key, value in whole.items() if given[key]})["answer"]
            right[name] += int((answer.argmax(axis=1) == data.answer[pick]).sum())
    return {name: count / len(data) for name, count in right.items()}


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache/speech"), help="spoken questions"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    data = load("test")
    clips = held_out(data.texts, options.cache)
    model = factory(NAME)
    assert isinstance(model.module, VqaNet)  # noqa: S101
    torch_accuracy = accuracy(model.module, data, clips)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bundle")
        export(model, path).close()
        with mmedge.load(path, backend="ort", precision="fp32", device="cpu") as pipe:
            bundle_accuracy = of_bundle(pipe, data, clips)
    result = {
        "what": f"accuracy of {NAME} on the easy-VQA test split, held-out voices",
        "date": datetime.now(UTC).date().isoformat(),
        "questions": len(data),
        "rows": [
            {"given": name, "torch": torch_accuracy[name], "bundle": bundle_accuracy[name]}
            for name in SUBSETS
        ],
        "device": host.state(),
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["rows"], indent=2))


if __name__ == "__main__":
    main()
