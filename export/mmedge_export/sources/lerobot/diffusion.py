"""A policy that denoises its actions (Diffusion Policy) as a model with a loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export import schedules
from mmedge_export.loops import Denoise
from mmedge_export.model import Model
from mmedge_export.sources.lerobot.observations import Observations

if TYPE_CHECKING:
    from mmedge_export.schedules import Schedule
    from mmedge_export.sources.lerobot.policy_folder import PolicyFolder

__all__ = ["diffusion_model"]

_IMAGES = "observation.images"


class _Condition(nn.Module):
    """Raw observations of some steps to what every denoising step looks at."""

    def __init__(self, source: PolicyFolder) -> None:
        super().__init__()
        self.observations = Observations(source, source.config.n_obs_steps)
        self.network = source.policy.diffusion

    def forward(self, **values: Tensor) -> Tensor:
        """Features [batch, all of all steps]."""
        batch = self.observations(values)
        if pictures := [batch[key] for key in self.network.config.image_features]:
            batch[_IMAGES] = torch.stack(pictures, dim=-4)
        condition: Tensor = self.network._prepare_global_conditioning(batch)  # noqa: SLF001
        return condition


class _Step(nn.Module):
    """One prediction of the network that denoises."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latent: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """What the schedule asks for, of the latent's shape."""
        prediction: Tensor = self.unet(latent, timestep, global_cond=condition)
        return prediction


class _Actions(nn.Module):
    """The actions from the present step on, in the robot's units."""

    def __init__(self, source: PolicyFolder) -> None:
        super().__init__()
        self._first = source.config.n_obs_steps - 1
        self._end = self._first + source.config.n_action_steps
        self.units = source.behind.normalizations.get("action", nn.Identity())

    def forward(self, latent: Tensor) -> Tensor:
        """Actions [batch, steps, action]."""
        actions: Tensor = self.units(latent[:, self._first : self._end])
        return actions


def diffusion_model(source: PolicyFolder) -> Model:
    """The policy with its inputs and its loop; what stays outside is said.

    Raises:
        ExportError: its schedule is none that is known.
    """
    config, network = source.config, source.policy.diffusion
    condition = _Condition(source).eval()
    schedule = _schedule(source)
    draws = any(row[-1] for row in schedule.rows)
    noise = "the first latent and of every step" if draws else "the first latent"
    source.remarks.append(
        f"each input takes the last {config.n_obs_steps} values of its sensor, the oldest first; "
        "when an episode begins, lerobot repeats the first value"
    )
    source.remarks.append(
        f"a run takes {len(schedule.rows)} denoising steps ({config.noise_scheduler_type}) and "
        f"gives {config.n_action_steps} actions from the newest observation on; lerobot executes "
        "all of them before it runs the policy again: that stays outside"
    )
    source.remarks.append(
        f"the noise of {noise} follows from the call's seed: the same seed and observations give "
        "the same actions"
    )
    return Model(
        condition,
        condition.observations.inputs(),
        ["condition"],
        loop=Denoise(
            _Step(network.unet).eval(),
            schedule,
            shape=("batch", config.horizon, config.action_feature.shape[0]),
            time_shape=("batch",),
            decoder=_Actions(source).eval(),
            outputs=["action"],
            clip=float(config.clip_sample_range) if config.clip_sample else None,
        ),
    )


def _schedule(source: PolicyFolder) -> Schedule:
    """The policy's own scheduler as a table."""
    scheduler: Any = source.policy.diffusion.noise_scheduler
    steps = int(source.policy.diffusion.num_inference_steps)
    scheduler.set_timesteps(steps)
    settings = scheduler.config
    options: dict[str, Any] = {
        "prediction": settings.prediction_type,
        "spacing": settings.timestep_spacing,
        "offset": int(settings.steps_offset),
    }
    if source.config.noise_scheduler_type == "DDIM":
        last = float(scheduler.final_alpha_cumprod)
        schedule = schedules.ddim(scheduler.alphas_cumprod, steps, last_alpha=last, **options)
    else:
        schedule = schedules.ddpm(scheduler.alphas_cumprod, steps, **options)
    times = [int(time) for time in scheduler.timesteps]
    if [int(row[0]) for row in schedule.rows] != times:
        raise ExportError(
            f"{source.folder}: {steps} steps of {source.config.noise_scheduler_type} are the times "
            f"{times} to the installed diffusers, which mmedge does not know; choose "
            "num_inference_steps in config.json that divides num_train_timesteps"
        )
    return schedule
