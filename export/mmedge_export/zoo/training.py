"""What the trainers of all reference networks share: optimizer, schedule, average, checkpoints.

A task has its own subclass of :class:`Trainer`, which says what is trained, on which batches, by
which loss. ``mmedge-train`` (:mod:`mmedge_export.zoo.train`) runs it.
"""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = [
    "COMPUTE",
    "BaseRecipe",
    "CooldownRecipe",
    "CooldownTrainer",
    "Counts",
    "Recipe",
    "Trainer",
    "autocast",
    "learning_rate",
    "option",
]

T = TypeVar("T")
Net = TypeVar("Net", bound=nn.Module)
Batch = TypeVar("Batch")

Counts = dict[str, tuple[int, int]]
"""How many answers were right, and of how many, by kind of question."""


COMPUTE = ("bfloat16", "float32")
"""Types that :func:`autocast` takes."""


def autocast(compute: str) -> torch.autocast:
    """Convolutions and products on the CPU in a type of :data:`COMPUTE`; weights stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=compute == "bfloat16")


def option(default: T, meaning: str) -> T:
    """A field of a recipe that says on the command line what it means."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class BaseRecipe:
    """Everything that decides the trained weights, besides the data; a task adds to it.

    Each field is an option of ``mmedge-train``, where ``--help`` says what it means.
    """

    epochs: int = option(1, "epochs of training")
    rate: float = option(1.5e-3, "peak learning rate of AdamW")
    decay: float = option(0.05, "weight decay of matrices and kernels")
    warmup: int = option(150, "steps of linear warm-up; a cosine to 0 follows")
    average: float = option(0.99, "decay of the exponential average of weights, which is kept")
    seed: int = option(0, "of weights, batches, augmentation and dropout")


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """That of a network whose answers are classes."""

    smoothing: float = option(0.03, "label smoothing")


@dataclass(frozen=True)
class CooldownRecipe(BaseRecipe):
    """That of a :class:`CooldownTrainer`."""

    cooldown: int = option(1, "last epochs, in which the rate goes to 0 along a line")


def learning_rate(step: int, total: int, warmup: int) -> float:
    """Factor of the peak rate: linear warm-up, then a cosine to 0 at ``total``."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class Trainer(ABC, Generic[Net, Batch]):
    """Trains one network; its state between two epochs can be saved and taken up again.

    Args:
        recipe: what to train and how.
        steps: batches of an epoch.

    Attributes:
        net: the network.
        auxiliary: what is trained with it and then left away.
        average: the exponential average of the network's weights, which is the result.
        epoch: epochs that are over.
        seconds: time that they took.
    """

    def __init__(self, recipe: BaseRecipe, steps: int) -> None:
        self.recipe, self.steps = recipe, steps
        torch.manual_seed(recipe.seed)
        self.net, self.auxiliary = self.networks()
        self.average = copy.deepcopy(self.net).requires_grad_(requires_grad=False)
        trained = [*self.net.parameters(), *self.auxiliary.parameters()]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": recipe.decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
        self.epoch = 0
        self.step = 0
        self.seconds = 0.0
        self.total = recipe.epochs * steps

    @abstractmethod
    def networks(self) -> tuple[Net, nn.Module]:
        """The network before training, and what is trained with it."""

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """The batches of the next epoch, which depend on the recipe's seed and ``epoch`` alone."""

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, Counts]:
        """The loss of a batch, a scalar, and how much of it was right."""

    def rate_factor(self) -> float:
        """Factor of the peak rate for the next step."""
        return learning_rate(self.step, self.total, self.recipe.warmup)

    def continues(self, recipe: Mapping[str, object], epoch: int) -> bool:  # noqa: ARG002
        """Whether a run of another recipe was the same as this one's up to an epoch."""
        return recipe == asdict(self.recipe)

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch.

        Returns:
            The mean loss as ``loss``, and the share of right answers by kind of question.
        """
        recipe, began = self.recipe, time.monotonic()
        # From the epoch's number, so that a run taken up again draws what the first would have.
        torch.manual_seed(recipe.seed * 100_003 + self.epoch)
        self.net.train()
        losses: list[float] = []
        right: dict[str, list[int]] = {}
        name = f"epoch {self.epoch + 1}/{recipe.epochs}"
        for batch in tqdm(self.batches(), total=self.steps, desc=name, mininterval=5):
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate * self.rate_factor()
            loss, counts = self.loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self._average()
            self.step += 1
            losses.append(float(loss.detach()))
            for kind, (hits, count) in counts.items():
                total = right.setdefault(kind, [0, 0])
                total[0] += hits
                total[1] += count
        self.epoch += 1
        self.seconds += time.monotonic() - began
        shares = {kind: hits / max(1, count) for kind, (hits, count) in right.items()}
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

    def _modules(self) -> Mapping[str, nn.Module | torch.optim.Optimizer]:
        return {
            "net": self.net,
            "auxiliary": self.auxiliary,
            "average": self.average,
            "optimizer": self.optimizer,
        }

    def save(self, path: Path) -> None:
        """Write the whole state; a broken write leaves the last one in place."""
        partial = path.with_suffix(".partial")
        states = {name: module.state_dict() for name, module in self._modules().items()}
        progress = {"epoch": self.epoch, "step": self.step, "seconds": self.seconds}
        torch.save({"recipe": asdict(self.recipe), **progress, **states}, partial)
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Take up a saved state.

        Raises:
            ExportError: when it was saved under another recipe.
        """
        state = torch.load(path, weights_only=True)
        if not self.continues(state["recipe"], state["epoch"]):
            raise ExportError(
                f"{path} was trained by another recipe: {state['recipe']}, not"
                f" {asdict(self.recipe)}; use another --out or the same options"
            )
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]


class CooldownTrainer(Trainer[Net, Batch]):
    """A trainer whose rate stays after the warm-up, and goes to 0 in the last epochs.

    So a run can be trained on, for longer than it was meant to, from any checkpoint before its
    cool-down.
    """

    recipe: CooldownRecipe

    def rate_factor(self) -> float:
        """Linear warm-up, then 1, then along a line to 0 over the epochs of the cool-down."""
        rise = (self.step + 1) / self.recipe.warmup
        fall = (self.total - self.step) / max(1, self.recipe.cooldown * self.steps)
        return min(1.0, rise, fall)

    def continues(self, recipe: Mapping[str, object], epoch: int) -> bool:
        """As well as its own, a run of another length that was in neither cool-down yet."""
        mine = asdict(self.recipe)
        if recipe == mine:
            return True
        length = ("epochs", "cooldown")
        starts = [
            cast("int", each["epochs"]) - cast("int", each["cooldown"]) for each in (recipe, mine)
        ]
        return epoch <= min(starts) and all(
            recipe[name] == mine[name] for name in mine if name not in length
        )
