"""ONNX Runtime: where nodes run is read back, and failures name the stage and the variant."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

import mmedge
from mmedge.backends import SessionOptions
from mmedge.backends.onnxruntime import session as backend
from mmedge.backends.registry import open_stage, probe
from mmedge.bundle import Bundle
from mmedge.errors import BackendError
from mmedge.execution.verify import verify
from mmedge.spec import Stage, Tolerance, Variant


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


def test_an_array_on_the_gpu_is_bound_where_it_lies(opened):
    """The device is pretended; what is bound, and where, is what counts."""
    bound = {}

    class Binding:
        def bind_cpu_input(self, name, value):
            bound[name] = value

        def bind_input(self, **words):
            bound[words.pop("name")] = words

        def bind_output(self, name):
            bound[name] = "output"

        def copy_outputs_to_cpu(self):
            return [np.full((1, 1), 3, np.float32)]

    class Port:
        def __init__(self, spec, kind):
            self.name, self.type, self.shape = spec.name, kind, spec.shape

    class Session:
        def get_inputs(self):
            return [Port(stage.inputs[0], "tensor(uint8)")]

        def get_outputs(self):
            return [Port(stage.outputs[0], "tensor(float)")]

        def io_binding(self):
            return Binding()

        def run_with_iobinding(self, binding, options):
            assert isinstance(binding, Binding)

    class Far:
        __cuda_array_interface__ = {
            "shape": (1, 2, 2, 3),
            "typestr": "|u1",
            "data": (4096, False),
            "version": 3,
            "stream": None,
        }

    stage = stage_of(opened, "camera")
    session = backend.OrtSession(
        Session(), stage, Variant("ort", "fp32", "cuda", {}, Tolerance(0, 0))
    )
    assert session.run({"image": Far()})["seen"] == 3
    assert bound["image"]["buffer_ptr"] == 4096
    assert bound["image"]["element_type"] == np.uint8
    assert bound["image"]["shape"] == (1, 2, 2, 3)
    assert bound["seen"] == "output"


@pytest.mark.gpu
@pytest.mark.skipif(
    "cuda" not in probe().targets, reason=str(probe().missing.get("cuda", "CUDA is here"))
)
def test_cuda_runs_where_it_says_and_takes_arrays_of_the_gpu(sums, tmp_path):
    import torch

    path = shutil.copy(sums, tmp_path / "sums.mmedge")
    with Bundle.open(path) as bundle:
        cpu = bundle.manifest.variants[0]
        bundle.with_variant(replace(cpu, target="cuda"), {}).close()
    with mmedge.load(path, device="cuda") as pipe:
        assert verify(pipe).ok
        image = torch.ones((1, 2, 2, 3), dtype=torch.uint8, device="cuda")
        assert pipe(image=image)["seen"] == 12


def test_a_target_that_onnxruntime_does_not_serve_is_named(opened):
    variant = Variant("ort", "fp32", "sm_89", opened.manifest.variants[0].files, Tolerance(0, 0))
    with pytest.raises(BackendError, match="runs variants for cpu and cuda, not for sm_89"):
        open_stage(opened, stage_of(opened, "camera"), variant, options=SessionOptions())


def test_an_unknown_backend_is_named(opened):
    variant = Variant("nose", "fp32", "cpu", {}, Tolerance(0, 0))
    with pytest.raises(
        BackendError, match="'nose' is not known; this version has openvino, ort, tensorrt"
    ):
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


class Fixed:
    """ONNX Runtime's session, but for what is given."""

    def __init__(self, session, **given):
        self.__dict__.update(given, real=session)

    def __getattr__(self, name):
        if name == "_sess":
            raise AttributeError(name)
        return getattr(self.real, name)


class OtherBinding:
    def run(self, names, feeds):  # takes no options
        raise AssertionError


@pytest.mark.parametrize("given", [{}, {"_sess": OtherBinding()}], ids=["none", "another"])
def test_without_the_binding_that_is_known_the_public_method_runs(opened, given):
    """It is no public part of ONNX Runtime: another version may have none, or a different one."""
    stage, variant = stage_of(opened, "camera"), opened.manifest.variants[0]
    real = open_stage(opened, stage, variant, options=SessionOptions(threads=1))
    feeds = {"image": np.ones((1, 2, 2, 3), np.uint8)}
    session = backend.OrtSession(Fixed(real._session, **given), stage, variant)
    for _ in range(2):
        assert session.run(feeds)["seen"] == real.run(feeds)["seen"] == 12
        with pytest.raises(BackendError, match="stage 'camera', variant ort-fp32-cpu: ONNX Runt"):
            session.run({"image": feeds["image"].astype(np.float32)})
    session.close()
    with pytest.raises(BackendError, match="the session is closed"):
        session.run(feeds)


def test_a_variant_for_a_gpu_takes_arrays_of_the_host_too(opened):
    """The session is the CPU's: of arrays on a GPU the test marked gpu tells."""
    stage, variant = stage_of(opened, "camera"), opened.manifest.variants[0]
    real = open_stage(opened, stage, variant, options=SessionOptions(threads=1))
    session = backend.OrtSession(real._session, stage, replace(variant, target="cuda"))
    for _ in range(2):
        with pytest.raises(BackendError, match="variant ort-fp32-cuda: ONNX Runtime failed"):
            session.run({"image": None})
        assert session.run({"image": np.ones((1, 2, 2, 3), np.uint8)})["seen"] == 12


@pytest.mark.parametrize(
    ("flops", "alone", "asked", "threads"),
    [
        (7_000_000, False, 4, 1),
        (25_000_000, False, 4, 3),
        (25_000_000, False, 2, 2),
        (10**9, False, None, 0),
        (0, False, 4, 4),  # not counted
        (7_000_000, True, 4, 4),
        (7_000_000, True, None, 0),
    ],
)
def test_a_stage_with_little_work_gets_few_threads(flops, alone, asked, threads):
    stage = Stage("net", "onnx/net.onnx", (), (), flops=flops)
    settings = backend.session_options(stage, alone=alone, threads=asked)
    assert settings.intra_op_num_threads == threads


@pytest.mark.parametrize(
    ("alone", "asked", "spins"),
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
def test_idle_threads_spin_where_a_stage_is_alone_or_as_asked(alone, asked, spins):
    stage = Stage("net", "onnx/net.onnx", (), ())
    settings = backend.session_options(stage, alone=alone, spin=asked)
    if spins:
        with pytest.raises(RuntimeError, match="force_spinning_stop"):
            settings.get_session_config_entry("session.force_spinning_stop")
    else:
        assert settings.get_session_config_entry("session.force_spinning_stop") == "1"
