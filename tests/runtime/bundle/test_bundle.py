"""Bundles: both forms, choosing a variant, rewriting, and what an open bundle promises."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from bundles_bad.zip_attacks import entries_of, pack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import GRAPH, LABELS, WEIGHTS

from mmedge.bundle import Bundle
from mmedge.errors import BundleError, NoVariantError
from mmedge.schema import SAMPLES
from mmedge.spec import SCHEMA_VERSION, Device, Dimension, Modality, TensorSpec, Tolerance, Variant

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def device(**changes) -> Device:
    cpu = Device("test cpu", ("ort",), ("cpu",), {}, {"onnxruntime": "1"}, 2, 1 << 30)
    return replace(cpu, **changes)


def assert_equal_content(a: Bundle, b: Bundle) -> None:
    assert a.manifest == b.manifest
    for x, y in zip(a.samples(), b.samples(), strict=True):
        for left, right in ((x.inputs, y.inputs), (x.outputs, y.outputs)):
            assert left.keys() == right.keys()
            for name in left:
                np.testing.assert_array_equal(left[name], right[name], strict=True)
    for name in a.manifest.files:
        assert a.read(name) == b.read(name)


def test_both_forms_hold_what_was_written(tiny, tiny_bundle, tiny_zip):
    with Bundle.open(tiny_bundle) as folder, Bundle.open(tiny_zip) as zipped:
        assert_equal_content(folder, zipped)
        assert folder.manifest.samples == len(tiny.samples) == 2
        assert set(folder.manifest.files) == {GRAPH, WEIGHTS, LABELS, SAMPLES}
        for name, content in tiny.files.items():
            assert bytes(zipped.read(name)) == content
        np.testing.assert_array_equal(
            zipped.samples()[1].inputs["image"], tiny.samples[1].inputs["image"], strict=True
        )
        assert zipped.labels("score") == ["no", "yes"]
        assert zipped.absent_tokens() == {}
        folder.verify()
        zipped.verify()


@pytest.mark.parametrize("form", ["tiny_bundle", "tiny_zip"])
def test_onnx_runtime_loads_and_agrees_with_the_golden_outputs(form, request, monkeypatch):
    monkeypatch.chdir("/")  # weights must not be found by way of the working directory
    with Bundle.open(request.getfixturevalue(form)) as bundle:
        session = ort.InferenceSession(bundle.file(GRAPH), providers=["CPUExecutionProvider"])
        for sample in bundle.samples():
            (score,) = session.run(["score"], dict(sample.inputs))
            np.testing.assert_allclose(score, sample.outputs["score"], rtol=1e-5, atol=1e-5)


def test_files_of_a_zip_are_private_and_removed_on_close(tiny_zip):
    bundle = Bundle.open(tiny_zip)
    path = bundle.file(GRAPH)
    folder = path.parent.parent
    assert (path.parent / "net.onnx.data").read_bytes() == bytes(bundle.read(WEIGHTS))
    assert bundle.file(GRAPH) == path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not (folder / LABELS).exists()
    bundle.close()
    bundle.close()
    assert not folder.exists()


def test_a_closed_bundle_says_so_and_its_views_stay_valid(tiny, tiny_bundle, tiny_zip):
    for path in (tiny_bundle, tiny_zip):
        bundle = Bundle.open(path)
        view = bundle.read(WEIGHTS)
        bundle.close()
        assert bytes(view) == tiny.files[WEIGHTS]
        assert view.readonly
        with pytest.raises(BundleError, match="closed"):
            bundle.read(WEIGHTS)


def test_equal_content_gives_equal_bytes(tiny, tmp_path):
    for name in ("a.mmedge", "b.mmedge"):
        Bundle.write(tmp_path / name, tiny.manifest, tiny.files, samples=tiny.samples).close()
    assert (tmp_path / "a.mmedge").read_bytes() == (tmp_path / "b.mmedge").read_bytes()


def test_other_zip_tools_can_read_and_make_one(tiny_bundle, tiny_zip, tmp_path):
    with zipfile.ZipFile(tiny_zip) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "unpacked")
    with zipfile.ZipFile(tmp_path / "again.mmedge", "w") as archive:
        for file in sorted((tmp_path / "unpacked").rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(tmp_path / "unpacked"))
    with (
        Bundle.open(tiny_bundle) as good,
        Bundle.open(tmp_path / "unpacked") as unpacked,
        Bundle.open(tmp_path / "again.mmedge") as again,
    ):
        assert_equal_content(good, unpacked)
        assert_equal_content(good, again)


def test_zip64_records_are_read(tiny_bundle, tmp_path, monkeypatch):
    # Python then writes the records that archives past 4 GiB need.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    with zipfile.ZipFile(tmp_path / "big.mmedge", "w") as archive:
        for file in sorted(tiny_bundle.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(tiny_bundle))
    # It leaves the true numbers in the old end record, which real ones could not hold.
    data = bytearray((tmp_path / "big.mmedge").read_bytes())
    assert data[-42:-38] == b"PK\x06\x07"
    data[-14:-2] = b"\xff" * 12
    (tmp_path / "big.mmedge").write_bytes(data)
    with Bundle.open(tiny_bundle) as good, Bundle.open(tmp_path / "big.mmedge") as big:
        assert_equal_content(good, big)


def test_a_link_to_a_bundle_is_followed_once(tiny_bundle, tmp_path):
    (tmp_path / "current").symlink_to(tiny_bundle)
    with Bundle.open(tmp_path / "current") as bundle:
        assert bundle.path == tiny_bundle.resolve()


@pytest.mark.parametrize(("name", "words"), [("nothing", "no such file"), ("a\0b", "cannot be")])
def test_nothing_there(tmp_path, name, words):
    with pytest.raises(BundleError, match=words):
        Bundle.open(tmp_path / name)


def test_a_directory_without_manifest(tmp_path):
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle.open(tmp_path)


def test_files_exchanged_after_opening_are_refused(tiny, tiny_bundle, tmp_path):
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    weights = path / WEIGHTS
    for change in ("exchange", "write", "link", "remove"):
        bundle = Bundle.open(path)
        if change == "exchange":
            (tmp_path / "new").write_bytes(tiny.files[WEIGHTS])
            (tmp_path / "new").replace(weights)
        elif change == "write":
            before = weights.stat()
            weights.write_bytes(tiny.files[WEIGHTS][::-1])
            os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        else:
            weights.unlink()
            if change == "link":
                weights.symlink_to(tiny_bundle / WEIGHTS)
        for use in (bundle.read, bundle.file):
            with pytest.raises(BundleError, match="changed since the bundle was opened"):
                use(WEIGHTS)
        with pytest.raises(BundleError, match="changed since"):  # it is beside the graph
            bundle.file(GRAPH)
        with pytest.raises(BundleError, match="changed since"):
            bundle.verify()
        weights.unlink(missing_ok=True)
        weights.write_bytes(tiny.files[WEIGHTS])


def test_unknown_names(tiny_bundle):
    with Bundle.open(tiny_bundle) as bundle:
        for use in (bundle.read, bundle.file):
            with pytest.raises(BundleError, match="no file '../secret'"):
                use("../secret")
        with pytest.raises(BundleError, match="no output 'other'; this bundle has score"):
            bundle.labels("other")


def test_write_overwrites_bundles_only_and_only_when_told(tiny, tmp_path):
    for name in ("b", "b.mmedge"):
        path = tmp_path / name
        Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
        with pytest.raises(BundleError, match="already exists"):
            Bundle.write(path, tiny.manifest, tiny.files)
        with Bundle.write(path, tiny.manifest, tiny.files, overwrite=True) as bundle:
            assert bundle.samples() == ()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    for path, words in ((mine, "not a bundle"), (tmp_path / "link", "a link")):
        with pytest.raises(BundleError, match=f"refusing to overwrite.*{words}"):
            Bundle.write(path, tiny.manifest, tiny.files, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_failed_write_leaves_the_old_bundle_and_no_rubbish(tiny, tiny_bundle, tmp_path):
    for name in ("b", "b.mmedge"):
        path = tmp_path / name
        Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
        bad = {**tiny.files, GRAPH: b"not a graph"}
        with pytest.raises(BundleError, match="not an ONNX graph"):
            Bundle.write(path, tiny.manifest, bad, overwrite=True)
        with Bundle.open(path) as kept, Bundle.open(tiny_bundle) as good:
            assert_equal_content(kept, good)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "b.mmedge"]


def test_write_checks_samples_and_own_names(tiny, tmp_path):
    image = tiny.samples[0].inputs["image"]
    wrong = replace(tiny.samples[0], inputs={**tiny.samples[0].inputs, "image": image.astype("i4")})
    with pytest.raises(
        BundleError, match=r"tensor '0.in.image': expected image: uint8\[batch.*int32"
    ):
        Bundle.write(tmp_path / "b", tiny.manifest, tiny.files, samples=[wrong])
    for name in ("manifest.json", SAMPLES):
        with pytest.raises(BundleError, match="leave it out"):
            Bundle.write(tmp_path / "b", tiny.manifest, {**tiny.files, name: b""})
    with pytest.raises(BundleError, match="unknown file 'assets/labels.json'"):
        files = {k: v for k, v in tiny.files.items() if k != LABELS}
        Bundle.write(tmp_path / "b", tiny.manifest, files)
    with pytest.raises(BundleError, match="cannot be written.*No such file"):
        Bundle.write(tmp_path / "b", tiny.manifest, {**tiny.files, "x": tmp_path / "missing"})
    assert not list(tmp_path.iterdir())


def test_absent_tokens_travel(tiny, tmp_path):
    image, text = tiny.manifest.modalities
    text = Modality("text", ("text",), required=False, absent="token")
    manifest = replace(tiny.manifest, modalities=(image, text))
    token = np.arange(5, dtype=np.int64)[None]
    with Bundle.write(tmp_path / "b", manifest, tiny.files, absent={"text": token}) as bundle:
        assert bundle.samples() == ()
        np.testing.assert_array_equal(bundle.absent_tokens()["text"], token, strict=True)
    with pytest.raises(BundleError, match="missing tensor 'absent.text'"):
        Bundle.write(tmp_path / "c", manifest, tiny.files, samples=tiny.samples)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (np.zeros((4, 5), np.int64), "with size 1 or 2 along axis 0, got int64\\[4, 5\\]"),
        (np.zeros((0, 5), np.int64), "with size 1 or 2 along axis 0"),
        (np.zeros((1, 4), np.int64), "with size 5 along axis 1"),
        (np.zeros(5, np.int64), "expected text: int64.batch, 5., got int64.5."),
        (np.zeros((1, 5), np.int32), "got int32"),
        (np.arange(10).reshape(2, 5), "constant along its dynamic axes, got .* that varies"),
        (np.zeros((1, 5), np.int64), None),
        (np.tile(np.arange(5), (2, 1)), None),
    ],
)
def test_absent_tokens_fit_every_size(tiny, tmp_path, token, words):
    image, _ = tiny.manifest.modalities
    text = Modality("text", ("text",), required=False, absent="token")
    limits = {"batch": Dimension(2, 2, 4)}
    manifest = replace(tiny.manifest, modalities=(image, text), dimensions=limits)
    if words is None:
        Bundle.write(tmp_path / "b", manifest, tiny.files, absent={"text": token}).close()
    else:
        with pytest.raises(BundleError, match=f"tensor 'absent.text': .*{words}"):
            Bundle.write(tmp_path / "b", manifest, tiny.files, absent={"text": token})


def test_an_absent_token_may_be_nan(tiny, tmp_path):
    stage = tiny.manifest.stages[0]
    state = TensorSpec("text", "float32", ("batch", 5))
    manifest = replace(
        tiny.manifest,
        modalities=(
            tiny.manifest.modalities[0],
            Modality("text", ("text",), required=False, absent="token"),
        ),
        stages=(replace(stage, inputs=(stage.inputs[0], state)),),
        dimensions={"batch": Dimension(2, 2, 4)},
    )
    token = np.full((2, 5), np.nan, np.float32)
    with Bundle.write(tmp_path / "b", manifest, tiny.files, absent={"text": token}) as bundle:
        np.testing.assert_array_equal(bundle.absent_tokens()["text"], token)


@pytest.mark.parametrize("name", ["b", "b.mmedge"])
def test_a_golden_output_may_have_no_rows(tiny, tmp_path, name):
    stage = tiny.manifest.stages[0]
    boxes = TensorSpec("boxes", "float32", ("found", 4))
    manifest = replace(
        tiny.manifest,
        stages=(replace(stage, outputs=(*stage.outputs, boxes)),),
        outputs=("score", "boxes"),
        dimensions={**tiny.manifest.dimensions, "found": Dimension(0, 1)},
    )
    samples = [
        replace(sample, outputs={**sample.outputs, "boxes": np.ones((rows, 4), np.float32)})
        for rows, sample in enumerate(tiny.samples)
    ]
    with Bundle.write(tmp_path / name, manifest, tiny.files, samples=samples) as bundle:
        bundle.verify()
        for rows, sample in enumerate(bundle.samples()):
            np.testing.assert_array_equal(
                sample.outputs["boxes"], np.ones((rows, 4), np.float32), strict=True
            )
    with pytest.raises(BundleError, match="tensor '0.out.boxes': expected boxes"):
        Bundle.write(
            tmp_path / "c",
            replace(manifest, dimensions={**manifest.dimensions, "found": Dimension(1, 1)}),
            tiny.files,
            samples=samples,
        )


def engine(precision="fp16", **changes) -> Variant:
    file = f"engines/{precision}/net.engine"
    tolerance = Tolerance(1e-2, 1e-2)
    return replace(Variant("tensorrt", precision, "sm_87", {"net": file}, tolerance), **changes)


@pytest.mark.parametrize("name", ["b", "b.mmedge"])
def test_with_variant_adds_replaces_and_drops(tiny, tmp_path, name):
    path = tmp_path / name
    first = Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples)
    added = engine()
    second = first.with_variant(added, {added.files["net"]: b"one"})
    with pytest.raises(BundleError, match="closed"):
        first.read(GRAPH)
    assert [v.id for v in second.manifest.variants] == ["ort-fp32-cpu", "tensorrt-fp16-sm_87"]
    assert bytes(second.read(added.files["net"])) == b"one"

    moved = replace(added, files={"net": "engines/new.engine"})
    third = second.with_variant(moved, {"engines/new.engine": b"two"})
    assert added.files["net"] not in third.manifest.files
    assert bytes(third.read("engines/new.engine")) == b"two"

    # A graph variant that is replaced keeps the files that the stage itself needs.
    fourth = third.with_variant(tiny.manifest.variants[0], {})
    assert {GRAPH, WEIGHTS} <= set(fourth.manifest.files)
    assert len(fourth.samples()) == 2
    with pytest.raises(BundleError, match="unknown file"):
        fourth.with_variant(engine("int8"), {})
    fourth.verify()
    fourth.close()
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["b", "b.mmedge"])
def test_with_metrics_sets_some_and_keeps_the_rest(tiny, tmp_path, name):
    path = tmp_path / name
    first = Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples)
    files = first.manifest.files
    second = first.with_metrics({"ort-fp32-cpu": {"latency_ms": 2.0, "speed": 1.0}})
    third = second.with_metrics({"ort-fp32-cpu": {"latency_ms": 3.0}})
    with pytest.raises(BundleError, match="no variant 'ort-int8-cpu' in this bundle"):
        third.with_metrics({"ort-int8-cpu": {"latency_ms": 1.0}})
    (variant,) = third.manifest.variants
    kept = tiny.manifest.variants[0].metrics
    assert variant.metrics == {**kept, "latency_ms": 3.0, "speed": 1.0}
    assert third.manifest.files == files
    third.verify()
    third.close()


@pytest.mark.parametrize("name", ["b", "b.mmedge"])
def test_with_variant_loses_no_update(tiny, tmp_path, name):
    path = tmp_path / name
    mine = Bundle.write(path, tiny.manifest, tiny.files)
    late = Bundle.open(path)
    first, second = engine("fp16"), engine("int8")
    mine.with_variant(first, {first.files["net"]: b"one"}).close()
    with pytest.raises(BundleError, match="changed since the bundle was opened"):
        late.with_variant(second, {second.files["net"]: b"two"})
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with Bundle.open(path) as kept:
        assert [v.id for v in kept.manifest.variants] == ["ort-fp32-cpu", first.id]
        kept.with_variant(second, {second.files["net"]: b"two"}).close()
    with Bundle.open(path) as both:
        assert [v.id for v in both.manifest.variants] == ["ort-fp32-cpu", first.id, second.id]
    late.close()


def test_with_variant_does_not_bring_back_a_removed_zip(tiny, tmp_path):
    path = tmp_path / "b.mmedge"
    with Bundle.write(path, tiny.manifest, tiny.files) as bundle:
        path.unlink()
        with pytest.raises(BundleError, match="changed since the bundle was opened: .*No such"):
            bundle.with_variant(engine(), {engine().files["net"]: b"one"})
    assert not list(tmp_path.iterdir())


def test_select_prefers_the_gpu_then_measured_speed_then_fp32(tiny, tmp_path):
    graph = tiny.manifest.variants[0]
    cpu8 = replace(graph, precision="int8")
    fast = replace(graph, precision="u8", metrics={"latency_ms": 2.0})
    slow = replace(graph, precision="s8", metrics={"latency_ms": 3.0})
    cuda = replace(graph, target="cuda")
    built = engine(requires={"tensorrt": "10.3"})
    manifest = replace(tiny.manifest, variants=(cpu8, graph, slow, fast, cuda, built))
    files = {**tiny.files, built.files["net"]: b"engine"}
    with Bundle.write(tmp_path / "b.mmedge", manifest, files) as bundle:
        chosen, decisions = bundle.select(device())
        assert chosen.id == "ort-u8-cpu"
        assert [d.variant for d in decisions] == [v.id for v in manifest.variants]
        by_id = {d.variant: d for d in decisions}
        assert by_id["ort-u8-cpu"].reason == "chosen: runs on cpu in u8, measured at 2 ms"
        assert by_id["ort-fp32-cpu"].reason == "can run here; ort-u8-cpu is preferred"
        assert not by_id["ort-fp32-cuda"].accepted
        assert "made for cuda, this device offers cpu" in by_id["ort-fp32-cuda"].reason
        assert bundle.select(device(), precision="int8")[0].id == "ort-int8-cpu"

        gpu = device(targets=("cpu", "cuda", "sm_87"), gpus=("Orin (sm_87)",))
        assert bundle.select(gpu)[0].id == "ort-fp32-cuda"
        jetson = replace(gpu, backends=("ort", "tensorrt"), libraries={"tensorrt": "10.3"})
        assert bundle.select(jetson)[0].id == "tensorrt-fp16-sm_87"
        assert bundle.select(jetson, backend="ort")[0].id == "ort-fp32-cuda"
        newer = replace(jetson, libraries={"tensorrt": "10.4"})
        assert bundle.select(newer)[0].id == "ort-fp32-cuda"
        assert bundle.decisions(newer)[-1].reason == "needs tensorrt 10.3, found 10.4"

        with pytest.raises(NoVariantError, match="precision fp8 was asked for") as caught:
            bundle.select(device(), precision="fp8")
        assert len(caught.value.decisions) == 6
        assert not any(d.accepted for d in caught.value.decisions)
        with pytest.raises(NoVariantError, match="backend tensorrt was asked for"):
            bundle.select(device(), backend="tensorrt")


def test_select_takes_fp32_where_nothing_was_measured(tiny, tmp_path):
    graph = tiny.manifest.variants[0]
    manifest = replace(tiny.manifest, variants=(replace(graph, precision="int8"), graph))
    with Bundle.write(tmp_path / "b", manifest, tiny.files) as bundle:
        assert bundle.select(device())[0].id == "ort-fp32-cpu"


def read_or_refuse(path, good: Bundle) -> bool:
    """Open a bundle that may be damaged: True when it reads as ``good``, False when refused."""
    try:
        bundle = Bundle.open(path)
        bundle.verify()
    except BundleError:
        return False
    with bundle:
        assert_equal_content(bundle, good)
    return True


@FEW
@given(data=st.data())
def test_flipped_bytes_are_refused_or_change_nothing(tiny_zip, tmp_path, data):
    content = bytearray(tiny_zip.read_bytes())
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=3)):
        content[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "b.mmedge").write_bytes(content)
    with Bundle.open(tiny_zip) as good:
        read_or_refuse(tmp_path / "b.mmedge", good)


def test_flips_of_every_byte_outside_the_weights(tiny_zip, tmp_path):
    # All of the zip's own records and the manifest: what digests do not guard.
    content = tiny_zip.read_bytes()
    with Bundle.open(tiny_zip) as good:
        inside = set()
        for name in good.manifest.files:
            at = content.index(bytes(good.read(name)))
            inside.update(range(at + 1, at + len(good.read(name))))
        refused = 0
        for place in sorted(set(range(len(content))) - inside)[::7]:
            changed = bytearray(content)
            changed[place] ^= 0x20
            (tmp_path / "b.mmedge").write_bytes(changed)
            refused += not read_or_refuse(tmp_path / "b.mmedge", good)
    assert refused > 100


@FEW
@given(data=st.data())
def test_truncation_is_refused(tiny_zip, tmp_path, data):
    content = tiny_zip.read_bytes()
    size = data.draw(st.integers(0, len(content) - 1))
    (tmp_path / "b.mmedge").write_bytes(content[:size])
    with pytest.raises(BundleError):
        Bundle.open(tmp_path / "b.mmedge")


@FEW
@given(data=st.data())
def test_damaged_files_of_a_directory_are_refused(tiny_bundle, tmp_path, data):
    path = tmp_path / "b"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(tiny_bundle, path)
    name = data.draw(st.sampled_from([GRAPH, WEIGHTS, LABELS, SAMPLES]))
    content = bytearray((path / name).read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    (path / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} is altered"):
        Bundle.open(path)


@pytest.mark.parametrize("form", ["directory", "zip"])
def test_a_bundle_of_version_3_opens_without_a_digest_of_its_manifest(tiny_bundle, tmp_path, form):
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    tree = json.loads((path / "manifest.json").read_text())
    for field in ("constraints", "not_checked", "plans", "states", "loops"):
        tree.pop(field, None)
    for stage in tree["stages"]:
        stage["loop"] = None
    for variant in tree["variants"]:
        del variant["not_checked"], variant["plan"], variant["cache"]
    for dimension in tree["dimensions"].values():
        del dimension["multiple"]
    tree["schema_version"] = 3
    (path / "manifest.json").write_text(json.dumps(tree))
    (path / "manifest.sha256").unlink()
    if form == "zip":
        path = tmp_path / "b.mmedge"
        path.write_bytes(pack(entries_of(tmp_path / "b")))
    with Bundle.open(path) as bundle:
        bundle.verify()
        # Written anew it is of this version, with its digest.
        with bundle.with_metrics({bundle.manifest.variants[0].id: {"parity": 0.0}}) as new:
            assert new.manifest.schema_version == SCHEMA_VERSION
            assert bytes(new.read("manifest.sha256")) == f"{new.digest}  manifest.json\n".encode()


def test_every_flipped_bit_of_a_manifest_is_seen(tiny_bundle, tmp_path):
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    for name in ("manifest.json", "manifest.sha256"):
        good = (path / name).read_bytes()
        for at in range(0, 8 * len(good), 61 if name == "manifest.json" else 3):
            bad = bytearray(good)
            bad[at // 8] ^= 1 << at % 8
            (path / name).write_bytes(bad)
            with pytest.raises(BundleError, match="manifest.json is altered"):
                Bundle.open(path)
        (path / name).write_bytes(good)
    Bundle.open(path).close()
