"""Accuracy of exported reference networks beside torch's, on what training never saw.

The bundle is made by ``export`` and run by ``mmedge.load`` as an application would, on raw inputs;
torch gets the same. Run ``python benchmarks/bundle_accuracy.py vqa`` (needs easy-vqa and
espeak-ng), ``... label-translate`` (needs ``iso-codes``, fonts and scikit-image), ``... hear``
(needs espeak-ng), ``... draw`` (needs easy-vqa) or ``... speak`` (needs espeak-ng). All but ``vqa``
also quantize behind the network's own metric, and time each variant with ``mmedge bench``:
``--speed`` times them anew and leaves the rest, for a machine that was busy meanwhile.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bundle_draw import draw_pictures, time_pictures
from bundle_speak import speak_requests, time_speech
from zoo_bundles import bench, precisions, quantize_bundle

import mmedge
from mmedge.bench.machine import host
from mmedge_export import export
from mmedge_export.zoo import factory
from mmedge_export.zoo.characters import Characters
from mmedge_export.zoo.hear import evaluation as hear
from mmedge_export.zoo.hear import phrases
from mmedge_export.zoo.hear.network import HearNet
from mmedge_export.zoo.label_translate import names
from mmedge_export.zoo.label_translate.evaluation import figures, torch_writer
from mmedge_export.zoo.label_translate.network import LabelNet
from mmedge_export.zoo.pcm import pad, to_float
from mmedge_export.zoo.vqa.evaluate import SUBSETS, accuracy, draw, held_out
from mmedge_export.zoo.vqa.network import VqaNet
from mmedge_export.zoo.vqa.questions import Questions, load
from mmedge_export.zoo.vqa.tokenizer import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge_export.model import Model
    from mmedge_export.zoo.speech import Corpus

    Writer = Callable[[np.ndarray[Any, Any], str], list[str]]

RESULTS = Path(__file__).parent / "results"
FILES = {
    "vqa": "bundle_accuracy.json",
    "label-translate": "bundle_label_translate.json",
    "hear": "bundle_hear.json",
    "draw": "bundle_draw.json",
    "speak": "bundle_speak.json",
}
BATCH = 64
MAX_DROP = 0.01
#: Characters of a call that is timed: as many as a name of the dictionary has, and as many as an
#: English and a Chinese request have in the mean, rounded.
CHARACTERS = {"label-translate": 10, "hear": 16}


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


def answer_questions(cache: Path, folder: Path, model: Model | None = None) -> dict[str, Any]:
    """Questions about images, on the whole easy-VQA test split, by a model or the shipped one."""
    name = "vqa-attention"
    data = load("test")
    clips = held_out(data.texts, cache)
    model = model or factory(name)
    assert isinstance(model.module, VqaNet)  # noqa: S101
    torch_accuracy = accuracy(model.module, data, clips)
    export(model, folder / "bundle").close()
    with mmedge.load(folder / "bundle", backend="ort", precision="fp32", device="cpu") as pipe:
        bundle_accuracy = of_bundle(pipe, data, clips)
    return {
        "what": f"accuracy of {name} on the easy-VQA test split, held-out voices",
        "questions": len(data),
        "rows": [
            {"given": name, "torch": torch_accuracy[name], "bundle": bundle_accuracy[name]}
            for name in SUBSETS
        ],
    }


def write_labels(cache: Path, folder: Path) -> dict[str, Any]:
    """Labels in fonts and over photos held out: known names in each language, unseen names."""
    name = "label-translate"
    model, known = factory(name), names.load()
    assert isinstance(model.module, LabelNet)  # noqa: S101
    characters = Characters(model.module.parts["characters"], names.LANGUAGES)
    return {
        "what": f"texts of {name}, fonts and photos held out",
        **write_texts(
            model,
            folder / "bundle",
            torch_writer(model.module),
            lambda pipe: bundle_writer(pipe, "image", characters),
            lambda writer: figures(writer, known, cache),
        ),
    }


def hear_requests(cache: Path, folder: Path) -> dict[str, Any]:
    """Requests by held-out voices: those that training heard, and those that it did not."""
    model, requests = factory("hear"), phrases.load()
    assert isinstance(model.module, HearNet)  # noqa: S101
    characters = Characters(model.module.parts["characters"], phrases.LANGUAGES)
    return {
        "what": "texts of hear, voices held out",
        **write_texts(
            model,
            folder / "bundle",
            hear.torch_writer(model.module),
            lambda pipe: bundle_writer(pipe, "audio", characters),
            lambda writer: hear.figures(writer, requests, cache),
        ),
    }


def write_texts(
    model: Model,
    bundle: Path,
    by_torch: Writer,
    by_bundle: Callable[[mmedge.Pipeline], Writer],
    judge: Callable[[Writer], dict[str, dict[str, float]]],
) -> dict[str, Any]:
    """Figures of torch and of each variant of the bundle that is made."""
    results = {"torch": judge(by_torch)}
    export(model, bundle).close()
    quantization = quantize_bundle(model, bundle, MAX_DROP)
    variants = ["fp32", "int8"] if quantization.get("variant") else ["fp32"]
    for variant in variants:
        with mmedge.load(bundle, backend="ort", precision=variant, device="cpu") as pipe:
            results[variant] = judge(by_bundle(pipe))
    rows = [
        {"what": what, **{by: measured[what] for by, measured in results.items()}}
        for what in results["torch"]
    ]
    return {"rows": rows, "quantization": quantization}


def bundle_writer(pipe: mmedge.Pipeline, name: str, characters: Characters) -> Writer:
    """An input of a name and a language to texts, by a loaded bundle."""

    def write(inputs: np.ndarray[Any, Any], language: str) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(inputs), BATCH):
            rows = np.ascontiguousarray(inputs[start : start + BATCH])
            token = np.full((len(rows), 1), characters.language(language))
            texts += list(pipe.run({name: rows, "language": token})["text"])
        return texts

    return write


def time_texts(bundle: Path, characters: int) -> list[dict[str, Any]]:
    """What ``mmedge bench`` says of each variant, with one thread and one input at a time."""
    rows = []
    for precision in precisions(bundle):
        measured = bench(bundle, precision, ["--tokens", str(characters), "--calls", "300"])
        loop, call_ms = measured["loop"], measured["latency_ms"]["p50"]
        rows.append(
            {
                "precision": precision,
                "characters": characters,
                "first_ms": loop["first_ms"]["p50"],
                "encoders_ms": loop["encoders_ms"]["p50"],
                "first_cached_ms": loop["first_cached_ms"]["p50"],
                "step_ms": loop["step_ms"]["p50"],
                "call_ms": call_ms,
                "real_time_factor": loop["real_time_factor"],
                "characters_per_s": 1000 * characters / call_ms,
                "size_bytes": measured["size_bytes"],
                "others_share": measured["device"]["after"]["cpu_share"]["others"],
            }
        )
    return rows


TASKS = {
    "vqa": answer_questions,
    "label-translate": write_labels,
    "hear": hear_requests,
    "draw": draw_pictures,
    "speak": speak_requests,
}
SPEED: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    **{task: partial(time_texts, characters=count) for task, count in CHARACTERS.items()},
    "draw": time_pictures,
    "speak": time_speech,
}


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="prepared data")
    parser.add_argument("--work", type=Path, help="empty folder for the bundle, which is kept")
    parser.add_argument(
        "--speed", action="store_true", help="not of vqa: time the bundle in --work again"
    )
    parser.add_argument("--output", type=Path, help="in place of the task's results file")
    options = parser.parse_args()
    if options.speed and options.task not in SPEED:
        parser.error(f"--speed: {options.task} is not timed; these are: {', '.join(SPEED)}")
    output = options.output or RESULTS / FILES[options.task]
    if options.speed:
        result = json.loads(output.read_text(encoding="utf-8"))
        result["speed"] = SPEED[options.task](options.work / "bundle")
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.work or Path(temporary)
            measured = TASKS[options.task](options.cache, folder)
            if options.task in SPEED:
                measured["speed"] = SPEED[options.task](folder / "bundle")
        result = {
            "what": measured.pop("what"),
            "date": datetime.now(UTC).date().isoformat(),
            **measured,
            "device": host.state(),
        }
        print(json.dumps(result["rows"], indent=2))
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
