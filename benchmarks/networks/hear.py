"""``zoo:hear``, with the weights that are shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge_export.quantize import Task
from mmedge_export.zoo import factory

if TYPE_CHECKING:
    from mmedge_export.model import Model

__all__ = ["load", "task"]

#: What mmedge-zoo calls it.
NAME = "hear"


def load() -> Model:
    """The network, as ``mmedge export`` takes it."""
    return factory(NAME)


def task() -> Task:
    """Judges a lower precision by the network's own samples and metric."""
    return Task.of(factory(NAME))
