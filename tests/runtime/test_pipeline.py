"""A loaded bundle takes what fits its contract, refuses the rest, and computes the same."""

from __future__ import annotations

import tempfile
import threading

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import BackendError, InputError, NoVariantError


@pytest.fixture(scope="module")
def pipe(sums):
    with mmedge.load(sums, threads=1) as loaded:
        yield loaded


IMAGE_ONES = np.ones((1, 2, 2, 3), np.uint8)


def test_absent_modalities_are_filled_as_the_manifest_says(pipe):
    found = pipe(image=IMAGE_ONES)
    assert list(found) == ["out", "seen"]
    assert found["seen"] == 12
    assert found["out"] == 12 + 0.5  # the token 0.25 twice; text and voice are zeros


def test_text_is_tokenised_with_its_mask(pipe):
    for name in ("text", "ids"):
        found = pipe(image=IMAGE_ONES, **{name: "red ball"})
        assert found["out"] == 12.5 + 10 * (2 + 3) + 100 * 2


def test_text_that_does_not_fit_is_refused_and_not_cut(pipe):
    with pytest.raises(InputError, match=r"7 tokens does not fit input 'ids', which takes 6"):
        pipe(image=IMAGE_ONES, text="red " * 7)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_any_allowed_size_gives_the_sum(pipe, batch, samples, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (batch, 2, 2, 3), np.uint8)
    pcm = rng.random((batch, samples), np.float32)
    state = rng.random((batch, 2), np.float32)
    found = pipe(image=image, pcm=pcm, state=state)["out"]
    expected = image.reshape(batch, -1).astype(np.float64).sum(1) + pcm.sum(1) + state.sum(1)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "missing input 'image' of modality 'camera'"),
        ({"nose": IMAGE_ONES}, "unknown input 'nose'; this bundle takes image, ids, mask"),
        ({"image": IMAGE_ONES.astype(np.float32)}, "expected dtype uint8, got float32"),
        ({"image": IMAGE_ONES[0]}, "expected rank 4"),
        ({"image": np.ones((1, 2, 3, 3), np.uint8)}, "axis 2 must have size 2"),
        ({"image": np.ones((9, 2, 2, 3), np.uint8)}, "'batch' may be 1 to 8 in this bundle, got 9"),
        ({"image": np.ones((0, 2, 2, 3), np.uint8)}, "'batch' may be 1 to 8 in this bundle, got 0"),
        (
            {"image": IMAGE_ONES, "pcm": np.ones((2, 4), np.float32)},
            "dimension 'batch', which is 1 elsewhere in this call, got 2",
        ),
        (
            {"image": IMAGE_ONES, "ids": np.zeros((1, 6), np.int64)},
            "missing input 'mask' of modality 'text'; ids of the same modality was given",
        ),
        ({"image": [[1]]}, "expected an array of image: uint8"),
        ({"image": "red"}, "takes no text; these do: text"),
        ({"image": np.ones((1, 2, 2, 3), ">u2")}, "expected dtype uint8, got >u2"),
    ],
)
def test_bad_input_is_an_input_error(pipe, inputs, message):
    with pytest.raises(InputError, match=message):
        pipe.run(inputs)


def test_one_input_given_in_two_ways_is_refused(pipe):
    ids, mask = np.zeros((1, 6), np.int64), np.zeros((1, 6), np.bool_)
    for more in ({"ids": "red"}, {"ids": ids}, {"mask": mask}):
        for inputs in ({"text": "red", **more}, {**more, "text": "red"}):
            with pytest.raises(InputError, match="is given twice"):
                pipe.run({"image": IMAGE_ONES, **inputs})
    with pytest.raises(InputError, match="is given twice"):
        pipe.run({"image": IMAGE_ONES, "ids": "red", "mask": mask})


def test_a_token_stands_in_at_any_batch(pipe):
    found = pipe(image=np.ones((3, 2, 2, 3), np.uint8))["out"]
    np.testing.assert_array_equal(found, np.full((3, 1), 12.5, np.float32))


def test_strided_and_foreign_arrays(pipe):
    image = np.zeros((1, 2, 2, 6), np.uint8)
    image[..., ::2] = 1
    assert pipe(image=image[..., ::2])["seen"] == 12
    assert pipe(image=torch.ones((1, 2, 2, 3), dtype=torch.uint8))["seen"] == 12
    with pytest.raises(InputError, match="over DLPack"):
        pipe(image=IMAGE_ONES, pcm=torch.ones((1, 4), requires_grad=True))


def test_an_array_on_a_gpu_is_refused_by_a_cpu_variant(pipe):
    class Far:
        __cuda_array_interface__ = {
            "shape": (1, 2, 2, 3),
            "typestr": "|u1",
            "data": (4096, False),
            "version": 3,
        }

    with pytest.raises(InputError, match="lies on a GPU, but this variant runs on the CPU"):
        pipe(image=Far())


def test_parts_of_a_timed_call(pipe):
    outputs, parts = pipe.timed({"image": IMAGE_ONES})
    assert outputs["seen"] == 12
    assert list(parts) == ["inputs", "camera", "fusion"]
    assert all(value > 0 for value in parts.values())


def test_many_threads_share_one_pipeline(pipe):
    wrong = []

    def work(value):
        image = np.full((1, 2, 2, 3), value, np.uint8)
        for _ in range(50):
            if pipe(image=image)["seen"] != 12 * value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_closed_pipeline_says_so(sums):
    pipe = mmedge.load(sums)
    pipe.close()
    pipe.close()
    with pytest.raises(BackendError, match="is closed; load the bundle again"):
        pipe(image=IMAGE_ONES)


def test_no_variant_tells_why_for_each(sums):
    with pytest.raises(NoVariantError, match="fp16") as caught:
        mmedge.load(sums, precision="fp16")
    assert [d.variant for d in caught.value.decisions] == ["ort-fp32-cpu"]
    with pytest.raises(InputError, match="'cuda' is not here"):
        mmedge.load(sums, device="cuda")


def test_a_graph_unlike_its_manifest_is_refused(sums, tmp_path):
    with Bundle.open(sums) as bundle:
        manifest = bundle.manifest
        files = {name: bytes(bundle.read(name)) for name in manifest.files}
        sample = bundle.samples()[0]
        tokens = bundle.absent_tokens()
    files.pop("samples.safetensors")
    graph = onnx.load_from_string(files["onnx/camera.onnx"])
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    other = graph.SerializeToString()
    Bundle.write(
        tmp_path / "b",
        manifest,
        {**files, "onnx/camera.onnx": other},
        samples=[sample],
        absent=tokens,
    ).close()
    with pytest.raises(BackendError, match=r"input 'image' is float32 .* in the graph"):
        mmedge.load(tmp_path / "b")


def test_a_loaded_zip_leaves_nothing_unpacked(sums, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with mmedge.load(sums) as pipe:
        assert not list(tmp_path.iterdir())
        assert pipe(image=IMAGE_ONES)["seen"] == 12


def test_run_stage_names_the_stages(pipe):
    assert pipe.run_stage("camera", {"image": IMAGE_ONES})["seen"] == 12
    with pytest.raises(InputError, match="no stage 'nose'; this bundle has camera, fusion"):
        pipe.run_stage("nose", {})
