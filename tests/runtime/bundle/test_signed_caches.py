"""What a device keeps of a signed bundle lies beside it, and belongs to one manifest."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from mmedge import Bundle, SignatureError, generate_key, sign_bundle
from mmedge.backends.registry import probe
from mmedge.bundle.device_cache import Measurement, cache_folder
from mmedge.bundle.device_engines import UNSIGNED
from mmedge.spec import Tolerance, Variant

STAGES = ("camera", "mic", "ear", "fusion")


@pytest.fixture
def bundle(both, tmp_path):
    return shutil.copy(both, tmp_path / "robot.mmedge")


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return generate_key(tmp_path_factory.mktemp("keys") / "a")


@pytest.fixture
def jetson():
    here = probe()
    return replace(
        here, name="Jetson", gpus=("Orin (sm_87)",), backends=("ort", "tensorrt"),
        targets=("cpu", "sm_87"), libraries={**here.libraries, "tensorrt": "10.3.0"},
    )  # fmt: skip


def keep(path, device):
    """An engine and a measurement."""
    files = {stage: f"engines/{stage}.engine" for stage in STAGES}
    variant = Variant("tensorrt", "fp16", "sm_87", files, Tolerance(1e-2, 1e-3),
                      requires={"tensorrt": "10.3.0"})  # fmt: skip
    with Bundle.open(path) as opened:
        opened.keep_engines([(variant, dict.fromkeys(files.values(), b"engine"))], device)
        opened.keep_measurements({"ort-fp32-cpu": Measurement(1.25, 2, "cut")}, device)
        return opened.digest


def of_device(path, device, **options):
    with Bundle.open(path, **options) as opened:
        manifest = opened.on(device)
    latency = manifest.variants[0].metrics.get("latency_ms")
    return [variant.id for variant in manifest.variants], latency


def test_what_a_device_keeps_stays_where_the_bundle_is_signed(bundle, key, jetson):
    keep(bundle, jetson)
    with Bundle.open(bundle) as opened:
        manifest = opened.on(jetson)
    words = manifest.open_questions(*manifest.variants)
    assert not any("no signature covers" in word for word in words)
    sign_bundle(bundle, key.private, version=1)
    before = bundle.read_bytes()
    ids, latency = of_device(bundle, jetson, trusted_keys=[key.public])
    assert ids[-1] == "tensorrt-fp16-sm_87"
    assert latency == 1.25
    with Bundle.open(bundle) as opened:
        words = opened.on(jetson).open_questions(*opened.on(jetson).variants)
    assert any("which no signature covers" in word for word in words)
    keep(bundle, jetson)  # on a signed bundle, too, and none of its bytes change
    assert bundle.read_bytes() == before
    with Bundle.open(bundle) as opened:
        variant = opened.on(jetson).variants[-1]
    assert [word for word in variant.not_checked if "no signature" in word] == [UNSIGNED]
    sign_bundle(bundle, key.private, version=2)
    assert of_device(bundle, jetson, trusted_keys=[key.public]) == (ids, latency)


def test_nothing_of_one_release_is_used_with_another(bundle, key, jetson):
    old_digest = keep(bundle, jetson)
    with Bundle.open(bundle) as opened:
        opened.with_metrics({"ort-fp32-cpu": {"accuracy": 0.5}}).close()
    sign_bundle(bundle, key.private, version=2)
    with Bundle.open(bundle, trusted_keys=[key.public]) as opened:
        new_digest = opened.digest
    assert of_device(bundle, jetson) == (["ort-fp32-cpu", "ort-int8-cpu"], None)
    # Nor where somebody gives the folder the other's name.
    cache_folder(bundle, old_digest, jetson).rename(cache_folder(bundle, new_digest, jetson))
    with pytest.warns(UserWarning, match="expected the manifest and the device"):
        assert of_device(bundle, jetson) == (["ort-fp32-cpu", "ort-int8-cpu"], None)


def test_a_bundle_that_no_trusted_key_signed_brings_no_engine(bundle, key, jetson, tmp_path):
    keep(bundle, jetson)
    sign_bundle(bundle, key.private)
    other = generate_key(tmp_path / "other")
    with pytest.raises(SignatureError, match="no signature by a trusted key"):
        of_device(bundle, jetson, trusted_keys=[other.public])
