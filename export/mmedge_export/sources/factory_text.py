"""What is known of a network becomes the text of a factory; what is not is marked FILL IN."""

from __future__ import annotations

import keyword
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.model import modality_name
from mmedge_export.sources.source import SourceDraft

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mmedge.spec import Array

__all__ = ["Draft", "DraftInput", "head_lines", "import_lines", "write_draft"]

#: Elements of an example that stand in the text one by one.
LITERAL = 32


@dataclass(frozen=True)
class DraftInput:
    """One input as far as it is known.

    Attributes:
        name: of the input.
        example: an array that the network takes; None: not known.
        dynamic: names of dynamic dimensions by axis.
        note: where the example is from, or what is to be known of it.
    """

    name: str
    example: Array | None
    dynamic: Mapping[int, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Draft:
    """A factory to be.

    Attributes:
        source: what it was made from, as typed.
        imports: lines.
        network: lines that make ``network``, a torch module or the path of an ONNX file.
        inputs: the inputs.
        outputs: names; empty: not known.
        notes: remarks at the head of the file.
    """

    source: str
    imports: Sequence[str]
    network: Sequence[str]
    inputs: Sequence[DraftInput]
    outputs: Sequence[str]
    notes: Sequence[str] = ()

    def missing(self) -> list[str]:
        """What has to be filled in before mmedge export takes it."""
        return [
            *(f"the arguments in: {line}" for line in self.network if "fill_in(" in line),
            *(f"an example of {entry.name}" for entry in self.inputs if entry.example is None),
            *([] if self.outputs else ["the names of the outputs"]),
        ]


def write_draft(draft: Draft, path: Path) -> SourceDraft:
    """The factory that is to lie at ``path``."""
    todo = draft.missing()
    state = (
        ["Fill in what is marked FILL IN:", *(f"- {line}" for line in todo)]
        if todo
        else ["It runs as it stands; what is marked CHECK is a guess."]
    )
    notes = ["", *draft.notes] if draft.notes else []
    head = head_lines(draft.source, path, [*state, *notes])
    imports = {"import numpy as np", "from mmedge_export import Input, Model", *draft.imports}
    body = [
        "from __future__ import annotations",
        "",
        *import_lines(imports),
        "",
        "",
        "def factory() -> Model:",
        '    """The network with its inputs and outputs, for mmedge export."""',
        *(f"    {line}" for line in draft.network),
        "    rng = np.random.default_rng(0)",
        "    return Model(",
        "        network,",
        "        inputs={",
        *_inputs(draft),
        "        },",
        f"        outputs={_outputs(draft)},{_mark(not draft.outputs)}",
        *_OPTIONS,
        "    )",
    ]
    return SourceDraft(
        "\n".join([*head, "", *body]) + "\n",
        tuple(todo),
        {
            entry.name: None
            if entry.example is None
            else f"{entry.example.dtype}{list(entry.example.shape)}"
            for entry in draft.inputs
        },
        tuple(draft.outputs),
    )


def head_lines(source: str, path: Path, notes: Sequence[str]) -> list[str]:
    """The docstring of a factory that is to lie at ``path``."""
    path_text = os.path.relpath(path) if path.is_absolute() else str(path)
    return [
        f'"""What mmedge has to know of {source} (written by mmedge init).',
        "",
        *notes,
        *([""] if notes else []),
        f"    mmedge export {path_text}:factory -o {_stem(source)}.mmedge",
        '"""',
    ]


def import_lines(imports: Collection[str]) -> list[str]:
    """Lines that import something, sorted into groups as usual; ``sys.path`` comes as it is."""
    merged: dict[str, set[str]] = {}
    for one in imports:
        if one.startswith("from mmedge_export"):
            module, _, names = one.removeprefix("from ").partition(" import ")
            merged.setdefault(module, set()).update(names.split(", "))
    lines = {one for one in imports if not one.startswith("from mmedge_export")}
    lines |= {
        f"from {module} import {', '.join(sorted(names))}" for module, names in merged.items()
    }
    standard = [one for one in lines if re.match(r"(import|from) (sys|pathlib|typing)\b", one)]
    network_lines = [
        one for one in lines if re.match(r"from (?!pathlib|typing|mmedge_export)", one)
    ]
    first = [one for one in imports if one.startswith("sys.path")]
    rest = sorted(lines - set(standard) - set(network_lines) - set(first))
    groups = [
        sorted(standard, key=_order),
        sorted(rest, key=_order),
        [*first, *sorted(network_lines)],
    ]
    return "\n\n".join("\n".join(group) for group in groups if group).split("\n")


def _order(line: str) -> tuple[bool, str]:
    return line.startswith("from"), line


_OPTIONS = [
    "        # FILL IN where you have them:",
    "        # samples=...,  # pairs (inputs by name, target): golden samples of the bundle",
    "        # evaluation=..., metric=...,  # what a lower precision is judged by",
    '        # labels={"class": ["cat", "dog"]},  # names of an output\'s classes',
    '        # dims={"batch": (1, 8)},  # smallest and largest size of a dynamic dimension',
]


def _inputs(draft: Draft) -> list[str]:
    lines: list[str] = []
    for entry in draft.inputs:
        lines += [f'            "{entry.name}": Input(']
        if entry.note:
            lines += [f"                # {entry.note}"]
        lines += [f"                {_example(entry)},{_mark(entry.example is None)}"]
        if entry.dynamic:
            axes = ", ".join(f'{axis}: "{name}"' for axis, name in entry.dynamic.items())
            lines += [f"                dynamic={{{axes}}},"]
        else:
            lines += ['                # dynamic={0: "batch"},  # axes whose size may differ']
        modality = modality_name(entry.name)
        lines += [
            "                # FILL IN where it holds:",
            f'                # modality="{modality}",  # inputs that come together share one',
            "                # rate_hz=30.0, max_age_ms=100.0,  # of its sensor",
            '                # required=False, absent="zeros",  # if the network runs without it',
            "            ),",
        ]
    return lines


def _example(entry: DraftInput) -> str:
    """An expression that gives the example."""
    value = entry.example
    if value is None:
        what = f"the shape of {entry.name}, such as (1, 3, 224, 224)"
        return f"np.zeros(fill_in({what!r}), np.float32)"
    dtype = "np.bool_" if value.dtype == np.bool_ else f"np.{value.dtype.name}"
    shape = f"({', '.join(map(str, value.shape))}{',' if value.ndim == 1 else ''})"
    if value.size and (value == value.flat[0]).all():
        number = value.flat[0].item()
        if number == 0:
            return f"np.zeros({shape}, {dtype})"
        if np.isfinite(number):
            return f"np.full({shape}, {number!r}, {dtype})"
    if value.dtype.kind == "f":
        return f"rng.standard_normal({shape}).astype({dtype})"
    if value.size <= LITERAL:
        return f"np.array({value.tolist()!r}, {dtype})"
    if value.dtype == np.bool_:
        return f"rng.random({shape}) < 0.5"
    return f"rng.integers({value.min()}, {int(value.max()) + 1}, {shape}, {dtype})"


def _mark(missing: bool) -> str:  # noqa: FBT001 - whether there is one
    """What stands behind the comma of a line that is to be filled in."""
    return "  # FILL IN" if missing else ""


def _outputs(draft: Draft) -> str:
    if not draft.outputs:
        return '[fill_in("a name for each output")]'
    return "[" + ", ".join(f'"{name}"' for name in draft.outputs) + "]"


def _stem(source: str) -> str:
    """A file's name for what was made from ``source``."""
    last = source.rpartition(":")[2] if not source.lower().endswith(".onnx") else Path(source).stem
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip("-.").lower()
    return name if name and not keyword.iskeyword(name) else "network"
