"""The TensorRT adapter: on a GPU made of bytes, with the real library where it needs no GPU, and
on a real GPU where there is one."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from engine_net import write_trio
from fake_gpu import FakeEngine, FakeMemory, OnGpu, fake_log

import mmedge
from mmedge.backends import SessionOptions
from mmedge.backends.module_scopes import FUSED, NETWORK, ScopedNode
from mmedge.backends.profile import ProfileRequest
from mmedge.backends.registry import open_stage
from mmedge.backends.tensorrt import profiler, session
from mmedge.backends.tensorrt.memory import CudaMemory
from mmedge.backends.tensorrt.profiler import spans
from mmedge.bench.operators import profile
from mmedge.device import Gpu, find_gpus
from mmedge.errors import BackendError, NoVariantError
from mmedge.execution.verify import verify
from mmedge.spec import Stage, TensorSpec, Tolerance, Variant

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'mmedge[rtx]'")

IN, OUT = trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT
DEVICE, HOST = trt.TensorLocation.DEVICE, trt.TensorLocation.HOST

STAGE = Stage(
    "fusion",
    "onnx/fusion.onnx",
    inputs=(
        TensorSpec("x", "float32", ("batch", 3)),
        TensorSpec("ids", "int64", ("batch",)),
        TensorSpec("gain", "float16", (1,)),
    ),
    outputs=(TensorSpec("y", "float32", ("batch", 3)),),
)
VARIANT = Variant(
    "tensorrt_rtx", "fp32", "sm_89", {"fusion": "engines/e/fusion.engine"}, Tolerance(1e-3, 1e-5)
)
TENSORS = {
    "ids": (IN, trt.DataType.INT64, (-1,), DEVICE),
    "x": (IN, trt.DataType.FLOAT, (-1, 3), DEVICE),
    "gain": (IN, trt.DataType.HALF, (1,), DEVICE),
    "y": (OUT, trt.DataType.FLOAT, (-1, 3), DEVICE),
}
DTYPES = {"x": np.float32, "ids": np.int64, "gain": np.float16}


def compute(values):
    """y = x * gain + ids."""
    y = values["x"] * values["gain"].astype(np.float32) + values["ids"][:, None]
    return {"y": y.astype(np.float32)}


class Rig:
    """A session over fakes."""

    def __init__(self, *, tensors=None, stage=STAGE, shapes=None) -> None:
        self.memory, self.log = FakeMemory(), fake_log()
        self.engine = FakeEngine(
            self.memory,
            TENSORS | (tensors or {}),
            {"x": ((1, 3), (4, 3)), "ids": ((1,), (4,))},
            shapes or (lambda given: {"y": given["x"]}),
            compute,
            DTYPES,
        )
        self.stage = stage

    def open(self):
        return session.TensorRTSession(
            trt,
            self.engine,
            self.stage,
            VARIANT,
            runtime=object(),
            memory=self.memory,
            log=self.log,
        )


def feeds(batch: int, start: float = 0.0):
    return {
        "x": (np.arange(batch * 3, dtype=np.float32) + np.float32(start)).reshape(batch, 3),
        "ids": np.arange(batch) * 10,
        "gain": np.full(1, 2, np.float16),
    }


def test_a_run_gives_what_the_engine_computes_at_each_size():
    rig = Rig()
    session = rig.open()
    assert (session.inputs, session.outputs) == (STAGE.inputs, STAGE.outputs)
    for batch in (1, 4, 2):
        given = feeds(batch, start=batch)
        got = session.run(given)
        assert list(got) == ["y"]
        assert got["y"].dtype == np.float32
        assert np.array_equal(got["y"], compute(given)["y"])


def test_buffers_grow_and_are_used_again():
    rig = Rig()
    session = rig.open()
    session.run(feeds(2))
    assert rig.memory.count("allocate") == 4
    session.run(feeds(1))
    session.run(feeds(2))
    assert rig.memory.count("allocate") == 4
    session.run(feeds(4))
    assert rig.memory.count("allocate") == 7  # gain has one size
    assert len(rig.memory.blocks) == 4


def test_results_of_one_run_are_not_overwritten_by_the_next():
    session = Rig().open()
    first = session.run(feeds(1))["y"]
    kept = first.copy()
    session.run(feeds(1, start=100))
    assert np.array_equal(first, kept)


def test_arrays_on_the_gpu_are_used_where_they_lie():
    rig = Rig()
    session = rig.open()
    given = feeds(2)
    on_gpu = {
        "x": OnGpu(rig.memory, given["x"], stream=77),
        "ids": OnGpu(rig.memory, given["ids"]),
        "gain": given["gain"],
    }
    rig.memory.log.clear()
    got = session.run(on_gpu)
    assert np.array_equal(got["y"], compute(given)["y"])
    assert [entry for entry in rig.memory.log if entry[0] == "to_device"] == [("to_device", 2)]
    assert rig.engine.addresses["x"] == on_gpu["x"].pointer
    # The stream that made it is waited for before the engine's own work is queued.
    assert rig.memory.log.index(("wait", 77)) < rig.memory.log.index(("to_host", 24))
    # The host's array afterwards: the buffer of the GPU array was not taken over.
    assert np.array_equal(session.run(given)["y"], compute(given)["y"])
    assert rig.engine.addresses["x"] != on_gpu["x"].pointer


@pytest.mark.parametrize("batch", [0, 5])
def test_sizes_outside_the_profile_are_refused_by_name(batch):
    rig = Rig()
    session = rig.open()
    with pytest.raises(BackendError) as caught:
        session.run(feeds(batch))
    assert f"input 'x' has size {batch} on axis 0, the engine was built for 1 to 4" in str(
        caught.value
    )
    assert "--profile" in str(caught.value)
    assert session.run(feeds(4))["y"].shape == (4, 3)


def test_what_the_library_says_is_in_the_error():
    rig = Rig()
    session = rig.open()

    def refuse(name, shape):
        rig.log.errors.append("Error Code 3: no such shape")
        return False

    rig.engine.set_input_shape = refuse
    with pytest.raises(BackendError, match="stage 'fusion', variant .*refused shape.*Error Code 3"):
        session.run(feeds(1))
    rig.engine.set_input_shape = lambda name, shape: rig.engine.set.update({name: shape}) or True
    rig.engine.works = False
    # What was said of an earlier run is not said again.
    with pytest.raises(BackendError, match="the engine failed: the library gave no reason"):
        session.run(feeds(1))


def test_outputs_whose_size_depends_on_values_are_refused():
    rig = Rig(shapes=lambda given: {"y": (-1, 3)})
    with pytest.raises(BackendError, match="size of output 'y' depends on values.*backend ort"):
        rig.open().run(feeds(1))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"more": (IN, trt.DataType.FLOAT, (1,), DEVICE)}, "engine has tensors .*'more'"),
        ({"y": (IN, trt.DataType.FLOAT, (-1, 3), DEVICE)}, "'y' is an input of the engine"),
        ({"x": (IN, trt.DataType.HALF, (-1, 3), DEVICE)}, "'x' is float16.*declares x: float32"),
        ({"x": (IN, trt.DataType.BF16, (-1, 3), DEVICE)}, "'x' is BF16"),
        ({"x": (IN, trt.DataType.FLOAT, (-1, 3, 1), DEVICE)}, r"'x' is float32 \(-1, 3, 1\)"),
        ({"x": (IN, trt.DataType.FLOAT, (-1, 4), DEVICE)}, r"'x' is float32 \(-1, 4\)"),
        ({"ids": (IN, trt.DataType.INT64, (-1,), HOST)}, "'ids' must lie in host memory"),
    ],
)
def test_an_engine_that_is_not_the_stage_is_refused_and_freed(tensors, words):
    rig = Rig(tensors=tensors)
    with pytest.raises(BackendError, match=words):
        rig.open()
    assert rig.memory.closed == 1


def test_an_engine_that_does_not_fit_into_memory_is_refused():
    rig = Rig()
    rig.engine.context = None
    rig.log.errors.append("out of memory")
    with pytest.raises(BackendError, match="no memory for the engine.*out of memory"):
        rig.open()
    assert rig.memory.closed == 1


def test_closing_frees_everything_once():
    rig = Rig()
    session = rig.open()
    session.run(feeds(3))
    session.close()
    session.close()
    assert rig.memory.blocks == {}
    assert rig.memory.closed == 1
    with pytest.raises(BackendError, match="the session is closed"):
        session.run(feeds(1))


def test_threads_take_turns():
    rig = Rig()
    session = rig.open()
    run_queue = rig.memory.wait
    rig.memory.wait = lambda stream=None: (time.sleep(1e-4), run_queue(stream))
    wrong: list[int] = []
    done: list[int] = []

    def work(number: int) -> None:
        for step in range(25):
            given = feeds(1 + (number + step) % 4, start=number * 1000 + step)
            if not np.array_equal(session.run(given)["y"], compute(given)["y"]):
                wrong.append(number)
        done.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sorted(done) == [0, 1, 2, 3]  # an exception in a thread would go unseen


# Layers


LAYERS = [
    ("Reformatting CopyNode for Input Tensor 0 to conv", 0.25),
    ("conv + PWN(relu)", 2.0),
    ("PWN(relu)", 0.5),
    ("{ForeignNode[norm...project]}", 1.0),
    ("{ForeignNode[conv...norm]}", 0.0),
    ("{ForeignNode[gone...norm]}", 0.0),
    ("__myl_MulAddResMul_myl0_4", 0.125),
    ("conv_of_another", 0.0),
]
NODES = [
    ScopedNode("conv", "Conv", ("x",), ("c",), "seen.conv"),
    ScopedNode("relu", "Relu", ("c",), ("r",), "seen.act"),
    ScopedNode("norm", "LayerNormalization", ("r",), ("n",), "seen.norm"),
    ScopedNode("project", "MatMul", ("n",), ("p",), "head.fc"),
    ScopedNode("bias", "Add", ("p",), ("y",), None),
]


def test_a_recording_session_tells_each_runs_layers():
    rig = Rig()
    rig.engine.layers = LAYERS
    session = rig.open()
    session.run(feeds(1))
    seen = session.record_layers()
    assert seen == []
    for runs in (1, 2):
        given = feeds(2)
        assert np.array_equal(session.run(given)["y"], compute(given)["y"])
        assert seen == LAYERS * runs
    session.close()
    with pytest.raises(BackendError, match="the session is closed"):
        session.record_layers()


def test_a_library_that_refuses_a_profiler_is_told(monkeypatch):
    class Refuses(FakeEngine):
        @property
        def profiler(self):
            return None

        @profiler.setter
        def profiler(self, value):
            if value is not None:
                raise TypeError("incompatible function arguments")

    monkeypatch.setattr(sys.modules[__name__], "FakeEngine", Refuses)
    with pytest.raises(BackendError, match="no profile by layer: incompatible"):
        Rig().open().record_layers()


def test_layers_belong_to_the_nodes_in_their_names():
    found = spans(LAYERS, NODES)
    assert [(span.name, span.us) for span in found] == [(name, ms * 1e3) for name, ms in LAYERS]
    assert [(span.op, span.module) for span in found] == [
        ("Reformat", "seen.conv"),
        ("Conv", "seen.conv"),
        ("Relu", "seen.act"),
        # All between the ends may be in it.
        ("ForeignNode", FUSED),
        ("ForeignNode", "seen"),
        ("ForeignNode", FUSED),
        ("MulAddResMul", FUSED),
        ("layer", FUSED),
    ]
    assert [span.start_us for span in found] == [0, 250, 2250, 2750, 3750, 3750, 3750, 3875]


def test_a_graph_without_modules_has_none_in_its_layers():
    plain = [replace(node, module=None) for node in NODES]
    assert {span.module for span in spans(LAYERS, plain)} == {NETWORK}
    assert spans(LAYERS, plain)[1].op == "Conv"


def test_an_engines_stages_are_profiled_by_layer(engines, monkeypatch):
    """Of the real bundle, its engines replaced by ones on the GPU made of bytes."""

    def fake(bundle, stage, variant, *, options):
        rig = Rig()
        rig.engine.layers = [("[conv]", 2.0), ("relu", 1.0)]
        opened.append(rig)
        return rig.open()

    opened: list[Rig] = []
    monkeypatch.setattr(profiler, "open_stage", fake)
    stage = engines.manifest.stages[0]
    runs = profiler.profile_stage(
        ProfileRequest(
            bundle=engines, variant=engines.manifest.variants[1], stage=stage, feeds=feeds(1),
            threads=None, untimed=2, calls=3,
        )
    )  # fmt: skip
    assert [[(span.op, span.us) for span in run] for run in runs] == [
        [("Conv", 2000.0), ("Relu", 1000.0)]
    ] * 3
    assert opened[0].memory.closed == 1


# Opening, with the real library


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Real engines for sm_89."""
    from mmedge_export.targets.tensorrt.engine import build

    bundle = write_trio(tmp_path_factory.mktemp("engines") / "trio")
    with build(bundle, target="sm_89") as built:
        yield built


def opened(engines, **changes):
    variant = replace(engines.manifest.variants[1], **changes)
    return open_stage(engines, engines.manifest.stages[0], variant, options=SessionOptions())


def test_no_gpu_is_said_before_the_library_is_touched(engines, monkeypatch):
    def never(backend):
        pytest.fail("some runtimes end the process on a machine without a GPU")

    monkeypatch.setattr(session, "find_gpus", lambda: ())
    monkeypatch.setattr(session, "load_library", never)
    with pytest.raises(BackendError, match="stage 'camera'.*needs an NVIDIA GPU.*backend='ort'"):
        opened(engines)


def test_another_gpu_is_named(engines, monkeypatch):
    monkeypatch.setattr(session, "find_gpus", lambda: (Gpu("Orin", "sm_87"),))
    with pytest.raises(
        BackendError, match=r"built for sm_89, this machine has Orin \(sm_87\).*rtx"
    ):
        opened(engines)


def test_a_missing_library_gives_the_install_line(engines, monkeypatch):
    monkeypatch.setattr(session, "find_gpus", lambda: (Gpu("RTX", "sm_89"),))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendError, match=r"tensorrt-rtx cannot be.*pip install 'mmedge\[rtx\]'"):
        opened(engines)


def test_missing_cuda_bindings_give_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r"pip install 'cuda-bindings"):
        CudaMemory()


@pytest.mark.skipif(bool(find_gpus()), reason="this machine has a GPU")
def test_cuda_without_a_gpu_says_which_call_failed():
    pytest.importorskip("cuda.bindings", reason="pip install cuda-bindings")
    with pytest.raises(BackendError, match=r"CUDA: cudaSetDevice failed: .*\(cudaError"):
        CudaMemory()


@pytest.mark.skipif(bool(find_gpus()), reason="this machine has a GPU")
def test_the_real_librarys_refusal_is_passed_on_and_the_stream_closed(engines, monkeypatch):
    """On a machine without a GPU the library itself refuses: it says so, and nothing leaks."""
    memory = FakeMemory()
    monkeypatch.setattr(session, "find_gpus", lambda: (Gpu("RTX", "sm_89"),))
    monkeypatch.setattr(session, "CudaMemory", lambda device: memory)
    with pytest.raises(BackendError) as caught:
        opened(engines)
    message = str(caught.value)
    assert f"tensorrt-rtx {trt.__version__} refused the engine: " in message
    assert "driver" in message
    assert "validity INVALID" in message
    assert "mmedge build" in message
    assert memory.closed == 1


@pytest.mark.skipif(bool(find_gpus()), reason="this machine has a GPU")
def test_loading_a_bundle_for_an_engine_without_a_gpu_says_why(engines):
    with pytest.raises(NoVariantError, match="running one needs an NVIDIA GPU"):
        mmedge.load(engines.path, backend="tensorrt_rtx")


# On a real GPU


@pytest.mark.gpu
@pytest.mark.skipif(not find_gpus(), reason="no NVIDIA GPU: the driver offers none")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_real_engine_computes_the_golden_outputs(tmp_path, precision):
    from mmedge_export.targets.tensorrt.engine import build

    pytest.importorskip("cuda.bindings", reason="pip install cuda-bindings")
    bundle = write_trio(tmp_path / "trio.mmedge")
    build(bundle, target="current", precision=precision).close()
    with mmedge.load(tmp_path / "trio.mmedge", backend="tensorrt_rtx", precision=precision) as pipe:
        found = verify(pipe)
        found.check()
        assert found.samples == 2
        assert len(found.rows) == 4
        variant, inputs = pipe.variant, pipe.bundle.samples()[0].inputs
    layers = profile(tmp_path / "trio.mmedge", variant, inputs, calls=3)
    assert {row.stage for row in layers.rows} == {stage.name for stage in bundle.manifest.stages}
    assert all(stage["profiled_ms"] > 0 for stage in layers.stages.values())
