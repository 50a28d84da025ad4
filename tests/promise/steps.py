"""Steps of random fusion networks: what real networks do, and what has deceived exporters.

A step is a module that takes the values so far by name and adds one. Values are of four kinds:
``row`` [batch, n], ``tokens`` [batch, length, n], ``map`` [batch, n, height, width] and ``whole``
(integers of any shape). All run in plain torch, so that the network is its own reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Value:
    """What is known of a value: its kind, width, and the name of its dynamic length, if any."""

    kind: str
    width: int
    length: str | None = None
    mask: str | None = None


class Step(nn.Module):
    """Adds ``out``, made of ``names``, to the values."""

    def __init__(self, names: list[str], out: str) -> None:
        super().__init__()
        self.names, self.out = names, out

    def forward(self, values: dict[str, Tensor]) -> None:
        values[self.out] = self.make(*(values[name] for name in self.names))

    def make(self, *inputs: Tensor) -> Tensor:
        raise NotImplementedError


# Encoders: inputs become rows, tokens or maps.


class Linear(Step):
    def __init__(self, names, out, width, to, act):
        super().__init__(names, out)
        self.linear, self.act = nn.Linear(width, to), act

    def make(self, x):
        x = self.linear(x)
        return (x.relu(), x.tanh(), F.gelu(x), F.silu(x), x)[self.act]


class Pixels(Step):
    """A picture as cameras give it, uint8 [batch, height, width, 3], to a map."""

    def make(self, x):
        return x.permute(0, 3, 1, 2).float() / 255.0


class Convolve(Step):
    def __init__(self, names, out, width, to, stride):
        super().__init__(names, out)
        self.conv = nn.Conv2d(width, to, 3, stride=stride, padding=1)

    def make(self, x):
        return self.conv(x).relu()


class Normalize(Step):
    """Batch norm with statistics that are not those of the data."""

    def __init__(self, names, out, width):
        super().__init__(names, out)
        self.norm = nn.BatchNorm2d(width)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def make(self, x):
        return self.norm(x)


class Resize(Step):
    def make(self, x):
        return F.interpolate(x, size=(4, 4), mode="bilinear", align_corners=False)


class PoolMap(Step):
    def __init__(self, names, out, how):
        super().__init__(names, out)
        self.how = how

    def make(self, x):
        if self.how == "tokens":
            return x.flatten(2).transpose(1, 2)
        return x.mean((2, 3)) if self.how == "mean" else x.amax((2, 3))


class Embed(Step):
    def __init__(self, names, out, words, to):
        super().__init__(names, out)
        self.table = nn.Embedding(words, to)

    def make(self, ids):
        return self.table(ids)


class Positions(Step):
    """Adds a learned position; the table's length limits the sequence."""

    def __init__(self, names, out, width, most):
        super().__init__(names, out)
        self.table = nn.Parameter(torch.randn(most, width) * 0.3)

    def make(self, x):
        return x + self.table[: x.shape[1]]


class SinePositions(Step):
    """Adds positions that are computed from the length."""

    def make(self, x):
        place = torch.arange(x.shape[1], dtype=torch.float32, device=x.device)
        return x + torch.sin(place[:, None] / (1 + torch.arange(x.shape[2], device=x.device)))


class SelfAttention(Step):
    def __init__(self, names, out, width, fill):
        super().__init__(names, out)
        self.project = nn.Linear(width, 3 * width)
        self.fill = fill

    def make(self, x, mask=None):
        q, k, v = self.project(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / x.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, :], self.fill)
        return x + scores.softmax(-1) @ v


class Sdpa(Step):
    """torch's own attention with a mask of keys."""

    def __init__(self, names, out, width):
        super().__init__(names, out)
        self.q, self.kv = nn.Linear(width, 4), nn.Linear(width, 8)

    def make(self, x, mask=None):
        q, (k, v) = self.q(x), self.kv(x).chunk(2, -1)
        allowed = None if mask is None else mask[:, None, None, :]
        return F.scaled_dot_product_attention(
            q[:, None], k[:, None], v[:, None], attn_mask=allowed
        )[:, 0]


class Recurrent(Step):
    def __init__(self, names, out, width, to):
        super().__init__(names, out)
        self.gru = nn.GRU(width, to, batch_first=True)

    def make(self, x):
        return self.gru(x)[0]


class PoolTokens(Step):
    def __init__(self, names, out, how):
        super().__init__(names, out)
        self.how = how

    def make(self, x, mask=None):
        if mask is None:
            if self.how == "last":
                return x[:, -1]
            return x.mean(1) if self.how == "mean" else x.amax(1)
        if self.how == "last":
            last = mask.long().sum(1) - 1
            return x[torch.arange(x.shape[0], device=x.device), last]
        if self.how == "mean":
            return (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return x.masked_fill(~mask[:, :, None], -1e4).amax(1)


class Window(Step):
    """A raw signal in frames."""

    def __init__(self, names, out, size, hop):
        super().__init__(names, out)
        self.size, self.hop = size, hop

    def make(self, x):
        return x.unfold(1, self.size, self.hop)


# Integers.


class Integers(Step):
    """Arithmetic on integers that are content."""

    def __init__(self, names, out, how, number):
        super().__init__(names, out)
        self.how, self.number = how, number

    def make(self, x):
        n = self.number
        return {
            "floor": lambda: x // n,
            "mod": lambda: x % n,
            "shift": lambda: x >> 2,
            "and": lambda: x & 7,
            "mul": lambda: x * n,
            "abs": x.abs,
            "div": lambda: torch.div(x, n, rounding_mode="trunc"),
        }[self.how]()


class OneHot(Step):
    """Integers as rows: a class modulo the width."""

    def __init__(self, names, out, to):
        super().__init__(names, out)
        self.to = to

    def make(self, x):
        return F.one_hot(x % self.to, self.to).float()


class Scaled(Step):
    """Integers of any size as a row of small numbers."""

    def __init__(self, names, out, to):
        super().__init__(names, out)
        self.to = to

    def make(self, x):
        x = x.reshape(x.shape[0], -1)
        powers = 5 ** torch.arange(self.to, device=x.device)
        return ((x[:, :1] // powers) % 5).float()


class Cast(Step):
    """A float row as integers and back: content that passes an integer dtype."""

    def __init__(self, names, out, dtype):
        super().__init__(names, out)
        self.dtype = dtype

    def make(self, x):
        return (x * 20).to(self.dtype).float() / 20


# What deceives exporters.


class DropOdd(Step):
    def make(self, x):
        if x.shape[1] % 2:
            x = x[:, :-1]
        return x.mean(1)


class PadTo(Step):
    """Padded to a multiple, where needed."""

    def __init__(self, names, out, multiple):
        super().__init__(names, out)
        self.multiple = multiple

    def make(self, x):
        missing = -x.shape[1] % self.multiple
        if missing:
            x = F.pad(x, (0, 0, 0, missing))
        return x.reshape(x.shape[0], -1, self.multiple * x.shape[2]).amax(1)


class Longer(Step):
    """Of two sequences the longer one is averaged, the other looked at for its largest values."""

    def make(self, x, z):
        if x.shape[1] > z.shape[1]:
            x, z = z, x
        return x.mean(1) + 2 * z.amax(1)


class Truncate(Step):
    """At most so many tokens."""

    def __init__(self, names, out, most):
        super().__init__(names, out)
        self.most = most

    def make(self, x):
        if x.shape[1] > self.most:
            x = x[:, : self.most]
        return x.sum(1)


class Counter(Step):
    """A gain that grows with every call: state that is lost."""

    def __init__(self, names, out):
        super().__init__(names, out)
        self.calls = 0

    def make(self, x):
        self.calls += 1
        return x * self.calls


class MovingMean(Step):
    """A buffer that follows the input: state that is lost."""

    def __init__(self, names, out, width):
        super().__init__(names, out)
        self.register_buffer("mean", torch.zeros(width))

    def make(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.reshape(-1, x.shape[-1]).mean(0))
        return x - self.mean


class FirstFrame(Step):
    """What came first is kept and subtracted for ever after."""

    def __init__(self, names, out):
        super().__init__(names, out)
        self.first = None

    def make(self, x):
        if self.first is None:
            self.first = x.detach().mean()
        return x - self.first


class ScatterMean(Step):
    """A mean over what falls into a cell, which torch's exporter has written wrongly."""

    def make(self, x, cell):
        index = (cell % x.shape[1]).reshape(x.shape[0], -1)[:, :1].expand(-1, x.shape[1])
        kept = torch.zeros_like(x).scatter_reduce(1, index, x, "mean", include_self=False)
        return x + kept


class Noise(Step):
    """Something new at each call."""

    def make(self, x):
        return x + torch.rand_like(x)


class Positive(Step):
    """Python decides by content."""

    def make(self, x):
        return x if float(x.detach().sum()) > 0 else -x


class Largest(Step):
    """Values of the two largest features, and where they are; no two are alike."""

    def make(self, x):
        values, places = (x + 1e-3 * torch.arange(x.shape[-1])).topk(2, dim=-1)
        return values + places.to(x.dtype)


class Sorted(Step):
    def make(self, x):
        return x.sort(dim=-1).values


class Accumulate(Step):
    def make(self, x):
        return x.cumsum(1)


class Reverse(Step):
    def make(self, x):
        return x.flip(1)


class Take(Step):
    """Features by an index that comes from outside, negative ones from the end."""

    def make(self, x, index):
        return x.gather(1, (index % x.shape[1]).reshape(x.shape[0], -1))


class Share(Step):
    """A ratio whose divisor may be nothing."""

    def make(self, x):
        return x / x.clamp(min=0).sum(-1, keepdim=True)


class Magnify(Step):
    """Some features in pixels beside others in shares."""

    def __init__(self, names, out, width, ratio):
        super().__init__(names, out)
        gain = torch.ones(width)
        gain[: max(1, width // 2)] = ratio
        self.register_buffer("gain", gain)

    def make(self, x):
        return x * self.gain


# Fusion.


class Concatenate(Step):
    def make(self, *parts):
        return torch.cat(parts, dim=1)


class Product(Step):
    def __init__(self, names, out, widths, to):
        super().__init__(names, out)
        self.all = nn.ModuleList(nn.Linear(width, to) for width in widths)

    def make(self, *parts):
        total = self.all[0](parts[0])
        for layer, part in zip(list(self.all)[1:], parts[1:], strict=True):
            total = total * layer(part).sigmoid()
        return total


class CrossAttention(Step):
    """A row asks tokens."""

    def __init__(self, names, out, width, tokens, fill):
        super().__init__(names, out)
        self.q, self.kv = nn.Linear(width, 8), nn.Linear(tokens, 16)
        self.fill = fill

    def make(self, row, tokens, mask=None):
        q, (k, v) = self.q(row)[:, None], self.kv(tokens).chunk(2, -1)
        scores = q @ k.transpose(1, 2) / 8**0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, :], self.fill)
        return (scores.softmax(-1) @ v)[:, 0]


# Heads: what a network gives out.


class Head(Step):
    def __init__(self, names, out, width, how):
        super().__init__(names, out)
        self.linear, self.how = nn.Linear(width, 6), how

    def make(self, x, extra=None):
        logits = self.linear(x)
        if self.how == "classes":
            return logits.argmax(-1)
        if self.how == "boxes":
            return torch.cat([logits[:, :4] * 640.0, logits[:, 4:].sigmoid()], 1)
        if self.how == "actions":
            allowed = logits.detach() > -0.3 if extra is None else extra[:, None].bool()
            return logits.masked_fill(~allowed, -1e9)
        if self.how == "yes":
            return logits > 0
        if self.how == "double":
            return logits.double() * 2
        if self.how == "half":
            return logits.half()
        if self.how == "hits":
            return torch.relu(logits - 3.0)
        return logits
