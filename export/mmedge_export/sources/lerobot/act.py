"""A policy that runs once for a chunk of actions (ACT) as a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.model import Model
from mmedge_export.noise import quiet
from mmedge_export.sources.lerobot.observations import Observations

if TYPE_CHECKING:
    from mmedge_export.sources.lerobot.policy_folder import PolicyFolder

__all__ = ["act_model"]

_STATE, _ENVIRONMENT = "observation.state", "observation.environment_state"

#: Largest difference from what lerobot computes, as a share of the largest action.
_NEAR = 1e-4


class _Chunk(nn.Module):
    """Raw observations to actions in the robot's units, with the latent that inference has: 0.

    The policy's own forward takes each picture's features apart, a tensor for each place, and
    stacks all: a graph of thousands of nodes. Here they are joined as they are.
    """

    def __init__(self, source: PolicyFolder) -> None:
        super().__init__()
        self.observations = Observations(source)
        self.policy = source.policy
        self.units = source.behind.normalizations.get("action", nn.Identity())

    def forward(self, **values: Tensor) -> Tensor:
        """Actions [batch, chunk, action]."""
        batch = self.observations(values)
        net: Any = self.policy.model
        config = self.policy.config
        rows = next(iter(values.values())).shape[0]
        tokens = [net.encoder_latent_input_proj(torch.zeros(rows, config.latent_dim))]
        if config.robot_state_feature:
            tokens.append(net.encoder_robot_state_input_proj(batch[_STATE]))
        if config.env_state_feature:
            tokens.append(net.encoder_env_state_input_proj(batch[_ENVIRONMENT]))
        parts = [torch.stack(tokens)]
        places = [net.encoder_1d_feature_pos_embed.weight[:, None]]
        for key in config.image_features:
            features = net.backbone(batch[key])["feature_map"]
            places.append(net.encoder_cam_feat_pos_embed(features).flatten(2).permute(2, 0, 1))
            parts.append(net.encoder_img_feat_input_proj(features).flatten(2).permute(2, 0, 1))
        place = torch.cat(places)
        encoded = net.encoder(torch.cat(parts), pos_embed=place)
        queries = torch.zeros(config.chunk_size, rows, config.dim_model)
        decoded = net.decoder(
            queries,
            encoded,
            encoder_pos_embed=place,
            decoder_pos_embed=net.decoder_pos_embed.weight[:, None],
        )
        actions: Tensor = self.units(net.action_head(decoded.transpose(0, 1)))
        return actions


def act_model(source: PolicyFolder) -> Model:
    """The policy with its inputs; what lerobot does with a chunk stays outside, and is said.

    Raises:
        ExportError: it is not what this module computes.
    """
    config = source.config
    network = _Chunk(source).eval()
    inputs = network.observations.inputs()
    values = {name: torch.from_numpy(value.example) for name, value in inputs.items()}
    try:
        with quiet(), torch.no_grad():
            actions = network(**values)
            batch = network.observations(values)
            expected = network.units(source.policy.predict_action_chunk(batch))
    except Exception as error:  # whatever a foreign class raises
        raise ExportError(
            f"{source.folder}: the policy does not run: {type(error).__name__}: {error}"
        ) from error
    if not torch.allclose(actions, expected, rtol=0, atol=_NEAR * float(expected.abs().max())):
        raise ExportError(
            f"{source.folder}: this version of lerobot computes ACT in another way than 0.4.4 "
            f"(actions differ by {float((actions - expected).abs().max()):g}); install 0.4.4"
        )
    source.remarks.append(
        f"a run gives the whole chunk of {config.chunk_size} actions; "
        + (
            "lerobot averages overlapping chunks (temporal ensembling, coefficient "
            f"{config.temporal_ensemble_coeff:g}): that stays outside"
            if config.temporal_ensemble_coeff is not None
            else f"lerobot executes {config.n_action_steps} of them before it runs the policy "
            "again: that stays outside"
        )
    )
    return Model(network, inputs, ["action"])
