"""ONNX Runtime in C++ against the backend in Python: the same numbers, choices and refusals."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from loop_bundles import Captioner, Graph, variant
from onnx import helper
from tiny import GRAPH, external, make_tiny

import mmedge
from mmedge import native
from mmedge.backends import SessionOptions
from mmedge.backends.cores import stage_threads
from mmedge.backends.registry import open_stage
from mmedge.bundle import Bundle
from mmedge.device import usable_cores
from mmedge.errors import BackendError
from mmedge.native import dispatch
from mmedge.spec import DTYPES, Stage, TensorSpec
from mmedge_export.partition.attention_function import attention_function

pytestmark = pytest.mark.native_build

ROOT = Path(__file__).resolve().parents[3]
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
        self.process.stdin.write(json.dumps({"command": command, **fields}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the program ended with {self.process.wait()}"
        answer = json.loads(line)
        return answer["answer"] if "answer" in answer else (answer["error"][0], answer["error"][1])

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


@pytest.fixture(scope="module")
def program(probe):
    return probe("ort_probe")


@pytest.fixture(scope="module")
def cpp(program) -> Iterator[Probe]:
    made = Probe(program)
    yield made
    made.end()


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        assert ours[name].shape == value.shape
        assert ours[name].tobytes() == value.tobytes()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    made = make_tiny()
    path = tmp_path_factory.mktemp("tiny") / "b"
    return Bundle.write(path, made.manifest, made.files, samples=made.samples)


@pytest.mark.parametrize("threads", [None, 1, 2])
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_bundle_gives_the_same_numbers(cpp, tiny, threads, in_memory):
    (stage,) = tiny.manifest.stages
    options = {} if threads is None else {"threads": threads}
    fields = open_fields(tiny, stage, in_memory=in_memory, **options)
    if in_memory:
        weights = next(name for name in tiny.manifest.files if name.endswith(".data"))
        fields["weights"] = {Path(weights).name: str(tiny.file(weights))}
    name = cpp.name()
    opened = cpp.do("open", session=name, **fields)
    assert opened == {"inputs": ["image", "text"], "outputs": ["score"]}
    theirs = open_stage(
        tiny, stage, tiny.manifest.variants[0], options=SessionOptions(threads=threads)
    )
    for sample in tiny.samples():
        assert_same(cpp.run(name, sample.inputs, slot=name), theirs.run(sample.inputs))
    cpp.do("close", session=name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_scalars_and_empty_tensors(cpp, tmp_path, dtype):
    inputs = (
        TensorSpec("x", dtype, ("rows", 3)),
        TensorSpec("s", dtype, ()),
        TensorSpec("z", dtype, ("none", 2)),
    )
    outputs = (
        TensorSpec("joined", dtype, ("twice", 3)),
        TensorSpec("scalar", dtype, ()),
        TensorSpec("turned", dtype, (2, "none")),
    )
    g = Graph()
    g("Concat", "x", "x", name="joined", axis=0)
    g("Squeeze", g("Unsqueeze", "s", np.array([0])), np.array([0]), name="scalar")
    g("Transpose", "z", name="turned", perm=[1, 0])
    bundle = OneGraph(tmp_path, g.bytes(inputs, outputs), inputs, outputs)
    theirs, name = bundle.python(), cpp.name()
    cpp.do("open", session=name, **bundle.fields())
    for rows, none in ((2, 3), (1, 0), (0, 1), (4, 0)):
        feeds = {
            "x": RNG.integers(0, 2, (rows, 3)).astype(dtype),
            "s": np.array(1).astype(dtype),
            "z": RNG.integers(0, 100, (none, 2)).astype(dtype),
        }
        wanted = theirs.run(feeds)
        assert_same(cpp.run(name, feeds, slot=name), wanted)
        memory = {key: tensor(value, data=False) for key, value in wanted.items()}
        assert_same(cpp.run(name, slot=name, memory=memory), wanted)
        cpp.run(name, slot=name, memory=dict.fromkeys(wanted))
    cpp.do("close", session=name)


# What runs may be given, and what they refuse.


@pytest.fixture(scope="module")
def adder(cpp, tmp_path_factory):
    """total = state + x, and doubled = 2 x."""
    inputs = (TensorSpec("x", "float32", ("n",)), TensorSpec("state", "float32", ("n",)))
    outputs = (TensorSpec("doubled", "float32", ("n",)), TensorSpec("total", "float32", ("n",)))
    g = Graph()
    g("Add", "x", "x", name="doubled")
    g("Add", "x", "state", name="total")
    bundle = OneGraph(tmp_path_factory.mktemp("add"), g.bytes(inputs, outputs), inputs, outputs)
    name = cpp.name()
    cpp.do("open", session=name, **bundle.fields())
    yield name, bundle
    cpp.do("close", session=name)


def row(*values):
    return np.array(values, np.float32)


def test_stages_pass_tensors_on_and_values_outlive_runs(cpp, adder):
    session, _ = adder
    first, second = cpp.name(), cpp.name()
    cpp.run(session, {"x": row(1, 2), "state": row(10, 20)}, slot=first)
    # Engine-made outputs of one are inputs of the next.
    got = cpp.run(session, slot=second, views={"x": (first, "doubled"), "state": (first, "total")})
    assert got["total"].tolist() == [13, 26]
    # What is kept stays as it was while the slot runs on.
    cpp.run(session, slot=second, take={"total": "kept"})
    cpp.run(session, {"x": row(7, 7), "state": row(0, 0)}, slot=first)
    cpp.run(session, {"x": row(5, 5), "state": row(9, 9)}, slot=second)
    got = cpp.run(session, slot=first, values={"state": "kept"})
    assert got["total"].tolist() == [20, 33]
    assert array(cpp.do("value", name="kept")).tolist() == [13, 26]
    cpp.run(session, {"state": row(0, 0)}, slot=first)  # nobody borrows it now
    cpp.do("drop", name="kept")


def test_states_go_back_without_a_copy(cpp, adder):
    session, _ = adder
    slot = cpp.name()
    feeds = {"x": row(1, 3), "state": row(0, 0)}
    cpp.run(session, feeds, slot=slot, count=5, feed_back={"total": "state"})
    got = cpp.run(session, slot=slot, take_states={"state": "last"})
    assert got["total"].tolist() == [6, 18]
    assert array(cpp.do("value", name="last")).tolist() == [5, 15]
    answer = cpp.ask("run", session=session, slot=slot)
    assert answer == (INPUT, "stage 'net', variant ort-fp32-cpu: input 'state' is not set")
    cpp.do("drop", name="last")


def test_threads_have_slots_of_their_own(cpp, adder):
    session, _ = adder
    feeds = [{"x": row(i, 2 * i), "state": row(1, i)} for i in range(6)]
    answers = cpp.do(
        "threads", session=session, count=50,
        feeds=[{name: tensor(value) for name, value in each.items()} for each in feeds],
    )  # fmt: skip
    for i, answer in enumerate(answers):
        assert array(answer["total"]).tolist() == [i + 1, 3 * i]


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"inputs": {"x": tensor(np.zeros(2))}}, INPUT, "'x': expected float32 of rank 1"),
        ({"inputs": {"x": tensor(np.zeros((1, 2), "f4"))}}, INPUT, "got float32 of rank 2"),
        ({"inputs": {"nothing": tensor(row(1))}}, INPUT, "there is no input"),
        ({"inputs": {"state": tensor(row(1, 2, 3))}}, BACKEND, "ONNX Runtime failed: "),
        ({"memory": {"total": tensor(row(1, 2, 3))}}, BACKEND, "ONNX Runtime failed: "),
        ({"memory": {"total": tensor(np.zeros(2, "i4"))}}, INPUT, "output 'total': expected"),
        ({"feed_back": {"nothing": "x"}}, INPUT, "holds nothing that the engine made"),
    ],
)
def test_what_a_slot_refuses(cpp, adder, fields, code, words):
    session, _ = adder
    slot = cpp.name()
    cpp.run(session, {"x": row(1, 2), "state": row(3, 4)}, slot=slot)
    kind, text = cpp.ask("run", session=session, slot=slot, **fields)
    assert kind == code
    assert text.startswith("stage 'net', variant ort-fp32-cpu: ")
    assert words in text
    # And goes on.
    got = cpp.run(session, {"x": row(1), "state": row(3)}, slot=slot, memory={"total": None})
    assert got["total"].tolist() == [4]


def test_a_buffer_is_input_and_output(cpp, tmp_path):
    """A cache in place: ONNX Runtime writes the new places of it, and leaves the others."""
    cache = ("batch", 1, "capacity", 16)
    inputs = (
        TensorSpec("q", "float32", ("batch", 1, 16)),
        TensorSpec("past_k", "float32", cache),
        TensorSpec("past_v", "float32", cache),
        TensorSpec("cache.last", "int32", ("batch",)),
        TensorSpec("cache.total", "int32", ()),
    )
    outputs = (
        TensorSpec("y", "float32", ("batch", 1, 16)),
        TensorSpec("k", "float32", cache),
        TensorSpec("v", "float32", cache),
    )
    model = onnx.load_from_string(Graph().bytes(inputs, outputs))
    names = ["q", "q", "q", *(spec.name for spec in inputs[1:])]
    node = helper.make_node(
        "GroupQueryAttention", names, ["y", "k", "v"], domain="com.microsoft",
        num_heads=1, kv_num_heads=1,
    )  # fmt: skip
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    bundle = OneGraph(tmp_path, model.SerializeToString(), inputs, outputs)
    theirs = bundle.python()._session
    name = cpp.name()
    cpp.do("open", session=name, **bundle.fields())
    buffers = {key: np.full((1, 1, 8, 16), 99, np.float32) for key in ("past_k", "past_v")}
    cpp.run(
        name, slot=name, memory={"k": "past_k", "v": "past_v"},
        feeds={"q": np.zeros((1, 1, 16), "f4"), **buffers, "cache.last": np.zeros(1, np.int32),
               "cache.total": np.int32(1)},
    )  # fmt: skip
    binding = theirs.io_binding()
    for step in range(4):
        q = RNG.standard_normal((1, 1, 16)).astype(np.float32)
        feeds = {
            "q": q,
            "cache.last": np.full(1, step, np.int32),
            "cache.total": np.int32(step + 1),
        }
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        held = {key: value(np.asarray(each)) for key, each in {**feeds, **buffers}.items()}
        for key, each in held.items():
            binding.bind_ortvalue_input(key, each)
        binding.bind_output("y")
        for key in "kv":
            binding.bind_ortvalue_output(key, held[f"past_{key}"])
        theirs.run_with_iobinding(binding)
        buffers = {key: held[key].numpy() for key in buffers}
        if step == 0:
            got = cpp.run(name, {**feeds, **{k: np.full((1, 1, 8, 16), 99, "f4") for k in buffers}},
                          slot=name, memory={"k": "past_k", "v": "past_v"})  # fmt: skip
        else:
            got = cpp.run(name, feeds, slot=name)
        assert got["y"].tobytes() == binding.get_outputs()[0].numpy().tobytes()
        assert got["k"].tobytes() == buffers["past_k"].tobytes()
        assert (got["k"][:, :, step + 1 :] == 99).all()
    cpp.do("close", session=name)


def test_a_loop_gives_the_same_numbers(cpp, tmp_path):
    with Captioner().write(tmp_path / "b") as bundle:
        sessions = {}
        for stage in bundle.manifest.stages:
            sessions[stage.name] = cpp.name()
            cpp.do("open", session=sessions[stage.name], **open_fields(bundle, stage))
        see, step = (
            open_stage(bundle, stage, bundle.manifest.variants[0], options=SessionOptions())
            for stage in bundle.manifest.stages
        )
        for batch in (1, 3):
            image = RNG.standard_normal((batch, 5, 6)).astype(np.float32)
            cross = see.run({"image": image})
            encoder, slot = cpp.name(), cpp.name()
            assert_same(cpp.run(sessions["see"], {"image": image}, slot=encoder), cross)
            past = {f"past_{n}": np.zeros((batch, 2, 0, 4), np.float32) for n in "kv"}
            links = {"present_k": "past_k", "present_v": "past_v"}
            views = {name: (encoder, name) for name in cross}
            for position in range(8):
                feeds = {
                    "tokens": RNG.integers(0, 11, (batch, 1)),
                    "position": np.array([position]),
                }
                wanted = step.run({**feeds, **past, **cross})
                first = {"views": views} if position == 0 else {}
                got = cpp.run(
                    sessions["step"], {**feeds, **(past if position == 0 else {})}, slot=slot,
                    feed_back=links, **first,
                )  # fmt: skip
                assert_same(got, {name: wanted[name] for name in got})
                past = {state: wanted[name] for name, state in links.items()}
        for session in sessions.values():
            cpp.do("close", session=session)


def test_slots_stand_random_calls(program, adder):
    _, bundle = adder
    line = json.dumps({"session": "s", **bundle.fields()})
    for seed in (1, 2):
        done = subprocess.run(
            [program, "fuzz", str(seed), "4000"],
            input=line + "\n", capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        good = int(done.stdout.split("refused, ")[1].split()[0])
        assert good > 20


# Attention over segments.


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


def attention_feeds(kind="", dtype=np.float32, width=16):
    def values(*shape):
        return RNG.standard_normal(shape).astype(dtype)

    feeds = {"q": values(2, 3, 5, width)}
    for i, length in enumerate((7, 40)):
        feeds |= {f"{n}{i}": values(2, 3, length, width) for n in "kv"}
        if kind:
            feeds[f"bias{i}"] = values(2, 3, 5, length)
    return feeds


@pytest.fixture
def _best_isa():
    yield
    native.use_isa(None)


@pytest.mark.usefixtures("_best_isa")
@pytest.mark.parametrize("kind", ["", "Biased", "Guarded"])
@pytest.mark.parametrize("isa", [None, "avx2", "portable"])
@pytest.mark.parametrize("kernels", [None, True, False])
def test_the_kernel_and_its_reason_are_those_of_python(cpp, tmp_path, kind, isa, kernels):
    graph, inputs, outputs = attention_graph(kind, nodes=2)
    bundle = OneGraph(tmp_path, graph, inputs, outputs, functions=2)
    try:
        native.use_isa(isa)
    except mmedge.MMEdgeError as error:
        pytest.skip(str(error))
    theirs, name = bundle.python(kernels=kernels), cpp.name()
    chosen = {} if kernels is None else {"kernels": kernels}
    opened = cpp.do("open", session=name, **bundle.fields(isa=isa, **chosen))
    attention = theirs.attention
    assert opened["attention"] == {
        "nodes": attention.nodes,
        "kernel": attention.kernel or "",
        "reason": attention.reason,
        "text": str(attention),
    }
    feeds = attention_feeds(kind)
    assert_same(cpp.run(name, feeds, slot=name), theirs.run(feeds))
    cpp.do("close", session=name)


@pytest.mark.parametrize(("dtype", "width"), [(np.float16, 16), (np.float32, 257)])
def test_a_kernel_that_is_refused_leaves_the_body(cpp, tmp_path, dtype, width):
    graph, inputs, outputs = attention_graph(dtype=dtype, width=width)
    bundle = OneGraph(tmp_path, graph, inputs, outputs, functions=1)
    theirs, name = bundle.python(kernels=True), cpp.name()
    opened = cpp.do("open", session=name, **bundle.fields(kernels=True))["attention"]
    assert theirs.attention.kernel is None
    assert opened["kernel"] == ""
    for reason in (opened["reason"], theirs.attention.reason):
        assert reason.startswith("ONNX Runtime refused the kernel: ")
    feeds = attention_feeds(dtype=dtype, width=width)
    assert_same(cpp.run(name, feeds, slot=name), theirs.run(feeds))
    cpp.do("close", session=name)


def test_without_kernels_the_body_runs_and_the_reason_says_so(cpp, tmp_path):
    graph, inputs, outputs = attention_graph()
    bundle = OneGraph(tmp_path, graph, inputs, outputs, functions=1)
    other = tmp_path / "libother.so"
    other.write_bytes(b"no library")
    for library, reason in ((str(other), "cannot be loaded: "), (str(LIBRARY), "of the C API")):
        name = cpp.name()
        fields = bundle.fields(kernel_library=library)
        del fields["isa"]
        opened = cpp.do("open", session=name, **fields)
        assert opened["attention"]["kernel"] == ""
        assert reason in opened["attention"]["reason"]
        cpp.do("close", session=name)
    fields = bundle.fields()
    del fields["kernel_library"]
    opened = cpp.do("open", session="none", **fields)
    assert opened["attention"]["reason"] == "this program was built without kernels"
    cpp.do("close", session="none")


def test_a_kernel_that_is_not_called_is_an_error(cpp, tmp_path):
    graph, inputs, outputs = attention_graph(nodes=3)
    bundle = OneGraph(tmp_path, graph, inputs, outputs, functions=3)
    name = cpp.name()
    cpp.do("open", session=name, **bundle.fields(kernels=True, uncalled=True))
    feeds = {key: tensor(value) for key, value in attention_feeds().items()}
    for _ in range(2):
        kind, words = cpp.ask("run", session=name, slot=name, inputs=feeds)
        assert kind == BACKEND
        assert "3 nodes of segmented attention are said to run in the kernel of" in words
    cpp.do("close", session=name)


def test_the_measurements_are_those_of_python(cpp):
    devices = ["cpu-avx512", "cpu-avx2", "cpu-neon", "cpu-portable"]
    answer = cpp.do("dispatch", devices=devices)
    assert answer["rows"] == [
        [row.device, row.dtype, row.dim, row.rows, row.keys, row.speedup]
        for row in dispatch.measurements()
        if row.framework == "onnxruntime"
    ]
    for device in devices:
        choice = dispatch.choose("onnxruntime", device)
        assert answer["choices"][device] == [choice.kernel, choice.reason]


def test_threads_by_work_are_those_of_python(cpp):
    rows = [
        (flops, alone, threads)
        for flops in (0, 1, 7_999_999, 8_000_000, 16_000_000, 10**9, 2**53)
        for alone in (False, True)
        for threads in (None, 1, 2, 3, 64)
    ]
    answer = cpp.do("cores", rows=rows)
    assert answer["usable"] == usable_cores()
    assert answer["threads"] == [
        stage_threads(Stage("s", "s.onnx", flops=flops, inputs=(), outputs=()), alone=alone,
                      threads=threads)
        for flops, alone, threads in rows
    ]  # fmt: skip


# What is refused when a stage is opened.


def test_graphs_that_differ_from_the_manifest(cpp, tiny):
    (stage,) = tiny.manifest.stages
    fields = open_fields(tiny, stage)
    wrong = json.loads(json.dumps(fields))
    wrong["inputs"][0]["dtype"] = "int8"
    assert cpp.ask("open", session="x", **wrong)[1] == (
        "stage 'net': input 'image' is uint8 of rank 4 in the graph, the manifest declares image: "
        "int8[batch, 4, 4, 3]; export the bundle again"
    )
    wrong = json.loads(json.dumps(fields))
    wrong["outputs"][0]["shape"] = ["batch", 2, 1]
    kind, words = cpp.ask("open", session="x", **wrong)
    assert kind == BACKEND
    assert "output 'score' is float32 of rank 2 in the graph" in words
    wrong = json.loads(json.dumps(fields))
    wrong["inputs"][1]["name"] = "words"
    assert cpp.ask("open", session="x", **wrong)[1] == (
        "stage 'net': the graph's inputs are ['image', 'text'], the manifest declares ['image', "
        "'words']; export the bundle again"
    )


def test_what_is_no_graph_no_backend_and_no_target(cpp, tiny, tmp_path):
    (stage,) = tiny.manifest.stages
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no graph")
    refused = f"ONNX Runtime {onnxruntime.__version__} refused the graph: "
    for fields in (
        {"path": str(bad)},
        {"path": str(tmp_path / "none.onnx")},
        {"path": str(bad), "in_memory": True},
        {"in_memory": True},  # without its weights
    ):
        kind, words = cpp.ask("open", session="x", **open_fields(tiny, stage, **fields))
        assert kind == BACKEND
        assert words.startswith(f"stage 'net', variant ort-fp32-cpu: {refused}")
    _, words = cpp.ask("open", session="x", **open_fields(tiny, stage, backend="other"))
    assert words == "variant other-fp32-cpu: backend 'other' is not known; there is ort"
    _, words = cpp.ask("open", session="x", **open_fields(tiny, stage, target="sm_87"))
    assert "ONNX Runtime runs variants for cpu and cuda, not for sm_87" in words
    _, words = cpp.ask("open", session="x", **open_fields(tiny, stage, target="cuda"))
    assert "CUDAExecutionProvider is not in this ONNX Runtime" in words
    assert cpp.ask("open", session="x", **open_fields(tiny, stage, threads=0))[0] == INPUT


def test_weights_in_memory_that_are_too_short(cpp, tmp_path):
    inputs = outputs = (TensorSpec("x", "float32", ("n", 4)),)
    outputs = (TensorSpec("y", "float32", ("n", 4)),)
    model = onnx.load_from_string(Graph().bytes(inputs, outputs))
    model.graph.node.append(helper.make_node("MatMul", ["x", "w"], ["y"]))
    model.graph.initializer.append(external("w", (4, 4), "w.data", offset=16))
    bundle = OneGraph(tmp_path, model.SerializeToString(), inputs, outputs)
    weights = tmp_path / "w.data"
    fields = bundle.fields(in_memory=True, weights={"w.data": str(weights)})
    weights.write_bytes(bytes(79))
    kind, words = cpp.ask("open", session="x", **fields)
    assert kind == BACKEND
    assert "refused the graph" in words
    weights.write_bytes(RNG.standard_normal(20).astype(np.float32).tobytes())
    name = cpp.name()
    cpp.do("open", session=name, **fields)
    feeds = {"x": RNG.standard_normal((3, 4)).astype(np.float32)}
    assert_same(cpp.run(name, feeds, slot=name), bundle.python().run(feeds))
    cpp.do("close", session=name)


# Libraries.


def compile_library(folder: Path, version: str, api: str) -> Path:
    source = folder / "fake.c"
    source.write_text(
        "typedef struct { const void* (*get_api)(unsigned); const char* (*version)(void); } Base;\n"
        f"static const void* get_api(unsigned v) {{ (void)v; return {api}; }}\n"
        f'static const char* version(void) {{ return "{version}"; }}\n'
        "static const Base base = {get_api, version};\n"
        "const Base* OrtGetApiBase(void) { return &base; }\n"
    )
    library = folder / "libonnxruntime.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def test_where_the_library_is_found(cpp, tmp_path):
    for location in (LIBRARY, CAPI, CAPI.parent, CAPI.parents[1]):
        answer = cpp.do("library", library=str(location))
        assert answer["version"] == onnxruntime.__version__
        assert Path(answer["path"]).samefile(LIBRARY)
        assert answer["targets"] == ["cpu"]
        assert list(answer["missing"]) == ["cuda"]
    # The highest version counts.
    folder = tmp_path / "several"
    (folder / "lib").mkdir(parents=True)
    for name in ("libonnxruntime.so.1.9.0", "libonnxruntime.so", "libonnxruntime.so.1.32.0.orig"):
        (folder / "lib" / name).write_bytes(b"")
    (folder / "lib" / "libonnxruntime.so.1.10.1").symlink_to(LIBRARY)
    assert cpp.do("library", library=str(folder))["version"] == onnxruntime.__version__


@pytest.mark.parametrize(
    ("version", "api", "words"),
    [
        ("1.24.9", "0", "ONNX Runtime 1.24.9 ends the process on an integer division by zero"),
        ("1.99.0", "0", "ONNX Runtime 1.99.0 does not offer level 24 of its C API"),
        ("new", "0", "expected a version of ONNX Runtime, found 'new'"),
    ],
)
def test_libraries_that_are_refused(cpp, tiny, tmp_path, version, api, words):
    library = compile_library(tmp_path, version, api)
    (stage,) = tiny.manifest.stages
    kind, text = cpp.ask("open", session="x", **open_fields(tiny, stage, library=str(library)))
    assert kind == BACKEND
    assert text.startswith(f"stage 'net', variant ort-fp32-cpu: {library}")
    assert words in text
    assert words in cpp.do("library", library=str(tmp_path))["missing"]["ort"]


def test_libraries_that_are_none(cpp, tmp_path):
    missing = cpp.do("library", library=str(tmp_path))["missing"]["ort"]
    assert missing.startswith(f"no ONNX Runtime in {tmp_path}: expected a file libonnxruntime.so*")
    missing = cpp.do("library", library=str(tmp_path / "libonnxruntime.so"))["missing"]["ort"]
    assert "cannot be loaded from" in missing
    other = native.library().path
    missing = cpp.do("library", library=str(other))["missing"]["ort"]
    assert missing == f"{other} is not ONNX Runtime: it has no function OrtGetApiBase"


def test_beside_the_program_and_then_the_systems(program, tmp_path):
    """The path of the program is not known to it where it was called by its name alone."""
    copy = tmp_path / "ort_probe"
    shutil.copy(program, copy)
    alone = Probe(copy)
    answer = alone.do("library", library="")
    if answer["version"] == "":  # as on most machines: there is none of the system
        assert f"no libonnxruntime.so* in {tmp_path}" in answer["missing"]["ort"]
        assert "libonnxruntime.so.1" in answer["missing"]["ort"]
    (tmp_path / "libonnxruntime.so.1").symlink_to(LIBRARY)
    assert alone.do("library", library="")["version"] == onnxruntime.__version__
    alone.end()


def test_two_copies_in_one_process(cpp, tmp_path):
    """Each has its operators, and frees what is its own."""
    second = tmp_path / LIBRARY.name
    shutil.copy(LIBRARY, second)
    graph, inputs, outputs = attention_graph()
    bundle = OneGraph(tmp_path, graph, inputs, outputs, functions=1)
    feeds = attention_feeds()
    wanted = bundle.python(kernels=True).run(feeds)
    one, two = cpp.name(), cpp.name()
    for name, library in ((one, LIBRARY), (two, second)):
        cpp.do("open", session=name, **bundle.fields(library=str(library), kernels=True))
    for name in (one, two, one):
        assert_same(cpp.run(name, feeds, slot=name), wanted)
    # A tensor of one is read where it lies by the other.
    cpp.run(one, feeds, slot=one, take={"y": "of one"})
    got = cpp.run(two, feeds, slot=two, values={"q": "of one"})
    assert_same(got, bundle.python(kernels=True).run({**feeds, "q": wanted["y"]}))
    for name in (one, two):
        cpp.do("close", session=name)
    cpp.do("drop", name="of one")


def test_random_feeds_of_one_slot(cpp, tiny):
    """Sizes that change from run to run."""
    (stage,) = tiny.manifest.stages
    theirs = open_stage(tiny, stage, tiny.manifest.variants[0], options=SessionOptions())
    name = cpp.name()
    cpp.do("open", session=name, **open_fields(tiny, stage))
    for _ in range(40):
        batch = random.Random(cpp.count).choice([1, 2, 3, 4])
        cpp.count += 1
        feeds = {
            "image": RNG.integers(0, 256, (batch, 4, 4, 3), np.uint8),
            "text": RNG.integers(0, 9, (batch, 5)),
        }
        assert_same(cpp.run(name, feeds, slot=name), theirs.run(feeds))
    cpp.do("close", session=name)


def test_python_refuses_the_same(tiny):
    """The words above are those of Python."""
    (stage,) = tiny.manifest.stages
    wrong = Stage(
        stage.name, stage.graph,
        inputs=(TensorSpec("image", "int8", ("batch", 4, 4, 3)), stage.inputs[1]),
        outputs=stage.outputs,
    )  # fmt: skip
    with pytest.raises(
        BackendError, match=r"input 'image' is uint8 of rank 4 in the graph, the manifest declares"
    ):
        open_stage(tiny, wrong, tiny.manifest.variants[0], options=SessionOptions())
    assert GRAPH in tiny.manifest.files
