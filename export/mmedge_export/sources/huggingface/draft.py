"""The factory that ``mmedge init hf:FOLDER`` writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.sources.factory_text import Draft, DraftInput, write_draft
from mmedge_export.sources.huggingface.sensors import parameters_of
from mmedge_export.sources.source import SourceDraft

if TYPE_CHECKING:
    from mmedge_export.sources.source import Source, SourceOptions

__all__ = ["draft_checkpoint"]

_TAKEN = '''\
"""What mmedge has to know of {spec} (written by mmedge init).

It runs as it stands. mmedge reads the checkpoint; change what it says of it below.

    mmedge export {path}:factory -o {name}.mmedge
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmedge_export import Model
from mmedge_export.sources.huggingface.source import HuggingFaceSource
from mmedge_export.sources.source import SourceOptions

CHECKPOINT = Path(__file__).resolve().parent / {there!r}


def factory() -> Model:
    """The network with its inputs and outputs, for mmedge export."""
    options = SourceOptions({options})
    model = HuggingFaceSource().read(f"hf:{{CHECKPOINT}}", options).model
    # Inputs: {inputs}
    # Outputs: {outputs}
    return replace(
        model,
        # samples=[({{"name": array, ...}}, target), ...]: real ones, which become golden samples.
        # metric=..., evaluation=...: to quantize.
        dims={dims!r},
    )
'''


def draft_checkpoint(
    source: Source, spec: str, options: SourceOptions, output: Path
) -> SourceDraft:
    """A factory for a checkpoint.

    Args:
        source: that reads it.
        spec: ``hf:`` and its folder.
        options: as for reading.
        output: where the factory is to lie.

    Raises:
        ExportError: there is no checkpoint there.
    """
    folder = Path(spec.removeprefix("hf:"))
    try:
        model = source.read(spec, options).model
    except ExportError as error:
        return write_draft(_first_version(spec, folder, str(error), output), output)
    there = Path(os.path.relpath(folder.resolve(), output.resolve().parent)).as_posix()
    words = {
        name: f"{value.example.dtype.name} {list(value.shape())}"
        for name, value in model.inputs.items()
    }
    text = _TAKEN.format(
        spec=spec,
        path=os.path.relpath(output) if output.is_absolute() else str(output),
        name=folder.resolve().name,
        there=there,
        options=", ".join(
            f"{each}={getattr(options, each)!r}" for each in sorted(options.names() - {"dims"})
        ),
        inputs=", ".join(f"{name} {value}" for name, value in words.items()),
        outputs=", ".join(model.outputs) or getattr(model.loop, "result", ""),
        dims=dict(model.dims),
    )
    return SourceDraft(text, inputs=words, outputs=list(model.outputs))


def _first_version(spec: str, folder: Path, reason: str, output: Path) -> Draft:
    """What is known of a class that is not taken: how to load it, and what forward takes."""
    import transformers

    try:
        (name,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
        kind = getattr(transformers, name)
        parameters = parameters_of(kind)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ExportError(reason) from error
    there = Path(os.path.relpath(folder.resolve(), output.resolve().parent)).as_posix()
    main = kind.main_input_name
    return Draft(
        spec,
        [
            "from pathlib import Path",
            "",
            f"from transformers import {name}",
            "",
            "from mmedge_export.scaffold import fill_in",
        ],
        [
            f"checkpoint = Path(__file__).resolve().parent / {there!r}",
            f"network = {name}.from_pretrained(checkpoint, use_safetensors=True).eval()",
        ],
        [DraftInput(main, None, {0: "batch"}, "as the processor gives it")],
        [],
        [
            f"mmedge does not take the class by itself: {reason}",
            f"forward takes {', '.join(parameters)}.",
        ],
    )
