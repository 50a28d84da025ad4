"""The language network that a SmolVLA policy names: its configuration and tokenizer.

lerobot saves the weights of it in the policy, and its configuration not at all: ``vlm_model_name``
names a model of the hub, or a folder.
"""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError
from mmedge_export.noise import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["find_file", "vlm_at_hand"]

_NETWORK = "lerobot.policies.smolvla.smolvlm_with_expert"
_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"


@contextlib.contextmanager
def vlm_at_hand(folder: Path, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings with which the policy is made without a network, where the files are here.

    The policy asks the language network's processor for two token ids alone. Making that would need
    packages for video, so a stand-in has them.

    Args:
        folder: of the policy.
        settings: of its config.json.

    Raises:
        ExportError: there is no configuration, or no tokenizer where a setting needs one.
    """
    name = str(settings["vlm_model_name"])
    config = find_file(folder, name, _CONFIG)
    if config is None:
        raise ExportError(
            f"{folder / _CONFIG}: vlm_model_name is {name!r}, whose config.json is neither in a "
            "folder of that name (beside the policy's files, or by its path) nor on the hub as "
            "far as it can be reached; download config.json and tokenizer.json of it into "
            f"{folder / Path(name).name}"
        )
    tokenizer = find_file(folder, name, _TOKENIZER)
    if tokenizer is None and settings.get("add_image_special_tokens"):
        raise ExportError(
            f"{folder / _CONFIG}: add_image_special_tokens needs tokenizer.json of {name}; put it "
            f"into {folder / Path(name).name}"
        )
    module = importlib.import_module(_NETWORK)
    original = module.AutoProcessor
    module.AutoProcessor = _AutoProcessor(_Processor(_special_tokens(tokenizer)))  # type: ignore[attr-defined]
    try:
        yield {**settings, "vlm_model_name": str(config.parent)}
    finally:
        module.AutoProcessor = original  # type: ignore[attr-defined]


def find_file(folder: Path, name: str, file: str) -> Path | None:
    """A file of a model that is named by its folder or as on the hub; None: not to be had.

    Args:
        folder: of the policy; folders in it count first.
        name: of the model.
        file: its name.
    """
    for place in (folder / name, folder / Path(name).name, Path(name).expanduser()):
        if (place / file).is_file() and place.resolve() != folder.resolve():
            return place / file
    from transformers.utils import cached_file

    with quiet():
        try:
            found = cached_file(name, file)
        except Exception:  # noqa: BLE001 - whatever the hub's library raises
            return None
    return None if found is None else Path(found)


@dataclass(frozen=True)
class _SpecialTokens:
    fake_image_token_id: int = 0
    global_image_token_id: int = 0


@dataclass(frozen=True)
class _Processor:
    tokenizer: _SpecialTokens


@dataclass(frozen=True)
class _AutoProcessor:
    processor: _Processor

    def from_pretrained(self, _name: str) -> _Processor:
        """The same whatever is named."""
        return self.processor


def _special_tokens(file: Path | None) -> _SpecialTokens:
    """Ids of the tokens around a picture; 0 where nothing asks for them."""
    if file is None:
        return _SpecialTokens()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    ids = [tokenizer.token_to_id(t) for t in ("<fake_token_around_image>", "<global-img>")]
    return _SpecialTokens(*(0 if number is None else number for number in ids))
