"""The first tokens that an earlier call began with are not run again."""

from __future__ import annotations

import numpy as np
import pytest

import mmedge
from mmedge.backends.onnxruntime.stepper import OrtStepper
from tests.loop_bundles import Captioner, Completer, Speller, reference


@pytest.fixture
def runs(monkeypatch):
    """The numbers of tokens that the step took, run by run."""
    counts = []
    hold = OrtStepper.hold

    def counted(stepper, tensors):
        if "tokens" in tensors:
            counts.append(tensors["tokens"].shape[1])
        hold(stepper, tensors)

    monkeypatch.setattr(OrtStepper, "hold", counted)
    return counts


@pytest.fixture
def completer(tmp_path):
    network = Completer()
    network.write(tmp_path / "completer", start=(1,))
    with mmedge.load(tmp_path / "completer") as pipe:
        yield network, pipe


def generated(network, pipe, prompt, **options):
    """Tokens of a call, which are those of single steps."""
    prompt = np.array([prompt])
    result = pipe(tokens=prompt, limit=6, stop=(), **options)
    first = np.concatenate((np.full((1, 1), 1), prompt), axis=1)
    expected = reference(network.scores(), first, stop=(99,), limit=6)
    assert result["tokens"].tolist() == expected
    return expected


def first_runs(runs):
    """Tokens of the first run of a call, if it had one before those of the buffer."""
    counts, runs[:] = runs[:-1], []
    return counts


def counters(pipe, name="step"):
    info = pipe.cache_info()[name]
    return info.hits, info.misses, info.entries


def test_what_is_the_same_is_not_run_again(completer, runs):
    network, pipe = completer
    generated(network, pipe, [3, 4, 5, 6])
    assert first_runs(runs) == [5]
    assert counters(pipe) == (0, 1, 1)
    generated(network, pipe, [3, 4, 5, 6])  # the same
    assert first_runs(runs) == []
    assert counters(pipe) == (1, 1, 1)
    generated(network, pipe, [3, 4, 5, 6, 7, 8])  # longer
    assert first_runs(runs) == [2]
    assert counters(pipe) == (2, 1, 2)
    generated(network, pipe, [3, 4, 5, 9, 9])  # another end
    assert first_runs(runs) == [2]
    generated(network, pipe, [3, 4])  # shorter: its last token gives the scores
    assert first_runs(runs) == [1]
    generated(network, pipe, [8, 8])  # nothing but what all start with
    assert first_runs(runs) == [3]
    assert counters(pipe) == (4, 2, 5)


def test_the_longest_is_taken(completer, runs):
    network, pipe = completer
    for prompt in ([3, 4], [3, 4, 5, 6], [3, 4, 5]):
        generated(network, pipe, prompt)
    runs.clear()
    generated(network, pipe, [3, 4, 5, 6, 7])
    assert first_runs(runs) == [1]


def test_not_cached_is_not_kept_either(completer, runs):
    _, pipe = completer
    prompt = np.array([[3, 4, 5]])
    for _ in range(2):
        pipe.run({"tokens": prompt}, cached=False, limit=2, stop=())
        assert first_runs(runs) == [4]
    assert counters(pipe) == (0, 0, 0)
    assert pipe.cache_info()["step"].bytes == 0


def test_a_state_of_the_callers_is_not_kept(completer, runs):
    _, pipe = completer
    state = pipe.state()
    pipe(tokens=np.array([[3, 4]]), state=state, limit=2, stop=())
    assert counters(pipe) == (0, 1, 1)  # it was new, as without one
    pipe(tokens=np.array([[3, 4]]), state=state, limit=2, stop=())
    assert counters(pipe) == (0, 1, 1)


def test_a_prompt_that_sees_itself_is_taken_whole(tmp_path, runs):
    network = Completer()
    network.write(tmp_path / "completer", start=(1,), whole_prompt=True, new=5)
    with mmedge.load(tmp_path / "completer") as pipe:
        for prompt in ([3, 4, 5], [3, 4, 5], [3, 4, 5, 6]):
            generated(network, pipe, prompt)
            assert first_runs(runs) == [1 + len(prompt)]
        with pytest.raises(mmedge.errors.InputError, match="begins with 6 tokens.* up to 5"):
            pipe(tokens=np.array([[3, 4, 5, 6, 7]]))


@pytest.mark.parametrize("batch", [1, 3])
def test_another_image_is_another_prefix(tmp_path, batch):
    network = Captioner()
    network.write(tmp_path / "captioner")
    images = [
        np.random.default_rng(seed).normal(size=(batch, 5, 6)).astype(np.float32)
        for seed in range(2)
    ]
    first = np.full((batch, 1), 1)
    with mmedge.load(tmp_path / "captioner") as pipe:
        for number, image in enumerate([*images, *images]):
            result = pipe(image=image, stop=(), limit=8)
            expected = reference(network.scores(image), first, stop=(99,), limit=8)
            assert result["tokens"].tolist() == expected
            assert counters(pipe)[:2] == (max(0, number - 1), min(2, number + 1))
        images[0][0, 0, 0] += 1  # written to in its place
        result = pipe(image=images[0], stop=(), limit=8)
        expected = reference(network.scores(images[0]), first, stop=(99,), limit=8)
        assert result["tokens"].tolist() == expected
        assert counters(pipe)[:2] == (2, 3)


def test_a_state_that_does_not_grow_is_taken_whole(tmp_path):
    network = Speller()
    network.write(tmp_path / "speller", start=(1, 4))
    sound = np.ones((1, 3, 5), np.float32)
    first = np.array([[1, 4]])
    with mmedge.load(tmp_path / "speller") as pipe:
        for hits in range(3):
            result = pipe(sound=sound, stop=(), limit=8)
            expected = reference(network.scores(sound), first, stop=(99,), limit=8)
            assert result["tokens"].tolist() == expected
            assert counters(pipe)[:2] == (hits, 1)


def test_the_oldest_goes_when_there_is_no_more_room(tmp_path):
    network = Completer()
    network.write(tmp_path / "completer")
    with mmedge.load(tmp_path / "completer", cache_bytes=1500) as pipe:
        for number in range(40):
            prompt = np.array([[1 + number % 7, 2 + number % 5, 3, 4]])
            pipe(tokens=prompt, limit=2, stop=())
        info = pipe.cache_info()["step"]
        assert info.evictions > 0
        assert 0 < info.bytes <= 1500
        generated_again = pipe(tokens=prompt, limit=6, stop=())["tokens"].tolist()
        expected = reference(network.scores(), prompt, stop=(99,), limit=6)
        assert generated_again == expected
    with mmedge.load(tmp_path / "completer", cache_bytes=0) as pipe:
        assert pipe(tokens=prompt, limit=6, stop=())["tokens"].tolist() == expected
        assert pipe.cache_info() == {}


def test_suppressing_does_not_write_to_what_is_kept(tmp_path):
    network = Completer()
    prompt = np.array([[3, 4, 5]])
    best = reference(network.scores(), prompt, stop=(99,), limit=1)[0][0]
    network.write(tmp_path / "completer", suppress_first=(best,))
    with mmedge.load(tmp_path / "completer") as pipe:
        tokens = [pipe(tokens=prompt, limit=1, stop=())["tokens"].tolist() for _ in range(3)]
        assert tokens[0] == tokens[1] == tokens[2] != [[best]]
        entry = next(iter(pipe._loaded._cache._entries.values()))[0]
        assert entry.scores.argmax() == best
