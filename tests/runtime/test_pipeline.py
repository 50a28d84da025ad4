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
from mmedge.backends.onnxruntime.session import OrtSession
from mmedge.bundle import Bundle
from mmedge.errors import BackendError, InputError, NoVariantError
from mmedge.execution.feature_cache import CacheInfo
from mmedge.execution.inputs import Feeds
from mmedge.execution.scheduler import TRIALS, WARMUP, Schedule


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
        ({"image": None}, "got None; leave out what is absent"),
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


ONES = np.ones((1, 4), np.float32)
NOTHING = object()
#: Often alike in all but one thing, so that a later call could pass for an earlier one.
GIVEN = {
    "image": [
        *(IMAGE_ONES, np.ones((2, 2, 2, 3), np.uint8), np.ones((1, 2, 2, 3), np.int8)),
        np.ones((1, 2, 3, 2), np.uint8).swapaxes(2, 3),
    ],
    "pcm": [NOTHING, NOTHING, ONES, ONES.astype(">f4"), ONES.view(np.recarray), [[1.0]]],
    "what": [NOTHING, NOTHING, NOTHING, ONES],
}
CALLS = st.fixed_dictionaries({n: st.sampled_from(values) for n, values in GIVEN.items()}).map(
    lambda given: {name: value for name, value in given.items() if value is not NOTHING}
)


@given(st.lists(CALLS, min_size=2, max_size=8))
def test_what_came_before_decides_nothing(sums, calls):
    """Inputs are checked against those of earlier calls: each call is as if it were the first."""
    with Bundle.open(sums) as bundle:
        feeds = Feeds(bundle)

        def prepared(feeds, call):
            try:
                return feeds.prepare(call)
            except InputError as error:
                return str(error)

        for call in calls:
            found, alone = prepared(feeds, call), prepared(Feeds(bundle), call)
            if isinstance(alone, str):
                assert found == alone
                continue
            assert found.keys() == alone.keys()
            for name, value in alone.items():
                assert type(found[name]) is np.ndarray
                assert found[name].flags.c_contiguous
                assert found[name].dtype == value.dtype
                np.testing.assert_array_equal(found[name], value)


IDS, MASK = np.zeros((1, 6), np.int64), np.zeros((1, 6), np.bool_)
ALONE = [
    *(("camera", value) for value in GIVEN["image"]),
    *(("voice", value) for value in GIVEN["pcm"] if value is not NOTHING),
    *(("voice", {"pcm": ONES}), ("voice", {"image": ONES}), ("voice", ONES[:, :3].copy())),
    *(("text", value) for value in ("red", {"ids": IDS, "mask": MASK}, {"mask": MASK, "ids": IDS})),
    *(("text", value) for value in (IDS, {"ids": IDS}, {"ids": MASK, "mask": IDS})),
]


@given(st.lists(st.sampled_from(ALONE), min_size=2, max_size=8))
def test_what_a_modality_had_before_decides_nothing(sums, pushes):
    with Bundle.open(sums) as bundle:
        feeds = Feeds(bundle)

        def checked(feeds, push):
            try:
                return feeds.check_modality(*push)
            except InputError as error:
                return str(error)

        for push in pushes:
            found, alone = checked(feeds, push), checked(Feeds(bundle), push)
            if isinstance(alone, str):
                assert found == alone
                continue
            assert found[1] == alone[1]
            assert list(found[0]) == list(alone[0])
            for name, value in alone[0].items():
                assert type(found[0][name]) is np.ndarray
                assert found[0][name].flags.c_contiguous
                assert found[0][name].dtype == value.dtype
                np.testing.assert_array_equal(found[0][name], value)


def test_chunks_of_another_axis_are_checked_anew(sums):
    with Bundle.open(sums) as bundle:
        feeds = Feeds(bundle)
        rows = {"pcm": 1}
        _, sizes = feeds.check_modality("voice", ONES, rows)
        assert feeds.check_modality("voice", ONES, rows)[1] == sizes
        assert (
            feeds.check_modality("voice", ONES)[1] == Feeds(bundle).check_modality("voice", ONES)[1]
        )
        with pytest.raises(InputError, match="a chunk without rows"):
            feeds.check_modality("voice", ONES[:, :0], rows)


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
    for _ in range(2):
        outputs, parts = pipe.timed({"image": IMAGE_ONES}, cached=False)
        assert outputs["seen"] == 12
        assert list(parts) == ["inputs", "camera", "fusion", "outputs"]
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


def given_to_pair(image=1, pcm=1, state=0, batch=1, samples=4):
    """Inputs of the bundle ``pair``, each filled with one number, and what must come of them."""
    inputs = {
        "image": np.full((batch, 2, 2, 3), image, np.uint8),
        "pcm": np.full((batch, samples), pcm, np.float32),
        "state": np.full((batch, 2), state, np.float32),
    }
    return inputs, np.full((batch, 1), 12 * image + 2 * samples * pcm + 2 * state, np.float32)


def test_an_encoder_runs_again_only_on_new_content(pair, runs):
    with mmedge.load(pair, threads=1) as pipe:
        for change in ({}, {}, {"state": 3}, {"pcm": 2}, {"image": 7, "pcm": 2}, {}, {"batch": 2}):
            inputs, expected = given_to_pair(**change)
            np.testing.assert_array_equal(pipe.run(inputs)["out"], expected)
        # Contents of the image: 1, 7, and 1 in a batch of 2; of the sound: 1, 2, and 1 in two rows.
        assert runs == {"seen": 3, "level": 3, "heard": 3, "out": 7}
        assert pipe.cache_info() == {
            "camera": CacheInfo(hits=4, misses=3, unhashed=0, evictions=0, entries=3, bytes=16),
            "voice": CacheInfo(hits=4, misses=3, unhashed=0, evictions=0, entries=3, bytes=32),
        }


def test_an_array_written_over_in_place_is_new_content(pair, runs):
    inputs, _ = given_to_pair()
    with mmedge.load(pair, threads=1) as pipe:
        pipe.run(inputs)
        inputs["image"][0, 1, 1, 2] = 2
        assert pipe.run(inputs)["seen"] == 13
    assert runs["seen"] == 2
    assert runs["level"] == 1


def test_stand_ins_of_an_absent_modality_are_cached_too(pair, runs):
    with mmedge.load(pair, threads=1) as pipe:
        for image in (1, 2, 3):
            assert pipe(image=np.full((1, 2, 2, 3), image, np.uint8))["out"] == 12 * image
    assert runs == {"seen": 3, "level": 1, "heard": 1, "out": 3}


def test_what_a_caller_writes_into_an_output_stays_with_the_caller(pair):
    inputs, expected = given_to_pair()
    with mmedge.load(pair, threads=1) as pipe:
        for call in range(3):  # a miss, then hits
            outputs, _ = pipe.timed(inputs) if call == 1 else (pipe.run(inputs), None)
            np.testing.assert_array_equal(outputs["out"], expected)
            assert outputs["seen"] == 12
            for value in outputs.values():
                value[:] = -1
        assert pipe.cache_info()["camera"].hits == 2


def test_uncached_calls_run_every_stage_and_leave_the_cache_alone(pair, runs):
    inputs, expected = given_to_pair()
    with mmedge.load(pair, threads=1) as pipe:
        pipe.run(inputs)
        before = pipe.cache_info()
        for _ in range(2):
            np.testing.assert_array_equal(pipe.run(inputs, cached=False)["out"], expected)
            outputs, parts = pipe.timed(inputs, cached=False)
            np.testing.assert_array_equal(outputs["out"], expected)
            assert all(parts.values())
        assert pipe.cache_info() == before
    assert runs == {"seen": 5, "level": 5, "heard": 5, "out": 5}


def test_a_cache_of_no_bytes_is_none(pair, runs):
    inputs, expected = given_to_pair()
    with mmedge.load(pair, threads=1, cache_bytes=0) as pipe:
        for _ in range(3):
            np.testing.assert_array_equal(pipe.run(inputs)["out"], expected)
        assert pipe.cache_info() == {}
    assert runs["seen"] == 3
    with pytest.raises(ValueError, match="cache_bytes must be >= 0, got -1"):
        mmedge.load(pair, cache_bytes=-1)


def test_one_stage_is_neither_cached_nor_scheduled(tiny_bundle, tiny, runs):
    with mmedge.load(tiny_bundle, threads=1, concurrent=True) as pipe:
        for _ in range(2):
            pipe.run(tiny.samples[0].inputs)
        assert pipe.cache_info() == {}
        assert pipe.schedule == Schedule(concurrent=False)
    assert runs == {"score": 2}


def test_stages_that_the_cache_spared_took_no_time(pair):
    with mmedge.load(pair, threads=1) as pipe:
        pipe.run(given_to_pair()[0])
        _, parts = pipe.timed(given_to_pair(pcm=2)[0])
        assert list(parts) == ["inputs", "camera", "mic", "ear", "fusion", "outputs"]
        assert [name for name, value in parts.items() if value == 0] == ["camera"]


def test_arrays_on_a_gpu_are_run_each_time(pair, runs, monkeypatch):
    class Far:
        def __init__(self, array):
            self.array = array
            self.__cuda_array_interface__ = array.__array_interface__

    count = OrtSession.run

    def fetch(self, feeds):
        return count(self, {k: getattr(v, "array", v) for k, v in feeds.items()})

    monkeypatch.setattr(OrtSession, "run", fetch)
    inputs, expected = given_to_pair()
    with mmedge.load(pair, threads=1) as pipe:
        pipe._calls._feeds._on_gpu = True  # as a variant for the GPU has it
        for _ in range(3):
            found = pipe.run(inputs | {"image": Far(inputs["image"])})
            np.testing.assert_array_equal(found["out"], expected)
        assert pipe.cache_info()["camera"] == CacheInfo(0, 0, 3, 0, 0, 0)
    assert runs == {"seen": 3, "level": 1, "heard": 1, "out": 3}


numbers = st.integers(0, 3)
calls_to_pair = st.lists(
    st.builds(
        dict, image=numbers, pcm=numbers, state=numbers, batch=st.integers(1, 3),
        samples=st.integers(2, 4),
    ),
    max_size=30,
)  # fmt: skip


@settings(max_examples=50)
@given(calls_to_pair, st.sampled_from([8, 40, 2**20]), st.sampled_from([True, False, None]))
def test_no_sequence_of_calls_changes_a_bit(pair, calls, cache_bytes, concurrent):
    with mmedge.load(pair, threads=1, cache_bytes=cache_bytes, concurrent=concurrent) as pipe:
        for change in calls:
            inputs, expected = given_to_pair(**change)
            found = pipe.run(inputs)
            plain, _ = pipe.timed(inputs, cached=False)
            assert list(found) == ["out", "seen"]
            for name, value in found.items():
                assert value.tobytes() == plain[name].tobytes()
            np.testing.assert_array_equal(found["out"], expected)
        info = pipe.cache_info().values()
        assert all(i.hits + i.misses == len(calls) for i in info)
        assert sum(i.bytes for i in info) <= cache_bytes


def test_encoders_run_at_once_when_told_to(pair, monkeypatch):
    barrier = threading.Barrier(2, timeout=60)
    run = OrtSession.run

    def meet(self, feeds):
        if self.outputs[0].name in ("seen", "level"):
            barrier.wait()  # each waits until the other has begun
        return run(self, feeds)

    monkeypatch.setattr(OrtSession, "run", meet)
    with mmedge.load(pair, threads=1, concurrent=True) as pipe:
        assert pipe.schedule.concurrent is True
        for image in range(5):
            inputs, expected = given_to_pair(image, pcm=image)
            np.testing.assert_array_equal(pipe.run(inputs)["out"], expected)


def test_random_inputs_give_the_same_bits_serial_and_at_once(pair):
    rng = np.random.default_rng(5)
    with (
        mmedge.load(pair, threads=1, concurrent=True) as one,
        mmedge.load(pair, threads=1, concurrent=False) as other,
    ):
        for _ in range(30):
            inputs = {
                "image": rng.integers(0, 256, (2, 2, 2, 3), np.uint8),
                "pcm": rng.standard_normal((2, 7), np.float32),
                "state": rng.standard_normal((2, 2), np.float32),
            }
            a, b = one.run(inputs), other.run(inputs)
            assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_the_first_calls_that_need_two_encoders_decide(pair):
    with mmedge.load(pair, threads=1) as pipe:
        for image in range(WARMUP + 2 * TRIALS):
            assert pipe.schedule.concurrent is None
            pipe.run(given_to_pair(image, pcm=image)[0])
            pipe.run(given_to_pair(image + 100, pcm=image)[0])  # one encoder: no trial
            pipe.run(given_to_pair(image, pcm=image)[0])  # none
        decided = pipe.schedule
        assert decided.concurrent is (decided.ratio <= 0.95)
        assert decided.calls == 2 * TRIALS
        with pytest.raises(AttributeError):
            decided.concurrent = None


def test_an_error_of_one_encoder_comes_after_the_others_have_ended(pair, monkeypatch):
    failed, ended = threading.Event(), []
    run = OrtSession.run
    error = BackendError("the camera's stage broke")

    def break_camera(self, feeds):
        name = self.outputs[0].name
        if name == "seen":
            failed.set()
            raise error
        if name == "level":
            assert failed.wait(60)
        outputs = run(self, feeds)
        ended.append(name)
        return outputs

    with mmedge.load(pair, threads=1, concurrent=True) as pipe:
        with monkeypatch.context() as patch:
            patch.setattr(OrtSession, "run", break_camera)
            with pytest.raises(BackendError) as caught:
                pipe.run(given_to_pair()[0])
        assert caught.value is error
        assert ended == ["level", "heard"]
        inputs, expected = given_to_pair()
        np.testing.assert_array_equal(pipe.run(inputs)["out"], expected)
        assert pipe.cache_info()["voice"].hits == 1  # what did not fail was kept


@pytest.mark.parametrize("concurrent", [True, False, None])
@pytest.mark.parametrize("cache_bytes", [0, 64, 2**20])
def test_many_threads_with_cached_and_evicted_features(pair, concurrent, cache_bytes):
    wrong, calls, workers = [], 60, 8

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(calls):
            image, pcm, state, batch = map(int, rng.integers((0, 0, 0, 1), (5, 5, 3, 4)))
            inputs, expected = given_to_pair(image, pcm, state, batch)
            try:
                found = pipe.run(inputs)
                if (
                    not np.array_equal(found["out"], expected)
                    or (found["seen"] != 12 * image).any()
                ):
                    wrong.append((inputs, found))
                found["seen"][:] = -1
            except Exception as error:  # noqa: BLE001 - reported below
                wrong.append(error)

    with mmedge.load(pair, threads=1, cache_bytes=cache_bytes, concurrent=concurrent) as pipe:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        info = pipe.cache_info().values()
    assert not wrong
    assert all(i.hits + i.misses == calls * workers for i in info)
    assert sum(i.bytes for i in info) <= cache_bytes


def test_closed_during_a_call_it_says_so_and_holds_nothing(pair, monkeypatch):
    run = OrtSession.run

    def close_first(self, feeds):
        if self.outputs[0].name == "seen":
            outputs = run(self, feeds)
            pipe.close()
            return outputs
        return run(self, feeds)

    monkeypatch.setattr(OrtSession, "run", close_first)
    for concurrent in (True, False):
        pipe = mmedge.load(pair, threads=1, concurrent=concurrent)
        with pytest.raises(BackendError, match="is closed; load the bundle again"):
            pipe.run(given_to_pair()[0])
        assert all(i.entries == i.bytes == 0 for i in pipe.cache_info().values())


@pytest.mark.parametrize("concurrent", [True, False, None])
@pytest.mark.parametrize("name", ["pair", "tiny_bundle"])
def test_closing_under_the_feet_of_other_threads(request, tiny, name, concurrent):
    path = request.getfixturevalue(name)
    for _ in range(5):
        pipe = mmedge.load(path, threads=1, concurrent=concurrent)
        ends, begun = [], threading.Barrier(5, timeout=60)

        def work(seed, pipe=pipe, ends=ends, begun=begun):
            begun.wait()
            try:
                for call in range(10**6):
                    if name == "pair":
                        pipe.run(given_to_pair(image=(call + seed) % 256, pcm=call)[0])
                    else:
                        pipe.run(tiny.samples[0].inputs)
            except BackendError:
                ends.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        begun.wait()
        pipe.close()
        for thread in threads:
            thread.join()
        assert sorted(ends) == [0, 1, 2, 3]


def test_threads_of_a_pipeline_end_with_it(pair):
    before = threading.active_count()
    with mmedge.load(pair, threads=1, concurrent=True) as pipe:
        assert threading.active_count() == before  # none before two encoders must run
        pipe.run(given_to_pair()[0])
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
