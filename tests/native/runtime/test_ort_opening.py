"""What ONNX Runtime in C++ is given when it opens a graph, and what it refuses, as Python does."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from loop_bundles import Graph
from onnx import helper
from ort_kit import (
    BACKEND,
    CAPI,
    INPUT,
    LIBRARY,
    RNG,
    OneGraph,
    Probe,
    assert_same,
    attention_graph,
    open_fields,
    tensor,
    write_tiny,
)
from tiny import GRAPH, external

import mmedge
from mmedge import native
from mmedge.backends import SessionOptions
from mmedge.backends.cores import stage_threads
from mmedge.backends.registry import open_stage
from mmedge.device import usable_cores
from mmedge.errors import BackendError
from mmedge.native import dispatch
from mmedge.spec import Stage, TensorSpec

pytestmark = pytest.mark.native_build


@pytest.fixture(scope="module")
def program(probe):
    return probe("ort_probe")


@pytest.fixture(scope="module")
def cpp(program) -> Iterator[Probe]:
    made = Probe(program)
    yield made
    made.end()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with write_tiny(tmp_path_factory.mktemp("tiny") / "b") as bundle:
        yield bundle


# Attention over segments.


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
