"""``mmedge.State``: what stages hand to themselves from call to call."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

import mmedge
from tests.loop_bundles import Captioner, Completer, Filter, Speller, reference

ONES = np.ones((1, 4), np.float32)


@pytest.fixture(params=["whole", "encoder", "fusion"])
def filter_pipe(request, tmp_path):
    Filter(request.param).write(tmp_path / "filter")
    with mmedge.load(tmp_path / "filter") as pipe:
        yield pipe


@pytest.fixture
def speller(tmp_path):
    network = Speller()
    network.write(tmp_path / "speller")
    with mmedge.load(tmp_path / "speller") as pipe:
        yield network, pipe


@pytest.fixture
def completer(tmp_path):
    network = Completer()
    network.write(tmp_path / "completer")
    with mmedge.load(tmp_path / "completer") as pipe:
        yield network, pipe


def sound(batch=1):
    return np.random.default_rng(1).normal(size=(batch, 3, 5)).astype(np.float32)


def filtered(pipe, values, state=None):
    return [float(pipe(x=ONES * v, gain=ONES, state=state)["y"][0, 0]) for v in values]


def test_a_call_goes_on_where_the_last_one_ended(filter_pipe):
    state = filter_pipe.state()
    assert filtered(filter_pipe, [1, 1, 0, 2], state) == [1.0, 2.0, 1.5, 2.75]
    assert state.position == 4
    assert state.tensors()["h"].tolist() == [[2.375] * 4]
    assert state.nbytes == 16
    # Without one, and with a new one, a call begins anew.
    assert filtered(filter_pipe, [1, 1]) == [1.0, 1.0]
    assert filtered(filter_pipe, [1], filter_pipe.state()) == [1.0]


def test_an_encoder_with_state_runs_on_the_same_content_again(filter_pipe):
    state = filter_pipe.state()
    assert filtered(filter_pipe, [1, 1, 1], state) == [1.0, 2.0, 2.5]
    assert "x" not in filter_pipe.cache_info()


def test_copies_and_resets(filter_pipe):
    state = filter_pipe.state()
    filtered(filter_pipe, [1, 1], state)
    other = state.copy()
    assert filtered(filter_pipe, [0], state) == filtered(filter_pipe, [0], other) == [1.5]
    filtered(filter_pipe, [4], other)
    assert state.tensors()["h"][0, 0] == 0.75
    state.reset()
    assert (state.position, state.tensors(), state.nbytes) == (0, {}, 0)
    assert filtered(filter_pipe, [1], state) == [1.0]
    assert other.position == 4


def test_what_is_given_out_may_be_written_to(tmp_path):
    Filter("whole").write(tmp_path / "filter", returns_state=True)
    with mmedge.load(tmp_path / "filter") as pipe:
        state = pipe.state()
        pipe(x=ONES, gain=ONES, state=state)["h_new"][:] = 9
        state.tensors()["h"][:] = 9
        assert filtered(pipe, [1], state) == [2.0]


def test_a_stored_first_state(tmp_path):
    first = np.arange(4, dtype=np.float32)[None]
    Filter("fusion").write(tmp_path / "filter", stored=first)
    with mmedge.load(tmp_path / "filter") as pipe:
        assert pipe(x=ONES, gain=ONES)["y"].tolist() == [[1, 2, 3, 4]]
        # One row is that of each.
        two = np.ones((2, 4), np.float32)
        assert pipe(x=two, gain=two)["y"].tolist() == [[1, 2, 3, 4]] * 2


def test_a_state_of_other_sizes_is_refused(filter_pipe):
    state = filter_pipe.state()
    filtered(filter_pipe, [1], state)
    two = np.ones((2, 4), np.float32)
    with pytest.raises(
        mmedge.InputError,
        match="state 'h' of stage '.*': the State given has size 1 along axis 0 .'batch'., "
        r"this call has 2; call with the same sizes, or reset\(\) the State",
    ):
        filter_pipe(x=two, gain=two, state=state)
    assert filtered(filter_pipe, [0], state) == [1.0]  # and is as it was


def test_a_state_of_another_pipeline_is_refused(filter_pipe, speller):
    for pipe, inputs, other in (
        (filter_pipe, {"x": ONES, "gain": ONES}, speller[1]),
        (speller[1], {"sound": sound()}, filter_pipe),
    ):
        with pytest.raises(mmedge.InputError, match="belongs to another pipeline; make one with"):
            pipe.run(inputs, state=other.state())


def test_a_bundle_without_state_gives_none(tmp_path):
    from mmedge.bundle import Bundle
    from tests.tiny import make_tiny

    tiny = make_tiny()
    Bundle.write(tmp_path / "tiny", tiny.manifest, tiny.files, samples=tiny.samples)
    with mmedge.load(tmp_path / "tiny") as pipe:
        with pytest.raises(mmedge.InputError, match="keeps no state from call to call; call it"):
            pipe.state()
        with pytest.raises(mmedge.InputError, match="without state takes no options; leave it"):
            pipe.run(tiny.samples[0].inputs, state=mmedge.State(None))


def test_a_state_is_for_one_call_at_a_time(speller):
    _, pipe = speller
    state = pipe.state()
    run = pipe.iterate({"sound": sound()}, state=state)
    next(run)
    for use in (lambda: pipe(sound=sound(), state=state), state.reset):
        with pytest.raises(mmedge.InputError, match="in use by another call, or by steps that"):
            use()
    run.close()
    pipe(sound=sound(), state=state, limit=1)
    # Steps that nobody holds any longer let go of it.
    run = pipe.iterate({"sound": sound()}, state=state)
    del run
    pipe(sound=sound(), state=state, limit=1)


def test_two_threads_with_one_state(filter_pipe):
    state, refusals = filter_pipe.state(), []

    def work():
        for _ in range(200):
            try:
                filter_pipe(x=ONES, gain=ONES, state=state)
            except mmedge.InputError as error:
                refusals.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.position == 800 - len(refusals)
    assert all("in use" in message for message in refusals)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_loop_goes_on_with_its_state(speller, tmp_path, batch, temperature):
    """Some tokens and then the rest are what all of them are at once."""
    captioner = Captioner()
    captioner.write(tmp_path / "captioner")
    image = np.random.default_rng(0).normal(size=(batch, 5, 6)).astype(np.float32)
    options = {"stop": (), "temperature": temperature, "seed": 4}
    with mmedge.load(tmp_path / "captioner") as other:
        for pipe, inputs in (
            (speller[1], {"sound": sound(batch)}),
            (other, {"image": image}),
        ):
            whole = pipe.run(inputs, limit=20, **options)["tokens"]
            state = pipe.state()
            parts = [
                pipe.run(inputs, limit=limit, state=state, **options)["tokens"]
                for limit in (1, 7, 12)
            ]
            assert np.concatenate(parts, 1).tolist() == whole.tolist()
            assert state.position == 20  # with the first token, without the last


def test_a_dialogue(completer):
    """What was said and answered is there when more is said."""
    network, pipe = completer
    first, more = np.array([[3, 4, 5]]), np.array([[7, 2]])
    state = pipe.state()
    answer = pipe(tokens=first, state=state, limit=4, stop=())["tokens"]
    reply = pipe(tokens=more, state=state, limit=5, stop=())["tokens"]
    everything = np.concatenate((first, answer, more), 1)
    expected = reference(network.scores(), everything, stop=(0,), limit=5)[0]
    assert reply[0, : len(expected)].tolist() == expected


def test_steps_that_were_left_leave_their_state(completer):
    _, pipe = completer
    prompt, state = np.array([[3, 4, 5]]), pipe.state()
    whole = pipe(tokens=prompt, stop=(), limit=8)["tokens"][0].tolist()
    with pipe.iterate({"tokens": prompt}, state=state, stop=()) as run:
        for step in run:
            if step.index == 2:
                break
    assert state.position == 5
    nothing = np.zeros((1, 0), np.int64)
    rest = pipe(tokens=nothing, state=state, stop=(), limit=5)["tokens"]
    assert rest[0].tolist() == whole[3:]


def test_a_call_that_fails_leaves_the_state_as_it_was(completer):
    _, pipe = completer
    state = pipe.state()
    pipe(tokens=np.array([[3, 4]]), state=state, limit=2, stop=())
    before = state.tensors()
    with pytest.raises(mmedge.BackendError, match="ONNX Runtime failed"):
        pipe(tokens=np.array([[3, 400]]), state=state)
    after = state.tensors()
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert state.position == 3
    pipe(tokens=np.array([[3]]), state=state)  # and is free


def test_rows_of_a_loops_state(completer):
    _, pipe = completer
    state = pipe.state()
    pipe(tokens=np.array([[3, 4]]), state=state, limit=2)
    with pytest.raises(mmedge.InputError, match="the State given has 1 rows, this call has 2"):
        pipe(tokens=np.array([[3], [4]]), state=state)


def test_a_state_that_is_nan_is_not_kept(tmp_path):
    Filter("whole").write(tmp_path / "filter")
    with mmedge.load(tmp_path / "filter", allow_non_finite=True) as pipe:
        state = pipe.state()
        filtered(pipe, [1], state)
        with pytest.raises(mmedge.BackendError, match="made NaN of its state .*before is kept"):
            filtered(pipe, [np.nan], state)
        assert filtered(pipe, [0], state) == [1.0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_cannot_go_on(speller):
    _, pipe = speller
    run = pipe.iterate({"sound": sound()}, stop=())
    next(run)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            next(run)
        except mmedge.BackendError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as answer:
        assert b"a forked process cannot use" in answer.read()
    assert next(run).index == 1
