"""Small policies of LeRobot with random weights, saved by lerobot itself, and what they answer."""

from __future__ import annotations

import importlib
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("lerobot", reason="needs pip install --no-deps lerobot==0.4.4")
pytest.importorskip("draccus", reason="needs the extra 'lerobot'")
networks.declare_torchvision()

from torchvision import models as vision  # noqa: E402

from mmedge_export.sources.lerobot.policy_modules import (  # noqa: E402
    NOT_NEEDED,
    import_policy,
    stand_ins,
)
from mmedge_export.sources.lerobot.vlm_files import vlm_at_hand  # noqa: E402

#: The module of the processors is needed here, and what it imports of robots is not.
_STAND_INS = [name for name in NOT_NEEDED if name != "lerobot.processor"]
_STAND_INS += ["lerobot.teleoperators"]

with stand_ins(_STAND_INS):
    processor = importlib.import_module("lerobot.processor")
types = importlib.import_module("lerobot.configs.types")

HEIGHT, WIDTH, STATE, ACTION = 48, 64, 6, 5
CAMERAS = ("front", "wrist")


class Backbone(nn.Module):
    """What the policies ask of a network of torchvision for pictures, and no more of it."""

    def __init__(self, weights=None, norm_layer=nn.BatchNorm2d, **options):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 7, 4, 3, bias=False), norm_layer(16)
        self.relu = nn.ReLU()
        self.layer4 = nn.Conv2d(16, 32, 3, 4, 1)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 10)


def module_of(kind, name):
    """A module of lerobot's policies."""
    with stand_ins(_STAND_INS):
        return importlib.import_module(f"lerobot.policies.{kind}.{name}_{kind}")


def statistics(rng):
    """Of a data set in a robot's units: degrees of joints, shares of colors."""

    def of(width, scale):
        low = rng.uniform(-scale, 0, width)
        high = rng.uniform(0.2 * scale, scale, width)
        return {
            "min": low, "max": high, "mean": (low + high) / 2, "std": (high - low) / 4,
            "q01": 0.9 * low, "q99": 0.9 * high,
        }  # fmt: skip

    stats = {"observation.state": of(STATE, 90.0), "action": of(ACTION, 40.0)}
    for camera in CAMERAS:
        shape = (3, 1, 1)
        stats[f"observation.images.{camera}"] = {
            "min": np.zeros(shape), "max": np.ones(shape),
            "mean": rng.uniform(0.3, 0.6, shape), "std": rng.uniform(0.2, 0.3, shape),
        }  # fmt: skip
    return {
        name: {what: torch.from_numpy(value).float() for what, value in each.items()}
        for name, each in stats.items()
    }


def save(kind, folder, construct=None, **settings):
    """A policy of a kind and its processors, as lerobot's trainer saves them."""
    vision.resnet_small = Backbone
    policy_class = import_policy(kind)
    picture = types.PolicyFeature(types.FeatureType.VISUAL, (3, HEIGHT, WIDTH))
    config = policy_class.config_class(
        input_features={
            "observation.state": types.PolicyFeature(types.FeatureType.STATE, (STATE,)),
            **{f"observation.images.{camera}": picture for camera in CAMERAS},
        },
        output_features={"action": types.PolicyFeature(types.FeatureType.ACTION, (ACTION,))},
        device="cpu",
        push_to_hub=False,
        **settings,
    )
    torch.manual_seed(1)
    policy = (construct or policy_class)(config).eval()
    make = getattr(module_of(kind, "processor"), f"make_{kind}_pre_post_processors")
    before, behind = make(config, statistics(np.random.default_rng(2)))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for part in (policy, before, behind):
        part.save_pretrained(folder)
    return policy, before, behind


def act(folder, **settings):
    return save(
        "act", folder, vision_backbone="resnet_small", pretrained_backbone_weights=None,
        dim_model=32, n_heads=4, dim_feedforward=64, n_encoder_layers=1, chunk_size=8,
        n_action_steps=4, latent_dim=8, n_vae_encoder_layers=1, **settings,
    )  # fmt: skip


def diffusion(folder, **settings):
    options = {
        "num_train_timesteps": 20, "noise_scheduler_type": "DDIM", "num_inference_steps": 5,
        **settings,
    }  # fmt: skip
    return save(
        "diffusion", folder, vision_backbone="resnet_small", crop_shape=(40, 56),
        spatial_softmax_num_keypoints=4, down_dims=(16, 32), n_groups=4, horizon=8,
        n_action_steps=4, n_obs_steps=2, diffusion_step_embed_dim=16, **options,
    )  # fmt: skip


#: What tasks of :func:`smolvla` are made of.
WORDS = ["[UNK]", "\n", "pick", "up", "the", "red", "cube", "put", "it", "down"]


def smolvla(folder, **settings):
    """With a small language network, whose files lie in the folder ``vlm`` of the policy."""
    import transformers
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    vlm = Path(folder) / "vlm"
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 37,
    }  # fmt: skip
    transformers.SmolVLMConfig(
        vision_config={**sizes, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8},
        text_config={
            **sizes, "model_type": "llama", "num_hidden_layers": 4, "num_key_value_heads": 1,
            "head_dim": 16, "vocab_size": len(WORDS), "pad_token_id": 0, "attention_bias": False,
        },
        image_token_id=3,
        scale_factor=2,
        pad_token_id=0,
    ).save_pretrained(vlm)  # fmt: skip
    tokens = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, "[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(" "), "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[UNK]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(vlm)
    name = "somebody/vlm"

    def construct(config):
        with vlm_at_hand(Path(folder), {"vlm_model_name": str(vlm)}):
            return import_policy("smolvla")(config)

    policy, before, behind = save(
        "smolvla", folder, construct, vlm_model_name=str(vlm), chunk_size=6, n_action_steps=3,
        max_state_dim=8, max_action_dim=8, resize_imgs_with_padding=(32, 32),
        tokenizer_max_length=10, num_vlm_layers=2, num_steps=10, expert_width_multiplier=0.5,
        **settings,
    )  # fmt: skip
    # Saved as trainers save it, whose language network is one of the hub.
    policy.config.vlm_model_name = name
    for step in before.steps:
        if hasattr(step, "tokenizer_name"):
            step.tokenizer_name = name
    for part in (policy, before):
        part.save_pretrained(folder)
    return policy, before, behind


def frames(rng, rows=1):
    """What sensors of a robot give at one time."""
    values = {c: rng.integers(0, 256, (rows, HEIGHT, WIDTH, 3), dtype=np.uint8) for c in CAMERAS}
    return {**values, "state": rng.uniform(-90, 90, (rows, STATE)).astype(np.float32)}


def observation(values):
    """The same as lerobot makes it of them, before its processors."""
    batch = {
        f"observation.images.{c}": torch.from_numpy(values[c]).float().div(255).movedim(-1, -3)
        for c in CAMERAS
    }
    return {**batch, "observation.state": torch.from_numpy(values["state"])}
