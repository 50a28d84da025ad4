"""The tables of ``zoo:hear``, from benchmarks/results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark_tables import load
from label_tables import BY, quantization_text, speed_table

if TYPE_CHECKING:
    from collections.abc import Mapping

WHAT = {
    "known en": "known requests, in English",
    "known zh": "known requests, in Chinese",
    "unseen en": "unseen requests, in English",
    "unseen zh": "unseen requests, in Chinese",
}
RESULTS = "bundle_hear.json"


def hear_accuracy() -> str:
    """Word error rates and texts that are right, by torch and by bundles."""
    data = load(RESULTS)
    columns = [by for by in BY if by in data["rows"][0]]
    head = ["texts", "clips"]
    head += [f"{kind}, {BY[by]}" for kind in ("word errors", "all right") for by in columns]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in data["rows"]:
        cells = [WHAT[row["what"]], f"{row['torch']['clips']:,}"]
        cells += [_share(row[by], "word_error_rate") for by in columns]
        cells += [_share(row[by], "exact") for by in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(measured: Mapping[str, Any], kind: str) -> str:
    return f"{measured[kind]:.1%}" if kind in measured else ""


def hear_whisper() -> str:
    """Word error rates beside a recognizer for all of English."""
    data = load("hear_whisper.json")
    names = ("hear", "whisper-tiny.en")
    lines = [
        "| requests | clips | word errors, hear | word errors, whisper-tiny.en |",
        "|---|---|---|---|",
    ]
    for row in data["rows"]:
        rates = [f"{row[f'{name} word_error_rate']:.1%}" for name in names]
        lines.append(f"| {' | '.join([row['what'], str(row['clips']), *rates])} |")
    return "\n".join(lines)


def hear_speed() -> str:
    """What ``mmedge bench`` says of the bundle."""
    data = load(RESULTS)
    return speed_table(data, "clip") + "\n\n" + _real_time(data)


def _real_time(data: Mapping[str, Any]) -> str:
    factors = [f"{row['real_time_factor']:.4f} ({row['precision']})" for row in data["speed"]]
    return (
        f"Real-time factor, time of a call by the length of its clip: {', '.join(factors)}. "
        "The clips are the samples of mmedge-zoo in turn."
    )


def hear_quantization() -> str:
    """What the gate decided."""
    return quantization_text(
        load(RESULTS),
        "clips, in the two languages in turn",
        "the mean share of right words is {int8} ({fp32} in float32; a Chinese text counts as one "
        "word)",
    )


def hear_training() -> str:
    """What was trained, and for how long."""
    (network,) = load("zoo_hear.json")["networks"]
    recipe, phrases = network["recipe"], network["phrases"]
    steps = recipe["epochs"] * recipe["steps"]
    versions = network["versions"]
    return (
        f"{network['parameters'] / 1e6:.2f} M parameters, {steps:,} steps of {recipe['clips']} "
        f"clips, {network['train_seconds'] / 60:.0f} min on {network['threads']} thread shared "
        f"with other work. {phrases['known']:,} known requests, {phrases['unseen']:,} unseen; "
        f"{network['train_clips']:,} training clips, {network['train_hours']:.1f} hours; "
        f"{network['tokens']} tokens. {versions['espeak-ng']}, torch {versions['torch']}."
    )
