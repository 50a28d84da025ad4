"""What tests of ONNX Runtime in C++ share: its probe, and graphs that both runtimes open."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import onnxruntime
from loop_bundles import variant
from tiny import make_tiny

from mmedge import native
from mmedge.backends import SessionOptions
from mmedge.backends.registry import open_stage
from mmedge.bundle import Bundle
from mmedge.spec import Stage, TensorSpec
from mmedge_export.partition.attention_function import attention_function

ROOT = Path(__file__).resolve().parents[1]
CAPI = Path(onnxruntime.__file__).parent / "capi"
LIBRARY = next(CAPI.glob("libonnxruntime.so.*"))
INPUT, BACKEND = 2, 4  # as in error.h
RNG = np.random.default_rng(5)


class Probe:
    """The program, which answers one command after another."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def ask(self, command: str, **fields):
        """The answer, or the kind of error and its words."""
        self.send(command, **fields)
        line = self.process.stdout.readline()
        assert line, f"the program ended with {self.process.wait()}"
        answer = json.loads(line)
        return answer["answer"] if "answer" in answer else (answer["error"][0], answer["error"][1])

    def send(self, command: str, **fields) -> None:
        self.process.stdin.write(json.dumps({"command": command, **fields}) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        with self.process:
            self.process.stdin.close()
            rest = self.process.stdout.read()
        assert (self.process.returncode, rest) == (0, "")

    def do(self, command: str, **fields):
        answer = self.ask(command, **fields)
        assert not isinstance(answer, tuple), answer
        return answer

    def run(self, session: str, feeds=None, slot=None, **fields):
        answer = self.do(
            "run", session=session, slot=slot or self.name(),
            inputs={name: tensor(value) for name, value in (feeds or {}).items()}, **fields,
        )  # fmt: skip
        return {name: array(value) for name, value in answer.items()}


def tensor(value, *, data=True):
    value = np.asarray(value)
    fields = {"dtype": value.dtype.name, "shape": list(value.shape)}
    return {**fields, "hex": value.tobytes().hex()} if data else fields


def array(value):
    if value is None:
        return None
    data = np.frombuffer(bytes.fromhex(value["hex"]), value["dtype"])
    return data.reshape(value["shape"])


def specs(values):
    return [{"name": s.name, "dtype": s.dtype, "shape": s.shape} for s in values]


def open_fields(bundle, stage, chosen=None, **fields):
    chosen = chosen or bundle.manifest.variants[0]
    graph = chosen.files[stage.name]
    return {
        "library": str(CAPI),
        "kernel_library": str(native.library().path),
        "isa": None,
        "stage": stage.name,
        "inputs": specs(stage.inputs),
        "outputs": specs(stage.outputs),
        "flops": stage.flops,
        "alone": bundle.manifest.has_cores(stage),
        "path": str(bundle.file(graph)),
        "functions": sum(bundle.functions(graph).values()),
        **fields,
    }


class OneGraph:
    """A graph in the place of a bundle."""

    def __init__(self, folder: Path, graph: bytes, inputs, outputs, functions=0, flops=0) -> None:
        self.stage = Stage("net", "net.onnx", tuple(inputs), tuple(outputs), flops=flops)
        self.variant = variant({"net": "net.onnx"})
        self.manifest = SimpleNamespace(
            has_cores=lambda _: True, loop=None, variants=(self.variant,)
        )
        self.folder, self.calls = folder, functions
        (folder / "net.onnx").write_bytes(graph)

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def functions(self, _name: str) -> dict[str, int]:
        return {"SegmentedAttention2": self.calls} if self.calls else {}

    def python(self, **options):
        return open_stage(self, self.stage, self.variant, options=SessionOptions(**options))

    def fields(self, **fields):
        return open_fields(self, self.stage, **fields)


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        assert ours[name].shape == value.shape
        assert ours[name].tobytes() == value.tobytes()


def write_tiny(path):
    made = make_tiny()
    return Bundle.write(path, made.manifest, made.files, samples=made.samples)


def row(*values):
    return np.array(values, np.float32)


def attention_graph(kind="", dtype=np.float32, width=None, nodes=1):
    """One node, or several, and what it takes and gives."""
    function = attention_function(2, kind, 20)
    letters = ("k", "v", *(["bias"] if kind else []))
    names = ["q", *(f"{letter}{i}" for letter in letters for i in range(2))]
    inputs = [
        ir.val(n, ir.DataType.from_numpy(np.dtype(dtype)),
               [None, None, None, None if n.startswith("bias") else width])
        for n in names
    ]  # fmt: skip
    made = []
    for index in range(nodes):
        taken = inputs if index == 0 else [made[-1].outputs[0], *inputs[1:]]
        made.append(ir.node(function.name, taken, {"scale": 0.3}, domain="mmedge"))
    out = made[-1].outputs[0]
    out.name, out.type, out.shape = "y", inputs[0].type, ir.Shape([None] * 4)
    graph = ir.Graph(inputs, [out], nodes=made, opset_imports={"": 20, "mmedge": 1}, name="g")
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=10, functions=[function]))
    axes = ("a", "b", "c", "d")
    took = [TensorSpec(n, np.dtype(dtype).name, axes) for n in names]
    return model.SerializeToString(), took, [TensorSpec("y", np.dtype(dtype).name, axes)]
