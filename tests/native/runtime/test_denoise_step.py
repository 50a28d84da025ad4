"""Steps of the loop ``denoise`` in C++ beside mmedge/execution/denoise.py: the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from probe_cases import number, run_cases, tensor

from mmedge.errors import InputError
from mmedge.execution.denoise import DenoiseRun
from mmedge.loop_spec import DenoiseLoop
from mmedge.spec import Dimension, Manifest, Modality, Stage, TensorSpec, Tolerance, Variant

pytestmark = pytest.mark.native_build

MOST = 6000


def loop_of(rng: np.random.Generator) -> DenoiseLoop:
    schedule = []
    for _ in range(rng.integers(1, 7)):
        row = rng.normal(size=8) * 10.0 ** rng.integers(-3, 2)
        row[rng.random(8) < 0.4] = 0.0
        row[rng.random(8) < 0.1] = 1e-60  # no number of float32
        schedule.append((float(rng.integers(-5, 1000)), *row.tolist()))
    has_guidance = rng.random() < 0.5
    return DenoiseLoop(
        "denoise", "step", "x", "t", "m", tuple(schedule),
        initial_scale=float(rng.choice([1.0, 0.7, 80.3])),
        clip=float(rng.choice([0.3, 1.0])) if rng.random() < 0.5 else None,
        guidance=float(rng.normal() * 4) if has_guidance else None,
        unconditional=("mask",) if has_guidance else (),
    )  # fmt: skip


def manifest_of(loop: DenoiseLoop, size: int) -> Manifest:
    latent = TensorSpec("x", "float32", (size,))
    mask = TensorSpec("mask", "float32", (1,))
    step = (latent, TensorSpec("t", "float32", (2,)), mask)
    return Manifest(
        name="denoiser",
        modalities=(Modality("text", ("condition",)),),
        stages=(
            Stage("encode", "e.onnx", (TensorSpec("condition", "float32", (1,)),), (mask,)),
            Stage("step", "s.onnx", step, (TensorSpec("m", "float32", (size,)),)),
        ),
        outputs=("mask",),
        variants=(Variant("ort", "fp32", "cpu", {}, Tolerance(0, 0)),),
        files={},
        dimensions={"batch": Dimension(1, 1, 4)},
        loops=(loop,),
    )


def run_of(rng: np.random.Generator, loop: DenoiseLoop) -> dict:
    size = int(rng.choice([1, 7, 100, 2048, 2049, MOST]))
    steps, runs = len(loop.schedule), 1 if loop.guidance is None else 2
    predictions = (rng.normal(size=(steps, runs, size)) * 3).astype(np.float32)
    if rng.random() < 0.2:
        predictions[rng.random(predictions.shape) < 0.1] = rng.choice([np.inf, 1e38, 1e-42])
    return {
        "size": size,
        "predictions": predictions,
        "seed": int(rng.integers(0, 2**64, dtype=np.uint64)),
        "noise": rng.normal(size=size).astype(np.float32) if rng.random() < 0.5 else None,
        "deadline": float(rng.integers(0, steps + 1)) if rng.random() < 0.3 else np.inf,
        "cancel": int(rng.integers(0, steps + 1)) if rng.random() < 0.3 else -1,
    }


def bytes_of(loop: DenoiseLoop, runs: list[dict]) -> bytes:
    guidance = "0" if loop.guidance is None else f"1 {number(loop.guidance)}"
    rows = " ".join(number(value) for row in loop.schedule for value in row)
    head = f"{number(loop.initial_scale)} {number(loop.clip or 0.0)} {guidance} "
    case = f"{head}{len(loop.schedule)} {rows} {MOST} {len(runs)}".encode()
    for run in runs:
        noise = b"0" if run["noise"] is None else b"1" + tensor(run["noise"])
        case += f" {run['seed']} {number(run['deadline'])} {run['cancel']} ".encode() + noise
        case += tensor(run["predictions"])
    return case


@np.errstate(all="ignore")
def expected_of(loop: DenoiseLoop, given: dict) -> tuple[list[np.ndarray], str, np.ndarray | None]:
    """What the stage takes in each step, what is said of the end, and the result."""
    predictions, taken = iter(given["predictions"].reshape(-1, given["size"])), []

    def predict(feeds):
        taken.extend((feeds["x"].copy(), feeds["t"].copy()))
        return {"m": next(predictions)}

    run = DenoiseRun(
        manifest_of(loop, given["size"]),
        {"step": predict},
        {"mask": np.ones(1, np.float32)},
        unconditional={"mask": np.zeros(1, np.float32)},
        run_unconditional=lambda feeds: {"m": next(predictions)},
        seed=given["seed"],
        noise=given["noise"],
        deadline=given["deadline"],
        clock=lambda: run.index,
    )
    while run.index != given["cancel"] and run.advance():
        pass
    run.cancel()
    result, is_late, text = None, False, ""
    try:
        result = run.result()["latent"]
    except TimeoutError as error:
        is_late, text = True, str(error)
    except InputError as error:
        text = str(error)
    return taken, f"{run.finish}|{run.index}|{is_late:d}|{text}\n", result


def same(written: bytes, array: np.ndarray) -> bool:
    """Bit for bit, but for the bits of NaN, which no rule states."""
    floats = np.frombuffer(written, np.float32)
    is_nan = np.isnan(array)
    return bool(
        np.array_equal(np.isnan(floats), is_nan)
        and floats[~is_nan].tobytes() == array[~is_nan].tobytes()
    )


@pytest.mark.parametrize("seed", range(3))
def test_steps_are_the_same_bits(probe, seed):
    """Two runs after each other in one memory, with guidance, limits, noise, deadlines, cancels."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(80):
        loop = loop_of(rng)
        cases.append((loop, [run_of(rng, loop) for _ in range(2)]))
    written, at = run_cases(probe("denoise_probe"), [bytes_of(*case) for case in cases]), 0
    ends, late = set(), 0
    for loop, runs in cases:
        for given in runs:
            taken, text, result = expected_of(loop, given)
            size = 4 * given["size"]
            for latent, time in zip(taken[::2], taken[1::2], strict=True):
                assert same(written[at : at + size], latent)
                at += size
                times = time.tobytes() + time.astype(np.int32).tobytes()
                times += time.astype(np.int64).tobytes()
                assert written[at : at + len(times)] == times
                at += len(times)
            assert written[at : at + len(text)].decode() == text
            at += len(text)
            if result is not None:
                assert same(written[at : at + size], result)
                at += size
            ends.add((text.split("|")[0], result is None))
            late += text.split("|")[2] == "1"
    assert at == len(written)
    assert ends >= {("schedule", False), ("deadline", True), ("deadline", False), ("cancel", True)}
    assert late
