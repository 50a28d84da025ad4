"""A policy becomes a :class:`Model`, by its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge_export.sources.lerobot.act import act_model
from mmedge_export.sources.lerobot.diffusion import diffusion_model
from mmedge_export.sources.lerobot.smolvla import smolvla_model

if TYPE_CHECKING:
    from mmedge_export.model import Model
    from mmedge_export.sources.lerobot.policy_folder import PolicyFolder

__all__ = ["make_model"]


def make_model(source: PolicyFolder) -> Model:
    """The model of a policy.

    Raises:
        ExportError: it has a setting that no bundle can have.
    """
    makers = {"act": act_model, "diffusion": diffusion_model, "smolvla": smolvla_model}
    return makers[source.kind](source)
