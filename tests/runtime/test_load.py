"""What a load takes: the best variant, one by its id, and a bundle that is open already."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mmedge
from mmedge.backends.registry import probe
from mmedge.bundle import Bundle
from mmedge.bundle.choose import choose
from mmedge.errors import InputError, NoVariantError


def test_a_variant_is_loaded_by_its_id(sums):
    with mmedge.load(sums, "ort-fp32-cpu") as pipe:
        assert pipe.variant.id == "ort-fp32-cpu"
    with pytest.raises(InputError, match="no variant 'ort-int4-cpu'; this bundle has ort-fp32-cpu"):
        mmedge.load(sums, "ort-int4-cpu")
    with pytest.raises(NoVariantError, match="backend openvino was asked for") as error:
        mmedge.load(sums, variant="ort-fp32-cpu", backend="openvino")
    assert not any(decision.accepted for decision in error.value.decisions)


def test_what_was_not_asked_for_says_so(sums):
    with Bundle.open(sums) as bundle:
        other = replace(bundle.manifest.variants[0], precision="fp16")
        manifest = replace(bundle.manifest, variants=(*bundle.manifest.variants, other))
    chosen, decisions = choose(manifest, probe(), variant="ort-fp32-cpu")
    assert chosen.id == "ort-fp32-cpu"
    (left_out,) = (d for d in decisions if d.variant == "ort-fp16-cpu")
    assert left_out.reason == "variant ort-fp32-cpu was asked for"


@pytest.mark.parametrize("name", ["b", "b.mmedge"])
def test_an_open_bundle_is_loaded_without_reading_it_again_and_stays_open(
    sums, tmp_path, name, monkeypatch
):
    with Bundle.open(sums) as source:
        source.copy(tmp_path / name).close()
    with Bundle.open(tmp_path / name) as bundle:
        monkeypatch.setattr(Bundle, "open", lambda *_: pytest.fail("opened again"))
        sample = bundle.samples()[0]
        for _ in range(2):
            with mmedge.load(bundle) as pipe:
                assert pipe.bundle is bundle
                for output, value in pipe.run(sample.inputs).items():
                    np.testing.assert_array_equal(value, sample.outputs[output])
        assert bundle.samples()
        with pytest.raises(InputError, match="no variant 'none'"):
            mmedge.load(bundle, "none")
        assert bundle.file("onnx/fusion.onnx").is_file()  # a load that fails leaves it open, too
