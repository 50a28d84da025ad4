"""The tables of ``zoo:label-translate``, from benchmarks/results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark_tables import load

if TYPE_CHECKING:
    from collections.abc import Mapping

WHAT = {
    "known en": "names of the dictionary, read",
    "known zh": "names of the dictionary, in Chinese",
    "known de": "names of the dictionary, in German",
    "unseen en": "names never seen, read",
}
BY = {"torch": "torch", "fp32": "bundle", "int8": "bundle, int8"}


def label_accuracy() -> str:
    """Texts and characters that are right, by torch and by bundles."""
    data = load("bundle_label_translate.json")
    columns = [by for by in BY if by in data["rows"][0]]
    head = ["texts", "pictures"]
    head += [f"{kind}, {BY[by]}" for kind in ("all right", "characters") for by in columns]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in data["rows"]:
        cells = [WHAT[row["what"]], f"{row['torch']['pictures']:,}"]
        cells += [f"{row[by][kind]:.1%}" for kind in ("exact", "characters") for by in columns]
        lines.append(f"| {' | '.join(cells)} |")
    known = [row for row in data["rows"] if row["what"].startswith("known ")]
    shares = []
    for by in columns:
        right = sum(row[by]["exact"] * row[by]["pictures"] for row in known)
        shares.append(f"{right / sum(row[by]['pictures'] for row in known):.1%} ({BY[by]})")
    lines += ["", f"Names of the dictionary in all three languages: {', '.join(shares)} all right."]
    return "\n".join(lines)


def label_speed() -> str:
    """What ``mmedge bench`` says of the bundle."""
    return speed_table(load("bundle_label_translate.json"), "picture")


def speed_table(data: Mapping[str, Any], what: str) -> str:
    """Times of a bundle that writes text.

    Args:
        data: results of benchmarks/bundle_accuracy.py.
        what: it looks at or listens to.
    """
    device = data["device"]
    most = max(row["others_share"] for row in data["speed"])
    characters = data["speed"][0]["characters"]
    lines = [
        (
            f"One {what}, {characters} characters, one thread, {device['cores']} cores of "
            f"{device['cpu']}, {data['date']}. Other processes took up to {most:.0%} of the cores "
            "meanwhile."
        ),
        "",
        (
            f"| variant | first character | of it the {what} | the same {what} again "
            "| each further character | whole text | characters a second | size |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['precision']} | {row['first_ms']:.2f} ms | {row['encoders_ms']:.2f} ms "
        f"| {row['first_cached_ms']:.2f} ms | {row['step_ms']:.3f} ms | {row['call_ms']:.2f} ms "
        f"| {row['characters_per_s']:,.0f} | {row['size_bytes'] / 2**20:.1f} MiB |"
        for row in data["speed"]
    ]
    return "\n".join(lines)


def label_quantization() -> str:
    """What the gate decided."""
    return quantization_text(
        load("bundle_label_translate.json"),
        "pictures, in the three languages in turn",
        "{int8} of the texts are right ({fp32} in float32)",
    )


def quantization_text(data: Mapping[str, Any], samples: str, metric: str) -> str:
    """What the gate decided about a bundle that writes text.

    Args:
        data: results of benchmarks/bundle_accuracy.py.
        samples: what the gate counted.
        metric: what is right of them, with ``{int8}`` and ``{fp32}``.
    """
    decided = data["quantization"]
    if "refused" in decided:
        return f"`mmedge quantize` added no int8 variant: {decided['refused']}"
    if not decided["variant"]:
        return "`mmedge quantize` added no int8 variant: none that kept the limit paid."
    order = " (for speed it kept none)" if decided["goal"] == "size" else ""
    others = decided["others_share"]
    busy = "" if others is None else f" Other processes took {others:.0%} of the cores meanwhile."
    before, after = (size / 2**20 for size in decided["bytes"])
    summary = decided["summary"]
    shares = {by: f"{decided[f'metric_{by}']:.1%}" for by in ("int8", "fp32")}
    return (
        f"`mmedge quantize --precision int8 --max-drop {decided['max_drop']} --for "
        f"{decided['goal']}`{order} kept a variant of {after:.1f} MiB ({before:.1f} MiB in "
        f"float32). On {decided['samples']:,} {samples}, {metric.format(**shares)}: a drop of "
        f"{summary['drop']}. A call: {summary['latency']}.{busy}"
    )


def label_training() -> str:
    """What was trained, and for how long."""
    (network,) = load("zoo_label_translate.json")["networks"]
    recipe, names = network["recipe"], network["names"]
    steps = recipe["epochs"] * recipe["steps"]
    return (
        f"{network['parameters'] / 1e6:.2f} M parameters, {steps:,} steps of {recipe['images']} "
        f"pictures, {network['train_seconds'] / 60:.0f} min on {network['threads']} thread shared "
        f"with other work. {names['dictionary']:,} names in the dictionary, "
        f"{names['reading']:,} to read, {names['unseen']:,} never seen; {network['tokens']} "
        f"tokens; {network['families']} families of fonts, {network['photos']} photos. "
        f"iso-codes {network['versions']['iso-codes']}, torch "
        f"{network['versions']['torch']}."
    )
