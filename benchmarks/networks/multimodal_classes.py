"""Which classes of transformers take several modalities, by what each says of itself.

A class is of the population where it names two or more modalities (``input_modalities``) and the
parameters of its forward take two or more. Classes that only inherit the attribute, such as the
vision tower or the text decoder of a multimodal family, fall out by their parameters.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Candidate", "candidates", "modalities_of_parameters"]

#: How names of parameters begin that take a modality. Points and boxes are prompts of a person.
_BEGINNINGS = {
    "pixel_values_videos": "video",
    "pixel_values": "image",
    "image_embeds": "image",
    "image_patches": "image",
    "visual_embeds": "image",
    "visual_feats": "image",
    "flattened_patches": "image",
    "input_features": "audio",
    "input_values": "audio",
    "audio_": "audio",
    "input_points": "points",
    "input_boxes": "points",
}
#: The modalities of a Python object that is handed over in place of tensors.
_OBJECTS = {"inference_session": ("video", "points")}


@dataclass(frozen=True)
class Candidate:
    """A public class of transformers that names two or more modalities.

    Attributes:
        name: of the class.
        family: its model type.
        modalities: that it names.
        by_parameters: those that the parameters of its forward take.
        head: whether it is more than the bare ``...Model``.
    """

    name: str
    family: str
    modalities: tuple[str, ...]
    by_parameters: tuple[str, ...]
    head: bool

    @property
    def is_multimodal(self) -> bool:
        """Whether its parameters say the same."""
        return len(self.by_parameters) > 1


def modalities_of_parameters(names: list[str]) -> tuple[str, ...]:
    """Modalities that parameters of these names take."""
    modalities: dict[str, None] = {}
    for name in names:
        if name.endswith("input_ids"):
            modalities["text"] = None
        for modality in _OBJECTS.get(name, ()):
            modalities[modality] = None
        if name.endswith(("mask", "lengths", "lens", "sizes", "mode")):
            continue
        beginning = next((b for b in _BEGINNINGS if name.startswith(b)), None)
        if beginning is not None:
            modalities[_BEGINNINGS[beginning]] = None
    return tuple(modalities)


def _is_network(kind: Any) -> bool:  # noqa: ANN401
    from transformers import PreTrainedModel

    return inspect.isclass(kind) and issubclass(kind, PreTrainedModel)


def candidates() -> list[Candidate]:
    """Every public class that names two or more modalities, by name."""
    import transformers

    found: list[Candidate] = []
    for name in sorted(dir(transformers)):
        if "PreTrainedModel" in name:
            continue  # a base of others
        try:
            kind: Any = getattr(transformers, name)
        except ImportError:
            continue  # it needs a package that is not here
        if not _is_network(kind):
            continue
        stated = kind.input_modalities
        modalities = (stated,) if isinstance(stated, str) else tuple(stated or ())
        if len(modalities) < 2 or kind.config_class is None:
            continue
        names = list(inspect.signature(kind.forward).parameters)
        by_parameters = modalities_of_parameters(names)
        if kind.forward is nn.Module.forward and kind.can_generate():
            by_parameters = modalities  # it has a generate() alone
        found.append(
            Candidate(
                name,
                kind.config_class.model_type,
                modalities,
                by_parameters,
                head=not name.endswith("Model"),
            )
        )
    return found
