"""The training loop: loss, schedule, averaged weights, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from mmedge.errors import ExportError
from mmedge_export.zoo import weight_file
from mmedge_export.zoo.batch import Batch, batches
from mmedge_export.zoo.text import VOCABULARY
from mmedge_export.zoo.tokenizer import encode
from mmedge_export.zoo.vqa import D, VqaNet

if TYPE_CHECKING:
    from mmedge_export.zoo.questions import Questions
    from mmedge_export.zoo.speech import Corpus


T = TypeVar("T")


def _option(default: T, meaning: str) -> T:
    """A field of :class:`Recipe` that says on the command line what it means."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, besides the data.

    Each field is an option of ``mmedge-train``, where ``--help`` says what it means.
    """

    image: str = _option("resnet", "image encoder")
    text: str = _option("transformer", "text encoder")
    audio: str = _option("cnn", "audio encoder")
    fusion: str = _option("attention", "fusion")
    epochs: int = _option(24, "passes over the training images")
    images: int = _option(64, "images in a batch, each with all its questions")
    spoken: int = _option(0, "most questions of a batch that are read aloud, 0 for all")
    rate: float = _option(1.5e-3, "peak learning rate of AdamW")
    decay: float = _option(0.05, "weight decay of matrices and kernels")
    warmup: int = _option(150, "steps of linear warm-up; a cosine to 0 follows")
    smoothing: float = _option(0.03, "label smoothing")
    spotting: float = _option(2.0, "weight of the auxiliary word-spotting loss of the voice")
    average: float = _option(0.99, "decay of the exponential average of weights, which is kept")
    start: str = _option("", "weight file whose encoders are trained further; none: fresh ones")
    takes: int = _option(2, "readings of each question by each training voice")
    seed: int = _option(0, "of weights, batches, augmentation and dropout")

    def network(self) -> VqaNet:
        """A network of these parts, fresh but for the encoders of ``start``.

        Raises:
            ExportError: when ``start`` is no weight file or has other encoders.
        """
        net = VqaNet(image=self.image, text=self.text, audio=self.audio, fusion=self.fusion)
        if self.start:
            start_net = weight_file.load(Path(self.start))
            if {**start_net.parts, "fusion": self.fusion} != net.parts:
                raise ExportError(
                    f"{self.start} holds {start_net.parts}, not encoders of {net.parts}"
                )
            net.encoders.load_state_dict(start_net.encoders.state_dict())
        return net


class Spotter(nn.Module):
    """Auxiliary head, used in training only: which words does a clip hold?

    The audio encoder gets a direct signal from it, long before answers depend on the voice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Linear(D, VOCABULARY)

    def forward(self, tokens: Tensor, valid: Tensor, ids: Tensor) -> Tensor:
        """Loss of spotting the words of ``ids [B, 16]`` in ``tokens [B, T, D]``, a scalar."""
        scores = self.words(tokens).masked_fill(~valid[..., None], -1e4).amax(dim=1)
        target = torch.zeros_like(scores).scatter_(1, ids, 1.0)
        target[:, 0] = 0.0
        return F.binary_cross_entropy_with_logits(scores, target)


def learning_rate(step: int, total: int, warmup: int) -> float:
    """Factor of the peak rate: linear warm-up, then a cosine to 0 at ``total``."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class Trainer:
    """Trains one network; its state between two epochs can be saved and taken up again.

    Args:
        recipe: what to train and how.
        data: the training split.
        corpus: readings of its questions by the training voices.
    """

    def __init__(self, recipe: Recipe, data: Questions, corpus: Corpus) -> None:
        self.recipe, self.data, self.corpus = recipe, data, corpus
        torch.manual_seed(recipe.seed)
        self.net = recipe.network()
        self.spotter = Spotter()
        self.average = copy.deepcopy(self.net).requires_grad_(requires_grad=False)
        trained = [*self.net.parameters(), *self.spotter.parameters()]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": recipe.decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
        self.ids = encode(data.texts)
        self.epoch = 0
        self.step = 0
        self.seconds = 0.0
        self.total = recipe.epochs * max(1, len(data.images) // recipe.images)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a batch, a scalar, and which answers were right, bool ``[pairs]``."""
        net = self.net
        image, image_valid = net.encode("image", batch.image)
        text, text_valid = net.encode("text", batch.text)
        tokens, audio_valid = net.encoders["audio"](batch.audio)
        audio = net.fusion.memory("audio", tokens, audio_valid)
        logits = net.fuse(
            {
                "image": (image[batch.image_of], image_valid[batch.image_of]),
                "text": (text[batch.text_of], text_valid[batch.text_of] & batch.has_text[:, None]),
                "audio": (
                    audio[batch.voice_of],
                    audio_valid[batch.voice_of] & batch.has_voice[:, None],
                ),
            }
        )
        loss = F.cross_entropy(logits, batch.answer, label_smoothing=self.recipe.smoothing)
        spotting_loss = self.spotter(tokens, audio_valid, batch.text[: len(tokens)])
        return loss + self.recipe.spotting * spotting_loss, logits.argmax(dim=1) == batch.answer

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch.

        Returns:
            Mean loss, and the share of right answers among the training pairs asked by text alone,
            by voice alone and by both.
        """
        recipe, began = self.recipe, time.monotonic()
        # From the epoch's number, so that a run taken up again draws what the first would have.
        torch.manual_seed(recipe.seed * 100_003 + self.epoch)
        self.net.train()
        losses, right, kinds = [], [], []
        source = batches(
            self.data,
            self.ids,
            self.corpus,
            images=recipe.images,
            spoken=recipe.spoken,
            seed=recipe.seed,
            epoch=self.epoch,
        )
        steps = self.total // recipe.epochs
        for batch in tqdm(
            source, total=steps, desc=f"epoch {self.epoch + 1}/{recipe.epochs}", mininterval=5
        ):
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate * learning_rate(self.step, self.total, recipe.warmup)
            loss, hits = self.loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self._average()
            self.step += 1
            losses.append(float(loss.detach()))
            right.append(hits)
            kinds.append(batch.has_text.long() + 2 * batch.has_voice.long())
        self.epoch += 1
        self.seconds += time.monotonic() - began
        hit, kind = torch.cat(right).float(), torch.cat(kinds)
        shares = {
            n: float(hit[kind == k].mean()) for k, n in ((1, "text"), (2, "voice"), (3, "both"))
        }
        return {"loss": sum(losses) / len(losses), **shares}

    @torch.no_grad()
    def _average(self) -> None:
        # The average follows quickly at first, when the weights are still far from useful.
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        for average, new in zip(
            self.average.state_dict().values(), self.net.state_dict().values(), strict=True
        ):
            if average.is_floating_point():
                average.lerp_(new, 1 - decay)
            else:
                average.copy_(new)

    def save(self, path: Path) -> None:
        """Write the whole state; a broken write leaves the last one in place."""
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "recipe": asdict(self.recipe),
                "net": self.net.state_dict(),
                "spotter": self.spotter.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epoch": self.epoch,
                "step": self.step,
                "seconds": self.seconds,
            },
            partial,
        )
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Take up a saved state.

        Raises:
            ExportError: when it was saved under another recipe.
        """
        state = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ExportError(
                f"{path} was trained by another recipe: {state['recipe']}, not"
                f" {asdict(self.recipe)}; use another --out or the same options"
            )
        self.net.load_state_dict(state["net"])
        self.spotter.load_state_dict(state["spotter"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
