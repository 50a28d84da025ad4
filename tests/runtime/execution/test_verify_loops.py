"""Golden samples of loops and states are replayed; what is not as it was is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from loop_bundles import Captioner, Filter
from loop_samples import caption, rewrite, write_filter

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import AccuracyError, BundleError, InputError
from mmedge.execution.verify import verify
from mmedge.execution.verify_loop import Choice, worst_choice
from mmedge.spec import Tolerance


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """A bundle without samples, and two samples, of one row and of three."""
    folder = tmp_path_factory.mktemp("captions")
    rng = np.random.default_rng(0)
    bundle = Captioner().write(folder / "plain")
    with mmedge.load(bundle) as pipe:
        samples = [
            caption(pipe, rng.normal(size=(batch, 5, 6)).astype(np.float32)) for batch in (1, 3)
        ]
    yield bundle, samples
    bundle.close()


def rows(path):
    with mmedge.load(path) as pipe:
        return {(row.stage, row.output): row for row in verify(pipe).rows}


def changed(sample, **loop):
    return replace(sample, loop={**sample.loop, **loop})


def test_a_loop_is_replayed(captions, tmp_path):
    rewrite(captions[0], tmp_path / "b", captions[1]).close()
    found = rows(tmp_path / "b")
    assert {("step", "logits"), ("(loop)", "logits"), ("(loop)", "tokens")} <= found.keys()
    assert all(row.ok for row in found.values())
    assert found["(loop)", "tokens"].max_abs == 0


def test_a_sample_without_a_token_is_replayed(captions, tmp_path):
    bundle, (sample, _) = captions
    # Every token stops: what is left is the scores of the first choice.
    loop = replace(bundle.manifest.loop, stop=tuple(range(11)))
    stopping = replace(bundle.manifest, loops=(loop,))
    files = {name: bytes(bundle.read(name)) for name in bundle.manifest.files}
    silent = changed(sample, tokens=np.zeros((1, 0), np.int64), logits=sample.loop["logits"][:, :1])
    Bundle.write(tmp_path / "b", stopping, files, samples=[silent]).close()
    assert all(row.ok for row in rows(tmp_path / "b").values())


@pytest.mark.parametrize("at", [0, 2])
def test_another_token_is_named_with_its_gap(captions, tmp_path, at):
    bundle, samples = captions
    tokens = samples[1].loop["tokens"].copy()
    tokens[1, at] = next(t for t in range(1, 11) if t != tokens[1, at])
    rewrite(bundle, tmp_path / "b", [samples[0], changed(samples[1], tokens=tokens)]).close()
    with mmedge.load(tmp_path / "b") as pipe:
        verification = verify(pipe)
        row = next(r for r in verification.rows if r.output == "tokens")
        assert not row.ok
        assert f"choice {at} of row 1" in row.where
        assert f"for {tokens[1, at]}" in row.where
        with pytest.raises(AccuracyError, match=r"stage '\(loop\)'"):
            verification.check()


def test_other_scores_of_a_step_are_seen(captions, tmp_path):
    bundle, (sample, _) = captions
    logits = sample.loop["logits"].copy()
    logits[0, -1, 3] += 0.5
    rewrite(bundle, tmp_path / "b", [changed(sample, logits=logits)]).close()
    found = rows(tmp_path / "b")
    assert [key for key, row in found.items() if not row.ok] == [("(loop)", "logits")]


def test_a_row_that_goes_on_where_it_ended_is_seen(captions, tmp_path):
    bundle, (sample, _) = captions
    tokens = sample.loop["tokens"]
    assert tokens.shape[1] > 2
    shorter = changed(sample, tokens=tokens[:, :2])
    rewrite(bundle, tmp_path / "b", [shorter]).close()
    row = rows(tmp_path / "b")["(loop)", "tokens"]
    assert not row.ok
    assert "choice 2 of row 0" in row.where
    assert "for the end" in row.where


def test_a_tie_is_no_failure():
    tolerance = Tolerance(1e-3, 0.0)
    tie, other = Choice(0, 0, 1, 2, 0.0015, 1.0), Choice(3, 0, 1, 2, 0.0025, 1.0)
    assert tie.limit_used(tolerance) <= 1.0 < other.limit_used(tolerance)
    assert worst_choice([tie, other], tolerance) is other
    assert worst_choice([], tolerance) is None


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("0.loop.tokens", np.zeros((1, 2), np.int32), "expected int64"),
        ("0.loop.logits", np.zeros((1, 0, 11), np.float32), "expected float32"),
        ("0.loop.logits", np.zeros((1, 2, 12), np.float32), "expected float32"),
        ("0.step.past_k", np.zeros((1, 2, 3, 5), np.float32), "expected past_k"),
        ("0.step.tokens", np.zeros((1, 1), np.float32), "expected tokens"),
        ("0.step.more", np.zeros(1, np.float32), "unknown tensor '0.step.more'"),
        ("0.step.position", None, "missing tensor '0.step.position'"),
        ("0.loop.tokens", None, "missing tensor '0.loop.tokens'"),
        ("state.past_k", np.zeros((1, 2, 0, 4), np.float32), "unknown tensor 'state.past_k'"),
    ],
)
def test_samples_of_another_form_are_refused(captions, tmp_path, name, array, words):
    bundle, (sample, _) = captions
    groups = {"step": dict(sample.step), "loop": dict(sample.loop)}
    states = {}
    group, _, key = name.removeprefix("0.").partition(".")
    target = states if group == "state" else groups[group]
    if array is None:
        del target[key]
    else:
        target[key] = array
    files = {each: bytes(bundle.read(each)) for each in bundle.manifest.files}
    with pytest.raises(BundleError, match=words):
        Bundle.write(
            tmp_path / "b", bundle.manifest, files, samples=[replace(sample, **groups)],
            states=states,
        )  # fmt: skip


@pytest.mark.parametrize("where", ["whole", "encoder", "fusion"])
def test_a_state_is_replayed_from_where_it_was(tmp_path, where):
    write_filter(tmp_path / "good", where)
    assert all(row.ok for row in rows(tmp_path / "good").values())
    bundle = Bundle.open(tmp_path / "good")
    (sample,) = bundle.samples()
    other = replace(sample, step={"h": sample.step["h"] + 1})
    rewrite(bundle, tmp_path / "bad", [other]).close()
    bundle.close()
    bad = {key for key, row in rows(tmp_path / "bad").items() if not row.ok}
    assert ("(whole network)", "y") in bad


def test_a_state_can_be_begun_with_what_was_saved(tmp_path):
    Filter().write(tmp_path / "b").close()
    one = {"x": np.ones((1, 4), np.float32), "gain": np.ones((1, 4), np.float32)}
    with mmedge.load(tmp_path / "b") as pipe:
        state = pipe.state()
        pipe.run(one, state=state)
        restored = pipe.state(state.tensors())
        np.testing.assert_array_equal(
            pipe.run(one, state=restored)["y"], pipe.run(one, state=state)["y"]
        )
        with pytest.raises(InputError, match="state: expected h; got none"):
            pipe.state({})
        with pytest.raises(InputError, match="state 'h': expected .*float32.* got float64"):
            pipe.state({"h": np.zeros((1, 4))})


def test_forced_tokens_are_chosen(captions):
    bundle, (sample, _) = captions
    with mmedge.load(bundle) as pipe:
        forced = np.array([[3, 4, 5]])
        steps = list(pipe.iterate(sample.inputs, forced=forced, limit=4))
        assert [int(step.tokens[0]) for step in steps][:3] == [3, 4, 5]
        assert all(step.scores.shape == (1, 11) for step in steps)
        with pytest.raises(InputError, match="forced: expected tokens for 1 rows, got 2"):
            pipe.run(sample.inputs, forced=np.zeros((2, 1), np.int64))
        with pytest.raises(InputError, match="forced: expected whole numbers"):
            pipe.run(sample.inputs, forced=np.zeros((1, 1)))
        with pytest.raises(InputError, match="forced: expected tokens from 0 to 10, got 11"):
            pipe.run(sample.inputs, forced=np.array([[11]]))
