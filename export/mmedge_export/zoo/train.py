"""``mmedge-train TASK``: train a reference network from public data."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from mmedge_export.zoo import weight_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge_export.zoo.task import Task, TrainingRun

TASKS = {
    "vqa": "vqa",
    "label-translate": "label_translate",
    "hear": "hear",
    "draw": "draw",
    "speak": "speak",
}
"""Every task, and its folder, whose module ``task`` has it as ``TASK``."""


def task(name: str) -> Task:
    """A task by name; what it needs is imported only now."""
    loaded: Task = import_module(f"mmedge_export.zoo.{TASKS[name]}.task").TASK
    return loaded


def parser_of(name: str) -> argparse.ArgumentParser:
    """The options of a task: those of its recipe, its others, and those of every run."""
    chosen = task(name)
    parser = argparse.ArgumentParser(
        prog=f"mmedge-train {name}",
        description=chosen.summary,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for field in fields(chosen.recipe):
        name_of_option = f"--{field.name.replace('_', '-')}"
        text = field.metadata["help"]
        if isinstance(field.default, bool):
            parser.add_argument(
                name_of_option,
                action=argparse.BooleanOptionalAction,
                default=field.default,
                help=text,
            )
            continue
        parser.add_argument(
            name_of_option,
            type=type(field.default),
            default=field.default,
            choices=chosen.choices.get(field.name),
            help=text,
        )
    parser.add_argument("--out", type=Path, default=Path("zoo"), help="directory for what is made")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mmedge"
    parser.add_argument("--cache", type=Path, default=cache, help="directory for prepared data")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch")
    chosen.add_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate on what was held out, and write weights and a report.

    ``--out`` gets ``NAME.safetensors`` (the averaged weights), ``NAME.json`` (recipe, accuracy,
    time, versions) and ``NAME.checkpoint``, from which the same command takes an interrupted run up
    again.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = argparse.ArgumentParser(
        prog="mmedge-train",
        description="Train a reference network. mmedge-train TASK --help has the task's options.",
    )
    first.add_argument("task", choices=sorted(TASKS), help="what the network does")
    name = first.parse_args(arguments[:1]).task
    options = parser_of(name).parse_args(arguments[1:])
    torch.set_num_threads(options.threads)
    chosen = task(name)
    recipe = chosen.recipe(**{f.name: getattr(options, f.name) for f in fields(chosen.recipe)})
    options.out.mkdir(parents=True, exist_ok=True)
    run(chosen.start(recipe, options), options.out, options.threads)


def run(training_run: TrainingRun, out: Path, threads: int) -> None:
    """Train to the end, from the last checkpoint if there is one; then evaluate and write."""
    trainer = training_run.trainer
    checkpoint = out / f"{training_run.name}.checkpoint"
    if checkpoint.exists():
        trainer.restore(checkpoint)
    while trainer.epoch < trainer.recipe.epochs:
        state = trainer.run_epoch()
        state_text = "  ".join(f"{name} {value:.4f}" for name, value in state.items())
        tqdm.write(f"epoch {trainer.epoch}: {state_text}")
        trainer.save(checkpoint)
    recipe = asdict(trainer.recipe)
    weights = out / f"{training_run.name}.safetensors"
    weight_file.save(trainer.average, recipe, weights, data=training_run.data)
    for ending, text in training_run.companions().items():
        (out / f"{training_run.name}{ending}").write_text(text, encoding="utf-8")
    accuracies = training_run.evaluate()
    facts = training_run.facts()
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        **facts.pop("versions"),
    }
    report = {
        "recipe": recipe,
        "parameters": sum(p.numel() for p in trainer.average.parameters()),
        "train_seconds": round(trainer.seconds, 1),
        "threads": threads,
        **facts,
        "accuracy": accuracies,
        "versions": versions,
    }
    (out / f"{training_run.name}.json").write_text(json.dumps(report, indent=2) + "\n")
    tqdm.write(json.dumps(accuracies, indent=2))


if __name__ == "__main__":
    main()
