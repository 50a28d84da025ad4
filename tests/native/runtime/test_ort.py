"""Runs in ONNX Runtime from C++: numbers as from Python, and nothing that a run may not do."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import numpy as np
import onnx
import onnxruntime
import pytest
from loop_bundles import Captioner, Graph
from onnx import helper
from ort_kit import (
    BACKEND,
    INPUT,
    LIBRARY,
    RNG,
    ROOT,
    OneGraph,
    Probe,
    array,
    assert_same,
    attention_graph,
    open_fields,
    row,
    tensor,
    write_tiny,
)

from mmedge import native
from mmedge.backends import SessionOptions
from mmedge.backends.registry import open_stage
from mmedge.errors import BackendError
from mmedge.spec import DTYPES, TensorSpec

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


def endless(folder) -> OneGraph:
    """x + 1 as often as the input says; each time one operator."""
    inputs = (TensorSpec("count", "int64", ()), TensorSpec("x", "float32", ("n",)))
    outputs = (TensorSpec("y", "float32", ("n",)),)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Add", ["value", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", onnx.TensorProto.FLOAT, ["n"]),
        ],
        [
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", onnx.TensorProto.FLOAT, ["n"]),
        ],
        [helper.make_tensor("one", onnx.TensorProto.FLOAT, [], [1.0])],
    )
    g = Graph()
    g("Loop", "count", "", "x", name="y", body=body)
    return OneGraph(folder, g.bytes(inputs, outputs), inputs, outputs)


def test_a_run_that_takes_too_long_is_ended(cpp, tmp_path):
    bundle, name = endless(tmp_path), cpp.name()
    cpp.do("open", session=name, **bundle.fields(run_timeout_s=0.25))
    feeds = {"count": np.int64(3), "x": row(1, 2)}
    assert cpp.run(name, feeds, slot=name)["y"].tolist() == [4, 5]
    late = {"count": tensor(np.int64(10**12))}
    start = monotonic()
    kind, words = cpp.ask("run", session=name, slot=name, inputs=late)
    assert 0.2 < monotonic() - start < 10
    assert (kind, words) == (
        BACKEND,
        (
            "stage 'net', variant ort-fp32-cpu: the run took more than run_timeout_s = 0.25 and was"
            " ended; allow it more time, or do not trust the bundle"
        ),
    )
    with pytest.raises(BackendError, match=re.escape(words)):
        bundle.python(run_timeout_s=0.25).run({"count": np.array(10**12), "x": row(1, 2)})
    for _ in range(3):
        assert cpp.run(name, feeds, slot=name)["y"].tolist() == [4, 5]
    cpp.do("close", session=name)
    for seconds in (0, -1):
        assert cpp.ask("open", session="x", **bundle.fields(run_timeout_s=seconds))[0] == INPUT


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


@pytest.mark.parametrize("busy", [False, True])
def test_a_program_ends_with_sessions_open(program, adder, busy):
    """Without a call that frees them, even while another thread is in a run."""
    _, bundle = adder
    for _ in range(3):
        alone = Probe(program)
        alone.do("open", session="s", **bundle.fields())
        alone.run("s", {"x": row(1), "state": row(2)})
        alone.send("exit", busy=busy)
        alone.end()


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


def test_runs_neither_allocate_nor_lock_in_code_of_our_own(tmp_path, adder):
    """Without sanitizers, which have a malloc of their own."""
    _, bundle = adder
    runtime = ROOT / "cpp_ext/runtime"
    sources = [ROOT / "tests/native/runtime/ort_allocations.cpp", runtime / "tensor.cpp"]
    sources += [runtime / "spec.cpp", *(runtime / "backends").glob("*.cpp")]
    sources += (runtime / "backends/onnxruntime").glob("*.cpp")
    program = tmp_path / "ort_allocations"
    command = ["c++", "-std=c++17", "-O1", "-static-libstdc++", "-static-libgcc", f"-I{runtime}"]
    done = subprocess.run(
        [*command, *sources, "-o", program, "-ldl", "-lpthread"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    attention = tmp_path / "attention.onnx"
    attention.write_bytes(attention_graph()[0])
    arguments = (LIBRARY, bundle.file("net.onnx"), "2500", native.library().path, attention)
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    good, allocations, frees, locks, engine = map(int, done.stdout.split())
    assert good == 1
    # Two threads, each 2500 times four runs that succeed and one that fails.
    assert (allocations, frees, locks) == (0, 0, 0)
    assert engine > 0
