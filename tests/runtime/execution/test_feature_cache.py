"""The feature cache tells contents apart, keeps its bounds, and forgets the least recent first."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from streaming import make_streaming

import mmedge
from mmedge.backends.onnxruntime.session import OrtSession
from mmedge.execution import feature_cache
from mmedge.execution.feature_cache import CacheInfo, FeatureCache
from mmedge.spec import DTYPES


def cache_of(limit=1000):
    return FeatureCache({"a": ("x",), "b": ("y", "z")}, limit=limit)


def floats(count):
    return {"f": np.zeros(count, np.float32)}


any_array = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: hnp.arrays(DTYPES[name], hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
)


@given(any_array, any_array)
def test_keys_are_equal_where_dtype_shape_and_bytes_are(one, other):
    cache = cache_of()
    same = (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    assert (cache.key("a", {"x": one}) == cache.key("a", {"x": other})) == same
    assert cache.key("a", {"x": one}) == cache.key("a", {"x": one.copy(), "y": other})


@given(any_array, st.data())
def test_a_change_of_any_one_byte_is_another_content(array, data):
    if not array.nbytes:
        return
    cache = cache_of()
    before = cache.key("a", {"x": array})
    flat = np.frombuffer(array, np.uint8).copy()
    flat[data.draw(st.integers(0, len(flat) - 1))] ^= data.draw(st.integers(1, 255))
    changed = np.frombuffer(flat, array.dtype).reshape(array.shape)
    assert cache.key("a", {"x": changed}) != before


def test_the_same_bytes_as_another_dtype_or_shape_are_another_content():
    cache = cache_of()
    zeros = np.zeros((1, 4), np.float32)
    others = (zeros.reshape(2, 2), zeros.view(np.int32), np.zeros((0, 4), np.float32))
    keys = {cache.key("a", {"x": value}) for value in (zeros, *others, np.zeros((0, 5), "f4"))}
    assert len(keys) == 5


def test_inputs_of_a_modality_are_not_mixed_up():
    cache = cache_of()
    one, two = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert cache.key("b", {"y": one, "z": two}) != cache.key("b", {"y": two, "z": one})


def test_a_seed_of_its_own():
    values = {"x": np.ones(3, np.float32)}
    assert cache_of().key("a", values) != cache_of().key("a", values)


def test_an_array_on_a_gpu_has_no_key_and_is_counted():
    class Far:
        __cuda_array_interface__ = {"shape": (1,), "typestr": "<f4", "data": (4096, False)}

    cache = cache_of()
    assert cache.key("b", {"y": np.ones(1), "z": Far()}) is None
    assert cache.info()["b"] == CacheInfo(0, 0, 1, 0, 0, 0)


def test_what_is_put_is_got_under_its_modality_alone():
    cache = cache_of()
    key = cache.key("a", {"x": np.ones(3)})
    assert cache.get("a", key) is None
    held = floats(10)
    cache.put("a", key, held)
    assert cache.get("a", key) is held
    assert cache.get("b", key) is None
    assert cache.info() == {"a": CacheInfo(1, 1, 0, 0, 1, 40), "b": CacheInfo(0, 1, 0, 0, 0, 0)}


def test_the_snapshot_is_frozen_and_stays_as_it_was():
    cache = cache_of()
    before = cache.info()["a"]
    cache.get("a", ())
    assert before.misses == 0
    with pytest.raises(AttributeError):
        before.misses = 3


def test_features_larger_than_the_limit_push_nothing_out():
    cache = cache_of(limit=100)
    cache.put("a", (1,), floats(10))
    cache.put("b", (2,), floats(26))
    assert cache.get("a", (1,)) is not None
    assert cache.get("b", (2,)) is None


def test_closed_it_holds_nothing_and_takes_nothing():
    cache = cache_of()
    cache.put("a", (1,), floats(10))
    cache.get("a", (1,))
    cache.close()
    cache.put("a", (2,), {})
    assert cache.info()["a"] == CacheInfo(1, 0, 0, 0, 0, 0)
    assert cache.get("a", (1,)) is None
    assert cache.get("a", (2,)) is None


steps = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.integers(0, 30)))


@given(steps, st.integers(1, 400), st.integers(1, 4))
def test_it_is_a_least_recently_used_cache_within_its_bounds(calls, limit, most):
    """Against a model that is obviously right."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_cache, "MAX_ENTRIES", most)
        cache, model = cache_of(limit), OrderedDict()
        hits = misses = evicted = 0
        for modality, number, count in calls:
            found = cache.get(modality, (number,))
            assert (found is not None) == ((modality, number) in model)
            if found is not None:
                assert found["f"].nbytes == model[modality, number]
                model.move_to_end((modality, number))
                hits += 1
                continue
            misses += 1
            cache.put(modality, (number,), floats(count))
            if 4 * count > limit:
                continue
            mine = [entry for entry in model if entry[0] == modality]
            if len(mine) == most:
                del model[mine[0]]
                evicted += 1
            while sum(model.values()) + 4 * count > limit:
                model.popitem(last=False)
                evicted += 1
            model[modality, number] = 4 * count
        info = cache.info().values()
        assert sum(i.bytes for i in info) == sum(model.values()) <= limit
        assert sum(i.entries for i in info) == len(model)
        assert all(i.entries <= most for i in info)
        totals = [sum(getattr(i, n) for i in info) for n in ("hits", "misses", "evictions")]
        assert totals == [hits, misses, evicted]


def test_writing_to_an_input_during_a_call_poisons_no_later_call(tmp_path, monkeypatch):
    path = make_streaming(tmp_path / "streaming")
    with mmedge.load(path, threads=1) as pipe:
        real, image = OrtSession.run, np.zeros((1, 4), np.float32)
        image[0, 0] = 5

        def run(session, feeds):
            if "image" in feeds:
                image[0, 0] += 1  # between the hash and the encoder
            return real(session, feeds)

        for call in range(3):  # the first miss, a miss after a miss, and a miss after a hit
            five = np.zeros((1, 4), np.float32)
            five[0, 0] = 5 + 100 * call
            image[:] = five
            monkeypatch.setattr(OrtSession, "run", run)
            pipe(image=image)
            monkeypatch.undo()
            for _ in range(2):
                assert pipe(image=five)["seen"].tolist() == [[five[0, 0]]]
            assert pipe(image=five + 1)["seen"].tolist() == [[five[0, 0] + 4]]
            if call == 1:
                assert pipe(image=five)["seen"].tolist() == [[five[0, 0]]]
        hits = pipe.cache_info()["camera"].hits
        pipe(image=five)
        assert pipe.cache_info()["camera"].hits == hits + 1


def test_a_thread_that_writes_all_the_time_poisons_no_later_call(tmp_path):
    path = make_streaming(tmp_path / "streaming")
    contents = [np.full((1, 4), k, np.float32) for k in (1, 2)]
    image, stop = contents[0].copy(), threading.Event()

    def write():
        while not stop.is_set():
            for content in contents:
                image[:] = content

    writer = threading.Thread(target=write)
    with mmedge.load(path, threads=1) as pipe:
        writer.start()
        for _ in range(300):
            pipe(image=image)
            pipe(image=np.random.default_rng().random((1, 4), np.float32))
        stop.set()
        writer.join()
        for content in contents:
            for _ in range(2):
                assert pipe(image=content)["seen"].tolist() == [[content.sum()]]
