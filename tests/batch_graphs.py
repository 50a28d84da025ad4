"""Random graphs of inputs that are joined to one batch, go through one backbone, and part again."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIDE = 4, 4

#: Steps whose rows depend on each other.
MIXING = ("softmax_over_batch", "centred_by_batch", "running_sum")


class Backbone:
    """Grows the graph; ``rows`` says what the batch is made of."""

    STEPS = (
        *("conv", "relu", "pool", "group_norm", "resize", "pad", "bias", "softmax", "attention"),
        *("token", "matmul", "norm"),
    )

    def __init__(self, draw):
        self.draw = draw
        self.nodes, self.weights = [], {}
        self.rng = np.random.default_rng(draw(st.integers(0, 9)))
        self.names = [f"camera{i}" for i in range(draw(st.integers(2, 4)))]
        self.join = draw(st.sampled_from(("cat", "front", "inner", "steps")))
        self.x = self.joined()
        self.mixes = False

    def add(self, kind, *inputs, count=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return names[0] if count == 1 else names

    def weight(self, array):
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def floats(self, *shape):
        return self.weight((self.rng.standard_normal(shape) * 0.4).astype(np.float32))

    def ints(self, *numbers):
        return self.weight(np.array(numbers, np.int64))

    def joined(self):
        if self.join == "cat":
            return self.add("Concat", *self.names, axis=0)
        axis = {"front": 0, "inner": 1, "steps": 2}[self.join]
        parts = [self.add("Unsqueeze", name, self.ints(axis)) for name in self.names]
        stack = self.add("Concat", *parts, axis=axis)
        return self.add("Reshape", stack, self.ints(-1, CHANNELS, SIDE, SIDE))

    def grow(self, *, mixing):
        for name in self.draw(st.lists(st.sampled_from(self.STEPS), min_size=1, max_size=5)):
            self.x = getattr(self, name)(self.x)
        if mixing:
            self.x = getattr(self, self.draw(st.sampled_from(MIXING)))(self.x)
            self.mixes = True
            self.x = self.conv(self.x)

    def conv(self, x):
        return self.add("Conv", x, self.floats(CHANNELS, CHANNELS, 3, 3), pads=[1] * 4)

    def relu(self, x):
        return self.add("Relu", x)

    def pool(self, x):
        return self.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)

    def group_norm(self, x):
        groups = self.add("Reshape", x, self.ints(0, 2, -1))
        scale, bias = self.floats(2), self.floats(2)
        normed = self.add("InstanceNormalization", groups, scale, bias)
        return self.add("Reshape", normed, self.add("Shape", x))

    def resize(self, x):
        batch = self.add("Shape", x, start=0, end=2)
        larger = self.add("Concat", batch, self.ints(2 * SIDE, 2 * SIDE), axis=0)
        up = self.add("Resize", x, "", "", larger, mode="nearest")
        return self.add("Resize", up, "", self.weight(np.array([1, 1, 0.5, 0.5], np.float32)))

    def pad(self, x):
        wide = self.add("Pad", x, self.ints(0, 0, 1, 1, 0, 0, 1, 1))
        inside = (self.ints(1, 1), self.ints(1 + SIDE, 1 + SIDE), self.ints(2, 3))
        return self.add("Slice", wide, *inside)

    def bias(self, x):
        return self.add("Add", x, self.floats(CHANNELS, 1, 1))

    def softmax(self, x):
        return self.add("Softmax", x, axis=self.draw(st.integers(1, 3)))

    def norm(self, x):
        return self.add("LayerNormalization", x, self.floats(SIDE))

    def matmul(self, x):
        return self.add("MatMul", x, self.floats(SIDE, SIDE))

    def attention(self, x):
        rows = self.add("Reshape", x, self.ints(-1, CHANNELS, SIDE * SIDE))
        columns = self.add("Transpose", rows, perm=[0, 2, 1])
        scores = self.add("Softmax", self.add("MatMul", rows, columns))
        whole = self.add("MatMul", scores, rows)
        return self.add("Reshape", whole, self.ints(-1, CHANNELS, SIDE, SIDE))

    def token(self, x):
        """A learned row before those of each sample, as many as the batch has."""
        rows = self.add("Reshape", x, self.ints(0, CHANNELS, SIDE * SIDE))
        batch = self.add("Shape", x, start=0, end=1)
        shape = self.add("Concat", batch, self.ints(1, SIDE * SIDE), axis=0)
        tokens = self.add("Expand", self.floats(1, 1, SIDE * SIDE), shape)
        longer = self.add("Concat", tokens, rows, axis=1)
        mixed = self.add("MatMul", self.floats(CHANNELS, CHANNELS + 1), longer)
        return self.add("Reshape", mixed, self.add("Shape", x))

    def softmax_over_batch(self, x):
        return self.add("Softmax", x, axis=0)

    def centred_by_batch(self, x):
        return self.add("Sub", x, self.add("ReduceMean", x, self.ints(0)))

    def running_sum(self, x):
        return self.add("CumSum", x, self.weight(np.array(0, np.int64)))

    def keypoints(self):
        """Softmax over positions, in which channels are rows too."""
        flat = self.add("Reshape", self.x, self.ints(-1, SIDE * SIDE))
        where = self.add("MatMul", self.add("Softmax", flat), self.floats(SIDE * SIDE, 2))
        return self.add("Reshape", where, self.ints(-1, 2 * CHANNELS))

    def features(self):
        if self.draw(st.booleans()):
            return self.keypoints()
        flat = self.add("Flatten", self.x)
        weight = self.floats(CHANNELS * SIDE * SIDE, 2 * CHANNELS)
        return self.add("Gemm", flat, weight, self.floats(2 * CHANNELS))

    def part(self):
        """The outputs, of each camera or one of all, and their rank."""
        count, width = len(self.names), 2 * CHANNELS
        rows = self.features()
        if self.join == "cat":
            sizes = [self.add("Shape", name, start=0, end=1) for name in self.names]
            lengths = self.add("Concat", *sizes, axis=0)
            outputs = self.add("Split", rows, lengths, count=count, axis=0)
            return [self.add("Tanh", x) for x in outputs], 2
        if self.draw(st.booleans()):
            wide = (-1, 2, count * width) if self.join == "steps" else (-1, count * width)
            if self.join != "front":
                return [self.add("Reshape", rows, self.ints(*wide))], len(wide)
        shape, axis = {
            "front": ((count, -1, width), 0),
            "inner": ((-1, count, width), 1),
            "steps": ((-1, 2, count, width), 2),
        }[self.join]
        stack = self.add("Reshape", rows, self.ints(*shape))
        indices = [self.weight(np.array(i - count * (i % 2), np.int64)) for i in range(count)]
        if self.draw(st.booleans()):
            taken = [self.add("Gather", stack, i, axis=axis) for i in indices]
            return [self.add("Tanh", x) for x in taken], len(shape) - 1
        borders = [(self.ints(i), self.ints(i + 1), self.ints(axis)) for i in range(count)]
        taken = [self.add("Slice", stack, *border) for border in borders]
        return [self.add("Tanh", x) for x in taken], len(shape)

    def model(self):
        outputs, rank = self.part()
        inputs = []
        for i, name in enumerate(self.names):
            batch = f"B{i}" if self.join == "cat" else "B"
            steps = [2] if self.join == "steps" else []
            shape = [batch, *steps, CHANNELS, SIDE, SIDE]
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        results = [
            helper.make_tensor_value_info(x, TensorProto.FLOAT, [None] * rank) for x in outputs
        ]
        weights = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "g", inputs, results, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    def values(self, batch):
        rng = np.random.default_rng(batch)
        rows = [batch + (i if self.join == "cat" else 0) for i in range(len(self.names))]
        steps = (2,) if self.join == "steps" else ()
        return {
            name: rng.standard_normal((n, *steps, CHANNELS, SIDE, SIDE)).astype(np.float32)
            for name, n in zip(self.names, rows, strict=True)
        }


@st.composite
def batches(draw, *, mixing=False):
    """A backbone and its graph."""
    backbone = Backbone(draw)
    backbone.grow(mixing=mixing)
    return backbone, backbone.model()
