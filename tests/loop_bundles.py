"""Small bundles with state and loops, built by hand, and what they compute, in NumPy.

Each class has weights of its own, writes a bundle (:meth:`write`) and computes the same in float32:
:class:`Captioner` (an image's keys and values, a step of one attention layer), :class:`Speller` (a
recurrent step), :class:`Completer` (tokens alone, no stage before the loop), :class:`Painter` (a
latent) and :class:`Filter` (a state without a loop).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import helper, numpy_helper

from mmedge.bundle import Bundle
from mmedge.loop_spec import DenoiseLoop, GenerateLoop, StateSpec
from mmedge.spec import (
    DTYPES,
    Dimension,
    Manifest,
    Modality,
    Plan,
    Stage,
    TensorSpec,
    Tokenizer,
    Tolerance,
    Variant,
)

HEADS, WIDTH = 2, 8
WORDS = 11


class Graph:
    """An ONNX graph that is built node by node."""

    def __init__(self) -> None:
        self._nodes, self._weights = [], []

    def __call__(self, op, *inputs, name=None, **attributes) -> str:
        """Add a node; the name of its one output."""
        name = name or f"{op}_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(op, [self._input(value) for value in inputs], [name], **attributes)
        )
        return name

    def _input(self, value):
        if isinstance(value, str):
            return value
        name = f"weight_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def bytes(self, inputs, outputs) -> bytes:
        infos = [
            [
                helper.make_tensor_value_info(
                    spec.name, helper.np_dtype_to_tensor_dtype(DTYPES[spec.dtype]), spec.shape
                )
                for spec in specs
            ]
            for specs in (inputs, outputs)
        ]
        graph = helper.make_graph(self._nodes, "net", *infos, self._weights)
        opsets = [helper.make_opsetid("", 20)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return model.SerializeToString(deterministic=True)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def best(scores):
    """Greedy choice."""
    return scores.argmax(-1)


class Attention:
    """One layer with keys and values of what was before; weights by name."""

    def __init__(self, seed: int, *, words: int = WORDS, places: int = 0, cross: int = 0) -> None:
        rng = np.random.default_rng(seed)

        def weight(*shape):
            return rng.normal(size=shape).astype(np.float32)

        self.words = words
        self.embed = weight(words, WIDTH)
        self.places = weight(places, WIDTH) if places else None
        self.q, self.k, self.v, self.o, self.cq = (weight(WIDTH, WIDTH) / 2 for _ in range(5))
        self.out = weight(WIDTH, words)
        self.cross = [weight(cross, WIDTH) for _ in range(2)] if cross else None

    def numpy(self, tokens, positions, past, cross=None):
        """Scores [batch, new, words] and new states, as the graph gives them."""
        x = self.embed[tokens]
        if self.places is not None:
            x = x + self.places[positions]
        batch, new = tokens.shape

        def split(y):
            return y.reshape(batch, new, HEADS, -1).transpose(0, 2, 1, 3)

        k = np.concatenate((past[0], split(x @ self.k)), 2)
        v = np.concatenate((past[1], split(x @ self.v)), 2)
        scores = split(x @ self.q) @ k.transpose(0, 1, 3, 2) * np.float32(0.5)
        before = k.shape[2] - new
        hidden = np.arange(k.shape[2])[None] > before + np.arange(new)[:, None]
        scores = np.where(hidden, np.float32(-1e9), scores)
        mixed = (softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(batch, new, WIDTH)
        x = x + mixed @ self.o
        if cross is not None:
            x = x + softmax(x @ self.cq @ cross[0].transpose(0, 2, 1)) @ cross[1]
        return x @ self.out, (k, v)

    def graph(self, inputs, outputs, *, token="tokens", position=None, crossed=False) -> bytes:
        g = Graph()
        x = g("Gather", self.embed, token)
        if position:
            x = g("Add", x, g("Gather", self.places, position))

        def split(y):
            return g("Transpose", g("Reshape", y, np.array([0, 0, HEADS, -1])), perm=[0, 2, 1, 3])

        k = g("Concat", "past_k", split(g("MatMul", x, self.k)), name="present_k", axis=2)
        v = g("Concat", "past_v", split(g("MatMul", x, self.v)), name="present_v", axis=2)
        k_t = g("Transpose", k, perm=[0, 1, 3, 2])
        scores = g("MatMul", split(g("MatMul", x, self.q)), k_t)
        scores = g("Mul", scores, np.float32(0.5))
        zero, one = np.array(0), np.array(1)
        before = g("Squeeze", g("Shape", "past_k", start=2, end=3))
        total = g("Squeeze", g("Shape", k, start=2, end=3))
        keys = g("Unsqueeze", g("Range", zero, total, one), np.array([0]))
        queries = g("Unsqueeze", g("Range", before, total, one), np.array([1]))
        scores = g("Where", g("Greater", keys, queries), np.float32(-1e9), scores)
        mixed = g("MatMul", g("Softmax", scores), v)
        mixed = g("Reshape", g("Transpose", mixed, perm=[0, 2, 1, 3]), np.array([0, 0, WIDTH]))
        x = g("Add", x, g("MatMul", mixed, self.o))
        if crossed:
            scores = g("MatMul", g("MatMul", x, self.cq), g("Transpose", "cross_k", perm=[0, 2, 1]))
            x = g("Add", x, g("MatMul", g("Softmax", scores), "cross_v"))
        g("MatMul", x, self.out, name="logits")
        return g.bytes(inputs, outputs)


def attention_specs(dtype="int64", new="new", words=WORDS):
    kv = [TensorSpec(f"past_{n}", "float32", ("batch", HEADS, "past", 4)) for n in "kv"]
    present = [TensorSpec(f"present_{n}", "float32", ("batch", HEADS, "total", 4)) for n in "kv"]
    token = TensorSpec("tokens", dtype, ("batch", new))
    logits = TensorSpec("logits", "float32", ("batch", new, words))
    return (token, *kv), (logits, *present)


KV = tuple(StateSpec("step", f"past_{n}", f"present_{n}", axis=2, initial="empty") for n in "kv")


def variant(files):
    return Variant("ort", "fp32", "cpu", files, Tolerance(1e-5, 1e-5))


def empty(batch):
    return tuple(np.zeros((batch, HEADS, 0, 4), np.float32) for _ in range(2))


class Captioner:
    """An image [batch, frames, 6] gives keys and values; a step attends to them and to tokens.

    ``most``: most tokens that a state holds; ``new``: most that one run takes, or their number.
    """

    start, stop, limit = (1,), (0,), 24

    def __init__(self, seed: int = 3, *, most: int | None = 63) -> None:
        self.layer = Attention(seed, places=64, cross=6)
        self.most = most

    def write(
        self, path, *, new: int | None = None, prompt=False, backend=None, frames=1, **loop
    ) -> Bundle:
        """Arguments of ``GenerateLoop`` replace its own.

        ``prompt``: a modality of its own gives tokens; ``backend``: another variant's; ``frames``:
        least of an image.
        """
        image = TensorSpec("image", "float32", ("batch", "frames", 6))
        cross = tuple(TensorSpec(f"cross_{n}", "float32", ("batch", "frames", WIDTH)) for n in "kv")
        g = Graph()
        for spec, weight in zip(cross, self.layer.cross, strict=True):
            g("MatMul", "image", weight, name=spec.name)
        inputs, outputs = attention_specs()
        inputs = (*inputs, TensorSpec("position", "int64", ("new",)), *cross)
        files = {"see": "onnx/see.onnx", "step": "onnx/step.onnx"}
        variants = tuple(
            replace(variant(files), backend=name) for name in ("ort", backend) if name is not None
        )
        manifest = Manifest(
            name="captioner",
            modalities=(
                Modality("image", ("image",)),
                Modality("text", ("tokens",), required=False),
            )[: 1 + prompt],
            stages=(
                Stage("see", files["see"], (image,), cross, "image"),
                Stage("step", files["step"], inputs, outputs),
            ),
            outputs=tuple(spec.name for spec in cross),
            variants=variants,
            files={},
            dimensions={
                "batch": Dimension(1, 1, 8),
                "frames": Dimension(frames, 5),
                "new": Dimension(1, 1, new),
                "past": Dimension(0, 4, self.most),
                "total": Dimension(1, 5, None if self.most is None else self.most + 1),
            },
            states=KV,
            loops=(
                GenerateLoop(**{
                    "kind": "generate", "stage": "step", "token": "tokens", "logits": "logits",
                    "limit": self.limit, "position": "position", "start": self.start,
                    "stop": self.stop, **loop,
                }),
            ),
        )  # fmt: skip
        graph = self.layer.graph(inputs, outputs, position="position", crossed=True)
        return Bundle.write(
            path, manifest, {files["see"]: g.bytes((image,), cross), files["step"]: graph}
        )

    def scores(self, image):
        """Scores of what follows the tokens that are fed, step by step."""
        cross = [image @ weight for weight in self.layer.cross]
        past, position = empty(len(image)), 0

        def step(tokens):
            nonlocal past, position
            places = np.arange(position, position + tokens.shape[1])
            scores, past = self.layer.numpy(tokens, places, past, cross)
            position += tokens.shape[1]
            return scores[:, -1]

        return step


class Completer:
    """Tokens alone: the caller's, and what follows them; no stage before the loop."""

    start, stop, limit = (), (0,), 24

    def __init__(self, seed: int = 5, *, words: int = WORDS) -> None:
        self.layer = Attention(seed, words=words)

    def write(
        self, path, *, tokenizer: bytes | None = None, new=None, most=None, required=True, **loop
    ) -> Bundle:
        """``tokenizer``: of what goes in and what comes out; ``new``: most of one run.

        A ``new`` of 0 fixes it at 1.
        """
        size = 1 if new == 0 else "new"
        inputs, outputs = attention_specs(words=self.layer.words, new=size)
        files = {"step": "onnx/step.onnx"}
        name = "assets/tokenizer.json"
        takes = None if tokenizer is None else Tokenizer(name, "tokens")
        manifest = Manifest(
            name="completer",
            modalities=(Modality("text", ("tokens",), required=required, tokenizer=takes),),
            stages=(Stage("step", files["step"], inputs, outputs),),
            outputs=(),
            variants=(variant(files),),
            files={},
            dimensions={
                "batch": Dimension(1, 1, 8),
                "new": Dimension(1, 1, new or None),
                "past": Dimension(0, 4, most),
                "total": Dimension(1, 5, most),
            },
            states=KV,
            loops=(
                GenerateLoop(**{
                    "kind": "generate", "stage": "step", "token": "tokens", "logits": "logits",
                    "limit": self.limit, "start": self.start, "stop": self.stop,
                    "tokenizer": None if tokenizer is None else name, **loop,
                }),
            ),
        )  # fmt: skip
        contents = {files["step"]: self.layer.graph(inputs, outputs)}
        if tokenizer is not None:
            contents[name] = tokenizer
        return Bundle.write(path, manifest, contents)

    def scores(self, batch=1):
        past = empty(batch)

        def step(tokens):
            nonlocal past
            scores, past = self.layer.numpy(tokens, None, past)
            return scores[:, -1]

        return step


class Speller:
    """A sound [batch, frames, 5] gives the first hidden state of a recurrent step."""

    start, stop, limit = (1,), (0,), 20

    def __init__(self, seed: int = 11) -> None:
        rng = np.random.default_rng(seed)

        def weight(*shape):
            return rng.normal(size=shape).astype(np.float32)

        self.first, self.embed, self.out = weight(5, WIDTH), weight(WORDS, WIDTH), weight(8, WORDS)
        self.wz, self.uz, self.wn, self.un = (weight(WIDTH, WIDTH) for _ in range(4))

    def write(self, path, *, more: bool = False, **loop) -> Bundle:
        """``more``: the mean of the sound is an output of the network, too."""
        sound = TensorSpec("sound", "float32", ("batch", "frames", 5))
        first = TensorSpec("first", "float32", ("batch", WIDTH))
        token = TensorSpec("token", "int32", ("batch",))
        hidden = TensorSpec("hidden", "float32", ("batch", WIDTH))
        logits = TensorSpec("logits", "float32", ("batch", WORDS))
        new_hidden = TensorSpec("new_hidden", "float32", ("batch", WIDTH))
        g = Graph()
        mean = g("ReduceMean", "sound", np.array([1]), keepdims=0, name="mean")
        g("Tanh", g("MatMul", mean, self.first), name="first")
        heard = (first, TensorSpec("mean", "float32", ("batch", 5)))[: 1 + more]
        hear = g.bytes((sound,), heard)
        g = Graph()
        e = g("Gather", self.embed, "token")
        z = g("Sigmoid", g("Add", g("MatMul", e, self.wz), g("MatMul", "hidden", self.uz)))
        gated = g("MatMul", g("Mul", "hidden", z), self.un)
        n = g("Tanh", g("Add", g("MatMul", e, self.wn), gated))
        rest = g("Mul", g("Sub", np.float32(1), z), n)
        g("Add", rest, g("Mul", z, "hidden"), name="new_hidden")
        g("MatMul", "new_hidden", self.out, name="logits")
        step = g.bytes((token, hidden), (logits, new_hidden))
        files = {"hear": "onnx/hear.onnx", "step": "onnx/step.onnx"}
        manifest = Manifest(
            name="speller",
            modalities=(Modality("sound", ("sound",)),),
            stages=(
                Stage("hear", files["hear"], (sound,), heard, "sound"),
                Stage("step", files["step"], (token, hidden), (logits, new_hidden)),
            ),
            outputs=tuple(spec.name for spec in heard),
            variants=(variant(files),),
            files={},
            dimensions={"batch": Dimension(1, 1, 8), "frames": Dimension(1, 3)},
            states=(StateSpec("step", "hidden", "new_hidden", initial="output", source="first"),),
            loops=(
                GenerateLoop(**{
                    "kind": "generate", "stage": "step", "token": "token", "logits": "logits",
                    "limit": self.limit, "start": self.start, "stop": self.stop, **loop,
                }),
            ),
        )  # fmt: skip
        return Bundle.write(path, manifest, {files["hear"]: hear, files["step"]: step})

    def scores(self, sound):
        hidden = np.tanh(sound.mean(1) @ self.first)

        def step(tokens):
            nonlocal hidden
            for token in tokens.T:
                e = self.embed[token]
                z = 1 / (1 + np.exp(-(e @ self.wz + hidden @ self.uz)))
                n = np.tanh(e @ self.wn + (hidden * z) @ self.un)
                hidden = (1 - z) * n + z * hidden
            return hidden @ self.out

        return step


class Painter:
    """A condition [batch, 3] guides a latent [batch, high, 4] over a schedule, with noise.

    The step has a state, the number of the run, which it adds to what it predicts.
    """

    schedule = (
        (900.0, 1.0, 0.5, -0.25, 0.5, 0.25, 0.125, 0.0, 0.25),
        (450.0, 0.5, 0.5, 0.5, 0.25, 0.5, 0.25, 0.125, 0.125),
        (10.0, 1.0, 1.0, -0.5, 1.0, 0.0, 0.0, 0.25, 0.0),
    )

    def __init__(self, seed: int = 2) -> None:
        rng = np.random.default_rng(seed)
        self.weight = rng.normal(size=(3, 4)).astype(np.float32)
        self.without = rng.normal(size=(1, 4)).astype(np.float32)

    def write(self, path, *, decoder: bool = False, **loop) -> Bundle:
        condition = TensorSpec("condition", "float32", ("batch", 3))
        guide = TensorSpec("guide", "float32", ("batch", 4))
        count, new_count = (TensorSpec(n, "float32", (1,)) for n in ("count", "new_count"))
        x, m = (TensorSpec(name, "float32", ("batch", "high", 4)) for name in ("x", "m"))
        time, picture = TensorSpec("t", "float32", ()), TensorSpec("picture", "float32", x.shape)
        g, step, behind = Graph(), Graph(), Graph()
        g("Tanh", g("MatMul", "condition", self.weight), name="guide")
        shift = step("Mul", "t", np.float32(0.001))
        mixed = step("Add", step("Add", "x", shift), step("Unsqueeze", "guide", np.array([1])))
        step("Tanh", step("Add", mixed, "count"), name="m")
        step("Add", "count", np.array([0.25], np.float32), name="new_count")
        behind("Mul", "x", np.float32(2), name="picture")
        stages = (
            Stage("read", "onnx/read.onnx", (condition,), (guide,), "condition"),
            Stage("step", "onnx/step.onnx", (x, time, guide, count), (m, new_count)),
            Stage("decode", "onnx/decode.onnx", (x,), (picture,)),
        )[: 2 + decoder]
        files = {stage.name: stage.graph for stage in stages}
        manifest = Manifest(
            name="painter",
            modalities=(Modality("condition", ("condition",)),),
            stages=stages,
            outputs=("guide",),
            variants=(variant(files),),
            files={},
            dimensions={"batch": Dimension(1, 1, 8), "high": Dimension(1, 3, 9)},
            states=(StateSpec("step", "count", "new_count"),),
            loops=(
                DenoiseLoop(**{
                    "kind": "denoise", "stage": "step", "latent": "x", "time": "t",
                    "prediction": "m", "schedule": self.schedule, "guidance": 1.5,
                    "unconditional": ("guide",), "decoder": "decode" if decoder else None, **loop,
                }),
            ),
        )  # fmt: skip
        contents = {
            stage.graph: graph.bytes(stage.inputs, stage.outputs)
            for graph, stage in zip((g, step, behind), stages, strict=False)
        }
        return Bundle.write(path, manifest, contents, unconditional={"guide": self.without})

    def run_step(self):
        """The step in NumPy, which counts its own runs."""
        count = np.zeros(1, np.float32)

        def run(feeds):
            nonlocal count
            mixed = feeds["x"] + feeds["t"] * np.float32(0.001) + feeds["guide"][:, None] + count
            count = count + np.float32(0.25)
            return {"m": np.tanh(mixed)}

        return run


class Filter:
    """y = gain * (x + h), h' = 0.5 h + x: a state without a loop.

    ``where``: ``whole`` (one stage), ``encoder`` (the state is of modality ``x``'s stage) or
    ``fusion`` (it is of the stage behind both).
    """

    def __init__(self, where: str = "whole") -> None:
        self.where = where

    def write(self, path, *, stored=None, returns_state=False) -> Bundle:
        """``stored``: what the state begins with; None: zeros."""

        def tensor(name, size=4):
            return TensorSpec(name, "float32", ("batch", size))

        x, gain, h, h_new, y = map(tensor, ("x", "gain", "h", "h_new", "y"))
        summed, scaled = tensor("summed"), tensor("scaled")
        g, behind = Graph(), Graph()
        if self.where == "encoder":
            g("Add", "x", "h", name="summed")
            behind("Mul", "gain", "summed", name="y")
        elif self.where == "fusion":
            g("Mul", "gain", np.float32(1), name="scaled")
            behind("Mul", "scaled", behind("Add", "x", "h"), name="y")
        else:
            g("Mul", "gain", g("Add", "x", "h"), name="y")
        holder = behind if self.where == "fusion" else g
        holder("Add", holder("Mul", "h", np.float32(0.5)), "x", name="h_new")
        specs = {
            "whole": [("net", (x, gain, h), (y, h_new), None)],
            "encoder": [
                ("hear", (x, h), (summed, h_new), "x"),
                ("mix", (gain, summed), (y,), None),
            ],
            "fusion": [
                ("scale", (gain,), (scaled,), "gain"),
                ("mix", (x, scaled, h), (y, h_new), None),
            ],
        }[self.where]
        stages = tuple(
            Stage(name, f"onnx/{name}.onnx", ins, outs, modality)
            for name, ins, outs, modality in specs
        )
        files = {stage.name: stage.graph for stage in stages}
        graphs = [
            graph.bytes(s.inputs, s.outputs) for graph, s in zip((g, behind), stages, strict=False)
        ]
        initial = "zeros" if stored is None else "stored"
        (keeper,) = (s.name for s in stages if h in s.inputs)
        manifest = Manifest(
            name="filter",
            modalities=(Modality("x", ("x",)), Modality("gain", ("gain",), required=False)),
            stages=stages,
            outputs=("y", "h_new") if returns_state else ("y",),
            variants=(variant(files),),
            files={},
            dimensions={"batch": Dimension(1, 1, 8)},
            plans=(Plan("whole" if len(stages) == 1 else "cut", tuple(files)),),
            states=(StateSpec(keeper, "h", "h_new", initial=initial),),
        )
        contents = dict(zip(files.values(), graphs, strict=True))
        states = {} if stored is None else {"h": stored}
        return Bundle.write(path, manifest, contents, states=states)


def reference(step, first, *, stop, limit, choose=best):
    """Tokens of each row, chosen one by one, each step by itself; stop tokens are left out.

    Args:
        step: of ``scores``.
        first: what the first runs take, [batch, n].
        stop: tokens that end a row; the first is what it goes on with.
        limit: most tokens.
        choose: tokens for scores.
    """
    for column in range(first.shape[1]):
        scores = step(first[:, column : column + 1])
    rows, ended = [[] for _ in first], [False] * len(first)
    for _ in range(limit):
        tokens = np.array(choose(scores))
        for row, token in enumerate(tokens):
            if not ended[row] and token in stop:
                ended[row] = True
            if ended[row]:
                tokens[row] = stop[0]
            else:
                rows[row].append(int(token))
        if all(ended):
            break
        scores = step(tokens[:, None])
    return rows


def rows(result):
    """The tokens of each row, as many as count."""
    return [
        tokens[:length].tolist()
        for tokens, length in zip(result["tokens"], result["lengths"], strict=True)
    ]


def expected_rows(network, step, batch=1, first=None, **options):
    """What :func:`reference` gives for a network of this module, by its own stops and limit."""
    if first is None:
        first = np.tile(np.array(network.start, np.int64), (batch, 1))
    return reference(step, first, **{"stop": network.stop, "limit": network.limit, **options})
