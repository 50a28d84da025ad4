"""The reference network: questions about an image, asked by text, by voice or by both."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.zoo.vqa.audio import CnnAudio, CrnnAudio, SpectrumCnn
from mmedge_export.zoo.vqa.classical import Classical
from mmedge_export.zoo.vqa.fusion import (
    MODALITIES,
    AttentionFusion,
    Concat,
    Conv,
    Fusion,
    Memories,
    Weighted,
)
from mmedge_export.zoo.vqa.image import ResNet, ViT
from mmedge_export.zoo.vqa.text import GruText, TransformerText

if TYPE_CHECKING:
    from collections.abc import Mapping

Part = TypeVar("Part", bound=nn.Module)

D = 128
"""Width of every token."""

ANSWERS = (
    "circle", "green", "red", "gray", "yes", "teal", "black", "rectangle", "yellow", "triangle",
    "brown", "blue", "no",
)  # fmt: skip
"""The 13 answers, in the order of the logits (that of easy-vqa 1.0)."""

IMAGE: Mapping[str, type[nn.Module]] = {"resnet": ResNet, "vit": ViT, "classical": Classical}
TEXT: Mapping[str, type[nn.Module]] = {"transformer": TransformerText, "gru": GruText}
AUDIO: Mapping[str, type[nn.Module]] = {
    "cnn": CnnAudio,
    "crnn": CrnnAudio,
    "spectrum-cnn": SpectrumCnn,
}
FUSION: Mapping[str, type[Fusion]] = {
    "attention": AttentionFusion,
    "concat": Concat,
    "weighted": Weighted,
    "conv": Conv,
}


class VqaNet(nn.Module):
    """Encoders of image, text and voice, a fusion, and a classifier over 13 answers.

    Each part is chosen by name, so that a variant is a plain dictionary of four words.

    Args:
        image: ``resnet``, ``vit`` or ``classical``.
        text: ``transformer`` or ``gru``.
        audio: ``cnn``, ``crnn`` or ``spectrum-cnn``.
        fusion: ``attention``, ``concat``, ``weighted`` or ``conv``.

    Raises:
        ExportError: for an unknown part; the message lists the known ones.
    """

    def __init__(
        self,
        *,
        image: str = "resnet",
        text: str = "transformer",
        audio: str = "cnn",
        fusion: str = "attention",
    ) -> None:
        super().__init__()
        self.parts = {"image": image, "text": text, "audio": audio, "fusion": fusion}
        self.encoders = nn.ModuleDict(
            {
                "image": _pick(IMAGE, "image", image)(D),
                "text": _pick(TEXT, "text", text)(D),
                "audio": _pick(AUDIO, "audio", audio)(D),
            }
        )
        self.fusion = _pick(FUSION, "fusion", fusion)(D)
        self.head = nn.Linear(D, len(ANSWERS))

    def encode(self, modality: str, raw: Tensor) -> tuple[Tensor, Tensor]:
        """All that depends on one modality.

        Args:
            modality: ``image``, ``text`` or ``audio``.
            raw: that input of :meth:`forward`.

        Returns:
            The fusion's memory of it (axis 0 is the batch), and which tokens are valid, bool
            ``[B, tokens]``; a modality without a valid token is absent.
        """
        tokens, valid = self.encoders[modality](raw)
        return self.fusion.memory(modality, tokens, valid), valid

    def fuse(self, memories: Memories) -> Tensor:
        """What :meth:`encode` gave for each modality, to logits float32 ``[B, 13]``."""
        logits: Tensor = self.head(self.fusion(memories))
        return logits

    def forward(self, image: Tensor, text: Tensor, audio: Tensor) -> dict[str, Tensor]:
        """Answer questions.

        Args:
            image: uint8 ``[B, 64, 64, 3]``, RGB.
            text: int64 ``[B, 16]`` token ids; 0 pads, a row of zeros means no text.
            audio: float32 ``[B, samples]``, 16 kHz, -1 to 1, 1,600 to 80,000 samples; zeros pad, a
                row of zeros means no voice.

        Returns:
            ``{"answer": logits}``, float32 ``[B, 13]`` in the order of :data:`ANSWERS`.
        """
        raw = {"image": image, "text": text, "audio": audio}
        return {"answer": self.fuse({m: self.encode(m, raw[m]) for m in MODALITIES})}


def _pick(parts: Mapping[str, type[Part]], kind: str, name: str) -> type[Part]:
    if name not in parts:
        raise ExportError(f"no {kind} part is named {name!r}; there are: {', '.join(parts)}")
    return parts[name]
