"""Runs of loops: options and seeds, and what came out; random numbers; tokens for scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from case_files import Tensors, write

import mmedge
from mmedge.errors import MMEdgeError
from mmedge.execution.random_numbers import normal, uniform
from mmedge.execution.sampling import Sampling, choose

__all__ = ["write_loops"]

#: Options whose values are tensors.
ARRAY_OPTIONS = ("forced", "noise")


@dataclass(frozen=True)
class Run:
    """A run of a loop: its arrays and texts by input, its options, its state's name."""

    name: str
    arrays: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    state: str | None = None
    variant: str | None = None


def rows(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def captioner_runs() -> list[Run]:
    one, three = {"image": rows(1, 1, 5, 6)}, {"image": rows(2, 3, 4, 6)}
    forced = np.array([[3, 4, 5, 6]])
    return [
        Run("greedy", one),
        Run("greedy, three rows that end apart", three),
        Run("limit", one, {"limit": 3}),
        Run("limit of one", three, {"limit": 1}),
        Run("other stops", three, {"stop": [4, 7], "limit": 12}),
        Run("no stop", three, {"stop": [], "limit": 8}),
        Run("sampling", three, {"seed": 7, "temperature": 1.0}),
        Run("sampling of few", three, {"seed": 2**64 - 1, "temperature": 0.7, "top_k": 3}),
        Run("sampling of a share", three, {"seed": 12, "temperature": 2.5, "top_p": 0.6}),
        Run("sampling of both", one, {"seed": 5, "temperature": 1.5, "top_k": 5, "top_p": 0.8}),
        Run("forced beginning", one, {"forced": forced, "limit": 10}),
        Run("forced stop", one, {"forced": np.array([[3, 0, 5]]), "limit": 10}),
        Run("deadline that has passed", one, {"deadline_ms": 0}),
        Run("a new state", one, {"limit": 4}, state="a"),
        Run("the state goes on", one, {"limit": 4}, state="a"),
        Run("the state goes on, sampling", one, {"limit": 4, "temperature": 1.0}, state="a"),
        Run("a state of another batch", three, {"limit": 4}, state="a"),
        Run("limit above the bundle's", one, {"limit": 25}),
        Run("limit of none", one, {"limit": 0}),
        Run("a stop token that is none", one, {"stop": [11]}),
        Run("temperature below 0", one, {"temperature": -0.5}),
        Run("top_p of 0", one, {"top_p": 0.0}),
        Run("seed below 0", one, {"seed": -1}),
        Run("forced tokens of another batch", one, {"forced": np.array([[1], [2]])}),
        Run("forced tokens that are none", one, {"forced": np.array([[11]])}),
        Run("an option of another loop", one, {"noise": rows(1, 1)}),
        Run("deadline below 0", one, {"deadline_ms": -1.0}),
    ]


def prompted_runs() -> list[Run]:
    image = {"image": rows(3, 2, 3, 6)}

    def run(name: str, tokens: Any, **options: Any) -> Run:
        return Run(name, {**image, "tokens": np.array(tokens, np.int64)}, options)

    return [
        Run("without tokens of the caller", image),
        run("one token each", [[3], [7]]),
        run("four tokens each, in pieces of three", [[3, 4, 5, 6], [9, 9, 8, 3]]),
        run("what fills the states leaves room for few", [[3, 4, 5, 6, 7, 8, 9, 10, 3, 4]] * 2),
        run("more than the states take", [[3] * 12] * 2),
        run("no token, by an array without any", np.zeros((2, 0))),
        run("a token below 0", [[3], [-1]]),
        run("other rows", [[3]]),
        run("sampling", [[3, 4], [5, 6]], temperature=1.0, seed=3),
    ]


def completer_runs() -> list[Run]:
    return [
        Run("a text", texts={"text": "a b c"}),
        Run("a text, greedy", options={"temperature": 0.0}, texts={"text": "h i a"}),
        Run("a text, another seed", options={"seed": 9, "limit": 6}, texts={"tokens": "d"}),
        Run("tokens", {"tokens": np.array([[2, 5], [7, 7]])}, {"seed": 1}),
        Run("a text without tokens", texts={"text": " "}),
        Run("no token at all", {"tokens": np.zeros((1, 0), np.int64)}),
        Run("a state", options={"limit": 3}, texts={"text": "a"}, state="t"),
        Run("a further text in the state", options={"limit": 3}, texts={"text": "b c"}, state="t"),
    ]


def speller_runs() -> list[Run]:
    sound = {"sound": rows(4, 3, 6, 5)}
    return [
        Run("greedy", sound),
        Run("sampling", sound, {"temperature": 1.25, "seed": 77}),
        Run("one row", {"sound": rows(5, 1, 2, 5)}, {"limit": 5}),
    ]


def decoder_runs() -> list[Run]:
    tokens = np.array([[3, 5, 7, 9]])
    return [
        Run(f"{name}, {form or 'growing'}", {"tokens": array}, options, variant=variant)
        for form in ("", "in_place")
        for variant in [f"ort-fp32-cpu{form and '-' + form}"]
        for name, array, options in (
            ("greedy", tokens, {}),
            ("sampling", tokens, {"temperature": 1.0, "seed": 4}),
            ("two rows", np.array([[1, 2], [22, 4]]), {"limit": 7}),
            ("up to what the states take", np.tile(tokens, 9), {"stop": []}),
        )
    ]


def painter_runs() -> list[Run]:
    condition = {"condition": rows(6, 2, 3)}
    return [
        Run("default seed", condition),
        Run("another seed", condition, {"seed": 2**63 + 5}),
        Run("noise", condition, {"noise": rows(7, 2, 3, 4)}),
        Run("noise gives a size", condition, {"noise": rows(8, 2, 9, 4), "seed": 3}),
        Run("noise of another batch", condition, {"noise": rows(9, 1, 3, 4)}),
        Run("noise above a limit", condition, {"noise": rows(9, 2, 10, 4)}),
        Run("noise of another dtype", condition, {"noise": rows(9, 2, 3, 4).astype(np.float64)}),
        Run("deadline that has passed", condition, {"deadline_ms": 0.0}),
    ]


def policy_runs() -> list[Run]:
    values = {"image": rows(10, 2, 4), "joints": rows(11, 2, 2)}
    return [
        Run("both sensors", values, {"seed": 1}),
        Run("joints stand in", {"image": values["image"]}, {"seed": 1}),
    ]


#: By bundle, its runs.
RUNS = {
    "captioner": captioner_runs,
    "completer": completer_runs,
    "decoder": decoder_runs,
    "painter": painter_runs,
    "policy": policy_runs,
    "prompted": prompted_runs,
    "speller": speller_runs,
}


def write_loops(folder: Path, bundles: Path) -> None:
    """Write a file for each bundle to ``folder``, random numbers and choices."""
    for bundle, make in RUNS.items():
        _write_runs(folder, bundles, bundle, make())
    _write_random(folder)
    _write_choices(folder)


def _write_runs(folder: Path, bundles: Path, bundle: str, runs: list[Run]) -> None:
    tensors, cases, pipes, states = Tensors(), [], {}, {}
    for number, run in enumerate(runs):
        if run.variant not in pipes:
            pipes[run.variant] = mmedge.load(
                bundles / f"{bundle}.mmedge", run.variant, threads=1, kernels=False,
                allow_unverified=True, plan=None,
            )  # fmt: skip
        pipe = pipes[run.variant]
        row: dict[str, Any] = {
            "name": run.name,
            "variant": pipe.variant.id,
            "inputs": tensors.put_all(f"{number}.in", run.arrays),
            "texts": run.texts,
            "state": run.state,
            "options": {k: v for k, v in run.options.items() if k not in ARRAY_OPTIONS},
        }
        for name in ARRAY_OPTIONS:
            if name in run.options:
                row[name] = tensors.put(f"{number}.{name}", run.options[name])
        options = dict(run.options)
        if run.state is not None:
            options["state"] = states.setdefault((run.variant, run.state), pipe.state())
        inputs = {**run.arrays, **run.texts}
        try:
            with pipe.iterate(inputs, cached=False, **options) as steps:
                taken = list(steps)
                result = steps.result()
        except (MMEdgeError, TimeoutError) as error:
            row["error"], row["message"] = type(error).__name__, str(error)
        else:
            row["finish"] = result.pop("finish")
            if "text" in result:
                row["text"] = result.pop("text")
                row["pieces"] = [list(step.text) for step in taken]
            row["outputs"] = tensors.put_all(f"{number}.out", result)
            if taken and hasattr(taken[0], "scores"):
                scores = np.stack([step.scores for step in taken], 1)
                row["scores"] = tensors.put(f"{number}.scores", scores)
            elif taken:
                latents = np.stack([step.latent for step in taken])
                row["latents"] = tensors.put(f"{number}.latents", latents)
        cases.append(row)
    for pipe in pipes.values():
        pipe.close()
    write(folder / f"{bundle}.json", {"bundle": bundle, "cases": cases}, tensors)


def _write_random(folder: Path) -> None:
    tensors, cases = Tensors(), []
    for number, (seed, stream, count) in enumerate([
        (0, 0, 5), (0, 1, 5), (1, 0, 8), (2**64 - 1, 0, 3), (2**63, 1000, 4), (42, 2**20, 1),
        (123456789, 7, 33),
    ]):  # fmt: skip
        cases.append({
            "seed": seed, "stream": stream,
            "uniform": tensors.put(f"{number}.uniform", uniform(seed, stream, count)),
            "normal": tensors.put(f"{number}.normal", normal(seed, stream, count)),
        })  # fmt: skip
    write(folder / "random-numbers.json", {"cases": cases}, tensors)


def _write_choices(folder: Path) -> None:
    """Tokens for scores: equal ones, minus infinity, many words."""
    tensors, cases = Tensors(), []
    rng = np.random.default_rng(31)
    equal = np.array([[1, 3, 3, 2], [5, 5, 5, 5], [-np.inf, 0, -np.inf, 0]], np.float32)
    kinds = {
        "equal": equal,
        "half": rng.normal(size=(3, 40)).astype(np.float16),
        "many": (4 * rng.normal(size=(2, 3000))).astype(np.float32),
        "flat": np.zeros((2, 700), np.float32),
    }
    kinds = {name: tensors.arrays[tensors.put(name, array)] for name, array in kinds.items()}
    samplings = [
        Sampling(),
        Sampling(1.0, seed=1),
        Sampling(0.5, 2, seed=2),
        Sampling(1.0, 3, 0.5, 3),
        Sampling(3.0, 0, 0.9, 4),
        Sampling(0.01, 0, 1.0, 5),
        Sampling(100.0, 500, 0.999, 6),
    ]
    for name, scores in kinds.items():
        for sampling in samplings:
            for choice in (0, 1, 17):
                suppress = [1] if choice == 17 else []
                cases.append({
                    "scores": name, "choice": choice, "suppress": suppress,
                    "temperature": sampling.temperature, "top_k": sampling.top_k,
                    "top_p": sampling.top_p, "seed": sampling.seed,
                    "tokens": choose(scores, sampling, choice, suppress),
                })  # fmt: skip
    write(folder / "choices.json", {"cases": cases}, tensors)
