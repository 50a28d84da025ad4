"""Where time goes: parts of a call, operators by module, copies, and a trace that viewers read."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import mmedge
from mmedge.backends.module_scopes import FUSED, NETWORK, SCOPES, innermost
from mmedge.backends.onnxruntime import profiler
from mmedge.backends.onnxruntime.session import OrtSession
from mmedge.backends.profile import Span
from mmedge.bench import operators
from mmedge.bench.copies import copies
from mmedge.bench.operators import profile
from mmedge.bench.report import trace
from mmedge.bundle import Bundle
from mmedge.errors import InputError
from mmedge.spec import Dimension, Manifest, Modality, Sample, Stage, TensorSpec, Tolerance, Variant

CHANNELS, WIDTH = 32, 384
X = TensorSpec("x", "float32", ("batch", CHANNELS, 8, 8))
Y = TensorSpec("y", "float32", ("batch", 1, 8))


def node(op, inputs, outputs, scopes=(), **attributes):
    made = helper.make_node(op, inputs, outputs, f"node_{outputs[0]}", **attributes)
    if scopes:
        entry = made.metadata_props.add()
        entry.key, entry.value = SCOPES, repr([*scopes, op.lower()])
    return made


def branch(op):
    value = helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, Y.shape)
    inner = node(op, ["score"], [f"{op}_out"], ["", "net", "net.gate"])
    return helper.make_graph([inner], op, [], [value])


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """One stage whose nodes ONNX Runtime fuses and lays out anew, with an If at its end."""
    rng = np.random.default_rng(3)

    def weight(name, *shape):
        return onnx.numpy_helper.from_array(rng.normal(0, 0.02, shape).astype(np.float32), name)

    nodes = [
        # As export leaves a batch norm that it folded into a convolution.
        node("Conv", ["x", "net.enc.conv.weight"], ["conv"], ["", "net", "net.enc", "net.enc.norm"],
             pads=[1, 1, 1, 1]),
        node("Relu", ["conv"], ["relu"], ["", "net", "net.enc"]),
        node("Reshape", ["relu", "row"], ["flat"], [""]),
        node("MatMul", ["flat", "w1"], ["mm1"], ["", "net", "net.head", "net.head.fc"]),
        node("Add", ["mm1", "b1"], ["add1"], ["", "net", "net.head", "net.head.fc"]),
        node("Gelu", ["add1"], ["gelu"], ["", "net", "net.head", "net.head.act"]),
        # Of no module: counts for the one that uses it.
        node("Neg", ["gelu"], ["neg"]),
        node("MatMul", ["neg", "w2"], ["score"], ["", "net", "net.head", "net.head.out"]),
        node("ReduceSum", ["score"], ["total"], ["", "net", "net.gate"], keepdims=0),
        node("Greater", ["total", "zero"], ["positive"], ["", "net", "net.gate"]),
        node("If", ["positive"], ["y"], ["", "net", "net.gate"],
             then_branch=branch("Sin"), else_branch=branch("Cos")),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, Y.shape)],
        [
            weight("net.enc.conv.weight", CHANNELS, CHANNELS, 3, 3),
            helper.make_tensor("row", TensorProto.INT64, [3], [-1, 1, CHANNELS * 64]),
            weight("w1", CHANNELS * 64, WIDTH),
            weight("b1", WIDTH),
            weight("w2", WIDTH, 8),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    x = rng.normal(size=(1, CHANNELS, 8, 8)).astype(np.float32)
    content = model.SerializeToString()
    (y,) = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    manifest = Manifest(
        name="net",
        modalities=(Modality("x", ("x",)),),
        stages=(Stage("net", "onnx/net.onnx", (X,), (Y,)),),
        outputs=("y",),
        variants=(Variant("ort", "fp32", "cpu", {"net": "onnx/net.onnx"}, Tolerance(1e-4, 1e-4)),),
        files={},
        dimensions={"batch": Dimension(1, 1, 64)},
    )
    path = tmp_path_factory.mktemp("net") / "net.mmedge"
    Bundle.write(path, manifest, {"onnx/net.onnx": content}, samples=[Sample({"x": x}, {"y": y})])
    return path


@pytest.fixture(scope="module")
def found(net):
    with mmedge.load(net, threads=1) as pipe:
        variant, inputs = pipe.variant, pipe.bundle.samples()[0].inputs
    return profile(net, variant, inputs, threads=1, calls=10)


# --- parts of a call


@pytest.mark.serial
@pytest.mark.parametrize(
    ("slow", "stage"), [("seen", "camera"), ("level", "mic"), ("heard", "ear"), ("out", "fusion")]
)
def test_a_sleep_in_a_stage_shows_in_that_stage_alone(pair, monkeypatch, slow, stage):
    with mmedge.load(pair, threads=1) as pipe:
        inputs = pipe.bundle.samples()[0].inputs
        pipe.timed(inputs, cached=False)
        run = OrtSession.run

        def wrapped(self, feeds):
            if self.outputs[0].name == slow:
                time.sleep(0.01)
            return run(self, feeds)

        monkeypatch.setattr(OrtSession, "run", wrapped)
        least = {}
        for _ in range(10):
            start = time.perf_counter_ns()
            _, parts = pipe.timed(inputs, cached=False)
            parts["residual"] = time.perf_counter_ns() - start - sum(parts.values())
            least = {name: min(took, least.get(name, took)) for name, took in parts.items()}
    assert least.pop(stage) >= 10_000_000
    assert set(least) > {"inputs", "outputs", "residual"}
    assert max(least.values()) < 2_000_000


@pytest.mark.serial
def test_parts_leave_less_than_two_percent_unexplained(net):
    with mmedge.load(net, threads=1) as pipe:
        big = {"x": np.repeat(pipe.bundle.samples()[0].inputs["x"], 48, axis=0)}
        shares = []
        for _ in range(200):
            start = time.perf_counter_ns()
            _, parts = pipe.timed(big, cached=False)
            whole = time.perf_counter_ns() - start
            shares.append(1 - sum(parts.values()) / whole)
    assert min(shares) > 0
    assert np.median(shares) < 0.02


def test_tensors_between_stages_are_freed_in_a_call_and_outputs_are_not(pair):
    with mmedge.load(pair, threads=1) as pipe:
        inputs = pipe.bundle.samples()[0].inputs
        first = pipe.run(inputs)
        kept = {name: value.copy() for name, value in first.items()}
        pipe.timed(inputs, cached=True)
        pipe.timed(pipe.bundle.samples()[1].inputs, cached=False)
        for name, value in first.items():
            np.testing.assert_array_equal(value, kept[name])


# --- operators


def test_shares_and_times_add_up(found):
    assert found.rows
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    total = sum(row.ms for row in found.rows)
    assert total == pytest.approx(found.stages["net"]["profiled_ms"])
    assert found.stages["net"]["stage_ms"] > 0
    assert [row.ms for row in found.rows] == sorted((r.ms for r in found.rows), reverse=True)


def test_operators_stand_under_their_modules(found):
    modules = {(row.op, row.module): row.calls for row in found.rows}
    assert all(row.module != FUSED for row in found.rows)
    # The root "net" that all modules share is gone.
    assert modules["Conv", "enc.conv"] == 1
    assert modules["Neg", "head.out"] == 1
    assert modules["Greater", "gate"] == 1
    by_module = {row.module for row in found.rows}
    assert by_module <= {NETWORK, "enc", "enc.conv", "head.fc", "head.act", "head.out", "gate"}
    # Add and Gelu are one node with the name of neither.
    assert modules["BiasGelu", "head.act"] == 1
    # One branch of the If ran, and its time is not the If's as well.
    assert ("Sin", "gate") in modules or ("Cos", "gate") in modules


def test_spans_are_nodes_of_one_run(found):
    spans = found.spans["net"]
    assert len(spans) == sum(row.calls for row in found.rows)
    starts = [span.start_us for span in spans]
    assert starts == sorted(starts)
    assert min(starts) >= 0


def test_every_stage_is_profiled_and_nothing_is_left_behind(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with mmedge.load(pair, threads=1) as pipe:
        variant, inputs = pipe.variant, pipe.bundle.samples()[0].inputs
    result = profile(pair, variant, inputs, threads=1, calls=3)
    assert set(result.stages) == {"camera", "mic", "ear", "fusion"} == set(result.spans)
    for stage in result.stages:
        rows = [row for row in result.rows if row.stage == stage]
        assert sum(row.share for row in rows) in (0, pytest.approx(1))
    assert "whole microseconds" in result.unseen
    assert not list(tmp_path.iterdir())


def test_a_graph_without_names_modules_or_weights_of_its_own(tiny_bundle, tiny):
    with mmedge.load(tiny_bundle, threads=1) as pipe:
        result = profile(tiny_bundle, pipe.variant, tiny.samples[1].inputs, threads=1, calls=3)
    assert {row.module for row in result.rows} == {NETWORK}
    assert {"Cast", "MatMul"} < {row.op for row in result.rows}


def test_what_cannot_be_profiled_says_so(net):
    for backend, target in (("other", "cpu"), ("ort", "cuda")):
        variant = Variant(backend, "fp16", target, {}, Tolerance(1, 1))
        result = profile(net, variant, {}, threads=1)
        assert (result.rows, result.stages) == ((), {})
        assert result.unseen.startswith("no profile by operator")
    with pytest.raises(ValueError, match="calls must be >= 1, got 0"):
        profile(net, variant, {}, calls=0)


def test_inputs_are_checked(net):
    with mmedge.load(net, threads=1) as pipe:
        variant = pipe.variant
    with pytest.raises(InputError, match="'x'"):
        profile(net, variant, {}, threads=1)


sizes = st.integers(0, 40)


@settings(max_examples=50)
@given(st.lists(st.lists(st.tuples(sizes, sizes, st.lists(sizes, max_size=4))), min_size=1))
def test_time_is_counted_once_whatever_is_nested(runs):
    """Each run has nodes (gap, own time, times of a subgraph's nodes)."""
    events, at, expected = [], 0, []
    for run in runs:
        begun, total = at, 0
        for number, (gap, own, inner) in enumerate(run):
            at += gap
            took = own + sum(inner)
            events.append(_event(f"n{number}", "If" if inner else "Relu", at, took))
            inside = at
            for index, time_ in enumerate(inner):
                events.append(_event(f"n{number}_{index}", "Sin", inside, time_))
                inside += time_
            at += took
            total += took
        events.append({"cat": "Session", "name": "model_run", "ts": begun, "dur": at - begun})
        expected.append(total)
        at += 1
    spans = [profiler._spans(run, {}, FUSED) for run in profiler._by_run(events)]
    assert [sum(span.us for span in run) for run in spans] == expected


def _event(name, op, ts, dur):
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur,
            "args": {"op_name": op}}  # fmt: skip


@pytest.mark.parametrize(
    ("modules", "root"),
    [
        ({"net.a", "net.b.c"}, "net."),
        ({"net.a", "net.b.c", NETWORK, FUSED}, "net."),
        ({"net", "net.b"}, ""),
        ({"net.a.b"}, "net.a."),
        ({"left.a", "right.a"}, ""),
        ({NETWORK}, ""),
    ],
)
def test_the_root_that_all_modules_share(modules, root):
    assert operators._common_root(modules) == root


@given(st.text())
def test_a_scope_that_is_none_is_passed_over(text):
    module = innermost(text)
    assert module is None or isinstance(module, str)


# --- copies


@pytest.mark.serial
def test_ort_reads_inputs_and_yields_outputs_where_they_lie():
    # What copies() says of ONNX Runtime. A copy of 128 MiB takes thousands of times longer.
    def session(op, kind):
        graph = helper.make_graph(
            [helper.make_node(op, ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
            [helper.make_tensor_value_info("y", kind, [None])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    x = np.ones(32 << 20, np.float32)

    def best(work):
        took = []
        for _ in range(5):
            start = time.perf_counter()
            work()
            took.append(time.perf_counter() - start)
        return min(took)

    shape = session("Shape", TensorProto.INT64)
    assert best(lambda: shape.run(None, {"x": x})) < best(x.copy) / 10
    (y,) = session("Relu", TensorProto.FLOAT).run(None, {"x": x[:10]})
    assert not y.flags.owndata
    assert not isinstance(y.base, np.ndarray)


def test_stages_pass_tensors_by_reference_and_shared_outputs_are_copied(pair, monkeypatch):
    seen, run = {}, OrtSession.run

    def watch(self, feeds):
        outputs = run(self, feeds)
        for name, value in {**feeds, **outputs}.items():
            # The very same memory on both sides of a stage boundary.
            assert np.shares_memory(seen.setdefault(name, value), value)
        return outputs

    with mmedge.load(pair, threads=1) as pipe:
        inputs = pipe.bundle.samples()[0].inputs
        monkeypatch.setattr(OrtSession, "run", watch)
        rows = {row["what"]: row for row in copies(pipe, inputs)}
        assert set(inputs) < set(seen)
        assert rows["input image"]["bytes"] == 0
        assert rows["tensors of other stages into fusion (2)"]["bytes"] == 0
        assert "8 bytes by reference" in rows["tensors of other stages into fusion (2)"]["why"]
        assert rows["outputs of camera (1)"]["bytes"] == 0
        assert rows["outputs seen"]["bytes"] == 4
        assert sum(row["bytes"] for row in rows.values()) == 4
        assert all(info.entries == 0 for info in pipe.cache_info().values())
    with mmedge.load(pair, threads=1, cache_bytes=0) as pipe:
        monkeypatch.setattr(OrtSession, "run", run)
        assert sum(row["bytes"] for row in copies(pipe, inputs)) == 0


def test_inputs_that_must_be_made_are_counted(sums):
    with mmedge.load(sums, threads=1) as pipe:
        strided = np.ones((1, 2, 2, 6), np.uint8)[..., ::2]
        rows = {row["what"]: row for row in copies(pipe, {"image": strided, "text": "red ball"})}
        assert rows["input image"]["bytes"] == 12
        assert "not C-contiguous" in rows["input image"]["why"]
        assert rows["input ids"]["bytes"] == 48
        assert rows["input mask"]["bytes"] == 6
        plain = {row["what"]: row for row in copies(pipe, {"image": strided.copy()})}
        assert plain["input ids"]["bytes"] == 0
        assert "a stand-in of 48 bytes" in plain["input ids"]["why"]


def test_a_gpu_takes_and_gives_what_lies_on_the_host(pair):
    with mmedge.load(pair, threads=1) as pipe:
        inputs = pipe.bundle.samples()[0].inputs
        on_gpu = SimpleNamespace(
            bundle=pipe.bundle,
            variant=Variant("tensorrt", "fp16", "sm_87", {}, Tolerance(1, 1)),
            plan=pipe.plan,
            run_stage=pipe.run_stage,
            cache_info=dict,
        )
        rows = {row["what"]: row for row in copies(on_gpu, inputs)}
    assert rows["inputs into camera (1)"]["bytes"] == inputs["image"].nbytes
    assert rows["tensors of other stages into fusion (2)"]["bytes"] == 8
    assert rows["outputs of fusion (1)"]["bytes"] == 4
    assert rows["outputs of fusion (1)"]["why"] == "device to host"


# --- trace


def validate(path):
    """Check every event against the Trace Event Format; the events."""
    data = json.loads(path.read_text())
    assert set(data) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert data["displayTimeUnit"] in {"ms", "ns"}
    on_thread = {}
    named = set()
    for event in data["traceEvents"]:
        assert isinstance(event["name"], str)
        assert event["name"]
        assert all(type(event[key]) is int for key in ("pid", "tid"))
        assert isinstance(event["ts"], (int, float))
        assert event["ts"] >= 0
        if event["ph"] == "M":
            assert event["name"] in {"process_name", "thread_name"}
            assert isinstance(event["args"]["name"], str)
            named.add((event["name"], event["pid"], event["tid"]))
        elif event["ph"] == "C":
            assert all(isinstance(value, (int, float)) for value in event["args"].values())
            assert event["args"]
            assert ("process_name", event["pid"], 0) in named
        else:
            assert event["ph"] == "X"
            assert isinstance(event["dur"], (int, float))
            assert event["dur"] >= 0
            assert isinstance(event["cat"], str)
            assert isinstance(event["args"], dict)
            assert ("process_name", event["pid"], 0) in named
            assert ("thread_name", event["pid"], event["tid"]) in named
            on_thread.setdefault((event["pid"], event["tid"]), []).append(event)
    for events in on_thread.values():
        open_until = []
        # In nanoseconds, as viewers keep them; of equal starts the longer one is the outer one.
        spans = [(round(e["ts"] * 1e3), round((e["ts"] + e["dur"]) * 1e3)) for e in events]
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)
    return data["traceEvents"]


def test_a_real_measurement_as_a_trace(net, found, tmp_path):
    calls = []
    with mmedge.load(net, threads=1) as pipe:
        inputs = pipe.bundle.samples()[0].inputs
        for _ in range(5):
            start = time.perf_counter_ns()
            _, parts = pipe.timed(inputs, cached=False)
            calls.append((start, time.perf_counter_ns(), parts))
    path = tmp_path / "trace.json"
    trace.write(
        path,
        calls,
        name="net ort-fp32-cpu",
        operators=found.spans,
        counters={"frequency MHz": [(calls[0][0], 2400.0), (calls[-1][1], None)]},
        about={"cpu": "x"},
    )
    events = validate(path)
    kinds = [event.get("cat") for event in events]
    assert kinds.count("call") == 5
    assert kinds.count("part") == 15
    drawn = [event for event in events if event.get("cat") == "operator"]
    assert len(drawn) == len(found.spans["net"])
    # All of them lie under the stage of one call.
    (stage,) = {
        event["args"]["call"]
        for event in events
        if event["name"] == "net" and event["ts"] <= drawn[0]["ts"] < event["ts"] + event["dur"]
    }
    part = next(e for e in events if e["name"] == "net" and e["args"]["call"] == stage)
    assert part["ts"] <= min(e["ts"] for e in drawn)
    assert max(e["ts"] + e["dur"] for e in drawn) <= part["ts"] + part["dur"] + 1e-3
    assert all("shifted" in event["args"]["drawn"] for event in drawn)
    assert [e["args"] for e in events if e["ph"] == "C"] == [{"value": 2400.0}]
    assert json.loads(path.read_text())["otherData"] == {"cpu": "x"}


moments = st.integers(0, 10**10)
lengths = st.integers(0, 10**7)
call = st.tuples(moments, st.lists(lengths, min_size=2, max_size=2), lengths)
numbers = st.floats(0, 1e4)
span_lists = st.lists(
    st.builds(Span, st.text(), st.just("Conv"), st.just("a.b"), numbers, numbers),
    max_size=8,
)  # fmt: skip


@given(
    st.lists(call, min_size=1, max_size=12),
    span_lists,
    st.lists(st.tuples(moments, st.none() | st.floats(0, 1e9))),
)
def test_any_calls_make_a_valid_trace(tmp_path_factory, calls, spans, samples):
    path = tmp_path_factory.getbasetemp() / "any.json"
    plain = [
        (start, start + sum(parts) + rest, {"inputs": parts[0], "net": parts[1]})
        for start, parts, rest in sorted(calls)
    ]
    spans = sorted(spans, key=lambda span: span.start_us)
    trace.write(path, plain, name="n", operators={"net": spans}, counters={"c": samples})
    events = validate(path)
    assert sum(event.get("cat") == "call" for event in events) == len(calls)
    parts = [event for event in events if event.get("cat") == "part"]
    total = sum(sum(own.values()) for _, _, own in plain)
    assert sum(event["dur"] for event in parts) == pytest.approx(total / 1e3)


@pytest.mark.parametrize("calls", [[], [(5, 9, {"a": 5})], [(5, 9, {}), (4, 9, {})], [(9, 5, {})]])
def test_what_is_no_measurement_is_refused(calls, tmp_path):
    with pytest.raises(ValueError, match="no calls to draw|expected starts in order"):
        trace.write(tmp_path / "t.json", calls, name="n")
    assert not (tmp_path / "t.json").exists()
