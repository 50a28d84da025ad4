"""Random graphs that begin with a Concat of modalities and go on with any work."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper


class Grower:
    """Builds a random graph: some tokens of three modalities concatenated, then any work at all.

    ``shapes`` has of each value what its sizes are: numbers, ``B``, or ``S`` for all tokens.
    """

    UNARY = ("Relu", "Erf", "Sigmoid", "Neg", "Identity", "Softsign")
    LENGTHS = ("I", "T", "A")

    def __init__(self, draw):
        self.draw = draw
        self.nodes, self.weights, self.shapes = [], {}, {}
        self.rng = np.random.default_rng(draw(st.integers(0, 9)))
        self.names = ("image", "text", "audio")[: draw(st.integers(2, 3))]
        self.axis = draw(st.sampled_from((0, 1, 1, 1, 2)))
        parts = list(self.names)
        if draw(st.booleans()):  # what is made of each before, of one or of two
            parts[0] = self.add("Tanh", [parts[0]], None)
        if draw(st.booleans()) and self.axis != 1:
            parts.append(parts[0])
        self.size = {0: "N", 1: "S", 2: 4 * len(parts)}[self.axis]
        shape = ["B", "L", 4]
        shape[self.axis] = self.size
        self.pool = [self.add("Concat", parts, tuple(shape), axis=self.axis)]

    def add(self, kind, inputs, shape, count=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(
            helper.make_node(kind, inputs, names, name=f"n{len(self.nodes)}", **attributes)
        )
        for name in names:
            self.shapes[name] = shape
        return names[0]

    def weight(self, array):
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def floats(self, *shape):
        return self.weight(self.rng.standard_normal(shape).astype(np.float32))

    def ints(self, *numbers):
        return self.weight(np.array(numbers, np.int64))

    def any_axis(self, x):
        return self.draw(st.integers(0, len(self.shapes[x]) - 1))

    def step(self):
        x = self.draw(st.sampled_from(self.pool))
        kinds = [n.removeprefix("do_") for n in dir(self) if n.startswith("do_")]
        made = getattr(self, f"do_{self.draw(st.sampled_from(kinds))}")(x, self.shapes[x])
        if made is not None:
            self.pool.append(made)

    def do_unary(self, x, shape):
        return self.add(self.draw(st.sampled_from(self.UNARY)), [x], shape)

    def do_matmul(self, x, shape):
        if isinstance(shape[-1], int) and len(shape) > 1:
            return self.add("MatMul", [x, self.floats(shape[-1], 4)], (*shape[:-1], 4))
        return None

    def do_matmul_left(self, x, shape):
        if len(shape) > 1 and isinstance(shape[-2], int):
            return self.add("MatMul", [self.floats(3, shape[-2]), x], (*shape[:-2], 3, shape[-1]))
        return None

    def do_gemm(self, x, shape):
        if len(shape) == 2 and isinstance(shape[1], int):
            weight = self.floats(5, shape[1])
            return self.add("Gemm", [x, weight, self.floats(5)], (shape[0], 5), transB=1)
        return None

    def do_scores(self, x, shape):
        if len(shape) == 3 and shape[2] != shape[1]:
            t = self.add("Transpose", [x], (shape[0], shape[2], shape[1]), perm=[0, 2, 1])
            return self.add("MatMul", [x, t], (shape[0], shape[1], shape[1]))
        return None

    def do_scale(self, x, shape):
        kind = self.draw(st.sampled_from(("Add", "Mul", "Sub", "Max")))
        inputs = [x, self.floats(*[1] * self.draw(st.integers(0, len(shape))))]
        return self.add(kind, inputs if self.draw(st.booleans()) else inputs[::-1], shape)

    def do_bias(self, x, shape):
        known = [s if isinstance(s, int) else 1 for s in shape]
        return self.add("Add", [x, self.floats(*known[self.any_axis(x) :])], shape)

    def do_norm(self, x, shape):
        axis = self.any_axis(x)
        if all(isinstance(s, int) for s in shape[axis:]):
            return self.add("LayerNormalization", [x, self.floats(*shape[axis:])], shape, axis=axis)
        return None

    def do_softmax(self, x, shape):
        return self.add("Softmax", [x], shape, axis=self.any_axis(x))

    def do_cumsum(self, x, shape):
        return self.add("CumSum", [x, self.weight(np.array(self.any_axis(x), np.int64))], shape)

    def do_reduce(self, x, shape):
        axis, keep = self.any_axis(x), self.draw(st.booleans())
        if len(shape) < 3 and not keep:
            return None
        left = tuple(1 if i == axis else s for i, s in enumerate(shape) if keep or i != axis)
        kind = self.draw(st.sampled_from(("ReduceMean", "ReduceMax", "ReduceSum")))
        return self.add(kind, [x, self.ints(axis)], left, keepdims=int(keep))

    def do_centre(self, x, shape):
        axis = self.any_axis(x)
        mean = self.add(
            "ReduceMean",
            [x, self.ints(axis)],
            tuple(1 if i == axis else s for i, s in enumerate(shape)),
        )
        return self.add("Sub", [x, mean], shape)

    def do_transpose(self, x, shape):
        perm = self.draw(st.permutations(range(len(shape))))
        return self.add("Transpose", [x], tuple(shape[i] for i in perm), perm=list(perm))

    def do_unsqueeze(self, x, shape):
        if len(shape) > 3:
            return None
        axis = self.draw(st.integers(0, len(shape)))
        return self.add("Unsqueeze", [x, self.ints(axis)], (*shape[:axis], 1, *shape[axis:]))

    def do_squeeze(self, x, shape):
        ones = [i for i, s in enumerate(shape) if s == 1]
        if not ones or len(shape) < 3:
            return None
        axis = self.draw(st.sampled_from(ones))
        return self.add("Squeeze", [x, self.ints(axis)], (*shape[:axis], *shape[axis + 1 :]))

    def do_split_axis(self, x, shape):
        """An even axis becomes two, by zeros and -1, or by sizes computed from the value."""
        even = [i for i, s in enumerate(shape) if isinstance(s, int) and s % 2 == 0]
        if not even or len(shape) > 3:
            return None
        axis = self.draw(st.sampled_from(even))
        after = (*shape[:axis], 2, shape[axis] // 2, *shape[axis + 1 :])
        return self.reshape(x, after, [*range(axis), None, None, *range(axis + 1, len(shape))])

    def do_merge_axes(self, x, shape):
        if len(shape) < 3:
            return None
        axis = self.draw(st.integers(0, len(shape) - 2))
        a, b = shape[axis : axis + 2]
        one = a * b if isinstance(a, int) and isinstance(b, int) else f"({a}*{b})"
        after = (*shape[:axis], one, *shape[axis + 2 :])
        return self.reshape(x, after, [*range(axis), None, *range(axis + 2, len(shape))])

    def reshape(self, x, after, sources):
        """``sources``: for each new axis the old one that it is."""
        if self.draw(st.booleans()) or sum(not isinstance(s, int) for s in after) < 2:
            target = [s if isinstance(s, int) else -1 for s in after]
            if target.count(-1) <= 1:
                return self.add("Reshape", [x, self.ints(*target)], after)
        whole = self.add("Shape", [x], None)
        pieces = []
        for size, source in zip(after, sources, strict=True):
            if isinstance(size, int):
                pieces.append(self.ints(size))
            elif source is None:
                pieces.append(self.ints(-1))
            else:
                pieces.append(self.add("Gather", [whole, self.ints(source)], None))
        return self.add("Reshape", [x, self.add("Concat", pieces, None, axis=0)], after)

    def do_combine(self, x, shape):
        alike = [y for y in self.pool if self.shapes[y] == shape]
        y = self.draw(st.sampled_from(alike))
        kind = self.draw(st.sampled_from(("Add", "Mul", "Where", "Concat")))
        if kind == "Where":
            asked = self.add("Greater", [x, y], shape)
            return self.add("Where", [asked, x, y], shape)
        if kind == "Concat":
            axis = self.any_axis(x)
            double = shape[axis] * 2 if isinstance(shape[axis], int) else f"(2*{shape[axis]})"
            return self.add(
                "Concat", [x, y], (*shape[:axis], double, *shape[axis + 1 :]), axis=axis
            )
        return self.add(kind, [x, y], shape)

    def do_take(self, x, shape):
        axis = self.any_axis(x)
        if len(shape) < 3 or (isinstance(shape[axis], int) and shape[axis] < 1):
            return None
        index = self.weight(np.array(0, np.int64))
        return self.add("Gather", [x, index], (*shape[:axis], *shape[axis + 1 :]), axis=axis)

    def do_slice(self, x, shape):
        axis = self.any_axis(x)
        inputs = [x, self.ints(0), self.ints(1), self.ints(axis)]
        return self.add("Slice", inputs, (*shape[:axis], 1, *shape[axis + 1 :]))

    def do_split(self, x, shape):
        even = [i for i, s in enumerate(shape) if isinstance(s, int) and s % 2 == 0]
        if not even:
            return None
        axis = self.draw(st.sampled_from(even))
        half = (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
        first = self.add("Split", [x], half, 2, axis=axis, num_outputs=2)
        self.pool.append(first.replace("_0", "_1"))
        return first

    def do_expand(self, x, shape):
        target = [3 if s == 1 else 1 for s in shape]
        after = tuple(3 if s == 1 else s for s in shape)
        return self.add("Expand", [x, self.ints(*target)], after)

    def model(self):
        used = {name for node in self.nodes for name in node.input}
        outputs = [x for x in self.pool if x not in used]
        outputs += [x for x in self.pool if x in used and self.draw(st.integers(0, 3)) == 0]
        inputs = []
        for name, length in zip(self.names, self.LENGTHS, strict=False):
            shape = ["B" if self.axis else f"B{length}", length if self.axis == 1 else "L", 4]
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        graph = helper.make_graph(
            self.nodes,
            "g",
            inputs,
            [
                helper.make_tensor_value_info(x, TensorProto.FLOAT, [None] * len(self.shapes[x]))
                for x in outputs
            ],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    def values(self, sizes):
        rng = np.random.default_rng(5)
        made = {}
        for i, name in enumerate(self.names):
            shape = [sizes[0], sizes[1], 4]
            if self.axis < 2:
                shape[self.axis] = sizes[2 + i]
            made[name] = rng.standard_normal(shape).astype(np.float32)
        return made


@st.composite
def grown(draw):
    grower = Grower(draw)
    for _ in range(draw(st.integers(1, 12))):
        grower.step()
    return grower, grower.model()
