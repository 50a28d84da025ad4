"""The tables of ``zoo:draw``, from benchmarks/results."""

from __future__ import annotations

from benchmark_tables import load
from label_tables import BY, quantization_text

WHAT = {
    "known, all parts": "combinations of training; all four parts said",
    "known, color and shape": "combinations of training; color and shape said",
    "held out, all parts": "combinations held out; all four parts said",
    "held out, color and shape": "combinations held out; color and shape said",
}
KINDS = ("color", "shape", "color and shape", "size", "place", "all")


def draw_accuracy() -> str:
    """Pictures that are as their caption says, by torch and by bundles."""
    data = load("bundle_draw.json")
    rows = {row["what"]: row for row in data["rows"]}
    columns = [by for by in BY if by in data["rows"][0]]
    head = ["captions", "by", "pictures", *KINDS]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for what, words in WHAT.items():
        for by in columns:
            figures = rows[what][by]
            cells = [words, BY[by], f"{figures['pictures']:,.0f}"]
            cells += [f"{figures[kind]:.1%}" if kind in figures else "" for kind in KINDS]
            lines.append(f"| {' | '.join(cells)} |")
    real = data["real"]["test pictures"]
    cells = ["real test pictures of easy-vqa, for comparison", "", f"{real['pictures']:,.0f}"]
    cells += [f"{real[kind]:.1%}" if kind in real else "" for kind in (*KINDS[:-1], "")]
    lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_spread() -> str:
    """How pictures differ from noise to noise."""
    data = load("bundle_draw.json")
    rows = {row["what"]: row["torch"] for row in data["rows"]}
    head = ["pictures", "x of the middle", "y of the middle", "longest side", "boxes that differ"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    spreads = {
        'of a caption with color and shape, such as "a red circle"': rows["spread"],
        'of "a shape"': rows["nothing said"],
        "real test pictures of easy-vqa": data["real"]["test pictures"],
    }
    for words, spread in spreads.items():
        cells = [words, *(f"{spread[key]:.1f} pixels" for key in ("x", "y", "side"))]
        cells.append(f"{spread['boxes']:.1%}")
        lines.append(f"| {' | '.join(cells)} |")
    nothing = rows["nothing said"]
    lines += [
        "",
        (
            f'The {nothing["pictures"]} pictures of "a shape" show {nothing["combinations"]} '
            "combinations of color and shape, of the 24 that there are, held-out ones "
            "included."
        ),
    ]
    return "\n".join(lines)


def draw_speed() -> str:
    """What ``mmedge bench`` says of the bundle."""
    data = load("bundle_draw.json")
    device = data["device"]
    most = max(row["others_share"] for row in data["speed"])
    lines = [
        (
            f"One picture at a time, {data['speed'][0]['steps']} steps, one thread, "
            f"{device['cores']} cores of {device['cpu']}, {data['date']}. Other processes took up "
            f"to {most:.0%} of the cores meanwhile."
        ),
        "",
        "| variant | a step | a picture | size |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['precision']} | {row['step_ms']:.1f} ms | {row['call_ms'] / 1000:.3f} s "
        f"| {row['size_bytes'] / 2**20:.1f} MiB |"
        for row in data["speed"]
    ]
    return "\n".join(lines)


def draw_quantization() -> str:
    """What the gate decided."""
    text = quantization_text(
        load("bundle_draw.json"),
        "captions that say all four parts",
        "{int8} of the pictures are right in all of them ({fp32} in float32)",
    )
    return f"{text} All pictures of the gate begin with the same noise, that of seed 0."


def draw_training() -> str:
    """What was trained, and for how long."""
    (network,) = load("zoo_draw.json")["networks"]
    recipe = network["recipe"]
    steps = recipe["epochs"] * recipe["steps"]
    return (
        f"{network['parameters'] / 1e6:.2f} M parameters, {steps:,} steps of {recipe['images']} "
        f"pictures, {network['train_seconds'] / 60:.0f} min on {network['threads']} thread shared "
        f"with other work. {network['train_pictures']:,} training pictures. torch "
        f"{network['versions']['torch']}."
    )
