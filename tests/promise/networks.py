"""Random fusion networks with what they are said to take, and inputs over all of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from mmedge_export import Input, Model
from promise import steps
from promise.steps import Value

WORDS = 20
FILLS = (-1e4, -1e9, float("-inf"), float(torch.finfo(torch.float32).min))
EXTREMES = (0, 1, -1, 2**24 + 1, -(2**24) - 1, 2**31 - 1, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63))


class Network(nn.Module):
    """Runs its steps in order on values by name."""

    def __init__(self, parts: list[nn.Module], outputs: list[str]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(parts)
        self.outputs = outputs

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        values = dict(inputs)
        for step in self.steps:
            step(values)
        return tuple(values[name] for name in self.outputs)


@dataclass(repr=False)
class Random:
    """A random network: its model, and how to draw an input of each kind."""

    network: Network
    inputs: dict[str, Input]
    dims: dict[str, tuple[int, int]]
    kinds: dict[str, str]
    seed: int
    traits: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name}: {value.example.dtype}{list(value.shape())}"
            for name, value in self.inputs.items()
        )
        return f"seed {self.seed}: {' '.join(self.traits)} of {shapes}, dims {self.dims}"

    def model(self, *, samples: bool) -> Model:
        outputs = [f"y{index}" for index in range(len(self.network.outputs))]
        given = None
        if samples:
            given = [(case, None) for case in self.cases(3, usual=True)]
        return Model(self.network, self.inputs, outputs, samples=given, dims=self.dims)

    def cases(self, count: int, *, usual: bool = False) -> Iterator[dict[str, np.ndarray]]:
        """Inputs over the whole stated domain, or ``usual`` ones as a user would bring.

        The first have every size at its smallest and at its largest, or far from the example.
        """
        rng = np.random.default_rng(self.seed + usual)
        limits = {}
        for value in self.inputs.values():
            for axis, name in value.dynamic.items():
                opt = value.example.shape[axis]
                least, most = self.dims.get(name, (1, opt + 9))
                limits[name] = (least, most, opt)
        for number in range(count):
            sizes = {}
            for name, (least, most, opt) in limits.items():
                ends = {0: least, 1: most, 2: min(opt + 1, most)}
                sizes[name] = ends.get(number, int(rng.integers(least, most + 1)))
                if usual:
                    sizes[name] = int(rng.integers(least, most + 1))
            yield {name: self._draw(name, sizes, rng, number, usual=usual) for name in self.inputs}

    def _draw(self, name, sizes, rng, number, *, usual):
        value, kind = self.inputs[name], self.kinds[name]
        shape = tuple(sizes[s] if isinstance(s, str) else s for s in value.shape())
        if kind == "floats":
            return (rng.standard_normal(shape) * (1, 3)[number % 2]).astype(np.float32)
        if kind == "pixels":
            low, high = ((0, 256), (0, 1), (255, 256))[0 if usual else number % 3]
            return rng.integers(low, high, shape, np.uint8)
        if kind == "ids":
            return rng.integers(0, WORDS, shape)
        if kind == "mask":
            lengths = rng.integers(1, shape[1] + 1, shape[0])
            mask = np.arange(shape[1]) < lengths[:, None]
            if number % 3 == 1:
                mask[:] = True
            if not usual and number % 4 == 2:
                mask[0] = False
            return mask
        if kind == "flag":
            return rng.random(shape) < (0.5, 0.0, 1.0)[number % 3]
        if kind == "index":
            return rng.integers(-9 if not usual else 0, 10, shape)
        if usual:
            return rng.integers(0, 100, shape)
        return np.asarray(rng.choice(np.array(EXTREMES), shape), np.int64)


class Builder:
    """Draws a network step by step."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(self.seed)
        self.parts: list[nn.Module] = []
        self.values: dict[str, Value] = {}
        self.inputs: dict[str, Input] = {}
        self.kinds: dict[str, str] = {}
        self.dims: dict[str, tuple[int, int]] = {}
        self.traits: list[str] = []
        self.batch = self.pick(1, 2, 3)

    def pick(self, *options):
        return self.random.choice(options)

    def chance(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def put(self, kind, example, **more):
        name = f"in{len(self.inputs)}"
        dynamic = {0: "batch"} | more.pop("dynamic", {})
        if example.ndim == 0:
            dynamic = {}
        self.inputs[name] = Input(example, dynamic=dynamic, **more)
        self.kinds[name] = kind
        return name

    def add(self, step: type[steps.Step], names, value: Value, *args) -> str:
        out = f"v{len(self.parts)}"
        self.parts.append(step(list(names), out, *args))
        self.values[out] = value
        self.traits.append(step.__name__)
        return out

    def limit(self, name, opt):
        least = self.pick(1, 1, min(2, opt))
        if self.chance(3):
            self.dims[name] = (least, opt + self.pick(3, 12))

    def floats(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    # Modalities, each with its encoder.

    def state(self):
        width = self.pick(3, 6)
        name = self.put("floats", self.floats(self.batch, width))
        to = self.pick(4, 8)
        return self.add(
            steps.Linear, [name], Value("row", to), width, to, self.random.randint(0, 4)
        )

    def camera(self):
        size = self.pick(8, 10)
        dynamic = {}
        if self.chance(2):
            dynamic = {1: f"H{len(self.inputs)}", 2: f"W{len(self.inputs)}"}
            for axis in dynamic.values():
                self.dims[axis] = (4, size + 8)
        example = self.rng.integers(0, 256, (self.batch, size, size, 3), np.uint8)
        name = self.put("pixels", example, dynamic=dynamic)
        x = self.add(steps.Pixels, [name], Value("map", 3))
        x = self.add(steps.Convolve, [x], Value("map", 6), 3, 6, self.pick(1, 2))
        if self.chance(2):
            x = self.add(steps.Normalize, [x], Value("map", 6), 6)
        how = self.pick("mean", "max", "tokens")
        if how == "tokens":
            x = self.add(steps.Resize, [x], Value("map", 6))
            return self.add(steps.PoolMap, [x], Value("tokens", 6), how)
        return self.add(steps.PoolMap, [x], Value("row", 6), how)

    def words(self):
        length, axis = self.pick(4, 7), f"L{len(self.inputs)}"
        group = f"text{len(self.inputs)}"
        self.limit(axis, length)
        ids = self.put(
            "ids",
            self.rng.integers(0, WORDS, (self.batch, length)),
            dynamic={1: axis},
            modality=group,
        )
        mask = None
        if self.chance(2):
            example = np.ones((self.batch, length), bool)
            if self.chance(2):
                example[-1, length // 2 :] = False
            mask = self.put("mask", example, dynamic={1: axis}, modality=group)
        width = self.pick(4, 8)
        x = self.add(steps.Embed, [ids], Value("tokens", width, axis, mask), WORDS, width)
        return self.sequence(x)

    def audio(self):
        axis = f"T{len(self.inputs)}"
        if self.chance(3):
            length = self.pick(32, 41)
            self.dims[axis] = (16, length + 30)
            name = self.put("floats", self.floats(self.batch, length), dynamic={1: axis})
            x = self.add(steps.Window, [name], Value("tokens", 8, axis), 8, self.pick(4, 8))
        else:
            length = self.pick(6, 9)
            self.limit(axis, length)
            name = self.put("floats", self.floats(self.batch, length, 5), dynamic={1: axis})
            x = self.add(steps.Linear, [name], Value("tokens", 8, axis), 5, 8, 0)
        return self.sequence(x)

    def points(self):
        axis = f"N{len(self.inputs)}"
        self.dims[axis] = (self.pick(0, 1), 24)
        name = self.put("floats", self.floats(self.batch, 6, 3), dynamic={1: axis})
        x = self.add(steps.Linear, [name], Value("tokens", 8, axis), 3, 8, 0)
        return self.add(steps.PoolTokens, [x], Value("row", 8), self.pick("mean", "max"))

    def code(self):
        shape = self.pick((self.batch,), (self.batch, 1))
        name = self.put("integers", self.rng.integers(0, 100, shape))
        for _ in range(self.random.randint(0, 2)):
            how = self.pick("floor", "mod", "shift", "and", "mul", "abs", "div")
            name = self.add(
                steps.Integers, [name], Value("whole", 1), how, self.pick(3, 7, -5, 1000)
            )
        if self.chance(2) and len(shape) == 1:
            return self.add(steps.OneHot, [name], Value("row", 5), 5)
        return self.add(steps.Scaled, [name], Value("row", 8), 8)

    def sequence(self, x):
        value = self.values[x]
        width, axis, mask = value.width, value.length, value.mask
        masked = [x, mask] if mask else [x]
        for _ in range(self.random.randint(0, 2)):
            kind = self.pick(
                "attention", "sdpa", "sine", "table", "cumsum", "flip", "gru", "linear"
            )
            if kind == "attention":
                x = self.add(steps.SelfAttention, [x, *masked[1:]], value, width, self.pick(*FILLS))
            elif kind == "sdpa":
                value = Value("tokens", 4, axis, mask)
                x = self.add(steps.Sdpa, [x, *masked[1:]], value, width)
            elif kind == "sine":
                x = self.add(steps.SinePositions, [x], value)
            elif kind == "table":
                x = self.add(steps.Positions, [x], value, width, 64)
            elif kind == "cumsum":
                x = self.add(steps.Accumulate, [x], value)
            elif kind == "flip":
                x = self.add(steps.Reverse, [x], value)
            elif kind == "gru" and self.chance(4):
                x = self.add(steps.Recurrent, [x], Value("tokens", 6, axis, mask), width, 6)
            else:
                x = self.add(steps.Linear, [x], Value("tokens", 6, axis, mask), width, 6, 2)
            value = self.values[x]
            width = value.width
            masked = [x, mask] if mask else [x]
        return x

    # What joins them.

    def row(self, x):
        """Tokens as a row."""
        value = self.values[x]
        if value.kind == "row":
            return x
        masked = [x, value.mask] if value.mask else [x]
        width = value.width
        if value.mask is None and self.chance(5):
            hazard = self.pick("odd", "pad", "cut")
            if hazard == "odd":
                return self.add(steps.DropOdd, [x], Value("row", width))
            if hazard == "pad":
                return self.add(steps.PadTo, [x], Value("row", 2 * width), 2)
            return self.add(steps.Truncate, [x], Value("row", width), 5)
        return self.add(
            steps.PoolTokens, masked, Value("row", width), self.pick("mean", "max", "last")
        )

    def hazards(self, x):
        """Now and then, what exporters have been deceived by."""
        width = self.values[x].width
        row = Value("row", width)
        if self.chance(3):
            kind = self.pick("magnify", "cast", "sort", "largest", "share", "positive", "noise")
            if kind == "magnify":
                x = self.add(steps.Magnify, [x], row, width, self.pick(30.0, 640.0))
            elif kind == "cast":
                x = self.add(steps.Cast, [x], row, self.pick(torch.int8, torch.int32, torch.uint8))
            elif kind == "sort":
                x = self.add(steps.Sorted, [x], row)
            elif kind == "largest":
                x = self.add(steps.Largest, [x], Value("row", 2))
            elif kind == "share":
                x = self.add(steps.Share, [x], row)
            elif kind == "positive" and self.chance(4):
                x = self.add(steps.Positive, [x], row)
            elif kind == "noise" and self.chance(4):
                x = self.add(steps.Noise, [x], row)
        if self.chance(8):
            kind = self.pick("counter", "mean", "first")
            width = self.values[x].width
            row = Value("row", width)
            if kind == "counter":
                x = self.add(steps.Counter, [x], row)
            elif kind == "mean":
                x = self.add(steps.MovingMean, [x], row, width)
            else:
                x = self.add(steps.FirstFrame, [x], row)
        if self.chance(8):
            index = self.put("index", self.rng.integers(0, 9, (self.batch, 1)))
            if self.chance(2):
                x = self.add(steps.ScatterMean, [x, index], self.values[x])
            else:
                x = self.add(steps.Take, [x, index], Value("row", 1))
        return x

    def fuse(self, encoded):
        tokens = [x for x in encoded if self.values[x].kind == "tokens"]
        if len(tokens) > 1 and self.chance(6) and self.values[tokens[0]].mask is None:
            a, b = tokens[:2]
            if self.values[a].width == self.values[b].width and self.values[b].mask is None:
                joined = self.add(steps.Longer, [a, b], Value("row", self.values[a].width))
                encoded = [x for x in encoded if x not in (a, b)] + [joined]
                tokens = tokens[2:]
        rows = [x for x in encoded if self.values[x].kind == "row"]
        if rows and tokens and self.chance(2):
            row, value = rows[0], self.values[tokens[0]]
            asked = [row, tokens[0], *([value.mask] if value.mask else [])]
            return [
                self.add(
                    steps.CrossAttention,
                    asked,
                    Value("row", 8),
                    self.values[row].width,
                    value.width,
                    self.pick(*FILLS),
                ),
                *[self.hazards(self.row(x)) for x in encoded if x != tokens[0]],
            ]
        return [self.hazards(self.row(x)) for x in encoded]

    def build(self) -> Random:
        kinds = [self.state, self.camera, self.words, self.audio, self.points, self.code]
        chosen = self.random.choices(range(len(kinds)), k=self.random.randint(1, 3))
        rows = self.fuse([kinds[index]() for index in chosen])
        widths = [self.values[x].width for x in rows]
        if len(rows) > 1 and self.chance(3):
            fused = self.add(steps.Product, rows, Value("row", 8), widths, 8)
        else:
            fused = self.add(steps.Concatenate, rows, Value("row", sum(widths)))
        outputs = []
        for _ in range(self.pick(1, 1, 2)):
            how = self.pick(
                "logits", "logits", "boxes", "classes", "actions", "yes", "double", "half", "hits"
            )
            extra = []
            if how == "actions" and self.chance(2):
                extra = [self.put("flag", np.ones(self.batch, bool))]
            width = self.values[fused].width
            outputs.append(self.add(steps.Head, [fused, *extra], Value("row", 6), width, how))
        network = Network(self.parts, outputs).eval()
        return Random(network, self.inputs, self.dims, self.kinds, self.seed, self.traits)


#: Seeds say more in fewer examples than choices one by one, of which hypothesis repeats most.
networks = st.integers(0, 2**32 - 1).map(lambda seed: Builder(seed).build())
