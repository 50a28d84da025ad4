"""Decoders whose keys and values grow, written in the ways in which exporters write attention.

:class:`Decoder` says how; :meth:`Decoder.write` makes a bundle with golden samples, which hold what
the graph itself computes here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from loop_bundles import Graph
from loop_samples import rewrite

import mmedge
from mmedge.bundle import Bundle
from mmedge.loop_spec import GenerateLoop, StateSpec
from mmedge.spec import Dimension, Manifest, Modality, Sample, Stage, TensorSpec, Tolerance, Variant

WORDS = 23

#: Ways to write attention that does not fit a cache in place, and what the reason says.
MISFITS = {
    "window": "is not causal",
    "sees all": "is not causal",
    "later": "is not causal",
    "bias": "something is added",
    "padding": "depends on 'keep'",
    "two readers": "is taken by",
}


@dataclass(frozen=True)
class Decoder:
    """A network of tokens alone, with these layers.

    ``rotary``: none, ``half`` (two halves, as products of halves), ``turned`` (a whole tensor and
    its turned one) or ``interleaved``. ``spread``: keys are repeated, or queries folded into rows.
    ``mask``: added, chosen by Where, or hiding what is NaN after a softmax as well. ``sizes``: it
    takes positions from the states' length, and has no input for them. ``prefix``: places that a
    stored state begins with. ``misfit``: of :data:`MISFITS`.
    """

    heads: int = 4
    key_heads: int = 2
    size: int = 16
    layers: int = 2
    rotary: str = "half"
    spread: str = "repeat"
    mask: str = "add"
    sizes: bool = False
    prefix: int = 0
    misfit: str = ""
    most: int | None = 200
    single: bool = False
    seed: int = 0

    @property
    def width(self) -> int:
        """Of the hidden state."""
        return self.heads * self.size

    def write(self, path, *, batch: int = 1, **loop) -> str:
        """The path of a bundle; options of the loop are those of :class:`GenerateLoop`."""
        bundle = self._plain(f"{path}-plain", **loop)
        rng = np.random.default_rng(self.seed)
        with mmedge.load(bundle) as pipe:
            prompts = [rng.integers(1, WORDS, (batch, 4)) for _ in range(1 + (batch == 1))]
            rewrite(bundle, path, [self._sample(pipe, prompt) for prompt in prompts]).close()
        bundle.close()
        return str(path)

    def _plain(self, path, **loop) -> Bundle:
        size = ("batch", self.key_heads, "past", self.size)
        grown = ("batch", self.key_heads, "total", self.size)
        names = [f"{n}{i}" for i in range(self.layers) for n in "kv"]
        token = TensorSpec("tokens", "int64", ("batch",) if self.single else ("batch", "new"))
        inputs = [token, *(TensorSpec(f"past_{n}", "float32", size) for n in names)]
        if not self.sizes:
            inputs.append(TensorSpec("at", "int64", () if self.single else ("new",)))
        if self.misfit == "padding":
            inputs.append(TensorSpec("keep", "float32", ("batch", 1)))
        shape = ("batch", WORDS) if self.single else ("batch", "new", WORDS)
        outputs = [
            TensorSpec("logits", "float32", shape),
            *(TensorSpec(f"present_{n}", "float32", grown) for n in names),
        ]
        modalities = [Modality("text", ("tokens",))]
        if self.misfit == "padding":
            modalities.append(Modality("keep", ("keep",)))
        rng = np.random.default_rng(self.seed)
        stored = {
            f"past_{n}": rng.normal(size=(1, self.key_heads, self.prefix, self.size)).astype("f4")
            for n in names
        }
        dimensions = {
            "batch": Dimension(1, 1, 4),
            "past": Dimension(0, 4, self.most),
            "total": Dimension(1, 5, None if self.most is None else self.most + 1),
        }
        if not self.single:
            dimensions["new"] = Dimension(1, 1, 64)
        manifest = Manifest(
            name="decoder",
            modalities=tuple(modalities),
            stages=(Stage("step", "onnx/step.onnx", tuple(inputs), tuple(outputs)),),
            outputs=(),
            variants=(
                Variant("ort", "fp32", "cpu", {"step": "onnx/step.onnx"}, Tolerance(1e-4, 1e-5)),
            ),
            files={},
            dimensions=dimensions,
            states=tuple(
                StateSpec(
                    "step", f"past_{n}", f"present_{n}", axis=2,
                    initial="stored" if self.prefix else "empty",
                )
                for n in names
            ),
            loops=(
                GenerateLoop(**{
                    "kind": "generate", "stage": "step", "token": "tokens", "logits": "logits",
                    "limit": 12, "position": None if self.sizes else "at", "stop": (0,), **loop,
                }),
            ),
        )  # fmt: skip
        return Bundle.write(
            path,
            manifest,
            {"onnx/step.onnx": self.graph(inputs, outputs)},
            states=stored if self.prefix else None,
        )

    def _sample(self, pipe, prompt) -> Sample:
        prompt = prompt[:, :1] if self.single else prompt
        inputs = {"tokens": prompt}
        if self.misfit == "padding":
            inputs["keep"] = np.ones((len(prompt), 1), np.float32)
        steps = list(pipe.iterate(inputs, cached=False))
        first = dict(pipe.bundle.first_states()) if self.prefix else {}
        taken = {}
        for spec in pipe.bundle.manifest.step_inputs().values():
            if spec.name.startswith("past"):
                empty = np.zeros((1, self.key_heads, 0, self.size), np.float32)
                taken[spec.name] = np.repeat(first.get(spec.name, empty), len(prompt), 0)
        taken["tokens"] = prompt[:, 0] if self.single else prompt
        if not self.sizes:
            taken["at"] = np.array(0) if self.single else np.arange(prompt.shape[1])
        outputs = pipe.run_stage("step", {**inputs, **taken})
        loop = {
            "tokens": pipe.run(inputs, cached=False)["tokens"],
            "logits": np.stack([step.scores for step in steps], 1),
        }
        return Sample(inputs, outputs, taken, loop)

    def graph(self, inputs, outputs) -> bytes:
        """The step's."""
        g, rng = Graph(), np.random.default_rng(self.seed + 1)

        def weight(*shape):
            return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

        tokens = g("Unsqueeze", "tokens", np.array([1])) if self.single else "tokens"
        zero, one = np.array(0), np.array(1)
        past = g("Squeeze", g("Shape", "past_k0", start=2, end=3))
        new = g("Squeeze", g("Shape", tokens, start=1, end=2))
        total = g("Add", past, new)
        keys = g("Range", zero, total, one)
        queries = g("Unsqueeze", g("Range", past, total, one), np.array([1]))
        if self.sizes:
            places = g("Range", past, total, one)
        else:
            places = g("Reshape", "at", np.array([-1])) if self.single else "at"
        hidden = g("Greater", g("Unsqueeze", keys, zero), queries)
        if self.misfit == "window":
            far = g("Less", g("Unsqueeze", keys, zero), g("Sub", queries, np.array(9)))
            hidden = g("Or", hidden, far)
        if self.misfit == "sees all":
            hidden = g("And", hidden, np.array(False))
        if self.misfit == "later":
            hidden = g("Greater", g("Unsqueeze", keys, zero), g("Add", queries, one))
        angles = g(
            "MatMul",
            g("Unsqueeze", g("Cast", places, to=1), one),
            (0.3 ** np.arange(self.size // 2, dtype=np.float32))[None],
        )
        cos, sin = g("Cos", angles), g("Sin", angles)
        x = g("Gather", weight(WORDS, self.width), tokens)
        if self.rotary == "none":
            x = g("Add", x, g("Gather", weight(1024, self.width) / 4, places))
        for layer in range(self.layers):
            mixed = self._attention(g, weight, x, layer, hidden, cos, sin)
            x = g("Add", x, g("MatMul", mixed, weight(self.width, self.width)))
        logits = g("MatMul", x, weight(self.width, WORDS))
        if self.single:
            g("Squeeze", logits, np.array([1]), name="logits")
        else:
            g("Identity", logits, name="logits")
        return g.bytes(inputs, outputs)

    def _attention(self, g, weight, x, layer, hidden, cos, sin):
        size, groups = self.size, self.heads // self.key_heads

        def project(heads):
            y = g("MatMul", x, weight(self.width, heads * size))
            y = g("Reshape", y, np.array([0, 0, heads, size]))
            return g("Transpose", y, perm=[0, 2, 1, 3])

        q = self._turn(g, project(self.heads), cos, sin)
        k = self._turn(g, project(self.key_heads), cos, sin)
        past_k, past_v = f"past_k{layer}", f"past_v{layer}"
        k = g("Concat", past_k, k, name=f"present_k{layer}", axis=2)
        v = g("Concat", past_v, project(self.key_heads), name=f"present_v{layer}", axis=2)
        if self.spread == "fold" and groups > 1:
            q = g("Reshape", q, np.array([0, self.key_heads, groups, -1, size]))
            k = g("Unsqueeze", k, np.array([2]))
            v = g("Unsqueeze", v, np.array([2]))
        elif groups > 1:
            k, v = self._repeat(g, k, groups), self._repeat(g, v, groups)
        rank = 5 if self.spread == "fold" and groups > 1 else 4
        order = [*range(rank - 2), rank - 1, rank - 2]
        scale = np.float32(size**-0.25)
        scores = g("MatMul", g("Mul", q, scale), g("Mul", g("Transpose", k, perm=order), scale))
        if self.misfit == "bias":
            scores = g("Add", scores, g("Cast", hidden, to=1))
            scores = g("Add", scores, np.float32(0.25) * np.ones((1, 1), np.float32))
        if self.misfit == "padding":
            scores = g("Add", scores, g("Log", g("Unsqueeze", "keep", np.array([1, 2]))))
        if self.mask == "add":
            scores = g("Add", scores, g("Where", hidden, np.float32(-np.inf), np.float32(0)))
        else:
            scores = g("Where", hidden, np.float32(-1e9), scores)
        shares = g("Softmax", scores, axis=-1)
        if self.mask == "guarded":
            shares = g("Where", g("IsNaN", shares), np.float32(0), shares)
        if self.misfit == "two readers":
            g("ReduceSum", k, np.array([0, 1, 2]), keepdims=0, name=f"sum{layer}")
            shares = g("Add", shares, g("Mul", g("ReduceSum", k, keepdims=1), np.float32(0)))
        mixed = g("MatMul", shares, v)
        if rank == 5:
            mixed = g("Reshape", mixed, np.array([0, self.heads, -1, size]))
        mixed = g("Transpose", mixed, perm=[0, 2, 1, 3])
        return g("Reshape", mixed, np.array([0, 0, self.width]))

    def _repeat(self, g, x, groups):
        """Each head as often as there are queries for it, as torch writes it."""
        shape = g("Shape", x)
        lead = g("Slice", shape, np.array([0]), np.array([2]))
        rest = g("Slice", shape, np.array([2]), np.array([4]))
        target = g("Concat", lead, np.array([groups]), rest, axis=0)
        x = g("Expand", g("Unsqueeze", x, np.array([2])), target)
        return g("Reshape", x, np.array([0, self.heads, -1, self.size]))

    def _turn(self, g, x, cos, sin):
        half = self.size // 2
        if self.rotary == "none":
            return x
        if self.rotary == "interleaved":
            pairs = g("Reshape", x, np.array([0, 0, 0, half, 2]))
            a, b = (g("Gather", pairs, np.array(i), axis=-1) for i in (0, 1))
            first = g("Sub", g("Mul", a, cos), g("Mul", b, sin))
            second = g("Add", g("Mul", b, cos), g("Mul", a, sin))
            parts = [g("Unsqueeze", part, np.array([-1])) for part in (first, second)]
            return g("Reshape", g("Concat", *parts, axis=-1), np.array([0, 0, 0, self.size]))
        a = g("Slice", x, np.array([0]), np.array([half]), np.array([3]))
        b = g("Slice", x, np.array([half]), np.array([self.size]), np.array([3]))
        if self.rotary == "turned":
            cos, sin = (g("Concat", t, t, axis=-1) for t in (cos, sin))
            turned = g("Concat", g("Neg", b), a, axis=-1)
            return g("Add", g("Mul", x, cos), g("Mul", turned, sin))
        first = g("Sub", g("Mul", a, cos), g("Mul", b, sin))
        return g("Concat", first, g("Add", g("Mul", b, cos), g("Mul", a, sin)), axis=-1)
