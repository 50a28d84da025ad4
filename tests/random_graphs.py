"""Random ONNX graphs, written byte by byte, that come near the rules of graphs of a bundle.

Names, operators and numbers are few, so that nodes meet: guards and divisions, constants and what
asks by them for elements, bodies that hide names of graphs around them, functions that are called.
"""

from __future__ import annotations

from random import Random

from mmedge.bundle.operators import DOMAINS, TYPED

WEIGHTS = "net.onnx.data"
NAMES = ["a", "b", "c", "d", "one", "minus", "safe", "is", ""]
NUMBERS = [
    -1, -1, 0, 1, 1, 2, 3, 6, 7, 16, -2, 63, 64, 1 << 14, 1 << 16, (1 << 16) + 1, 1 << 28,
    (1 << 28) + 1, (1 << 31) - 1, 1 << 31, -(1 << 31), -(1 << 31) - 1, 1 << 40, -(1 << 63),
    (1 << 63) - 1,
]  # fmt: skip
OPERATORS = [(domain, op) for domain, ops in sorted(DOMAINS.items()) for op in sorted(ops)]
#: What rules speak of, and so comes more often.
RULED = [
    *["Div", "Mod", "Where", "Equal", "Constant", "If", "Loop", "Identity", "Cast", "TopK"] * 3,
    "MaxPool", "Unique", "GatherND", "DFT", "STFT", "Pad", "Range", "Expand", "Tile", "OneHot",
    "Resize", "ConstantOfShape", "RandomNormal", "Conv", "HannWindow", "CastLike", "Shape",
    "Concat", "LSTM", "Slice", *TYPED,
]  # fmt: skip
RULED_MICROSOFT = [
    "MatMulNBits", "MatMulBnb4", "GroupQueryAttention", "RotaryEmbedding", "QAttention",
    "GatherBlockQuantized", "FusedConv", "DynamicQuantizeLSTM",
]  # fmt: skip
ATTRIBUTES = [
    "axis", "batch_dims", "block_size", "bits", "dtype", "fmod", "K", "N", "kernel_shape",
    "kv_num_heads", "num_heads", "output_datatype", "rotary_embedding_dim", "shape", "starts", "to",
    "value", "value_float", "value_int", "value_ints", "other",
]  # fmt: skip


def varint(value: int) -> bytes:
    """A number as a message holds it."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | str | bytes) -> bytes:
    """A field of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def random_model(rng: Random) -> bytes:
    """A ModelProto, most often one that is read without fault."""
    functions = [function(rng, f"F{i}") for i in range(rng.choice((0, 0, 1, 2)))]
    calls = [f"F{i}" for i in range(len(functions))]
    if rng.random() < 0.02:
        calls.append("G")
    parts = [
        field(1, 10),
        field(8, field(1, rng.choice(("", "ai.onnx"))) + field(2, rng.choice((13, 20, 28)))),
        field(7, graph(rng, calls, depth=0)),
        *(field(25, body) for body in functions),
    ]
    if rng.random() < 0.1:
        parts.append(field(8, field(1, rng.choice(("", "x"))) + field(2, rng.choice((1, 29)))))
    if rng.random() < 0.2:
        rng.shuffle(parts)
    return b"".join(parts)


def function(rng: Random, op: str) -> bytes:
    """A FunctionProto."""
    domain = "mmedge" if rng.random() < 0.97 else rng.choice(("", "evil", "ai.onnx"))
    parts = [field(1, op), field(10, domain)]
    parts += [field(4, rng.choice(NAMES)) for _ in range(rng.randrange(4))]
    parts += [field(5, rng.choice(NAMES)) for _ in range(rng.randrange(4))]
    calls = ["F0"] if rng.random() < 0.02 else []
    parts += [field(7, node) for node in nodes(rng, calls, depth=1, in_function=True)]
    return b"".join(parts)


def graph(rng: Random, calls: list[str], depth: int) -> bytes:
    """A GraphProto."""
    names = rng.sample(NAMES, len(NAMES))
    parts = [field(5, tensor(rng, name)) for name in names[: rng.randrange(4)]]
    parts += [field(11, value(rng)) for _ in range(rng.randrange(4))]
    parts += [field(12, field(1, rng.choice(NAMES))) for _ in range(rng.randrange(4))]
    if rng.random() < 0.5:
        numbers = [("one", 1), ("minus", -1)]
        parts += [
            field(5, tensor(rng, name, number)) for name, number in numbers if name not in names[:4]
        ]
    parts += [field(1, node) for node in nodes(rng, calls, depth)]
    if rng.random() < 0.1:
        rng.shuffle(parts)
    return b"".join(parts)


def nodes(rng: Random, calls: list[str], depth: int, *, in_function: bool = False) -> list[bytes]:
    """Nodes of a graph or function."""
    made = [node(rng, calls, depth, in_function=in_function) for _ in range(rng.randrange(5))]
    if rng.random() < 0.3:
        divisor = rng.choice("abcd")
        made += [
            plain("Equal", [divisor, "minus"], ["is"]),
            plain("Where", ["is", "one", rng.choice((divisor, divisor, "a"))], ["safe"]),
            plain(rng.choice(("Div", "Mod")), ["a", "safe"], [rng.choice(NAMES)]),
        ]
        if rng.random() < 0.2:
            rng.shuffle(made)
    return made


def plain(op: str, inputs: list[str], outputs: list[str]) -> bytes:
    """A NodeProto without attributes."""
    parts = [field(1, name) for name in inputs] + [field(2, name) for name in outputs]
    return b"".join([*parts, field(4, op)])


def node(rng: Random, calls: list[str], depth: int, *, in_function: bool) -> bytes:
    """A NodeProto."""
    choice = rng.random()
    if calls and choice < 0.3:
        domain, op = "mmedge", rng.choice(calls)
    elif choice < 0.65:
        domain, op = rng.choice(("", "", "ai.onnx")), rng.choice(RULED)
    elif choice < 0.7:
        domain, op = "com.microsoft", rng.choice(RULED_MICROSOFT)
    else:
        domain, op = rng.choice(OPERATORS)
    if rng.random() < 0.01:
        domain, op = rng.choice(("", "evil", "com.microsoft")), rng.choice(("Steal", "Div", "Add"))
    parts = [field(4, op)] + [field(7, domain)] * bool(domain or rng.random() < 0.1)
    parts += [field(1, rng.choice(NAMES)) for _ in range(rng.randrange(5))]
    parts += [field(2, rng.choice(NAMES)) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    parts += [field(5, each) for each in attributes(rng, op, calls, depth, in_function=in_function)]
    return b"".join(parts)


def attributes(
    rng: Random, op: str, calls: list[str], depth: int, *, in_function: bool
) -> list[bytes]:
    """AttributeProtos of a node."""
    names = rng.sample(ATTRIBUTES, rng.choice((0, 0, 1, 2)))
    if op == "Constant":
        names = [rng.choice(("value", "value", "value_int", "value_ints", "value_float", "axis"))]
    elif op in TYPED and rng.random() < 0.8:
        names = [TYPED[op][0]]
    made = []
    for name in names:
        parts = [field(1, name)]
        kind = rng.random()
        if name == "value" and kind < 0.9:
            parts.append(field(5, tensor(rng, "")))
        elif name in ("value_ints", "kernel_shape", "shape", "starts") or kind < 0.1:
            numbers = [rng.choice(NUMBERS) for _ in range(rng.randrange(4))]
            if rng.random() < 0.5:
                parts.append(field(8, b"".join(map(varint, numbers))))
            else:
                parts += [field(8, number) for number in numbers]
        elif kind < 0.9:
            number = rng.choice(NUMBERS)
            parts.append(field(3, number if rng.random() < 0.5 else number % 20))
        if in_function and rng.random() < 0.1:
            parts.append(field(21, rng.choice(("k", ""))))
        made.append(b"".join(parts))
    if op in ("If", "Loop", "Scan") and depth < 3:
        bodies = [graph(rng, calls, depth + 1) for _ in range(rng.choice((1, 1, 2)))]
        made += [
            field(1, f"body{i}") + field(rng.choice((6, 11)), body) for i, body in enumerate(bodies)
        ]
    return made


def value(rng: Random) -> bytes:
    """A ValueInfoProto."""
    name = field(1, rng.choice(NAMES))
    if rng.random() < 0.2:
        return name
    kind = b"" if rng.random() < 0.1 else field(1, rng.choice((1, 6, 7, 7, 9, 10)))
    rank = rng.choice((None, 0, 1, 3))
    shape = b"" if rank is None else field(2, b"".join(field(1, b"") for _ in range(rank)))
    return name + field(2, field(1, kind + shape))


def tensor(rng: Random, name: str, number: int | None = None) -> bytes:
    """A TensorProto; ``number``: an int64 of one element."""
    if number is not None:
        data = number.to_bytes(8, "little", signed=True)
        return field(1, 1) + field(2, 7) + field(8, name) + field(9, data)
    kind = rng.choice((1, 6, 7, 7, 7))
    count = rng.choice((0, 1, 1, 1, 2, 3))
    shape = {0: [0], 1: rng.choice(([], [1], [1, 1]))}.get(count, [count])
    parts = [field(1, size) for size in shape] + [field(2, kind)] + [field(8, name)] * bool(name)
    if rng.random() < 0.1:
        entries = {
            "location": WEIGHTS if rng.random() < 0.9 else rng.choice(("../x", "", "/x", "more")),
            "offset": str(rng.choice((0, 0, 4, 400, 424, 425))),
            "length": str(rng.choice((4, 8, 0, 24, 1000))),
        }
        if rng.random() < 0.3:
            del entries[rng.choice(list(entries))]
        parts += [field(13, field(1, key) + field(2, text)) for key, text in entries.items()]
        parts.append(field(14, 1))
    else:
        width = 8 if kind == 7 else 4
        numbers = [rng.choice(NUMBERS) for _ in range(count)]
        if rng.random() < 0.6:
            low = [each & ((1 << 8 * width) - 1) for each in numbers]
            parts.append(field(9, b"".join(each.to_bytes(width, "little") for each in low)))
        elif rng.random() < 0.5:
            parts.append(field(7 if kind == 7 else 5, b"".join(map(varint, numbers))))
        else:
            parts += [field(7 if kind == 7 else 5, each) for each in numbers]
        if rng.random() < 0.03:
            parts.append(field(1, rng.choice((2, 5, 1 << 41))))
    return b"".join(parts)
