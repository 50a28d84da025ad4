"""What a task gives to ``mmedge-train``: options, a trainer, an evaluation, facts of its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from mmedge_export.zoo.training import BaseRecipe, Trainer

__all__ = ["Task", "TrainingRun"]


class TrainingRun(ABC):
    """One network that is being trained.

    Attributes:
        name: of its files and in ``zoo:NAME``.
        trainer: what trains it.
        data: what it is trained on, for the weight file.
    """

    name: str
    trainer: Trainer[Any, Any]
    data: str

    @abstractmethod
    def evaluate(self) -> dict[str, Any]:
        """Figures on data that training never saw, by name; :attr:`Trainer.average` is judged."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What else the report says: how much data, of which versions."""

    def companions(self) -> dict[str, str]:
        """Texts that the network needs beside its weights, by the ending of the file's name."""
        return {}


@dataclass(frozen=True)
class Task:
    """A task as a subcommand of ``mmedge-train``.

    Attributes:
        summary: what is trained, a sentence.
        recipe: its class; every field is an option.
        start: a run, by the recipe and the other options.
        choices: the values of a field that has few.
        add_options: adds options that do not belong to the recipe.
    """

    summary: str
    recipe: type[BaseRecipe]
    start: Callable[[Any, argparse.Namespace], TrainingRun]
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None  # noqa: ARG005
