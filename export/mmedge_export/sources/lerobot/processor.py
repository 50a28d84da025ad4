"""What the processors of a policy do, read from their files; nothing that these name is imported.

lerobot saves the steps before a policy as ``policy_preprocessor.json`` and those behind it as
``policy_postprocessor.json``, each with a file of statistics.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["POSTPROCESSOR", "PREPROCESSOR", "Normalization", "Processor", "read_processor"]

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"

#: Names of lower and upper statistics that become -1 and 1.
_BOUNDS = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}

#: Steps that do nothing to values that come as a batch on the right device.
_NOTHING = ("to_batch_processor", "device_processor")


class Normalization(nn.Module):
    """``(x - center) * scale + bias``, the form of every normalization and of its inverse."""

    def __init__(self, center: Tensor, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.center: Tensor
        self.scale: Tensor
        self.bias: Tensor
        self.register_buffer("center", center.float(), persistent=False)
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("bias", bias.float(), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """The values in the other units."""
        return (values - self.center) * self.scale + self.bias

    def inverse(self) -> Normalization:
        """Back to the units before."""
        return Normalization(self.bias, 1 / self.scale, self.center)


@dataclass(frozen=True)
class Processor:
    """What the steps of one file do.

    Attributes:
        normalizations: by the name of what they are of; what has none passes.
        renamed: the name that a policy's input has before the first step, where it is another.
        tokenizer: settings of the step that makes tokens of a task.
        line_break: whether a line break is put behind a task that has none.
        remarks: what a user should know.
    """

    normalizations: Mapping[str, Normalization] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] | None = None
    line_break: bool = False
    remarks: tuple[str, ...] = ()


def read_processor(folder: Path, name: str) -> Processor:
    """What the file ``name`` of a policy's folder says.

    Raises:
        ExportError: it is missing or damaged, or has a step that cannot be a part of the graph.
    """
    steps = _read_steps(folder, name)
    normalizations: dict[str, Normalization] = {}
    renamed: dict[str, str] = {}
    remarks: list[str] = []
    tokenizer, line_break = None, False
    for step in steps:
        kind, config = step.get("registry_name"), step.get("config") or {}
        if kind in ("normalizer_processor", "unnormalizer_processor"):
            if normalizations:
                raise ExportError(f"{folder / name}: two steps normalize; expected one")
            normalizations = _normalizations(folder, name, step, inverse=kind[:2] == "un")
        elif kind == "rename_observations_processor":
            if normalizations and config.get("rename_map"):
                raise ExportError(f"{folder / name}: a step renames what is normalized already")
            renamed = {new: old for old, new in (config.get("rename_map") or {}).items()}
        elif kind == "tokenizer_processor":
            tokenizer = config
        elif kind == "smolvla_new_line_processor":
            line_break = True
        elif kind not in _NOTHING:
            raise ExportError(
                f"{folder / name}: the step {kind or step.get('class')!r} cannot become a part of "
                "the graph; take it out and do it outside, or write a factory: mmedge init"
            )
        elif config.get("float_dtype") not in (None, "float32", "float"):
            remarks.append(f"values are float32 where {name} makes them {config['float_dtype']}")
    return Processor(normalizations, renamed, tokenizer, line_break, tuple(remarks))


def _read_steps(folder: Path, name: str) -> list[dict[str, Any]]:
    file = folder / name
    if not file.is_file():
        raise ExportError(
            f"{folder} has no {name}, in which lerobot 0.4 keeps how values are normalized; "
            "convert a policy of an older version: "
            f"python -m lerobot.processor.migrate_policy_normalization --pretrained-path {folder}"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{file} cannot be read: {error}") from error
    steps = content.get("steps") if isinstance(content, dict) else None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ExportError(f"{file}: expected an object with a list of steps")
    return steps


def _normalizations(
    folder: Path, name: str, step: Mapping[str, Any], *, inverse: bool
) -> dict[str, Normalization]:
    """What a step does to each feature that it has statistics of."""
    config, state = step.get("config") or {}, step.get("state_file")
    if state is None:
        return {}  # saved without statistics: all passes
    if Path(state).name != state or not (folder / state).is_file():
        raise ExportError(f"{folder / name}: there is no file {state!r} of statistics beside it")
    statistics: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / state).items():
        feature, _, what = key.rpartition(".")
        statistics.setdefault(feature, {})[what] = value.double()
    keys = config.get("normalize_observation_keys")
    modes, epsilon = config.get("norm_map") or {}, float(config.get("eps", 1e-8))
    normalizations = {}
    for feature, said in (config.get("features") or {}).items():
        mode = modes.get(said["type"], "IDENTITY")
        chosen = keys is None or feature in keys or said["type"] == "ACTION"
        if mode == "IDENTITY" or feature not in statistics or not chosen:
            continue
        try:
            normalization = _normalization(mode, statistics[feature], epsilon, inverse=inverse)
        except KeyError as error:
            raise ExportError(
                f"{folder / name}: {feature!r} is normalized by {mode}, of which there is no "
                f"{error} in {state}"
            ) from error
        normalizations[feature] = normalization
    return normalizations


def _normalization(
    mode: str, statistics: Mapping[str, Tensor], epsilon: float, *, inverse: bool
) -> Normalization:
    """As lerobot computes it: the inverse of a standard deviation leaves ``epsilon`` out."""
    if mode == "MEAN_STD":
        mean, deviation = statistics["mean"], statistics["std"]
        zero = torch.zeros_like(mean)
        if inverse:
            return Normalization(zero, deviation, mean)
        return Normalization(mean, 1 / (deviation + epsilon), zero)
    lower, upper = _BOUNDS[mode]
    low, high = statistics[lower], statistics[upper]
    width = torch.where(high == low, epsilon, high - low)
    one = torch.ones_like(low)
    if inverse:
        return Normalization(-one, width / 2, low)
    return Normalization(low, 2 / width, -one)
