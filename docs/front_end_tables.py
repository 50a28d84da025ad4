"""The tables of classical front ends of ``zoo:vqa-attention``, from benchmarks/results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark_tables import load
from label_tables import quantization_text

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "zoo_front_ends.json"


def front_ends() -> str:
    """Accuracy of each network that was trained, and which are missing."""
    data = load(FILE)
    rows = sorted(data["rows"], key=_order)
    givens = list(rows[0]["accuracy"])
    head = ["data", "augmentation", "front ends", *givens]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [*_cell(row), *(_share(row["accuracy"][given]) for given in givens)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        f"| {' | '.join([*_cell(row), *['not trained'] * 3])} |"
        for row in sorted(data["missing"], key=_order)
    ]
    recipe, versions = rows[0]["recipe"], rows[0]["versions"]
    steps = " or ".join(f"{n:,}" for n in sorted({row["steps"] for row in rows}))
    sizes = {row["train_images"]: row["train_clips"] for row in rows}
    trained = "; ".join(f"{n:,} images and {clips:,} clips" for n, clips in sorted(sizes.items()))
    minutes = [row["train_seconds"] / 60 for row in rows]
    lines += [
        "",
        (
            f"{steps} steps of {recipe['images']} images, at most {recipe['spoken']} questions of "
            f"a step read aloud; {trained}. {min(minutes):.0f} to {max(minutes):.0f} min each on "
            f"{rows[0]['threads']} thread, which other work slowed down. In brackets: the 95% "
            f"interval by a bootstrap over the {data['test_images']:,} test images. torch "
            f"{versions['torch']}, easy-vqa {versions['easy-vqa']}, {data['date']}."
        ),
    ]
    return "\n".join(lines)


def front_ends_kinds() -> str:
    """What the networks get right by kind of question."""
    data = load(FILE)
    rows = sorted(data["rows"], key=_order)
    kinds = rows[0]["questions"]
    columns = [("image+text", kind) for kind in kinds]
    # Where the voice is told from the picture: every network knows the colors.
    columns += [("image+voice", kind) for kind in kinds if "color" in kind]
    way = {"image+text": "by text", "image+voice": "by voice"}
    head = ["data", "augmentation", "front ends"]
    head += [f"{kind}, {way[given]} ({kinds[kind]:,})" for given, kind in columns]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        shares = [row["accuracy"][given]["by_kind"][kind] for given, kind in columns]
        lines.append(f"| {' | '.join([*_cell(row), *(f'{share:.1%}' for share in shares)])} |")
    changes = [f"{name} by {share:.0%}" for name, share in data["changes"].items()]
    lines += [
        "",
        (
            f"Light and sensor noise of the augmentation change {', '.join(changes)} of what "
            f"differs within an image (root mean squares over the {data['test_images']:,} test "
            "images)."
        ),
    ]
    return "\n".join(lines)


def _order(row: Mapping[str, Any]) -> tuple[float, bool, bool]:
    return row["share"], not row["augmented"], row["front_end"] != "learned"


def _cell(row: Mapping[str, Any]) -> list[str]:
    augmented = "with" if row["augmented"] else "without"
    return [f"{row['share']:.0%}", augmented, row["front_end"]]


def _share(accuracy: Mapping[str, float]) -> str:
    low, high = (100 * accuracy[end] for end in ("low", "high"))
    return f"{accuracy['share']:.1%} [{low:.1f}, {high:.1f}]"


def front_ends_bundle() -> str:
    """The classical network's bundle beside torch, in int8, and the times of both networks."""
    data = load(FILE)
    bundle, device = data["bundle"], data["device"]
    lines = [
        (
            f"The classical network of {bundle['share']:.0%} of the data, with augmentation, "
            "exported and verified by `export`, on the whole test split:"
        ),
        "",
        "| given | torch | bundle on ONNX Runtime |",
        "|---|---|---|",
    ]
    lines += [
        f"| {row['given']} | {row['torch']:.2%} | {row['bundle']:.2%} |"
        for row in bundle["accuracy"]
    ]
    decided = quantization_text(
        bundle,
        "questions of the test split, by text and by voice in turn",
        "{int8} of the answers are right ({fp32} in float32)",
    )
    lines += ["", decided, ""]
    head = ["front ends", "variant", "whole call", "image encoder", "audio encoder", "size"]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in bundle["speed"]:
        pairs = [row[name] for name in ("call_ms", "image_ms", "audio_ms")]
        times = [f"{time['p50']:.2f} ({time['min']:.2f}) ms" for time in pairs]
        size = f"{row['size_bytes'] / 2**20:.1f} MiB"
        lines.append(f"| {' | '.join([row['front_end'], row['precision'], *times, size])} |")
    most = max(row["others_share"] for row in bundle["speed"])
    lines += [
        "",
        (
            f"`mmedge bench` with one thread on {device['cores']} cores of {device['cpu']}, "
            f"{bundle['speed'][0]['inputs']}: the median, and the least in brackets. Other "
            f"processes took up to {most:.0%} of the cores meanwhile. So a median is the machine's "
            "more than the network's; the least times are the ones to compare."
        ),
    ]
    return "\n".join(lines)
