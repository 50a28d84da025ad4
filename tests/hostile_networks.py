"""Twenty multimodal networks that int8 breaks, each at one layer that is known.

Every network is small, seeded and made without training. All layers but the planted one are as
quantisation likes them: their outputs have mean 0 and deviation 1 on the data (each is scaled to
that in turn, LSUV of Mishkin and Matas 2016, arXiv 1511.06422), and their weights cannot saturate.
The network's own float answers are the labels, a few of them replaced, on samples whose answer
outlasts several times the noise that int8 brings to those layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from mmedge_export import Input, Model

#: What torch's exporter writes on a node, and a bundle keeps: the modules around it.
SCOPES = "pkg.torch.onnx.name_scopes"

#: Samples of each network that are judged, and others for calibration, from so many candidates.
SAMPLES, CALIBRATION, CANDIDATES = 600, 100, 3000

#: Share of labels that are replaced by another class.
WRONG = 0.02

#: Noise that an answer must outlast, at every benign layer, as a share of the layer's deviation
#: (int8 brings about 0.01), and how many draws of it.
NOISE, DRAWS = 0.06, 6

LEAD = 0.35  # least lead of the largest logit over the next; logits have deviation 1


@dataclass(frozen=True)
class Hostile:
    """A network, and the path of the module that must not become int8.

    ``model.samples`` is a list of ``(inputs, label)``, each with batch size 1; ``model.metric`` is
    accuracy. ``calibration`` holds inputs of other samples.
    """

    model: Model
    planted: str
    kind: str
    calibration: list[dict[str, np.ndarray]]


def planted_nodes(graph: onnx.ModelProto, hostile: Hostile) -> list[str]:
    """Names of the matrix products of one stage's graph that lie in the planted module."""
    return [
        node.name
        for node in graph.graph.node
        if node.op_type in ("MatMul", "Gemm") and _inside(node, hostile.planted)
    ]


def planted_weights(graph: onnx.ModelProto, hostile: Hostile) -> list[str]:
    """Names of the initializers that those nodes take as their right factor."""
    names = planted_nodes(graph, hostile)
    constants = {tensor.name for tensor in graph.graph.initializer}
    factors = [node.input[1] for node in graph.graph.node if node.name in names]
    return [name for name in factors if name in constants]


def _inside(node: onnx.NodeProto, path: str) -> bool:
    scopes = [entry.value for entry in node.metadata_props if entry.key == SCOPES]
    return any(repr(path) in value for value in scopes)


class Outliers(nn.Module):
    """A few channels are ``ratio`` times larger than the rest, which hold the signal."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        gain = torch.ones(width)
        gain[torch.randperm(width)[:4]] = ratio
        self.register_buffer("gain", gain)
        self.mix = nn.Linear(width, width)
        with torch.no_grad():
            self.mix.weight *= torch.where(gain > 1, 0.3 / gain, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x * self.gain)


class Sensor(nn.Module):
    """A linear layer on raw units: some readings are ``ratio`` times larger than the others."""

    def __init__(self, readings: int, width: int, ratio: float) -> None:
        super().__init__()
        self.units = torch.ones(readings)
        self.units[::8] = ratio
        self.mix = nn.Linear(readings, width)
        with torch.no_grad():
            self.mix.weight *= torch.where(self.units > 1, 0.3 / self.units, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x)


class Gate(nn.Module):
    """A gate opens by the difference of two large readings that are nearly equal."""

    def __init__(self, width: int, level: float) -> None:
        super().__init__()
        self.register_buffer("level", level * (0.5 + torch.rand(width)))
        self.compare = nn.Linear(2 * width, width)
        with torch.no_grad():
            # As learned: opposite but for a few per cent, so that each is rounded by itself.
            ratio = 1 + 0.05 * torch.randn(width, width)
            self.compare.weight[:, 1::2] = -ratio * self.compare.weight[:, ::2]

    def forward(self, x: Tensor) -> Tensor:
        # Side by side, so that sums in float32 stay small.
        pair = torch.stack([self.level + x, self.level - x], dim=-1).flatten(-2)
        return x * torch.tanh(2 * self.compare(pair))


class Saturation(nn.Module):
    """Neighbouring products with like weights: where both are at their largest, int16 is full.

    Without VNNI, x86 adds two products of uint8 and int8 in int16: 2 * 255 * 127 is cut to 32767.
    """

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.count = nn.Linear(width, width)
        with torch.no_grad():
            signs = torch.randn(width, width // 2).sign()
            self.count.weight.copy_(signs.repeat_interleave(2, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.count(torch.sigmoid(self.slope * x))


class Temperature(nn.Module):
    """Attention weights by keys that all but coincide, told apart by a low temperature."""

    def __init__(self, width: int, spread: float, scale: float) -> None:
        super().__init__()
        self.spread, self.scale = spread, scale
        self.register_buffer("common", torch.randn(width))
        self.query = nn.Linear(width, width // 2)
        self.key = nn.Linear(width, width // 2)

    def forward(self, tokens: Tensor, question: Tensor) -> Tensor:
        keys = self.key(self.common + self.spread * tokens)
        scores = self.query(question)[:, None] @ keys.transpose(1, 2)
        return torch.softmax(self.scale * scores, dim=-1)


class Gain(nn.Module):
    """A LayerNorm whose gain is huge in a few channels, and a layer that turns them down again."""

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width)
        large = torch.randperm(width)[:3]
        with torch.no_grad():
            self.norm.weight.copy_(0.5 + torch.rand(width))
            self.norm.weight[large] = gain
            self.mix.weight[:, large] *= 0.5 / gain

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.norm(x))


class Block(nn.Module):
    """A residual MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(torch.relu(self.up(x))))


class Frames(nn.Module):
    """Images [batch, 3, 16, 16] by convolutions, to [batch, width]."""

    shape, words = (3, 16, 16), 0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.third = nn.Conv2d(32, 32, 3, padding=1)
        self.out = nn.Linear(32 * 4 * 4, width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.out(torch.relu(self.third(x)).flatten(1))


class Embedded(nn.Module):
    """Inputs of ``shape`` (ids below ``words``, or floats) by an embedding and a residual MLP."""

    def __init__(
        self, embed: nn.Module, width: int, shape: tuple[int, ...], words: int = 0
    ) -> None:
        super().__init__()
        self.embed, self.block = embed, Block(width)
        self.shape, self.words = shape, words

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.embed(x))


def patches(width: int) -> nn.Module:
    """Images as 16 patches of 48 numbers, each becomes a token."""
    return Embedded(nn.Linear(48, width), width, (16, 48))


def words(width: int) -> nn.Module:
    """12 token ids."""
    return Embedded(nn.Embedding(200, width), width, (12,), words=200)


class Fusion(nn.Module):
    """``image`` (or tokens under that name) and ``state``, with a hostile module on the way.

    ``place`` is what the hostile module takes. At "tokens" it is :class:`Temperature`: ``state``
    asks, and one token of ``image`` answers.
    """

    def __init__(
        self,
        image: Callable[[int], nn.Module],
        width: int,
        classes: int,
        place: str,
        hostile: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.image, self.place = image(width), place
        self.state = Embedded(nn.Linear(24, width), width, (24,))
        if place == "sensor":
            self.state.embed = hostile()
        else:
            self.hostile = hostile()
        if place == "tokens":
            self.value = nn.Linear(width, width)
        self.join = nn.Linear(2 * width, width)
        self.body = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor, state: Tensor) -> Tensor:
        image, state = self.image(image), self.state(state)
        if self.place == "tokens":
            image = (self.hostile(image, state) @ self.value(image)).squeeze(1)
        elif image.ndim == 3:
            image = image.mean(1)
        if self.place == "image":
            image = self.hostile(image)
        elif self.place == "state":
            state = self.hostile(state)
        x = self.join(torch.cat([image, state], dim=-1))
        x = self.body(self.hostile(x) if self.place == "join" else x)
        return self.head(self.hostile(x) if self.place == "head" else x)


def accuracy(outputs: list[dict[str, np.ndarray]], targets: list[int]) -> float:
    """Share of samples whose largest logit is the label's."""
    hits = [
        int(out["logits"].argmax()) == target for out, target in zip(outputs, targets, strict=True)
    ]
    return float(np.mean(hits))


def weighted(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer with a weight that int8 concerns, by its path."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            yield name, module


@contextmanager
def _hooked(layers: Iterable[nn.Module], hook: Callable[..., Tensor]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _oppose(layer: nn.Module) -> None:
    """Make the weights of each two neighbours of a sum differ in sign: no pair can saturate."""
    flat = layer.weight.flatten(1)  # a view
    second = flat[:, 1::2]
    second.copy_(-flat[:, ::2][:, : second.shape[1]].sign() * second.abs())


def _standardise(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    """Scale and shift the layer for outputs of mean 0 and deviation 1 in every channel."""
    channels = output if output.ndim < 4 else output.movedim(1, -1)
    mean, deviation = (f(channels.flatten(0, -2), 0) for f in (torch.mean, torch.std))
    layer.bias.copy_((layer.bias - mean) / deviation)
    layer.weight /= deviation.view(-1, *[1] * (layer.weight.ndim - 1))
    return layer.forward(args[0])


def _disturb(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    return output + NOISE * output.std() * torch.randn_like(output)


def _make(kind: str, build: Callable[[], Fusion], seed: int) -> Hostile:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = build().eval()
        planted = "state.embed" if net.place == "sensor" else "hostile"
        size = (CANDIDATES, *net.image.shape)
        ids = net.image.words
        image = torch.randint(ids, size) if ids else torch.randn(size)
        state = torch.randn(CANDIDATES, *net.state.shape)
        if net.place == "sensor":
            state *= net.state.embed.units
        layers = dict(weighted(net))
        benign = [layer for name, layer in layers.items() if not name.startswith(f"{planted}.")]
        for layer in benign:
            nn.init.normal_(layer.weight)
            _oppose(layer)
        with _hooked(layers.values(), _standardise):
            net(image[:1000], state[:1000])
        logits = net(image, state)
        first, second = logits.topk(2).values.unbind(-1)
        clear = first - second >= LEAD
        image, state, answers = image[clear], state[clear], logits[clear].argmax(-1)
        robust = torch.ones_like(answers, dtype=torch.bool)
        with _hooked(benign, _disturb):
            for _ in range(DRAWS):
                robust &= net(image, state).argmax(-1) == answers
    chosen = torch.nonzero(robust)[: SAMPLES + CALIBRATION, 0].tolist()
    assert len(chosen) == SAMPLES + CALIBRATION, f"only {len(chosen)} samples are robust"
    inputs = [{"image": image[[i]].numpy(), "state": state[[i]].numpy()} for i in chosen]
    rng = np.random.default_rng(seed)
    labels = answers[chosen[:SAMPLES]].numpy()
    wrong = rng.permutation(SAMPLES)[: int(WRONG * SAMPLES)]
    classes = net.head.out_features
    labels[wrong] = (labels[wrong] + rng.integers(1, classes, wrong.shape)) % classes
    model = Model(
        net,
        {name: Input(value, dynamic={0: "batch"}) for name, value in inputs[0].items()},
        ["logits"],
        samples=list(zip(inputs[:SAMPLES], labels.tolist(), strict=True)),
        metric=accuracy,
    )
    return Hostile(model, planted, kind, inputs[SAMPLES:])


#: By kind: encoder of the first input, width, classes, place of the hostile module, and it.
NETWORKS = {
    "outliers": [
        (Frames, 64, 8, "image", partial(Outliers, 64, 200.0)),
        (patches, 48, 5, "join", partial(Outliers, 48, 300.0)),
        (words, 80, 10, "head", partial(Outliers, 80, 1000.0)),
        (Frames, 64, 6, "sensor", partial(Sensor, 24, 64, 500.0)),
    ],
    "gate": [
        (Frames, 64, 6, "image", partial(Gate, 64, 140.0)),
        (patches, 64, 8, "state", partial(Gate, 64, 70.0)),
        (words, 80, 5, "join", partial(Gate, 80, 60.0)),
        (Frames, 48, 10, "head", partial(Gate, 48, 80.0)),
    ],
    "saturation": [
        (Frames, 64, 8, "image", partial(Saturation, 64, 8.0)),
        (patches, 64, 5, "join", partial(Saturation, 64, 12.0)),
        (words, 48, 6, "state", partial(Saturation, 48, 16.0)),
        (Frames, 96, 10, "head", partial(Saturation, 96, 6.0)),
    ],
    "temperature": [
        (patches, 64, 6, "tokens", partial(Temperature, 64, 0.02, 1.5)),
        (words, 64, 8, "tokens", partial(Temperature, 64, 0.01, 3.0)),
        (patches, 96, 5, "tokens", partial(Temperature, 96, 0.015, 1.0)),
        (words, 48, 10, "tokens", partial(Temperature, 48, 0.015, 2.0)),
    ],
    "gain": [
        (Frames, 64, 8, "image", partial(Gain, 64, 500.0)),
        (patches, 80, 6, "state", partial(Gain, 80, 150.0)),
        (words, 64, 5, "join", partial(Gain, 64, 250.0)),
        (Frames, 48, 10, "head", partial(Gain, 48, 1000.0)),
    ],
}

HOSTILE: dict[str, Callable[[], Hostile]] = {
    f"{kind}_{index}": partial(_make, kind, partial(Fusion, *given), seed=10 * at + index)
    for at, (kind, networks) in enumerate(NETWORKS.items())
    for index, given in enumerate(networks)
}
