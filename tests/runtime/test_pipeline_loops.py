"""Pipelines of bundles with a loop that generates."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import mmedge
from mmedge.backends.onnxruntime import stepper
from mmedge.backends.onnxruntime.session import OrtSession
from mmedge.execution import generate
from mmedge.execution.sampling import Sampling, choose
from tests.loop_bundles import Captioner, Completer, Filter, Speller, expected_rows, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loops")


@pytest.fixture(scope="module")
def captioner(folder):
    network = Captioner()
    network.write(folder / "captioner")
    with mmedge.load(folder / "captioner") as pipe:
        yield network, pipe


@pytest.fixture(scope="module")
def speller(folder):
    network = Speller()
    network.write(folder / "speller")
    with mmedge.load(folder / "speller") as pipe:
        yield network, pipe


@pytest.fixture(scope="module")
def completer(folder):
    network = Completer()
    network.write(folder / "completer")
    with mmedge.load(folder / "completer") as pipe:
        yield network, pipe


def image(seed: int, batch: int = 1, frames: int = 5):
    return np.random.default_rng(seed).normal(size=(batch, frames, 6)).astype(np.float32)


def sound(seed: int, batch: int = 1):
    return np.random.default_rng(seed).normal(size=(batch, 3, 5)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("seed", range(6))
def test_greedy_tokens_equal_those_of_single_steps(captioner, speller, seed, batch):
    for (network, pipe), name, value in (
        (captioner, "image", image(seed, batch)),
        (speller, "sound", sound(seed, batch)),
    ):
        result = pipe.run({name: value})
        expected = expected_rows(network, network.scores(value), batch)
        assert rows(result) == expected
        assert set(result) == {"tokens", "lengths", "finish"}
        assert result["tokens"].dtype == result["lengths"].dtype == np.int64
        assert result["tokens"].shape == (batch, max(map(len, expected)))
        assert result["finish"] == [
            "limit" if len(row) == network.limit else "stop" for row in expected
        ]
        for row, length in zip(result["tokens"], result["lengths"], strict=True):
            assert set(row[length:].tolist()) <= {network.stop[0]}


def test_rows_stop_at_steps_of_their_own(captioner):
    _, pipe = captioner
    lengths = {
        tuple(sorted(pipe(image=image(seed, 3), limit=24)["lengths"].tolist()))
        for seed in range(12)
    }
    assert any(len(set(each)) == 3 for each in lengths)  # else the test above shows nothing


@pytest.mark.parametrize("batch", [1, 3])
def test_sampled_tokens_equal_those_of_single_steps(captioner, speller, batch):
    for (network, pipe), name, value in (
        (captioner, "image", image(1, batch)),
        (speller, "sound", sound(1, batch)),
    ):
        seen = set()
        for seed in (0, 1, 2**64 - 1):
            sampling = Sampling(3.0, 6, 0.95, seed)
            result = pipe.run({name: value}, seed=seed, temperature=3, top_k=6, top_p=0.95)
            choices = iter(range(100))
            expected = expected_rows(
                network,
                network.scores(value),
                batch,
                choose=lambda s, n=choices, how=sampling: choose(s, how, next(n), ()),
            )
            assert rows(result) == expected
            seen.add(str(expected))
        assert len(seen) == 3


@pytest.mark.parametrize("new", [None, 0, 1, 3])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_prompt_in_runs_of_any_size_gives_what_single_steps_give(tmp_path, new, count):
    network = Completer()
    network.write(tmp_path / "completer", new=new)
    prompt = np.random.default_rng(count).integers(1, 11, (2, count))
    expected = expected_rows(network, network.scores(2), first=prompt)
    with mmedge.load(tmp_path / "completer") as pipe:
        assert rows(pipe(tokens=prompt)) == expected


def test_a_long_prompt_is_taken_in_runs_whose_scores_are_bounded(completer, monkeypatch):
    network, pipe = completer
    monkeypatch.setattr(generate, "MAX_SCORES", 4 * 11 * 2)
    prompt = np.random.default_rng(0).integers(1, 11, (2, 10))
    counts = []
    hold = stepper.OrtStepper.hold

    def counted(held, tensors):
        counts.extend(array.shape for name, array in tensors.items() if name == "tokens")
        hold(held, tensors)

    monkeypatch.setattr(stepper.OrtStepper, "hold", counted)
    result = pipe.run({"tokens": prompt}, cached=False)
    assert rows(result) == expected_rows(network, network.scores(2), first=prompt)
    assert counts == [(2, 4), (2, 4), (2, 2), (2, 1)]


def test_start_comes_before_the_prompt(tmp_path):
    network = Completer()
    network.write(tmp_path / "completer", start=(4, 2), required=False)
    with mmedge.load(tmp_path / "completer") as pipe:
        prompt = np.array([[3, 5]])
        first = np.array([[4, 2, 3, 5]])
        assert rows(pipe(tokens=prompt)) == expected_rows(network, network.scores(), first=first)
        # Left out: no tokens follow.
        assert rows(pipe()) == expected_rows(network, network.scores(), first=first[:, :2])


def test_any_session_can_be_stepped(folder, captioner, speller, monkeypatch):
    monkeypatch.setattr(OrtSession, "stepper", lambda *_: None)
    for (_, pipe), name, value in (
        (captioner, "image", image(3, 2)),
        (speller, "sound", sound(3, 2)),
    ):
        by_values = pipe.run({name: value}, cached=False)
        monkeypatch.undo()
        assert rows(pipe.run({name: value}, cached=False)) == rows(by_values)
        monkeypatch.setattr(OrtSession, "stepper", lambda *_: None)


def test_by_the_public_methods_of_onnx_runtime(folder, monkeypatch, captioner):
    """As where the private ones are not there: the same tokens."""
    binding = stepper.value_binding
    monkeypatch.setattr(
        stepper,
        "value_binding",
        lambda session: binding(SimpleNamespace(run_with_ort_values=session.run_with_ort_values)),
    )
    with mmedge.load(folder / "captioner") as pipe:
        state = pipe.state()
        result = pipe(image=image(3, 2), state=state)
        assert rows(result) == rows(captioner[1](image=image(3, 2)))
        assert set(state.tensors()) == {"past_k", "past_v"}


def test_a_run_that_takes_too_long_ends(folder, completer):
    prompt = np.ones((8, 600), np.int64)
    with mmedge.load(folder / "completer", run_timeout_s=60) as pipe:
        assert rows(pipe(tokens=prompt)) == rows(completer[1](tokens=prompt))
    with (
        mmedge.load(folder / "completer", run_timeout_s=1e-6) as pipe,
        pytest.raises(mmedge.BackendError, match="more than run_timeout_s"),
    ):
        pipe(tokens=prompt)


def test_openvino_gives_the_same_tokens(tmp_path, captioner):
    pytest.importorskip("openvino")
    network, pipe = captioner
    network.write(tmp_path / "captioner", backend="openvino")
    with mmedge.load(
        tmp_path / "captioner", backend="openvino", allow_unverified=True, threads=1
    ) as other:
        for batch in (1, 3):
            assert rows(other(image=image(4, batch))) == rows(pipe(image=image(4, batch)))


def test_an_image_and_a_prompt(tmp_path):
    network = Captioner()
    network.write(tmp_path / "captioner", prompt=True)
    value, prompt = image(5, 2), np.array([[3, 4, 5], [6, 7, 8]])
    with mmedge.load(tmp_path / "captioner") as pipe:
        for tokens in (prompt, prompt[:, :2], prompt[:, :0], prompt):
            first = np.concatenate((np.full((2, 1), 1), tokens), axis=1)
            expected = expected_rows(network, network.scores(value), first=first)
            assert rows(pipe(image=value, tokens=tokens)) == expected
        counts = pipe.cache_info()
        assert (counts["image"].hits, counts["image"].misses) == (3, 1)
        assert counts["step"].hits == 2
        assert rows(pipe(image=value)) == expected_rows(network, network.scores(value), 2)
        with pytest.raises(mmedge.InputError, match="dimension 'batch', which is"):
            pipe(image=value, tokens=prompt[:1])


def test_the_step_has_the_cores(captioner, folder):
    Filter().write(folder / "filter")
    for name, stages in (("captioner", {"step"}), ("filter", {"net"})):
        with mmedge.Bundle.open(folder / name) as bundle:
            manifest = bundle.manifest
            assert {s.name for s in manifest.stages if manifest.has_cores(s)} == stages


def test_options_of_a_call(captioner):
    network, pipe = captioner
    value = image(2)
    expected = expected_rows(network, network.scores(value), stop=())[0]
    result = pipe(image=value, limit=4)
    assert rows(result) == [expected[:4]]
    assert result["finish"] == ["limit"]
    result = pipe(image=value, stop=[expected[2]])
    assert rows(result) == [expected[: expected.index(expected[2])]]
    assert result["finish"] == ["stop"]
    assert rows(pipe(image=value, stop=())) == [expected]


def test_what_is_suppressed_is_not_chosen(tmp_path):
    network = Captioner()
    value = image(2)
    first = expected_rows(network, network.scores(value))[0]
    network.write(tmp_path / "one", suppress=(first[0],))
    network.write(tmp_path / "two", suppress_first=(first[0],))
    with mmedge.load(tmp_path / "one") as pipe:
        assert first[0] not in rows(pipe(image=value, stop=()))[0]
    with mmedge.load(tmp_path / "two") as pipe:
        tokens = rows(pipe(image=value, stop=()))[0]
        assert tokens[0] != first[0]
        assert first[0] in tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit: expected a whole number from 1 to 24, got 0"),
        ({"limit": 25}, "limit: expected a whole number from 1 to 24, got 25"),
        ({"limit": True}, "limit: expected a whole number from 1 to 24, got True"),
        ({"limit": 3.0}, "limit: expected a whole number .* got 3.0"),
        ({"temperature": -1}, "temperature: expected a number from 0 to 100, got -1"),
        ({"temperature": float("nan")}, "temperature: expected .* got nan"),
        ({"top_k": -1}, "top_k: expected a whole number"),
        ({"top_p": 0}, "top_p: expected a number above 0, to 1, got 0"),
        ({"top_p": 1.5}, "top_p: expected a number from 0 to 1, got 1.5"),
        ({"seed": -1}, "seed"),
        ({"stop": [11]}, "stop: expected a whole number from 0 to 10, got 11"),
        ({"deadline_ms": -1}, "deadline_ms: expected milliseconds from 0, got -1"),
        ({"deadline_ms": float("nan")}, "deadline_ms: expected"),
        ({"noise": np.zeros(3)}, "option 'noise': a bundle with a loop 'generate' takes state, "),
    ],
)
def test_options_that_do_not_fit(captioner, options, message):
    _, pipe = captioner
    for call in (pipe.run, pipe.iterate, pipe.timed):
        with pytest.raises(mmedge.InputError, match=message):
            call({"image": image(0)}, **options)


def test_a_bundle_without_a_loop_takes_no_options(tmp_path):
    Filter().write(tmp_path / "filter")
    ones = np.ones((1, 4), np.float32)
    with mmedge.load(tmp_path / "filter") as pipe:
        with pytest.raises(mmedge.InputError, match="'limit': a bundle without a loop takes state"):
            pipe.run({"x": ones}, limit=3)
        with pytest.raises(mmedge.InputError, match="has no loop, so there are no steps"):
            pipe.iterate({"x": ones})


def test_prompts_that_are_none(completer):
    _, pipe = completer
    with pytest.raises(mmedge.InputError, match="'tokens' holds -100; tokens are numbers from 0"):
        pipe(tokens=np.array([[3, -100]]))
    with pytest.raises(mmedge.InputError, match="holds no token, and the loop has none to start"):
        pipe(tokens=np.zeros((1, 0), np.int64))


@pytest.mark.parametrize("most", [4, 6])
def test_a_state_does_not_grow_beyond_its_dimension(tmp_path, most):
    network = Captioner(most=most)
    network.write(tmp_path / "captioner")
    value = image(4)
    with mmedge.load(tmp_path / "captioner") as pipe:
        result = pipe(image=value, stop=())
    # Runs with 0 to `most` tokens behind them, each of which gives one more.
    assert rows(result) == expected_rows(network, network.scores(value), stop=(), limit=most + 1)
    assert result["finish"] == ["limit"]


def test_a_prompt_that_is_longer_than_the_state(tmp_path):
    Completer().write(tmp_path / "completer", most=5)
    with mmedge.load(tmp_path / "completer") as pipe:
        assert pipe(tokens=np.ones((1, 5), np.int64))["lengths"].tolist() == [1]
        with pytest.raises(
            mmedge.InputError,
            match="begins with 7 tokens, 2 more than state 'past_k' of stage 'step' takes",
        ):
            pipe(tokens=np.ones((1, 7), np.int64))


def test_steps_come_one_by_one(captioner):
    network, pipe = captioner
    value = image(5, 3)
    whole = pipe(image=value)
    run = pipe.iterate({"image": value})
    steps = list(run)
    assert [step.index for step in steps] == list(range(len(steps)))
    for row, length in enumerate(whole["lengths"].tolist()):
        tokens = [int(step.tokens[row]) for step in steps if step.active[row]]
        assert tokens == whole["tokens"][row, :length].tolist()
        if whole["finish"][row] == "stop":
            assert steps[length].tokens[row] == network.stop[0]
            assert not steps[length].active[row]
    result = run.result()
    assert rows(result) == rows(whole)
    assert result["finish"] == whole["finish"]
    assert not list(run)


def test_a_step_keeps_no_scores_but_its_own(completer):
    """Not those of all tokens of the prompt, which are many times more."""
    _, pipe = completer
    prompt = np.random.default_rng(0).integers(1, 11, (2, 9))
    for step in pipe.iterate({"tokens": prompt}, cached=False, limit=3):
        held = step.scores if step.scores.base is None else step.scores.base
        assert held.nbytes == step.scores.nbytes == 2 * 11 * 4


def test_leaving_the_steps_cancels(captioner):
    _, pipe = captioner
    whole = rows(pipe(image=image(6), stop=()))[0]
    run = pipe.iterate({"image": image(6)}, stop=())
    for step in run:
        if step.index == 3:
            break
    result = run.result()
    assert rows(result) == [whole[:4]]
    assert result["finish"] == ["cancel"]
    assert list(run) == []
    with pipe.iterate({"image": image(6)}) as run:
        pass
    assert run.finish == "cancel"
    assert run.result()["tokens"].shape == (1, 0)
    assert run.result()["lengths"].tolist() == [0]


def test_a_deadline_gives_what_there_is(captioner, monkeypatch):
    _, pipe = captioner
    whole = rows(pipe(image=image(7), stop=()))[0]
    result = pipe(image=image(7), stop=(), deadline_ms=0)
    assert result["finish"] == ["deadline"]
    # What was kept of the call before needs no run.
    assert rows(result) == [whole[:1]]
    result = pipe.run({"image": image(7)}, stop=(), deadline_ms=0, cached=False)
    assert rows(result) == [[]]
    now = iter(range(1000))
    monkeypatch.setattr(generate, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr("mmedge.execution.call_options.monotonic", lambda: 0.0)
    result = pipe(image=image(7), stop=(), deadline_ms=5000)
    assert rows(result) == [whole[:6]]
    assert pipe(image=image(7), stop=(), deadline_ms=1e9)["finish"] == ["limit"]


def test_the_time_of_a_call_is_told_by_part(captioner):
    _, pipe = captioner
    result, parts = pipe.timed({"image": image(8)}, limit=5, stop=())
    assert result["lengths"].tolist() == [5]
    assert list(parts) == ["inputs", "see", "step", "outputs"]
    assert parts["step"] > 0


def test_eight_threads_give_each_its_own_tokens(captioner):
    network, pipe = captioner
    values = [image(seed, 1 + seed % 2) for seed in range(8)]
    expected = [expected_rows(network, network.scores(value), len(value)) for value in values]
    wrong = []

    def work(number):
        for turn in range(15):
            at = (number + turn) % 8
            if rows(pipe(image=values[at])) != expected[at]:
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_many_short_generations_take_no_more_memory(captioner):
    _, pipe = captioner
    values = [image(seed) for seed in range(100)]

    def run():
        for count in range(1000):
            pipe(image=values[count % 100], limit=1 + count % 5)
        gc.collect()

    run()
    tracemalloc.start()
    try:
        run()
        before, _ = tracemalloc.get_traced_memory()
        resident = _resident_bytes()
        run()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50_000
    assert _resident_bytes() - resident < 8 << 20


def test_a_run_is_freed_when_it_ends(captioner):
    """Not when the collector comes: it may hold hundreds of megabytes of scores and states."""
    _, pipe = captioner
    gc.collect()
    gc.disable()
    try:
        run = pipe.iterate({"image": image(0)})
        list(run)
        inner = weakref.ref(run._run)
        del run
        assert inner() is None
    finally:
        gc.enable()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


def test_a_pipeline_that_is_closed_ends_its_loops(folder, captioner):
    pipe = mmedge.load(folder / "captioner")
    run = pipe.iterate({"image": image(9)}, stop=())
    taken = [next(run), next(run)]
    pipe.close()
    with pytest.raises(mmedge.BackendError, match="closed; load the bundle again"):
        next(run)
    assert rows(run.result()) == [[int(step.tokens[0]) for step in taken]]
    assert run.result()["finish"] == ["cancel"]


def test_outputs_that_no_step_takes_are_returned_too(tmp_path):
    """And may be written to, though the cache holds what the encoder made."""
    Speller().write(tmp_path / "speller", more=True)
    with mmedge.load(tmp_path / "speller") as pipe:
        for _ in range(2):
            result = pipe(sound=sound(0))
            assert list(result) == ["tokens", "lengths", "finish", "mean"]
            assert np.allclose(result["mean"], sound(0).mean(1))
            result["mean"][:] = 0
