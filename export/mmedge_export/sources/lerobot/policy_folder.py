"""A policy as lerobot saves it: network, configuration, processors, frame rate.

Nothing in the folder is executed: weights are safetensors, processors are read as data.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError
from mmedge_export.install import remedy
from mmedge_export.noise import quiet
from mmedge_export.sources.lerobot.policy_modules import import_policy
from mmedge_export.sources.lerobot.processor import (
    POSTPROCESSOR,
    PREPROCESSOR,
    Processor,
    read_processor,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KINDS", "PolicyFolder", "read_policy"]

#: Policies that become a model, as config.json calls them.
KINDS = ("act", "diffusion", "smolvla")

_WEIGHTS = "model.safetensors"

#: Settings that would fetch weights, compile or need a device when the network is made.
_PLAIN = {
    "use_amp": False,
    "pretrained_backbone_weights": None,
    "load_vlm_weights": False,
    "compile_model": False,
}


@dataclass(frozen=True)
class PolicyFolder:
    """What a folder holds.

    Attributes:
        folder: where it lies.
        kind: of policy, one of :data:`KINDS`.
        policy: of lerobot, in evaluation mode, float32.
        before: what comes before the policy.
        behind: what comes behind it.
        rate_hz: frames a second that it was trained on; None: not stated.
        remarks: what a user should know.
    """

    folder: Path
    kind: str
    policy: Any
    before: Processor
    behind: Processor
    rate_hz: float | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def config(self) -> Any:  # noqa: ANN401 - lerobot is not imported here
        """The policy's configuration."""
        return self.policy.config


def read_policy(folder: Path) -> PolicyFolder:
    """Read a folder that lerobot wrote, such as ``checkpoints/last/pretrained_model``.

    Raises:
        ExportError: something is missing, not safe, or not for this version of lerobot.
    """
    config = _read_json(folder / "config.json")
    kind = config.get("type")
    if kind not in KINDS:
        raise ExportError(
            f"{folder / 'config.json'}: the policy is of type {kind!r}; expected one of "
            f"{', '.join(KINDS)}; for another write a factory (docs/howto/torch.md)"
        )
    if config.get("use_peft") or (folder / "adapter_config.json").is_file():
        raise ExportError(f"{folder} holds adapters alone; merge them into the policy, and save it")
    if not (folder / _WEIGHTS).is_file():
        raise ExportError(f"{folder} has no {_WEIGHTS}; expected a folder that lerobot wrote")
    before, behind = read_processor(folder, PREPROCESSOR), read_processor(folder, POSTPROCESSOR)
    rate, remark = _frame_rate(folder)
    remarks = [*before.remarks, *behind.remarks, *([remark] if remark else [])]
    policy = _load(folder, kind, config, remarks)
    return PolicyFolder(folder, kind, policy, before, behind, rate, remarks)


def _load(folder: Path, kind: str, config: Mapping[str, Any], remarks: list[str]) -> Any:  # noqa: ANN401
    """The network with the folder's weights."""
    policy_class = import_policy(kind)
    try:
        import draccus
        from safetensors.torch import load_model
    except ImportError as error:
        raise ExportError(f"lerobot: needs {error.name}: {remedy(error)}") from error
    settings = {name: value for name, value in config.items() if name != "type"}
    settings.update({name: value for name, value in _PLAIN.items() if name in settings})
    settings["device"] = "cpu"
    files: contextlib.AbstractContextManager[dict[str, Any]] = contextlib.nullcontext(settings)
    if kind == "smolvla":
        from mmedge_export.sources.lerobot.vlm_files import vlm_at_hand

        files = vlm_at_hand(folder, settings)
    try:
        with files as settings, quiet(), draccus.config_type("json"):
            policy = policy_class(draccus.decode(policy_class.config_class, settings))
        if vlm := settings.get("vlm_model_name"):
            remarks.append(f"the configuration of the language network is that in {vlm}")
    except ExportError:
        raise
    except Exception as error:  # whatever a foreign class raises
        raise ExportError(
            f"{folder}: lerobot cannot make the policy {kind!r} of config.json: "
            f"{type(error).__name__}: {error}; install the version that it was saved with"
        ) from error
    try:
        missing, unused = load_model(policy, folder / _WEIGHTS, strict=False)
    except Exception as error:  # a damaged file, or other shapes
        raise ExportError(f"{folder / _WEIGHTS} does not fit config.json: {error}") from error
    if missing:
        raise ExportError(
            f"{folder / _WEIGHTS}: {len(missing)} weights of the policy are missing, such as "
            f"{min(missing)!r}: they would be random; save the trained policy again"
        )
    if unused:
        remarks.append(f"{len(unused)} tensors of the file are not used, such as {min(unused)!r}")
    return policy.float().eval()


def _frame_rate(folder: Path) -> tuple[float | None, str]:
    """Frames a second, and in words where they are from; None and nothing: not stated."""
    file = folder / "train_config.json"
    if not file.is_file():
        return None, ""
    training = _read_json(file)
    environment, dataset = training.get("env") or {}, training.get("dataset") or {}
    places = [(file, environment)]
    if root := dataset.get("root"):
        info = Path(root).expanduser() / "meta" / "info.json"
        if info.is_file():
            places.append((info, _read_json(info)))
    for place, content in places:
        rate = content.get("fps")
        if isinstance(rate, (int, float)) and rate > 0:
            return float(rate), f"sensors deliver {rate:g} values a second, as {place} states"
    return None, ""


def _read_json(file: Path) -> dict[str, Any]:
    if not file.parent.is_dir():
        raise ExportError(f"no folder at {file.parent}; expected one that lerobot wrote")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{file} cannot be read: {error}; expected a folder that lerobot wrote, such as "
            "checkpoints/last/pretrained_model"
        ) from error
    if not isinstance(content, dict):
        raise ExportError(f"{file}: expected an object, got {type(content).__name__}")
    return content
