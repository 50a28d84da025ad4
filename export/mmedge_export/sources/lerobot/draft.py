"""The factory that ``mmedge init lerobot:FOLDER`` writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mmedge_export.sources.source import SourceDraft

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge_export.model import Model

__all__ = ["draft_policy"]

_TEXT = '''\
"""What mmedge has to know of {spec} (written by mmedge init).

It runs as it stands. mmedge reads the policy; change what it says of it below.

    mmedge export {path}:factory -o {name}.mmedge
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmedge_export import Model
from mmedge_export.sources.lerobot.source import LeRobotSource
from mmedge_export.sources.source import SourceOptions

POLICY = Path(__file__).resolve().parent / {there!r}

#: Values a second that each sensor delivers; None: not said.
RATES = {rates!r}


def factory() -> Model:
    """The policy with its inputs and outputs, for mmedge export."""
    model = LeRobotSource().read(f"lerobot:{{POLICY}}", SourceOptions()).model
    # Inputs: {inputs}
    # Outputs: {outputs}
    inputs = {{
        name: replace(value, rate_hz=RATES[name])  # required=False: may be missing
        for name, value in model.inputs.items()
    }}
    return replace(
        model,
        inputs=inputs,
        # samples=[({{"name": array, ...}}, target), ...]: real ones, which become golden samples.
        # metric=..., evaluation=...: to quantize.
        dims={dims!r},
    )
'''


def draft_policy(spec: str, folder: Path, model: Model, output: Path) -> SourceDraft:
    """A factory for a policy.

    Args:
        spec: as the user typed it.
        folder: of the policy.
        model: that was read from it.
        output: where the factory is to lie; its path to the folder is relative.
    """
    words = {
        name: f"{value.example.dtype.name} {list(value.shape())}"
        for name, value in model.inputs.items()
    }
    outputs = list(model.outputs) or list(getattr(model.loop, "outputs", ()))
    text = _TEXT.format(
        spec=spec,
        path=os.path.relpath(output) if output.is_absolute() else str(output),
        name=folder.resolve().name,
        there=os.path.relpath(folder.resolve(), output.resolve().parent),
        rates={name: value.rate_hz for name, value in model.inputs.items()},
        inputs=", ".join(f"{name} {value}" for name, value in words.items()),
        outputs=", ".join(outputs),
        dims=dict(model.dims),
    )
    return SourceDraft(text, inputs=words, outputs=outputs)
