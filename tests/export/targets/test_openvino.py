"""OpenVINO as a backend of exported bundles: the same outputs, proven at load, from any thread."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from itertools import pairwise

import networks
import numpy as np
import pytest
import torch
from fusions import FUSIONS
from torch import nn
from typer.testing import CliRunner

import mmedge
from mmedge.backends import SessionOptions
from mmedge.backends.openvino.session import FEW, SPECIALISED
from mmedge.backends.registry import open_stage, probe
from mmedge.bench.operators import profile
from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge.errors import AccuracyError, BackendError, ExportError
from mmedge.execution.verify import verify
from mmedge_export import Input, Model, export
from mmedge_export.capture import probe_inputs
from mmedge_export.quantize import quantize
from mmedge_export.quantize.options import QuantizeOptions
from mmedge_export.targets.openvino import variant as openvino_export
from mmedge_export.targets.openvino.variant import add_openvino

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'mmedge[openvino]'")


def added(model, path, **options):
    bundle, variant = add_openvino(export(model, path, **options))
    bundle.close()
    return variant


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_outputs_are_those_of_onnx_runtime(name, tmp_path):
    model = networks.NETWORKS[name]()
    variant = added(model, tmp_path / "b", split=True)
    assert variant.id == "openvino-fp32-cpu"
    with (
        mmedge.load(tmp_path / "b", backend="openvino") as ours,
        mmedge.load(tmp_path / "b", backend="ort") as theirs,
    ):
        assert verify(ours).ok
        limits = {symbol: limit.max or 64 for symbol, limit in model.dimensions().items()}
        for seed, batch in enumerate((1, 3)):
            sizes = {symbol: min(11, most) for symbol, most in limits.items()} | {"batch": batch}
            values = probe_inputs.random(model, sizes, np.random.default_rng(seed))
            got, wanted = ours.run(values), theirs.run(values)
            assert got.keys() == wanted.keys()
            for output, value in wanted.items():
                assert got[output].dtype == value.dtype
                assert got[output].shape == value.shape
                np.testing.assert_allclose(
                    got[output], value, rtol=1e-3, atol=1e-4 * max(np.abs(value).max(), 1)
                )


@pytest.fixture(scope="module")
def zoo_bundle(zoo_cut, tmp_path_factory):
    """Cut into stages, one of which has functions of mmedge's."""
    path = shutil.copyfile(zoo_cut, tmp_path_factory.mktemp("openvino") / "vqa.mmedge")
    add_openvino(Bundle.open(path))[0].close()
    return path


def test_functions_are_written_out_and_weights_are_shared(zoo_bundle):
    with Bundle.open(zoo_bundle) as bundle:
        ours = next(v for v in bundle.manifest.variants if v.backend == "openvino")
        graphs = {stage.name: stage.graph for stage in bundle.manifest.stages}
        with_functions = {name for name, graph in graphs.items() if bundle.functions(graph)}
        assert with_functions
        assert {name for name, file in ours.files.items() if file != graphs[name]} == with_functions
        for name in with_functions:
            assert not bundle.functions(ours.files[name])
            assert bundle.weights(ours.files[name]) == bundle.weights(graphs[name])
    with mmedge.load(zoo_bundle, backend="openvino") as pipe:
        (said,) = pipe.attention.values()
        assert str(said) == "3 nodes by standard operators: OpenVINO has no such operator"
        assert verify(pipe).ok


@pytest.mark.further_class
def test_stages_with_functions_are_quantised(tmp_path):
    """What is saved is what OpenVINO reads, not only what the search has run."""
    model = FUSIONS["cross_attention"]()
    with export(model, tmp_path / "b", samples_limit=1, split=True) as bundle:
        stages = {stage.name: stage for stage in bundle.manifest.stages}
        assert bundle.functions(stages["fusion"].graph)
    # One thread: with more, each number of them is timed in processes of its own.
    options = QuantizeOptions(goal="size", max_error=1.0, backend="openvino", threads=1)
    bundle, report = quantize(tmp_path / "b", options=options)
    bundle.close()
    assert report.variant == "openvino-int8-cpu"
    fusion = next(stage for stage in report.stages if stage.name == "fusion")
    assert "entering" in fusion.form or "block8" in fusion.form
    with mmedge.load(tmp_path / "b", backend="openvino", precision="int8") as pipe:
        assert verify(pipe).ok


def test_integers_beyond_32_bits_and_float64_are_refused(tmp_path):
    """OpenVINO would compute them in 32 bits."""

    class Look(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = torch.nn.Embedding(8, 4)

        def forward(self, ids):
            return self.rows(ids.clamp(0, 7))

    example = Input(np.array([[1, 2]]), dynamic={0: "n"})
    added(Model(Look().eval(), {"ids": example}, ["y"]), tmp_path / "b")
    with mmedge.load(tmp_path / "b", backend="openvino") as pipe:
        # Few integers are looked at by Python, many by NumPy.
        for rows in (1, FEW):
            pipe.run({"ids": np.full((rows, 2), 2**31 - 1)})
            for worst, words in ((2**31, "3 to 2147483648"), (-(2**31) - 1, "-2147483649 to 3")):
                with pytest.raises(BackendError, match=f"expected integers of 32 bits.* {words}"):
                    pipe.run({"ids": np.array([[worst, 3]] + [[3, 3]] * (rows - 1))})
    double = Model(
        torch.nn.Linear(4, 4).double(), {"input": Input(np.ones((1, 4)), dynamic={0: "n"})}, ["y"]
    )
    with pytest.raises(ExportError, match="float64.*variants for OpenVINO take"):
        add_openvino(export(double, tmp_path / "d"))


def test_kernels_are_refused_only_where_there_is_attention(zoo_bundle, tmp_path):
    with pytest.raises(BackendError, match="load with backend='ort'"):
        mmedge.load(zoo_bundle, backend="openvino", kernels=True)
    added(networks.cameras(), tmp_path / "b")
    mmedge.load(tmp_path / "b", backend="openvino", kernels=True).close()


def test_threads_may_share_a_pipeline(zoo_bundle):
    with mmedge.load(zoo_bundle, backend="openvino") as pipe:
        samples = pipe.bundle.samples()
        alone = [pipe.run(sample.inputs, cached=False) for sample in samples]
        wrong = []

        def work(seed):
            for number in np.random.default_rng(seed).integers(0, len(samples), 40):
                got = pipe.run(samples[number].inputs, cached=False)
                if any(not np.array_equal(got[k], v) for k, v in alone[number].items()):
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_an_array_that_may_not_be_written_is_taken(zoo_bundle):
    with mmedge.load(zoo_bundle, backend="openvino") as pipe:
        inputs = {name: value.copy() for name, value in pipe.bundle.samples()[0].inputs.items()}
        wanted = pipe.run(inputs, cached=False)
        kept = {name: value.copy() for name, value in wanted.items()}
        for value in inputs.values():
            value.flags.writeable = False
        again = pipe.run(inputs, cached=False)
        for name, value in kept.items():
            np.testing.assert_array_equal(again[name], value)
            np.testing.assert_array_equal(wanted[name], value)  # not a view of what runs write to


def test_shapes_of_golden_samples_are_compiled_for_at_load(zoo_bundle):
    with Bundle.open(zoo_bundle) as bundle:
        variant = next(v for v in bundle.manifest.variants if v.backend == "openvino")
        stage = next(s for s in bundle.manifest.stages if s.modality == "audio")
        session = open_stage(bundle, stage, variant, options=SessionOptions(threads=1))
        shapes = {sample.inputs["audio"].shape for sample in bundle.samples()}
        assert 1 < len(session._by_shapes) <= SPECIALISED
        assert {known[0] for known in session._by_shapes} <= shapes
        assert session._general is None
        given = {"audio": np.zeros((2, 4000), np.float32)}
        first = session.run(given)
        assert session._general is not None
        for name, value in session.run(given).items():
            np.testing.assert_array_equal(first[name], value)
        session.close()
        session.close()
        with pytest.raises(BackendError, match="the session is closed"):
            session.run(given)


def test_what_computes_something_else_is_not_added(tmp_path, monkeypatch):
    bundle = export(networks.cameras(), tmp_path / "b")
    before = bundle.manifest

    class Off(openvino_export.OpenVinoRunner):
        def __call__(self, values):
            return {name: value * 1.01 + 0.01 for name, value in super().__call__(values).items()}

    monkeypatch.setattr(openvino_export, "OpenVinoRunner", Off)
    with pytest.raises(AccuracyError, match=r"OpenVINO .* golden sample 0: output .* differs by "):
        add_openvino(bundle)
    assert Bundle.open(tmp_path / "b").manifest == before


def halves(values):
    return {name: v / 2 if v.dtype == np.float32 else v for name, v in values.items()}


def test_what_differs_from_the_golden_samples_is_refused_at_load(tmp_path):
    """The golden samples are replayed: what export has proven is ONNX Runtime's work alone."""
    added(networks.cameras(), tmp_path / "b", split=False)
    with Bundle.open(tmp_path / "b") as bundle:
        halved = [replace(sample, outputs=halves(sample.outputs)) for sample in bundle.samples()]
        files = {n: bytes(bundle.read(n)) for n in bundle.manifest.files if "samples" not in n}
        Bundle.write(tmp_path / "c", bundle.manifest, files, samples=halved).close()
    mmedge.load(tmp_path / "c", backend="ort").close()
    with pytest.raises(AccuracyError):
        mmedge.load(tmp_path / "c", backend="openvino")


def test_a_graph_that_it_does_not_take_is_an_error_of_this_stage(tmp_path):
    added(networks.cameras(), tmp_path / "b", split=False)
    with Bundle.open(tmp_path / "b") as bundle:
        (stage,) = bundle.manifest.stages
        first, *rest = stage.inputs
        wrong = replace(stage, inputs=(replace(first, dtype="float64"), *rest))
        variant = next(v for v in bundle.manifest.variants if v.backend == "openvino")
        with pytest.raises(BackendError, match="float64.*variants for OpenVINO take"):
            open_stage(bundle, wrong, variant, options=SessionOptions())
        with pytest.raises(BackendError, match="not for cuda"):
            open_stage(bundle, stage, replace(variant, target="cuda"), options=SessionOptions())


def test_the_command_builds_times_and_prefers_the_faster(tmp_path):
    export(networks.cameras(), tmp_path / "b").close()
    done = CliRunner().invoke(build_app(), ["build", str(tmp_path / "b"), "--backend", "openvino"])
    assert done.exit_code == 0, done.output
    assert "openvino-fp32-cpu" in done.stdout
    with mmedge.load(tmp_path / "b") as pipe:
        latency = {v.id: v.metrics.get("latency_ms") for v in pipe.bundle.on(probe()).variants}
        measured = {name: ms for name, ms in latency.items() if ms is not None}
        assert measured.keys() == {"ort-fp32-cpu", "openvino-fp32-cpu"}
        assert pipe.variant.id == min(measured, key=measured.__getitem__)
    refused = CliRunner().invoke(
        build_app(), ["build", str(tmp_path / "b"), "--backend", "openvino", "--target", "sm_87"]
    )
    assert refused.exit_code == 2
    assert "--target is for engines" in refused.output


def test_a_bundle_without_float32_graphs_is_refused(tmp_path):
    with Bundle.open(export(networks.cameras(), tmp_path / "b").path) as bundle:
        others = tuple(v for v in bundle.manifest.variants if v.target != "cpu")
        files = {n: bytes(bundle.read(n)) for n in bundle.manifest.files if "samples" not in n}
        manifest = replace(bundle.manifest, variants=others)
        made = Bundle.write(tmp_path / "c", manifest, files, samples=bundle.samples())
    with pytest.raises(ExportError, match="no float32 graphs"):
        add_openvino(made)


def test_operators_are_told_by_module(zoo_bundle):
    with mmedge.load(zoo_bundle, backend="openvino", threads=1) as pipe:
        variant, inputs = pipe.variant, pipe.bundle.samples()[0].inputs
    with mmedge.load(zoo_bundle, backend="ort", threads=1) as pipe:
        other = profile(zoo_bundle, pipe.variant, inputs, threads=1, calls=3)
    found = profile(zoo_bundle, variant, inputs, threads=1, calls=5)
    assert found.stages.keys() == other.stages.keys()
    for stage, took in found.stages.items():
        rows = [row for row in found.rows if row.stage == stage]
        assert sum(row.share for row in rows) == pytest.approx(1)
        assert 0 < took["profiled_ms"] < 100
        spans = found.spans[stage]
        assert all(a.start_us + a.us <= b.start_us + 1e-6 for a, b in pairwise(spans))
    # The convolutions and products are where ONNX Runtime has them.
    heavy = {row.module for row in other.rows if row.op.endswith(("Conv", "Gemm"))}
    assert heavy <= {row.module for row in found.rows}
    assert "OpenVINO counts whole microseconds" in found.unseen


class Integers(nn.Module):
    """One operation on integers; in the end they are floats."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.table = nn.Embedding(40, 3)

    def forward(self, n: torch.Tensor) -> torch.Tensor:
        match self.what:
            case "floor":
                n = torch.div(n, 3, rounding_mode="floor")
            case "remainder":
                n = n % 7
            case "shift":
                n = n >> 2
            case "amax":
                n = n.amax(-1, keepdim=True).expand_as(n)
            case "sum":
                n = n + 5
            case "bytes":
                n = n + n
            case "index":  # which bounds what is divided
                return self.table((n % 7) // 2)
            case "positions":
                return self.table(n.cumsum(-1).clamp(0, 30))
            case "sizes":
                return n.float() / (n.shape[0] * 3 // 2)
        return n.float()


@pytest.mark.parametrize(
    ("what", "dtype", "refused"),
    [
        ("floor", np.int64, True),
        ("floor", np.int32, True),
        ("remainder", np.int64, True),
        ("shift", np.int64, True),
        ("amax", np.int64, True),
        ("bytes", np.uint8, True),
        ("sum", np.int64, False),
        ("sizes", np.int64, False),
        ("none", np.int64, False),
    ],
)
def test_integers_that_openvino_computes_in_float32_are_refused(what, dtype, refused, tmp_path):
    value = np.random.default_rng(0).integers(0, 9, (2, 5)).astype(dtype)
    model = Model(Integers(what), {"n": Input(value, dynamic={0: "batch"})}, ["y"])
    bundle = export(model, tmp_path / "b")
    if refused:
        with pytest.raises(AccuracyError, match="stage 'model': OpenVINO computes other integers"):
            add_openvino(bundle)
        bundle.close()
        return
    made, variant = add_openvino(bundle)
    made.close()
    assert variant.not_checked == ()
    large = np.array([[2**24 + 1, 2**24 + 3, 5, 7, 2**30 - 9]] * 2, dtype)
    with (
        mmedge.load(tmp_path / "b", backend="openvino") as ours,
        mmedge.load(tmp_path / "b", backend="ort") as theirs,
    ):
        np.testing.assert_allclose(ours.run({"n": large})["y"], theirs.run({"n": large})["y"], 1e-6)


@pytest.mark.parametrize("what", ["index", "positions"])
def test_integers_that_stay_small_are_taken_or_refused_by_what_they_are(what, tmp_path):
    value = np.random.default_rng(0).integers(0, 2, (2, 5))
    model = Model(Integers(what), {"n": Input(value, dynamic={0: "batch"})}, ["y"])
    bundle = export(model, tmp_path / "b")
    try:
        add_openvino(bundle)[0].close()
    except AccuracyError as refusal:
        assert "OpenVINO computes other integers: " in str(refusal)  # noqa: PT017
        bundle.close()


class Attention(nn.Module):
    """Attention with heads of 4 channels, which OpenVINO 2026.4 computes wrongly from 16 tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.kv, self.out = nn.Linear(5, 4), nn.Linear(5, 8), nn.Linear(4, 6)

    def forward(self, x):
        q, (k, v) = self.q(x)[:, None], self.kv(x)[:, None].chunk(2, -1)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y[:, 0].mean(1))


@pytest.mark.parametrize("most", [None, 40, 9])
def test_a_variant_that_is_wrong_at_other_sizes_than_the_samples_is_refused(most, tmp_path):
    example = np.random.default_rng(0).standard_normal((2, 6, 5)).astype(np.float32)
    model = Model(
        Attention(),
        {"x": Input(example, dynamic={0: "batch", 1: "T"})},
        ["y"],
        dims={} if most is None else {"T": (1, most)},
    )
    bundle = export(model, tmp_path / "b")
    refused = None
    try:
        bundle, _ = add_openvino(bundle)
    except AccuracyError as error:
        refused = str(error)
    bundle.close()
    if refused is not None:
        assert "on made-up inputs: output 'y' differs" in refused
        assert "T=" in refused
        return
    # Whatever OpenVINO this is: what was taken is right over the whole domain.
    rng = np.random.default_rng(1)
    with mmedge.load(tmp_path / "b", backend="openvino") as pipe:
        for batch, length in ((1, 1), (2, 9), *(((10, 18), (3, 33)) if most != 9 else ())):
            x = rng.standard_normal((batch, length, 5)).astype(np.float32)
            wanted = model.module(torch.from_numpy(x)).detach().numpy()
            np.testing.assert_allclose(pipe(x=x)["y"], wanted, rtol=1e-3, atol=1e-5)
