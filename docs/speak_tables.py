"""The tables of ``zoo:speak``, from benchmarks/results."""

from __future__ import annotations

from benchmark_tables import load
from label_tables import quantization_text

WHAT = {"unseen": "unseen requests", "known": "known requests, every fourth"}
BY = {
    "espeak": "espeak-ng itself",
    "vocoder": "the vocoder alone, from espeak-ng's bands, pitch and voicing",
    "torch": "torch",
    "fp32": "bundle",
    "int8": "bundle, int8",
}
RESULTS = "bundle_speak.json"


def speak_accuracy() -> str:
    """Word error rates of ``zoo:hear`` by who speaks."""
    rows = load(RESULTS)["rows"]
    head = ["who speaks"]
    for row in rows:
        count = row["torch"]["sentences"]
        head += [f"{WHAT[row['what']]} ({count}): word errors", "all right"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for by, name in BY.items():
        if by not in rows[0]:
            continue
        cells = [name]
        for row in rows:
            cells += [f"{row[by]['word_error_rate']:.2%}", f"{row[by]['exact']:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def speak_whisper() -> str:
    """Word error rates of a recognizer that does not know the grammar."""
    data = load("speak_whisper.json")
    rates = data["word_error_rates"]
    parts = [f"{rate:.1%} ({BY[by]})" for by, rate in rates.items()]
    return f"Word errors of whisper-tiny.en on {data['sentences']} of them: {', '.join(parts)}."


def speak_speed() -> str:
    """What ``mmedge bench`` says of the bundle."""
    data = load(RESULTS)
    device, speed = data["device"], data["speed"]
    most = max(row["others_share"] for row in speed)
    lines = [
        (
            f"Eight sentences in turn, {speed[0]['speech_s']:.2f} s of speech in the mean, one "
            f"thread, {device['cores']} cores of {device['cpu']}, {data['date']}. Other processes "
            f"took up to {most:.0%} of the cores meanwhile."
        ),
        "",
        "| variant | a call, median | 90% of calls within | real-time factor | size |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['precision']} | {row['call_ms']:.2f} ms | {row['p90_ms']:.2f} ms "
        f"| {row['real_time_factor']:.4f} | {row['size_bytes'] / 2**20:.1f} MiB |"
        for row in speed
    ]
    return "\n".join(lines)


def speak_quantization() -> str:
    """What the gate decided."""
    return quantization_text(
        load(RESULTS),
        "requests, unseen ones among them",
        "the mean share of right words is {int8} ({fp32} in float32)",
    )


def speak_training() -> str:
    """What was trained, for how long, and how near it came."""
    (network,) = load("zoo_speak.json")["networks"]
    recipe, sentences = network["recipe"], network["sentences"]
    distances, versions = network["accuracy"]["distances"], network["versions"]
    steps = recipe["epochs"] * (sentences["known"] // recipe["sentences"])
    return (
        f"{network['parameters'] / 1e6:.2f} M parameters, {steps:,} steps of "
        f"{recipe['sentences']} sentences, {network['train_seconds'] / 60:.0f} min on "
        f"{network['threads']} thread shared with other work. {sentences['known']:,} sentences "
        f"({network['train_minutes']:.0f} min of speech), {sentences['unseen']:,} held out. On "
        f"these, at the durations of espeak-ng, the mean distance of a band is "
        f"{4.343 * distances['bands']:.2f} dB and of the pitch {distances['pitch']:.1%}; a "
        f"duration is {10 * distances['durations']:.1f} ms off in the mean of all letters. "
        f"{versions['espeak-ng']}, torch {versions['torch']}."
    )
