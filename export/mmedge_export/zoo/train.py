"""``mmedge-train``: train a reference network from public data."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from mmedge_export.zoo import questions, weight_file
from mmedge_export.zoo.evaluate import accuracy, held_out
from mmedge_export.zoo.speech import corpus
from mmedge_export.zoo.training import Recipe, Trainer
from mmedge_export.zoo.vqa import AUDIO, FUSION, IMAGE, TEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHOICES = {"image": IMAGE, "text": TEXT, "audio": AUDIO, "fusion": FUSION}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmedge-train",
        description="Train a reference network on easy-vqa, with questions spoken by espeak-ng.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for field in fields(Recipe):
        choices = sorted(_CHOICES[field.name]) if field.name in _CHOICES else None
        parser.add_argument(
            f"--{field.name}",
            type=type(field.default),
            default=field.default,
            choices=choices,
            help=field.metadata["help"],
        )
    parser.add_argument("--out", type=Path, default=Path("zoo"), help="directory for what is made")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mmedge"
    parser.add_argument("--cache", type=Path, default=cache, help="directory for spoken questions")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch")
    parser.add_argument("--limit", type=int, default=None, help="train on the first images only")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate on the whole test split, and write weights and a report.

    ``--out`` gets ``vqa-<fusion>.safetensors`` (the averaged weights), ``vqa-<fusion>.json``
    (recipe, accuracy, time, versions) and ``vqa-<fusion>.checkpoint``, from which the same command
    takes an interrupted run up again.
    """
    options = _parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    data, test = questions.load("train"), questions.load("test")
    if options.limit is not None:
        data = data.first(options.limit)
    readings = corpus("train", data.texts, options.cache, takes=recipe.takes)
    unheard = held_out(test.texts, options.cache)
    trainer = Trainer(recipe, data, readings)
    options.out.mkdir(parents=True, exist_ok=True)
    base = options.out / f"vqa-{recipe.fusion}"
    checkpoint = base.with_suffix(".checkpoint")
    if checkpoint.exists():
        trainer.restore(checkpoint)
    while trainer.epoch < recipe.epochs:
        state = trainer.run_epoch()
        state_text = "  ".join(f"{name} {value:.4f}" for name, value in state.items())
        tqdm.write(f"epoch {trainer.epoch}: {state_text}")
        trainer.save(checkpoint)
    accuracies = accuracy(trainer.average, test, unheard)
    weight_file.save(
        trainer.average,
        asdict(recipe),
        base.with_suffix(".safetensors"),
        data=f"easy-vqa {questions.VERSION}",
    )
    report = {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in trainer.average.parameters()),
        "train_questions": len(data),
        "train_clips": len(readings),
        "train_seconds": round(trainer.seconds, 1),
        "threads": options.threads,
        "test_questions": len(test),
        "test_clips": len(unheard),
        "accuracy": accuracies,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "easy-vqa": questions.VERSION,
        },
    }
    base.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    tqdm.write(json.dumps(accuracies, indent=2))


if __name__ == "__main__":
    main()
