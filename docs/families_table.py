"""Tables of what `hf:` and ONNX files give: multimodal classes, real weights, and export time."""

from __future__ import annotations

import collections
from statistics import median
from typing import Any

from benchmark_tables import load

RESULTS = ("taken", "in part", "read", "refused", "wrong", "not tried")


def families_short() -> str:
    """How many classes and families are taken, in a sentence and a table."""
    return short(load("families.json"))


def families() -> str:
    """Every class, by family."""
    return long(load("families.json"))


def export_time() -> str:
    """What an export takes beside torch's own of the same parts."""
    data = load("export_time.json")
    lines = [
        (
            f"{data['device']['cores']} cores of {data['device']['cpu']}, torch "
            f"{data['libraries']['torch']}, {data['date']} (`benchmarks/export_time.py`):"
        ),
        "",
        (
            "| random weights at the sizes of | `mmedge export` | `torch.onnx.export` | ratio | "
            "ratio of processor time |"
        ),
        "|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        ours, plain = (median(row[key][1:]) for key in ("mmedge_s", "torch_s"))
        captured = len(row["parts_captured_first"])
        note = f" ({captured} of {row['parts']} parts captured first)" if captured else ""
        ratio, cpu_ratio = (
            f"{row[f'{kind}ratio']:.2f} ({min(row[f'{kind}ratios']):.2f} to "
            f"{max(row[f'{kind}ratios']):.2f})"
            for kind in ("", "cpu_")
        )
        lines.append(
            f"| {row['network']} | {ours:.1f} s | {plain:.1f} s{note} | {ratio} | {cpu_ratio} |"
        )
    text = (
        f"Geometric mean of these: {data['geometric_mean']:.2f}; of processor time "
        f"{data['cpu_geometric_mean']:.2f}."
    )
    return "\n".join([*lines, "", text])


def real_checkpoints() -> str:
    """Checkpoints with real weights beside transformers."""
    return _real_weights("hf", "transformers")


def real_files() -> str:
    """ONNX files with real weights beside ONNX Runtime."""
    return _real_weights("onnx", "onnxruntime")


def _real_weights(source: str, library: str) -> str:
    data = load("real_checkpoints.json")
    lines = [
        (
            f"`benchmarks/real_checkpoints.py`, {library} {data['libraries'][library]}, "
            f"{data['date']}:"
        ),
        "",
        "| network | compared on new inputs | result |",
        "|---|---|---|",
    ]
    for row in data["rows"]:
        if row["source"] != source:
            continue
        results = [f"{row['same']} of {row['cases']} equal"] if "same" in row else []
        if "largest_difference" in row:
            results.append(
                f"{row['cases']} cases, largest difference {row['largest_difference']:.1e}"
            )
        result = "; ".join(results)
        option = f", exported with `--rtol {row['rtol']:g}`" if row["rtol"] else ""
        lines.append(f"| {row['network']} | {row['what']} | {result}{option} |")
    return "\n".join(lines)


def short(data: dict[str, Any]) -> str:
    """As :func:`families_short`, of given results."""
    lines = [
        (
            f"`benchmarks/families.py` tries every class of transformers "
            f"{data['versions']['transformers']} that names two or more modalities and takes as "
            f"many, each with a tiny random checkpoint and no code of yours ({data['date']}). A "
            "family is all classes of one model type."
        ),
        "",
        f"| | {' | '.join(RESULTS)} | all |",
        "|---" * (len(RESULTS) + 2) + "|",
    ]
    for name, key in (
        ("classes", "classes"),
        ("families, by their worst class", "families"),
        ("families, by their best class", "families_in_part"),
    ):
        count = data[key]
        cells = [f"{count[result]} ({count[result] / count['all']:.0%})" for result in RESULTS]
        lines.append(f"| {name} | {' | '.join(cells)} | {count['all']} |")
    return "\n".join(lines)


def long(data: dict[str, Any]) -> str:
    """As :func:`families`, of given results."""
    families: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in data["rows"]:
        families[row["family"]].append(row)
    lines = ["| family | class | result | takes, and what export says |", "|---|---|---|---|"]
    for family, rows in sorted(families.items()):
        lines += [
            f"| {family} | `{row['class']}` | {row['result']} | {cell(row)} |" for row in rows
        ]
    alone = [f"`{name}`" for name in data["one_modality"]]
    lines += [
        "",
        (
            f"{len(alone)} further classes name two or more modalities and take one by the "
            f"parameters of their forward, such as the vision tower of a family; they do not "
            f"count: {', '.join(alone)}."
        ),
    ]
    return "\n".join(lines)


def cell(row: dict[str, Any]) -> str:
    """What a bundle takes and how it runs; else the reason, in one line."""
    if row["result"] == "taken":
        left_out = [each for each in row["modalities"] if each not in row["takes"]]
        # A decoder gives text that it was not given.
        if row["kind"] == "generate" and "text" in left_out:
            left_out.remove("text")
        without = f"; without {', '.join(left_out)}" if left_out else ""
        return f"{', '.join(row['takes'])} ({row['kind']}){without}"
    reason = " ".join(row["reason"].split()).replace("|", "\\|").replace("<", "&lt;")
    reason = reason if len(reason) <= 240 else f"{reason[:237]}..."
    return f"{reason}"
