"""The loop ``denoise`` against NumPy in float64, and against what its page says bit by bit."""

from __future__ import annotations

from dataclasses import replace

import denoise_rows
import numpy as np
import pytest
from denoise_rows import SAMPLERS, alpha_sigma, ddim_rows, ddpm_rows, euler_flow_rows
from hypothesis import given
from hypothesis import strategies as st

from mmedge.errors import BackendError, InputError
from mmedge.execution.denoise import DenoiseRun
from mmedge.execution.random_numbers import normal
from mmedge.loop_spec import DenoiseLoop
from mmedge.spec import Dimension, Manifest, Modality, Stage, TensorSpec, Tolerance, Variant

CONDITION = TensorSpec("condition", "float32", ("batch", "words", 3))
MASK = TensorSpec("mask", "float32", ("batch", "words"))
LATENT = TensorSpec("x", "float32", ("batch", "high", 4))
TIME = TensorSpec("t", "float32", ())
NOISE = TensorSpec("m", "float32", ("batch", "high", 4))
PICTURE = TensorSpec("picture", "float32", ("batch", "high", 4))
SIZES = {"batch": Dimension(1, 1, 4), "words": Dimension(0, 2, 8), "high": Dimension(1, 3, 9)}


def make_manifest(schedule, *, decoder=False, time=TIME, latent=LATENT, **fields):
    prediction = replace(latent, name="m")
    stages = [
        Stage("encode", "e.onnx", (CONDITION,), (MASK,), modality="text"),
        Stage("step", "s.onnx", (latent, time, CONDITION, MASK), (prediction,)),
    ]
    if decoder:
        stages.append(Stage("decode", "d.onnx", (latent, MASK), (PICTURE,)))
    loop = DenoiseLoop(
        "denoise",
        stage="step",
        latent="x",
        time="t",
        prediction="m",
        schedule=tuple(schedule),
        decoder="decode" if decoder else None,
        **fields,
    )
    return Manifest(
        name="denoiser",
        modalities=(Modality("text", ("condition",)),),
        stages=tuple(stages),
        outputs=("mask",),
        variants=(Variant("ort", "fp32", "cpu", {}, Tolerance(0, 0)),),
        files={},
        dimensions=SIZES,
        loops=(loop,),
    )


def make_tensors(batch=1, words=2):
    rng = np.random.default_rng(words)
    condition = rng.normal(size=(batch, words, 3)).astype(np.float32)
    return {"condition": condition, "mask": np.ones((batch, words), np.float32)}


def predict_step(x, t, condition):
    """A bounded network, another at each time, place and condition."""
    x, condition = x.astype(np.float64), condition.astype(np.float64)
    k = np.arange(1, 5) / 5
    shift = condition.sum(axis=(1, 2))[:, None, None]
    return (np.tanh(k * x[..., ::-1] + t / 700 - 0.3 * shift) * 0.8).astype(np.float32)


def network(feeds):
    return {"m": predict_step(feeds["x"], float(feeds["t"]), feeds["condition"])}


def decode(feeds):
    return {"picture": feeds["x"] * 2 + feeds["mask"].sum()}


RUNS = {"step": network, "decode": decode}


def finish(run):
    while run.advance():
        pass
    result = run.result()
    assert run.finish == result["finish"] == "schedule"
    return result


def reference(loop, noise, shape, tensors, unconditional, seed):
    """The page, line by line; returns the latents after each step."""
    f = np.float32
    x, last, latents = f(loop.initial_scale) * noise, np.zeros(shape, f), []
    condition = tensors["condition"]
    for t, row in enumerate(loop.schedule):
        a, p, q, r, s, u, w, c = (f(number) for number in row[1:])
        m = predict_step(a * x, row[0], condition)
        if loop.guidance is not None:
            other = np.broadcast_to(unconditional["condition"], condition.shape)
            m0 = predict_step(a * x, row[0], other)
            m = m0 + f(loop.guidance) * (m - m0)
        e = add([(p, x), (q, m)], shape)
        if loop.clip is not None:
            e = np.clip(e, -f(loop.clip), f(loop.clip))
        z = normal(seed, t + 1, x.size).reshape(shape)
        x = add([(r, e), (s, x), (u, m), (w, last), (c, z)], shape)
        last = e
        latents.append(x)
    return latents


def add(terms, shape):
    products = [number * array for number, array in terms if number != 0]
    total = products[0] if products else np.zeros(shape, np.float32)
    for product in products[1:]:
        total = total + product
    return total


def denoiser(name):
    """A network as a sampler and as a loop run it: bounded data, and what is left of it in x."""

    def predict_noise(x, t):
        alpha, sigma = alpha_sigma(name, t)
        data = np.tanh(np.arange(1, 5) / 3 * x[..., ::-1] + t / 900 - 0.4)
        # Of a flow the velocity, from data to noise.
        return (x - data) / sigma if name == "euler flow" else (x - alpha * data) / sigma

    def run(feeds):
        noise = predict_noise(feeds["x"].astype(np.float64), float(feeds["t"]))
        return {"m": noise.astype(np.float32)}

    return predict_noise, run


@pytest.mark.parametrize("steps", [1, 2, 20, 50])
@pytest.mark.parametrize("name", SAMPLERS)
def test_schedules_written_as_rows_equal_their_papers_in_float64(name, steps):
    (rows, sampler), (predict_noise, run) = SAMPLERS[name], denoiser(name)
    tensors, shape = make_tensors(), (1, 3, 4)
    loop = DenoiseRun(make_manifest(rows(steps)), {"step": run}, tensors, seed=steps)
    noise = normal(steps, 0, 12).reshape(shape).astype(np.float64)
    exact = sampler(noise, steps, predict_noise, lambda t: normal(steps, t + 1, 12).reshape(shape))
    latents = [step.latent for step in loop]
    assert len(latents) == steps == loop.index
    # From noise to data in one step or two, the rounding of a prediction grows by 1 / alpha, 160.
    limit = 1e-6 if steps > 2 else 3e-5
    for latent, x in zip(latents, exact, strict=True):
        np.testing.assert_allclose(latent, x, rtol=0, atol=limit * np.abs(x).max())
    np.testing.assert_array_equal(loop.result()["latent"], latents[-1])


NUMBER = st.one_of(st.just(0.0), st.just(1.0), st.floats(-3, 3, width=32), st.floats(-3, 3))
ROW = st.tuples(st.integers(0, 999).map(float), *[NUMBER] * 8)


@given(
    schedule=st.lists(ROW, min_size=1, max_size=5),
    scale=st.floats(0.1, 20),
    clip=st.one_of(st.none(), st.floats(0.1, 5)),
    guidance=st.one_of(st.none(), st.floats(-2, 9)),
    seed=st.integers(0, 2**64 - 1),
    batch=st.integers(1, 3),
)
def test_any_rows_give_the_bits_of_the_page(schedule, scale, clip, guidance, seed, batch):
    fields = {"initial_scale": scale, "clip": clip, "guidance": guidance}
    unconditional = None
    if guidance is not None:
        fields["unconditional"] = ("condition",)
        unconditional = {"condition": np.full((1, 2, 3), 0.25, np.float32)}
    manifest, tensors = make_manifest(schedule, **fields), make_tensors(batch)
    run = DenoiseRun(manifest, RUNS, tensors, unconditional=unconditional, seed=seed)
    shape = (batch, 3, 4)
    noise = normal(seed, 0, batch * 12).reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):
        latents = [step.latent for step in run]
        expected = reference(manifest.loop, noise, shape, tensors, unconditional, seed)
    for latent, bits in zip(latents, expected, strict=True):
        assert latent.dtype == bits.dtype == np.float32
        np.testing.assert_array_equal(latent, bits)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    manifest, tensors = make_manifest(ddpm_rows(20)), make_tensors()
    first, again, other = (
        finish(DenoiseRun(manifest, RUNS, tensors, seed=seed))["latent"] for seed in (5, 5, 6)
    )
    assert first.tobytes() == again.tobytes()
    assert not np.allclose(first, other)


def test_the_callers_noise_stands_for_that_of_the_seed():
    manifest, tensors = make_manifest(ddim_rows(4), initial_scale=2.0), make_tensors()
    noise = normal(9, 0, 12).reshape(1, 3, 4)
    by_noise = finish(DenoiseRun(manifest, RUNS, tensors, noise=noise))
    by_seed = finish(DenoiseRun(manifest, RUNS, tensors, seed=9))
    assert by_noise["latent"].tobytes() == by_seed["latent"].tobytes()
    assert noise.tobytes() == normal(9, 0, 12).tobytes()  # not written to


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (np.zeros((1, 3, 4)), "float64"),
        (np.zeros((3, 4), np.float32), "expected x: float32"),
        (np.zeros((2, 3, 4), np.float32), r"expected the shape \[1, 3, 4\] in this call"),
        (np.zeros((1, 3, 5), np.float32), r"expected the shape"),
        (np.zeros((1, 10, 4), np.float32), "dimension 'high' takes 1 to 9, got 10"),
    ],
)
def test_noise_that_does_not_fit_is_refused(noise, words):
    with pytest.raises(InputError, match=words):
        DenoiseRun(make_manifest(ddim_rows(2)), RUNS, make_tensors(), noise=noise)


def test_dimensions_take_the_calls_sizes_and_else_their_opt():
    manifest = make_manifest(ddim_rows(2))
    assert finish(DenoiseRun(manifest, RUNS, make_tensors(batch=3)))["latent"].shape == (3, 3, 4)
    noise = np.ones((2, 7, 4), np.float32)
    run = DenoiseRun(manifest, RUNS, make_tensors(batch=2), noise=noise)
    assert finish(run)["latent"].shape == (2, 7, 4)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
@pytest.mark.parametrize("shape", [(), (1,), ("batch",)])
def test_the_time_has_the_dtype_and_shape_that_the_stage_takes(dtype, shape):
    seen = []

    def run(feeds):
        seen.append(feeds["t"].copy())
        return {"m": feeds["x"]}

    manifest = make_manifest(ddim_rows(4), time=TensorSpec("t", dtype, shape))
    finish(DenoiseRun(manifest, {"step": run}, make_tensors(batch=2)))
    expected = [2 if size == "batch" else size for size in shape]
    assert [(t.dtype.name, list(t.shape)) for t in seen] == [(dtype, expected)] * 4
    assert [t.reshape(-1)[0] for t in seen] == [750, 500, 250, 0]


def test_the_stage_takes_its_own_inputs_and_nothing_else():
    def run(feeds):
        assert set(feeds) == {"x", "t", "condition", "mask"}
        return network(feeds)

    tensors = {**make_tensors(), "other": np.zeros(3)}
    finish(DenoiseRun(make_manifest(ddim_rows(2)), {"step": run}, tensors))


def test_the_decoder_makes_the_outputs_of_the_last_latent():
    tensors = make_tensors()
    latent = finish(DenoiseRun(make_manifest(ddim_rows(3)), RUNS, tensors))["latent"]
    outputs = finish(DenoiseRun(make_manifest(ddim_rows(3), decoder=True), RUNS, tensors))
    assert list(outputs) == ["picture", "finish"]
    np.testing.assert_array_equal(outputs["picture"], latent * 2 + 2)


def test_memory_is_taken_once_and_what_is_handed_out_stays():
    feeds_of, latents = set(), []

    def run(feeds):
        feeds_of.add(tuple(id(value) for value in feeds.values()))
        return network(feeds)

    run_ = DenoiseRun(make_manifest(euler_flow_rows(6)), {"step": run}, make_tensors())
    for step in run_:
        latents.append((step.latent, step.latent.copy()))
    assert len(feeds_of) == 1
    for latent, copy in latents:
        np.testing.assert_array_equal(latent, copy)
    result = run_.result()["latent"]
    result[:] = 0
    np.testing.assert_array_equal(run_.result()["latent"], latents[-1][0])


def test_a_backend_may_give_its_outputs_in_the_same_memory():
    memory = np.empty((1, 3, 4), np.float32)

    def run(feeds):
        memory[:] = network(feeds)["m"]
        return {"m": memory}

    unconditional = {"condition": np.zeros((1, 2, 3), np.float32)}
    fields = {"guidance": 4.0, "unconditional": ("condition",)}
    manifest = make_manifest(ddim_rows(5), **fields)
    same, own = (
        finish(DenoiseRun(manifest, {"step": r}, make_tensors(), unconditional=unconditional))
        for r in (run, network)
    )
    assert same["latent"].tobytes() == own["latent"].tobytes()


def test_the_unconditional_run_may_have_a_state_of_its_own():
    def counting(sign):
        count = [0]

        def run(feeds):
            count[0] += 1
            return {"m": np.full(feeds["x"].shape, sign * count[0], np.float32)}

        return run

    fields = {"guidance": 3.0, "unconditional": ("condition",)}
    manifest = make_manifest([(0.0, 1, 0, 1, 1, 0, 0, 0, 0)] * 2, **fields)
    run = DenoiseRun(
        manifest,
        {"step": counting(1)},
        make_tensors(),
        unconditional={"condition": np.zeros((1, 2, 3), np.float32)},
        run_unconditional=counting(-1),
    )
    # m0 + 3 (m - m0) of 2 and -2.
    assert finish(run)["latent"].tolist() == np.full((1, 3, 4), 10.0).tolist()


def test_an_unconditional_tensor_of_another_size_is_refused_where_others_have_it():
    fields = {"guidance": 3.0, "unconditional": ("condition",)}
    unconditional = {"condition": np.zeros((1, 3, 3), np.float32)}
    with pytest.raises(InputError, match=r"'condition' of shape \[1, 3, 3\].*expected \[1, 2, 3\]"):
        DenoiseRun(
            make_manifest(ddim_rows(2), **fields), RUNS, make_tensors(), unconditional=unconditional
        )


def test_steps_can_be_taken_in_pieces_and_left():
    manifest, tensors = make_manifest(ddpm_rows(6)), make_tensors()
    whole = finish(DenoiseRun(manifest, RUNS, tensors))["latent"]
    run = DenoiseRun(manifest, RUNS, tensors)
    for step in run:
        if step.index == 2:
            break
    assert (run.index, run.finish) == (3, None)
    with pytest.raises(InputError, match="3 of 6 steps were taken; take all"):
        run.result()
    assert run.advance()
    assert [step.index for step in run] == [4, 5]
    assert run.result()["latent"].tobytes() == whole.tobytes()
    assert not run.advance()


def test_a_canceled_run_gives_the_estimate_of_its_last_step():
    rows, tensors = ddim_rows(10), make_tensors()
    run = DenoiseRun(make_manifest(rows), RUNS, tensors)
    for step in run:
        if step.index == 4:
            run.cancel()
    assert (run.index, run.finish) == (5, "cancel")
    # The same rows, but that the fifth makes its estimate the latent.
    short = [*rows[:4], (*rows[4][:4], 1.0, 0.0, 0.0, 0.0, 0.0)]
    expected = finish(DenoiseRun(make_manifest(short), RUNS, tensors))
    assert run.result()["latent"].tobytes() == expected["latent"].tobytes()
    run.cancel()
    assert run.finish == "cancel"


def test_no_step_begins_after_the_deadline():
    times = iter([0.0, 0.4, 0.8, 1.2])
    run = DenoiseRun(
        make_manifest(ddim_rows(10)), RUNS, make_tensors(), deadline=1.0, clock=lambda: next(times)
    )
    assert [step.index for step in run] == [0, 1, 2]
    assert run.finish == "deadline"
    result = run.result()
    assert np.isfinite(result["latent"]).all()
    assert result["finish"] == "deadline"


def test_a_deadline_before_any_estimate_is_a_timeout():
    late = DenoiseRun(
        make_manifest(ddim_rows(10)), RUNS, make_tensors(), deadline=1.0, clock=lambda: 1.0
    )
    assert list(late) == []
    with pytest.raises(TimeoutError, match="0 of 10 steps were taken. Allow more time"):
        late.result()
    times = iter([0.0, 1.0])
    rows = [(*row[:2], 0.0, 0.0, *row[4:]) for row in euler_flow_rows(3)]
    run = DenoiseRun(
        make_manifest(rows), RUNS, make_tensors(), deadline=1.0, clock=lambda: next(times)
    )
    assert len(list(run)) == 1
    with pytest.raises(TimeoutError, match="1 of 3 steps were taken; its schedule states no est"):
        run.result()


def test_a_prediction_of_another_shape_is_refused():
    runs = {"step": lambda feeds: {"m": np.zeros((1, 1, 4), np.float32)}}
    with pytest.raises(BackendError, match=r"'m' of shape \[1, 1, 4\] for a latent .* \[1, 3, 4\]"):
        DenoiseRun(make_manifest(ddim_rows(2)), runs, make_tensors()).advance()


def test_a_bad_seed_is_refused():
    with pytest.raises(InputError, match="seed"):
        DenoiseRun(make_manifest(ddim_rows(2)), RUNS, make_tensors(), seed=-1)


@pytest.mark.parametrize("name", ["ddim", "euler flow", "dpm-solver++(2m)"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library's own
def test_rows_equal_the_diffusers_library(name, monkeypatch):
    diffusers = pytest.importorskip("diffusers", reason="the diffusers library is not installed")
    torch = pytest.importorskip("torch")
    betas = {"trained_betas": np.linspace(1e-4, 0.02, 1000)}
    scheduler, options = {
        "ddim": (diffusers.DDIMScheduler(**betas, clip_sample=False), {"num_inference_steps": 20}),
        "euler flow": (
            diffusers.FlowMatchEulerDiscreteScheduler(),
            {"sigmas": np.linspace(1.0, 0.0, 21)[:-1]},
        ),
        "dpm-solver++(2m)": (
            diffusers.DPMSolverMultistepScheduler(**betas),
            {"num_inference_steps": 20},
        ),
    }[name]
    if name != "euler flow":  # the library's table is float32
        monkeypatch.setattr(denoise_rows, "CUMPROD", scheduler.alphas_cumprod.double().numpy())
    predict_noise, run = denoiser(name)
    scheduler.set_timesteps(**options)
    x = torch.from_numpy(normal(1, 0, 12).reshape(1, 3, 4).astype(np.float64))
    for t in scheduler.timesteps:
        m = torch.from_numpy(predict_noise(x.numpy(), float(t)))
        x = scheduler.step(m, t, x).prev_sample.double()
    manifest = make_manifest(SAMPLERS[name][0](20))
    latent = finish(DenoiseRun(manifest, {"step": run}, make_tensors(), seed=1))["latent"]
    np.testing.assert_allclose(latent, x.numpy(), rtol=0, atol=1e-5)


def test_twenty_guided_steps_equal_the_diffusers_library(monkeypatch):
    diffusers = pytest.importorskip("diffusers", reason="the diffusers library is not installed")
    torch = pytest.importorskip("torch")
    scheduler = diffusers.DDIMScheduler(trained_betas=np.linspace(1e-4, 0.02, 1000))
    monkeypatch.setattr(denoise_rows, "CUMPROD", scheduler.alphas_cumprod.double().numpy())
    predict_noise, _ = denoiser("ddim")

    def run(feeds):
        noise = predict_noise(feeds["x"].astype(np.float64), float(feeds["t"]))
        return {"m": (noise * np.cos(feeds["condition"].sum())).astype(np.float32)}

    tensors, other = make_tensors(), {"condition": np.zeros((1, 2, 3), np.float32)}
    share = float(np.cos(tensors["condition"].sum()))
    scheduler.set_timesteps(20)
    x = torch.from_numpy(normal(1, 0, 12).reshape(1, 3, 4).astype(np.float64))
    for t in scheduler.timesteps:
        noise = torch.from_numpy(predict_noise(x.numpy(), float(t)))
        # As the library's pipelines mix the two predictions.
        m = noise + 3.5 * (noise * share - noise)
        x = scheduler.step(m, t, x).prev_sample.double()
    manifest = make_manifest(ddim_rows(20), clip=1.0, guidance=3.5, unconditional=("condition",))
    loop = DenoiseRun(manifest, {"step": run}, tensors, unconditional=other, seed=1)
    np.testing.assert_allclose(finish(loop)["latent"], x.numpy(), rtol=0, atol=1e-5)
