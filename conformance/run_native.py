"""Holds libmmedge, the runtime in C++, to the cases, and prints what differs."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import run_python
from case_files import CASES, read, read_tensors
from native_streams import check_streams
from run_python import BUNDLES, differ

from mmedge.errors import AccuracyError, BundleError, MMEdgeError
from mmedge.native.runtime import NativeBundle, NativePipeline, NativeState
from mmedge.native.text import NativeTexts, NativeTokenizer

__all__ = ["CHECKS", "check_hostile"]

#: Kinds of errors are Python's, and their words need not be.
compare_run = partial(run_python.compare_run, messages=False)


def check_bundles() -> list[str]:
    """Every bundle opens, and both forms of one are the same."""
    faults = []
    for path in sorted(BUNDLES.iterdir()):
        with NativeBundle(path) as bundle:
            bundle.verify()
            if path.is_dir():
                with NativeBundle(path.with_suffix(".mmedge")) as other:
                    if other.digest != bundle.digest:
                        faults.append(f"{path.name}: another digest than the zip's")
    return faults


def check_calls() -> list[str]:
    """Single calls."""
    faults: list[str] = []
    for path in sorted((CASES / "calls").glob("*.json")):
        content, tensors = read(path), read_tensors(path)
        pipes: dict[Any, NativePipeline] = {}
        texts: dict[Any, NativeTexts] = {}
        states: dict[str, NativeState] = {}
        for case in content["cases"]:
            key = case["plan"], case["allow_non_finite"]
            if key not in pipes:
                with NativeBundle(BUNDLES / f"{content['bundle']}.mmedge") as bundle:
                    pipes[key] = NativePipeline(
                        bundle, variant=content["variant"], plan=key[0], threads=1, kernels=0,
                        allow_non_finite=key[1],
                    )  # fmt: skip
                texts[key] = NativeTexts(pipes[key])
            arrays = {name: tensors[key] for name, key in case["inputs"].items()} | case["texts"]
            inputs = {name: arrays[name] for name in case["order"]}
            state = None
            if case["state"] is not None:
                if case["state"] not in states:
                    states[case["state"]] = pipes[key].state()
                state = states[case["state"]]
            run = partial(_run, pipes[key], texts[key], inputs, state)
            faults += compare_run(f"{path.stem}: {case['name']}", case, tensors, run)
        for each in texts.values():
            each.close()
        for state in states.values():
            state.close()
        for pipe in pipes.values():
            pipe.close()
    return faults


def _run(
    pipe: NativePipeline, texts: NativeTexts, inputs: dict[str, Any], state: NativeState | None
) -> dict[str, Any]:
    return pipe.run(texts.arrays(inputs), state=state)


def check_loops() -> list[str]:
    """Runs of loops."""
    faults: list[str] = []
    for path in sorted((CASES / "loops").glob("*.json")):
        content, tensors = read(path), read_tensors(path)
        if "bundle" not in content:
            continue
        cases = content["cases"]
        for variant in dict.fromkeys(case["variant"] for case in cases):
            with NativeBundle(BUNDLES / f"{content['bundle']}.mmedge") as bundle:
                pipe = NativePipeline(
                    bundle, variant=variant, threads=1, kernels=0, allow_unverified=1, cache=0
                )
            with pipe:
                pipe.reserve(8, 64)
                texts = NativeTexts(pipe)
                states: dict[str, NativeState] = {}
                for case in cases:
                    if case["variant"] != variant:
                        continue
                    if case["state"] is not None and case["state"] not in states:
                        states[case["state"]] = pipe.state()
                    state = states.get(case["state"])
                    faults += _compare_loop(path.stem, case, tensors, pipe, texts, state)
                texts.close()
                for state in states.values():
                    state.close()
    return faults


def _compare_loop(
    where: str,
    case: dict[str, Any],
    tensors: Any,
    pipe: NativePipeline,
    texts: NativeTexts,
    state: NativeState | None,
) -> list[str]:
    where = f"{where}: {case['name']}"
    options = dict(case["options"])
    options |= {name: tensors[case[name]] for name in ("forced", "noise") if name in case}
    inputs = {name: tensors[key] for name, key in case["inputs"].items()} | case["texts"]
    steps: list[Any] = []
    finish: list[str] = []

    def run() -> dict[str, Any]:
        pipe.begin(texts.arrays(inputs), cached=False, state=state, **options)
        steps.extend(pipe.steps())
        words = case.get("finish", "")
        outputs, words = pipe.result(1 if isinstance(words, str) else len(words))
        finish.extend(words)
        return outputs

    faults = compare_run(where, case, tensors, run)
    expected = case.get("finish")
    if "error" not in case and finish != ([expected] if isinstance(expected, str) else expected):
        faults.append(f"{where}: {finish}")
    if "pieces" in case and steps:
        if _pieces(texts, steps) != case["pieces"]:
            faults.append(f"{where}: pieces of the text")
        rows = [
            [int(step.tokens[row]) for step in steps if step.active[row]]
            for row in range(len(steps[0].tokens))
        ]
        if [texts.tokenizer().decode(row) for row in rows] != case["text"]:
            faults.append(f"{where}: text")
    if "latents" in case and steps:
        latents = tensors[case["latents"]]
        got = np.stack([step.latent for step in steps]).reshape(-1, *latents.shape[1:])
        if differ(got, latents):
            faults.append(f"{where}: latents")
    if (
        "scores" in case
        and steps
        and differ(np.stack([s.scores for s in steps], 1), tensors[case["scores"]])
    ):
        faults.append(f"{where}: scores")
    return faults


def _pieces(texts: NativeTexts, steps: list[Any]) -> list[list[str]]:
    """What each step's tokens add to the text of each row."""
    streams = [texts.tokenizer().stream() for _ in steps[0].tokens]
    pieces = [
        [
            stream.add(int(token), last=step.done) if is_active else stream.end()
            for stream, token, is_active in zip(streams, step.tokens, step.active, strict=True)
        ]
        for step in steps
    ]
    for stream in streams:
        stream.close()
    return pieces


def check_texts() -> list[str]:
    """Texts to ids and masks, and tokens to text."""
    faults = []
    for path in sorted((CASES / "texts").glob("*.json")):
        content = read(path)
        with NativeBundle(BUNDLES / f"{content['bundle']}.mmedge") as bundle:
            pipe = NativePipeline(bundle, threads=1, kernels=0, allow_unverified=1)
        with pipe, NativeTokenizer(pipe, content["modality"]) as tokenizer:
            for case in content["cases"]:
                where = f"{path.stem}: {case['text'][:40]!a}"
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    try:
                        values = tokenizer.encode(case["text"])
                    except MMEdgeError as error:
                        if type(error).__name__ != case.get("error"):
                            faults.append(f"{where}: {error}")
                        continue
                got = {
                    "ids": values["ids"][0].tolist(),
                    "mask": values["mask"][0].astype(int).tolist() if "mask" in values else None,
                    "cut": bool(told),
                }
                if any(got[name] != case.get(name) for name in got):
                    faults.append(f"{where}: {got}")
            for case in content["decode"]:
                if tokenizer.decode(case["tokens"]) != case["text"]:
                    faults.append(f"{path.stem}: text of {case['tokens']}")
    return faults


def check_verification() -> list[str]:
    """What a verification finds, and what loading refuses by it."""
    faults = []
    for case in read(CASES / "rules" / "verification.json")["cases"]:
        with NativeBundle(BUNDLES / f"{case['bundle']}.mmedge") as bundle:
            pipe = NativePipeline(
                bundle, variant=case["variant"], plan=case["plan"], threads=1, kernels=0,
                allow_unverified=1,
            )  # fmt: skip
        with pipe:
            rows = pipe.verify()
        got = [{"stage": r.stage, "output": r.output, "passes": r.passes} for r in rows]
        if got != case["rows"]:
            faults.append(f"verification of {case['bundle']}: {rows}")
    try:
        with NativeBundle(BUNDLES / "off.mmedge") as bundle:
            NativePipeline(bundle, threads=1).close()
        faults.append("off.mmedge is loaded")
    except AccuracyError:
        pass
    return faults


def check_signatures() -> list[str]:
    """Who signed a bundle, and when; messages are the runtime's own."""
    return run_python.check_signatures(_decide, ("error", "release", "verified_by"))


def _decide(
    path: Path, keys: list[str] | None, lowest_version: int | None, now: int
) -> dict[str, Any]:
    pems = [key.encode() for key in keys or ()]
    try:
        with NativeBundle(
            path, trusted_keys=pems, lowest_version=lowest_version or 0, now=now
        ) as bundle:
            release = bundle.release()
    except BundleError as error:
        return {"error": type(error).__name__}
    if release is None:
        return {"release": None, "verified_by": []}
    times = {"signed": release.signed, "expires": release.expires}
    return {
        "release": {"version": release.version, **times},
        "verified_by": list(release.verified_by),
    }


def check_hostile(folder: Path) -> list[str]:
    """Hostile bundles that ``make.py --hostile`` wrote."""
    faults = []
    for case in read(folder / "hostile.json")["cases"]:
        try:
            with NativeBundle(folder / case["path"]) as bundle:
                if case["late"]:
                    bundle.verify()
        except BundleError:
            continue
        faults.append(f"hostile bundle {case['path']} is taken: {case['name']}")
    return faults


#: By name, what returns the faults.
CHECKS: dict[str, Callable[[], list[str]]] = {
    "bundles": check_bundles,
    "calls": check_calls,
    "loops": check_loops,
    "signatures": check_signatures,
    "texts": check_texts,
    "verification": check_verification,
}


def main() -> None:
    """Run every check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--streams",
        type=Path,
        metavar="PROGRAM",
        help="plays schedules of streams by stream_probe, which cmake -DMMEDGE_TESTS=ON builds",
    )
    parser.add_argument(
        "--schedules", type=Path, metavar="FILE", help="of make.py --schedules; else the cases"
    )
    options = parser.parse_args()
    faults = []
    if options.streams is not None:
        files = {} if options.schedules is None else {"schedules": options.schedules}
        faults = check_streams(options.streams, **files)
        print(f"streams: {len(faults)} faults")
    else:
        print("streams: not played; --streams names the program that does")
    for name, check in CHECKS.items():
        found = check()
        print(f"{name}: {len(found)} faults")
        faults += found
    print("\n".join(faults))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
