"""Engines that a device built are kept beside the bundle, and are variants there alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from mmedge.backends.registry import probe
from mmedge.bundle import Bundle
from mmedge.errors import BundleError, NoVariantError
from mmedge.spec import Tolerance, Variant

STAGES = ("camera", "mic", "ear", "fusion")


@pytest.fixture
def bundle(both, tmp_path):
    path = tmp_path / "robot.mmedge"
    shutil.copy(both, path)
    return path


@pytest.fixture
def jetson():
    """A device with a GPU that TensorRT builds for."""
    here = probe()
    return replace(
        here,
        name="Jetson",
        gpus=("Orin (sm_87)",),
        backends=("ort", "tensorrt"),
        targets=("cpu", "sm_87"),
        libraries={**here.libraries, "tensorrt": "10.3.0"},
    )


def engines(precision="fp16", content=b"engine of "):
    files = {stage: f"engines/tensorrt-{precision}-sm_87/{stage}.engine" for stage in STAGES}
    variant = Variant(
        "tensorrt",
        precision,
        "sm_87",
        files,
        Tolerance(1e-2, 1e-3),
        requires={"tensorrt": "10.3.0"},
        not_checked=("the device",),
    )
    return variant, {name: content + stage.encode() for stage, name in files.items()}


def keep(bundle, device, *built):
    with Bundle.open(bundle) as opened:
        return opened.keep_engines(built or [engines()], device)


def test_they_are_chosen_where_they_were_built_and_the_bundle_stays_as_it_was(bundle, jetson):
    before = bundle.read_bytes()
    folder = keep(bundle, jetson)
    assert bundle.read_bytes() == before
    assert folder.parent.parent == bundle.parent / "robot.mmedge.cache"
    with Bundle.open(bundle) as opened:
        variant, decisions = opened.select(jetson)
        assert variant.id == "tensorrt-fp16-sm_87"
        assert [d.variant for d in decisions] == [
            "ort-fp32-cpu", "ort-int8-cpu", "tensorrt-fp16-sm_87",
        ]  # fmt: skip
        assert opened.on(jetson).plan_names(variant) == ("cut",)
        assert bytes(opened.read(variant.files["ear"])) == b"engine of ear"
        assert opened.file(variant.files["ear"]).read_bytes() == b"engine of ear"
        assert opened.size(variant) == sum(len(f"engine of {stage}") for stage in STAGES)
        opened.check_unchanged()
        # The manifest itself does not name them.
        assert {v.backend for v in opened.manifest.variants} == {"ort"}


def test_they_are_found_where_one_target_is_asked_for(bundle, jetson):
    keep(bundle, jetson)
    with Bundle.open(bundle) as opened:
        variant, decisions = opened.select(jetson, target="sm_87")
        assert variant.id == "tensorrt-fp16-sm_87"
        assert "this device offers sm_87" in decisions[0].reason
        variant, decisions = opened.select(jetson, target="cpu")
        assert variant.id == "ort-fp32-cpu"
        assert "this device offers cpu" in decisions[-1].reason


def test_elsewhere_they_are_not_there(bundle, jetson):
    keep(bundle, jetson)
    others = (
        probe(),
        replace(jetson, cores=99),
        replace(jetson, libraries={**jetson.libraries, "tensorrt": "10.4.0"}),
    )
    for device in others:
        with Bundle.open(bundle) as opened:
            assert opened.select(device)[0].backend == "ort"
            with pytest.raises(NoVariantError):
                opened.select(device, backend="tensorrt")


def test_several_are_kept_and_one_of_the_same_name_is_replaced(bundle, jetson):
    keep(bundle, jetson)
    keep(bundle, jetson, engines("fp32"))
    keep(bundle, jetson, engines("fp16", b"newer engine of "))
    with Bundle.open(bundle) as opened:
        found = {v.precision: v for v in opened.on(jetson).variants if v.backend == "tensorrt"}
        assert found.keys() == {"fp16", "fp32"}
        assert bytes(opened.read(found["fp32"].files["mic"])) == b"engine of mic"
        assert bytes(opened.read(found["fp16"].files["mic"])) == b"newer engine of mic"


def test_another_bundle_in_its_place_has_none(bundle, jetson):
    keep(bundle, jetson)
    with Bundle.open(bundle) as opened:
        opened.with_metrics({"ort-fp32-cpu": {"parity": 0.5}}).close()
    with Bundle.open(bundle) as opened:
        assert opened.on(jetson) == opened.manifest


def change_json(**changes):
    def change(folder):
        file = folder / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def change_variant(**changes):
    def change(folder):
        file = folder / "manifest.json"
        tree = json.loads(file.read_text())
        tree["variants"][0] |= changes
        file.write_text(json.dumps(tree))

    return change


def alter(folder):
    (next(folder.rglob("ear.engine"))).write_bytes(b"other")


def link(folder):
    (engine := next(folder.rglob("ear.engine"))).unlink()
    engine.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (alter, "ear.engine is altered"),
        (link, "is a link"),
        (lambda folder: next(folder.rglob("ear.engine")).unlink(), "the files that are there"),
        (lambda folder: (folder / "more.engine").write_bytes(b"x"), "the files that are there"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "manifest.json").unlink(), "holds no manifest.json"),
        (change_json(version=1), "version"),
        (change_json(manifest="0" * 64), "of its folder's name"),
        (change_json(device={"name": "another"}), "of its folder's name"),
        (change_json(variants=[]), "list of 1 to"),
        (change_json(files={"onnx/fusion.onnx": "0" * 64}), "files that the bundle has not"),
        (change_variant(backend="ort"), "expected engines, got a variant for ort"),
        (change_variant(files={}), "a file for each stage"),
        (change_variant(files={"nose": "x.engine"}), "unknown stage 'nose'"),
        (change_variant(run="rm"), "unknown field 'run'"),
    ],
)
def test_what_is_damaged_counts_for_nothing_and_is_told(bundle, jetson, damage, words):
    damage(keep(bundle, jetson))
    with Bundle.open(bundle) as opened:
        with pytest.warns(UserWarning, match=f"{words}.*build them again"):
            manifest = opened.on(jetson)
        assert manifest == opened.manifest


def test_an_engine_that_is_changed_later_is_refused(bundle, jetson):
    folder = keep(bundle, jetson)
    with Bundle.open(bundle) as opened:
        variant, _ = opened.select(jetson)
        alter(folder)
        with pytest.raises(BundleError, match="changed since"):
            opened.read(variant.files["ear"])
        with pytest.raises(BundleError, match="changed since"):
            opened.check_unchanged()


def test_what_cannot_be_kept_is_an_error(bundle, jetson):
    (bundle.parent / "robot.mmedge.cache").write_text("in the way")
    with pytest.raises(BundleError, match="engines cannot be kept"):
        keep(bundle, jetson)
