"""A policy that looks, reads and lets actions flow from noise (SmolVLA) as a model with a loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.inputs import Input, as_array
from mmedge_export.loops import Denoise
from mmedge_export.model import Model
from mmedge_export.schedules import flow_euler
from mmedge_export.sources.huggingface.candidates import ROWS
from mmedge_export.sources.lerobot.observations import Observations
from mmedge_export.sources.lerobot.rotary import check_rotation, rotation_in_one
from mmedge_export.sources.lerobot.task_tokenizer import task_tokenizer

if TYPE_CHECKING:
    from mmedge_export.sources.lerobot.policy_folder import PolicyFolder

__all__ = ["smolvla_model"]

_TASK, _TASK_MASK, _MASK = "task", "task_mask", "prefix_mask"


class _Prefix(nn.Module):
    """Pictures, task and state to keys and values of every layer: what all steps look at."""

    def __init__(self, source: PolicyFolder) -> None:
        super().__init__()
        self.observations = Observations(source)
        self.policy = source.policy

    def forward(self, **values: Tensor) -> dict[str, Tensor]:
        """``key_0``, ``value_0`` and so on, and which places are no padding."""
        policy: Any = self.policy
        net = policy.model
        batch = self.observations(values)
        pictures, picture_masks = policy.prepare_images(batch)
        embedded, padding, causal = net.embed_prefix(
            pictures,
            picture_masks,
            values[_TASK],
            values[_TASK_MASK] > 0,
            policy.prepare_state(batch),
        )
        # Places see those of their own block and of the blocks before, and no padding.
        block = torch.cumsum(causal, dim=1)
        sees = (block[:, None] <= block[:, :, None]) & padding[:, None] & padding[:, :, None]
        with rotation_in_one():
            _, cache = net.vlm_with_expert(
                attention_mask=sees,
                position_ids=torch.cumsum(padding, dim=1) - 1,
                past_key_values=None,
                inputs_embeds=[embedded, None],
                use_cache=True,
                fill_kv_cache=True,
            )
        tensors = {_MASK: padding}
        for layer, states in cache.items():
            tensors[f"key_{layer}"] = states["key_states"]
            tensors[f"value_{layer}"] = states["value_states"]
        return tensors


class _Step(nn.Module):
    """The velocity of the actions at a time."""

    def __init__(self, source: PolicyFolder) -> None:
        super().__init__()
        self.network = source.policy.model
        self._layers = source.policy.model.vlm_with_expert.num_vlm_layers

    def forward(self, latent: Tensor, timestep: Tensor, **prefix: Tensor) -> Tensor:
        """Of the latent's shape."""
        cache = {
            layer: {"key_states": prefix[f"key_{layer}"], "value_states": prefix[f"value_{layer}"]}
            for layer in range(self._layers)
        }
        with rotation_in_one():
            velocity: Tensor = self.network.denoise_step(prefix[_MASK], cache, latent, timestep)
        return velocity


class _Actions(nn.Module):
    """The actions without what pads them, in the robot's units."""

    def __init__(self, source: PolicyFolder) -> None:
        super().__init__()
        self._width = source.config.action_feature.shape[0]
        self.units = source.behind.normalizations.get("action", nn.Identity())

    def forward(self, latent: Tensor) -> Tensor:
        """Actions [batch, chunk, action]."""
        actions: Tensor = self.units(latent[..., : self._width])
        return actions


def smolvla_model(source: PolicyFolder) -> Model:
    """The policy with its inputs and its loop; what stays outside is said.

    Raises:
        ExportError: it has a setting that is not taken.
    """
    config = source.config
    if config.adapt_to_pi_aloha:
        raise ExportError(
            f"{source.folder}: adapt_to_pi_aloha is not taken: values would be changed in place; "
            "write a factory (docs/howto/torch.md)"
        )
    check_rotation()
    prefix = _Prefix(source).eval()
    layers = source.policy.model.vlm_with_expert.num_vlm_layers
    names = [f"{what}_{layer}" for layer in range(layers) for what in ("key", "value")]
    source.remarks.append(
        f"a run takes {config.num_steps} steps of a flow and gives the whole chunk of "
        f"{config.chunk_size} actions; lerobot executes {config.n_action_steps} of them before it "
        "runs the policy again: that stays outside"
        + (
            ", and so does real-time chunking, which would change the steps"
            if config.rtc_config is not None
            else ""
        )
    )
    source.remarks.append(
        "the first noise follows from the call's seed: the same seed and observations give the "
        "same actions"
    )
    return Model(
        prefix,
        {**prefix.observations.inputs(), **_task(source)},
        [_MASK, *names],
        loop=Denoise(
            _Step(source).eval(),
            flow_euler(config.num_steps),
            shape=("batch", config.chunk_size, config.max_action_dim),
            time_shape=("batch",),
            time_dtype="float32",
            decoder=_Actions(source).eval(),
            outputs=["action"],
        ),
    )


def _task(source: PolicyFolder) -> dict[str, Input]:
    """The inputs of the task: ids and mask of a fixed length, which lerobot pads to or not.

    Padding is hidden and takes no place, so that the length changes nothing.
    """
    length = int(source.config.tokenizer_max_length)
    tokenizer = task_tokenizer(source, length)
    words = source.policy.model.vlm_with_expert.config.text_config.vocab_size
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(min(5, words - 1), words, (ROWS, length), generator=generator)
    mask = torch.ones(ROWS, length, dtype=torch.int64)
    for row in range(ROWS):
        mask[row, max(1, length // 3 - row) :] = 0
    ids = torch.where(mask > 0, ids, 0)
    common: dict[str, Any] = {"modality": _TASK, "dynamic": {0: "batch"}, "tokenizer": tokenizer}
    return {
        _TASK: Input(as_array(ids), **common),
        _TASK_MASK: Input(as_array(mask), **common),
    }
