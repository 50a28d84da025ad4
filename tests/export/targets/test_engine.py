"""Engines, built for real with TensorRT-RTX on whatever machine this is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from engine_net import graph, write_bundle, write_trio
from typer.testing import CliRunner

from mmedge.backends.registry import probe
from mmedge.backends.tensorrt.library import DTYPE_NAMES
from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge.device import Gpu
from mmedge.errors import BackendError, InputError
from mmedge.spec import DTYPES, Device, Dimension
from mmedge_export.cli import streams
from mmedge_export.targets.tensorrt import engine_builder
from mmedge_export.targets.tensorrt.engine import FP32_TOLERANCE, build, build_all
from mmedge_export.targets.tensorrt.engine_builder import EngineBuilder
from mmedge_export.targets.tensorrt.float16 import TOLERANCE

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'mmedge[rtx]'")

TARGETS = ("sm_86", "sm_89", "sm_120")


def device(**fields) -> Device:
    """A machine with an RTX 40 and TensorRT-RTX, except for ``fields``."""
    found = Device(
        name="NVIDIA GeForce RTX 4070",
        backends=("ort", "tensorrt_rtx"),
        targets=("cpu", "sm_89"),
        missing={},
        libraries={"tensorrt-rtx": trt.__version__},
        cores=8,
        memory_bytes=1 << 34,
    )
    return replace(found, **fields)


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    """Engines of the three-stage bundle for three architectures in both precisions."""
    bundle = write_trio(tmp_path_factory.mktemp("trio") / "trio.mmedge")
    told: list[str] = []
    bundle, made = build_all(
        bundle,
        backend="tensorrt-rtx",
        targets=TARGETS,
        precisions=("fp32", "fp16"),
        progress=told.append,
    )
    yield bundle, made, told
    bundle.close()


def one_stage(path, text, feeds, dimensions=None, **constants) -> Bundle:
    return write_bundle(path, {"net": graph(text, **constants)}, feeds, dimensions or {})


def test_every_stage_is_built_for_every_target_and_precision(trio):
    bundle, made, told = trio
    assert [v.id for v in made] == [
        f"tensorrt_rtx-{precision}-{target}" for precision in ("fp32", "fp16") for target in TARGETS
    ]
    assert bundle.manifest.variants[1:] == made
    bundle.verify()
    engines = [bytes(bundle.read(file)) for v in made for file in v.files.values()]
    assert len(set(engines)) == 18
    assert all(len(engine) > 50_000 for engine in engines)
    assert "tensorrt_rtx-fp16-sm_120: fusion" in told


def test_the_record_says_what_was_built_and_how(trio):
    _, made, _ = trio
    fp32, fp16 = made[0], made[-1]
    assert fp32.requires == fp16.requires == {"tensorrt-rtx": trt.__version__}
    assert (fp32.tolerance, fp16.tolerance) == (FP32_TOLERANCE, TOLERANCE)
    # Neither TF32 nor a fallback between devices: float32 is float32, and all runs on the GPU.
    assert (fp32.build["builder flags"], fp32.build["device"]) == ("none", "GPU")
    assert fp32.build["profile samples"] == "40:400:3200"  # no limit: 8 times the example
    assert fp32.build["profile frames"] == "3:21:161"  # measured: what those samples give
    assert float(fp32.build["fusion seconds"]) > 0
    assert int(fp32.build["fusion bytes"]) > 50_000
    assert fp32.build["fusion source"] == fp16.build["fusion source"]
    assert fp32.build["fusion source"] != fp32.build["camera source"]
    assert fp16.build["voice kept float32"] == "5 of 7 nodes: lift, basis, power, floor, log"
    assert 0 < fp16.metrics["fp16_max_rel"] < TOLERANCE.rtol
    assert "fp16_max_rel" not in fp32.metrics


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"libraries": {"tensorrt-rtx": "9.9"}},
            f"needs tensorrt-rtx {trt.__version__}, found 9.9",
        ),
        ({"libraries": {}}, f"needs tensorrt-rtx {trt.__version__}, found none"),
        ({"targets": ("cpu", "sm_87")}, "made for sm_89, this device offers cpu, sm_87"),
        ({"backends": ("ort",), "missing": {"tensorrt_rtx": "no GPU here"}}, "no GPU here"),
    ],
)
def test_an_engine_is_rejected_elsewhere_with_the_reason(trio, changes, reason):
    bundle, _, _ = trio
    elsewhere = device(**changes)
    decisions = {d.variant: d for d in bundle.decisions(elsewhere)}
    assert not decisions["tensorrt_rtx-fp32-sm_89"].accepted
    assert reason in decisions["tensorrt_rtx-fp32-sm_89"].reason
    assert bundle.select(elsewhere)[0].id == "ort-fp32-cpu"


def test_an_engine_is_selected_where_it_runs(trio):
    bundle, _, _ = trio
    assert bundle.select(device())[0].id == "tensorrt_rtx-fp32-sm_89"
    assert bundle.select(device(), precision="fp16")[0].id == "tensorrt_rtx-fp16-sm_89"


def test_building_again_replaces_the_variant(tmp_path):
    bundle = write_trio(tmp_path / "trio")
    first = build(bundle, target="sm_89")
    again = build(first, target="sm_89", profile={"batch": (1, 2, 2)}, workspace=64 << 20)
    assert [v.id for v in again.manifest.variants] == ["ort-fp32-cpu", "tensorrt_rtx-fp32-sm_89"]
    record = again.manifest.variants[1].build
    assert record["profile batch"] == "1:2:2"
    assert record["workspace bytes"] == str(64 << 20)
    again.verify()


def test_attention_of_opset_23_builds_in_float32(tmp_path):
    """TensorRT-RTX has no float32 kernel for it and must be allowed to decompose it."""
    net = graph(
        "net (float[batch,2,8,16] q, float[batch,2,8,16] k) => (float[batch,2,8,16] y) {"
        " [attend] y = Attention(q, k, k) }"
    )
    net.opset_import[0].version = 23
    q, k = np.random.default_rng(0).standard_normal((2, 1, 2, 8, 16)).astype(np.float32)
    bundle = write_bundle(
        tmp_path / "b", {"net": net}, [{"q": q, "k": k}], {"batch": Dimension(1, 1, 4)}
    )
    with build(bundle, target="sm_89") as built:
        assert built.manifest.variants[1].metrics["engine_bytes"] > 50_000


def test_a_recurrence_behind_a_transpose_builds_in_float16(tmp_path):
    """TensorRT-RTX refuses one whose input is transposed as float16 and cast to float32 then."""
    rng = np.random.default_rng(0)
    text = """net (int64[batch,16] ids, float[batch,16] beside) => (float[batch,16] y) {
      [embed] e0 = Gather<axis=0>(table, ids)
      [double] e = Mul(e0, e0)
      [turn] t = Transpose<perm=[1,0,2]>(e)
      [memory] g = GRU<hidden_size=8,linear_before_reset=1>(t, w, r, b)
      [squeeze] s = Squeeze(g, one)
      [back] u = Transpose<perm=[1,0,2]>(s)
      [mix] v = MatMul(u, w_out)
      [flat] f = Squeeze(v, last)
      [add] y = Add(f, beside)
    }"""
    shapes = {"table": (9, 8), "w": (1, 24, 8), "r": (1, 24, 8), "b": (1, 48), "w_out": (8, 1)}
    constants = {n: rng.standard_normal(s).astype(np.float32) * 0.3 for n, s in shapes.items()}
    feeds = [
        {"ids": rng.integers(0, 9, (n, 16)), "beside": np.ones((n, 16), np.float32)} for n in (1, 3)
    ]
    ints = {"one": np.array([1]), "last": np.array([-1])}
    bundle = one_stage(
        tmp_path / "b", text, feeds, {"batch": Dimension(1, 1, 4)}, **constants, **ints
    )
    with build(bundle, target="sm_89", precision="fp16") as built:
        kept = built.manifest.variants[1].build["net kept float32"]
        assert kept == "4 of 9 nodes: embed, double, turn, memory"


X = np.ones((2, 2), np.float32)


def test_every_refused_node_is_named_with_its_operator(tmp_path):
    text = """net (float[2,2] x) => (float[2,2] y) {
      [plain] a = Relu(x)
      [middle] b = Det(a)
      [filters] c = MelWeightMatrix(bins, size, rate, low, high)
      [sum] d = ReduceSum<keepdims=0>(c)
      [both] e = Add(b, d)
      [end] y = Add(a, e)
    }"""
    constants = {
        "bins": np.array(4),
        "size": np.array(16),
        "rate": np.array(8000),
        "low": np.array(0, np.float32),
        "high": np.array(4000, np.float32),
    }
    with one_stage(tmp_path / "b", text, [{"x": X}], **constants) as bundle:
        with pytest.raises(BackendError) as caught:
            build(bundle, target="sm_89")
        message = str(caught.value)
        assert "stage 'net'" in message
        assert "2 of its nodes" in message
        assert "node 'middle' (Det): the operator is not supported" in message
        assert "node 'filters' (MelWeightMatrix)" in message
        assert "plain" not in message
        # The bundle is as it was, and still open.
        assert [v.id for v in bundle.manifest.variants] == ["ort-fp32-cpu"]
        assert bundle.samples()


def test_uint8_arithmetic_is_refused_with_the_way_out(tmp_path):
    text = "net (uint8[2,2] x) => (float[2,2] y) { [twice] a = Add(x, x)\n [f] y = Cast<to=1>(a) }"
    with (
        one_stage(tmp_path / "b", text, [{"x": X.astype(np.uint8)}]) as bundle,
        pytest.raises(BackendError, match=r"'twice' \(Add\).*convert it to float before computing"),
    ):
        build(bundle, target="sm_89")


@pytest.mark.parametrize(
    ("text", "dtype", "tensor"),
    [
        ("net (double[2,2] x) => (float[2,2] y) { y = Cast<to=1>(x) }", np.float64, "x: float64"),
        (
            """net (float[2,2] x) => (float[2,2] y) {
              inner = Cast<to=11>(x)
              b = Exp(inner)
              y = Cast<to=1>(b)
            }""",
            np.float32,
            "inner",
        ),
    ],
)
def test_float64_is_refused_and_not_computed_as_float32(tmp_path, text, dtype, tensor):
    with (
        one_stage(tmp_path / "b", text, [{"x": X.astype(dtype)}]) as bundle,
        pytest.raises(BackendError, match=f"no float64.*{tensor}"),
    ):
        build(bundle, target="sm_89")


def test_what_the_library_says_while_building_is_in_the_error(tmp_path):
    with (
        write_trio(tmp_path / "b") as bundle,
        pytest.raises(BackendError, match=r"could not build an engine for sm_89: .*workspace"),
    ):
        build(bundle, target="sm_89", workspace=1 << 10)


@pytest.mark.parametrize("kind", ["rank", "name"])
def test_a_graph_that_is_not_the_stage_is_refused(tmp_path, kind):
    with write_trio(tmp_path / "b") as bundle:
        stage = bundle.manifest.stages[1]
        spec = stage.inputs[0]
        other = replace(spec, shape=(1,)) if kind == "rank" else replace(spec, name="other")
        builder = EngineBuilder("tensorrt_rtx", "sm_89")
        with pytest.raises(BackendError, match=r"the manifest declares.*export"):
            builder.build(bundle.file(stage.graph), replace(stage, inputs=(other,)), {})


def test_an_input_of_sizes_is_refused(tmp_path):
    text = "net (float[4] x, int64[2] to) => (float[a,b] y) { y = Reshape(x, to) }"
    feeds = [{"x": np.ones(4, np.float32), "to": np.array([2, 2])}]
    sizes = {"a": Dimension(1, 2), "b": Dimension(1, 2)}
    with (
        one_stage(tmp_path / "b", text, feeds, sizes) as bundle,
        pytest.raises(BackendError, match="values of input 'to' are sizes"),
    ):
        build(bundle, target="sm_89")


def test_wrong_arguments_say_what_is_right(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_builder, "find_gpus", lambda: ())
    with write_trio(tmp_path / "b") as bundle:
        with pytest.raises(InputError, match=r"sm_90.*builds for sm_75, sm_80, sm_86, sm_89, sm_1"):
            build(bundle, target="sm_90")
        with pytest.raises(BackendError, match="driver offers none.*--target sm_89"):
            build(bundle, target="current")
        with pytest.raises(InputError, match="'int3'.*fp32, fp16"):
            build(bundle, target="sm_89", precision="int3")
        with pytest.raises(InputError, match="'fp8' is judged by a task: use mmedge quantize"):
            build(bundle, target="sm_89", precision="fp8")
        with pytest.raises(InputError, match="'ort' builds no engines.*tensorrt, tensorrt_rtx"):
            build(bundle, backend="ort", target="sm_89")


def test_current_is_this_machines_gpu(monkeypatch):
    monkeypatch.setattr(engine_builder, "find_gpus", lambda: (Gpu("RTX 3060", "sm_86"),))
    assert EngineBuilder("tensorrt_rtx", "current").target == "sm_86"


def test_engines_for_this_machine_are_kept_beside_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_builder, "find_gpus", lambda: (Gpu("RTX 3060", "sm_86"),))
    text = "net (float[2,2] x) => (float[2,2] y) { y = Relu(x) }"
    path = tmp_path / "b.mmedge"
    one_stage(path, text, [{"x": X}]).close()
    before = path.read_bytes()
    done = CliRunner().invoke(build_app(), ["build", str(path), "--json"])
    assert done.exit_code == 0, done.output
    assert path.read_bytes() == before
    with Bundle.open(path) as bundle:
        here = bundle.on(probe())
        (built,) = (v for v in here.variants if v.backend == "tensorrt_rtx")
        assert built.target == "sm_86"
        assert len(bundle.read(built.files["net"])) > 10_000
        assert bundle.manifest.variants != here.variants
    # With a target that is named, or in place, they go into the bundle.
    for words in (["--target", "sm_89"], ["--in-place"]):
        done = CliRunner().invoke(build_app(), ["build", str(path), "--json", *words])
        assert done.exit_code == 0, done.output
    with Bundle.open(path) as bundle:
        targets = {v.target for v in bundle.manifest.variants if v.backend == "tensorrt_rtx"}
        assert targets == {"sm_86", "sm_89"}


def test_tensorrt_that_is_not_installed_gives_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # import raises ImportError
    with pytest.raises(BackendError, match=r"pip install 'mmedge\[tensorrt\]'.*Jetson"):
        EngineBuilder("tensorrt", "current")


def test_tensorrt_builds_on_its_own_gpu_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", trt)  # nearly the same API
    monkeypatch.setattr(engine_builder, "find_gpus", lambda: ())
    with pytest.raises(BackendError, match=r"asked for sm_87, this machine's GPU is none.*rtx"):
        EngineBuilder("tensorrt", "sm_87")


def test_graphs_of_a_lower_precision_are_taken_as_they_are(tmp_path):
    text = "net (float16[2,2] x) => (float16[2,2] y) { y = Relu(x) }"
    with one_stage(tmp_path / "b", text, [{"x": X.astype(np.float16)}]) as plain:
        manifest = plain.manifest
        variant = replace(manifest.variants[0], precision="fp16")
        files = {name: bytes(plain.read(name)) for name in ("onnx/net.onnx",)}
        samples = plain.samples()
    half = Bundle.write(
        tmp_path / "h", replace(manifest, variants=(variant,)), files, samples=samples
    )
    with pytest.raises(InputError, match="'fp32'.*graphs are fp16"):
        build(half, target="sm_89", precision="fp32")
    with build(half, target="sm_89", precision="fp16") as built:
        assert built.manifest.variants[1].id == "tensorrt_rtx-fp16-sm_89"


def test_the_command_prints_data_alone_on_stdout(tmp_path):
    path = tmp_path / "trio.mmedge"
    write_trio(path).close()
    command = [sys.executable, "-m", "mmedge", "build", str(path), "--target", "sm_89", "--json"]
    command += ["--precision", "fp32", "--precision", "fp16", "--profile", "samples=40:400:800"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert [v["id"] for v in data["variants"]] == [
        "tensorrt_rtx-fp32-sm_89",
        "tensorrt_rtx-fp16-sm_89",
    ]
    assert data["variants"][0]["build"]["profile samples"] == "40:400:800"
    assert data["not_checked"] == [
        f"{v['id']}: not run where it was made" for v in data["variants"]
    ]
    assert "fusion" in done.stderr
    command[-1] = "samples=1:2"
    wrong = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert wrong.returncode == 2
    assert "MIN:OPT:MAX" in wrong.stderr
    assert json.loads(wrong.stdout)["error"]["exit_code"] == 2


def test_what_libraries_print_goes_to_stderr(capfd):
    with streams.stdout_on_stderr():
        os.write(1, b"WARNING: from C++")
    os.write(1, b"data")
    assert capfd.readouterr() == ("data", "WARNING: from C++")


def test_this_machine_says_whether_it_can_run_what_it_built(trio):
    bundle, _, _ = trio
    here = probe()
    decision = next(d for d in bundle.decisions(here) if d.variant == "tensorrt_rtx-fp32-sm_89")
    assert decision.accepted == ("sm_89" in here.targets)
    if not here.gpus:
        assert "can build engines, but running one needs an NVIDIA GPU" in decision.reason


def test_dtypes_of_the_manifest_are_the_librarys():
    assert set(DTYPE_NAMES) <= set(trt.DataType.__members__)
    # TensorRT has no such inputs: what has one is refused by name.
    lacking = {"float64", "int16", "uint16", "uint32", "uint64"}
    assert set(DTYPES) - set(DTYPE_NAMES.values()) == lacking
