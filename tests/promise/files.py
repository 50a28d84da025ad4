"""Random ONNX files as exporters and people write them, and inputs over all that they take."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

FLOAT, DOUBLE, HALF = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16
INT64, INT32, BOOL, UINT8 = (
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.BOOL,
    TensorProto.UINT8,
)
DTYPES = {
    FLOAT: np.float32,
    DOUBLE: np.float64,
    HALF: np.float16,
    INT64: np.int64,
    INT32: np.int32,
    BOOL: np.bool_,
    UINT8: np.uint8,
    TensorProto.INT8: np.int8,
    TensorProto.INT16: np.int16,
    TensorProto.UINT16: np.uint16,
    TensorProto.UINT32: np.uint32,
    TensorProto.UINT64: np.uint64,
}
#: Ways to name a tensor: as torch, TensorFlow, Caffe2 and people do.
NAMES = ("x{}", "x.{}", "x_{}", "serving_{}:0", "gpu_0/data_{}", "größe{}", "{}")


@dataclass
class File:
    """A model, and how to draw its inputs."""

    model: onnx.ModelProto
    inputs: dict[str, tuple[int, tuple[int | str | None, ...]]]
    seed: int
    traits: list[str]

    def cases(self, count: int) -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(self.seed)
        for number in range(count):
            sizes: dict[str, int] = {}
            case = {}
            for name, (dtype, shape) in self.inputs.items():
                axes = [
                    s
                    if isinstance(s, int)
                    else sizes.setdefault(
                        s or f"{name}?",
                        (1, 3, 6)[number % 3] if number < 3 else int(rng.integers(1, 9)),
                    )
                    for s in shape
                ]
                case[name] = draw(DTYPES[dtype], axes, rng, number)
            yield case


def draw(dtype, shape, rng, number) -> np.ndarray:
    """Values over the whole dtype: small ones, extremes, all alike."""
    dtype = np.dtype(dtype)
    if dtype == np.bool_:
        return np.asarray(rng.random(shape) < (0.5, 0.0, 1.0)[number % 3])
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape) * (1, 4, 0)[number % 3]).astype(dtype)
    limits = np.iinfo(dtype)
    if number % 3 == 1:
        ends = np.array([limits.min, limits.max, 1, limits.max // 2], dtype)
        return np.asarray(rng.choice(ends, shape), dtype)
    return np.asarray(rng.integers(0, 5, shape), dtype)


class Builder:
    """Draws a graph node by node. A value is a name with its dtype and symbolic shape."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(self.seed)
        self.opset = self.pick(11, 12, 13, 15, 17, 18, 20, 21)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.values: dict[str, tuple[int, tuple[int | str | None, ...]]] = {}
        self.inputs: dict[str, tuple[int, tuple[int | str | None, ...]]] = {}
        self.traits: list[str] = []
        self.style = self.pick(*NAMES)

    def pick(self, *options):
        return self.random.choice(options)

    def chance(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def name(self) -> str:
        return self.style.format(len(self.values) + len(self.weights))

    def weight(self, array) -> str:
        name = self.name()
        self.weights[name] = np.asarray(array)
        return name

    def floats(self, *shape) -> str:
        return self.weight(self.rng.standard_normal(shape).astype(np.float32))

    def ints(self, *numbers) -> str:
        return self.weight(np.array(numbers, np.int64))

    def add(self, kind, inputs, dtype, shape, **attributes) -> str:
        out = self.name()
        node = helper.make_node(kind, inputs, [out], name=f"n{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        self.values[out] = (dtype, tuple(shape))
        self.traits.append(kind)
        return out

    def of(self, *dtypes, rank=None) -> str | None:
        fit = [
            name
            for name, (dtype, shape) in self.values.items()
            if dtype in dtypes and shape is not None and (rank is None or len(shape) >= rank)
        ]
        return self.random.choice(fit) if fit else None

    # Inputs.

    def put(self) -> None:
        dtype = self.pick(*[FLOAT] * 8, INT64, INT64, INT32, BOOL, UINT8, DOUBLE, HALF, *DTYPES)
        rank = self.random.randint(0, 3) if dtype != FLOAT else self.pick(1, 2, 2, 3, 4)
        shape: list[int | str | None] = [self.pick(2, 3, 4) for _ in range(rank)]
        if rank and self.chance(2):
            shape[0] = "batch"
        if rank > 1 and self.chance(3):
            shape[1] = self.pick("length", f"d{len(self.inputs)}", None)
        name = self.name()
        self.values[name] = self.inputs[name] = (dtype, tuple(shape))

    # Nodes.

    def step(self) -> None:
        kinds = [n for n in dir(self) if n.startswith("do_")]
        getattr(self, self.random.choice(kinds))()

    def do_unary(self):
        if x := self.of(FLOAT):
            kind = self.pick("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Erf", "Floor", "Identity")
            self.add(kind, [x], *self.values[x])

    def do_linear(self):
        if x := self.of(FLOAT, rank=2):
            shape = self.values[x][1]
            if isinstance(shape[-1], int):
                out = self.add("MatMul", [x, self.floats(shape[-1], 5)], FLOAT, (*shape[:-1], 5))
                self.add("Add", [out, self.floats(5)], *self.values[out])

    def do_conv(self):
        x = next((n for n, (d, s) in self.values.items() if d == FLOAT and len(s) == 4), None)
        if x and isinstance(self.values[x][1][1], int):
            shape = self.values[x][1]
            weight = self.floats(3, shape[1], 1, 1)
            self.add("Conv", [x, weight], FLOAT, (shape[0], 3, *shape[2:]))

    def do_pair(self):
        x = self.of(FLOAT)
        if x is None:
            return
        alike = [n for n, v in self.values.items() if v == self.values[x]]
        y = self.random.choice(alike)
        self.add(self.pick("Add", "Mul", "Sub", "Max"), [x, y], *self.values[x])

    def do_broadcast(self):
        x, y = self.of(FLOAT), self.of(FLOAT)
        if x and y and not self.values[y][1]:
            self.add("Mul", [x, y], *self.values[x])

    def do_concat(self):
        x = self.of(FLOAT, rank=1)
        if x is None:
            return
        shape = self.values[x][1]
        alike = [n for n, v in self.values.items() if v == self.values[x]]
        y = self.random.choice(alike)
        axis = len(shape) - 1
        if isinstance(shape[axis], int):
            self.add("Concat", [x, y], FLOAT, (*shape[:axis], 2 * shape[axis]), axis=axis)

    def do_softmax(self):
        if x := self.of(FLOAT, rank=1):
            self.add("Softmax", [x], *self.values[x], axis=len(self.values[x][1]) - 1)

    def do_reduce(self):
        x = self.of(FLOAT, INT64, INT32, rank=1)
        if x is None or self.opset < 18:
            return
        dtype, shape = self.values[x]
        axis = self.random.randint(0, len(shape) - 1)
        kind = self.pick("ReduceMean", "ReduceMax", "ReduceSum")
        if dtype != FLOAT:
            kind = self.pick("ReduceMax", "ReduceSum", "ReduceMin")
        left = tuple(1 if i == axis else s for i, s in enumerate(shape))
        self.add(kind, [x, self.ints(axis)], dtype, left, keepdims=1)

    def do_integers(self):
        x = self.of(INT64, INT32)
        if x is None:
            return
        dtype, shape = self.values[x]
        kind = self.pick("Add", "Sub", "Mul", "Div", "Mod")
        number = self.weight(np.array(self.pick(2, 3, 7, 1000), DTYPES[dtype]))
        self.add(kind, [x, number], dtype, shape)

    def do_shift(self):
        if x := self.of(TensorProto.UINT32, TensorProto.UINT64, UINT8):
            dtype, shape = self.values[x]
            number = self.weight(np.array(self.pick(1, 2), DTYPES[dtype]))
            self.add("BitShift", [x, number], dtype, shape, direction=self.pick("LEFT", "RIGHT"))

    def do_cast(self):
        x = self.of(*DTYPES)
        if x is None:
            return
        dtype, shape = self.values[x]
        # A float outside an integer's range has no value that all processors agree on.
        to = self.pick(FLOAT, FLOAT, DOUBLE, BOOL)
        if dtype not in (FLOAT, DOUBLE, HALF):
            to = self.pick(FLOAT, INT64, INT32, UINT8, DOUBLE)
        self.add("Cast", [x], to, shape, to=to)

    def do_compare(self):
        if x := self.of(FLOAT):
            _dtype, shape = self.values[x]
            at = self.weight(np.array(self.pick(-0.3, 0.1, 0.7), np.float32))
            self.add(self.pick("Greater", "Less"), [x, at], BOOL, shape)

    def do_where(self):
        x = self.of(FLOAT)
        if x is None:
            return
        masks = [n for n, (d, s) in self.values.items() if d == BOOL and s == self.values[x][1]]
        if masks:
            mask = self.random.choice(masks)
            fill = self.weight(np.array(self.pick(-1e4, -1e9, 0.0, np.inf), np.float32))
            self.add("Where", [mask, x, fill], *self.values[x])

    def do_arg(self):
        if x := self.of(FLOAT, rank=1):
            _, shape = self.values[x]
            axis = len(shape) - 1
            self.add("ArgMax", [x], INT64, (*shape[:axis], 1), axis=axis)

    def do_index(self):
        x, index = self.of(FLOAT, rank=2), self.of(INT64, INT32)
        if x is None or index is None or self.opset < 13:
            return
        dtype, shape = self.values[index]
        limit = self.weight(np.array(2, DTYPES[dtype]))
        small = self.add("Mod", [index, limit], dtype, shape)
        _, wide = self.values[x]
        if isinstance(wide[-1], int) and len(shape) < 2:
            self.add("Gather", [x, small], FLOAT, (*wide[:-1], *shape), axis=len(wide) - 1)

    def do_transpose(self):
        if x := self.of(FLOAT, rank=2):
            _, shape = self.values[x]
            perm = self.random.sample(range(len(shape)), len(shape))
            self.add("Transpose", [x], FLOAT, [shape[i] for i in perm], perm=list(perm))

    def do_flatten(self):
        if x := self.of(FLOAT, rank=2):
            _, shape = self.values[x]
            rest = shape[1:]
            width = (
                int(np.prod(rest))
                if all(isinstance(s, int) for s in rest)
                else f"flat{len(self.nodes)}"
            )
            if self.chance(2):
                self.add("Flatten", [x], FLOAT, (shape[0], width), axis=1)
            elif isinstance(width, int):
                self.add("Reshape", [x, self.ints(-1, width)], FLOAT, (shape[0], width))

    def do_sizes(self):
        """A target computed from a shape."""
        if x := self.of(FLOAT, rank=2):
            _, shape = self.values[x]
            whole = self.add("Shape", [x], INT64, (len(shape),))
            first = self.add("Gather", [whole, self.ints(0)], INT64, (1,))
            target = self.add("Concat", [first, self.ints(-1)], INT64, (2,), axis=0)
            for name in (whole, first, target):
                self.values.pop(name)
            self.add("Reshape", [x, target], FLOAT, (shape[0], f"flat{len(self.nodes)}"))

    def do_branch(self):
        """If by content or by size; both branches give the same shape."""
        x = self.of(FLOAT)
        if x is None or self.opset < 13:
            return
        dtype, shape = self.values[x]
        if self.chance(2):
            flat = self.add("Reshape", [x, self.ints(-1)], FLOAT, ("any",))
            total = self.add("ReduceSum", [flat, self.ints(0)], FLOAT, (), keepdims=0)
            for name in (flat, total):
                self.values.pop(name)
            asked = self.add("Greater", [total, self.weight(np.float32(0.0))], BOOL, ())
        else:
            size = self.add("Size", [x], INT64, ())
            asked = self.add("Greater", [size, self.weight(np.int64(6))], BOOL, ())
            self.values.pop(size)
        inside = helper.make_tensor_value_info("r", dtype, None)
        then = helper.make_graph([helper.make_node("Neg", [x], ["r"])], "then", [], [inside])
        other = helper.make_graph([helper.make_node("Abs", [x], ["r"])], "else", [], [inside])
        self.add("If", [asked], dtype, shape, then_branch=then, else_branch=other)

    def do_loop(self):
        """The same work a few times over."""
        x = self.of(FLOAT)
        if x is None or self.opset < 13:
            return
        dtype, shape = self.values[x]
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["go"], ["on"]),
                helper.make_node("Sin", ["state"], ["next"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("i", INT64, []),
                helper.make_tensor_value_info("go", BOOL, []),
                helper.make_tensor_value_info("state", dtype, None),
            ],
            [
                helper.make_tensor_value_info("on", BOOL, []),
                helper.make_tensor_value_info("next", dtype, None),
            ],
        )
        count, go = self.weight(np.int64(3)), self.weight(np.bool_(True))
        self.add("Loop", [count, go, x], dtype, shape, body=body)

    def do_hits(self):
        """As many values as there are hits."""
        if (x := self.of(FLOAT, rank=1)) and self.chance(3):
            mask = self.add("Greater", [x, self.weight(np.float32(0.4))], BOOL, self.values[x][1])
            self.add("Compress", [x, self.flat(mask)], FLOAT, (f"hits{len(self.nodes)}",))

    def flat(self, x):
        out = self.add("Reshape", [x, self.ints(-1)], BOOL, ("any",))
        self.values.pop(out)
        return out

    def do_noise(self):
        if (x := self.of(FLOAT)) and self.chance(5):
            self.add("RandomUniformLike", [x], *self.values[x])

    # The file.

    def build(self) -> File:
        for _ in range(self.random.randint(1, 3)):
            self.put()
        for _ in range(self.random.randint(1, 10)):
            self.step()
        used = {name for node in self.nodes for name in node.input}
        results = [n for n in self.values if n not in used and n not in self.inputs]
        results += [n for n in self.values if n in used and n not in self.inputs and self.chance(6)]
        if self.chance(12):
            results.append(next(iter(self.inputs)))
            self.traits.append("an input is an output")
        if not results:
            x = next(iter(self.inputs))
            results = [self.add("Identity", [x], *self.values[x])]
        listed = [
            helper.make_tensor_value_info(name, dtype, shape)
            for name, (dtype, shape) in self.inputs.items()
        ]
        outputs = [
            helper.make_tensor_value_info(
                n, self.values[n][0], None if self.chance(4) else [None] * len(self.values[n][1])
            )
            for n in dict.fromkeys(results)
        ]
        tensors = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        if self.chance(6):
            self.traits.append("initializers among the inputs")
            listed += [
                helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors
            ]
        nodes = list(self.nodes)
        if self.chance(6):
            self.traits.append("unsorted")
            nodes.reverse()
        graph = helper.make_graph(nodes, "random", listed, outputs, tensors)
        if self.chance(6) and self.values:
            self.traits.append("stale shapes")
            name = self.random.choice(sorted(self.values))
            if name not in self.inputs and name not in results:
                graph.value_info.append(
                    helper.make_tensor_value_info(name, self.values[name][0], [7, 7])
                )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )
        return File(
            model,
            dict(self.inputs),
            self.seed,
            [f"seed {self.seed}", *self.traits, f"opset {self.opset}"],
        )


#: Seeds say more in fewer examples than choices one by one, of which hypothesis repeats most.
files = st.integers(0, 2**32 - 1).map(lambda seed: Builder(seed).build())
