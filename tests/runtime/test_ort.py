"""ONNX Runtime: where nodes run is read back, and failures name the stage and the variant."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from mmedge.backends import SessionOptions, open_stage
from mmedge.backends import ort as backend
from mmedge.bundle import Bundle
from mmedge.errors import BackendError
from mmedge.spec import Tolerance, Variant


@pytest.fixture
def opened(sums):
    with Bundle.open(sums) as bundle:
        yield bundle


def stage_of(bundle, name):
    return next(stage for stage in bundle.manifest.stages if stage.name == name)


def test_every_node_is_read_back(opened):
    """A real session on the CPU, held against the promise of another provider."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(
        opened.file("onnx/fusion.onnx"), options, providers=["CPUExecutionProvider"]
    )
    backend._check_placement(session, "CPUExecutionProvider", "here")
    with pytest.raises(BackendError, match=r"(?s)here: expected every node on CUDA.* on CPUExec"):
        backend._check_placement(session, "CUDAExecutionProvider", "here")


def test_size_arithmetic_on_the_cpu_is_no_fallback():
    class Node:
        def __init__(self, op_type):
            self.name, self.op_type = op_type.lower(), op_type

    class Subgraph:
        def __init__(self, ep_name, *ops):
            self.ep_name, self.ops = ep_name, ops

        def get_nodes(self):
            return [Node(op) for op in self.ops]

    class Session:
        def __init__(self, *subgraphs):
            self.subgraphs = subgraphs

        def get_provider_graph_assignment_info(self):
            return self.subgraphs

    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    good = Session(Subgraph(cuda, "Conv", "MatMul"), Subgraph(cpu, "Shape", "Gather"))
    backend._check_placement(good, cuda, "here")
    with pytest.raises(BackendError, match=r"found softmax \(Softmax\) on CPUExecutionProvider"):
        backend._check_placement(Session(Subgraph(cpu, "Shape", "Softmax")), cuda, "here")
    with pytest.raises(BackendError, match="and 2 more"):
        backend._check_placement(Session(Subgraph(cpu, *["Conv"] * 7)), cuda, "here")
    with pytest.raises(BackendError, match="on OtherExecutionProvider"):
        backend._check_placement(Session(Subgraph("OtherExecutionProvider", "Shape")), cuda, "here")


def test_a_provider_that_is_not_in_the_wheel_is_refused(opened):
    variant = Variant("ort", "fp32", "cuda", opened.manifest.variants[0].files, Tolerance(0, 0))
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(BackendError, match="CUDAExecutionProvider is not in this ONNX Runtime"):
        open_stage(opened, stage_of(opened, "camera"), variant, options=SessionOptions())


def test_an_unknown_backend_is_named(opened):
    variant = Variant("nose", "fp32", "cpu", {}, Tolerance(0, 0))
    with pytest.raises(BackendError, match="'nose' is not known; this version has ort, tensorrt"):
        open_stage(opened, stage_of(opened, "camera"), variant, options=SessionOptions())


def test_a_failing_run_names_stage_and_variant(opened):
    stage = stage_of(opened, "camera")
    session = open_stage(
        opened, stage, opened.manifest.variants[0], options=SessionOptions(threads=1)
    )
    with pytest.raises(BackendError, match="stage 'camera', variant ort-fp32-cpu: ONNX Runtime"):
        session.run({})
    session.close()
    with pytest.raises(BackendError, match="the session is closed"):
        session.run({})
